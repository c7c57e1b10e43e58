"""Estimators of Shapley values: pure arrays, no image, no model, no torch."""

from __future__ import annotations

from .base import Estimate, Estimator
from .exact import MAX_EXACT_PLAYERS, ExactShapley
from .kernel import KernelShap
from .sampling import SAMPLING_RULES, PairSampler

__all__ = [
    "SAMPLING_RULES",
    "Estimate",
    "Estimator",
    "ExactShapley",
    "KernelShap",
    "PairSampler",
    "shapley_estimator",
]


def shapley_estimator(
    n_players: int, budget: int, seed: int | None = 0, sampling: str = "modified_l2"
) -> Estimator:
    """Exact enumeration when the budget covers all 2**n coalitions, KernelSHAP otherwise."""
    if n_players <= MAX_EXACT_PLAYERS and 2**n_players <= budget:
        return ExactShapley(n_players)
    return KernelShap(n_players, budget, seed, sampling)
