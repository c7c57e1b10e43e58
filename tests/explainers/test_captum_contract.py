"""PatchKernelShap as a Captum attribution: the expectations Captum has of its own KernelShap."""

from __future__ import annotations

import copy
import math
import random

import captum
import numpy as np
import pytest
import shap
import timm
import torch
from captum.attr import KernelShap, NoiseTunnel, ShapleyValues, ShapleyValueSampling
from captum.attr import visualization as viz
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from captum.testing.attr.helpers.gen_test_utils import parse_test_config
from captum.testing.attr.helpers.test_config import config
from captum.testing.helpers.basic_models import (
    BasicLinearModel,
    BasicModel_MultiLayer,
    BasicModel_MultiLayer_MultiInput,
)
from torch import nn

from xai_patchshap import PatchKernelShap, PatchMasker, PatchShapError


def attribute(model, *args, **kwargs):
    return PatchKernelShap(model).attribute(*args, **kwargs)


def assert_close(actual, expected, atol=1e-3, rtol=0.0):
    """Compare tensors, or tuples of them, with nested lists or tensors."""
    if isinstance(expected, tuple):
        assert isinstance(actual, tuple)
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, atol, rtol)
        return
    expected = torch.as_tensor(expected)
    assert isinstance(actual, torch.Tensor)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected.to(actual.dtype), atol=atol, rtol=rtol)


class Convs(nn.Module):
    """A small image model with interactions between pixels and three outputs."""

    def __init__(self, channels=3, outputs=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, outputs)

    def forward(self, x):
        return self.head(self.drop(torch.tanh(self.norm(self.conv(x)))).mean(dim=(2, 3)))


class Linear(nn.Module):
    """Images to two outputs, additive in the pixels and without a bias."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, *shape))

    def forward(self, x):
        return torch.einsum("n...,k...->nk", x.flatten(1), self.weight.flatten(1))


class Recorder:
    """Counts the rows of every call of a forward function."""

    def __init__(self, forward):
        self.forward, self.rows = forward, []

    def __call__(self, x, *args):
        self.rows.append(len(x))
        return self.forward(x, *args)


def quadrants(size):
    """Ids 0..3 of the quarters of a square image, (1, 1, size, size)."""
    half = torch.arange(size) * 2 // size
    return (half[:, None] * 2 + half[None, :])[None, None]


THIRD = 1 / 3
ONE = torch.tensor([[20.0, 50.0, 30.0]])
TWO = torch.tensor([[2.0, 10.0, 3.0], [20.0, 50.0, 30.0]])
THREE_INPUTS = (
    torch.tensor([[20.0, 50.0, 30.0]]),
    torch.tensor([[0.0, 100.0, 0.0]]),
    torch.tensor([[2.0, 10.0, 3.0]]),
)
THREE_MASKS = (
    torch.tensor([[0, 1, 0]]),
    torch.tensor([[0, 1, 2]]),
    torch.tensor([[0, 0, 0]]),
)
BATCH_INPUTS = (
    torch.tensor([[23.0, 100.0, 0.0], [20.0, 50.0, 30.0]]),
    torch.tensor([[20.0, 50.0, 30.0], [0.0, 100.0, 0.0]]),
    torch.tensor([[0.0, 100.0, 10.0], [2.0, 10.0, 3.0]]),
)
BATCH_MASKS = (
    torch.tensor([[1, 1, 1], [0, 1, 0]]),
    torch.tensor([[0, 1, 2]]),
    torch.tensor([[0, 1, 2], [0, 0, 0]]),
)

# name: model, inputs, arguments, attributions, coefficients per player (or None)
GAMES = {
    "linear, tensor baseline": (
        BasicModel_MultiLayer,
        ONE,
        {"baselines": torch.tensor([[10.0, 20.0, 10.0]]), "n_samples": 500},
        [[40.0, 120.0, 80.0]],
        [[40.0, 120.0, 80.0]],
    ),
    "simple": (
        BasicModel_MultiLayer,
        ONE,
        {"n_samples": 500},
        [[76 + 2 * THIRD, 196 + 2 * THIRD, 116 + 2 * THIRD]],
        [[76 + 2 * THIRD, 196 + 2 * THIRD, 116 + 2 * THIRD]],
    ),
    "mask": (
        BasicModel_MultiLayer,
        ONE,
        {"feature_mask": torch.tensor([[0, 0, 1]])},
        [[275.0, 275.0, 115.0]],
        [[275.0, 115.0]],
    ),
    "mask, scalar baseline": (
        BasicModel_MultiLayer,
        ONE,
        {"feature_mask": torch.tensor([[0, 0, 1]]), "baselines": 4},
        [[248.0, 248.0, 104.0]],
        [[248.0, 104.0]],
    ),
    "batch": (
        BasicModel_MultiLayer,
        TWO,
        {"n_samples": 2000},
        [[7.0, 32.5, 10.5], [76 + 2 * THIRD, 196 + 2 * THIRD, 116 + 2 * THIRD]],
        [[7.0, 32.5, 10.5], [76 + 2 * THIRD, 196 + 2 * THIRD, 116 + 2 * THIRD]],
    ),
    "batch, one mask each": (
        BasicModel_MultiLayer,
        TWO,
        {"feature_mask": torch.tensor([[0, 0, 1], [1, 1, 0]]), "n_samples": 100},
        [[39.5, 39.5, 10.5], [275.0, 275.0, 115.0]],
        [[39.5, 10.5], [115.0, 275.0]],
    ),
    "three inputs": (
        BasicModel_MultiLayer_MultiInput,
        (
            torch.tensor([[23.0, 0.0, 0.0]]),
            torch.tensor([[20.0, 0.0, 50.0]]),
            torch.tensor([[0.0, 100.0, 10.0]]),
        ),
        {"additional_forward_args": (1,), "n_samples": 2000},
        ([[90.0, 0.0, 0.0]], [[78.0, 0.0, 198.0]], [[0.0, 398.0, 38.0]]),
        [[90.0, 0.0, 0.0, 78.0, 0.0, 198.0, 0.0, 398.0, 38.0]],
    ),
    "three inputs, masks": (
        BasicModel_MultiLayer_MultiInput,
        THREE_INPUTS,
        {"additional_forward_args": (1,), "feature_mask": THREE_MASKS},
        ([[255.0, 595.0, 255.0]], [[255.0, 595.0, 0.0]], [[255.0, 255.0, 255.0]]),
        [[255.0, 595.0, 0.0]],
    ),
    "three inputs, masks, baselines": (
        BasicModel_MultiLayer_MultiInput,
        THREE_INPUTS,
        {
            "additional_forward_args": (1,),
            "feature_mask": THREE_MASKS,
            "baselines": (2, 3.0, 4),
        },
        ([[184.0, 580.0, 184.0]], [[184.0, 580.0, -12.0]], [[184.0, 184.0, 184.0]]),
        [[184.0, 580.0, -12.0]],
    ),
    "three inputs, batch": (
        BasicModel_MultiLayer_MultiInput,
        (
            torch.tensor([[23.0, 0.0, 0.0], [20.0, 50.0, 30.0]]),
            torch.tensor([[20.0, 0.0, 50.0], [0.0, 100.0, 0.0]]),
            torch.tensor([[0.0, 100.0, 10.0], [0.0, 10.0, 0.0]]),
        ),
        {"additional_forward_args": (1,), "n_samples": 2500},
        (
            [[90.0, 0.0, 0.0], [78.0, 198.0, 118.0]],
            [[78.0, 0.0, 198.0], [0.0, 398.0, 0.0]],
            [[0.0, 398.0, 38.0], [0.0, 38.0, 0.0]],
        ),
        [
            [90.0, 0.0, 0.0, 78.0, 0.0, 198.0, 0.0, 398.0, 38.0],
            [78.0, 198.0, 118.0, 0.0, 398.0, 0.0, 0.0, 38.0, 0.0],
        ],
    ),
    "three inputs, batch, masks": (
        BasicModel_MultiLayer_MultiInput,
        BATCH_INPUTS,
        {"additional_forward_args": (1,), "feature_mask": BATCH_MASKS, "n_samples": 300},
        (
            [[1088 + 2 * THIRD] * 3, [255.0, 595.0, 255.0]],
            [[76 + 2 * THIRD, 1088 + 2 * THIRD, 156 + 2 * THIRD], [255.0, 595.0, 0.0]],
            [[76 + 2 * THIRD, 1088 + 2 * THIRD, 156 + 2 * THIRD], [255.0, 255.0, 255.0]],
        ),
        [[76 + 2 * THIRD, 1088 + 2 * THIRD, 156 + 2 * THIRD], [255.0, 595.0, 0.0]],
    ),
    "three inputs, batch, masks, baselines": (
        BasicModel_MultiLayer_MultiInput,
        BATCH_INPUTS,
        {
            "additional_forward_args": (1,),
            "feature_mask": BATCH_MASKS,
            "baselines": (2, 3.0, 4),
        },
        (
            [[1040.0, 1040.0, 1040.0], [184.0, 580.0, 184.0]],
            [[52.0, 1040.0, 132.0], [184.0, 580.0, -12.0]],
            [[52.0, 1040.0, 132.0], [184.0, 184.0, 184.0]],
        ),
        [[52.0, 1040.0, 132.0], [184.0, 580.0, -12.0]],
    ),
}


# ----- Captum's own games -----------------------------------------------------------------


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("per_eval", [1, 2, 3])
@pytest.mark.parametrize("name", GAMES)
def test_known_games(name, per_eval):
    build, inputs, kwargs, expected, coefficients = GAMES[name]
    kwargs = {"target": 0, "n_samples": 100, "perturbations_per_eval": per_eval, **kwargs}
    explainer = PatchKernelShap(build())
    assert_close(explainer.attribute(inputs, **kwargs), expected)
    per_player = explainer.attribute(inputs, return_input_shape=False, **kwargs)
    assert_close(per_player, coefficients)


@pytest.mark.parametrize("with_mask", [False, True])
def test_empty_second_input(with_mask):
    net = BasicLinearModel()
    x = torch.tensor([[23.0, 0.0, 0.0, 23.0, 0.0, 0.0, 23.0]])
    empty = torch.zeros(1, 0)
    mask = (torch.arange(7)[None], torch.zeros(1, 0, dtype=torch.long)) if with_mask else None
    expected = net.linear.weight.detach() * x
    kwargs = {"target": 0, "n_samples": 2000, "feature_mask": mask}
    explainer = PatchKernelShap(net)
    assert_close(explainer.attribute((x, empty), **kwargs), (expected, torch.zeros(1, 0)))
    coefficients = explainer.attribute((x, empty), return_input_shape=False, **kwargs)
    assert_close(coefficients, expected)


SCALARS = {
    "float": lambda t: t.item(),
    "int": lambda t: int(t.item()),
    "0-d tensor": lambda t: t,
    "1-d tensor": lambda t: t.reshape(1),
}


@pytest.mark.parametrize("form", SCALARS)
def test_scalar_per_batch(form):
    net = BasicModel_MultiLayer()
    x = torch.tensor([[2.0, 10.0, 3.0]], requires_grad=True)
    attributions = attribute(
        lambda inp: SCALARS[form](net(inp).sum()),
        x,
        feature_mask=torch.tensor([[0, 0, 1]]),
        n_samples=100,
    )
    assert_close(attributions, [[79.0, 79.0, 21.0]])


@pytest.mark.parametrize("form", SCALARS)
def test_scalar_per_batch_of_several_inputs_and_examples(form):
    net = BasicModel_MultiLayer_MultiInput()
    inputs = (*BATCH_INPUTS[:2], torch.tensor([[0.0, 100.0, 10.0], [20.0, 10.0, 13.0]]))
    masks = (torch.tensor([[1, 1, 1]]), torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 2]]))
    low, middle, high = 306 + 2 * THIRD, 3850 + 2 * THIRD, 410 + 2 * THIRD
    explainer = PatchKernelShap(lambda *inp: SCALARS[form](net(*inp).sum()))
    kwargs = {"additional_forward_args": (1,), "feature_mask": masks, "n_samples": 1500}
    attributions = explainer.attribute(inputs, **kwargs)
    expected = ([[middle] * 3], [[low, middle, high]], [[low, middle, high]])
    assert_close(attributions, expected)
    coefficients = explainer.attribute(inputs, return_input_shape=False, **kwargs)
    assert_close(coefficients, [[low, middle, high]])


@pytest.mark.parametrize("x", [ONE, TWO], ids=["one example", "two examples"])
@pytest.mark.parametrize("form", SCALARS)
def test_scalar_per_batch_wants_one_perturbation_per_eval(form, x):
    net = BasicModel_MultiLayer()
    explainer = PatchKernelShap(lambda inp: SCALARS[form](net(inp).sum()))
    with pytest.raises(PatchShapError):
        explainer.attribute(x, perturbations_per_eval=2)


def test_scalar_per_batch_has_one_delta():
    net = BasicModel_MultiLayer()
    attributions, delta = attribute(
        lambda inp: net(inp).sum(), TWO, n_samples=8, return_convergence_delta=True
    )
    assert attributions.shape == (1, 3)
    assert_close(delta, [0.0])
    everything = net(TWO).sum() - net(torch.zeros_like(TWO)).sum()
    assert attributions.sum().item() == pytest.approx(everything.item(), rel=1e-6)


def test_attribute_future_is_not_implemented():
    with pytest.raises(NotImplementedError):
        PatchKernelShap(BasicModel_MultiLayer()).attribute_future()


@pytest.mark.parametrize("per_eval", [1, 2, 3])
@pytest.mark.parametrize("n_samples", [6, 500])
def test_progress_ends_at_100_percent(capsys, per_eval, n_samples):
    explainer = PatchKernelShap(BasicModel_MultiLayer())
    kwargs = {"target": 0, "perturbations_per_eval": per_eval, "n_samples": n_samples}
    explainer.attribute(ONE, show_progress=True, **kwargs)
    shown = capsys.readouterr()
    assert "Kernel Shap attribution: 100%" in shown.err
    assert not shown.out
    explainer.attribute(ONE, **kwargs)
    assert capsys.readouterr() == ("", "")


# ----- Captum's target tests --------------------------------------------------------------


TARGET_CONFIGS = [
    c
    for c in config
    if KernelShap in c["algorithms"]
    and isinstance(c["attribute_args"].get("target"), list | torch.Tensor)
    and not c.get("noise_tunnel", False)
    and "layer" not in c
]


def test_target_configs_are_found():
    assert len(TARGET_CONFIGS) >= 7


def of_example(value, i, n):
    """What belongs to example ``i`` of a batch of ``n`` in an argument of ``attribute``."""
    if isinstance(value, tuple):
        return tuple(of_example(v, i, n) for v in value)
    return value[i : i + 1] if isinstance(value, torch.Tensor) and len(value) == n else value


@pytest.mark.parametrize("entry", TARGET_CONFIGS, ids=lambda c: c["name"])
def test_batch_of_targets_equals_single_runs(entry):
    _, model, args, *_ = parse_test_config(copy.deepcopy(entry))
    delta = entry.get("target_delta", 1e-4)
    target, inputs = args.pop("target"), args["inputs"]
    n = len(inputs) if isinstance(inputs, torch.Tensor) else len(inputs[0])
    explainer = PatchKernelShap(model)
    together = explainer.attribute(target=target, **args)
    for i in range(n):
        own = {name: of_example(value, i, n) for name, value in args.items()}
        expected = of_example(together, i, n)
        singles = [target[i], target[i : i + 1]] if len(target) == n else [target]
        for single in singles:
            assert_close(explainer.attribute(target=single, **own), expected, atol=delta)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("make", "chosen"),
    [
        (lambda n: 1, [1, 1, 1]),
        (lambda n: (1,), [1, 1, 1]),
        (lambda n: torch.tensor(1), [1, 1, 1]),
        (lambda n: torch.tensor([1]), [1, 1, 1]),
        (lambda n: torch.tensor([1, 0, 2])[:n], [1, 0, 2]),
        (lambda n: [1, 0, 2][:n], [1, 0, 2]),
        (lambda n: [(1,), (0,), (2,)][:n], [1, 0, 2]),
    ],
    ids=["int", "tuple", "0-d", "1-d of one", "1-d", "ints", "tuples"],
)
def test_every_kind_of_target(make, chosen, n):
    model = Convs().eval()
    x = torch.rand(n, 3, 6, 6)
    mask = quadrants(6)
    explainer = PatchKernelShap(model)
    kwargs = {"feature_mask": mask, "n_samples": 16, "perturbations_per_eval": 3}
    attributions = explainer.attribute(x, target=make(n), **kwargs)
    for i in range(n):
        scores = PatchKernelShap(lambda inp, k=chosen[i]: model(inp)[:, k])
        with torch.no_grad():
            assert_close(
                attributions[i : i + 1], scores.attribute(x[i : i + 1], **kwargs), atol=1e-6
            )


@pytest.mark.parametrize(
    ("target", "chosen"),
    [((1, 0, 1), [(1, 0, 1)] * 2), ([(1, 0, 1), (0, 1, 1)], [(1, 0, 1), (0, 1, 1)])],
    ids=["tuple", "list of tuples"],
)
def test_targets_of_an_output_with_several_axes(target, chosen):
    net = BasicModel_MultiLayer()
    attributions = attribute(
        net, TWO, target=target, additional_forward_args=(None, True), n_samples=8
    )
    for i, (a, b, c) in enumerate(chosen):
        scale = (1 + b) * (1 + 3 * c)  # how the model builds its further axes
        assert_close(
            attributions[i],
            scale * attribute(net, TWO[i : i + 1], target=a, n_samples=8)[0],
        )


@pytest.mark.parametrize("target", [2, -3, [0, 2], [0], torch.tensor([0, 1, 1]), (0, 0), [(0, 1)]])
def test_target_that_does_not_fit(target):
    with pytest.raises(PatchShapError, match="target"):
        attribute(BasicModel_MultiLayer(), TWO, target=target)


def test_missing_target_of_several_outputs():
    with pytest.raises(PatchShapError, match="target="):
        attribute(BasicModel_MultiLayer(), TWO)


@pytest.mark.parametrize("axes", [1, 2])
def test_no_target_for_a_single_output(axes):
    net = BasicModel_MultiLayer()
    expected = attribute(net, TWO, target=1, n_samples=8)
    model = (lambda x: net(x)[:, 1]) if axes == 1 else (lambda x: net(x)[:, 1:])
    assert_close(attribute(model, TWO, n_samples=8), expected, atol=0)


# ----- masks, baselines, additional arguments ---------------------------------------------


@pytest.mark.parametrize("lowest", [1, 7])
def test_ids_above_zero_are_shifted_with_a_warning(lowest):
    explainer = PatchKernelShap(BasicModel_MultiLayer())
    mask = torch.tensor([[0, 0, 1]])
    expected = explainer.attribute(ONE, target=0, feature_mask=mask)
    for in_shape in (True, False):
        kwargs = {"target": 0, "return_input_shape": in_shape}
        with pytest.warns(UserWarning, match=f"smallest id is {lowest}"):
            shifted = explainer.attribute(ONE, feature_mask=mask + lowest, **kwargs)
        expected = explainer.attribute(ONE, feature_mask=mask, **kwargs)
        assert_close(shifted, expected, atol=0)


@pytest.mark.parametrize(
    ("rows", "coefficients"),
    [
        ([[0, 0, 1], [0, 0, 0]], [[39.5, 10.5], [390.0, 0.0]]),
        ([[0, 0, 1], [1, 1, 1]], [[39.5, 10.5], [0.0, 390.0]]),
        ([[0, 1, 2], [2, 2, 0]], [[7.0, 32.5, 10.5], [115.0, 0.0, 275.0]]),
    ],
)
def test_ids_that_an_example_lacks_get_zero(rows, coefficients):
    mask = torch.tensor(rows)
    explainer = PatchKernelShap(BasicModel_MultiLayer())
    kwargs = {"target": 0, "feature_mask": mask, "n_samples": 8}
    table = explainer.attribute(TWO, return_input_shape=False, **kwargs)
    assert_close(table, coefficients)
    spread = explainer.attribute(TWO, **kwargs)
    assert_close(spread, table.gather(1, mask), atol=0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([[0, -1, 1]]), "negative"),
        (torch.tensor([[0.5, 0.0, 1.0]]), "whole numbers"),
        (torch.tensor([[0, 1]]), "shape"),
        ((torch.tensor([[0, 1, 2]]),) * 2, "2 masks"),
    ],
)
def test_masks_that_do_not_fit(mask, message):
    with pytest.raises(PatchShapError, match=message):
        attribute(BasicModel_MultiLayer(), TWO, target=0, feature_mask=mask)


@pytest.mark.parametrize(
    "baselines",
    [None, 0, 0.0, torch.zeros(1, 3), torch.zeros(2, 3), (0,), (torch.zeros(2, 3),)],
    ids=str,
)
def test_kinds_of_baselines_agree(baselines):
    expected = GAMES["batch"][3]
    net = BasicModel_MultiLayer()
    assert_close(attribute(net, TWO, target=0, baselines=baselines), expected)


def test_one_baseline_for_each_example():
    net = BasicModel_MultiLayer()
    baselines = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 10.0]])
    together = attribute(net, TWO, target=0, baselines=baselines)
    for i in range(2):
        alone = attribute(net, TWO[i : i + 1], target=0, baselines=baselines[i : i + 1])
        assert_close(together[i : i + 1], alone, atol=0)
    assert_close(together.sum(dim=1), net(TWO)[:, 0] - net(baselines)[:, 0])


@pytest.mark.parametrize("per_eval", [1, 4])
def test_additional_tensors_follow_their_examples(per_eval):
    net = BasicModel_MultiLayer()
    extra = torch.tensor([[1.0, 0.0, 5.0], [-30.0, 2.0, 1.0]])
    together = attribute(
        net, TWO, target=0, additional_forward_args=extra, perturbations_per_eval=per_eval
    )
    for i in range(2):
        own = extra[i : i + 1]
        alone = attribute(net, TWO[i : i + 1], target=0, additional_forward_args=own)
        assert_close(together[i : i + 1], alone, atol=0)
    gap = net(TWO, extra)[:, 0] - net(torch.zeros_like(TWO), extra)[:, 0]
    assert_close(together.sum(dim=1), gap)


@pytest.mark.parametrize("n_samples", [16, 40])
def test_convergence_delta_is_zero(n_samples):
    model = Convs().eval()
    x, b = torch.rand(3, 3, 7, 7), torch.rand(3, 3, 7, 7)
    mask = torch.arange(7).reshape(1, 1, 1, 7)
    attributions, delta = attribute(
        model,
        x,
        b,
        target=[0, 1, 2],
        feature_mask=mask,
        n_samples=n_samples,
        return_convergence_delta=True,
    )
    assert attributions.shape == x.shape
    assert_close(delta, [0.0] * 3, atol=1e-6)
    with torch.no_grad():
        gap = (model(x) - model(b)).diagonal()
    assert_close(attributions[:, 0, 0].sum(dim=1), gap, atol=1e-5)


def test_group_values_are_repeated_and_not_spread():
    model = Linear(2, 4, 4)
    x = torch.rand(1, 2, 4, 4)
    attributions = attribute(model, x, target=1, feature_mask=quadrants(4), n_samples=16)
    exact = (model.weight[1].detach() * x[0]).reshape(2, 2, 2, 2, 2).sum(dim=(0, 2, 4))
    expected = exact.repeat_interleave(2, 0).repeat_interleave(2, 1).expand(1, 2, 4, 4)
    assert_close(attributions, expected, atol=1e-5)


# ----- budget and batches -----------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [2, 3, 10, 31, 64, 200])
@pytest.mark.parametrize("per_eval", [1, 5])
def test_budget_and_batch_size_are_kept(n_samples, per_eval):
    net = Recorder(lambda x: torch.tanh(x).prod(dim=1))
    explainer = PatchKernelShap(net)
    x = torch.randn(3, 6)
    explainer.attribute(x, n_samples=n_samples, perturbations_per_eval=per_eval)
    assert sum(net.rows) <= n_samples * len(x)
    assert max(net.rows) <= per_eval * len(x)
    assert explainer.last_run.evaluations.tolist() == [sum(net.rows) / 3] * 3
    assert explainer.last_run.estimates[0].exact == (n_samples >= 64)


@pytest.mark.parametrize("n_samples", [1, 0, -3, 2.5, True, "10", None])
def test_budgets_that_do_not_fit(n_samples):
    net = Recorder(BasicModel_MultiLayer())
    with pytest.raises(PatchShapError, match="n_samples"):
        attribute(net, ONE, target=0, n_samples=n_samples)
    assert not net.rows


@pytest.mark.parametrize("per_eval", [2, 3, 50])
def test_perturbations_per_eval_changes_no_number(per_eval):
    net = BasicModel_MultiLayer_MultiInput()
    inputs = tuple(torch.randn(4, 3) * 5 for _ in range(3))
    kwargs = {"target": 1, "additional_forward_args": 2, "n_samples": 30}
    one = attribute(net, inputs, **kwargs)
    many = attribute(net, inputs, perturbations_per_eval=per_eval, **kwargs)
    assert_close(many, one, atol=1e-4)


# ----- inside Captum's tools --------------------------------------------------------------


@pytest.mark.parametrize("nt_samples_batch_size", [None, 2])
@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("masked", [False, True])
def test_noise_tunnel_equals_exact_shapley_values_in_a_noise_tunnel(
    nt_type, nt_samples_batch_size, masked
):
    net = BasicModel_MultiLayer()
    kwargs = {
        "target": [0, 1],
        "baselines": torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 10.0]]),
        "nt_type": nt_type,
        "nt_samples": 5,
        "nt_samples_batch_size": nt_samples_batch_size,
        "stdevs": 2.0,
    }
    if masked:
        kwargs["feature_mask"] = torch.tensor([[0, 1, 0]])
    results = []
    for method in (PatchKernelShap(net), ShapleyValues(net)):
        torch.manual_seed(5)
        results.append(NoiseTunnel(method).attribute(TWO, **kwargs))
    assert results[1].abs().min() > 1e-2
    assert_close(*results, atol=1e-4, rtol=1e-4)


def test_noise_tunnel_with_one_mask_for_each_example_and_delta():
    net = BasicModel_MultiLayer()
    attributions, delta = NoiseTunnel(PatchKernelShap(net)).attribute(
        TWO,
        nt_samples=4,
        nt_samples_batch_size=2,
        stdevs=1e-6,
        target=0,
        feature_mask=torch.tensor([[0, 0, 1], [1, 1, 0]]),
        return_convergence_delta=True,
    )
    assert_close(attributions, GAMES["batch, one mask each"][3])
    assert_close(delta, [0.0] * 8)


def test_infidelity_of_the_spread_form_is_zero_on_a_linear_model():
    model = Linear(3, 6, 6)
    x, baseline = torch.rand(2, 3, 6, 6) + 1, torch.rand(2, 3, 6, 6)
    mask = quadrants(6)
    hidden = torch.tensor([[True, False, True, False], [False, False, True, True]])

    @infidelity_perturb_func_decorator(multiply_by_inputs=True)
    def hide(inputs, baselines):
        times = len(inputs) // len(hidden)
        where = hidden.repeat_interleave(times, 0)[:, mask[0, 0]][:, None]
        return torch.where(where, baselines, inputs)

    attributions = attribute(
        model, x, baseline, target=1, feature_mask=mask, n_samples=16, perturbations_per_eval=4
    )
    size = torch.bincount(mask.flatten())[mask] * 3
    kwargs = {"baselines": baseline, "target": 1, "n_perturb_samples": 3}
    assert infidelity(model, hide, x, attributions / size, **kwargs).max() < 1e-8
    assert infidelity(model, hide, x, attributions, **kwargs).min() > 1.0


@pytest.mark.parametrize("max_examples_per_batch", [None, 4])
def test_sensitivity_max(max_examples_per_batch):
    x = torch.rand(2, 3, 6, 6) + 0.5
    sensitivity = sensitivity_max(
        PatchKernelShap(Linear(3, 6, 6)).attribute,
        x,
        lambda inputs: inputs * 1.25,
        n_perturb_samples=4,
        max_examples_per_batch=max_examples_per_batch,
        target=torch.tensor([0, 1]),
        feature_mask=quadrants(6),
        baselines=torch.zeros(2, 3, 6, 6),
        n_samples=10,
    )
    assert_close(sensitivity, [0.25, 0.25], atol=1e-5)


def test_heat_map_of_captum_draws_the_attribution():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with torch.no_grad():
        model[1].weight.fill_(0.0)
        model[1].weight.view(2, 3, 8, 8)[0, :, 2, 5] = 1.0
    x = torch.rand(1, 3, 8, 8) + 0.1
    attributions = attribute(model, x, target=0, feature_mask=quadrants(8), n_samples=16)
    attr, image = (t[0].permute(1, 2, 0).numpy() for t in (attributions, x))
    for method in ("heat_map", "blended_heat_map"):
        figure, axes = viz.visualize_image_attr(
            attr, image, method=method, sign="all", show_colorbar=True, use_pyplot=False
        )
        figure.canvas.draw()
        drawn = np.abs(np.ma.filled(axes.images[-1].get_array(), 0.0)) > 1e-6
        assert drawn.shape == (8, 8)
        assert np.flatnonzero(drawn.any(axis=1)).tolist() == [0, 1, 2, 3]
        assert np.flatnonzero(drawn.any(axis=0)).tolist() == [4, 5, 6, 7]


# ----- accuracy ---------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_captum_shapley_values(masked):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, b = torch.randn(2, 6), torch.randn(2, 6)
    kwargs = {"target": torch.tensor([0, 2])}
    if masked:
        kwargs["feature_mask"] = torch.tensor([[0, 1, 2, 1, 3, 3]])
    expected = ShapleyValues(model).attribute(x, b, perturbations_per_eval=64, **kwargs)
    assert_close(attribute(model, x, b, n_samples=64, **kwargs), expected.detach(), atol=1e-4)


def test_agrees_with_captum_shapley_value_sampling_on_an_additive_model():
    model = nn.Linear(12, 3)
    x, b = torch.randn(2, 12), torch.randn(2, 12)
    expected = ShapleyValueSampling(model).attribute(x, b, target=1, n_samples=2).detach()
    # Far fewer evaluations than 2**12: a linear game needs only full rank.
    assert_close(attribute(model, x, b, target=1, n_samples=60), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_players", [4, 12])
def test_linear_game_is_exact_once_the_system_has_full_rank(n_players, dtype):
    model = nn.Linear(n_players, 1).to(dtype)
    x = torch.randn(1, n_players, dtype=dtype)
    attributions = attribute(model, x, n_samples=2 + 2 * n_players)
    assert_close(attributions, model.weight.detach() * x, atol=1e-6)


def test_sampled_values_are_closer_than_captum_kernel_shap():
    model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    x = 2 * torch.randn(4, 10, dtype=torch.double)
    exact = attribute(model, x, n_samples=1024, perturbations_per_eval=64)
    error = {}
    for method in (PatchKernelShap, KernelShap):
        explainer, kwargs = method(model), {"n_samples": 200, "perturbations_per_eval": 64}
        estimates = [explainer.attribute(x[i : i + 1], **kwargs) for i in range(len(x))]
        error[method] = (torch.cat(estimates) - exact).square().mean().sqrt().item()
    assert error[PatchKernelShap] < 0.5 * error[KernelShap]


# ----- leaves everything as it was --------------------------------------------------------


def test_inputs_that_require_gradients():
    x = ONE.clone().requires_grad_()
    b = torch.zeros(1, 3, requires_grad=True)
    attributions = attribute(BasicModel_MultiLayer(), x, b, target=0)
    assert_close(attributions, GAMES["simple"][3])
    assert not attributions.requires_grad
    assert x.requires_grad
    assert b.requires_grad
    assert x.grad is None
    assert torch.equal(x, ONE)
    assert torch.is_grad_enabled()


def random_states():
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (legacy["state"]["key"].tobytes(), legacy["state"]["pos"], legacy["has_gauss"]),
        "python": random.getstate(),
    }


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("sampling", ["modified_l2", "leverage", "kernel"])
def test_global_random_state_is_not_written(seed, sampling):
    model = Convs()
    masker = PatchMasker(background="noise")
    before = random_states()
    explainer = PatchKernelShap(model, masker, seed=seed, sampling=sampling)
    explainer.attribute(torch.ones(2, 3, 14, 14), target=0, n_samples=60)
    assert random_states() == before


@pytest.mark.parametrize("background", [0.0, "noise"])
def test_global_random_state_is_not_read(background):
    model, x = Convs().eval(), torch.rand(2, 3, 14, 14)
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        explainer = PatchKernelShap(model, PatchMasker(background=background))
        results.append(explainer.attribute(x, target=0, n_samples=60))
    assert torch.equal(*results)


def test_seed_chooses_the_coalitions():
    model, x = Convs().eval(), torch.rand(1, 3, 14, 14)
    a, b, again = (
        PatchKernelShap(model, seed=s).attribute(x, target=0, n_samples=60) for s in (0, 1, 0)
    )
    assert torch.equal(a, again)
    assert (a - b).abs().max() > 1e-6


@pytest.mark.parametrize("fails", [False, True])
def test_model_comes_back_unchanged(fails):
    model = Convs()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    calls = []

    def hook(module, args, output):
        calls.append(len(args[0]))
        if fails and len(calls) == 3:
            raise OSError("the model breaks")

    model.head.register_forward_hook(hook)
    model.head.register_full_backward_hook(lambda *args: None)
    state = copy.deepcopy(model.state_dict())

    def described():
        return [
            (
                m.training,
                list(m._forward_hooks.items()),
                list(m._forward_pre_hooks.items()),
                list(m._backward_hooks.items()),
                [(p.dtype, p.device, p.requires_grad, p.grad) for p in m.parameters()],
            )
            for m in model.modules()
        ]

    before = described()
    explainer = PatchKernelShap(model)
    x = torch.rand(2, 3, 7, 7, dtype=torch.double)
    if fails:
        with pytest.raises(OSError, match="breaks"):
            explainer.attribute(x, target=0)
    else:
        explainer.attribute(x, target=0)
        assert sum(calls) == explainer.last_run.evaluations.sum()
    assert described() == before
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_module_runs_in_evaluation_mode():
    model = Convs()
    x = torch.rand(2, 3, 14, 14)
    training = attribute(model.train(), x, target=0, n_samples=60)
    assert torch.equal(training, attribute(model.eval(), x, target=0, n_samples=60))
    with torch.no_grad():
        gap = (model(x) - model(torch.zeros_like(x)))[:, 0]
    per_player = attribute(model, x, target=0, n_samples=60, return_input_shape=False)
    assert_close(per_player.sum(dim=1), gap, atol=1e-5)


class Caching(nn.Module):
    """Builds a tensor in its first forward pass and keeps it, as position tables are kept."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.scale = None

    def forward(self, x):
        if self.scale is None:
            self.scale = torch.linspace(1, 2, x.shape[1])
        return self.linear(x * self.scale)


def test_model_that_caches_a_tensor_can_be_trained_afterwards():
    model = Caching()
    attribute(model, ONE, target=0)
    assert model.scale is not None
    x = ONE.clone().requires_grad_()
    model(x).sum().backward()
    assert_close(x.grad, (model.linear.weight.sum(0) * model.scale)[None], atol=1e-6)


# ----- types ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
        (torch.int64, torch.float32),
    ],
)
@pytest.mark.parametrize("in_shape", [True, False])
def test_dtype_of_the_result(given, expected, in_shape):
    x = ONE.to(given)
    attributions = attribute(
        lambda inp: BasicModel_MultiLayer()(inp.float())[:, 0],
        x,
        n_samples=8,
        return_input_shape=in_shape,
    )
    assert attributions.dtype == expected
    assert_close(attributions, GAMES["simple"][3])


def test_float64_model_gives_float64_accuracy():
    model = nn.Sequential(nn.Linear(5, 1), nn.Tanh()).double()
    x = torch.randn(1, 5, dtype=torch.double)
    attributions = attribute(model, x, n_samples=32)
    with torch.no_grad():
        values = [model(x * torch.tensor([s >> i & 1 for i in range(5)])).item() for s in range(32)]
    expected = [
        sum(
            math.factorial(size := s.bit_count())
            * math.factorial(4 - size)
            / math.factorial(5)
            * (values[s | 1 << i] - values[s])
            for s in range(32)
            if not s >> i & 1
        )
        for i in range(5)
    ]
    assert_close(attributions, torch.tensor([expected], dtype=torch.double), atol=1e-14)


def test_tuple_in_tuple_out():
    x = torch.rand(2, 3)
    net = BasicModel_MultiLayer()
    alone = attribute(net, x, target=0)
    in_tuple = attribute(net, (x,), target=0)
    assert isinstance(in_tuple, tuple)
    assert len(in_tuple) == 1
    assert torch.equal(in_tuple[0], alone)


# ----- players and maskers ----------------------------------------------------------------


def test_default_players_of_images_are_a_grid_of_7_by_7():
    model, x = Convs().eval(), torch.rand(2, 3, 28, 28)
    explainer = PatchKernelShap(model)
    per_player = explainer.attribute(x, target=0, n_samples=200, return_input_shape=False)
    assert per_player.shape == (2, 49)
    attributions = explainer.attribute(x, target=0, n_samples=200)
    cells = per_player.reshape(2, 1, 7, 7).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(attributions, cells.expand_as(x))
    assert per_player.unique().numel() == 98


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x - 0.5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_default_players_of_a_vision_transformer_are_its_patches(wrapped):
    model = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=64, num_classes=3, depth=1
    )
    model = Wrapper(model) if wrapped else model
    x = torch.rand(1, 3, 64, 64)
    explainer = PatchKernelShap(model)
    kwargs = {"target": 0, "n_samples": 40, "perturbations_per_eval": 20}
    per_player = explainer.attribute(x, return_input_shape=False, **kwargs)
    assert per_player.shape == (1, 16)
    patches = per_player.reshape(1, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    assert torch.equal(explainer.attribute(x, **kwargs), patches.expand_as(x))


def test_default_players_of_other_inputs_are_their_elements():
    x = torch.rand(2, 2, 3)
    attributions = attribute(lambda inp: (inp**2).sum(dim=(1, 2)), x, n_samples=30)
    assert_close(attributions, x**2, atol=1e-6)


def test_masker_of_the_constructor_is_used():
    model, x = Convs().eval(), torch.rand(2, 3, 8, 8)
    explainer = PatchKernelShap(model, PatchMasker(players=(2, 2), background=0.5))
    kwargs = {"target": 1, "n_samples": 16}
    plain = PatchKernelShap(model)
    expected = plain.attribute(x, 0.5, feature_mask=quadrants(8), **kwargs)
    assert_close(explainer.attribute(x, **kwargs), expected, atol=1e-7)
    # What is given to attribute itself comes first.
    halves = (torch.arange(8) // 4).reshape(1, 1, 1, 8)
    assert_close(
        explainer.attribute(x, feature_mask=halves, **kwargs),
        plain.attribute(x, 0.5, feature_mask=halves, **kwargs),
        atol=1e-7,
    )
    assert_close(
        explainer.attribute(x, 0.25, **kwargs),
        plain.attribute(x, 0.25, feature_mask=quadrants(8), **kwargs),
        atol=1e-7,
    )


def test_backgrounds_of_the_masker_are_averaged():
    model, x = Convs().eval(), torch.rand(2, 3, 8, 8)
    backgrounds = [0.0, "blur", (0.1, 0.2, 0.9)]
    kwargs = {"target": 1, "n_samples": 1 + 3 * 15}
    one_by_one = [
        PatchKernelShap(model, PatchMasker((2, 2), b)).attribute(x, **kwargs) for b in backgrounds
    ]
    together = PatchKernelShap(model, PatchMasker((2, 2), backgrounds))
    expected = torch.stack(one_by_one).mean(dim=0)
    assert_close(together.attribute(x, **kwargs), expected, atol=1e-6)
    assert together.last_run.evaluations.tolist() == [46, 46]


def test_masker_and_several_inputs():
    explainer = PatchKernelShap(BasicModel_MultiLayer_MultiInput(), PatchMasker())
    inputs, kwargs, expected = GAMES["three inputs, masks, baselines"][1:4]
    kwargs = dict(kwargs)
    assert_close(explainer.attribute(inputs, target=0, **kwargs), expected)
    del kwargs["baselines"]
    with pytest.raises(PatchShapError, match="single tensor"):
        explainer.attribute(inputs, target=0, **kwargs)


# ----- a member of both families ----------------------------------------------------------


def test_is_a_captum_attribution_and_a_shap_explainer():
    explainer = PatchKernelShap(BasicModel_MultiLayer())
    assert isinstance(explainer, captum.attr.Attribution)
    assert isinstance(explainer, captum.attr.PerturbationAttribution)
    assert isinstance(explainer, shap.Explainer)
    assert type(explainer) is PatchKernelShap
    assert explainer.has_convergence_delta()
    assert explainer.get_name() == "Patch Kernel Shap"


def test_forward_func_can_be_replaced():
    explainer = PatchKernelShap(lambda x: x.sum(dim=1))
    assert_close(explainer.attribute(ONE), ONE)
    explainer.forward_func = lambda x: 2 * x.sum(dim=1)
    assert_close(explainer.attribute(ONE), 2 * ONE)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.tensor([[1.0, math.nan, 0.0]]), "NaN"),
        (torch.zeros(0, 3), "empty batch"),
        (torch.tensor(1.0), "without axes"),
        (np.zeros((1, 3)), "ndarray"),
        ((torch.zeros(2, 3), torch.zeros(1, 3)), "1 examples"),
        (torch.zeros(2, 0), "no elements"),
    ],
)
def test_inputs_that_do_not_fit(inputs, message):
    with pytest.raises(PatchShapError, match=message):
        attribute(BasicModel_MultiLayer(), inputs, target=0)


@pytest.mark.parametrize(
    ("baselines", "message"),
    [
        (torch.zeros(3, 3), "shape"),
        (torch.zeros(3), "shape"),
        ((0, 1), "2 of them"),
        ("blur", "dtype"),
        (torch.full((1, 3), math.nan), "NaN"),
    ],
)
def test_baselines_that_do_not_fit(baselines, message):
    with pytest.raises(PatchShapError, match=message):
        attribute(BasicModel_MultiLayer(), TWO, baselines, target=0)


def test_model_that_returns_nan():
    with pytest.raises(PatchShapError, match="NaN"):
        attribute(lambda x: x.sum(dim=1) * math.nan, TWO)


@pytest.mark.parametrize("masked", [False, True])
def test_convergence_delta_of_given_attributions(masked):
    model = BasicModel_MultiLayer_MultiInput()
    x = (torch.rand(2, 3), torch.rand(2, 3), torch.rand(2, 3))
    mask, start = None, (0.1, 0, 0.1)
    if masked:
        mask = (torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 2], [0, 0, 2]]), torch.tensor([2]))
    arguments = {"target": [0, 1], "additional_forward_args": (2,)}
    explainer = PatchKernelShap(model)
    attributions = explainer.attribute(x, start, n_samples=600, feature_mask=mask, **arguments)
    delta = explainer.compute_convergence_delta(
        attributions, start, x, feature_mask=mask, **arguments
    )
    assert delta.shape == (2,)
    assert delta.abs().max() < 1e-4
    off = explainer.compute_convergence_delta(
        tuple(2 * a for a in attributions), start, x, feature_mask=mask, **arguments
    )
    assert off.abs().min() > 0.1
