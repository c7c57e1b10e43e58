"""Estimators of Shapley values: pure arrays, no image, no model, no torch.

The home of each: :mod:`.shapley` and :mod:`.interactions` for values of players and of groups of
them, :mod:`.owen` for values along a tree, :mod:`.coalitions` for which coalitions are evaluated,
:mod:`.process` for the Gaussian process, :mod:`.choose` for which estimator suits a game.
"""

from __future__ import annotations

from .base import Estimate, Estimator, Plan, Planned
from .choose import interaction_estimator, shapley_estimator
from .coalitions.designed_pairs import DesignedPairs
from .coalitions.sampled_pairs import PairSampler
from .interactions.exact import ExactInteractions
from .interactions.gaussian_process import GaussianProcessInteractions
from .interactions.interactions import Interactions
from .interactions.regression import RegressionInteractions
from .owen import OwenRefiner
from .owen_forest import OwenForest
from .shapley.exact import ExactShapley
from .shapley.gaussian_process import GaussianProcessShap
from .shapley.kernel_shap import KernelShap

__all__ = [
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
    "interaction_estimator",
    "shapley_estimator",
]
