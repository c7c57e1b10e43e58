"""The engine of comparisons: what it takes, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xai_patchshap import PatchMasker, PatchShapError
from xai_patchshap.evaluation import ImageGames, Protocol, attributed, compare_methods
from xai_patchshap.evaluation.other_methods import OTHER_METHODS
from xai_patchshap.explainers.methods import COMPARED, METHODS

IMAGES = torch.arange(32.0).reshape(2, 1, 4, 4)


def two_outputs(images):
    flat = images.flatten(1)
    return torch.stack([flat @ torch.arange(16.0), flat.sum(1)], dim=1)


def made(outputs=((0,), (1,)), images=IMAGES):
    return ImageGames(two_outputs, PatchMasker(players=2), images, outputs)


def test_the_names_on_offer_are_those_of_the_engine():
    assert set(COMPARED) == {*METHODS, *OTHER_METHODS}


def test_rows_have_one_spelling():
    rows = compare_methods(made(), ["leave-one-out", "input_x_gradient"])
    assert [row["method"] for row in rows] == ["leave_one_out", "input_x_gradient"]


def test_games_say_what_they_hold():
    assert repr(made()) == "ImageGames(images=2, players=4, outputs=1)"


@pytest.mark.parametrize(
    "outputs", [[[0]], [0, 1], [[-1], [0]], [[0.5], [0]], [[True], [False]], [[], []]]
)
def test_outputs_are_some_for_each_image(outputs):
    with pytest.raises(PatchShapError, match=r"outputs: got .*whole numbers of at least 0"):
        made(outputs)


def test_outputs_are_those_of_the_model():
    with pytest.raises(PatchShapError, match="outputs: got 5; expected 0 to 1"):
        made([[5], [0]])(np.ones((1, 4), dtype=bool))


def test_images_are_a_batch():
    with pytest.raises(PatchShapError, match=r"images: got shape \(1, 4, 4\)"):
        made(images=IMAGES[0])


@pytest.mark.parametrize("shape", [(1, 3), (1, 5), (4,)])
def test_coalitions_are_of_the_players(shape):
    with pytest.raises(PatchShapError, match=r"coalitions: got shape .*\(m, 4\) for the players"):
        made()(np.ones(shape, dtype=bool))


@pytest.mark.parametrize("size", [0, 4, True])
def test_sizes_are_of_coalitions_that_differ(size):
    with pytest.raises(PatchShapError, match=r"sizes: got .* at most 3, of 4 players"):
        compare_methods(made(), ["random"], protocol=Protocol(sizes=[size]))


@pytest.mark.parametrize("method", ["rise", "integrated_gradients", "captum_kernel_shap"])
def test_a_budget_is_checked_for_every_method(method):
    with pytest.raises(PatchShapError, match="budget: got 0"):
        attributed(method, made(), budget=0)
