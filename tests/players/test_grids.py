from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_patchshap import PatchShapError, grid_players, mask_players
from xai_patchshap.players.grids import resolve_players


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_grid_covers_the_image_with_cells_of_nearly_one_size(h, w, data):
    rows, cols = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    players = grid_players(h, w, grid=(rows, cols))
    assert players.labels.shape == (h, w)
    assert players.n == rows * cols == len(set(players.names))
    area = np.bincount(players.labels.ravel(), minlength=players.n)
    assert area.min() >= (h // rows) * (w // cols)
    assert area.max() <= -(-h // rows) * -(-w // cols)
    assert (np.diff(players.labels, axis=1) >= 0).all()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 70))
def test_patches_are_squares_but_at_the_far_edges(h, w, patch):
    players = grid_players(h, w, patch=patch)
    assert players.n == -(-h // patch) * -(-w // patch)
    first = players.labels == 0
    assert first.sum() == min(h, patch) * min(w, patch)
    assert first[: min(h, patch), : min(w, patch)].all()


@pytest.mark.parametrize(
    ("size", "n"), [((224, 224), 49), ((4, 4), 16), ((300, 451), 54), ((1, 5), 5), ((32, 8), 56)]
)
def test_about_49_patches_by_default(size, n):
    assert grid_players(*size).n == n


def test_specifications_of_players():
    image = np.zeros((8, 12, 3))
    mask = np.arange(96).reshape(8, 12) // 24
    for spec, n in [("2x3", 6), ((2, 3), 6), (4, 6), ("patch:4", 6), ("patch4", 6), (mask, 4)]:
        assert resolve_players(spec, image).n == n
    assert resolve_players(lambda im: mask + 0 * int(im.shape[2]), image).n == 4
    assert resolve_players(None, image, patch=(4, 4)).n == 6
    assert resolve_players(mask.astype(float), image).n == 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("9x1", r"grid: got 9 x 1 on an image of 8 x 12 pixels; expected at least one pixel"),
        ("0x3", "players: got '0x3'"),
        (0, "patch: got 0; expected a whole number of at least 1"),
        ("superpixels", "players: got 'superpixels'; expected 'ROWSxCOLUMNS' or 'patch:SIZE'"),
        (
            np.zeros((8, 11), int),
            r"players: got a mask of shape \(8, 11\); expected shape \(8, 12\)",
        ),
        (np.full((8, 12), 0.5), "players: got a mask of dtype float64; expected whole numbers"),
        (
            np.full((8, 12), -1),
            "players: got the negative id -1; expected whole numbers of at least 0",
        ),
    ],
)
def test_errors_say_what_came_and_what_was_expected(spec, message):
    with pytest.raises(PatchShapError, match=message):
        resolve_players(spec, np.zeros((8, 12, 3)))


def test_patch_and_grid_together_are_refused():
    with pytest.raises(PatchShapError, match="give only one of them"):
        grid_players(8, 8, patch=2, grid=(2, 2))


def test_a_mask_keeps_its_labels():
    mask = [[0, 2], [1, 2]]
    assert mask_players(mask, (2, 2)).labels.tolist() == mask
