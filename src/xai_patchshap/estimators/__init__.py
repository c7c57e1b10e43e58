"""Estimators of Shapley values: pure arrays, no image, no model, no torch."""

from __future__ import annotations

from ..errors import bad
from .base import Estimate, Estimator, Plan, Planned
from .coalitions.designed_pairs import DesignedPairs
from .coalitions.sampled_pairs import SAMPLING_RULES, PairSampler, check_sampling
from .interactions import (
    EFFICIENT,
    INDICES,
    INTERACTION_ESTIMATORS,
    ExactInteractions,
    GaussianProcessInteractions,
    Interactions,
    RegressionInteractions,
    check_index,
    check_regression,
    interaction_estimator,
)
from .owen import OwenForest, OwenRefiner
from .shapley.exact import ExactShapley
from .shapley.gaussian_process import GaussianProcessShap
from .shapley.kernel_shap import KernelShap

__all__ = [
    "EFFICIENT",
    "INDICES",
    "INTERACTION_ESTIMATORS",
    "SAMPLING_RULES",
    "SHAPLEY_ESTIMATORS",
    "DesignedPairs",
    "Estimate",
    "Estimator",
    "ExactInteractions",
    "ExactShapley",
    "GaussianProcessInteractions",
    "GaussianProcessShap",
    "Interactions",
    "KernelShap",
    "OwenForest",
    "OwenRefiner",
    "PairSampler",
    "Plan",
    "Planned",
    "RegressionInteractions",
    "check_index",
    "check_regression",
    "check_sampling",
    "interaction_estimator",
    "shapley_estimator",
]


SHAPLEY_ESTIMATORS = ("auto", "gaussian-process", "kernel-shap")

# Where "auto" is the Gaussian process, whose time grows with the number of players and with the
# cube of the evaluations.
_MOST_PLAYERS, _MOST_EVALUATIONS = 256, 8192


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
    if estimator not in SHAPLEY_ESTIMATORS:
        raise bad("estimator", repr(estimator), f"one of {SHAPLEY_ESTIMATORS}")
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
