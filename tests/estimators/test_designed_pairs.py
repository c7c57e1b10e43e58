"""Pairs of coalitions chosen for what they tell, before any is evaluated."""

from __future__ import annotations

import numpy as np
import pytest

from xai_patchshap import PatchShapError
from xai_patchshap.estimators import (
    DesignedPairs,
    GaussianProcessShap,
    KernelShap,
    PairSampler,
    shapley_estimator,
)
from xai_patchshap.estimators.coalitions import designed_pairs as design
from xai_patchshap.estimators.indices import coalition_weights, diagonal_quadrature
from xai_patchshap.estimators.process.prior import HalfPrior


def canonical(halves: np.ndarray) -> list[bytes]:
    """One key for a pair, whichever half stands for it."""
    return [row.tobytes() for row in halves ^ halves[:, :1]]


@pytest.mark.parametrize(
    ("n", "n_pairs"),
    [(2, 1), (3, 3), (5, 15), (11, 1023), pytest.param(13, 4095, marks=pytest.mark.slow)],
)
def test_all_pairs_are_there_once(n, n_pairs):
    pairs = DesignedPairs(n, seed=3)
    halves, strata = pairs.take(n_pairs)
    assert pairs.n_pairs == n_pairs
    assert len(set(canonical(halves))) == len(halves) == n_pairs
    np.testing.assert_array_equal(strata + 1, halves.sum(axis=1))
    assert (2 * halves.sum(axis=1) <= n).all()


@pytest.mark.parametrize("n", [pytest.param(16, marks=pytest.mark.slow), 40])
def test_a_longer_design_begins_as_a_shorter_one(n):
    longest, _ = DesignedPairs(n).take(2100)
    assert len(set(canonical(longest))) == 2100
    # Of few players, short designs are without players alone.
    for n_pairs in (20, 127, 129, 511, 513, 1025, 2049) if n == 16 else (0, 1, 20, 319, 321, 1025):
        np.testing.assert_array_equal(DesignedPairs(n).take(n_pairs)[0], longest[:n_pairs])


def test_seeds_matter_and_none_draws_fresh_entropy_once():
    first, other = (DesignedPairs(20, seed=s).take(40)[0] for s in (0, 1))
    assert (first != other).any()
    fresh = DesignedPairs(20, seed=None)
    np.testing.assert_array_equal(fresh.take(30)[0], fresh.take(60)[0][:30])
    assert (fresh.take(60)[0] != DesignedPairs(20, seed=None).take(60)[0]).any()


def variance_left(halves: np.ndarray, process=design._PROCESSES[0]) -> float:
    """Sum of the variances of the Shapley values given some pairs, by plain linear algebra."""
    n = halves.shape[1]
    signs = np.vstack([np.ones(n), np.where(halves, 1.0, -1.0)])
    dot = signs @ signs.T / n
    _, strength, linear, noise = process
    kernel = np.sinh(strength / 2 * dot) / np.sinh(strength / 2) + linear * dot
    kernel[1:, 1:] += noise * np.eye(len(halves))
    parameters = np.r_[np.log(np.r_[np.full(n, strength / n), linear, noise]), 0.0]
    prior = HalfPrior(parameters, odd=True)
    part = prior.part(*diagonal_quadrature("SV", 1, 1, n), coalition_weights("SV", 1, 1, n))
    cross = prior.covariance(signs, part, np.arange(n)[:, None])
    return -float(np.einsum("pi,pi", cross, np.linalg.solve(kernel, cross)))


@pytest.mark.parametrize("residual", [False, True])
def test_every_pair_is_the_one_that_lowers_the_variance_most(residual):
    n = 7
    everything, _ = DesignedPairs(n, residual=residual).take(63)
    processes = design._PROCESSES_OF_RESIDUALS if residual else design._PROCESSES
    for process in processes:
        first = process[0] * n
        for step in range(first, first + 6):
            left = [variance_left(everything[[*range(step), i]], process) for i in range(step, 63)]
            assert left[0] == pytest.approx(min(left), abs=1e-6)


def test_residuals_have_a_design_of_their_own_where_there_is_one():
    plain, residual = (shapley_estimator(49, 200, residual=r).coalitions for r in (False, True))
    own = GaussianProcessShap(49, 200, sampling="a-optimal-residual").coalitions
    assert (plain != residual).any()
    np.testing.assert_array_equal(residual, own)
    for options in ({"sampling": "leverage"}, {"estimator": "kernel-shap"}):
        found = [shapley_estimator(49, 200, residual=r, **options).coalitions for r in (0, 1)]
        np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("n", "n_pairs"), [(16, 63), (16, 255), (49, 200), (100, 300)])
def test_a_design_leaves_less_variance_than_random_pairs(n, n_pairs):
    random = np.mean(
        [variance_left(PairSampler(n, s, "leverage").take(n_pairs)[0]) for s in (0, 1)]
    )
    # Both are relative to the variance before any data, which is left out.
    assert variance_left(DesignedPairs(n).take(n_pairs)[0]) < random


@pytest.mark.parametrize(("n_pairs", "n_singles"), [(15, 0), (19, 0), (20, 16), (40, 16)])
def test_players_alone_come_first_if_there_is_room_for_more(n_pairs, n_singles):
    halves, _ = DesignedPairs(16).take(n_pairs)
    np.testing.assert_array_equal(halves.sum(axis=1) == 1, np.arange(n_pairs) < n_singles)


def test_players_are_shown_about_equally_often():
    halves, _ = DesignedPairs(49).take(500)
    shown = halves.sum(axis=0)
    assert shown.std() < 0.6 * np.sqrt(shown.mean())  # of random pairs, about 0.9


def test_auto_is_the_gaussian_process_where_that_is_affordable():
    assert type(shapley_estimator(49, 500)) is GaussianProcessShap
    for n_players, budget in ((257, 600), (49, 8193)):
        assert type(shapley_estimator(n_players, budget)) is KernelShap
        with pytest.raises(PatchShapError, match="sampling: got 'a-optimal'; expected at most 256"):
            shapley_estimator(n_players, budget, 0, "a-optimal")


@pytest.mark.parametrize("sampling", [None, "leverage", "kernel", "modified_l2"])
def test_auto_takes_every_sampling_rule_of_either_estimator(sampling):
    for n_players in (12, 257):
        if n_players == 12 or sampling is not None:
            assert len(shapley_estimator(n_players, 100, 0, sampling).coalitions) == 100


def test_refuses_what_it_cannot_draw():
    with pytest.raises(PatchShapError, match="n_players: got 1; expected at least 2"):
        DesignedPairs(1)
    with pytest.raises(PatchShapError, match="n_pairs: got 16; expected between 0 and 15"):
        DesignedPairs(5).take(16)
