"""Metrics of attributions against a game: any callable from coalitions to values."""

from __future__ import annotations

from .correlations import faithfulness, sensitivity_n
from .curves import Curve, deletion_curve, insertion_curve
from .localisation import IoU, max_iou
from .masker_game import masker_game

__all__ = [
    "Curve",
    "IoU",
    "deletion_curve",
    "faithfulness",
    "insertion_curve",
    "masker_game",
    "max_iou",
    "sensitivity_n",
]
