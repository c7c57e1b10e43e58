"""Budgets and outputs beyond memory are refused at once; what fits takes little of it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import shap
import torch

from xai_patchshap import (
    InteractionShap,
    OwenBPT,
    PatchKernelShap,
    PatchMasker,
    PatchShapError,
    ViTShapleyAmortized,
    game,
    slic,
)
from xai_patchshap.estimators import units as _units

CLASSES = [PatchKernelShap, InteractionShap, OwenBPT]
HUGE = [10**12, 2**63, 2**70, np.int64(10**12)]


def model(x):
    return x.flatten(1)[:, :3]


def first_evaluations(explainer, calls=1):
    """Let the model answer so often, for a whole image, and no more."""
    original, made = explainer.model, []

    def counted(x):
        made.append(len(x))
        assert len(made) <= calls, "evaluated before the size was checked"
        return original(x)

    explainer.model = counted
    return explainer


@pytest.mark.parametrize("budget", HUGE)
@pytest.mark.parametrize("kind", CLASSES)
def test_a_budget_beyond_memory_is_refused_before_it_is_spent(kind, budget):
    images = torch.rand(1, 3, 64, 64)  # OwenBPT plays by 4,096 pixels
    explainer = first_evaluations(kind(model), calls=2 if kind is OwenBPT else 1)
    with pytest.raises(PatchShapError, match=r"budget: got .* GiB; .*n_samples= or max_evals="):
        explainer.attribute(images, target=0, n_samples=budget)
    explainer = first_evaluations(kind(model), calls=2 if kind is OwenBPT else 1)
    with pytest.raises(PatchShapError, match=r"budget: got .* GiB; .*n_samples= or max_evals="):
        explainer(images, max_evals=budget, silent=True)


def test_a_refinement_beyond_memory_is_refused(cifar10_network):
    budget = 10**12
    explainer = ViTShapleyAmortized(cifar10_network)
    images = torch.rand(1, 3, 32, 32)
    with pytest.raises(PatchShapError, match=r"budget: got .* evaluations of 64 players, .* GiB"):
        explainer.attribute(images, target=0, n_samples=budget)
    with pytest.raises(PatchShapError, match=r"budget: got .* evaluations of 64 players, .* GiB"):
        explainer(images, max_evals=budget, silent=True)


@pytest.mark.parametrize("budget", HUGE)
@pytest.mark.parametrize("kind", CLASSES)
def test_few_players_are_exact_however_huge_the_budget(kind, budget):
    images = torch.rand(1, 3, 4, 4)
    explainer = kind(model, PatchMasker((2, 2)))
    explanation = explainer(images, max_evals=budget, silent=True)
    assert explainer.last_run.estimates[0].exact
    small = kind(model, PatchMasker((2, 2)))(images, max_evals=64, silent=True)
    np.testing.assert_allclose(explanation.values, small.values, atol=1e-12)


@pytest.mark.parametrize("kind", [PatchKernelShap, InteractionShap])
def test_a_process_beyond_memory_is_refused(kind):
    explainer = first_evaluations(kind(model, estimator="gaussian-process"))
    with pytest.raises(PatchShapError, match="budget: got 1,000,000 evaluations of 49 players"):
        explainer(torch.rand(1, 3, 14, 14), max_evals=10**6, silent=True)


def test_results_beyond_memory_are_refused():
    def wide(x):
        return x.flatten(1)[:, :1].expand(-1, 10**6)

    explainer = first_evaluations(InteractionShap(wide, PatchMasker((14, 14))))
    with pytest.raises(PatchShapError, match=r"outputs: got 1,000,0.* of 196 players, .* GiB"):
        explainer.explain_interactions(torch.rand(1, 3, 14, 14), max_evals=50, silent=True)


def test_trees_orders_and_superpixels_by_the_thousand_million():
    images = torch.rand(1, 3, 8, 8)
    with pytest.raises(PatchShapError, match=r"n_trees: got 1000000000; expected .* at most 32"):
        OwenBPT(model, n_trees=10**9)
    with pytest.raises(PatchShapError, match="order: got 1000000000; expected at most 16"):
        InteractionShap(model, PatchMasker((4, 4)), order=10**9)(images, max_evals=50, silent=True)
    pytest.importorskip("skimage")
    image = np.random.default_rng(0).random((8, 8, 3))
    np.testing.assert_array_equal(slic(2**70)(image), slic(64)(image))
    OwenBPT(model, n_guides=10**9)(images, max_evals=20, silent=True)


@pytest.mark.parametrize(
    ("estimator", "link", "most"),
    [
        ("kernel-shap", shap.links.identity, 1.7),
        ("kernel-shap", np.arctan, 1.7),
        # What the process is learned with takes as much as this small table.
        pytest.param("gaussian-process", np.arctan, 2.5, marks=pytest.mark.slow),
    ],
)
def test_values_are_in_memory_once(estimator, link, most, monkeypatch):
    def wide(x):
        return x.flatten(1)[:, :12] @ weights

    monkeypatch.setattr(_units, "_BLOCK_ENTRIES", 2**14)
    monkeypatch.setattr(game, "_ENTRIES", 2**14)
    weights = torch.rand(12, 1500)
    explainer = PatchKernelShap(wide, PatchMasker((4, 3)), link=link, estimator=estimator)
    x = torch.rand(1, 3, 4, 3)
    explainer.explain_players(x, max_evals=20, silent=True)
    tracemalloc.start()
    try:
        explainer.explain_players(x, max_evals=600, batch_size=8, silent=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * 600 * 1500 * 8


def test_many_players_take_little_memory():
    n = 20_000
    weights = torch.rand(n)
    explainer = PatchKernelShap(lambda x: x @ weights)
    x = torch.rand(1, n)
    tracemalloc.start()
    try:
        with pytest.warns(UserWarning, match="20,000 players"):
            explainer.attribute(x, n_samples=25)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 700 * n  # Captum's KernelShap takes about 800 bytes for each
