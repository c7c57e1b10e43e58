"""Training of surrogates and explainer networks, and what they are calibrated with."""

from __future__ import annotations

from .calibration import calibrate, explained_variance, per_image_correlation, shapley_values
from .explainer import train_explainer
from .schedule import Schedule
from .surrogate import train_surrogate

__all__ = [
    "Schedule",
    "calibrate",
    "explained_variance",
    "per_image_correlation",
    "shapley_values",
    "train_explainer",
    "train_surrogate",
]
