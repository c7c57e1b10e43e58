"""Named models: images of every size and scale, and models without classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from xai_patchshap import PatchShapError, explain_image
from xai_patchshap.models.load import load_model
from xai_patchshap.models.named_model import NamedModel, ScoredImages
from xai_patchshap.samples import cifar10_explainer

BYTES = np.random.default_rng(1).integers(0, 256, (20, 40, 3), dtype=np.uint8)
UNIT = BYTES / 255.0


def scored(channels=3):
    """What load_model makes of a named classifier, in small: it wants 8 x 8 pixels in [0, 1]."""
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * channels, 3))
    scores = ScoredImages(inner, (0.5,) * channels, (0.5,) * channels)
    return NamedModel(scores, "mine", (8, 8), crop=0.8, channels=channels)


def explained(model, image):
    return explain_image(model, image, players=(2, 2), labels=[0, 1], background=0.5)


def same(one, other):
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.parametrize(
    "given",
    [
        UNIT,
        UNIT.astype(np.float32),
        UNIT.astype(">f8"),
        UNIT[None],
        UNIT.transpose(2, 0, 1),
        UNIT[::-1][::-1],
        torch.tensor(UNIT).permute(2, 0, 1),
        torch.tensor(UNIT).permute(2, 0, 1).float()[None],
        torch.tensor(UNIT).permute(2, 0, 1).requires_grad_(),
        [UNIT],
        Image.fromarray(BYTES),
    ],
    ids=[
        *("double", "float", "big-endian", "NHWC", "CHW", "strides", "tensor", "NCHW"),
        *("gradients", "list", "photograph"),
    ],
)
def test_floats_of_another_size_are_resized_as_bytes_are(given):
    same(explained(scored(), given), explained(scored(), BYTES))


def test_half_precision_is_nearly_the_same():
    expected = explained(scored(), BYTES)
    for given in (
        UNIT.astype(np.float16),
        torch.tensor(UNIT).permute(2, 0, 1).to(torch.bfloat16),
    ):
        found = explained(scored(), given)
        np.testing.assert_allclose(found.data, expected.data, atol=0.01)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_get_the_channels_of_the_model(channels):
    model = scored(channels)
    for bytes_, mode in ((BYTES[..., 0], "L"), (BYTES, "RGB"), (np.dstack([BYTES, BYTES]), "RGBA")):
        bytes_ = bytes_[..., :4] if mode == "RGBA" else bytes_
        expected = explained(model, Image.fromarray(bytes_))
        assert expected.data.shape == (1, 8, 8, channels)
        same(explained(model, bytes_), expected)
        same(explained(model, bytes_ / 255), expected)
    # Of the model's own size, but of other channels.
    square = BYTES[:8, :8, 0]
    if channels != 1:
        same(explained(model, square / 255), explained(model, square))


def test_floats_of_the_models_own_size_are_taken_as_they_are():
    own = np.random.default_rng(2).random((2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(explained(scored(), own).data, own)
    tensor = torch.from_numpy(own).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(explained(scored(), tensor).data, own)
    prepared = scored().prepare(Image.fromarray(BYTES))
    same(explained(scored(), prepared), explained(scored(), BYTES))
    larger = own * 1.05  # as after a resize that overshoots
    np.testing.assert_array_equal(explained(scored(), larger).data, larger)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (UNIT * 255, r"numbers from 0 to 255; expected images in \[0, 1\]\. Divide by 255"),
        (UNIT[:8, :8] * 255, "numbers from .* Divide by 255"),
        ((UNIT - 0.5) / 0.25, "numbers from -2 to 2; .* The model normalises them itself"),
        (BYTES.astype(np.int64), r"dtype int64; expected uint8, .* Divide whole numbers by what"),
        (BYTES.astype(np.uint16), "dtype uint16; expected uint8"),
        (UNIT.astype(complex), "dtype complex128"),
        (np.where(UNIT > 0.9, np.nan, UNIT), "NaN or infinity"),
        (np.where(UNIT > 0.9, np.inf, UNIT), "NaN or infinity"),
        (UNIT[..., :2], "image: got an array of shape"),
        (UNIT[:0], r"image: got 40 x 0 pixels"),
        ([Image.fromarray(BYTES), UNIT], "a list of photographs and arrays; expected one or the"),
        ([UNIT, UNIT[1:]], "images of several sizes"),
    ],
)
def test_images_that_are_refused(image, message):
    with pytest.raises(PatchShapError, match=message):
        explained(scored(), image)


def test_a_mask_of_black_and_white_is_an_image():
    mask = BYTES > 127
    same(explained(scored(), mask), explained(scored(), mask * np.uint8(255)))


def test_a_trained_explainer_resizes_floats_too():
    one = explain_image(cifar10_explainer(), BYTES, method="vit_shapley_amortized", labels=3)
    other = explain_image(cifar10_explainer(), UNIT, method="vit_shapley_amortized", labels=3)
    same(one, other)


# ----- models without classes --------------------------------------------------------------------


def bare(monkeypatch, num_classes):
    """Let timm's small test model be one of that many outputs."""
    import timm

    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, **options: create(name, num_classes=num_classes)
    )


@pytest.mark.parametrize("num_classes", [0, 512, 768])
@pytest.mark.parametrize("probability", [True, False])
def test_features_are_no_probabilities(monkeypatch, num_classes, probability):
    bare(monkeypatch, num_classes)
    with pytest.warns(UserWarning, match="'timm:test_vit' has no classification head.*Name a") as w:
        named = load_model("timm:test_vit", probability=probability)
    assert [one.filename for one in w] == [__file__]
    assert (named.scale, named.class_names) == ("output", None)
    x = torch.rand(1, 3, *named.size)
    with torch.no_grad():
        normalised = (x - named.model.mean) / named.model.std
        np.testing.assert_array_equal(named.model(x), named.model.model(normalised))


@pytest.mark.parametrize("num_classes", [1000, 11821, 21843])
def test_classifiers_are_not_warned_of(monkeypatch, num_classes):
    bare(monkeypatch, num_classes)
    named = load_model("timm:test_vit")
    assert named.scale == "probability"
    assert (named.class_names is None) == (num_classes != 1000)


@pytest.mark.slow  # made at their full size
@pytest.mark.parametrize(
    "name",
    ["vit_small_patch14_dinov2", "vit_xsmall_patch16_clip_224", "resnet50_clip", "fastvit_mci0"],
)
def test_names_without_a_head(name):
    with pytest.warns(UserWarning, match=f"'timm:{name}' has no classification head"):
        assert load_model(f"timm:{name}", weights="random").scale == "output"


def test_what_the_warning_offers_exists():
    import timm

    assert timm.list_models("*in1k", pretrained=True)
