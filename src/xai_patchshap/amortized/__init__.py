"""Amortized Shapley values of vision transformers: surrogate, explainer network, training.

The recipe is that of ViT-Shapley (Covert, Kim & Lee, Learning to estimate Shapley values
with vision transformers, ICLR 2023) in three stages: a classifier of your own; a
*surrogate*, the classifier made at home with missing patches; an *explainer*, which gives
the Shapley values of the surrogate's game in one forward pass.
"""

from .checkpoints import (
    load_card,
    load_classifier,
    load_explainer,
    load_surrogate,
    save_explainer,
    save_surrogate,
)
from .network import Architecture, ShapleyViT
from .training.calibration import (
    calibrate,
    explained_variance,
    per_image_correlation,
    shapley_values,
)
from .training.explainer import train_explainer
from .training.schedule import Schedule
from .training.surrogate import train_surrogate

__all__ = [
    "Architecture",
    "Schedule",
    "ShapleyViT",
    "calibrate",
    "explained_variance",
    "load_card",
    "load_classifier",
    "load_explainer",
    "load_surrogate",
    "per_image_correlation",
    "save_explainer",
    "save_surrogate",
    "shapley_values",
    "train_explainer",
    "train_surrogate",
]
