"""What a user sees first: reprs, several outputs by either face, how classes are called."""

from __future__ import annotations

import inspect
import io

import numpy as np
import pytest
import shap
import torch
from torch import nn

from xai_patchshap import (
    InteractionShap,
    OwenBPT,
    PatchKernelShap,
    PatchMasker,
    PatchShapError,
    ViTShapleyAmortized,
    grid_players,
)
from xai_patchshap.models import NamedModel
from xai_patchshap.players.trees import axis_tree

CLASSES = (PatchKernelShap, OwenBPT, InteractionShap, ViTShapleyAmortized)
NAMES = ["cat", "dog", "cow", "hen"]
SHARED = ["model", "masker", "link", "output_names", "feature_names", "seed", "autocast"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x):
        return torch.tanh(self.head(x.flatten(1)))


def made(kind, network, **options):
    if kind is ViTShapleyAmortized:
        return kind(network, **options), torch.rand(2, 3, 32, 32)
    return kind(Net(), PatchMasker((2, 2)), **options), torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize("kind", CLASSES)
def test_constructors_share_their_options_in_one_order(kind):
    parameters = inspect.signature(kind).parameters
    assert list(parameters)[:7] == SHARED
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[2:])
    # An object is called as shap's explainers are.
    called = inspect.signature(kind.__call__).parameters
    assert "max_evals" in called
    assert not hasattr(kind.__new__(kind), "__signature__")


def test_a_subclass_without_a_constructor_has_that_of_its_base():
    class Own(PatchKernelShap):
        pass

    assert inspect.signature(Own) == inspect.signature(PatchKernelShap)
    buffer = io.BytesIO()
    PatchKernelShap(max, seed=3, tolerance=0.5).save(buffer)
    buffer.seek(0)
    for loader in (shap.Explainer, PatchKernelShap):
        buffer.seek(0)
        again = loader.load(buffer)
        assert (again.seed, again.tolerance) == (3, 0.5)


@pytest.mark.parametrize(
    ("explainer", "shown"),
    [
        (lambda: PatchKernelShap(Net()), "PatchKernelShap(Net)"),
        (
            lambda: PatchKernelShap(
                Net(), PatchMasker("7x7", "blur"), seed=3, tolerance=0.1, output_names=NAMES
            ),
            "PatchKernelShap(Net, players=7x7, background=blur, output_names=4 names, seed=3, "
            "tolerance=0.1)",
        ),
        (
            lambda: OwenBPT(max, 0.5, hierarchy=["bpt", "axis"]),
            "OwenBPT(max, background=0.5, hierarchy=['bpt', 'axis'])",
        ),
        (lambda: InteractionShap(Net(), index="STII"), "InteractionShap(Net, index='STII')"),
        (lambda: PatchMasker(), "PatchMasker(background=0.0)"),
        (
            lambda: PatchMasker(np.zeros((4, 4), int), ["mean", torch.zeros(3, 4, 4)], "NCHW"),
            "PatchMasker(players=ndarray (4, 4), background=[mean, Tensor (3, 4, 4)], layout=NCHW)",
        ),
        (lambda: PatchMasker(8, clustering="bpt"), "clustering=bpt)"),
        (lambda: grid_players(8, 8, grid=(2, 2)), "Players(4 on 8 x 8: "),
        (lambda: axis_tree(np.arange(16).reshape(4, 4)), "PartitionTree(16 players)"),
        (
            lambda: NamedModel(Net(), "", (8, 8), class_names=tuple(NAMES), scale="logit"),
            "NamedModel(Net, 8x8 pixels, logit, 4 classes: cat, dog, cow, ...)",
        ),
    ],
)
def test_objects_say_what_they_are(explainer, shown):
    assert shown in repr(explainer())
    assert len(repr(explainer())) < 150


def test_results_say_what_they_are():
    explainer, x = made(InteractionShap, None)
    interactions = explainer.explain_interactions(x, outputs=[0, 1], silent=True)
    exact = "Interactions(SII of order 2, 4 players, 2 outputs, 16 coalitions, exact)"
    assert repr(interactions[0]) == exact
    run = explainer.last_run
    assert run.interactions == interactions
    assert repr(run.estimates[0]) == "Estimate(4 players, 2 outputs, 16 coalitions, exact)"
    assert repr(run).startswith("Run(2 inputs, 4 players, 2 outputs, 16 evaluations each, ")


@pytest.mark.parametrize("kind", CLASSES)
def test_several_outputs_by_captums_face_are_those_of_single_targets(kind, cifar10_network):
    explainer, x = made(kind, cifar10_network)
    several = explainer.attribute_outputs(x, [3, 1], budget=40, perturbations_per_eval=8)
    assert explainer.last_run.evaluations.max() <= 40
    assert explainer.last_run.outputs.tolist() == [[3, 1], [3, 1]]
    for target, found in zip([3, 1], several, strict=True):
        single = explainer.attribute(x, target=target, n_samples=40, perturbations_per_eval=8)
        torch.testing.assert_close(found, single, rtol=1e-4, atol=1e-6)
    every = explainer.attribute_outputs((x,), budget=40)
    assert len(every) == (10 if kind is ViTShapleyAmortized else 4)
    torch.testing.assert_close(every[3][0], several[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_largest_outputs_by_both_faces(kind, cifar10_network):
    explainer, x = made(kind, cifar10_network)
    explainer.attribute_outputs(x, "top2", budget=40)
    top = explainer.last_run.outputs
    other = shap.Explanation.argsort.flip[:2]
    for method in (explainer, explainer.explain_players):
        by_text = method(x, max_evals=40, outputs="top2", silent=True).values
        by_shap = method(x, max_evals=40, outputs=other, silent=True).values
        np.testing.assert_array_equal(by_text, by_shap)
    np.testing.assert_array_equal(explainer.last_run.outputs, top)


def test_a_small_budget_is_doubted_by_the_name_that_its_user_typed():
    x = torch.rand(1, 3, 56, 56)
    explainer = PatchKernelShap(lambda x: x.mean((2, 3)))
    with pytest.warns(UserWarning, match=r"^budget=20 is few for 49 players.*Give budget=392"):
        explainer.attribute_outputs(x, "top1", budget=20)


def test_outputs_by_name():
    explainer, x = made(PatchKernelShap, None, output_names=NAMES)
    by_name = explainer(x, outputs=["Cow", 1], silent=True)
    assert by_name.output_names == ["cow", "dog"]
    np.testing.assert_array_equal(by_name.values, explainer(x, outputs=[2, 1], silent=True).values)
    assert explainer(x, outputs="hen", silent=True).output_names == ["hen"]
    for outputs, came in (
        ("emu", "'emu', which names 0"),
        (["cat", "top2"], "'top2', which names"),
    ):
        with pytest.raises(PatchShapError, match=f"outputs: got {came}"):
            explainer(x, outputs=outputs, silent=True)
    with pytest.raises(PatchShapError, match="outputs: got 'top5'; expected 'top1' to 'top4'"):
        explainer.attribute_outputs(x, "top5", budget=16)
    with pytest.raises(PatchShapError, match="budget: got 1; expected a whole number of at least"):
        explainer.attribute_outputs(x, "top1", budget=1)


def test_one_score_is_explained_whatever_it_is_called():
    explainer = PatchKernelShap(lambda x: x.sum((1, 2, 3)), PatchMasker((2, 2)))
    x = torch.rand(2, 3, 8, 8)
    (only,) = explainer.attribute_outputs(x, budget=16)
    torch.testing.assert_close(only, explainer.attribute(x, n_samples=16))
    assert explainer(x, outputs="top1", silent=True).values.shape == (2, 8, 8, 3)
    with pytest.raises(PatchShapError, match="outputs: got 'top2'; expected None or 'top1'"):
        explainer(x, outputs="top2", silent=True)


def test_maps_have_no_several_outputs():
    explainer = PatchKernelShap(lambda x: x[:, :2], PatchMasker((2, 2)))
    with pytest.raises(PatchShapError, match=r"model: got an output of shape \(2, 2, 8, 8\)"):
        explainer.attribute_outputs(torch.rand(2, 3, 8, 8), "top1", budget=16)


def test_a_warm_start_survives_a_call_that_fails(monkeypatch):
    x = torch.rand(1, 3, 8, 8)
    net = Net()
    calls, limit = [], [10**9]

    def model(images):
        calls.append(len(images))
        if len(calls) > limit[0]:
            raise ValueError("no more")
        return net(images)

    explainer = OwenBPT(model, warm_start=True, n_trees=1)
    first = explainer.attribute(x, target=1, n_samples=60)
    limit[0] = len(calls) + 2
    with pytest.raises(ValueError, match="no more"):
        explainer.attribute(x, target=2, n_samples=60)
    limit[0] = 10**9
    again = explainer.attribute(x, target=1, n_samples=60)
    torch.testing.assert_close(again, first)
    assert explainer.last_run.evaluations.tolist() == [1]

    # Ctrl-C in the middle of choosing leaves no half of a tree behind.
    import heapq

    pop, pops = heapq.heappop, []

    def interrupted(heap):
        pops.append(1)
        if len(pops) == 5:
            raise KeyboardInterrupt
        return pop(heap)

    monkeypatch.setattr(heapq, "heappop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explainer.attribute(x, target=1, n_samples=200)
    monkeypatch.undo()
    _, delta = explainer.attribute(x, target=1, n_samples=200, return_convergence_delta=True)
    assert abs(float(delta)) < 1e-12


def test_budgets_of_our_choice_are_not_captums():
    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(PatchShapError, match="n_samples: got 'auto'; expected a whole number"):
        PatchKernelShap(Net()).attribute(x, target=0, n_samples="auto")
