"""What all pictures share: figures without windows, colour scales."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import pyplot

from xai_patchshap import grid_players
from xai_patchshap.plots import attribution_maps, compare_maps, metric_curves, region_outlines
from xai_patchshap.plots.scale import centred_scale, scale_end

LABELS = grid_players(20, 30, grid=(2, 3)).labels
PHOTO = np.random.default_rng(0).random((40, 60, 3))
CURVE = SimpleNamespace(
    kind="insertion", fractions=[0, 1], values=[0.1, 0.9], base_value=0.1, full_value=0.9,
    auc=lambda form, rescaled: 0.5,
)  # fmt: skip


def test_no_figure_is_left_open():
    before = pyplot.get_fignums()
    figures = (
        attribution_maps(PHOTO, LABELS, np.zeros(6), ["a"]),
        compare_maps(PHOTO, {"ours": LABELS}, ["cat"]),
        region_outlines(PHOTO, LABELS),
        metric_curves({"ours": [CURVE]}),
    )
    assert pyplot.get_fignums() == before
    assert all(type(figure.canvas).__name__ == "FigureCanvasAgg" for figure in figures)


@pytest.mark.parametrize(
    ("values", "percentile", "end"),
    [
        ([-3.0, 1.0], 100, 3.0),
        (np.arange(101.0), 50, 50.0),
        ([0.0] * 99 + [-2.0], 50, 2.0),  # so few count that the percentile is zero
        (np.zeros(4), 99.5, 1.0),
        ([], 100, 1.0),
    ],
)
def test_where_a_scale_ends(values, percentile, end):
    assert scale_end(np.array(values), percentile) == end
    scale = centred_scale(np.array(values), percentile)
    assert (scale.vmin, scale.vmax) == (-end, end)
