"""Amortized Shapley values of vision transformers: surrogate, explainer network, training.

The recipe is that of ViT-Shapley (Covert, Kim & Lee, Learning to estimate Shapley values
with vision transformers, ICLR 2023) in three stages: a classifier of your own; a
*surrogate*, the classifier made at home with missing patches; an *explainer*, which gives
the Shapley values of the surrogate's game in one forward pass.
"""

from ._schedule import Schedule
from .calibration import calibrate, explained_variance, per_image_correlation, shapley_values
from .checkpoints import (
    load_card,
    load_classifier,
    load_explainer,
    load_surrogate,
    save_explainer,
    save_surrogate,
)
from .explainer import train_explainer
from .network import Architecture, ShapleyViT
from .surrogate import train_surrogate

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
