"""Estimators of interactions between players: pure arrays, no image, no model, no torch."""

from __future__ import annotations

from math import comb

from ..._validation import said
from ...errors import bad
from ..indices import EFFICIENT, INDICES, check_index
from .exact import ExactInteractions
from .gaussian_process import GaussianProcessInteractions
from .interactions import Interactions
from .regression import RegressionInteractions, check_regression

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


def count_interactions(n_players: int, order: int) -> int:
    """Number of interactions up to an order, or an error if they are too many."""
    mend = "Choose fewer players, as with PatchMasker(players=(7, 7)), or a lower order."
    total = 0
    for s in range(1, min(order, n_players) + 1):
        count = comb(n_players, s)
        if count > _MOST:
            came = f"{n_players}, with {said(count)} interactions of order {s}"
            raise bad("players", came, f"at most {_MOST:,} interactions", mend)
        total += count
    if n_players > _MOST_PLAYERS:
        raise bad("players", n_players, f"at most {_MOST_PLAYERS:,} for interactions", mend)
    return total


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
    count_interactions(n_players, order)
    if n_players == 1:
        return ExactInteractions(1, index, order)
    kind = RegressionInteractions if estimator == "regression" else GaussianProcessInteractions
    options = {} if sampling is None else {"sampling": sampling}
    return kind(n_players, budget, index, order, seed, **options)
