from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_patchshap import PatchShapError
from xai_patchshap.estimators import ExactShapley, KernelShap
from xai_patchshap.estimators.coalitions.sampled_pairs import SAMPLING_RULES


def smooth_game(n: int, seed: int) -> np.ndarray:
    """A table of values with main effects, interactions of every order and two outputs."""
    rng = np.random.default_rng(seed)
    z = np.arange(2**n)[:, None] >> np.arange(n) & 1
    score = z @ rng.normal(size=(n, 3)) + 0.5 * np.tanh(z @ rng.normal(size=(n, 3)))
    first = 1 / (1 + np.exp(-score.max(axis=1)))
    second = np.einsum("si,ij,sj->s", z, rng.normal(size=(n, n)), z) / n + rng.normal(size=2**n) / 8
    return np.stack([first, second], axis=1)


def exact(table: np.ndarray) -> np.ndarray:
    n = len(table).bit_length() - 1
    estimator = ExactShapley(n)
    return estimator.estimate(table[estimator.coalitions @ (1 << np.arange(n))]).values


def run(table: np.ndarray, budget: int, seed: int = 0, **options):
    n = len(table).bit_length() - 1
    estimator = KernelShap(n, budget, seed, **options)
    return estimator.estimate(table[estimator.coalitions @ (1 << np.arange(n))])


@given(st.integers(2, 11), st.integers(0, 10**6), st.sampled_from(SAMPLING_RULES), st.data())
def test_efficiency_holds_at_every_budget(n, seed, rule, data):
    table = smooth_game(n, seed) * 10.0 ** data.draw(st.integers(-4, 4))
    result = run(table, data.draw(st.integers(2, 2**n)), seed, sampling=rule)
    total = table[-1] - table[0]
    np.testing.assert_allclose(result.values.sum(0), total, atol=1e-13 * np.abs(table).max() * n)


@pytest.mark.parametrize("rule", SAMPLING_RULES)
@pytest.mark.parametrize("n", [2, 5, 12, 49, 196])
def test_an_additive_game_is_exact_once_the_system_has_full_rank(n, rule):
    weights = np.random.default_rng(n).normal(size=n)
    estimator = (
        KernelShap(n, min(2**n - 1, 3 * n + 4), sampling=rule) if n > 2 else KernelShap(2, 4)
    )
    result = estimator.estimate(estimator.coalitions @ weights + 3.0)
    np.testing.assert_allclose(result.values[:, 0], weights, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_is_exact_when_every_pair_is_drawn(n):
    table = smooth_game(n, 0)
    result = run(table, 2**n)
    np.testing.assert_allclose(result.values, exact(table), atol=1e-10)
    assert result.exact
    assert not result.error_std.any()


@pytest.mark.parametrize("n", [1100, 5000])
def test_thousands_of_players(n):
    estimator = KernelShap(n, 30)
    result = estimator.estimate(estimator.coalitions @ np.arange(float(n)))
    assert result.values.sum() == pytest.approx(n * (n - 1) / 2)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_game_without_an_even_part_is_not_taken_for_additive(offset):
    # v(S) + v(N\\S) is constant here although players interact; only the fit can tell.
    n = 20
    weights = np.random.default_rng(0).normal(size=n)
    for seed in range(10):
        estimator = KernelShap(n, 2 * (n + 4) + 2, seed)
        z = np.where(estimator.coalitions, 1.0, -1.0)
        result = estimator.estimate(1e-3 * np.tanh(z @ weights / 2) + offset)
        many = KernelShap(n, 20_000, seed)
        z = np.where(many.coalitions, 1.0, -1.0)
        truth = many.estimate(1e-3 * np.tanh(z @ weights / 2)).values
        assert (np.abs(result.values - truth) < 6 * result.error_std).all()
        assert result.error_std.min() > 1e-5


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("rule", SAMPLING_RULES)
@pytest.mark.parametrize(("n", "budget"), [(8, 64), (10, 200), (12, 256), (12, 2048)])
def test_intervals_cover_the_truth_and_errors_average_out(n, budget, rule):
    table = smooth_game(n, 7)
    truth = exact(table)
    results = [run(table, budget, seed, sampling=rule) for seed in range(200)]
    errors = np.array([r.values - truth for r in results])
    stds = np.array([r.error_std for r in results])
    covered = (np.abs(errors) <= 1.96 * stds).mean(axis=(0, 1))
    assert ((covered > 0.90) & (covered < 0.99)).all(), covered
    # Unbiased: on average over the runs, less than a third of one run's standard error.
    assert (np.abs(errors.mean(0)) < stds.mean(0) / 3).all()
    # The standard errors are those seen across the runs.
    ratio = stds.mean(0) / errors.std(0)
    assert ((ratio > 0.75) & (ratio < 1.35)).all(), ratio


@pytest.mark.parametrize("budget", [2, 3, 4, 8, 20, 26, 27, 30, 40])
def test_too_small_a_budget_is_shrunk_and_says_that_it_is_unsure(budget):
    table = smooth_game(14, 3)
    truth = exact(table)
    errors, equal_errors, covered = [], [], []
    for seed in range(30):
        result = run(table, budget, seed)
        errors.append(np.mean((result.values - truth) ** 2, axis=0))
        equal = (result.full_values - result.base_values) / 14
        equal_errors.append(np.mean((equal - truth) ** 2, axis=0))
        covered.append(np.abs(result.values - truth) <= 1.96 * result.error_std)
    # Plain least squares is up to a hundred times worse than the equal split here.
    assert (np.mean(errors, 0) <= 1.2 * np.mean(equal_errors, 0)).all()
    assert np.mean(covered) > 0.75


def test_with_nothing_but_the_ends_the_split_is_equal_and_the_error_unknown():
    result = run(smooth_game(6, 0), 2)
    assert np.ptp(result.values, axis=0).max() == 0
    assert np.isinf(result.error_std).all()


def test_more_budget_is_more_accurate():
    table = smooth_game(12, 1)
    truth = exact(table)
    mse = [
        np.mean([(run(table, b, s).values - truth) ** 2 for s in range(20)])
        for b in (64, 256, 1024, 3072)
    ]
    assert mse[0] > mse[1] > mse[2] > mse[3]


def test_a_prefix_of_a_large_sample_equals_a_small_sample():
    table = smooth_game(10, 2)
    bits = 1 << np.arange(10)
    large = KernelShap(10, 500, seed=4)
    early = large.estimate(table[large.coalitions[:101] @ bits])
    small = run(table, 100, seed=4)
    np.testing.assert_array_equal(early.values, small.values)
    np.testing.assert_array_equal(early.error_std, small.error_std)


def test_outputs_do_not_influence_each_other():
    table = smooth_game(10, 5)
    for budget in (16, 80):
        both, one = run(table, budget), run(table[:, 1:], budget)
        np.testing.assert_allclose(both.values[:, 1:], one.values, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(both.error_std[:, 1:], one.error_std, rtol=1e-9, atol=1e-12)


def test_a_dummy_player_is_within_its_error_of_zero():
    table = smooth_game(10, 6)
    table = table[np.arange(2**10) & ~1]
    result = run(table, 300)
    assert (np.abs(result.values[0]) <= 4 * result.error_std[0]).all()


def test_the_coalitions_come_in_pairs_after_the_two_ends():
    z = KernelShap(9, 60).coalitions
    assert len(z) == 60
    assert not z[0].any()
    assert z[1].all()
    np.testing.assert_array_equal(z[2::2], ~z[3::2])


def test_never_more_coalitions_than_the_budget():
    for budget in range(2, 40):
        assert len(KernelShap(20, budget).coalitions) <= budget


def test_agrees_with_shapiq_within_the_errors():
    shapiq = pytest.importorskip("shapiq")
    table = smooth_game(10, 8)[:, 0]
    bits = 1 << np.arange(10)
    theirs = shapiq.KernelSHAP(10, pairing_trick=True, random_state=0).approximate(
        600, lambda z: table[z.astype(int) @ bits]
    )
    ours = run(table[:, None], 600)
    gap = ours.values[:, 0] - [theirs[(i,)] for i in range(10)]
    assert (np.abs(gap) <= 6 * ours.error_std[:, 0]).all()


def test_error_messages():
    with pytest.raises(
        PatchShapError, match="budget: got 1; expected a whole number of at least 2 evaluations"
    ):
        KernelShap(5, 1)
    with pytest.raises(PatchShapError, match=r"values: got shape \(1,\)"):
        KernelShap(5, 10).estimate(np.zeros(1))
    with pytest.raises(PatchShapError, match="values: got NaN or infinite"):
        KernelShap(5, 10).estimate(np.full(10, np.inf))


# ----- a prior that the sample corrects ------------------------------------------------------


def _noisy_game(n=8, seed=0):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(2**n, 2)) + np.array(
        [[np.sum(np.nonzero([(r >> i) & 1 for i in range(n)])[0])] * 2 for r in range(2**n)]
    )

    def game(coalitions):
        return table[coalitions @ (1 << np.arange(n))]

    everything = KernelShap(n, 2**n)
    return game, everything.estimate(game(everything.coalitions)).values


def test_a_prior_solves_the_ridge_normal_equations():
    n, ridge = 8, 5.0
    game, _ = _noisy_game(n)
    estimator = KernelShap(n, 22, seed=1)
    values = game(estimator.coalitions)
    prior = np.random.default_rng(2).normal(size=(n, 2))
    difference = values[1] - values[0]
    prior += (difference - prior.sum(0)) / n
    found = estimator.estimate(values, prior, ridge).values
    design = estimator._design_of(10)
    signs, weight = np.where(design.halves, 1.0, -1.0), design.weight / design.weight.mean()
    odd = values[2::2] - values[3::2]
    # Unknowns of the efficient plane, in a basis of it.
    basis = np.linalg.svd(np.ones((1, n)))[2][1:].T
    x = signs @ basis
    left = x.T @ (weight[:, None] * x) + ridge * np.eye(n - 1)
    right = x.T @ (weight[:, None] * (odd - signs @ prior))
    assert np.allclose(found, prior + basis @ np.linalg.solve(left, right))


def test_the_truth_as_prior_is_left_alone_by_a_strong_ridge_and_efficiency_holds():
    game, truth = _noisy_game()
    estimator = KernelShap(8, 30)
    values = game(estimator.coalitions)
    kept = estimator.estimate(values, truth, 1e9).values
    assert np.allclose(kept, truth, atol=1e-6)
    some = estimator.estimate(values, truth + 3.0, 2.0).values  # a prior that is not efficient
    assert np.allclose(some.sum(0), values[1] - values[0])


def test_a_weak_ridge_towards_a_prior_is_least_squares():
    game, _ = _noisy_game()
    estimator = KernelShap(8, 60)
    values = game(estimator.coalitions)
    plain = estimator.estimate(values)
    found = estimator.estimate(values, np.zeros((8, 2)), 1e-9)
    assert np.allclose(found.values, plain.values, atol=1e-6)


def test_every_pair_is_exact_whatever_the_prior():
    game, truth = _noisy_game()
    estimator = KernelShap(8, 256)
    found = estimator.estimate(game(estimator.coalitions), np.ones((8, 2)), 1e6)
    assert found.exact
    assert np.allclose(found.values, truth)


def test_an_additive_game_is_found_in_spite_of_its_prior():
    weights = np.arange(8.0)
    estimator = KernelShap(8, 40)
    found = estimator.estimate(estimator.coalitions @ weights, np.ones(8), 100.0)
    assert np.allclose(found.values[:, 0], weights)


def test_without_coalitions_the_prior_is_the_answer():
    estimator = KernelShap(4, 2)
    prior = np.array([1.0, 2.0, 3.0, 4.0])
    for ridge in (None, 3.0):
        found = estimator.estimate(np.array([0.0, 10.0]), prior, ridge)
        assert np.allclose(found.values[:, 0], prior)
        assert np.isinf(found.error_std).all()


def test_a_prior_of_another_shape_is_refused():
    estimator = KernelShap(4, 2)
    with pytest.raises(PatchShapError, match=r"prior: got shape \(3,\); expected finite numbers"):
        estimator.estimate(np.array([0.0, 10.0]), np.zeros(3), 1.0)
