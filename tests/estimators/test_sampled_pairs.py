from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_patchshap import PatchShapError
from xai_patchshap.estimators import PairSampler
from xai_patchshap.estimators.coalitions.sampled_pairs import SAMPLING_RULES


def keys(halves: np.ndarray) -> list[bytes]:
    """One key for each pair, whichever half stands for it."""
    canonical = np.where(halves[:, :1], halves, ~halves)
    return [row.tobytes() for row in canonical]


@given(st.integers(2, 9), st.integers(0, 2**63 - 1), st.sampled_from(SAMPLING_RULES), st.data())
def test_pairs_are_distinct_and_a_longer_sample_extends_a_shorter(n, seed, rule, data):
    sampler = PairSampler(n, seed, rule)
    m = data.draw(st.integers(0, sampler.n_pairs))
    halves, strata = sampler.take(m)
    assert len(set(keys(halves))) == m
    assert (halves.sum(1) == strata + 1).all()
    assert (2 * halves.sum(1) <= n).all()
    shorter, _ = PairSampler(n, seed, rule).take(m // 2)
    np.testing.assert_array_equal(shorter, halves[: m // 2])


@pytest.mark.parametrize("n", [2, 3, 6, 7, 10])
def test_the_whole_sequence_is_every_pair_once(n):
    sampler = PairSampler(n, seed=1)
    halves, _ = sampler.take(sampler.n_pairs)
    assert len(set(keys(halves))) == 2 ** (n - 1) - 1


@pytest.mark.parametrize("rule", SAMPLING_RULES)
def test_sizes_get_their_share_to_within_three_pairs(rule):
    sampler = PairSampler(60, seed=3, rule=rule)
    m = 400
    _, strata = sampler.take(m)
    count = np.bincount(strata, minlength=30)
    full = count == sampler.n_pairs_of
    rate = sampler.rate[~full] / sampler.rate[~full].sum()
    expected = rate * count[~full].sum()
    assert np.abs(count[~full] - expected).max() <= 3


def test_rules_follow_their_formulas():
    n, k = 11, np.arange(1, 6)
    kernel, leverage, geometric = (
        PairSampler(n, rule=r).rate for r in ("kernel", "leverage", "modified_l2")
    )
    np.testing.assert_allclose(kernel * k * (n - k), (kernel * k * (n - k))[0])
    np.testing.assert_allclose(leverage, 1 / 5)
    product = np.sqrt(kernel * leverage)
    np.testing.assert_allclose(geometric, product / product.sum())


def test_small_sizes_are_enumerated_in_full_when_the_budget_covers_them():
    halves, strata = PairSampler(49, seed=0).take(1500)
    assert (strata == 0).sum() == 49
    np.testing.assert_array_equal(halves[strata == 0].sum(0), np.ones(49))


def test_players_and_coalitions_are_drawn_uniformly_within_a_size():
    # Sizes that are drawn by rejection, and the middle size where halves are canonical.
    n, size = 22, 11
    assert comb(n, size) // 2 > 20_000
    counts = np.zeros((n, n))
    total = 0
    for seed in range(40):
        halves, strata = PairSampler(n, seed, "leverage").take(400)
        z = np.where(halves[strata == size - 1], 1.0, -1.0)
        counts += z.T @ z
        total += len(z)
    off = counts[~np.eye(n, dtype=bool)] / total
    # E[z_i z_j] = -1 / (n - 1) for halves of n; 6 standard deviations of slack.
    assert np.abs(off + 1 / (n - 1)).max() < 6 / np.sqrt(total)


def test_a_large_size_that_is_drawn_in_full_ends():
    sampler = PairSampler(18, seed=0, rule="leverage")
    halves, _ = sampler.take(sampler.n_pairs)
    assert len(set(keys(halves))) == sampler.n_pairs


def test_seeds_matter_and_none_draws_fresh_entropy():
    first, _ = PairSampler(30, seed=0).take(50)
    other, _ = PairSampler(30, seed=1).take(50)
    assert not np.array_equal(first, other)
    fresh = [PairSampler(30, seed=None).take(50)[0] for _ in range(2)]
    assert not np.array_equal(*fresh)


def test_refuses_what_it_cannot_draw():
    with pytest.raises(PatchShapError, match="n_players: got 1; expected at least 2"):
        PairSampler(1)
    with pytest.raises(PatchShapError, match="sampling: got 'uniform'; expected one of"):
        PairSampler(5, rule="uniform")
    with pytest.raises(PatchShapError, match="n_pairs: got 16; expected between 0 and 15"):
        PairSampler(5).take(16)
