"""OwenBPT on every form of input and players, its trees, and shap's Partition explainer."""

from __future__ import annotations

import captum
import numpy as np
import pytest
import shap
import torch
from torch import nn

from xai_patchshap import OwenBPT, PatchMasker
from xai_patchshap.players.trees import axis_tree, bpt_tree


class Net(nn.Module):
    """Images of any size and number of channels to scores with interactions."""

    def __init__(self, channels=3, outputs=6, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.head = nn.Linear(8, outputs)
        self.double()

    def forward(self, x):
        x = torch.tanh(3 * self.conv(x))
        place = torch.linspace(0.2, 1.5, x.shape[2] * x.shape[3], dtype=x.dtype)
        x = (x * place.reshape(x.shape[2:])).mean((2, 3))
        return self.head(torch.tanh(5 * x))


def photos(n=2, channels=3, height=3, width=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, height, width, generator=rng, dtype=torch.double)


def last(x):
    return x.permute(0, 2, 3, 1).numpy()


def table_of(model, x, labels, background):
    """Values (2 ** n, K) of all coalitions of one image (C, H, W)."""
    n = int(labels.max()) + 1
    shown = (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).bool()[:, labels]
    with torch.no_grad():
        return model(torch.where(shown[:, None], x, background)).numpy()


def pixels(height, width):
    return torch.arange(height * width).reshape(height, width)


def chain(n):
    return [[0, 1, 1.0, 2], *([n + k, 2 + k, 2.0 + k, 3 + k] for k in range(n - 2))]


def explained(x, masker=None, batch_size=16, outputs=None, budget=200, model=None, **options):
    explainer = OwenBPT(model or Net(), masker, **options)
    return explainer(x, max_evals=budget, batch_size=batch_size, outputs=outputs, silent=True)


# ----- forms of input --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpt", "axis"])
def test_models_on_arrays_in_either_layout(kind):
    model, x = Net(), photos(2, 3, 6, 5)
    expected = explained(x, hierarchy=kind).values
    with torch.no_grad():

        def channels_last(a):
            assert isinstance(a, np.ndarray)
            assert a.shape[1:] == (6, 5, 3)
            return model(torch.from_numpy(a).permute(0, 3, 1, 2)).numpy()

        def channels_first(a):
            assert isinstance(a, np.ndarray)
            assert a.shape[1:] == (3, 6, 5)
            return model(torch.from_numpy(a)).numpy()

        for given, function in ((last(x), channels_last), (x.numpy(), channels_first)):
            values = explained(given, model=function, hierarchy=kind).values
            np.testing.assert_allclose(values, expected, atol=1e-12)
        np.testing.assert_allclose(explained(last(x), hierarchy=kind).values, expected, atol=1e-12)
    explainer = OwenBPT(model, hierarchy=kind)
    first = explainer.shap_values(x, max_evals=200)
    np.testing.assert_allclose(np.moveaxis(first, 1, 3), expected, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["bpt", "axis"])
def test_images_of_any_number_of_channels(channels, kind, brute_owen):
    model, x = Net(channels), photos(1, channels)
    explainer = OwenBPT(model, hierarchy=kind, n_trees=1)
    attributions = explainer.attribute(x, target=3, n_samples=512)
    table = table_of(model, x[0], pixels(3, 3), torch.zeros(1))
    expected = brute_owen(explainer.trees[0][0].children, table)[:, 3].reshape(3, 3)
    np.testing.assert_allclose(attributions[0], np.stack([expected] * channels), atol=1e-10)
    values = OwenBPT(
        lambda a: model(torch.from_numpy(a).permute(0, 3, 1, 2)).detach().numpy(),
        PatchMasker(layout="NHWC"),
        hierarchy=kind,
        n_trees=1,
    )(last(x), max_evals=512, outputs=[3], silent=True).values
    np.testing.assert_allclose(values[0, ..., 0].sum(-1), expected, atol=1e-10)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 8), (8, 1), (2, 1)])
@pytest.mark.parametrize("kind", ["bpt", "axis"])
def test_thin_images(size, kind, brute_owen):
    model, x = Net(), photos(2, 3, *size)
    n = size[0] * size[1]
    explainer = OwenBPT(model, hierarchy=kind, n_trees=1)
    values = explainer(x, max_evals=300, silent=True).values.sum(3).reshape(2, n, 6)
    for i in range(2):
        table = table_of(model, x[i], pixels(*size), torch.zeros(1))
        expected = brute_owen(explainer.trees[i][0].children, table)
        np.testing.assert_allclose(values[i], expected, atol=1e-10)


MASK = torch.tensor([[0, 0, 1, 1, 4], [0, 2, 2, 1, 4], [3, 3, 2, 5, 5], [3, 3, 6, 6, 5]])


@pytest.mark.parametrize("kind", ["bpt", "axis"])
@pytest.mark.parametrize(
    "mask",
    [MASK, MASK[None], MASK[None, None], MASK.expand(1, 3, 4, 5), MASK.expand(2, 3, 4, 5)],
    ids=lambda m: str(tuple(m.shape)),
)
def test_players_of_a_feature_mask_or_a_masker(kind, mask, brute_owen):
    model, x = Net(), photos(2, 3, 4, 5)
    explainer = OwenBPT(model, hierarchy=kind, n_trees=1)
    arguments = {"target": 1, "n_samples": 128, "feature_mask": mask}
    players = explainer.attribute(x, return_input_shape=False, **arguments)
    attributions = explainer.attribute(x, **arguments)
    expected = []
    for i in range(2):
        (tree,) = explainer.trees[i]
        assert tree.n == 7
        own = (
            axis_tree(MASK)
            if kind == "axis"
            else bpt_tree(last(x)[i], MASK.numpy(), compactness=explainer.compactness)
        )
        np.testing.assert_array_equal(tree.children, own.children)
        table = table_of(model, x[i], MASK, torch.zeros(1))
        expected.append(brute_owen(tree.children, table)[:, 1])
    np.testing.assert_allclose(players, expected, atol=1e-10)
    np.testing.assert_allclose(
        attributions, np.stack([[e[MASK]] * 3 for e in expected]), atol=1e-10
    )
    masked = OwenBPT(model, PatchMasker(MASK.numpy()), hierarchy=kind, n_trees=1)
    np.testing.assert_allclose(
        masked.explain_players(x, max_evals=128, outputs=[1], silent=True).values[..., 0],
        expected,
        atol=1e-10,
    )
    np.testing.assert_allclose(masked.attribute(x, target=1, n_samples=128), attributions)


def test_players_that_differ_between_images():
    x = photos(2, 3, 4, 5)
    masks = torch.stack([MASK, MASK.clamp(max=3)])[:, None]
    explainer = OwenBPT(Net(), n_trees=1)
    players = explainer.attribute(
        x, target=1, n_samples=128, feature_mask=masks, return_input_shape=False
    )
    assert [t[0].n for t in explainer.trees] == [7, 4]
    assert not players[1, 4:].any()
    for i in range(2):
        alone = explainer.attribute(
            x[i : i + 1],
            target=1,
            n_samples=128,
            feature_mask=masks[i],
            return_input_shape=False,
        )
        np.testing.assert_allclose(players[i, : alone.shape[1]], alone[0], atol=1e-12)


def test_patches_of_a_masker_play():
    explainer = OwenBPT(Net(), PatchMasker(players=(2, 4)), hierarchy="axis", n_trees=1)
    explanation = explainer.explain_players(photos(1, 3, 8, 8), max_evals=100, silent=True)
    assert explanation.values.shape == (1, 8, 6)
    assert explanation.feature_names[5] == "row 1, column 1"
    assert not explanation.error_std.any()


def test_rows_with_a_linkage(brute_owen):
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    rows, z = photos(1, 1, 2, 6)[0, 0], np.array(chain(6))
    explainer = OwenBPT(model, hierarchy=z)
    values = explainer(rows, max_evals=64, silent=True).values
    shown = (torch.arange(64)[:, None] >> torch.arange(6) & 1).bool()
    attributions = explainer.attribute(rows, target=1, n_samples=64)
    for i in range(2):
        with torch.no_grad():
            expected = brute_owen(z[:, :2].astype(int), model(rows[i] * shown).numpy())
        np.testing.assert_allclose(values[i], expected, atol=1e-10)
        np.testing.assert_allclose(attributions[i], expected[:, 1], atol=1e-10)


def test_several_inputs_with_a_linkage():
    explainer = OwenBPT(lambda a, b: (a * b).sum(1), hierarchy=[[0, 2], [1, 3], [4, 5]])
    one, other = explainer.attribute(
        (torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 7.0]])), n_samples=16
    )
    # Each product is shared by its two factors, wherever they meet in the tree.
    np.testing.assert_allclose(one, [[5.0, 10.5]])
    np.testing.assert_allclose(other, [[5.0, 10.5]])


# ----- trees and errors ------------------------------------------------------------------


def test_trees_are_those_of_the_hierarchy_module():
    x = photos(2, 3, 9, 7)
    for compactness in (0.0, 1.0, 3.0):
        explainer = OwenBPT(Net(), compactness=compactness, n_trees=3)
        explainer(x, max_evals=20, silent=True)
        for i, (tree,) in enumerate(explainer.trees):
            expected = bpt_tree(last(x)[i], compactness=compactness)
            np.testing.assert_array_equal(tree.children, expected.children)
    explainer = OwenBPT(Net(), hierarchy="axis", n_trees=3)
    explainer(x, max_evals=20, silent=True)
    expected = axis_tree(np.arange(63).reshape(9, 7))
    np.testing.assert_array_equal(explainer.trees[1][0].children, expected.children)


@pytest.mark.parametrize("kind", ["bpt", "axis"])
@pytest.mark.parametrize("players", ["pixels", "patches"])
def test_later_trees_see_the_values_of_the_largest_output_so_far(kind, players):
    x = photos(1, 3, 16, 15)
    labels = pixels(16, 15).numpy()
    if players == "patches":
        labels = (labels // 15 // 4) * 5 + labels % 15 // 3
    explainer = OwenBPT(Net(), PatchMasker(labels), hierarchy=kind)
    for budget in range(104, 140, 2):
        explainer(x, max_evals=budget, silent=True)
        if len(explainer.trees[0]) == 2:  # the budget has just reached it
            break
    top = int(Net()(x).argmax())
    so_far = explainer(x, max_evals=budget - 2, outputs=[top], silent=True).values[0].sum((2, 3))
    explainer(x, max_evals=budget, outputs=[(top + 1) % 6], silent=True)
    shown = np.clip(so_far / np.quantile(np.abs(so_far), 0.99), -1, 1)
    shown = np.round(3 * 255 * shown)
    if kind == "axis":
        expected = axis_tree(labels, shown)
    else:
        of_players = labels if players == "patches" else None
        expected = bpt_tree(last(x)[0], of_players, compactness=1.0, extra=shown)
    assert len(explainer.trees[0]) == 2
    np.testing.assert_array_equal(explainer.trees[0][1].children, expected.children)


def test_several_trees_give_standard_errors():
    x = photos(2, 3, 12, 12)
    for hierarchy, n_trees in (("bpt", 2), ("axis", 3), (["bpt", "axis"], 1)):
        explainer = OwenBPT(Net(), hierarchy=hierarchy, n_trees=n_trees)
        explanation = explainer(x, max_evals=250, error_bounds=True, silent=True)
        assert explanation.error_std.shape == explanation.values.shape
        assert np.isfinite(explanation.error_std).all()
        assert explanation.error_std.max() > 0
    alone = OwenBPT(Net(), n_trees=1)(x, max_evals=250, error_bounds=True, silent=True)
    assert np.isinf(alone.error_std).all()
    small = OwenBPT(Net(), n_trees=1)(photos(1), max_evals=512, error_bounds=True, silent=True)
    assert not small.error_std.any()


def test_nothing_depends_on_chance():
    x = photos(1, 3, 10, 10)
    values = [explained(x, seed=s).values for s in (0, 1, None, None)]
    for other in values[1:]:
        np.testing.assert_array_equal(other, values[0])


def test_auto_budget():
    explainer = OwenBPT(Net())
    explainer(photos(1, 3, 6, 6), silent=True)
    assert explainer.last_run.evaluations.tolist() == [500]


def test_is_a_captum_attribution_and_a_shap_explainer():
    explainer = OwenBPT(Net())
    assert isinstance(explainer, captum.attr.Attribution)
    assert isinstance(explainer, captum.attr.PerturbationAttribution)
    assert isinstance(explainer, shap.Explainer)
    assert type(explainer) is OwenBPT
    assert explainer.get_name() == "Owen BPT"


# ----- shap's own Partition explainer on the same trees -----------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpt", "axis"])
@pytest.mark.parametrize("players", ["2x5", "2x4"], ids=["pixels", "patches"])
def test_shap_dispatches_to_its_partition_explainer_which_agrees(kind, players):
    torch.manual_seed(3)
    x = photos(2, 3, 2, 5) if players == "2x5" else photos(2, 3, 6, 8)
    model = Net(outputs=2)

    def predict(a):
        with torch.no_grad():
            return model(torch.from_numpy(a).permute(0, 3, 1, 2)).numpy()

    masker = PatchMasker(players=players, background=0.1, clustering=kind)
    theirs = shap.Explainer(predict, masker)
    assert type(theirs) is shap.explainers.PartitionExplainer
    n = 10 if players == "2x5" else 8
    explanation = theirs(last(x), max_evals=4 * 2**n, batch_size=64, silent=True)
    assert explanation.values.shape == (2, n, 2)
    gap = predict(last(x)) - predict(np.full_like(last(x), 0.1))
    np.testing.assert_allclose(explanation.values.sum(1), gap, atol=1e-9)
    ours = OwenBPT(
        model,
        PatchMasker(players=players, background=0.1),
        hierarchy=kind,
        n_trees=1,
        compactness=0,
    ).explain_players(last(x), max_evals=2**n, batch_size=64, silent=True)
    assert not ours.error_std.any()
    np.testing.assert_allclose(explanation.values, ours.values, atol=1e-9)
    # A channels-first image has the same tree.
    tree, first = masker.clustering(last(x)[0]), masker.clustering(x[0])
    np.testing.assert_array_equal(first, tree)
