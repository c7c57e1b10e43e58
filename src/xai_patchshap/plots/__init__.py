"""Pictures that Captum and shap do not draw. Every function returns its figure."""

from __future__ import annotations

from ._bridge import as_explanation, side_by_side
from ._curves import metric_curves
from ._interactions import interaction_matrix, interaction_network, interaction_partners
from ._pixels import compare_maps, region_outlines
from ._players import attribution_maps, redraw

__all__ = [
    "as_explanation",
    "attribution_maps",
    "compare_maps",
    "interaction_matrix",
    "interaction_network",
    "interaction_partners",
    "metric_curves",
    "redraw",
    "region_outlines",
    "side_by_side",
]
