"""Which estimator suits a game, by its players and the budget."""

from __future__ import annotations

from math import comb

from .._validation import one_of, said
from ..errors import bad
from .base import Plan
from .indices import check_index
from .interactions.exact import ExactInteractions
from .interactions.gaussian_process import GaussianProcessInteractions
from .interactions.regression import RegressionInteractions
from .shapley.exact import ExactShapley
from .shapley.gaussian_process import GaussianProcessShap
from .shapley.kernel_shap import KernelShap

__all__ = [
    "INTERACTION_ESTIMATORS",
    "SHAPLEY_ESTIMATORS",
    "count_interactions",
    "interaction_estimator",
    "shapley_estimator",
]

SHAPLEY_ESTIMATORS = ("auto", "gaussian-process", "kernel-shap")
INTERACTION_ESTIMATORS = ("gaussian-process", "regression")

# Where "auto" is the Gaussian process, whose time grows with the number of players and with the
# cube of the evaluations.
_MOST_PLAYERS, _MOST_EVALUATIONS = 256, 8192
_MOST_INTERACTIONS, _MOST_INTERACTING = 2_000_000, 1000


def shapley_estimator(
    n_players: int,
    budget: int,
    seed: int | None = 0,
    sampling: str | None = None,
    estimator: str = "auto",
    residual: bool = False,
) -> Plan:
    """Estimator for a game; exact when the budget covers all 2**n coalitions.

    Both evaluate complete pairs first, so that they have an answer when they are stopped
    early, and are exact once every pair is drawn.

    Parameters
    ----------
    n_players, budget, seed
        As in :class:`KernelShap`.
    sampling : {"a-optimal", "modified_l2", "leverage", "kernel"}, optional
        How coalitions are chosen; by default as suits the estimator. ``"a-optimal"`` is for
        the Gaussian process; see :class:`GaussianProcessInteractions`.
    estimator : {"auto", "gaussian-process", "kernel-shap"}
        ``"auto"`` is :class:`GaussianProcessShap` up to 256 players and 8,192 evaluations,
        and :class:`KernelShap` beyond.
    residual : bool
        Whether :meth:`~GaussianProcessShap.estimate` will be given a guess at the values:
        ``"a-optimal"`` then stands for ``"a-optimal-residual"``.
    """
    one_of(*SHAPLEY_ESTIMATORS)("estimator", estimator)
    if n_players == 1:
        return ExactShapley(1)
    if estimator == "auto":
        fits = n_players <= _MOST_PLAYERS and budget <= _MOST_EVALUATIONS
        estimator = "gaussian-process" if fits else "kernel-shap"
        if sampling == "a-optimal" and not fits:
            raise bad(
                "sampling",
                "'a-optimal'",
                f"at most {_MOST_PLAYERS} players and {_MOST_EVALUATIONS:,} evaluations",
                "Choose estimator='gaussian-process', or another sampling rule.",
            )
    kind = KernelShap if estimator == "kernel-shap" else GaussianProcessShap
    if residual and kind is GaussianProcessShap and sampling in (None, "a-optimal"):
        sampling = "a-optimal-residual"
    options = {} if sampling is None else {"sampling": sampling}
    return kind(n_players, budget, seed, **options)


def count_interactions(n_players: int, order: int) -> int:
    """Number of interactions up to an order, or an error if they are too many."""
    mend = "Choose fewer players, as with PatchMasker(players=(7, 7)), or a lower order."
    total = 0
    for s in range(1, min(order, n_players) + 1):
        count = comb(n_players, s)
        if count > _MOST_INTERACTIONS:
            came = f"{n_players}, with {said(count)} interactions of order {s}"
            raise bad("players", came, f"at most {_MOST_INTERACTIONS:,} interactions", mend)
        total += count
    if n_players > _MOST_INTERACTING:
        raise bad("players", n_players, f"at most {_MOST_INTERACTING:,} for interactions", mend)
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
    one_of("auto", *INTERACTION_ESTIMATORS)("estimator", estimator)
    check_index(index, order, n_players)
    count_interactions(n_players, order)
    if n_players == 1:
        return ExactInteractions(1, index, order)
    kind = RegressionInteractions if estimator == "regression" else GaussianProcessInteractions
    options = {} if sampling is None else {"sampling": sampling}
    return kind(n_players, budget, index, order, seed, **options)
