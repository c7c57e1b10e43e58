"""Rarer siblings of what the other files of the field hold: containers, targets, backgrounds."""

from __future__ import annotations

import copy
from collections import OrderedDict, UserDict, UserList, defaultdict, deque, namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from xai_patchshap import (
    InteractionShap,
    PatchKernelShap,
    PatchMasker,
    PatchShapError,
    ViTShapleyAmortized,
    explain_image,
    grid_players,
    samples,
)
from xai_patchshap.evaluation.compare import attributed
from xai_patchshap.evaluation.image_games import ImageGames

SIDE = 4
X = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
MASK = (torch.arange(SIDE) // 2)[:, None].expand(SIDE, SIDE)
NET = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3)).eval()

Pair = namedtuple("Pair", "weights name")


@dataclass(frozen=True)
class Context:
    weights: torch.Tensor


ARGUMENTS = {
    "namedtuple": (lambda w: Pair(w, "a"), lambda a: a.weights),
    "tuple of lists": (lambda w: ([w],), lambda a: a[0][0]),
    "OrderedDict": (lambda w: OrderedDict(w=w), lambda a: a["w"]),
    "defaultdict": (lambda w: defaultdict(list, w=w), lambda a: a["w"]),
    "UserDict": (lambda w: UserDict(w=w), lambda a: a["w"]),
    "deque": (lambda w: deque([w]), lambda a: a[0]),
    "dataclass": (Context, lambda a: a.weights),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_further_arguments_in_any_container_stay_as_they_are(name):
    pack, unpack = ARGUMENTS[name]

    def model(x, argument):
        weights = unpack(argument).add_(1.0)
        return (x.flatten(1) ** 2).sum(1) * weights.sum()

    weights = torch.ones(2)
    packed = pack(weights)
    options = {"n_samples": 4, "feature_mask": MASK}
    values = PatchKernelShap(model).attribute(X, additional_forward_args=(packed,), **options)
    expected = PatchKernelShap(lambda x: 4 * (x.flatten(1) ** 2).sum(1)).attribute(X, **options)
    torch.testing.assert_close(values, expected)
    assert torch.equal(weights, torch.ones(2))
    assert type(packed) is type(pack(weights))


def test_the_delta_of_a_model_that_reuses_the_memory_of_its_output():
    memory = torch.zeros(2, 3, dtype=torch.float64)

    net = copy.deepcopy(NET).double()

    def reusing(x):
        return memory.copy_(net(x))

    x, options = X.double(), {"target": 1, "feature_mask": MASK}
    values = PatchKernelShap(net).attribute(x, n_samples=4, **options)
    delta = PatchKernelShap(reusing).compute_convergence_delta(values, 0, x, **options)
    torch.testing.assert_close(delta, torch.zeros(2).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "method", ["integrated_gradients", "saliency", "input_x_gradient", "smoothgrad"]
)
def test_gradients_of_a_model_that_writes_into_its_input(method):
    weights = torch.arange(16.0).reshape(4, 4)
    images = X[:, :1].clone()

    def found(forward):
        games = ImageGames(forward, PatchMasker(players=2), images, [[0], [0]])
        return attributed(method, games).values

    writing = found(lambda x: (x.mul_(2) * weights).flatten(1).sum(1, keepdim=True))
    clean = found(lambda x: (x * 2 * weights).flatten(1).sum(1, keepdim=True))
    np.testing.assert_allclose(writing, clean, rtol=1e-5)
    assert torch.equal(images, X[:, :1])


class Heads:
    """A sequence by its methods alone."""

    def __init__(self, *heads):
        self.heads = heads

    def __len__(self):
        return len(self.heads)

    def __getitem__(self, i):
        return self.heads[i]


@pytest.mark.parametrize("pack", [lambda *h: deque(h), lambda *h: UserList(h), Heads])
def test_heads_in_any_sequence_are_never_read_as_images(pack):
    explainer = PatchKernelShap(lambda x: pack(x.sum((1, 2, 3)), x.amax((1, 2, 3))))
    for call in (
        lambda: explainer(X, max_evals=20, batch_size=2, silent=True),
        lambda: explainer.attribute(X, target=0, n_samples=4, feature_mask=MASK),
    ):
        with pytest.raises(PatchShapError, match=r"of 2 tensors or arrays of shape.*torch\.stack"):
            call()


def test_what_an_output_is_called():
    def refusal(output):
        with pytest.raises(PatchShapError) as caught:
            PatchKernelShap(lambda _: output).attribute(X, n_samples=4, feature_mask=MASK)
        return str(caught.value)

    assert "lambda x: model(x).cls." in refusal(SimpleNamespace(step=3, cls=torch.ones(2, 5)))
    assert "a list (Decimal)" in refusal([Decimal(1), Decimal(2)])
    assert "rows of different lengths" in refusal([[1.0, 2.0], [3.0]])
    assert "an output of shape (1, 2)" in refusal(torch.ones(1, 2))


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_masked_tensors():
    masked = torch.masked.masked_tensor(X, X > 0.5)
    explainer = PatchKernelShap(NET, PatchMasker((2, 2)))
    for call in (
        lambda: explainer(masked, silent=True),
        lambda: explainer.attribute(masked, target=0),
        lambda: PatchMasker(background=masked),
        lambda: PatchKernelShap(lambda x: masked[:, 0, 0])(X, silent=True),
    ):
        with pytest.raises(PatchShapError, match=r"got a masked tensor.*to_tensor\(0.0\)"):
            call()


@pytest.mark.parametrize(
    "target",
    [
        np.array([1, 2]),
        np.array([1, 2], dtype="uint16"),
        [np.int64(1), np.int64(2)],
        list(torch.tensor([1, 2])),
        torch.tensor([1, 2], dtype=torch.int8),
        torch.tensor([1, 2], dtype=torch.uint8),
    ],
)
def test_targets_of_every_kind_of_whole_number(target):
    options = {"n_samples": 4, "feature_mask": MASK}
    explainer = PatchKernelShap(NET)
    values = explainer.attribute(X, target=target, **options)
    for i, one in enumerate((1, 2)):
        for single in (one, np.int64(one), np.array(one), np.uint8(one)):
            own = explainer.attribute(X[i : i + 1], target=single, **options)
            torch.testing.assert_close(own, values[i : i + 1])
    delta = explainer.compute_convergence_delta(values, 0, X, target=target, feature_mask=MASK)
    torch.testing.assert_close(delta, torch.zeros(2).double(), atol=1e-5, rtol=0)
    pairs = InteractionShap(explainer.model).attribute(X, target=target, **options)
    torch.testing.assert_close(pairs, values)


@pytest.mark.parametrize("target", [np.array([0.0, 1.0]), torch.tensor([True, False]), 1.0])
def test_targets_that_are_no_indices(target):
    with pytest.raises(PatchShapError, match=r"target: got.*expected indices"):
        PatchKernelShap(NET).attribute(X, target=target, feature_mask=MASK)


def test_backgrounds_by_tensors_and_what_none_are():
    def values(background):
        masker = PatchMasker((2, 2), background)
        return PatchKernelShap(lambda x: x.mean((2, 3)), masker)(X, silent=True).values

    colour = torch.tensor([0.25, 0.5, 0.75])
    expected = values((0.25, 0.5, 0.75))
    for given in (tuple(colour), tuple(colour.bfloat16()), (0.25, torch.tensor(0.5), 0.75)):
        np.testing.assert_allclose(values(given), expected)
    for given, message in (
        (None, "got None; expected numbers"),
        (colour.to_sparse(), r"Use x.to_dense\(\)"),
        (colour + 0j, "Use x.real"),
    ):
        with pytest.raises(PatchShapError, match=f"background: .*{message}"):
            PatchMasker(background=given)


def test_tables_of_objects_say_what_to_do():
    table = pd.DataFrame(np.eye(3)).astype("Int64")
    explainer = PatchKernelShap(lambda x: x.sum(1))
    with pytest.raises(PatchShapError, match=r"DataFrame; expected numbers. Use x.astype\(float\)"):
        explainer(table, silent=True)
    assert explainer(table.astype(float), silent=True).values.shape == (3, 3)


def test_whole_numbers_in_the_second_input_are_warned_of():
    class Two(nn.Module):
        def forward(self, table, image):
            return table.sum(1) + image.flatten(1).sum(1)

    masks = torch.tensor([[0]]), torch.tensor([[[[1]]]])
    with pytest.warns(UserWarning, match="give images / 255") as caught:
        PatchKernelShap(Two()).attribute(
            (X[:, 0, 0], (255 * X).round()), n_samples=4, feature_mask=masks
        )
    assert len(caught) == 1


def test_the_line_that_numbers_groups_works():
    mask = MASK * 10**9
    explainer = PatchKernelShap(lambda x: x.sum((1, 2, 3)))
    with pytest.raises(PatchShapError, match=r"np.unique\(mask, return_inverse=True\)\[1\]"):
        explainer.attribute(X, n_samples=4, feature_mask=mask)
    for given in (mask, mask.numpy()):
        closed = np.unique(given, return_inverse=True)[1].reshape(given.shape)
        assert explainer.attribute(X, n_samples=4, feature_mask=closed).shape == X.shape


@pytest.mark.parametrize("names", ["abc", b"abc", {"a", "b", "c"}])
def test_class_names_are_no_text(names):
    with pytest.raises(PatchShapError, match="class_names: got"):
        explain_image(lambda x: x.mean((2, 3)), X[0], class_names=names)


@pytest.mark.parametrize("given", [float("nan"), (), [], [0.5, np.full(3, np.inf)]])
def test_backgrounds_without_numbers_are_found_by_the_constructor(given):
    with pytest.raises(PatchShapError, match=r"background: got (NaN|an empty)"):
        PatchMasker(background=given)


def test_the_players_of_a_grid_are_given_by_their_mask():
    players = grid_players(SIDE, SIDE, grid=(2, 2))
    with pytest.raises(PatchShapError, match=r"players: got an object.*Give players\.labels"):
        PatchMasker(players)
    PatchMasker(players.labels)


def test_explain_image_takes_lists_of_tensors():
    def model(x):
        return x.float().mean((2, 3))  # of tensors alone

    for images in (list(X), list(X.bfloat16())):
        explanation = explain_image(model, images, players=(2, 2), budget=16, labels=[0])
        assert explanation.values.shape == (2, SIDE, SIDE, 3, 1)
    with pytest.raises(PatchShapError, match="image: got a tensor of torch"):
        explain_image(samples.cifar10_classifier(), X[0] + 0j)
    with pytest.raises(PatchShapError, match=r"image: .*different shapes"):
        explain_image(model, [X[0], X[0, :, 1:]])


def test_threads_whose_explainers_share_a_network():
    network, images = samples.cifar10_explainer(), samples.cifar10_images()[0][:3]
    network.train()
    try:
        want = [
            ViTShapleyAmortized(network).attribute(x[None], target=0, n_samples=2) for x in images
        ]

        def explain(i):
            one = ViTShapleyAmortized(network)
            return one.attribute(images[i % 3][None], target=0, n_samples=2)

        with ThreadPoolExecutor(8) as pool:
            for i, values in enumerate(pool.map(explain, range(24))):
                torch.testing.assert_close(values, want[i % 3])
        assert network.training
    finally:
        network.eval()


@pytest.mark.parametrize(("n_axes", "line"), [(3, "mean(2)"), (4, "mean((2, 3))")])
def test_the_line_that_scores_maps_of_any_number_of_axes_works(n_axes, line):
    def model(x):
        return x.mean(3) if n_axes == 3 else x

    for call in (
        lambda: PatchKernelShap(model).attribute(X, target=1, n_samples=4, feature_mask=MASK),
        lambda: PatchKernelShap(model, PatchMasker((2, 2)))(X, silent=True),
    ):
        with pytest.raises(PatchShapError) as caught:
            call()
        assert f"lambda x: model(x).{line}." in str(caught.value)
    mended = eval(f"lambda x: model(x).{line}", {"model": model})
    assert PatchKernelShap(mended, PatchMasker((2, 2)))(X, silent=True).values.shape[-1] == 3
    place = (1,) * (n_axes - 1)
    values = PatchKernelShap(model).attribute(X, target=place, n_samples=4, feature_mask=MASK)
    assert values.shape == X.shape


def test_grids_are_for_images_and_outputs_have_no_names_there():
    explainer = PatchKernelShap(lambda x: x.flatten(1), PatchMasker((2, 2)))
    with pytest.raises(PatchShapError, match=r"players: got .*Grids, patches and superpixels are"):
        explainer.attribute(torch.rand(1, 3, 2, 4, 4), target=0, n_samples=10)
    with pytest.raises(PatchShapError, match=r"outputs: got .cat.*names that output_names= gives"):
        explainer(X, outputs="cat", silent=True)
