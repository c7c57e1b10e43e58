"""explain_image: any model, any image, one call."""

from __future__ import annotations

import re

import numpy as np
import pytest
import shap
import torch
from PIL import Image

from xai_patchshap import PatchShapError, explain_image
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


@pytest.mark.parametrize("method", ["patch-kernel-shap", "owen_bpt"])
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
    expected = explain_image(Module(), PHOTO, labels=1, players=4, background=0.0).values[0]
    values = explain_image(Module(), image, labels=1, players=4, background=0.0).values
    assert values.shape == (len(values), 16, 12, 3, 1)
    for one in values:
        np.testing.assert_allclose(one, expected, atol=1e-12)


def test_gray_images_without_a_channel_axis():
    gray = PHOTO[..., 0]
    explanation = explain_image(lambda x: x.mean((1, 2, 3)), gray, players=4, background=0.0)
    assert explanation.values.shape == (1, 16, 12, 1)
    assert explanation.values.sum() == pytest.approx(gray.mean())
    explanation = explain_image(Module(), torch.tensor(gray), players=4, background=0.0)
    assert explanation.values.shape == (1, 16, 12, 1, 1)


def test_labels_by_index_name_and_rank():
    def explained(labels):
        explanation = explain_image(
            channel_means, PHOTO, labels=labels, players=4, background=0.0, class_names=NAMES
        )
        return list(np.ravel(explanation.output_names))

    order = np.argsort(-PHOTO.mean((0, 1)))
    assert explained(None) == [NAMES[order[0]]]
    assert explained("top2") == [NAMES[i] for i in order[:2]]
    assert explained("green") == ["green"]
    assert explained(["Blue", 0]) == ["blue", "red"]


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
    by_object = explain_image(network, images[:2], method="vit-shapley", labels="top1")
    by_path = explain_image(cifar10_path(), images[:2], method="vit-shapley", labels="top1")
    np.testing.assert_array_equal(by_object.values, by_path.values)
    _, full = network(images[:2])
    best = full.argmax(1)
    total = [(f[k] - network.null[k]).item() for f, k in zip(full, best, strict=True)]
    np.testing.assert_allclose(sums(by_object)[:, 0], total, atol=1e-6)
    shap.image_plot(by_object, show=False)


def test_options_reach_the_explainer():
    options = {"method": "owen-bpt", "players": 4, "budget": 40, "labels": 0, "background": 0.0}
    one = explain_image(channel_means, PHOTO, n_trees=1, hierarchy="axis", **options)
    np.testing.assert_allclose(sums(one)[0], PHOTO.mean((0, 1))[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"method": "lime"},
            "method: got 'lime'; expected one of ('patch-kernel-shap', 'owen-bpt'",
        ),
        ({"labels": "violet"}, "labels: got 'violet', which names 0 of the outputs; expected"),
        ({"labels": 1.5}, "labels: got 1.5; expected an index, a name, a list of these, or 'topN'"),
        ({"labels": []}, "labels: got an empty list; expected at least one"),
        ({"image": "missing.png"}, "image: got 'missing.png'; expected a readable image file"),
        ({"image": PHOTO[0, 0]}, "image: got shape (3,); expected (H, W), (H, W, C)"),
        ({"players": (99, 99)}, "grid: got 99 x 99 on an image of 16 x 12 pixels"),
        ({"budget": 1}, "max_evals: got 1; expected a whole number of at least 2"),
        ({"n_trees": 2}, "n_trees"),
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

    with pytest.raises(PatchShapError, match="outputs: got indices from 7 to 7; expected 0 to 2"):
        explain_image(model, PHOTO, labels=7)
    assert calls == [1]


def test_vit_shapley_refuses_players():
    with pytest.raises(PatchShapError, match="players or background: got '4x4', 'mean'; expected"):
        explain_image(cifar10_path(), PHOTO, method="vit-shapley", players="4x4")
