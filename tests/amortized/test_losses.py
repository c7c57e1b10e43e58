"""Coalitions of the Shapley kernel, and what the losses are minimal at."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
import torch

from xai_patchshap import PatchShapError
from xai_patchshap.amortized.losses import (
    fastshap_loss,
    kernel_pairs,
    unbiased_values,
)
from xai_patchshap.estimators import ExactShapley
from xai_patchshap.estimators.coalitions.shapley_kernel import (
    shapley_kernel_sizes,
    shapley_kernel_strata,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [2, 3, 8, 64])
def test_sizes_follow_the_shapley_kernel(n):
    kernel = np.array([(n - 1) / (comb(n, k) * k * (n - k)) * comb(n, k) for k in range(1, n)])
    assert np.allclose(shapley_kernel_sizes(n), kernel / kernel.sum())
    folded = kernel + kernel[::-1] * (np.arange(1, n) != n / 2)
    assert np.allclose(shapley_kernel_strata(n), folded[: n // 2] / kernel.sum())


@pytest.mark.parametrize("n", [2, 5, 64])
def test_histogram_of_sizes_is_that_of_the_kernel_and_none_is_empty_or_full(n):
    drawn = kernel_pairs(2000, 16, n, generator()).sum(-1).flatten()
    assert drawn.min() >= 1
    assert drawn.max() <= n - 1
    share = torch.bincount(drawn, minlength=n)[1:n] / len(drawn)
    expected = torch.from_numpy(shapley_kernel_sizes(n))
    # Five standard deviations of independent draws; stratified ones scatter less.
    assert ((share - expected).abs() <= 5 * (expected * (1 - expected) / len(drawn)).sqrt()).all()


def test_every_coalition_of_a_size_is_as_likely():
    drawn = kernel_pairs(20_000, 2, 4, generator()).reshape(-1, 4)
    codes = torch.bincount((drawn * torch.tensor([1, 2, 4, 8])).sum(1), minlength=16)
    for size in (1, 2, 3):
        same = [c for c in range(16) if c.bit_count() == size]
        share = codes[same] / codes[same].sum()
        assert (share - 1 / len(same)).abs().max() < 0.02


def test_each_game_has_a_draw_in_every_share_of_the_sizes():
    sizes = kernel_pairs(50, 4, 9, generator()).sum(-1).sort(dim=1).values
    below = torch.from_numpy(shapley_kernel_sizes(9).cumsum())
    for j in range(4):
        upper = below[sizes[:, j] - 1]
        lower = upper - torch.from_numpy(shapley_kernel_sizes(9))[sizes[:, j] - 1]
        assert (upper >= j / 4 - 1e-9).all()
        assert (lower <= (j + 1) / 4 + 1e-9).all()


def test_the_same_generator_gives_the_same_coalitions():
    assert torch.equal(kernel_pairs(3, 4, 6, generator(1)), kernel_pairs(3, 4, 6, generator(1)))
    assert not torch.equal(kernel_pairs(3, 4, 6, generator(1)), kernel_pairs(3, 4, 6, generator(2)))


def test_one_player_is_no_game():
    with pytest.raises(PatchShapError, match="n_players: got 1; expected at least 2"):
        shapley_kernel_sizes(1)


def random_game(n, n_outputs=2, seed=0):
    """All coalitions, their values, and the Shapley values."""
    coalitions = np.array(list(itertools.product([False, True], repeat=n)))
    table = np.random.default_rng(seed).normal(size=(2**n, n_outputs))
    exact = ExactShapley(n)
    lookup = {tuple(c): v for c, v in zip(coalitions, table, strict=True)}
    truth = exact.estimate(np.array([lookup[tuple(c)] for c in exact.coalitions]))
    return lookup, truth


def odd_values(lookup, halves):
    return torch.tensor(
        np.array([[lookup[tuple(h)] - lookup[tuple(~h)] for h in game] for game in halves.numpy()])
    )


def all_pairs_by_weight(n):
    """Each coalition but the empty and the full one, as often as its kernel weight says."""
    rows = []
    whole = np.lcm.reduce([comb(n, k) * k * (n - k) for k in range(1, n)])
    for c in itertools.product([False, True], repeat=n):
        k = sum(c)
        if 0 < k < n:
            rows += [c] * int(whole // (comb(n, k) * k * (n - k)))
    return torch.tensor(rows)[None]


def test_least_squares_over_all_pairs_is_minimal_at_the_shapley_values():
    n = 4
    lookup, truth = random_game(n)
    halves = all_pairs_by_weight(n)
    odd = odd_values(lookup, halves)
    phi = torch.tensor(truth.values)[None].requires_grad_(True)
    (gradient,) = torch.autograd.grad(fastshap_loss(phi, halves, odd), phi)
    phi = phi.detach()
    # Along the efficient plane nothing is left to gain.
    assert (gradient - gradient.mean(1, keepdim=True)).abs().max() < 1e-12
    kappa = 2 / sum(1 / k for k in range(1, n))
    shift = torch.randn(n, 2, generator=generator(), dtype=torch.float64)
    shift -= shift.mean(0)
    more = fastshap_loss(phi + shift, halves, odd) - fastshap_loss(phi, halves, odd)
    assert float(more) == pytest.approx(kappa * float(shift.square().sum()), rel=1e-9)


def test_unbiased_values_over_all_pairs_are_the_shapley_values():
    lookup, truth = random_game(4, seed=3)
    halves = all_pairs_by_weight(4)
    found = unbiased_values(
        halves,
        odd_values(lookup, halves),
        torch.tensor(truth.full_values - truth.base_values)[None],
    )
    assert np.allclose(found[0], truth.values)


def test_unbiased_values_from_two_pairs_are_right_on_average_and_efficient():
    lookup, truth = random_game(5, seed=4)
    halves = kernel_pairs(20_000, 2, 5, generator())
    difference = torch.tensor(truth.full_values - truth.base_values).expand(20_000, 2)
    found = unbiased_values(halves, odd_values(lookup, halves), difference)
    assert torch.allclose(found.sum(1), difference)
    error = found.std(0) / 20_000**0.5
    assert ((found.mean(0) - torch.tensor(truth.values)).abs() < 5 * error).all()
