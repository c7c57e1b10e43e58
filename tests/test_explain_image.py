"""explain_image: any model, any image, one call."""

from __future__ import annotations

import re

import numpy as np
import pytest
import shap
import torch
from PIL import Image

from xai_patchshap import PatchShapError, explain_image
from xai_patchshap.models.named_model import NamedModel, ScoredImages
from xai_patchshap.samples import cifar10_explainer, cifar10_images, cifar10_path

NAMES = ["red", "green", "blue"]
PHOTO = np.random.default_rng(0).random((16, 12, 3)).astype(np.float32)


def channel_means(images):
    return images.mean(axis=(1, 2))


class Module(torch.nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def sums(explanation):
    return explanation.values.sum(axis=(1, 2, 3))


@pytest.mark.parametrize("method", ["patch_kernel_shap", "patch-kernel-shap", "owen_bpt"])
def test_values_add_up_for_functions_of_arrays(method):
    explanation = explain_image(
        channel_means, PHOTO, method=method, labels=[0, 2], players=(2, 2), background=0.25
    )
    assert explanation.values.shape == (1, 16, 12, 3, 2)
    np.testing.assert_allclose(sums(explanation)[0], PHOTO.mean((0, 1))[[0, 2]] - 0.25, atol=1e-6)


@pytest.mark.parametrize(
    "image",
    [
        PHOTO,
        PHOTO[None],
        PHOTO.transpose(2, 0, 1),
        torch.tensor(PHOTO.transpose(2, 0, 1)),
        torch.tensor(PHOTO.transpose(2, 0, 1))[None],
        np.stack([PHOTO, PHOTO]),
    ],
    ids=["HWC", "NHWC", "CHW", "tensor CHW", "tensor NCHW", "batch"],
)
def test_every_layout_gives_the_same_values_channels_last(image):
    options = {"labels": 1, "players": 4, "background": 0.0, "budget": 60}
    expected = explain_image(Module(), PHOTO, **options).values[0]
    values = explain_image(Module(), image, **options).values
    assert values.shape == (len(values), 16, 12, 3, 1)
    for one in values:
        np.testing.assert_allclose(one, expected, atol=1e-12)


def test_gray_images_without_a_channel_axis():
    gray = PHOTO[..., 0]
    explanation = explain_image(lambda x: x.mean((1, 2, 3)), gray, players=(2, 2), background=0.0)
    assert explanation.values.shape == (1, 16, 12, 1)
    assert explanation.values.sum() == pytest.approx(gray.mean())
    explanation = explain_image(Module(), torch.tensor(gray), players=(2, 2), background=0.0)
    assert explanation.values.shape == (1, 16, 12, 1, 1)


def test_labels_by_index_name_and_rank():
    def explained(labels):
        explanation = explain_image(
            channel_means,
            PHOTO,
            labels=labels,
            players=(2, 2),
            background=0.0,
            class_names=NAMES,
        )
        return list(np.ravel(explanation.output_names))

    order = np.argsort(-PHOTO.mean((0, 1)))
    assert explained(None) == [NAMES[order[0]]]
    assert explained("top2") == [NAMES[i] for i in order[:2]]
    assert explained("green") == ["green"]
    assert explained(["Blue", 0]) == ["blue", "red"]
    assert explained(np.array([2, 0])) == ["blue", "red"]
    assert explained(np.array(2)) == ["blue"]


def test_photographs_and_files_are_resized_for_the_model(tmp_path):
    photo = Image.new("RGB", (300, 200), "white")
    photo.save(tmp_path / "white.png")
    for image in (photo, tmp_path / "white.png", str(tmp_path / "white.png")):
        explanation = explain_image(Module(), image, players=(2, 2), background=0.5, labels=0)
        assert explanation.values.shape == (1, 224, 224, 3, 1)
        assert explanation.values.sum() == pytest.approx(0.5)


def test_a_trained_explainer_is_asked_once():
    images, _ = cifar10_images()
    network = cifar10_explainer()
    by_object = explain_image(network, images[:2], method="vit_shapley_amortized", labels="top1")
    by_path = explain_image(
        cifar10_path(), images[:2], method="vit_shapley_amortized", labels="top1"
    )
    np.testing.assert_array_equal(by_object.values, by_path.values)
    _, full = network(images[:2])
    best = full.argmax(1)
    total = [(f[k] - network.null[k]).item() for f, k in zip(full, best, strict=True)]
    np.testing.assert_allclose(sums(by_object)[:, 0], total, atol=1e-6)
    shap.image_plot(by_object, show=False)


def test_options_reach_the_explainer():
    options = {"method": "owen_bpt", "players": 4, "budget": 40, "labels": 0, "background": 0.0}
    one = explain_image(channel_means, PHOTO, n_trees=1, hierarchy="axis", **options)
    np.testing.assert_allclose(sums(one)[0], PHOTO.mean((0, 1))[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"method": "lime"},
            "method: got 'lime'; expected one of patch_kernel_shap, owen_bpt",
        ),
        ({"method": "vit-shapley"}, "Did you mean 'vit-shapley-amortized'?"),
        ({"method": "interaction_shap"}, "expected one whose values are a map. Use InteractionSh"),
        ({"labels": "violet"}, "labels: got 'violet', which names 0 of the outputs; expected"),
        ({"labels": 1.5}, "labels: got 1.5; expected an index, a name, a list of these, or 'top3'"),
        ({"labels": []}, "labels: got []; expected an index, a name"),
        ({"image": "missing.png"}, "image: got 'missing.png'; expected a readable image file"),
        ({"image": PHOTO[0, 0]}, "image: got shape (3,); expected (H, W), (H, W, C)"),
        ({"players": (99, 99)}, "grid: got 99 x 99 on an image of 16 x 12 pixels"),
        ({"budget": 1}, "budget: got 1; expected a whole number of at least 2"),
        ({"n_trees": 2}, "n_trees"),
        ({"n_trees": 2}, "It is one of method='owen_bpt'."),
        ({"tol": 2}, "got tol; expected one of ['seed', 'autocast', 'estimator', 'sampling', 'tol"),
        ({"max_evals": 9}, "arguments: got max_evals=; expected budget=, as it is called here"),
        ({"output_names": NAMES}, "arguments: got output_names=; expected class_names="),
        ({"algorithm": "owen_bpt"}, "arguments: got algorithm=; expected method="),
        ({"target": 1}, "arguments: got target=; expected labels="),
        ({"image": [PHOTO, PHOTO[1:]]}, "image: got images of several sizes; expected a batch of"),
        ({"image": PHOTO[..., :2]}, "image: got an array of shape (1, 16, 12, 2)"),
        ({"image": PHOTO[..., :2]}, "Say which axis it is with layout='NHWC' or 'NCHW'."),
        ({"model": 3}, "model: got 'int', of type int; expected a callable"),
    ],
)
def test_errors_come_before_any_work(change, message):
    calls = []

    def model(images):
        calls.append(len(images))
        return channel_means(images)

    arguments = {"model": model, "image": PHOTO, "labels": 0, "class_names": NAMES, **change}
    with pytest.raises(PatchShapError, match=re.escape(message)):
        explain_image(**arguments)
    assert not calls


def test_what_only_the_model_knows_costs_one_evaluation():
    calls = []

    def model(images):
        calls.append(len(images))
        return channel_means(images)

    for change, message in [
        ({"labels": 7}, "^labels: got indices from 7 to 7; expected 0 to 2, the outputs"),
        ({"labels": "top5"}, "^labels: got 'top5'; expected 'top1' to 'top3', the outputs"),
        ({"class_names": NAMES[:2]}, "^class_names: got 2 names; expected 3, the outputs"),
    ]:
        calls.clear()
        with pytest.raises(PatchShapError, match=message):
            explain_image(model, PHOTO, **change)
        assert calls == [1]


@pytest.mark.parametrize("labels", [None, 0, [0], "top1"])
def test_a_single_output_is_the_first_and_the_largest(labels):
    explanation = explain_image(
        lambda x: x.mean(axis=(1, 2, 3)), PHOTO, labels=labels, players=(2, 2), background=0.0
    )
    assert explanation.values.shape == (1, 16, 12, 3)
    assert explanation.values.sum() == pytest.approx(PHOTO.mean())


@pytest.mark.parametrize("labels", [1, "top3"])
def test_a_single_output_is_the_only_one(labels):
    message = r"^labels: got (indices from 1 to 1; expected 0 to 0|'top3'; expected None or 'top1')"
    with pytest.raises(PatchShapError, match=message):
        explain_image(lambda x: x.mean(axis=(1, 2, 3)), PHOTO, labels=labels)


def test_warnings_speak_of_its_arguments():
    with pytest.warns(UserWarning, match=r"^budget=20 is few for 48 .* Give budget=384") as record:
        explain_image(channel_means, PHOTO, budget=20)
    assert [w.filename for w in record] == [__file__]


def test_more_values_than_fit_into_memory(monkeypatch):
    monkeypatch.setattr("xai_patchshap.explainers.explanations.MAX_BYTES", 1000)
    message = "^labels: got 3 outputs for inputs .* Explain fewer labels, or fewer images at a time"
    with pytest.raises(PatchShapError, match=message):
        explain_image(channel_means, PHOTO, labels="top3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"players": "4x4"}, "players or background: got '4x4', 'mean'; expected"),
        ({"background": np.zeros(3)}, "players or background: got None, array"),
        ({"model": Module()}, "model: got an object of type Module; expected a ShapleyViT or the"),
    ],
)
def test_what_vit_shapley_refuses(change, message):
    arguments = {"model": cifar10_path(), "image": PHOTO, **change}
    with pytest.raises(PatchShapError, match=message):
        explain_image(**arguments, method="vit_shapley_amortized")


def test_a_checkpoint_names_its_classes_and_a_layout_is_heeded():
    image = cifar10_images()[0][0].permute(1, 2, 0)
    found = explain_image(
        cifar10_path(), image, method="vit_shapley_amortized", labels="airplane", layout="NHWC"
    )
    assert found.output_names == ["airplane"]
    assert found.values.shape == (1, 32, 32, 3, 1)


# ----- photographs: files, PIL images and, for models that we prepare them for, their bytes ------

BYTES = np.random.default_rng(1).integers(0, 256, (20, 40, 3), dtype=np.uint8)


def scored():
    """What load_model makes of a named classifier, in small: it wants 8 x 8 pixels in [0, 1]."""
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    return NamedModel(ScoredImages(inner, (0.5,) * 3, (0.5,) * 3), "mine", (8, 8), crop=0.8)


def explained(model, image):
    return explain_image(model, image, players=(2, 2), labels=[0, 1], background=0.5)


@pytest.mark.parametrize(
    "given",
    [
        BYTES,
        BYTES[None],
        BYTES.transpose(2, 0, 1),
        torch.tensor(BYTES.transpose(2, 0, 1)),
        torch.tensor(BYTES.transpose(2, 0, 1))[None],
        [Image.fromarray(BYTES)],
    ],
    ids=["HWC", "NHWC", "CHW", "tensor CHW", "tensor NCHW", "list"],
)
def test_the_bytes_of_a_photograph_are_the_photograph(given, tmp_path):
    Image.fromarray(BYTES).save(tmp_path / "photo.png")
    by_file = explained(scored(), tmp_path / "photo.png")
    assert by_file.data.shape == (1, 8, 8, 3)
    assert 0 <= by_file.data.min() < by_file.data.max() <= 1
    found = explained(scored(), given)
    np.testing.assert_array_equal(found.data, by_file.data)
    np.testing.assert_array_equal(found.values, by_file.values)


def test_gray_bytes_are_a_gray_photograph():
    gray = BYTES[..., 0]
    expected = explained(scored(), Image.fromarray(gray)).values
    for given in (gray, gray[..., None], torch.tensor(gray)):
        np.testing.assert_array_equal(explained(scored(), given).values, expected)


def test_floats_are_taken_as_they_are_and_other_whole_numbers_by_no_model_of_ours():
    floats = np.random.default_rng(2).random((8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(explained(scored(), floats).data[0], floats)
    with pytest.raises(PatchShapError, match="image: got dtype int64; expected uint8, 0 to 255, o"):
        explained(scored(), BYTES.astype(np.int64))


def test_a_trained_explainer_takes_bytes_too():
    images, _ = cifar10_images()
    pixels = (images[:2].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    found = explain_image(cifar10_path(), pixels, method="vit_shapley_amortized", labels=3)
    expected = explain_image(cifar10_path(), images[:2], method="vit_shapley_amortized", labels=3)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)


def test_a_model_of_ones_own_gets_bytes_as_they_are():
    seen = []

    class Watching(Module):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    def watching(x):
        seen.append(x)
        return channel_means(x)

    explained(watching, BYTES)
    assert seen[0].dtype == np.uint8
    np.testing.assert_array_equal(seen[0][0], BYTES)
    seen.clear()
    with pytest.warns(UserWarning, match="whole numbers from 0 to 255"):
        explained(Watching(), BYTES)
    np.testing.assert_array_equal(seen[0][0].permute(1, 2, 0), BYTES)


def test_several_photographs_of_any_size_are_a_batch(tmp_path):
    other = Image.fromarray(BYTES[:10, ::2])
    other.save(tmp_path / "other.png")
    found = explained(scored(), [Image.fromarray(BYTES), tmp_path / "other.png"])
    for i, one in enumerate((Image.fromarray(BYTES), other)):
        np.testing.assert_allclose(found.values[i], explained(scored(), one).values[0], atol=1e-8)


def test_a_photograph_is_turned_as_the_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    upright = Image.fromarray(BYTES)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "camera.png", exif=exif)
    expected = explained(scored(), upright)
    with Image.open(tmp_path / "camera.png") as opened:
        for given in (tmp_path / "camera.png", opened):
            np.testing.assert_array_equal(explained(scored(), given).values, expected.values)
