from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xai_patchshap import PatchMasker, PatchShapError, grid_players
from xai_patchshap._arrays import layout_of
from xai_patchshap.masking.coalition_inputs import CoalitionInputs


@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 3), st.integers(1, 3))
def test_rows_show_exactly_the_players_of_each_coalition(
    seed, own_players, n_images, n_backgrounds
):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(n_images, 2, 5, 4)))
    backgrounds = torch.from_numpy(rng.normal(size=(n_backgrounds, n_images, 2, 5, 4)))
    labels = torch.from_numpy(rng.integers(0, 6, size=(n_images if own_players else 1, 1, 5, 4)))
    bound = CoalitionInputs((x,), (backgrounds,), (labels,), (6,) * n_images)
    examples = torch.from_numpy(rng.integers(0, n_images, size=7))
    coalitions = torch.from_numpy(rng.random((7, 6)) < 0.5)
    which = torch.from_numpy(rng.integers(0, n_backgrounds, size=7))
    (rows,) = bound.rows(examples, coalitions, which)
    for r in range(7):
        i = int(examples[r])
        shown = coalitions[r][labels[i if own_players else 0, 0]]
        expected = torch.where(shown, x[i], backgrounds[which[r], i])
        assert torch.equal(rows[r], expected)


def test_layouts():
    assert layout_of(torch.zeros(1, 3, 8, 8)) == "NCHW"
    assert layout_of(torch.zeros(1, 16, 8, 8)) == "NCHW"
    assert layout_of(np.zeros((1, 8, 8, 3))) == "NHWC"
    assert layout_of(np.zeros((1, 3, 8, 8))) == "NCHW"
    assert layout_of(np.zeros((1, 8, 8, 12)), "NHWC") == "NHWC"
    with pytest.raises(PatchShapError, match="torch's channels-first layout"):
        layout_of(torch.zeros(1, 8, 8, 3))
    with pytest.raises(PatchShapError, match="1, 3 or 4 channels in the last or the second axis"):
        layout_of(np.zeros((1, 8, 8, 12)))
    with pytest.raises(
        PatchShapError, match="layout: got 'HWC'; expected 'auto', 'NCHW' or 'NHWC'"
    ):
        layout_of(np.zeros((1, 8, 8, 3)), "HWC")


def test_a_masker_masks_one_image_for_each_background():
    image = np.random.default_rng(0).random((4, 4, 3))
    masker = PatchMasker((2, 2), [0.0, 1.0])
    assert masker.shape(image) == (2, 4)
    assert masker.mask_shapes(image) == [(4,)]
    assert masker.feature_names(image)[0][3] == "row 1, column 1"
    (rows,) = masker(np.array([True, False, False, True]), image)
    assert rows.shape == (2, 4, 4, 3)
    np.testing.assert_array_equal(rows[:, :2, :2], np.stack([image[:2, :2]] * 2))
    assert (rows[0, :2, 2:] == 0).all()
    assert (rows[1, :2, 2:] == 1).all()
    np.testing.assert_array_equal(masker(True, image)[0][0], image)
    assert (masker(False, image)[0][0] == 0).all()


def test_channels_first_rows_are_masked_alike():
    image = np.random.default_rng(0).random((4, 6, 3)).astype(np.float32)
    masker = PatchMasker((2, 3), "mean")
    mask = np.array([1, 0, 1, 0, 0, 1], dtype=bool)
    (last,) = masker(mask, image)
    (first,) = masker(mask, torch.from_numpy(image).permute(2, 0, 1))
    np.testing.assert_allclose(first.transpose(0, 2, 3, 1), last, atol=1e-6)


def test_data_transform_gives_the_mean_of_each_player():
    image = np.zeros((4, 4, 3))
    image[:2, :2] = 6.0
    for row in (image, torch.from_numpy(image).permute(2, 0, 1)):
        (means,) = PatchMasker((2, 2)).data_transform(row)
        np.testing.assert_allclose(means, [6, 0, 0, 0])


def test_players_of_a_batch():
    x = torch.rand(2, 3, 4, 4)
    masks = np.stack(
        [grid_players(4, 4, grid=(2, 2)).labels, grid_players(4, 4, grid=(1, 3)).labels]
    )
    bound, players = PatchMasker(masks).prepare(x, "NCHW")
    assert bound.n_players == (4, 3)
    assert [p.n for p in players] == [4, 3]
    bound, _ = PatchMasker(lambda image: (image[..., 0] > 0.5).astype(int)).prepare(x, "NCHW")
    assert torch.equal(bound.labels[0][1, 0], (x[1, 0] > 0.5).long())
    bound, _ = PatchMasker().prepare(torch.rand(2, 5), None)
    assert bound.n_players == (5, 5)
    with pytest.raises(PatchShapError, match="players: got 2 masks for 3 images"):
        PatchMasker(masks).prepare(torch.rand(3, 3, 4, 4), "NCHW")
    with pytest.raises(PatchShapError, match="one mask for each image of a batch"):
        PatchMasker(masks).shape(np.zeros((4, 4, 3)))


def test_feature_mask_and_baselines_for_captum():
    x = torch.rand(2, 3, 4, 4)
    masker = PatchMasker((2, 2), (0.1, 0.2, 0.3))
    assert masker.feature_mask(x).shape == (1, 1, 4, 4)
    assert masker.baselines(x).shape == (1, 3, 4, 4)
    assert PatchMasker(background="mean").baselines(x).shape == (2, 3, 4, 4)
    with pytest.raises(PatchShapError, match="Captum takes one baseline, this masker has 2"):
        PatchMasker(background=[0.0, 1.0]).baselines(x)


def test_clustering_is_there_only_when_asked_for():
    assert not hasattr(PatchMasker(), "clustering")
    image = np.zeros((6, 6, 3))
    linkage = PatchMasker((3, 3), clustering="ward").clustering(image)
    assert linkage.shape == (8, 4)
    assert linkage[-1, 3] == 9
    own = PatchMasker((3, 3), clustering=linkage)
    np.testing.assert_array_equal(own.clustering, linkage)
    with pytest.raises(PatchShapError, match="clustering: got 'kmeans'; expected 'bpt', 'axis'"):
        PatchMasker(clustering="kmeans")


def test_an_image_that_changed_in_place_is_seen():
    image, masker = np.ones((4, 4, 3)), PatchMasker((2, 2))
    assert masker(True, image)[0].all()
    image[:] = 0
    assert not masker(True, image)[0].any()


def test_captums_arguments_want_tensors():
    for method in (PatchMasker().feature_mask, PatchMasker().baselines):
        with pytest.raises(PatchShapError, match="x: got an object of type ndarray; expected a t"):
            method(np.zeros((1, 4, 4, 3)))
