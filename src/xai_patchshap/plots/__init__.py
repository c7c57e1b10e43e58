"""Pictures that Captum and shap do not draw. Every function returns its figure."""

from __future__ import annotations

from .as_explanation import as_explanation, side_by_side
from .attribution_maps import attribution_maps, redraw
from .compare_maps import compare_maps, region_outlines
from .interactions import interaction_matrix, interaction_network, interaction_partners
from .metric_curves import metric_curves

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
