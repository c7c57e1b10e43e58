"""Amortized Shapley values of vision transformers: surrogate, explainer network, training.

The recipe is that of ViT-Shapley (Covert, Kim & Lee, Learning to estimate Shapley values
with vision transformers, ICLR 2023) in three stages: a classifier of your own; a
*surrogate*, a copy of the classifier, fine-tuned to cope with missing patches; an
*explainer*, which gives the Shapley values of the surrogate's game in one forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .architecture import Architecture
    from .cards import load_card
    from .checkpoints import (
        load_classifier,
        load_explainer,
        load_surrogate,
        save_explainer,
        save_surrogate,
    )
    from .network import ShapleyViT
    from .training.calibration import (
        calibrate,
        explained_variance,
        per_image_correlation,
        shapley_values,
    )
    from .training.explainer import train_explainer
    from .training.recipe import Recipe
    from .training.schedule import Schedule
    from .training.surrogate import train_surrogate
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Architecture": "architecture",
            "Recipe": "training.recipe",
            "Schedule": "training.schedule",
            "ShapleyViT": "network",
            "calibrate": "training.calibration",
            "explained_variance": "training.calibration",
            "load_card": "cards",
            "load_classifier": "checkpoints",
            "load_explainer": "checkpoints",
            "load_surrogate": "checkpoints",
            "per_image_correlation": "training.calibration",
            "save_explainer": "checkpoints",
            "save_surrogate": "checkpoints",
            "shapley_values": "training.calibration",
            "train_explainer": "training.explainer",
            "train_surrogate": "training.surrogate",
        },
    )

__all__ = [
    "Architecture",
    "Recipe",
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
