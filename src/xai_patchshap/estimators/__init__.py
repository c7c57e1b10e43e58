"""Estimators of Shapley values: pure arrays, no image, no model, no torch."""

from __future__ import annotations

from .base import Estimate, Estimator
from .exact import ExactShapley
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
    "Estimate",
    "Estimator",
    "ExactInteractions",
    "ExactShapley",
    "GaussianProcessInteractions",
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


def shapley_estimator(
    n_players: int, budget: int, seed: int | None = 0, sampling: str = "modified_l2"
) -> Estimator:
    """Estimator for a game; exact when the budget covers all 2**n coalitions.

    KernelSHAP evaluates complete pairs first, so that it has an answer when it is stopped
    early, and is exact once every pair is drawn.
    """
    return KernelShap(n_players, budget, seed, sampling) if n_players > 1 else ExactShapley(1)
