"""Doubtful input gets one warning that names the remedy; what is not doubtful gets none."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from xai_patchshap import InteractionShap, OwenBPT, PatchKernelShap, PatchMasker

X = torch.rand(1, 3, 14, 14)


def net(k=3, size=588):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, k))


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [(str(w.message), w.filename) for w in caught]


@pytest.mark.parametrize("kind", [PatchKernelShap, InteractionShap])
def test_few_evaluations_for_each_player(kind):
    explainer = kind(net())
    for call, name in (
        (lambda: explainer.attribute(X, target=0), "n_samples=25"),  # Captum's default
        (lambda: explainer(X, max_evals=195, silent=True), "max_evals=195"),
    ):
        ((message, file),) = said(call)
        assert message.startswith(f"{name} is few for 49 players")
        assert f"{name.split('=')[0]}=392" in message
        assert file == __file__
    assert not said(lambda: explainer.attribute(X, target=0, n_samples=196))
    assert not said(lambda: explainer(X, silent=True, max_evals=196))
    small = kind(net(), PatchMasker("2x2"))
    assert not said(lambda: small(X, max_evals=16, silent=True))  # all coalitions
    several = kind(net(), PatchMasker("5x5", [0.0, 0.5]))
    ((message, _),) = said(lambda: several(X, max_evals=150, silent=True))
    assert "max_evals=400" in message  # twice as many, once for each background


def test_trees_take_any_budget():
    assert not said(lambda: OwenBPT(net()).attribute(X, target=0))


@pytest.mark.parametrize("kind", [PatchKernelShap, InteractionShap, OwenBPT])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_whole_numbers_up_to_255_into_a_module(kind, dtype):
    x = (X * 255).round().to(dtype)
    explainer = kind(net(), PatchMasker("2x2"))
    ((message, file),) = said(lambda: explainer(x, max_evals=16, silent=True))
    assert "whole numbers from" in message
    assert "images / 255" in message
    assert file == __file__
    assert not said(lambda: explainer(x / 255, max_evals=16, silent=True))
    assert not said(lambda: explainer((X > 0.5).float(), max_evals=16, silent=True))
    own = kind(lambda z: z.float().mean((2, 3)), PatchMasker("2x2"))
    assert not said(lambda: own(x, max_evals=16, silent=True))
    if dtype == torch.float32:
        assert len(said(lambda: explainer.attribute(x, target=0, n_samples=16))) == 1


def test_players_by_the_ten_thousand():
    x = torch.rand(1, 10_001)
    model = net(1, 10_001)
    ((message, _),) = said(lambda: PatchKernelShap(model).attribute(x, target=0, n_samples=4))
    assert message.startswith("10,001 players, one for each element")
    assert "feature_mask=" in message
    mask = torch.arange(10_001)[None] // 5_000
    assert not said(
        lambda: PatchKernelShap(model).attribute(x, target=0, n_samples=8, feature_mask=mask)
    )


def test_a_list_of_three_numbers_as_a_background():
    colour = [0.485, 0.456, 0.406]
    ((message, file),) = said(lambda: PatchMasker((2, 2), colour))
    assert "three gray backgrounds" in message
    assert f"tuple {tuple(colour)}" in message
    assert file == __file__
    ((message, _),) = said(
        lambda: PatchKernelShap(net(), PatchMasker((2, 2), colour))(X, max_evals=48, silent=True)
    )
    for fine in (tuple(colour), np.array(colour), [0.0, 1.0], ["blur", "mean", 0.5]):
        assert not said(lambda fine=fine: PatchMasker((2, 2), fine))
