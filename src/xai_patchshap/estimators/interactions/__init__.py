"""Estimators of interactions between players: pure arrays, no image, no model, no torch."""

from __future__ import annotations

from math import comb

from ...errors import bad
from ..indices import EFFICIENT, INDICES, check_index
from .exact import ExactInteractions
from .gaussian_process import GaussianProcessInteractions
from .regression import RegressionInteractions, check_regression
from .result import Interactions

__all__ = [
    "EFFICIENT",
    "INDICES",
    "INTERACTION_ESTIMATORS",
    "ExactInteractions",
    "GaussianProcessInteractions",
    "Interactions",
    "RegressionInteractions",
    "check_index",
    "check_regression",
    "interaction_estimator",
]

_MOST = 2_000_000
_MOST_PLAYERS = 1000

INTERACTION_ESTIMATORS = ("gaussian-process", "regression")


def interaction_estimator(
    n_players: int,
    budget: int,
    index: str = "SII",
    order: int = 2,
    estimator: str = "auto",
    seed: int | None = 0,
    sampling: str | None = None,
) -> ExactInteractions | GaussianProcessInteractions | RegressionInteractions:
    """Estimator of interactions; all are exact once the budget covers all 2**n coalitions.

    Parameters
    ----------
    n_players, budget, index, order, seed
        As in :class:`GaussianProcessInteractions`.
    estimator : {"auto", "gaussian-process", "regression"}
        ``"auto"`` is the Gaussian process. The regression is KernelSHAP-IQ for SII and k-SII.
    sampling : {"modified_l2", "leverage", "kernel"}, optional
        How coalition sizes are drawn; by default as suits the estimator.

    Raises
    ------
    PatchShapError
        If an argument does not fit, or there are more than 1,000 players or 2,000,000
        interactions of an order.
    """
    if estimator != "auto" and estimator not in INTERACTION_ESTIMATORS:
        raise bad("estimator", repr(estimator), f"'auto' or one of {INTERACTION_ESTIMATORS}")
    check_index(index, order, n_players)
    most, at = max((comb(n_players, s), s) for s in range(1, order + 1))
    if most > _MOST:
        raise bad(
            "players",
            f"{n_players}, with {most:,} interactions of order {at}",
            f"at most {_MOST:,} interactions",
            "Choose fewer players, as with PatchMasker(players=(7, 7)), or a lower order.",
        )
    if n_players > _MOST_PLAYERS:
        raise bad(
            "players",
            n_players,
            f"at most {_MOST_PLAYERS:,} for interactions",
            "Choose fewer players, as with PatchMasker(players=(7, 7)).",
        )
    if n_players == 1:
        return ExactInteractions(1, index, order)
    kind = RegressionInteractions if estimator == "regression" else GaussianProcessInteractions
    options = {} if sampling is None else {"sampling": sampling}
    return kind(n_players, budget, index, order, seed, **options)
