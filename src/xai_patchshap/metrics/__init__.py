"""Metrics of attributions against a game: any callable from coalitions to values."""

from __future__ import annotations

from ._curves import Curve, IoU, deletion_curve, insertion_curve, masker_game, max_iou
from ._sampled import faithfulness, sensitivity_n

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
