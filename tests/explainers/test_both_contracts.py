"""Both contracts, held by all four classes: what Captum and shap ask of their own.

What one class alone promises is in its own modules; test_captum_contract and
test_shap_contract go further with PatchKernelShap.
"""

from __future__ import annotations

import inspect
import io
import random
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import matplotlib.pyplot as plt
import numpy as np
import pytest
import shap
import timm
import torch
from captum.attr import Attribution, KernelShap, NoiseTunnel, PerturbationAttribution
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


def test_it_is_a_captum_attribution_and_a_shap_explainer(case):
    explainer = case.make()
    for family in (Attribution, PerturbationAttribution, shap.Explainer):
        assert isinstance(explainer, family)
    assert explainer.has_convergence_delta()
    assert explainer.get_name().replace(" ", "") == case.kind.__name__
    with pytest.raises(NotImplementedError):
        explainer.attribute_future()


def test_attribute_has_captums_signature(case):
    own = list(inspect.signature(case.kind.attribute).parameters.values())
    theirs = [
        p
        for p in inspect.signature(KernelShap.attribute).parameters.values()
        if p.kind != p.VAR_KEYWORD
    ]
    assert [p.name for p in own[: len(theirs)]] == [p.name for p in theirs]
    assert own[len(theirs)].name == "return_convergence_delta"
    # A prediction needs no budget, and its refinement is no slower in batches.
    differs = {"n_samples", "perturbations_per_eval"} if case.amortized else set()
    assert {a.name for a, b in zip(own, theirs, strict=False) if a.default != b.default} == differs
    assert hasattr(case.kind.attribute, "__wrapped__")  # NoiseTunnel calls it


def test_every_way_in_gives_the_same_numbers(case):
    explainer = case.make()
    players = case.players(explainer)
    assert players.values.shape == players.error_std.shape == (2, N, K)
    spread = explainer.shap_values(case.x, max_evals=BUDGET)
    assert spread.shape == (*case.x.shape, K)
    close(48 * spread[:, 0, ::4, ::4].reshape(2, N, K), players.values)
    arrays = case.x.permute(0, 2, 3, 1).numpy()
    close(case.players(explainer, arrays).values, players.values)
    close(explainer.shap_values(arrays, max_evals=BUDGET), np.moveaxis(spread, 1, 3))
    found = case.call(explainer)
    if case.kind is InteractionShap:  # its explanations are pairs, whose rows add up
        assert found.values.shape == (2, N, N, K)
        close(found.values.sum(axis=2), players.values)
    else:
        assert found.values.shape == (2, SIDE, SIDE, 3, K)
        close(found.values, np.moveaxis(spread, 1, 3))
        np.testing.assert_array_equal(found.data, arrays)
    if case.kind is OwenBPT:
        return  # the target alone says where its budget goes: compared below, one by one
    for k in (0, K - 1):
        repeated = case.attribute(explainer, target=k)
        assert repeated.shape == case.x.shape
        close(repeated[:, 0, ::4, ::4].flatten(1), players.values[..., k])
        close(repeated, repeated[:, :1, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3)
              .expand_as(repeated), 0)  # fmt: skip


def test_one_output_by_either_face(case):
    for k in (0, K - 1):
        table = case.attribute(target=k, return_input_shape=False)
        close(table, case.players(outputs=k).values[..., 0])


# ----- Captum ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [40, 512])
def test_the_convergence_delta_is_zero(case, n_samples):
    explainer, targets = case.make(), [0, 3]
    options = {"n_samples": n_samples, "perturbations_per_eval": 64}
    attributions, delta = case.attribute(
        explainer, target=targets, return_convergence_delta=True, **options
    )
    close(delta, np.zeros(2), 1e-6)
    table = case.attribute(explainer, target=targets, return_input_shape=False, **options)
    close(table.sum(dim=1), case.gap[np.arange(2), targets])
    start = None if case.amortized else 0.5
    again = explainer.compute_convergence_delta(attributions, start, case.x, target=targets)
    close(again, np.zeros(2))
    wrong = explainer.compute_convergence_delta(attributions, start, case.x, target=1)
    assert wrong.abs().min() > 1e-3


@pytest.mark.parametrize(
    ("target", "chosen"),
    [
        ((1,), [1, 1]),
        (torch.tensor(1), [1, 1]),
        (torch.tensor([1]), [1, 1]),
        (torch.tensor([1, 3]), [1, 3]),
        ([1, 3], [1, 3]),
        ([(1,), (3,)], [1, 3]),
    ],
    ids=["tuple", "0-d", "1-d of one", "1-d", "list", "tuples"],
)
def test_every_kind_of_target_is_that_of_single_runs(case, target, chosen):
    together = case.attribute(target=target)
    for i, k in enumerate(chosen):
        close(together[i : i + 1], case.attribute(x=case.x[i : i + 1], target=k))


def test_tuples_dtypes_and_gradients(case):
    alone = case.attribute()
    assert alone.dtype == torch.float32
    x = case.x.clone().requires_grad_()
    (in_tuple,) = case.attribute(x=(x,))
    assert torch.equal(in_tuple, alone)
    assert x.grad is None
    assert not in_tuple.requires_grad
    assert torch.is_grad_enabled()
    if not case.amortized:  # whose network is of float32
        explainer = case.make(case.model.double())
        assert case.attribute(explainer, case.x.double()).dtype == torch.float64
        close(case.attribute(explainer, case.x.double()), alone, 1e-4)


def test_masks_and_baselines_of_a_call_come_first(case):
    plain = case.kind(case.model)  # without a masker
    # All coalitions: which player has which number chooses a sample.
    options = {"n_samples": 512, "perturbations_per_eval": 512, "return_input_shape": False}
    turned = case.attribute(
        plain,
        feature_mask=8 - CELLS[None, None],
        baselines=None if case.amortized else 0.5,
        **options,
    )
    close(turned, case.attribute(**options).flip(1))


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


def test_what_is_explained_beside_an_output_does_not_matter(case):
    everything = case.players()
    some = case.players(outputs=[2, 0])
    # The guides of a tree are the largest outputs, whichever are explained.
    close(some.values, everything.values[..., [2, 0]], 1e-6)
    close(some.error_std, everything.error_std[..., [2, 0]], 1e-6)


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


def test_save_and_load(case, capsys):
    explainer = case.make(seed=11, output_names=list("abcd"))
    stream = io.BytesIO()
    explainer.save(stream)
    stream.seek(0)
    loaded = case.kind.load(stream)
    assert type(loaded) is case.kind
    assert (loaded.seed, loaded.output_names) == (11, list("abcd"))
    np.testing.assert_array_equal(case.players(loaded).values, case.players(explainer).values)


# ----- what may not matter, and what may not change ----------------------------------------


@pytest.mark.parametrize("size", [1, 7])
def test_batches_do_not_matter(case, size):
    close(case.players(batch_size=size).values, case.players().values)
    close(case.attribute(perturbations_per_eval=size), case.attribute())


def test_company_does_not_matter(case):
    together, captums = case.players().values, case.attribute()
    for i in range(2):
        x = case.x[i : i + 1]
        close(case.players(x=x).values[0], together[i])
        close(case.attribute(x=x)[0], captums[i])


def test_seeds(case):
    a, again, b = (case.players(case.make(seed=s)).values for s in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    if case.kind is OwenBPT:  # nothing in it is drawn
        np.testing.assert_array_equal(a, b)
    else:
        assert np.abs(a - b).max() > 1e-6


def states():
    legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    numpys = legacy["key"].tobytes(), legacy["pos"]
    return torch.get_rng_state().numpy().tobytes(), numpys, random.getstate()


@pytest.mark.parametrize("seed", [0, None])
def test_global_random_states_are_neither_written_nor_read(case, seed):
    before = states()
    explainer = case.make(seed=seed)
    case.attribute(explainer)
    case.call(explainer)
    assert states() == before
    if seed is not None:
        expected = case.players().values
        torch.manual_seed(99)
        np.random.seed(99)  # noqa: NPY002
        random.seed(99)
        np.testing.assert_array_equal(case.players().values, expected)


def test_models_and_inputs_come_back_as_they_were(case):
    expected = case.attribute()
    model, x = case.model.train(), case.x.clone()
    next(model.children()).eval()

    def described():
        return [
            (m.training, list(m._forward_hooks), list(m._forward_pre_hooks),
             [(p.dtype, p.requires_grad, p.grad) for p in m.parameters()])
            for m in model.modules()
        ]  # fmt: skip

    before, state = described(), {k: v.clone() for k, v in model.state_dict().items()}
    assert torch.equal(case.attribute(), expected)  # in evaluation mode
    case.call()
    assert described() == before
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(case.x, x)


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
def test_budgets_and_batches_are_kept(case, budget):
    explainer, counter = case.make(), Counter(case)
    case.players(explainer, max_evals=budget, batch_size=7)
    spent = explainer.last_run.evaluations
    assert (spent <= budget).all()
    assert max(counter.rows) <= 7
    assert sum(counter.rows) == spent.sum()
    if case.kind is not OwenBPT:  # whose rounds double
        assert (spent >= budget - 2).all()
    counter.rows.clear()
    case.attribute(explainer, n_samples=budget, perturbations_per_eval=3)
    assert (explainer.last_run.evaluations <= budget).all()
    assert max(counter.rows) <= 6


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


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((1, 3, SIDE, SIDE), torch.nan), "NaN"),
        (torch.zeros(0, 3, SIDE, SIDE), "empty batch"),
    ],
)
def test_inputs_that_no_face_takes(case, x, message):
    explainer = case.make()
    for ask in (case.attribute, case.call, case.players):
        with pytest.raises(PatchShapError, match=message):
            ask(explainer, x)


def test_targets_and_outputs_that_do_not_fit(case):
    explainer = case.make()
    for target in (None, K, -K - 1, [0, 1, 2], "cat", 0.5):
        with pytest.raises(PatchShapError, match="target"):
            case.attribute(explainer, target=target)
    for outputs in (K, -K - 1, [0, K], [], [0.5], "cat"):
        with pytest.raises(PatchShapError, match="outputs"):
            case.call(explainer, outputs=outputs)


def test_arguments_that_do_not_fit(case):
    explainer = case.make()
    for kwargs in ({"nsamples": 100}, {"main_effects": True}):
        with pytest.raises(PatchShapError, match=next(iter(kwargs))):
            case.call(explainer, **kwargs)
    for size in (0, -1, 2.5, "big"):
        with pytest.raises(PatchShapError, match="batch_size"):
            case.call(explainer, batch_size=size)
        with pytest.raises(PatchShapError, match="perturbations_per_eval"):
            case.attribute(explainer, perturbations_per_eval=size)
    for batches in ((), (case.x, case.x)):
        with pytest.raises(PatchShapError, match=f"{len(batches)} of them"):
            explainer(*batches, silent=True)
    with pytest.raises(PatchShapError, match="2 names"):
        case.call(case.make(output_names=["cat", "dog"]))
    with pytest.raises(PatchShapError, match="PatchMasker"):
        case.kind(case.model, shap.maskers.Image(np.zeros((4, 4, 3))))
    with pytest.raises(PatchShapError, match="seed"):
        case.make(seed=-1)


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
