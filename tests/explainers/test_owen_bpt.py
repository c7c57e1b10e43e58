"""OwenBPT through both faces: brute force, known answers, budgets and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import linkage
from torch import nn

from xai_patchshap import OwenBPT, PatchMasker


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


class Counting:
    """Counts the rows that a function sees."""

    def __init__(self, function):
        self.function, self.rows = function, 0

    def __call__(self, x):
        self.rows += len(x)
        return self.function(x)


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


def ward(height, width):
    return linkage(np.indices((height, width)).reshape(2, -1).T, "ward")


def chain(n):
    return [[0, 1, 1.0, 2], *([n + k, 2 + k, 2.0 + k, 3 + k] for k in range(n - 2))]


HIERARCHIES = {
    "bpt": lambda h, w: "bpt",
    "axis": lambda h, w: "axis",
    "linkage": ward,
    "rows of a linkage": lambda h, w: chain(h * w),
    "both": lambda h, w: ["bpt", "axis"],
    "mixed": lambda h, w: ("axis", ward(h, w), np.array(chain(h * w))[:, :2]),
    "linkages": lambda h, w: [ward(h, w), chain(h * w)],
}


# ----- the right numbers ----------------------------------------------------------------


@pytest.mark.pairwise
@pytest.mark.parametrize("size", [(3, 3), (2, 4)], ids=["3x3", "2x4"])
@pytest.mark.parametrize("name", HIERARCHIES)
@pytest.mark.parametrize("n_trees", [1, 2])
def test_both_faces_give_the_average_over_all_orders(size, name, n_trees, brute_owen):
    model, x = Net(), photos(2, 3, *size)
    explainer = OwenBPT(
        model, PatchMasker(background=0.3), hierarchy=HIERARCHIES[name](*size), n_trees=n_trees
    )
    budget = 6 * 2**9
    values = explainer(x, max_evals=budget, batch_size=64, silent=True).values
    assert values.shape == (2, *size, 3, 6)
    assert all(e.exact for e in explainer.last_run.estimates)
    n_grown = {"both": 2, "mixed": 1, "bpt": 1, "axis": 1}.get(name, 0)
    n_given = {"mixed": 2, "linkage": 1, "rows of a linkage": 1, "linkages": 2}.get(name, 0)
    expected = []
    for i, trees in enumerate(explainer.trees):
        # Variations that come out alike count once.
        assert len({t.children.tobytes() for t in trees}) == len(trees)
        assert n_grown + n_given <= len(trees) <= n_trees * n_grown + n_given
        table = table_of(model, x[i], pixels(*size), 0.3)
        expected.append(np.mean([brute_owen(t.children, table) for t in trees], axis=0))
    expected = np.reshape(expected, (2, *size, 6))
    np.testing.assert_allclose(values.sum(3), expected, atol=1e-10)
    np.testing.assert_allclose(values, np.repeat(values[:, :, :, :1], 3, axis=3), atol=1e-15)
    for k in (0, 5):
        attributions = explainer.attribute(x, target=k, n_samples=budget, perturbations_per_eval=32)
        spread = np.broadcast_to(expected[:, None, ..., k], x.shape)
        np.testing.assert_allclose(attributions, spread, atol=1e-10)
        players = explainer.attribute(
            x, target=k, n_samples=budget, perturbations_per_eval=32, return_input_shape=False
        )
        np.testing.assert_allclose(players, expected[..., k].reshape(2, -1), atol=1e-10)


@pytest.mark.parametrize("budget", [*range(2, 24), 31, 50])
@pytest.mark.parametrize("kind", ["bpt", "axis"])
def test_values_add_up_at_every_budget_and_both_faces_agree(budget, kind):
    model, x = Net(), photos(2, 3, 5, 7)
    explainer = OwenBPT(model, 0.2, hierarchy=kind)
    with torch.no_grad():
        full, base = model(x).numpy(), model(torch.full_like(x, 0.2)).numpy()
    explanation = explainer(x, max_evals=budget, silent=True)
    np.testing.assert_allclose(explanation.base_values, base, atol=1e-12)
    np.testing.assert_allclose(explanation.values.sum((1, 2, 3)), full - base, atol=1e-12)
    assert (explainer.last_run.evaluations <= budget).all()
    assert (explainer.last_run.evaluations >= budget - 1).all()
    for k in (1, 4):
        attributions, delta = explainer.attribute(
            x, target=k, n_samples=budget, return_convergence_delta=True
        )
        assert (explainer.last_run.evaluations <= budget).all()
        spread = explanation.values[..., k].sum(3)[:, None]
        np.testing.assert_allclose(attributions, np.broadcast_to(spread, x.shape), atol=1e-12)
        assert delta.abs().max() < 1e-12
    start = torch.full_like(x, 0.2)
    gap = explainer.compute_convergence_delta(attributions, start, x, target=4)
    assert gap.abs().max() < 1e-12


ROW, COL = 21, 6


def one_pixel(x):
    return x[:, :, ROW % x.shape[2], COL % x.shape[3]].sum(1)


@pytest.mark.parametrize("kind", ["bpt", "axis"])
@pytest.mark.parametrize("background", [0.0, "mean", "blur", [0.0, "mean"]])
def test_a_model_of_one_pixel_gives_everything_to_that_pixel(kind, background):
    x = photos(2)
    explainer = OwenBPT(one_pixel, PatchMasker(background=background), hierarchy=kind)
    explanation = explainer(x, max_evals=4096, silent=True)
    assert all(e.exact for e in explainer.last_run.estimates)
    expected = np.zeros((2, 3, 3))
    expected[:, ROW % 3, COL % 3] = one_pixel(x).numpy() - explanation.base_values
    np.testing.assert_allclose(explanation.values.sum(3), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "budget", "most"),
    [("axis", 5, 512), ("axis", 60, 64), ("axis", 200, 16), ("bpt", 5, 1023), ("bpt", 200, 512)],
)
def test_a_model_of_one_pixel_finds_the_region_that_holds_it(kind, budget, most):
    x = photos(1, 3, 32, 32)
    explainer = OwenBPT(one_pixel, hierarchy=kind, n_trees=1)
    values = explainer(x, max_evals=budget, silent=True).values[0].sum(-1)
    (tree,) = explainer.trees[0]
    touched = np.flatnonzero(values)
    assert ROW * 32 + COL in touched
    assert len(touched) <= most
    # They are a node of the tree, and no other pixel has any.
    assert any(
        np.array_equal(np.sort(tree.members(node)), touched) for node in range(2 * tree.n - 1)
    )
    assert values.sum() == pytest.approx(float(one_pixel(x)))


# ----- what does not matter --------------------------------------------------------------


def explained(x, masker=None, batch_size=16, outputs=None, budget=200, model=None, **options):
    explainer = OwenBPT(model or Net(), masker, **options)
    return explainer(x, max_evals=budget, batch_size=batch_size, outputs=outputs, silent=True)


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("background", [0.0, "mean", "blur:1", [0.0, "mean", 0.7]])
@pytest.mark.parametrize("hierarchy", ["bpt", "axis"])
def test_batches_and_outputs_do_not_matter(background, hierarchy):
    x, masker = photos(3, 3, 6, 5), PatchMasker(background=background)
    options = {"hierarchy": hierarchy, "n_trees": 2}
    first = explained(x, masker, **options).values
    for batch_size in (1, 7, 64):
        again = explained(x, masker, batch_size, **options).values
        np.testing.assert_allclose(again, first, atol=1e-12)
    some = explained(x, masker, outputs=[4, 1], **options).values
    np.testing.assert_allclose(some, first[..., [4, 1]], atol=1e-12)
    one = explained(x, masker, outputs=[[2], [0], [5]], **options).values
    own = np.stack([first[0, ..., 2], first[1, ..., 0], first[2, ..., 5]])[..., None]
    np.testing.assert_allclose(one, own, atol=1e-12)
    for i in range(3):
        alone = explained(x[i : i + 1], masker, **options).values
        np.testing.assert_allclose(alone[0], first[i], atol=1e-12)
    explainer = OwenBPT(Net(), masker, **options)
    for per_eval in (1, 7, 64):
        attributions = explainer.attribute(
            x, target=[2, 0, 5], n_samples=200, perturbations_per_eval=per_eval
        )
        expected = own.sum((3, 4))[:, None]
        np.testing.assert_allclose(attributions, np.broadcast_to(expected, x.shape), atol=1e-12)
    alone = explainer.attribute(x[1:2], target=0, n_samples=200)
    np.testing.assert_allclose(alone, attributions[1:2], atol=1e-12)


@pytest.mark.parametrize("budget", [4, 5, 20, 100, 101])
def test_a_set_of_backgrounds_is_averaged_within_the_budget(budget, brute_owen):
    model, x = Net(), photos(2)
    backgrounds = [0.0, "mean", (0.9, 0.1, 0.4)]
    explainer = OwenBPT(Counting(model), PatchMasker(background=backgrounds), n_trees=1)
    explainer(x, max_evals=budget, silent=True)
    evaluations = explainer.last_run.evaluations
    assert evaluations.sum() == explainer.model.rows
    # A full image, then three rows for each coalition, and coalitions come in pairs.
    coalitions = 1 + (budget - 1) // 3
    assert (evaluations == 1 + 3 * (coalitions - coalitions % 2 - 1)).all()
    explainer.attribute(x, target=0, n_samples=budget)
    assert (explainer.last_run.evaluations == evaluations).all()
    exact = explainer(x, max_evals=1 + 3 * 511, silent=True).values.sum(3).reshape(2, 9, 6)
    for i in range(2):
        means = x[i].mean((1, 2), keepdim=True)
        colour = torch.tensor(backgrounds[2], dtype=torch.double)[:, None, None]
        tables = [table_of(model, x[i], pixels(3, 3), b) for b in (torch.zeros(1), means, colour)]
        expected = brute_owen(explainer.trees[i][0].children, np.mean(tables, axis=0))
        np.testing.assert_allclose(exact[i], expected, atol=1e-10)


def test_guides_are_the_largest_outputs_of_each_image():
    x = photos(2, 3, 8, 8)
    seen = {}

    class Recorder(OwenBPT):
        def _guide_columns(self, full):
            seen["columns"] = super()._guide_columns(full)
            return seen["columns"]

    explainer = Recorder(Net(), n_guides=2)
    explainer(x, max_evals=30, silent=True)
    with torch.no_grad():
        expected = np.argsort(-Net()(x).numpy(), axis=1)[:, :2]
    np.testing.assert_array_equal(seen["columns"], expected)
    # They decide what is refined.
    values = [explained(x, n_guides=g, budget=60).values for g in (1, 2, 6)]
    assert np.abs(values[0] - values[1]).max() > 1e-9
    # More than there are is all there are.
    np.testing.assert_array_equal(explained(x, n_guides=600, budget=60).values, values[2])


def test_outputs_of_any_form_guide():
    x, model = photos(2, 3, 6, 6), Net(3, 6)
    flat = OwenBPT(model).attribute(x, target=4, n_samples=90)
    folded = OwenBPT(lambda t: model(t).reshape(-1, 2, 3))
    attributions = folded.attribute(x, target=(1, 1), n_samples=90)
    np.testing.assert_allclose(attributions, flat, atol=1e-12)


def test_targets_of_every_kind():
    x, model = photos(3, 3, 4, 4), Net()
    explainer = OwenBPT(model)
    per_class = [explainer.attribute(x, target=k, n_samples=60) for k in range(6)]
    assert (per_class[0] - per_class[1]).abs().max() > 1e-6
    mixed = torch.stack([per_class[2][0], per_class[5][1], per_class[2][2]])
    for target, expected in (
        (2, per_class[2]),
        (torch.tensor(2), per_class[2]),
        (torch.tensor([2]), per_class[2]),
        ([2, 5, 2], mixed),
        (torch.tensor([2, 5, 2]), mixed),
    ):
        attributions = explainer.attribute(x, target=target, n_samples=60)
        np.testing.assert_allclose(attributions, expected, atol=1e-12)
    folded = OwenBPT(lambda t: model(t).reshape(-1, 2, 3))
    for target, expected in (
        ((0, 2), per_class[2]),
        ([(0, 2), (1, 2), (0, 2)], mixed),
    ):
        attributions = folded.attribute(x, target=target, n_samples=60)
        np.testing.assert_allclose(attributions, expected, atol=1e-12)
    # A model with one output and no target guides itself.
    single = OwenBPT(lambda t: model(t)[:, 2], n_trees=1)
    attributions = single.attribute(x, n_samples=10**4)
    exact = OwenBPT(model, n_trees=1).attribute(x, target=2, n_samples=10**4)
    assert all(e.exact for e in single.last_run.estimates)
    np.testing.assert_allclose(attributions, exact, atol=1e-10)
