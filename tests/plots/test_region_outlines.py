"""Outlines of regions."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from xai_patchshap import PatchShapError, grid_players
from xai_patchshap.plots import region_outlines

LABELS = grid_players(20, 30, grid=(2, 3)).labels
PHOTO = np.random.default_rng(0).random((40, 60, 3))


def drawn_borders(panel):
    """Sets of segments, one for each collection of lines."""
    return [
        [frozenset(map(tuple, s.tolist())) for s in lines.get_segments()]
        for lines in panel.collections
    ]


def test_outlines_are_exactly_the_borders_between_regions():
    regions = np.array([[0, 0, 1], [0, 2, 1]])
    halo, line = drawn_borders(region_outlines(np.zeros((2, 3)), regions).axes[0])
    expected = {
        frozenset({(2, 0), (2, 1)}),
        frozenset({(1, 1), (1, 2)}),
        frozenset({(2, 1), (2, 2)}),
        frozenset({(1, 1), (2, 1)}),
    }
    assert set(line) == set(halo) == expected
    assert len(line) == len(halo) == 4  # each once


def test_outlines_lie_on_the_pixels_of_a_finer_photograph():
    panel = region_outlines(PHOTO, LABELS).axes[0]
    assert panel.images[0].get_extent() == [0, 30, 20, 0]
    assert len(drawn_borders(panel)[1]) == 30 + 2 * 20
    assert (panel.get_xlim(), panel.get_ylim()) == ((0, 30), (20, 0))


def test_a_line_lies_over_a_wider_halo():
    halo, line = region_outlines(PHOTO, LABELS, color="navy", halo="gold").axes[0].collections
    assert [tuple(c.get_colors()[0]) for c in (halo, line)] == [to_rgba("gold"), to_rgba("navy")]
    assert halo.get_linewidth()[0] > line.get_linewidth()[0]


@pytest.mark.parametrize("shade", [0.0, 1.0])
def test_an_outline_is_seen_on_dark_and_on_bright(shade):
    figure = region_outlines(np.full((20, 30), shade), LABELS)
    figure.canvas.draw()
    box = figure.axes[0].get_window_extent()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., 0] / 255
    row = pixels[round(len(pixels) - box.y0 - box.height / 4), int(box.x0) + 2 : int(box.x1) - 2]
    assert np.isclose(row, shade).mean() > 0.9
    assert np.abs(row - shade).max() > 0.6


def test_many_regions_are_finer_lines_in_as_few_artists():
    few, many = (
        region_outlines(np.zeros((64, 64)), grid_players(64, 64, grid=(n, n)).labels).axes[0]
        for n in (2, 32)
    )
    assert len(few.collections) == len(many.collections) == 2
    assert many.collections[0].get_linewidth()[0] < few.collections[0].get_linewidth()[0]


def test_several_maps_of_regions_stand_side_by_side():
    whole = np.zeros((20, 30), dtype=int)
    named = region_outlines(PHOTO, {"fine": LABELS, "coarse": whole}, title="tree")
    assert [a.get_title() for a in named.axes] == ["fine", "coarse"]
    assert named.get_suptitle() == "tree"
    assert [len(drawn_borders(a)[1]) for a in named.axes] == [70, 0]
    counted = region_outlines(PHOTO, [whole, LABELS])
    assert [a.get_title() for a in counted.axes] == ["1 region", "6 regions"]
    stacked = region_outlines(PHOTO, np.stack([whole, LABELS]))
    assert [a.get_title() for a in stacked.axes] == ["1 region", "6 regions"]
    plain = region_outlines(PHOTO, LABELS.tolist(), title="one")
    assert (plain.get_suptitle(), len(plain.axes)) == ("one", 1)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({}, "regions: got no map"),
        ([], "regions: got no map"),
        (LABELS.ravel(), r"regions: got shape \(600,\)"),
        (LABELS + 0.5, r"regions: got shape \(20, 30\) of float64"),
        ([LABELS, LABELS.ravel()], r"regions: got shape \(600,\)"),
        (np.zeros((0, 3), dtype=int), r"regions: got shape \(0, 3\)"),
        (LABELS.T, "photo: got 40 by 60 pixels for regions of 30 by 20"),
        ({"fits": LABELS, "does not": LABELS.T}, "photo: got 40 by 60 .* of 30 by 20"),
    ],
)
def test_regions_that_do_not_fit(regions, message):
    with pytest.raises(PatchShapError, match=message):
        region_outlines(PHOTO, regions)
