"""The predicted game: its values, its Shapley values, and that it moves no regression."""

from __future__ import annotations

from itertools import combinations, product
from math import factorial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from tests.helpers import random_images, tiny_vit
from torch import nn

from xai_patchshap.amortized import ShapleyViT
from xai_patchshap.amortized.losses import fastshap_loss, game_loss, kernel_pairs
from xai_patchshap.amortized.predicted_game import (
    PredictedGame,
    Prediction,
    additively_normalised,
)


def game_of(n=5, n_outputs=3, n_images=2, seed=0, *, probability=True, strength=1.0):
    draw = torch.Generator().manual_seed(seed)
    weights = torch.rand(n_images, n, generator=draw) + 0.2
    return PredictedGame(
        strength * torch.randn(n_images, n, n_outputs, generator=draw),
        weights / weights.mean(1, keepdim=True),
        torch.rand(n_images, generator=draw) + 0.1,
        torch.randn(n_outputs, generator=draw),
        probability,
    )


def brute_force(game):
    """Shapley values (B, n, K) by their definition."""
    n = game.weights.shape[1]
    every = torch.tensor(list(product([False, True], repeat=n)))
    values = game.values(every.expand(len(game.weights), -1, -1))
    place = {tuple(row.tolist()): k for k, row in enumerate(every)}
    found = torch.zeros_like(game.evidence)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            share = factorial(size) * factorial(n - 1 - size) / factorial(n)
            for inside in combinations(others, size):
                without = tuple(j in inside for j in range(n))
                added = tuple(j in inside or j == i for j in range(n))
                found[:, i] += share * (values[:, place[added]] - values[:, place[without]])
    return found


@pytest.mark.parametrize("probability", [True, False])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_values_are_those_of_the_formula(n_outputs, probability):
    game = game_of(4, n_outputs, probability=probability)
    shown = torch.tensor([[0, 0, 0, 0], [1, 0, 1, 1], [1, 1, 1, 1]]).bool()
    found = game.values(shown.expand(2, -1, -1))
    for b, (k, s) in product(range(2), enumerate(shown)):
        m = game.mass[b]
        pooled = (1 + m) * game.evidence[b, s].sum(0) / (m + game.weights[b, s].sum() / 4)
        logits = game.empty + pooled
        if probability:
            logits = logits.sigmoid() if n_outputs == 1 else logits.softmax(-1)
        assert torch.allclose(found[b, k], logits, atol=1e-6)


@pytest.mark.parametrize(
    ("n_orders", "atol"), [(300, 0.025), pytest.param(2000, 0.01, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("probability", [True, False])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_shapley_values_are_those_of_the_definition(n_outputs, probability, n_orders, atol):
    game = game_of(5, n_outputs, probability=probability)
    found = game.shapley_values(n_orders=n_orders)
    assert torch.allclose(found, brute_force(game), atol=atol)


@pytest.mark.parametrize(
    ("n", "atol"), [(200, 0.04), pytest.param(1500, 0.015, marks=pytest.mark.slow)]
)
def test_few_random_sizes_are_unbiased(n, atol):
    game = game_of(5)
    draw = torch.Generator().manual_seed(1)
    mean = sum(game.shapley_values(2, 1, draw) for _ in range(n)) / n
    assert torch.allclose(mean, brute_force(game), atol=atol)


@pytest.mark.parametrize("probability", [True, False])
@pytest.mark.parametrize("n_outputs", [1, 4])
def test_the_first_order_is_that_of_weak_patches(n_outputs, probability):
    game = game_of(40, n_outputs, probability=probability, strength=0.01)
    truth = game.shapley_values(n_orders=60)
    error = (additively_normalised(game.first_order(), truth.sum(1)) - truth).square().sum()
    assert error < 0.01 * (truth - truth.mean(1, keepdim=True)).square().sum()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(2, 70),
    n_outputs=st.integers(1, 4),
    probability=st.booleans(),
)
def test_shapley_values_add_up_and_images_are_apart(seed, n, n_outputs, probability):
    game = game_of(n, n_outputs, 3, seed, probability=probability)
    values = game.shapley_values(n_orders=2)
    whole = torch.ones(3, 1, n).bool()
    gap = game.values(whole)[:, 0] - game.values(~whole)[:, 0]
    assert torch.allclose(values.sum(1), gap, atol=1e-4)
    assert torch.allclose(game[1:2].shapley_values(n_orders=2), values[1:2], atol=1e-5)
    assert torch.allclose(game[1:2].first_order(), game.first_order()[1:2], atol=1e-5)


def test_a_patch_without_evidence_or_weight_gets_nothing():
    game = game_of(6)
    game.evidence[:, 2], game.weights[:, 2] = 0, 0
    values = game.shapley_values(n_orders=500)
    assert values[:, 2].abs().max() < 0.01 * values.abs().max()
    assert game.first_order()[:, 2].abs().max() == 0


def with_predictions(network, seed=0, std=0.3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nn.init.normal_(network.head[2].weight, std=std)
        for module in network.mixed.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.1)
    return network.eval()


@pytest.mark.parametrize("probability", [True, False])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_network_predicts_a_game_with_the_right_ends(n_outputs, probability):
    vit = tiny_vit(num_classes=n_outputs)
    network = ShapleyViT(vit, n_frozen=2, probability=probability, predicts="game", taps=[1])
    network, images = with_predictions(network), random_images()
    prediction = network.predict(images)
    whole = torch.ones(4, 1, 16).bool()
    assert torch.allclose(prediction.game.values(whole)[:, 0], prediction.full, atol=1e-5)
    empty = prediction.game.values(~whole)[:, 0]
    assert torch.allclose(empty, network.null.expand_as(empty), atol=1e-6)
    assert torch.allclose(prediction.game.weights.mean(1), torch.ones(4), atol=1e-5)
    values, full = network(images)
    assert torch.allclose(values.sum(1), full - network.null, atol=1e-5)
    assert torch.allclose(full, network.whole_images(images), atol=1e-6)
    assert torch.allclose(network(images[:1])[0], values[:1], atol=1e-5)


def test_the_first_game_knows_no_patch_from_another():
    network = ShapleyViT(tiny_vit(), predicts="game", n_frozen=2, taps=(1,)).eval()
    values = network(random_images())[0]
    assert torch.allclose(values, values.mean(1, keepdim=True).expand_as(values), atol=1e-3)
    game = network.predict(random_images()).game
    assert torch.allclose(game.evidence, game.evidence.mean(1, keepdim=True), atol=1e-5)


def test_taps_reach_the_prediction():
    vit, images = tiny_vit(), random_images()
    plain, tapped = ShapleyViT(vit, n_frozen=2), ShapleyViT(vit, n_frozen=2, taps=(1,))
    tapped.load_state_dict(plain.state_dict(), strict=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nn.init.normal_(plain.head[2].weight)
    tapped.head.load_state_dict(plain.head.state_dict())
    assert torch.equal(tapped(images)[0], plain(images)[0])  # its weights are zero at first
    nn.init.normal_(tapped.mixed[0][1].weight)
    assert not torch.allclose(tapped(images)[0], plain(images)[0], atol=1e-3)
    assert not vit.blocks[0]._forward_hooks
    assert not tapped.surrogate.transformer.blocks[0]._forward_hooks


def test_the_control_variate_moves_no_minimiser():
    """Whatever the predicted game: the gradient at the true values is zero on average."""
    game, predicted = game_of(5, n_images=1, seed=3), game_of(5, n_images=1, seed=4)
    truth = brute_force(game)
    draw = torch.Generator().manual_seed(0)
    halves = kernel_pairs(1, 40_000, 5, draw)
    odd = game.values(halves) - game.values(~halves)
    beside = (truth - predicted.first_order()).requires_grad_()
    full, null = game.values(torch.ones(1, 1, 5))[:, 0], game.values(torch.zeros(1, 1, 5))[0, 0]
    gradients = []
    for seed in range(30):
        game_loss(Prediction(full, null, beside, predicted), halves, odd, seed).backward()
        gradients.append(beside.grad.clone())
        beside.grad = None
    elsewhere = torch.zeros_like(truth).requires_grad_()
    fastshap_loss(additively_normalised(elsewhere, full - null), halves, odd).backward()
    assert torch.stack(gradients).mean(0).norm() < 0.05 * elsewhere.grad.norm()


def test_a_good_game_takes_the_noise_out_of_the_regression():
    game = game_of(12, n_images=1, seed=5, strength=1.0)
    halves = kernel_pairs(1, 2000, 12, torch.Generator().manual_seed(0))
    odd = game.values(halves) - game.values(~halves)
    full, null = game.values(torch.ones(1, 1, 12))[:, 0], game.values(torch.zeros(1, 1, 12))[0, 0]
    values = game.shapley_values(n_orders=500)
    alone = fastshap_loss(values, halves, odd)
    beside = values - game.first_order()
    with_game = game_loss(Prediction(full, null, beside, game), halves, odd, 0)
    assert with_game < 0.5 * alone
