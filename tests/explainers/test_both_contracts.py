"""Both contracts, held by all four classes: what Captum and shap ask of their own.

This is what :mod:`xai_patchshap.testing` does not check of every explainer, in test_testing. What
one class alone promises is in its own modules; test_captum_contract and test_shap_contract go
further with PatchKernelShap.
"""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import matplotlib.pyplot as plt
import numpy as np
import pytest
import shap
import timm
import torch
from captum.attr import KernelShap, NoiseTunnel
from torch import nn

from xai_patchshap import (
    InteractionShap,
    OwenBPT,
    PatchKernelShap,
    PatchMasker,
    PatchShapError,
    ViTShapleyAmortized,
)
from xai_patchshap.amortized import ShapleyViT
from xai_patchshap.explainers import shap_face

CLASSES = [PatchKernelShap, OwenBPT, InteractionShap, ViTShapleyAmortized]
SIDE, N, K = 12, 9, 4  # pixels, players, outputs
CELLS = (torch.arange(SIDE) // 4)[:, None] * 3 + torch.arange(SIDE) // 4  # ids 0..8
BUDGET = 40
TOP2 = shap.Explanation.argsort.flip[:2]


class Net(nn.Module):
    """Images to four scores with interactions between patches."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * N, K)

    def forward(self, x):
        x = nn.functional.avg_pool2d(torch.tanh(2 * self.conv(x)), 4)
        return self.head(self.drop(x.flatten(1)))


def tiny_network():
    """An explainer network of nine patches with random predictions."""
    options = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": K}
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=4, class_token=False,
        global_pool="avg", **options,
    ).eval()  # fmt: skip
    for p in vit.parameters():
        nn.init.normal_(p, std=0.3)
    network = ShapleyViT(vit, n_frozen=1)
    nn.init.normal_(network.head[2].weight, std=0.05)
    return network.eval()


class Case:
    """A class with a model of nine patches, two images and the game's two known values."""

    def __init__(self, kind):
        self.kind, self.amortized = kind, kind is ViTShapleyAmortized
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.x = torch.rand(2, 3, SIDE, SIDE)
            self.model = tiny_network() if self.amortized else Net().eval()
        # The surrogate of an amortized explainer does without hidden patches.
        self.background = "drop" if self.amortized else 0.5
        with torch.no_grad():
            if self.amortized:
                full, empty = self.model.whole_images(self.x), self.model.null
            else:
                full, empty = self.model(self.x), self.model(torch.full_like(self.x[:1], 0.5))
        self.full = full.double().numpy()
        self.gap = self.full - empty.double().numpy()

    def make(self, model=None, **options):
        masker = PatchMasker((3, 3), self.background)
        return self.kind(self.model if model is None else model, masker, **options)

    def attribute(self, explainer=None, x=None, target=1, **options):
        explainer = self.make() if explainer is None else explainer
        options = {"n_samples": BUDGET, "perturbations_per_eval": 16, **options}
        return explainer.attribute(self.x if x is None else x, target=target, **options)

    def players(self, explainer=None, x=None, **options):
        explainer = self.make() if explainer is None else explainer
        options = {"max_evals": BUDGET, "silent": True, **options}
        return explainer.explain_players(self.x if x is None else x, **options)

    def call(self, explainer=None, x=None, **options):
        explainer = self.make() if explainer is None else explainer
        options = {"max_evals": BUDGET, "silent": True, **options}
        return explainer(self.x if x is None else x, **options)

    def added_up(self, explanation):
        """Sum over what was explained, (N, K): pairs, pixels and channels, or players."""
        values = np.asarray(explanation.values)
        return values.reshape(len(values), -1, values.shape[-1]).sum(axis=1)


@pytest.fixture(params=CLASSES, ids=lambda kind: kind.__name__)
def case(request):
    return Case(request.param)


def close(actual, expected, atol=1e-5):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=0)


# ----- a member of both families -----------------------------------------------------------


def test_captum_knows_its_name_and_that_it_has_no_future(case):
    explainer = case.make()
    assert explainer.get_name().replace(" ", "") == case.kind.__name__
    with pytest.raises(NotImplementedError):
        explainer.attribute_future()


def test_attribute_has_captums_defaults(case):
    own = list(inspect.signature(case.kind.attribute).parameters.values())
    theirs = [
        p
        for p in inspect.signature(KernelShap.attribute).parameters.values()
        if p.kind != p.VAR_KEYWORD
    ]
    assert own[len(theirs)].name == "return_convergence_delta"
    # A prediction needs no budget, and its refinement is no slower in batches.
    differs = {"n_samples", "perturbations_per_eval"} if case.amortized else set()
    assert {a.name for a, b in zip(own, theirs, strict=False) if a.default != b.default} == differs


# ----- Captum ------------------------------------------------------------------------------


def test_the_convergence_delta_is_computed_afterwards_too(case):
    explainer, targets = case.make(), [0, 3]
    attributions = case.attribute(explainer, target=targets)
    start = None if case.amortized else 0.5
    again = explainer.compute_convergence_delta(attributions, start, case.x, target=targets)
    close(again, np.zeros(2))
    wrong = explainer.compute_convergence_delta(attributions, start, case.x, target=1)
    assert wrong.abs().min() > 1e-3


def test_a_noise_tunnel_averages(case):
    options = {"n_samples": BUDGET, "perturbations_per_eval": 16, "target": 1}
    torch.manual_seed(3)
    found = NoiseTunnel(case.make()).attribute(case.x, nt_samples=2, stdevs=0.05, **options)
    torch.manual_seed(3)
    copies = case.x.repeat_interleave(2, 0)
    copies = copies + torch.normal(0.0, torch.full(copies.shape, 0.05))
    single = torch.stack([case.attribute(x=copies[i::2]) for i in range(2)])
    assert (single[0] - single[1]).abs().max() > 1e-4
    close(found, single.mean(0))


def test_progress_goes_to_100_percent_or_nowhere(case, capsys):
    case.attribute(show_progress=True)
    shown = capsys.readouterr()
    assert f"{case.kind.get_name()} attribution: 100%" in shown.err
    assert not shown.out
    case.attribute()
    assert capsys.readouterr() == ("", "")


# ----- shap --------------------------------------------------------------------------------


def top2(scores):
    return np.argsort(-scores, axis=1)[:, :2]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (None, lambda f: [[0, 1, 2, 3]] * 2),
        (2, lambda f: [[2]] * 2),
        (-1, lambda f: [[3]] * 2),
        ([3, 0, 3], lambda f: [[3, 0, 3]] * 2),
        (np.array([[1, 3], [2, 2]]), lambda f: [[1, 3], [2, 2]]),
        (TOP2, top2),
    ],
    ids=["all", "int", "negative", "list", "array each", "OpChain"],
)
def test_values_and_names_of_chosen_outputs(case, outputs, expected):
    names = np.array(["ant", "bee", "cat", "dog"])
    explainer = case.make(output_names=list(names))
    found = case.call(explainer, outputs=outputs)
    index = np.array(expected(case.full))
    each = np.take_along_axis
    close(case.added_up(found), each(case.gap, index, axis=1))
    close(found.base_values, each(case.full - case.gap, index, axis=1))
    np.testing.assert_array_equal(np.broadcast_to(found.output_names, index.shape), names[index])
    if (index == index[0]).all():
        close(explainer.expected_value, found.base_values.mean(axis=0))
    else:
        assert explainer.expected_value is None


def test_ranked_outputs(case):
    values, indices = case.make().shap_values(case.x, 2, "max", max_evals=BUDGET)
    np.testing.assert_array_equal(indices, top2(case.full))
    close(values.sum(axis=(1, 2, 3)), np.take_along_axis(case.gap, indices, axis=1))


def test_the_call_of_the_base_class_gives_the_same(case):
    explainer, arrays = case.make(), case.x.permute(0, 2, 3, 1).numpy()
    options = {"max_evals": BUDGET, "silent": True, "outputs": [0, 2]}
    theirs = shap.Explainer.__call__(explainer, arrays, **options)
    close(theirs.values, explainer.shap_values(arrays, max_evals=BUDGET, outputs=[0, 2]))
    close(theirs.base_values, explainer(arrays, **options).base_values)


def test_shaps_pictures_draw_it(case):
    names = [f"part {i}" for i in range(N)]
    explainer = case.make(feature_names=names)
    if case.kind is not InteractionShap:  # whose explanations have no pixels
        explanation = case.call(explainer, outputs=[0, 2])
        shap.image_plot(explanation, show=False)
        drawn = [axes for axes in plt.gcf().axes if axes.images]
        for i in range(2):
            for k in range(2):
                array = drawn[3 * i + 1 + k].images[-1].get_array()
                close(array, explanation.values[i, ..., k].sum(axis=-1))
        plt.close("all")
    players = case.players(explainer)
    shap.plots.waterfall(players[1, :, 2], show=False)
    largest = int(np.abs(players.values[1, :, 2]).argmax())
    texts = [t.get_text() for t in plt.gcf().findobj(plt.Text)]
    assert any(f"part {largest}" in t for t in texts)
    plt.close("all")


# ----- what may not matter, and what may not change ----------------------------------------


def test_another_seed_gives_other_numbers(case):
    a, b = (case.players(case.make(seed=s)).values for s in (0, 1))
    if case.kind is OwenBPT:  # nothing in it is drawn
        np.testing.assert_array_equal(a, b)
    else:
        assert np.abs(a - b).max() > 1e-6


# ----- budgets -----------------------------------------------------------------------------


class Counter:
    """Notes the rows of each call of what plays the game: the model, or the surrogate."""

    def __init__(self, case, breaks_at=None):
        self.breaks_at, self.rows = breaks_at, []
        player = case.model.surrogate if case.amortized else case.model
        player.register_forward_pre_hook(self)

    def __call__(self, module, args):
        if len(self.rows) + 1 == self.breaks_at:
            raise KeyboardInterrupt
        self.rows.append(len(args[0]))


@pytest.mark.parametrize("budget", [40, 101])
def test_budgets_are_spent(case, budget):
    explainer = case.make()
    case.players(explainer, max_evals=budget, batch_size=7)
    if case.kind is not OwenBPT:  # whose rounds double
        assert (explainer.last_run.evaluations >= budget - 2).all()


@pytest.mark.parametrize("budget", [1, 0, -3, 2.5, True, "many"])
def test_budgets_that_do_not_fit(case, budget):
    explainer, counter = case.make(), Counter(case)
    with pytest.raises(PatchShapError, match="n_samples"):
        case.attribute(explainer, n_samples=budget)
    for method in (explainer, explainer.explain_players, explainer.shap_values):
        with pytest.raises(PatchShapError, match="max_evals"):
            method(case.x, max_evals=budget, silent=True)
    assert not counter.rows


def test_an_interruption_keeps_what_is_known(case):
    explainer, counter = case.make(), Counter(case, breaks_at=6)
    with pytest.warns(RuntimeWarning, match="Interrupted"):
        found = case.players(explainer, max_evals=101, batch_size=9)
    close(found.values.sum(axis=1), case.gap)
    assert explainer.last_run.interrupted
    assert explainer.last_run.evaluations.sum() < 100
    counter.breaks_at = None  # as if nothing had happened
    close(case.players(explainer).values, case.players().values)
    assert not explainer.last_run.interrupted


def test_silence(case, capsys, monkeypatch):
    monkeypatch.setattr(shap_face, "bar_delay", ContextVar("bar_delay", default=0.0))
    case.call()
    case.players()
    case.make().shap_values(case.x, max_evals=BUDGET)
    assert capsys.readouterr() == ("", "")
    case.call(silent=False)
    shown = capsys.readouterr()
    assert f"{case.kind.__name__} explainer: 100%" in shown.err
    assert not shown.out


# ----- what is refused ---------------------------------------------------------------------


def test_arguments_that_do_not_fit(case):
    explainer = case.make()
    for kwargs in ({"nsamples": 100}, {"main_effects": True}):
        with pytest.raises(PatchShapError, match=next(iter(kwargs))):
            case.call(explainer, **kwargs)
    for batches in ((), (case.x, case.x)):
        with pytest.raises(PatchShapError, match=f"{len(batches)} of them"):
            explainer(*batches, silent=True)
    with pytest.raises(PatchShapError, match="2 names"):
        case.call(case.make(output_names=["cat", "dog"]))


def test_threads_that_share_an_explainer(case):
    explainer, classes = case.make(), [0, 1, 2, 3]
    options = {"n_samples": BUDGET, "perturbations_per_eval": 16}
    if case.kind is InteractionShap:
        options["return_interactions"] = True

    def explain(c):
        x = case.x[c % 2 :][:1]
        return explainer.attribute(x, target=c, **options)

    want = [explain(c) for c in classes]
    with ThreadPoolExecutor(8) as pool:
        for c, got in zip(classes * 2, pool.map(explain, classes * 2), strict=True):
            torch.testing.assert_close(got, want[c])
        named = list(pool.map(lambda c: case.call(explainer, outputs=[c]).values, classes))
    for c, got in zip(classes, named, strict=True):
        close(got, case.call(explainer, outputs=[c]).values)
