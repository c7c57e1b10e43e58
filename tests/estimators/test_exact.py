from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_patchshap import PatchShapError
from xai_patchshap.estimators import ExactShapley, shapley_estimator


def by_permutations(v: dict[frozenset[int], float], n: int) -> np.ndarray:
    """Shapley values by their other definition: average marginal contribution over orders."""
    phi = np.zeros(n)
    orders = list(permutations(range(n)))
    for order in orders:
        before: frozenset[int] = frozenset()
        for player in order:
            phi[player] += v[before | {player}] - v[before]
            before |= {player}
    return phi / len(orders)


def solve(game, n: int) -> np.ndarray:
    estimator = ExactShapley(n)
    return estimator.estimate(np.array([game(z) for z in estimator.coalitions])).values[:, 0]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_equals_the_average_over_all_permutations(n):
    rng = np.random.default_rng(n)
    estimator = ExactShapley(n)
    values = rng.normal(size=2**n)
    table = {
        frozenset(np.flatnonzero(z).tolist()): v
        for z, v in zip(estimator.coalitions, values, strict=True)
    }
    phi = estimator.estimate(values).values[:, 0]
    np.testing.assert_allclose(phi, by_permutations(table, n), atol=1e-12)


@pytest.mark.parametrize("n", [3, 8, 10])
def test_equals_shapiq(n):
    shapiq = pytest.importorskip("shapiq")
    table = np.random.default_rng(n).normal(size=2**n)
    bits = 1 << np.arange(n)
    computer = shapiq.ExactComputer(n_players=n, game=lambda z: table[z.astype(int) @ bits])
    theirs = computer("SV")
    ours = solve(lambda z: table[z @ bits], n)
    np.testing.assert_allclose(ours, [theirs[(i,)] for i in range(n)], atol=1e-10)


def test_additive_game():
    weights = np.array([3.0, -1.0, 0.5, 0.0, 7.25])
    np.testing.assert_allclose(solve(lambda z: 10 + z @ weights, 5), weights, atol=1e-12)


def test_unanimity_game_is_shared_equally_by_its_coalition():
    np.testing.assert_allclose(
        solve(lambda z: float(z[[1, 3, 4]].all()), 6), [0, 1 / 3, 0, 1 / 3, 1 / 3, 0], atol=1e-12
    )


def test_glove_game():
    # One left glove, two right gloves: 2/3 for the scarce one (Shapley, 1953).
    np.testing.assert_allclose(
        solve(lambda z: float(z[0] and (z[1] or z[2])), 3), [2 / 3, 1 / 6, 1 / 6], atol=1e-12
    )


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_efficiency_symmetry_dummy_and_relabelling(n, seed):
    rng = np.random.default_rng(seed)
    estimator = ExactShapley(n)
    bits = 1 << np.arange(n)
    table = rng.normal(size=(2**n, 2)) * 10 ** rng.uniform(-3, 3)
    table[:, 1] = table[np.arange(2**n) & ~1, 1]  # player 0 is a dummy in the second game
    values = table[estimator.coalitions @ bits]
    result = estimator.estimate(values)
    scale = np.abs(table).max()
    np.testing.assert_allclose(
        result.values.sum(0), result.full_values - result.base_values, atol=1e-13 * scale * 2**n
    )
    assert abs(result.values[0, 1]) <= 1e-13 * scale * 2**n
    order = rng.permutation(n)
    relabelled = estimator.estimate(table[estimator.coalitions[:, order] @ bits]).values
    # Player j of the new game is player k of the old one where order[k] == j.
    np.testing.assert_allclose(relabelled[order], result.values, atol=1e-12 * scale)


def test_reports_no_error_and_all_coalitions():
    result = ExactShapley(4).estimate(np.random.default_rng(0).normal(size=16))
    assert result.exact
    assert result.n_coalitions == 16
    assert not result.error_std.any()


def test_is_chosen_exactly_when_the_budget_covers_all_coalitions():
    table = np.random.default_rng(0).normal(size=128)
    for budget in (128, 127):
        estimator = shapley_estimator(7, budget)
        result = estimator.estimate(table[estimator.coalitions @ (1 << np.arange(7))])
        assert result.exact == (budget == 128)
    assert shapley_estimator(1, 2).estimate(np.array([1.0, 3.0])).values.tolist() == [[2.0]]


@pytest.mark.parametrize("n", [0, 21])
def test_refuses_a_number_of_players_it_cannot_enumerate(n):
    with pytest.raises(PatchShapError, match=r"n_players: got \d+; expected 1 to 20"):
        ExactShapley(n)


def test_refuses_values_that_do_not_fit():
    with pytest.raises(
        PatchShapError, match=r"values: got shape \(7,\); expected \(m, n_outputs\)"
    ):
        ExactShapley(3).estimate(np.zeros(7))
    with pytest.raises(PatchShapError, match="values: got NaN"):
        ExactShapley(1).estimate(np.array([0.0, np.nan]))
