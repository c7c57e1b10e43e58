"""InteractionShap: known interactions, both faces, and what it refuses."""

from __future__ import annotations

import inspect
import io
import itertools
import math
import random

import numpy as np
import pytest
import shap
import timm
import torch
from captum.attr import Attribution, KernelShap, NoiseTunnel, PerturbationAttribution, ShapleyValues
from captum.testing.helpers.basic_models import (
    BasicModel_MultiLayer,
    BasicModel_MultiLayer_MultiInput,
)
from torch import nn

from xai_patchshap import InteractionShap, PatchKernelShap, PatchMasker, PatchShapError

INDEX = ["SII", "k-SII", "STII", "FSII", "FBII", "BII"]
ESTIMATORS = ["gaussian-process", "regression"]
TOP2 = shap.Explanation.argsort.flip[:2]
NINE = PatchMasker((3, 3))
ALL = 512  # coalitions of nine players


def cells(x, rows=3):
    """Means (N, rows**2) of the cells of images, channels first."""
    size = x.shape[-1] // rows
    return x.mean(1).reshape(len(x), rows, size, rows, size).mean((2, 4)).flatten(1)


def product(members, rows=3):
    return lambda x: cells(x, rows)[:, members].prod(1)


class Net(nn.Module):
    """Scores with interactions between all of 3x3 patches; one number per image for 0."""

    def __init__(self, outputs=4, rows=3):
        super().__init__()
        self.rows, self.scalar = rows, outputs == 0
        self.layers = nn.Sequential(nn.Linear(rows**2, 5), nn.Tanh(), nn.Linear(5, outputs or 1))
        self.double().requires_grad_(False)

    def forward(self, x):
        scores = self.layers(3 * cells(x.double(), self.rows))
        return scores[:, 0] if self.scalar else scores


class Counted:
    """Counts the rows that a function sees, and may be interrupted."""

    def __init__(self, function, breaks_at=None):
        self.function, self.rows, self.calls, self.breaks_at = function, 0, 0, breaks_at

    def __call__(self, x):
        self.calls += 1
        if self.calls == self.breaks_at:
            raise KeyboardInterrupt
        self.rows += len(x)
        return self.function(x)


def photos(n=2, size=12):
    generator = torch.Generator().manual_seed(0)
    return 0.2 + torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64)


def close(actual, expected, atol=1e-9):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), atol=atol, rtol=0)


def every_order(model, x, players=(3, 3), max_evals=ALL, **kwargs):
    explainer = InteractionShap(model, PatchMasker(players), **kwargs)
    return explainer.explain_interactions(x, max_evals=max_evals, batch_size=8192, silent=True)


# ----- known interactions -----------------------------------------------------------------


@pytest.mark.parametrize("rows", [3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("index", INDEX)
def test_a_product_of_two_patches_is_exactly_that_pair(index, rows):
    x, n = photos(1, rows), rows**2
    i, j = 1, n - 3
    (found,) = every_order(product([i, j], rows), x, (rows, rows), 2**n, index=index)
    pairs = np.zeros((n, n))
    pairs[i, j] = pairs[j, i] = worth = float(product([i, j], rows)(x))
    assert found.exact
    assert not any(e.any() for e in found.error_std)
    close(found.values[1][:, 0], pairs[tuple(found.subsets(2).T)])
    alone = worth / 2 if index in ("SII", "BII") else 0
    close(found.values[0][:, 0], [alone * (k in (i, j)) for k in range(n)])
    close(found.matrix()[..., 0], pairs / 2)


# A product of three, explained by pairs at most: the share of one of them, and of a pair.
SHARES = [(1 / 3, 1 / 2), (-1 / 6, 1 / 2), (0, 1 / 3), (-1 / 6, 1 / 2), (-1 / 4, 1 / 2)]
OF_THREE = dict(zip(INDEX, [*SHARES, (1 / 4, 1 / 2)], strict=True))


@pytest.mark.parametrize("index", INDEX)
def test_a_product_of_three_patches_at_orders_2_and_3(index):
    members, x = (0, 4, 5), photos(1)
    model = product(members)
    worth = float(model(x))
    (two,) = every_order(model, x, index=index)
    (three,) = every_order(model, x, index=index, order=3)
    for s, share in enumerate(OF_THREE[index], start=1):
        for players in itertools.combinations(range(9), s):
            close(two[players], [share * worth * set(players).issubset(members)])
    [(strongest, value), (_, second)] = three.top(2, order=3)
    assert strongest == members
    close([value, second], [worth, 0])
    close(three[0, 4], [worth / 2 if index in ("SII", "BII") else 0])


@pytest.mark.parametrize(
    "index",
    [i if i in ("SII", "FBII") else pytest.param(i, marks=pytest.mark.slow) for i in INDEX],
)
def test_of_7x7_patches_a_sample_shows_the_pair(index):
    x, budget = photos(1, 28), 2000 if index == "SII" else 1000
    slope, both = torch.linspace(-0.3, 0.3, 49, dtype=torch.float64), product([8, 30], 7)
    model = lambda x: both(x) + cells(x, 7) @ slope  # noqa: E731
    (found,) = every_order(model, x, (7, 7), budget, index=index)
    [(strongest, value), (_, second)] = found.top(2, order=2)
    assert strongest == (8, 30)
    assert value == pytest.approx(float(both(x)), rel=0.01)
    assert abs(second) < 0.01 * value
    assert (found.exact, found.n_coalitions) == (False, budget)
    assert all((e > 0).all() and np.isfinite(e).all() for e in found.error_std)


def test_sampled_triples_and_the_published_regression():
    x = photos(1, 16)
    (found,) = every_order(product([2, 7, 8], 4), x, (4, 4), 600, order=3)
    [(strongest, value), (_, second)] = found.top(2, order=3)
    assert strongest == (2, 7, 8)
    assert abs(second) < 0.1 * value
    for index in ("SII", "k-SII", "FSII", "FBII"):
        model, options = product([3, 9], 4), {"index": index, "estimator": "regression"}
        (found,) = every_order(model, x, (4, 4), 1000, **options)
        [(strongest, value), (_, second)] = found.top(2, order=2)
        assert strongest == (3, 9)
        assert abs(second) < 0.3 * value


# ----- Captum -----------------------------------------------------------------------------


def test_it_is_both():
    explainer = InteractionShap(Net())
    for kind in (Attribution, PerturbationAttribution, shap.Explainer):
        assert isinstance(explainer, kind)
    assert explainer.get_name() == "Interaction Shap"
    own = [(p.name, p.default) for p in inspect.signature(explainer.attribute).parameters.values()]
    theirs = inspect.signature(KernelShap(Net()).attribute).parameters.values()
    theirs = [(p.name, p.default) for p in theirs if p.kind != p.VAR_KEYWORD]
    assert own == [*theirs, ("return_convergence_delta", False), ("return_interactions", False)]


def test_attributions_are_the_shapley_values_or_what_pairs_leave_of_them():
    model, x = Net(), photos()
    kwargs = {"target": [1, 3], "n_samples": ALL, "perturbations_per_eval": 64}
    shapley = PatchKernelShap(model, NINE).attribute(x, **kwargs)
    close(InteractionShap(model, NINE).attribute(x, **kwargs), shapley)
    kwargs |= {"return_interactions": True, "return_input_shape": False}
    effects, pairs = InteractionShap(model, NINE, index="k-SII").attribute(x, **kwargs)
    halves = pairs.sum(2) - pairs.diagonal(dim1=1, dim2=2)
    assert halves.abs().min() > 1e-4
    close(effects + halves, shapley[:, 0, ::4, ::4].flatten(1))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("index", ["SII", "k-SII", "STII", "FSII"])
@pytest.mark.parametrize("n_samples", [2, 11, 60, ALL])
def test_delta_is_zero(index, estimator, n_samples):
    if (index, estimator) == ("STII", "regression"):
        return
    model, x = Net(rows=4), photos()
    explainer = InteractionShap(model, NINE, index=index, estimator=estimator)
    kwargs = {"n_samples": n_samples, "perturbations_per_eval": 64}
    values, delta = explainer.attribute(x, target=2, return_convergence_delta=True, **kwargs)
    assert values.shape == x.shape
    assert delta.shape == (2,)
    assert delta.abs().max() < 1e-6


def test_compute_convergence_delta_only_where_order_1_adds_up():
    model, x = Net(), photos()
    for index, order in (("SII", 2), ("SII", 3), ("SV", 1), ("k-SII", 1), ("FSII", 1)):
        explainer = InteractionShap(model, NINE, index=index, order=order)
        values = explainer.attribute(x, target=0, n_samples=ALL, perturbations_per_eval=64)
        assert explainer.compute_convergence_delta(values, 0, x, target=0).abs().max() < 1e-6
        assert explainer.compute_convergence_delta(values, 0, x, target=1).abs().max() > 1e-4
    for index, order in (("k-SII", 2), ("STII", 2), ("FSII", 2), ("BII", 2), ("BV", 1)):
        explainer = InteractionShap(model, NINE, index=index, order=order)
        message = rf"got index '{index}' of order {order}; .* attribute\(\.\.\., return_conv"
        with pytest.raises(PatchShapError, match=message):
            explainer.compute_convergence_delta(values, 0, x, target=0)


def test_tuple_in_tuple_out():
    inputs, model = tuple(torch.randn(3, 2, 3) * 5), BasicModel_MultiLayer_MultiInput()
    masks = tuple(torch.tensor([[[0, 1, 0]], [[1, 2, 2]], [[3, 3, 4]]]))
    kwargs = {"target": 1, "additional_forward_args": 2, "feature_mask": masks, "n_samples": 32}
    values, pairs = InteractionShap(model).attribute(inputs, return_interactions=True, **kwargs)
    assert isinstance(values, tuple)
    for v, e in zip(values, PatchKernelShap(model).attribute(inputs, **kwargs), strict=True):
        close(v, e, 1e-4)
    assert pairs.shape == (2, 5, 5)


def test_feature_masks_that_may_lack_ids():
    weight, x = torch.randn(4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    explainer = InteractionShap(lambda x: torch.tanh(x @ weight))
    mask = torch.tensor([[0, 1, 2, 3], [3, 3, 0, 0], [2, 0, 1, 2]])
    kwargs = {"n_samples": 16, "return_interactions": True, "return_input_shape": False}
    table, pairs = explainer.attribute(x, feature_mask=mask, **kwargs)
    assert table.shape == (3, 4)
    for i, ids in enumerate(([0, 1, 2, 3], [0, 3], [0, 1, 2])):
        own = torch.unique(mask[i], return_inverse=True)[1][None]
        values, alone = explainer.attribute(x[i : i + 1], feature_mask=own, **kwargs)
        single, every = np.zeros(4), np.zeros((4, 4))
        single[ids], every[np.ix_(ids, ids)] = values[0], alone[0]
        close(table[i], single)
        close(pairs[i], every)
    close(explainer.attribute(x, feature_mask=mask, n_samples=16), table.gather(1, mask))
    shared, both = explainer.attribute(x, feature_mask=mask[1] // 3, **kwargs)
    assert (shared.shape, both.shape) == ((3, 2), (3, 2, 2))
    close(both[1], pairs[1][[0, 3]][:, [0, 3]])


TARGETS = [1, (1,), torch.tensor(1), torch.tensor([1])]
TARGETS += [torch.tensor([1, 0, 2]), [1, 0, 2], [(1,), (0,), (2,)]]


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("n_samples", [60, ALL])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_targets_single_runs_and_perturbations_per_eval(target, n_samples):
    explainer, x = InteractionShap(Net(), NINE), photos(3)
    kwargs = {"n_samples": n_samples, "return_interactions": True}
    values, pairs = explainer.attribute(x, target=target, perturbations_per_eval=19, **kwargs)
    for i, k in enumerate(np.broadcast_to(np.ravel(target), 3).tolist()):
        for per_eval in (1, 1000):
            kwargs["perturbations_per_eval"] = per_eval
            alone, own = explainer.attribute(x[i : i + 1], target=k, **kwargs)
            close(values[i : i + 1], alone, 1e-6)
            close(pairs[i : i + 1], own, 1e-6)


@pytest.mark.parametrize("form", [torch.Tensor.item, lambda t: t, lambda t: t.reshape(1)])
def test_one_scalar_per_batch(form):
    weight, x = torch.randn(4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    kwargs = {"n_samples": 16, "return_convergence_delta": True, "return_interactions": True}
    rows, _, each = InteractionShap(lambda x: torch.tanh(x @ weight)).attribute(x, **kwargs)
    explainer = InteractionShap(lambda x: form(torch.tanh(x @ weight).sum()))
    values, delta, pairs = explainer.attribute(x, **kwargs)
    assert delta.shape == (1,)
    assert delta.abs().max() < 1e-6
    close(values, rows.sum(0, keepdim=True), 1e-6)
    close(pairs, each.sum(0, keepdim=True), 1e-6)


@pytest.mark.parametrize("index", ["SII", "k-SII"])
def test_noise_tunnel(index):
    net, results = BasicModel_MultiLayer().double(), []
    x = torch.tensor([[2.0, 10.0, 3.0], [20.0, 50.0, 30.0]], dtype=torch.float64)
    kwargs = {"target": [0, 1], "nt_samples": 4, "stdevs": 2.0}
    explainer = InteractionShap(net, index=index)
    for method in (explainer, ShapleyValues(net)):
        torch.manual_seed(5)
        results.append(NoiseTunnel(method).attribute(x, **kwargs))
    assert torch.allclose(*(r.float() for r in results)) == (index == "SII")
    _, delta = NoiseTunnel(explainer).attribute(x, return_convergence_delta=True, **kwargs)
    assert delta.abs().max() < 1e-4


# ----- shap -------------------------------------------------------------------------------


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("outputs", [0, 1, 4])
@pytest.mark.parametrize("budget", [60, ALL])
def test_both_faces_give_the_same_explanation(outputs, budget):
    model, x = Net(outputs), photos()
    names, k = [f"class {i}" for i in range(outputs)] or None, (outputs,) if outputs else ()
    explainer = InteractionShap(model, NINE, output_names=names)
    kwargs = {"max_evals": budget, "silent": True}
    found = explainer(x, error_bounds=True, **kwargs)
    assert found.values.shape == found.error_std.shape == (2, 9, 9, *k)
    assert (found.error_std == 0).all() if budget == ALL else (found.error_std > 0).all()
    assert explainer(x, **kwargs).error_std is None
    assert (found.feature_names[5], found.output_names) == ("row 1, column 2", names)
    close(found.values, np.swapaxes(found.values, 1, 2), 0)
    close(found.data, cells(x))
    close(found.base_values, model(0 * x))
    close(found.values.sum((1, 2)), model(x) - found.base_values)
    players = explainer.explain_players(x, **kwargs)
    close(found.values.sum(2), players.values)
    if budget == ALL:
        shapley = PatchKernelShap(model, NINE).explain_players(x, **kwargs)
        close(players.values, shapley.values)
    spread = explainer.shap_values(x, **kwargs)
    assert spread.shape == (*x.shape, *k)
    close(48 * spread[:, 0, ::4, ::4].reshape(2, 9, *k), players.values)
    close(explainer.shap_interaction_values(x, max_evals=budget), found.values, 0)
    array = x.permute(0, 2, 3, 1).numpy()
    close(explainer(array, batch_size=7, **kwargs).values, found.values, 1e-6)
    if outputs:
        one = found[0, :, :, 0]
        close(one.values, found.values[0, ..., 0], 0)
        assert (one.data.shape, one.error_std.shape) == ((9,), (9, 9))
        assert one.output_names == "class 0"
    last = found.values[..., -1] if outputs else found.values
    kwargs = {"target": outputs - 1 if outputs else None, "n_samples": budget}
    for images in (x, x.float()):
        values, pairs = explainer.attribute(images, return_interactions=True, **kwargs)
        assert (pairs.dtype, pairs.device) == (torch.float64, x.device)
        assert (values.dtype, values.shape) == (images.dtype, x.shape)
        assert torch.equal(pairs, pairs.mT)
        close(pairs, last, 1e-6 if images is x else 1e-5)


OUTPUTS = [2, -1, [3, 0], np.array([[1, 3], [0, 2], [2, 2]]), TOP2]


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("outputs", OUTPUTS, ids=["int", "negative", "list", "array", "OpChain"])
def test_an_output_does_not_depend_on_which_others_are_explained(outputs, estimator):
    model, x = Net(), photos(3)
    explainer = InteractionShap(model, NINE, estimator=estimator)
    kwargs = {"max_evals": 60, "silent": True, "error_bounds": True}
    every, some = explainer(x, **kwargs), explainer(x, outputs=outputs, **kwargs)
    ranked = np.argsort(-model(x).numpy())[:, :2]
    chosen = ranked if outputs is TOP2 else np.atleast_1d(outputs) % 4 * np.ones((3, 1), int)
    names = np.broadcast_to(some.output_names, chosen.shape)
    for i, columns in enumerate(chosen):
        close(some.values[i], every.values[i][..., columns])
        close(some.error_std[i], every.error_std[i][..., columns])
        close(some.base_values[i], every.base_values[i][columns])
        assert names[i].tolist() == [f"Output {k}" for k in columns]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("max_evals", [2, 3, 10, 100])
def test_max_evals_is_never_exceeded(max_evals, estimator):
    for n_backgrounds in range(1, min(max_evals, 3)):
        masker = PatchMasker((4, 4), [0.0, "mean"][:n_backgrounds])
        counted, x = Counted(Net(rows=4)), photos(1, 16)
        explainer = InteractionShap(counted, masker, estimator=estimator)
        found = explainer(x, max_evals=max_evals, silent=True, error_bounds=True)
        assert max_evals - 3 * n_backgrounds < counted.rows <= max_evals
        assert explainer.last_run.evaluations.tolist() == [counted.rows]
        close(found.values.sum((1, 2)) + found.base_values, counted.function(x))
        assert not np.isnan(found.error_std).any()


@pytest.mark.parametrize("as_function", [True, False])
def test_players_whose_number_differs(as_function):
    def parts(image):
        n = 2 if image.mean() < 0.5 else 3
        return np.arange(12)[:, None].repeat(12, 1) * n // 12

    x = torch.stack([torch.full((3, 12, 12), v, dtype=torch.float64) for v in (0.25, 0.75)])
    players = parts if as_function else np.stack([parts(i) for i in x.numpy()])
    explainer = InteractionShap(model := Net(), PatchMasker(players))
    found = explainer(x, silent=True, error_bounds=True)
    for packed in (found.values, found.error_std):
        assert [v.shape for v in packed] == [(2, 2, 4), (3, 3, 4)]
    assert [len(names) for names in found.feature_names] == [2, 3]
    close(found.data[1], [0.75] * 3)
    for i, values in enumerate(found.values):
        own = InteractionShap(model, PatchMasker(parts(x[i].numpy())))
        close(values, own(x[i : i + 1], silent=True).values[0])
    assert [f.n_players for f in explainer.explain_interactions(x, silent=True)] == [2, 3]


def test_link_and_autocast():
    net, x, kwargs = Net(), photos(), {"max_evals": 60, "silent": True}
    by_link = InteractionShap(lambda x: torch.sigmoid(net(x)), NINE, link=shap.links.logit)(
        x, **kwargs
    )
    close(by_link.values, InteractionShap(net, NINE)(x, **kwargs).values, 1e-6)
    close(by_link.base_values + by_link.values.sum((1, 2)), net(x), 1e-6)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.Tanh(), nn.Linear(8, 2))
    plain, half = (
        InteractionShap(net, NINE, autocast=a)(x.float(), max_evals=ALL, silent=True).values
        for a in (None, torch.bfloat16)
    )
    assert 1e-7 < np.abs(plain - half).max() < 0.1


def test_explain_interactions_of_every_order():
    model, x = Net(), photos(3)
    shapley = PatchKernelShap(model, NINE).explain_players(x, max_evals=ALL, silent=True).values
    for index, order in (("SII", 1), ("SII", 2), ("SII", 3), ("SV", 1)):
        for f, values in zip(every_order(model, x, index=index, order=order), shapley, strict=True):
            assert (f.index, f.order, f.n_players, f.n_outputs) == (index, order, 9, 4)
            assert [len(v) for v in f.values] == [math.comb(9, s + 1) for s in range(order)]
            close(f.values[0], values)
    (banzhaf,) = every_order(product([0, 1, 2]), x[:1], index="BV", order=1)
    worth = float(product([0, 1, 2])(x[:1]))
    close(banzhaf.matrix()[..., 0], np.diag([worth / 4] * 3 + [0] * 6))


def test_dropped_tokens_by_hand():
    vit = timm.create_model("test_vit", img_size=48, num_classes=3).eval()
    for p in (vit.head.weight, vit.pos_embed):
        nn.init.normal_(p, std=0.5)
    x, shown = torch.rand(1, 3, 48, 48), (torch.arange(512)[:, None] >> torch.arange(9) & 1).bool()
    keys = torch.cat([torch.ones(512, 1, dtype=torch.bool), shown], 1)
    with torch.no_grad():
        tokens = vit.forward_features(x.expand(512, -1, -1, -1), attn_mask=keys[:, None, None])
        v = vit.forward_head(tokens).double().numpy()
    explainer = InteractionShap(vit, PatchMasker(background="drop"))
    (found,) = explainer.explain_interactions(x, max_evals=ALL, batch_size=64, silent=True)
    assert found.n_players == 9
    assert np.abs(found.values[1]).max() > 1e-3
    for players in [*itertools.combinations(range(9), 1), *itertools.combinations(range(9), 2)]:
        rest, m = np.flatnonzero(~shown[:, players].any(1)), 9 - len(players)
        weight = [1 / ((m + 1) * math.comb(m, int(shown[r].sum()))) for r in rest]
        expected = 0.0
        for size in range(len(players) + 1):
            for part in itertools.combinations(players, size):
                with_part = v[rest + sum(2**p for p in part)]
                expected = expected + (-1) ** (len(players) - size) * (weight @ with_part)
        close(found[players], expected, 1e-5)


# ----- files, seeds, Ctrl-C ---------------------------------------------------------------


OPTIONS = {"index": "FSII", "order": 3, "estimator": "regression", "sampling": "leverage"}


@pytest.mark.parametrize("options", [{**OPTIONS, "seed": 7}, {}])
def test_save_and_load(options, capsys):
    explainer = InteractionShap(Net(), NINE, output_names=list("abcd"), **options)
    stream = io.BytesIO()
    explainer.save(stream)
    stream.seek(0)
    loaded = InteractionShap.load(stream)
    defaults = {"index": "SII", "order": 2, "estimator": "auto", "sampling": None, "seed": 0}
    for name, value in {**defaults, **options}.items():
        assert getattr(loaded, name) == value
    before, after = (e(photos(), max_evals=60, silent=True) for e in (explainer, loaded))
    assert np.array_equal(before.values, after.values)
    assert after.output_names == list("abcd")


def states():
    legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return torch.get_rng_state().tolist(), legacy["key"].tolist(), legacy["pos"], random.getstate()


@pytest.mark.parametrize("sampling", [None, "modified_l2", "leverage", "kernel"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_seeds(estimator, sampling):
    model, x, before = Net(0), photos(1), states()
    options = {"estimator": estimator, "sampling": sampling}
    a, b, c, d, e = (
        InteractionShap(model, NINE, seed=seed, **options)(x, max_evals=60, silent=True).values
        for seed in (1, 1, 2, None, None)
    )
    assert states() == before
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert not np.array_equal(d, e)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("breaks_at", [3, 4, 10])
def test_interrupted(breaks_at, estimator):
    model, x = Net(), photos()
    kwargs = {"n_samples": 300, "perturbations_per_eval": 8, "return_interactions": True}
    faces = [
        lambda explainer: explainer.attribute(x, target=1, **kwargs)[1].numpy(),
        lambda explainer: explainer(x, batch_size=16, silent=True).values[..., 1],
    ]
    for face in faces:
        counted = Counted(model, breaks_at)
        explainer = InteractionShap(counted, NINE, estimator=estimator)
        with pytest.warns(RuntimeWarning, match="Interrupted after"):
            matrices = face(explainer)
        assert explainer.last_run.interrupted
        assert explainer.last_run.evaluations.sum() == counted.rows
        for i, spent in enumerate(explainer.last_run.evaluations):  # as of a smaller budget
            if estimator == "gaussian-process" and spent < 26:
                continue  # designs so short are others; see DesignedPairs
            small = InteractionShap(model, NINE, estimator=estimator)
            values = small(x[i : i + 1], max_evals=int(spent), outputs=1, silent=True).values
            close(matrices[i], values[0, ..., 0], 1e-6)
    with pytest.raises(KeyboardInterrupt):  # before anything is known
        InteractionShap(Counted(model, breaks_at=2), NINE)(x, silent=True)


def test_the_warning_points_to_the_caller():
    for method in (PatchKernelShap, InteractionShap):
        explainer = method(Counted(Net(0), 9), NINE)
        with pytest.warns(RuntimeWarning, match="Interrupted after") as record:
            explainer.attribute(photos(), n_samples=300)
        assert [w.filename for w in record] == [__file__], method


# ----- what is refused --------------------------------------------------------------------


FITS = {"masker": NINE}
MANY = r"got 4096, with 8,386,560 interactions of order 2; .* Choose fewer players, as with"
LACKS = r"got 'STII' of order 2; .* estimator='gaussian-process' takes every index"
REFUSED = [
    ({"index": "SHAP"}, {}, r"index: got 'SHAP'; expected one of 'SV', 'BV', 'SII'"),
    ({"estimator": "best"}, {}, "estimator: got 'best'; expected 'auto' or one of"),
    ({"sampling": "uniform"}, {}, r"sampling: got 'uniform'; expected one of .*, or None"),
    ({"order": 0}, {}, "order: got 0; expected a whole number of at least 1"),
    ({"order": 1.5}, {}, r"order: got 1\.5"),
    ({"index": "SV"}, {}, r"order: got 2; expected 1 for index 'SV'\. SII and BII are"),
    ({"seed": -1}, {}, "seed: got -1"),
    (FITS, {"max_evals": 1}, "max_evals: got 1; expected a whole number of at least 2"),
    (FITS, {"batch_size": 0}, "batch_size: got 0"),
    (FITS, {"main_effects": True}, r"got main_effects; expected only .* on the diagonal"),
    (FITS, {"nsamples": 100}, "got nsamples; expected only max_evals"),
    (FITS, {"outputs": 4}, "outputs: got indices from 4 to 4"),
    ({}, {"n_samples": 1}, "n_samples: got 1; expected a whole number of at least 2"),
    ({}, {"n_samples": 9, "feature_mask": torch.arange(4096).reshape(64, 64)}, MANY),
    ({"feature_names": ["a"]}, {}, "feature_names: got 1 names; expected 49"),
    ({"order": 3, "masker": PatchMasker((1, 2))}, {}, "order: got 3; expected at most 2, the num"),
    ({"masker": PatchMasker(1)}, {}, MANY),
    ({"index": "STII", "estimator": "regression"}, {}, LACKS),
    ({"order": 4, "estimator": "regression"}, {}, r"'SII' of order 4; .* up to order 2"),
]


@pytest.mark.parametrize(("options", "request_", "message"), REFUSED)
def test_what_is_refused(options, request_, message):
    def explain():
        explainer = InteractionShap(counted, **options)
        if "n_samples" in request_:
            return explainer.attribute(photos(1, 64), target=0, **request_)
        return explainer(photos(1, 64), silent=True, **request_)

    counted = Counted(lambda x: x.mean((1, 2, 3))[:, None] * torch.ones(4))
    with pytest.raises(PatchShapError, match=message):
        explain()
    assert counted.rows <= 1  # nothing is spent on what is refused
