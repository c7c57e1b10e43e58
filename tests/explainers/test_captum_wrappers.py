"""Captum's wrappers, metrics and pictures around our classes, and ours around Captum's methods.

What PatchKernelShap alone has to fulfil is in test_captum_contract.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import (
    DeepLift,
    FeatureAblation,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from captum.attr import visualization as viz
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from torch import nn

from xai_patchshap import InteractionShap, OwenBPT, PatchKernelShap, ViTShapleyAmortized
from xai_patchshap.evaluation import (
    deletion_curve,
    faithfulness,
    insertion_curve,
    masker_game,
    max_iou,
    sensitivity_n,
)
from xai_patchshap.plots import as_explanation, compare_maps, metric_curves, side_by_side
from xai_patchshap.samples import cifar10_explainer, cifar10_images

# Captum's gradient methods say what they do to the input.
pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor:UserWarning")

SIDE = 6
QUARTERS = (torch.arange(SIDE) // 3)[:, None] * 2 + torch.arange(SIDE) // 3  # ids 0..3


class Net(nn.Module):
    """Images to two outputs, with interactions everywhere."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4 * SIDE * SIDE, 2)

    def forward(self, x):
        return torch.tanh(self.head(self.relu(self.conv(x)).flatten(1)))


class Linear(nn.Module):
    """Images to one output, additive in the pixels."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return (x * self.weight).sum((1, 2, 3))[:, None]


class Surrogate(nn.Module):
    """What ViTShapleyAmortized explains, as a function of images with patches of NaN."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network.link(self.network.surrogate(x))


class Case:
    """An explainer with its model, its images, arguments of attribute, and its players."""

    def __init__(self, name):
        patched = {"feature_mask": QUARTERS[None, None], "n_samples": 16}
        self.target, self.players, self.hidden = 1, QUARTERS, 0.0
        if name == "ViTShapleyAmortized":
            network = cifar10_explainer()
            self.explainer, self.arguments = ViTShapleyAmortized(network), {}
            self.model, self.x = Surrogate(network), cifar10_images()[0][:2]
            steps = torch.arange(32) // 4
            self.players, self.hidden = steps[:, None] * 8 + steps, torch.nan
        else:
            torch.manual_seed(0)
            self.model = Net().double().eval()
            self.x = torch.rand(2, 3, SIDE, SIDE, dtype=torch.double)
            makers = {
                "PatchKernelShap": (PatchKernelShap, patched),
                "InteractionShap": (InteractionShap, patched),
                "OwenBPT": (OwenBPT, {"n_samples": 60}),
            }
            make, self.arguments = makers[name]
            self.explainer = make(self.model)
            if name == "OwenBPT":
                self.players = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE)
        self.n = int(self.players.max()) + 1
        self.arguments = {"target": self.target, **self.arguments}

    def attribute(self, x=None, **more):
        return self.explainer.attribute(self.x if x is None else x, **self.arguments, **more)

    def spread(self, attributions):
        """Values that add up: each player's divided by the number of its elements."""
        size = torch.bincount(self.players.flatten())[self.players] * self.x.shape[1]
        return attributions / size

    def hide(self, x, hidden):
        """Images (B, ...) without their hidden players (B, n), and which elements these are."""
        where = hidden[:, self.players][:, None].expand_as(x)
        return torch.where(where, self.hidden, x), where.to(x.dtype)


NAMES = ["PatchKernelShap", "InteractionShap", "OwenBPT", "ViTShapleyAmortized"]


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return Case(request.param)


# ----- our classes in Captum's tools -------------------------------------------------------


def test_noise_tunnel_averages_and_its_three_kinds_belong_together(case):
    kwargs = {"nt_samples": 3, "stdevs": 0.05, **case.arguments}
    found = {}
    for kind in ("smoothgrad", "smoothgrad_sq", "vargrad"):
        torch.manual_seed(3)
        found[kind] = NoiseTunnel(case.explainer).attribute(case.x, nt_type=kind, **kwargs)
    # The same three noisy copies, one after the other.
    torch.manual_seed(3)
    copies = case.x.repeat_interleave(3, 0)
    copies = copies + torch.normal(0.0, torch.full(copies.shape, 0.05))
    single = torch.stack([case.attribute(copies[i::3]) for i in range(3)])
    assert (single[0] - single[1]).abs().max() > 1e-4
    expected = {
        "smoothgrad": single.mean(0),
        "smoothgrad_sq": (single**2).mean(0),
        "vargrad": single.var(0, correction=0),
    }
    for kind, values in expected.items():
        torch.testing.assert_close(found[kind], values, atol=1e-5, rtol=1e-3)


def test_infidelity_of_the_spread_form_is_the_error_of_the_game(case):
    n_samples = 5
    hidden = torch.rand(len(case.x) * n_samples, case.n) < 0.5

    def perturb(x):
        shown, which = case.hide(x, hidden)
        return which, shown

    attributions = case.attribute()
    kwargs = {"target": case.target, "n_perturb_samples": n_samples}
    found = infidelity(case.model, perturb, case.x, case.spread(attributions), **kwargs)
    # By hand, from the players' values and the game.
    players = case.attribute(return_input_shape=False)
    rows = torch.arange(len(case.x)).repeat_interleave(n_samples)
    with torch.no_grad():
        whole = case.model(case.x)[rows, case.target]
        drop = whole - case.model(case.hide(case.x[rows], hidden)[0])[:, case.target]
    error = ((players[rows] * hidden).sum(1) - drop) ** 2
    expected = error.reshape(len(case.x), n_samples).mean(1)
    torch.testing.assert_close(found, expected.to(found.dtype), atol=1e-6, rtol=1e-4)
    if not isinstance(case.explainer, OwenBPT):  # its players are pixels
        repeated = infidelity(case.model, perturb, case.x, attributions, **kwargs)
        assert (repeated > 5 * found).all()


def test_infidelity_prefers_the_explanation_to_an_equal_split(case):
    hidden = torch.rand(len(case.x) * 30, case.n) < 0.5

    def perturb(x):
        shown, which = case.hide(x, hidden)
        return which, shown

    spread = case.spread(case.attribute())
    equal = spread.mean((1, 2, 3), keepdim=True).expand_as(spread)
    kwargs = {"target": case.target, "n_perturb_samples": 30}
    score = [infidelity(case.model, perturb, case.x, a, **kwargs) for a in (spread, equal)]
    assert score[0].mean() < score[1].mean()


@pytest.mark.parametrize("make", [OwenBPT, InteractionShap])
def test_infidelity_is_zero_on_a_linear_model_by_captums_own_convention(make):
    """``multiply_by_inputs`` divides perturbations by x - baseline: 1 where all is hidden."""
    torch.manual_seed(1)
    model = Linear(torch.randn(3, SIDE, SIDE)).double()
    x, baseline = torch.rand(2, 2, 3, SIDE, SIDE, dtype=torch.double)
    x = x + 1.5
    arguments = {"target": 0, "feature_mask": QUARTERS[None, None], "n_samples": 100}
    attributions = make(model).attribute(x, baseline, **arguments)
    spread = attributions / (3 * (SIDE // 2) ** 2)
    hidden = torch.rand(8, 4) < 0.5

    @infidelity_perturb_func_decorator(multiply_by_inputs=True)
    def hide(inputs, baselines):
        return torch.where(hidden[:, QUARTERS][:, None], baselines, inputs)

    kwargs = {"baselines": baseline, "target": 0, "n_perturb_samples": 4}
    assert infidelity(model, hide, x, spread, **kwargs).max() < 1e-10


def test_sensitivity_max_is_the_largest_relative_change(case):
    def brighter(x):  # three deterministic perturbations of each image
        return x * torch.tensor([0.9, 1.0, 1.05], dtype=x.dtype).repeat(2)[:, None, None, None]

    found = sensitivity_max(
        case.explainer.attribute, case.x, brighter, n_perturb_samples=3, **case.arguments
    )
    plain = case.attribute()
    size = plain.flatten(1).norm(dim=1)
    change = [(case.attribute(case.x * f) - plain).flatten(1).norm(dim=1) for f in (0.9, 1.05)]
    torch.testing.assert_close(found, torch.stack(change).amax(0) / size, atol=1e-5, rtol=1e-4)
    assert found.min() > 1e-4


@pytest.mark.parametrize("sign", ["all", "positive", "negative", "absolute_value"])
def test_visualize_image_attr_draws_what_we_attribute(case, sign):
    attributions = case.attribute()[0].permute(1, 2, 0).double().numpy()
    image = case.x[0].permute(1, 2, 0).double().numpy()
    # With 0, Captum's 0.01 * 100 can round above 1, and it finds no threshold.
    few = 1e-9
    figure, axes = viz.visualize_image_attr(
        attributions, image, method="heat_map", sign=sign, outlier_perc=few, use_pyplot=False
    )
    figure.canvas.draw()
    values = attributions.sum(2)
    part = {
        "all": values,
        "positive": values.clip(0),
        "negative": values.clip(max=0),
        "absolute_value": np.abs(values),
    }[sign]
    part = part / np.abs(part).max() * (-1 if sign == "negative" else 1)
    drawn = np.asarray(axes.images[-1].get_array())
    np.testing.assert_allclose(np.abs(drawn), np.abs(part), atol=1e-6)
    if sign == "all":
        np.testing.assert_allclose(drawn, part, atol=1e-6)


def test_visualize_image_attr_multiple(case):
    figure, axes = viz.visualize_image_attr_multiple(
        case.attribute()[0].permute(1, 2, 0).double().numpy(),
        case.x[0].permute(1, 2, 0).double().numpy(),
        ["original_image", "heat_map", "blended_heat_map"],
        ["all", "all", "absolute_value"],
        use_pyplot=False,
    )
    figure.canvas.draw()
    assert [len(panel.images) for panel in axes] == [1, 1, 2]


# ----- Captum's methods in our metrics and pictures ----------------------------------------


def linear_game(weight, x, baseline):
    """The additive game of the pixels of one image."""
    model = Linear(weight)

    def predict(pixels):
        with torch.no_grad():
            return model(torch.from_numpy(pixels))[:, 0].numpy()

    return model, masker_game(predict, x[0].numpy(), baseline[0].numpy(), pixel_axes=(1, 2))


@pytest.fixture
def linear():
    torch.manual_seed(2)
    x, baseline = torch.rand(2, 1, 3, SIDE, SIDE, dtype=torch.double)
    weight = torch.randn(3, SIDE, SIDE, dtype=torch.double)
    model, game = linear_game(weight, x, baseline)
    return model, game, x, baseline


@pytest.mark.parametrize("method", [IntegratedGradients, DeepLift, FeatureAblation])
@pytest.mark.filterwarnings("ignore:Setting forward:UserWarning")  # DeepLift's hooks
def test_methods_that_are_exact_on_a_linear_model_score_as_exact(method, linear):
    model, game, x, baseline = linear
    attributions = method(model).attribute(x, baselines=baseline, target=0)
    values = as_explanation(attributions, x).values[0, ..., 0].sum(-1)
    insertion = insertion_curve(game, values, steps=SIDE * SIDE)
    deletion = deletion_curve(game, values, steps=SIDE * SIDE)
    assert insertion.mae() < 1e-6
    assert deletion.mae() < 1e-6
    # No order of the pixels does better.
    best = np.sort(values.ravel())[::-1].cumsum()
    np.testing.assert_allclose(insertion.values[1:] - insertion.base_value, best, atol=1e-6)
    assert faithfulness(game, values, n_coalitions=200) == pytest.approx(1.0)
    assert sensitivity_n(game, values, 9, n_coalitions=200) == pytest.approx(1.0)


def test_a_worse_map_scores_worse(linear):
    model, game, x, baseline = linear
    exact = IntegratedGradients(model).attribute(x, baselines=baseline, target=0)
    gradient = Saliency(model).attribute(x, target=0, abs=False)
    maps = side_by_side({"exact": exact, "gradient": gradient}, x).values[0].sum(2)
    exact, gradient = maps[..., 0], maps[..., 1]
    assert insertion_curve(game, exact).auc() > insertion_curve(game, gradient).auc()
    assert deletion_curve(game, exact).auc() < deletion_curve(game, gradient).auc()
    assert faithfulness(game, exact) > faithfulness(game, gradient)


def test_every_method_finds_the_planted_rectangle():
    """A model that reads one rectangle puts all attribution there: max-IoU 1, for all methods."""
    weight = torch.zeros(3, SIDE, SIDE, dtype=torch.double)
    weight[:, 2:4, 1:5] = 1.0
    model, x = Linear(weight), torch.rand(1, 3, SIDE, SIDE, dtype=torch.double) + 0.5
    mask = torch.arange(SIDE * SIDE).reshape(1, 1, SIDE, SIDE)
    methods = {
        "Saliency": Saliency(model).attribute(x, target=0),
        "IntegratedGradients": IntegratedGradients(model).attribute(x, target=0),
        "Occlusion": Occlusion(model).attribute(x, (3, 1, 1), target=0),
        "FeatureAblation": FeatureAblation(model).attribute(x, target=0, feature_mask=mask),
        "PatchKernelShap": PatchKernelShap(model).attribute(
            x, target=0, feature_mask=mask, n_samples=80, perturbations_per_eval=80
        ),
        "OwenBPT": OwenBPT(model).attribute(
            x, target=0, n_samples=2000, perturbations_per_eval=100
        ),
    }
    found = side_by_side(methods, x)
    for k, name in enumerate(found.output_names):
        assert max_iou(found.values[0, ..., k].sum(-1), weight[0].numpy()).iou == 1.0, name


def test_feature_ablation_and_ours_agree_on_an_additive_model(linear):
    model, _, x, baseline = linear
    mask = QUARTERS[None, None]
    arguments = {"baselines": baseline, "target": 0, "feature_mask": mask}
    both = {
        "FeatureAblation": FeatureAblation(model).attribute(x, **arguments),
        "PatchKernelShap": PatchKernelShap(model).attribute(x, **arguments, n_samples=16),
        "InteractionShap": InteractionShap(model).attribute(x, **arguments, n_samples=16),
    }
    found = as_explanation(both, x, feature_mask=mask)
    for k in (1, 2):
        np.testing.assert_allclose(found.values[..., k], found.values[..., 0], atol=1e-6)
    total = (model(x) - model(baseline)).item()
    np.testing.assert_allclose(found.values.sum((0, 1, 2, 3)), [total] * 3, atol=1e-6)


def test_maps_of_a_layer_have_one_channel():
    torch.manual_seed(4)
    model, x = Net().eval(), torch.rand(2, 3, SIDE, SIDE)
    cam = LayerGradCam(model, model.conv).attribute(x, target=1)
    assert cam.shape == (2, 1, SIDE, SIDE)
    coarse = nn.functional.avg_pool2d(cam, 2)
    for given in (cam, LayerAttribution.interpolate(coarse, (SIDE, SIDE))):
        found = as_explanation(given, x)
        assert found.values.shape == (2, SIDE, SIDE, 3, 1)
        np.testing.assert_allclose(found.values.sum(3)[..., 0], given[:, 0].detach(), atol=1e-6)


def test_captums_maps_and_ours_in_one_picture_with_their_curves():
    torch.manual_seed(5)
    model, x = Net().eval(), torch.rand(1, 3, SIDE, SIDE)
    mask = QUARTERS[None, None]
    patches = PatchKernelShap(model).attribute(x, target=1, feature_mask=mask, n_samples=16)
    found = side_by_side(
        {
            "IntegratedGradients": IntegratedGradients(model).attribute(x, target=1),
            "PatchKernelShap": as_explanation(patches, x, feature_mask=mask),
        },
        x,
    )
    maps = {name: found.values[0, ..., k].sum(-1) for k, name in enumerate(found.output_names)}
    figure = compare_maps(found.data[0], maps, ["output 1"], percentile=100)
    drawn = [panel.images[1].get_array() for panel in figure.axes[1:3]]
    for values, array in zip(maps.values(), drawn, strict=True):
        np.testing.assert_array_equal(array, values)

    def predict(pixels):
        with torch.no_grad():
            return model(torch.from_numpy(pixels))[:, 1].numpy()

    game = masker_game(predict, x[0].numpy(), 0.0, pixel_axes=(1, 2))
    curves = {
        name: [insertion_curve(game, values), deletion_curve(game, values)]
        for name, values in maps.items()
    }
    for panel, kind in zip(metric_curves(curves).axes, (0, 1), strict=True):
        lines = [line for line in panel.lines if line.get_label().split(":")[0] in maps]
        for line, name in zip(lines, maps, strict=True):
            np.testing.assert_array_equal(line.get_ydata(), curves[name][kind].values)
