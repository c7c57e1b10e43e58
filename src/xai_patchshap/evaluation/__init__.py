"""Metrics of attributions, and comparisons of methods.

The metrics ask for a game, any callable from coalitions to values. :func:`compare_methods` scores
methods, ours and those of others, on :class:`ImageGames`; :func:`quality_report` compares a trained
network with them.
"""

from __future__ import annotations

from .._lazy import lazy_names
from .correlations import faithfulness, sensitivity_n
from .curves import Curve, deletion_curve, insertion_curve
from .localisation import IoU, max_iou
from .masker_game import masker_game

# What needs the explainers is imported when it is used.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ImageGames": "image_games",
        "Protocol": "compare",
        "QualityReport": "report",
        "attributed": "compare",
        "compare_methods": "compare",
        "quality_report": "report",
    },
)

__all__ = [
    "Curve",
    "ImageGames",
    "IoU",
    "Protocol",
    "QualityReport",
    "attributed",
    "compare_methods",
    "deletion_curve",
    "faithfulness",
    "insertion_curve",
    "masker_game",
    "max_iou",
    "quality_report",
    "sensitivity_n",
]
