"""Estimators of Shapley values: pure arrays, no image, no model, no torch."""

from __future__ import annotations

from ..errors import bad
from .base import Estimate, Estimator
from .exact import ExactShapley
from .gaussian_process_shap import GaussianProcessShap
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
from .kernel import KernelShap
from .owen import OwenForest, OwenRefiner
from .sampling import SAMPLING_RULES, PairSampler

__all__ = [
    "EFFICIENT",
    "INDICES",
    "INTERACTION_ESTIMATORS",
    "SAMPLING_RULES",
    "SHAPLEY_ESTIMATORS",
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
    "RegressionInteractions",
    "check_index",
    "check_regression",
    "interaction_estimator",
    "shapley_estimator",
]


SHAPLEY_ESTIMATORS = ("kernel-shap", "gaussian-process")


def shapley_estimator(
    n_players: int,
    budget: int,
    seed: int | None = 0,
    sampling: str | None = None,
    estimator: str = "kernel-shap",
) -> Estimator:
    """Estimator for a game; exact when the budget covers all 2**n coalitions.

    Both evaluate complete pairs first, so that they have an answer when they are stopped
    early, and are exact once every pair is drawn.

    Parameters
    ----------
    n_players, budget, seed
        As in :class:`KernelShap`.
    sampling : {"modified_l2", "leverage", "kernel"}, optional
        How coalition sizes are drawn; by default as suits the estimator.
    estimator : {"kernel-shap", "gaussian-process"}
    """
    if estimator not in SHAPLEY_ESTIMATORS:
        raise bad("estimator", repr(estimator), f"one of {SHAPLEY_ESTIMATORS}")
    if n_players == 1:
        return ExactShapley(1)
    kind = KernelShap if estimator == "kernel-shap" else GaussianProcessShap
    options = {} if sampling is None else {"sampling": sampling}
    return kind(n_players, budget, seed, **options)
