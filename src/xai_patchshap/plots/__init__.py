"""Pictures that Captum and shap do not draw. Every function returns its figure."""

from __future__ import annotations

from .as_explanation import as_explanation
from .attribution_maps import attribution_maps, redraw
from .compare_maps import compare_maps
from .interaction_matrix import interaction_matrix
from .interaction_network import interaction_network
from .interaction_partners import interaction_partners
from .metric_curves import metric_curves
from .region_outlines import region_outlines
from .side_by_side import side_by_side

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
