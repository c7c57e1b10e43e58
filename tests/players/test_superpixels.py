from __future__ import annotations

import dataclasses
import io
import pickle
import sys

import numpy as np
import pytest
import torch

from xai_patchshap import InteractionShap, OwenBPT, PatchKernelShap, PatchMasker, PatchShapError
from xai_patchshap.players.grids import resolve_players
from xai_patchshap.players.superpixels import Superpixels, slic
from xai_patchshap.plots import attribution_maps

skimage = pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def cat():
    """A quarter of a photograph of a cat, (150, 226, 3) uint8."""
    data = pytest.importorskip("skimage.data")
    return data.chelsea()[::2, ::2]


def two_halves(edge, height=24, width=40):
    """A noisy image that is dark left of column ``edge`` and bright right of it."""
    image = np.random.default_rng(0).normal(0, 0.02, (height, width))
    image[:, edge:] += 1
    return image


def test_the_partition_is_that_of_scikit_image(cat):
    from skimage.segmentation import slic as theirs

    ours = slic(80, compactness=12, sigma=1)(cat)
    np.testing.assert_array_equal(ours, theirs(cat, 80, compactness=12, sigma=1, start_label=0))
    assert ours.dtype == np.int64
    assert np.array_equal(np.unique(ours), np.arange(ours.max() + 1))
    assert 40 < ours.max() < 120


def test_the_range_of_the_pixels_does_not_matter(cat):
    segment = slic(60, sigma=1)
    labels = segment(cat)
    for same in (cat / 255, cat.astype(np.float32), cat / 127.5 - 1, (cat * 3.0 + 7).tolist()):
        assert np.mean(segment(same) == labels) > 0.999
    normalised = (cat / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    assert 30 < segment(normalised).max() < 90


@pytest.mark.parametrize("edge", [13, 22])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_superpixels_stop_at_an_edge_whatever_the_channels(edge, channels, scale):
    image = two_halves(edge) * scale
    if channels is not None:
        image = np.repeat(image[..., None], channels, axis=2)
    labels = slic(20)(image)
    assert labels.shape == image.shape[:2]
    assert not set(np.unique(labels[:, :edge])) & set(np.unique(labels[:, edge:]))
    assert labels.max() >= 6


def test_gray_images_with_and_without_a_channel_axis():
    image = two_halves(17)
    np.testing.assert_array_equal(slic(12)(image), slic(12)(image[..., None]))


def test_further_options_reach_scikit_image():
    image = np.repeat(two_halves(17)[..., None], 3, axis=2)
    mask = np.zeros((24, 40), dtype=bool)
    mask[:, :20] = True
    labels = slic(12, mask=mask)(image)
    assert (labels[:, 20:] == 0).all()
    assert (labels[:, :20] > 0).all()
    assert len(np.unique(labels)) == labels.max() + 1
    assert slic(12, slic_zero=True, max_num_iter=1, sigma=(1, 2))(image).max() > 3
    # Without Lab, gray and colour are compared in the same units.
    plain = slic(12, convert2lab=False)(image)
    assert not set(np.unique(plain[:, :17])) & set(np.unique(plain[:, 17:]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 3, 3)])
def test_small_and_constant_images(shape):
    assert slic(100)(np.full(shape, 2.5)).max() < 10


def test_it_is_frozen_and_can_be_pickled_and_compared(cat):
    segment = slic(30, sigma=1, max_num_iter=5)
    again = pickle.loads(pickle.dumps(segment))
    assert again == segment == Superpixels(30, 10.0, 1, {"max_num_iter": 5})
    assert hash(again) == hash(segment)
    assert segment != slic(31, sigma=1, max_num_iter=5)
    np.testing.assert_array_equal(again(cat), segment(cat))
    with pytest.raises(dataclasses.FrozenInstanceError):
        segment.sigma = 2


def test_by_name(cat):
    for spec, segment in [("slic", slic()), ("slic:30", slic(30))]:
        players = resolve_players(spec, cat)
        np.testing.assert_array_equal(players.labels, segment(cat))
    with pytest.raises(PatchShapError, match=r"players: got 'slic:'; expected .* or 'slic:NUMBER'"):
        resolve_players("slic:", cat)
    with pytest.raises(PatchShapError, match=r"players: got 'slic:0'; expected .* 'slic:NUMBER'"):
        resolve_players("slic:0", cat)


@pytest.mark.parametrize(
    ("explainer", "budget"), [(PatchKernelShap, 200), (OwenBPT, 200), (InteractionShap, 300)]
)
@pytest.mark.parametrize("spec", ["slic:12", slic(12)])
def test_each_image_of_a_batch_has_superpixels_of_its_own(explainer, budget, spec):
    first, second = (np.repeat(two_halves(e)[..., None], 3, axis=2) for e in (13, 22))
    images = np.stack([first, second]).astype(np.float32)

    def model(x):
        return x.mean(axis=(1, 2)) * (1, 2, 3) + x[:, 3, 3] ** 2

    found = explainer(model, PatchMasker(spec)).shap_values(images, max_evals=budget)
    difference = model(images) - model(np.zeros_like(images))
    np.testing.assert_allclose(found.sum((1, 2, 3)), difference, atol=1e-5)
    for values, image, other in zip(found, images, images[::-1], strict=True):
        labels, others = slic(12)(image), slic(12)(other)
        spread = [np.ptp(values[labels == i], axis=0).max() for i in range(labels.max() + 1)]
        assert max(spread) < 1e-12
        assert max(np.ptp(values[others == i]) for i in range(others.max() + 1)) > 1e-6


def test_tensors_captum_and_shap_see_the_same_superpixels():
    image = np.repeat(two_halves(13)[..., None], 3, axis=2).astype(np.float32)
    labels = slic(12)(image)
    masker = PatchMasker("slic:12", clustering="bpt")
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    assert np.array_equal(masker.feature_mask(x)[0, 0].numpy(), labels)
    assert masker.shape(image) == (1, labels.max() + 1)
    assert masker.clustering(image).shape == (labels.max(), 4)
    attributions = PatchKernelShap(torch.nn.Flatten(), masker).attribute(x, target=5, n_samples=100)
    assert set(np.unique(labels[attributions[0, 0].abs().numpy() > 1e-6])) == {labels[0, 5]}


def test_a_masker_with_superpixels_can_be_saved():
    stream = io.BytesIO()
    PatchMasker(slic(12, sigma=1)).save(stream)
    stream.seek(0)
    assert PatchMasker.load(stream).players == slic(12, sigma=1)


def test_the_strongest_superpixels_are_outlined(cat):
    labels = slic(60, sigma=1)(cat)
    values = np.linspace(0, 1, labels.max() + 1)
    figure = attribution_maps(cat, labels, values, ["cat"], n_marked=4)
    (_, heat, _) = figure.axes
    assert len(heat.collections) == 4
    inside = np.pad(labels == labels.max(), 1)
    n_edges = sum(int((inside != np.roll(inside, 1, axis)).sum()) for axis in (0, 1))
    assert len(heat.collections[0].get_segments()) == n_edges


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_segments": 2.5}, r"n_segments: got 2\.5; expected a whole number of at least 1"),
        ({"n_segments": True}, "n_segments: got True"),
        ({"compactness": 0}, "compactness: got 0; expected a finite number above 0"),
        ({"compactness": -1.0}, r"compactness: got -1\.0; expected a finite number above 0"),
        ({"sigma": "1"}, "sigma: got '1'; expected a finite number of at least 0"),
        ({"sigma": (1, 2, 3)}, r"sigma: got \(1, 2, 3\); expected .*, or two in a tuple"),
        ({"start_label": 1}, "slic: got start_label=1; expected no start_label. Players are numb"),
        ({"channel_axis": 0}, "expected no channel_axis. Images come channels last"),
        ({"compact": 3}, "slic: got the option 'compact'; expected one of scikit-image's: .*max_n"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(PatchShapError, match=message):
        slic(**options)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 2)), r"slic: got an image of shape \(4, 4, 2\); expected \(H, W\), or"),
        (np.zeros((0, 4)), r"slic: got an image of shape \(0, 4\)"),
        (np.zeros((4, 4), dtype=complex), "slic: got an image of dtype complex128; expected num"),
        (np.full((4, 4), np.nan), "slic: got an image with NaN or infinite pixels; expected fin"),
    ],
)
def test_bad_images(image, message):
    with pytest.raises(PatchShapError, match=message):
        slic()(image)


def test_what_scikit_image_refuses():
    with pytest.raises(
        PatchShapError, match=r"shape \(4, 4, 1\) and convert2lab=True; .*RGB image"
    ):
        slic(convert2lab=True)(np.zeros((4, 4)))
    with pytest.raises(
        PatchShapError, match=r"spacing=3; expected what skimage.* takes\. \(spacin"
    ):
        slic(spacing=3)(np.zeros((4, 4)))


def test_without_scikit_image(monkeypatch):
    segment = slic(4)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    message = r"expected scikit-image, .*pip install 'xai-patchshap\[superpixels\]'"
    image = np.zeros((4, 4, 3))
    for call in (slic, lambda: segment(image), lambda: PatchMasker("slic").shape(image)):
        with pytest.raises(PatchShapError, match=message):
            call()
