"""Heat maps of players, and saved pictures drawn again."""

from __future__ import annotations

import numpy as np
import pytest

from xai_patchshap import PatchShapError, grid_players
from xai_patchshap.plots import attribution_maps, redraw
from xai_patchshap.plots.canvas import label_position, outline

LABELS = grid_players(20, 30, grid=(2, 3)).labels
PHOTO = np.random.default_rng(0).random((40, 60, 3))


def test_one_symmetric_scale_for_all_maps():
    values = np.array([[0.5, 0.0], [0, 0], [0, -2.0], [0, 0], [0, 0], [0, 0]])
    figure = attribution_maps(PHOTO, LABELS, values, ["a", "b"], photo_title="p", label="units")
    photo, first, second, bar = figure.axes
    assert [a.get_title() for a in (photo, first, second)] == ["p", "a", "b"]
    assert bar.get_ylim() == (-2.0, 2.0)
    assert bar.get_ylabel() == "units"
    # Red where positive, blue where negative, transparent where zero.
    red, blue = (np.asarray(a.images[1].get_array()) for a in (first, second))
    assert red[0, 0, 0] > red[0, 0, 2]
    assert blue[5, 25, 2] > blue[5, 25, 0]
    assert red[15, 15, 3] == 0
    # The stronger value is the more opaque one.
    assert blue[5, 25, 3] > red[0, 0, 3] > 0


def test_only_players_with_a_value_are_marked_in_order():
    figure = attribution_maps(PHOTO, LABELS, [[0.0], [3], [0], [-4], [1], [0]], ["a"])
    panel = figure.axes[1]
    assert [t.get_text() for t in panel.texts] == ["1", "2", "3"]
    x, y = panel.texts[0].get_position()
    assert LABELS[int(y), int(x)] == 3


def test_a_number_stands_inside_its_region_whatever_the_shape():
    ring = np.zeros((21, 21), dtype=bool)
    ring[2:19, 2:19] = True
    ring[5:16, 5:16] = False
    for region in (ring, LABELS == 4, np.eye(9, dtype=bool)):
        x, y = label_position(region)
        assert region[int(y), int(x)]


def test_borders_are_the_outline_of_the_region():
    segments = outline(LABELS == 4)
    corners = np.unique(segments.reshape(-1, 2), axis=0)
    assert corners.min(0).tolist() == [10, 10]
    assert corners.max(0).tolist() == [20, 20]
    assert len(segments) == 40


def test_gray_photographs_bytes_and_zero_values():
    for photo in (PHOTO[..., 0], (PHOTO * 255).astype(np.uint8)):
        attribution_maps(photo, LABELS, np.zeros(6), ["nothing"]).canvas.draw()


def test_a_saved_picture_is_redrawn(tmp_path):
    values = np.arange(6.0)[:, None]
    picture = {
        "photo": PHOTO,
        "labels": LABELS,
        "values": values,
        "titles": ["a"],
        "photo_title": "p",
        "label": "units",
    }
    np.savez(tmp_path / "x.npz", **picture)
    first, again = attribution_maps(**picture), redraw(tmp_path / "x.npz")
    for figure in (first, again):
        figure.canvas.draw()
    np.testing.assert_array_equal(first.canvas.buffer_rgba(), again.canvas.buffer_rgba())


def test_errors():
    with pytest.raises(PatchShapError, match=r"values: got shape \(5,\) for labels \(20, 30\)"):
        attribution_maps(PHOTO, LABELS, np.zeros(5), ["a"])
    with pytest.raises(PatchShapError, match="titles: got 2 of them; expected 1"):
        attribution_maps(PHOTO, LABELS, np.zeros(6), ["a", "b"])
