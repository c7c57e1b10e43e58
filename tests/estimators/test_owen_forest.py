"""Forests of Owen trees: weights, standard errors and whose turn it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.estimators.games import of_table, random_table, random_tree, smooth, spend

from xai_patchshap import PatchShapError
from xai_patchshap.estimators import OwenForest, OwenRefiner
from xai_patchshap.players.trees import axis_tree, linkage_tree


def start(kind, trees, game, guides=None, **options):
    n = (trees[0] if kind is OwenForest else trees).n
    ends = game(np.array([[False] * n, [True] * n]))
    return kind(trees, ends[0], ends[1], guides, **options)


def refined(tree, game, budget=10**9, most=10**9, **options):
    refiner = start(OwenRefiner, tree, game, **options)
    spend(refiner, game, budget, most)
    return refiner


@pytest.mark.parametrize("n_trees", [1, 2, 4])
def test_an_exact_forest_is_the_mean_over_its_trees(n_trees, brute_owen):
    table = random_table(7, 2, 0)
    trees = [random_tree(7, seed) for seed in range(n_trees)]
    forest = start(OwenForest, trees, of_table(table))
    spend(forest, of_table(table), 10**9)
    estimate = forest.estimate()
    assert forest.exact
    assert estimate.exact
    expected = np.mean([brute_owen(t.children, table) for t in trees], axis=0)
    np.testing.assert_allclose(estimate.values, expected, atol=1e-12)
    assert not estimate.error_std.any()
    np.testing.assert_array_equal(estimate.base_values, table[0])
    np.testing.assert_array_equal(estimate.full_values, table[-1])
    assert forest.estimate(1).values.shape == forest.estimate(1).error_std.shape == (7, 1)
    assert forest.estimate(1).base_values.shape == forest.estimate(1).full_values.shape == (1,)


def test_one_tree_is_sure_of_nothing_until_it_is_exact():
    game = smooth(20, 0)
    forest = start(OwenForest, [random_tree(20, 0)], game)
    for budget in (2, 3, 50):
        spend(forest, game, budget)
        estimate = forest.estimate()
        assert np.isinf(estimate.error_std).all()
        assert not estimate.exact
        alone = refined(random_tree(20, 0), game, budget).values()
        np.testing.assert_array_equal(estimate.values, alone)


@pytest.mark.parametrize(
    ("head_start", "budgets"),
    [
        (0, [(2, 1), (4, 1), (6, 2), (7, 2), (8, 3), (100, 3), (301, 3)]),
        (40, [(2, 1), (40, 1), (41, 1), (46, 2), (160, 3), (301, 3)]),
    ],
)
def test_a_forest_weighs_the_trees_that_have_begun_by_what_was_spent(head_start, budgets):
    game = smooth(60, 0)
    trees = [random_tree(60, seed) for seed in range(3)]
    forest = start(OwenForest, trees, game, head_start=head_start)
    total = (game(np.ones((1, 60))) - game(np.zeros((1, 60))))[0]
    for budget, used in budgets:
        spend(forest, game, budget)
        spent = np.array([r.n_coalitions - 2 for r in forest.refiners])
        assert (spent > 0).sum() == (0 if budget == 2 else used)
        assert 2 + spent.sum() == forest.n_coalitions == forest.estimate().n_coalitions
        assert budget - 1 <= forest.n_coalitions <= budget
        estimate = forest.estimate()
        np.testing.assert_allclose(estimate.values.sum(0), total, atol=1e-12)
        each = np.array(
            [refined(t, game, 2 + s).values() for t, s in zip(trees, spent, strict=True)][:used]
        )
        weights = spent[:used] / spent.sum() if budget > 2 else np.ones(1)
        mean = np.einsum("t,tpk->pk", weights, each)
        np.testing.assert_allclose(estimate.values, mean, atol=1e-12)
        if used > 1:
            # Unbiased for values of equal variance: it is that times the sum of w^2.
            variance = np.einsum("t,tpk->pk", weights, (each - mean) ** 2)
            variance /= 1 - (weights**2).sum()
            expected = np.sqrt(variance * (weights**2).sum())
            np.testing.assert_allclose(estimate.error_std, expected, atol=1e-12)
            assert np.isfinite(estimate.error_std).all()
        else:
            assert np.isinf(estimate.error_std).all()


def test_equal_shares_give_the_standard_error_of_a_mean():
    game = smooth(60, 1)
    forest = start(OwenForest, [random_tree(60, s) for s in range(4)], game, head_start=0)
    # Of every tree the root and its two parts, each in two contexts.
    spend(forest, game, 2 + 4 * 10)
    assert {r.n_coalitions for r in forest.refiners} == {12}
    each = np.array([r.values() for r in forest.refiners])
    np.testing.assert_allclose(forest.estimate().values, each.mean(0), atol=1e-12)
    expected = each.std(0, ddof=1) / 2
    np.testing.assert_allclose(forest.estimate().error_std, expected, atol=1e-12)


@pytest.mark.parametrize("head_start", [0, 100, 128])
def test_the_first_tree_has_a_head_start_and_then_all_advance_side_by_side(head_start):
    game = smooth(200, 0)
    trees = [random_tree(200, seed) for seed in range(3)]
    forest = start(OwenForest, trees, game, head_start=head_start)
    widest = 2 * max(8, 600 // 16)  # evaluations of one round, which is never cut short
    while forest.n_coalitions < 1500:
        forest.tell(game(forest.ask(2)))
        spent = [r.n_coalitions - 2 for r in forest.refiners]
        if sum(spent[1:]):
            assert head_start <= spent[0] <= max(head_start, *spent[1:]) + widest
            assert abs(spent[1] - spent[2]) <= widest
        if spent[1] > head_start + widest:
            assert max(spent) - min(spent) <= widest
    assert min(spent) > head_start + widest


def test_the_head_start_is_100_by_default():
    game = smooth(200, 0)
    forest = start(OwenForest, [random_tree(200, seed) for seed in range(2)], game)
    spend(forest, game, 2 + 100)
    assert forest.refiners[1].n_coalitions == 2
    spend(forest, game, 2 + 100 + 16)
    assert forest.refiners[1].n_coalitions > 2


class Growers:
    """Functions that grow random trees and remember what they were given."""

    def __init__(self, n, seeds):
        self.given = []
        self.functions = [self._grower(n, seed) for seed in seeds]

    def _grower(self, n, seed):
        def grow(values):
            self.given.append(values)
            return random_tree(n, seed)

        return grow


def test_trees_are_grown_from_the_first_guide_whenever_three_times_as_much_is_spent():
    game = smooth(200, 0)
    growers = Growers(200, [1, 2, 3])
    forest = start(
        OwenForest, [random_tree(200, 0)], game, [2, 0], head_start=40, grow=growers.functions
    )
    begun = {}
    while forest.n_coalitions < 1500:
        before = forest.estimate().values[:, 2]
        coalitions = forest.ask(2)
        while len(growers.given) > len(begun):
            begun[len(begun)] = forest.n_coalitions - 2
            np.testing.assert_allclose(growers.given[-1], before, atol=1e-12)
        # The tree that was grown last gets everything.
        assert forest.refiners[-1]._asked
        forest.tell(game(coalitions))
    widest = 2 * max(8, 750 // 16)
    assert [b // s for b, s in zip(begun.values(), (40, 120, 360), strict=True)] == [1, 1, 1]
    assert all(b - s <= widest for b, s in zip(begun.values(), (40, 120, 360), strict=True))
    each = [r.values() for r in forest.refiners]
    spent = np.array([r.n_coalitions - 2 for r in forest.refiners])
    expected = np.einsum("t,tpk->pk", spent / spent.sum(), each)
    np.testing.assert_allclose(forest.estimate().values, expected, atol=1e-12)


def test_trees_are_grown_until_all_of_them_are_exact_and_none_twice(brute_owen):
    table = random_table(7, 2, 0)
    growers = Growers(7, [0, 1, 0, 2, 2])
    forest = start(
        OwenForest, [random_tree(7, 0)], of_table(table), grow=growers.functions, head_start=0
    )
    spend(forest, of_table(table), 10**9)
    assert len(growers.given) == 5
    assert len(forest.refiners) == 3
    assert forest.exact
    expected = np.mean([brute_owen(random_tree(7, s).children, table) for s in range(3)], axis=0)
    np.testing.assert_allclose(forest.estimate().values, expected, atol=1e-12)


@pytest.mark.parametrize("head_start", [0, 128])
def test_a_tree_that_is_exact_leaves_the_budget_to_the_others(head_start):
    # A chain of 8 takes 256 coalitions, a balanced tree 44.
    chain = linkage_tree([[0, 1], *([8 + k, 2 + k] for k in range(6))])
    table = random_table(8, 1, 0)
    trees = [axis_tree(np.arange(8)[None]), chain, chain]
    forest = start(OwenForest, trees, of_table(table), head_start=head_start)
    spend(forest, of_table(table), 200)
    spent = [r.n_coalitions - 2 for r in forest.refiners]
    assert spent[0] == 42
    assert sum(spent[1:]) == 200 - 2 - 42
    # These two still go side by side.
    assert abs(spent[1] - spent[2]) <= 16
    assert [r.exact for r in forest.refiners] == [True, False, False]
    assert not forest.exact
    assert forest.estimate().error_std.all()
    spend(forest, of_table(table), 10**9)
    assert forest.exact
    assert forest.n_coalitions == 2 + 42 + 2 * 254


@given(
    st.integers(2, 40),
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.lists(st.integers(2, 300), min_size=1, max_size=4),
    st.sampled_from([2, 3, 7, 50]),
    st.sampled_from([0, 30, 128]),
    st.integers(0, 3),
)
def test_a_forest_in_pieces_as_in_one_go(n, seed, n_trees, budgets, most, head_start, n_grown):
    game, trees = smooth(n, seed), [random_tree(n, seed + k) for k in range(n_trees)]
    grow = Growers(n, range(seed + 9, seed + 9 + n_grown)).functions
    pieces = start(OwenForest, trees, game, head_start=head_start, grow=grow)
    for budget in sorted(budgets):
        spend(pieces, game, budget, most)
        at_once = start(OwenForest, trees, game, head_start=head_start, grow=grow)
        spend(at_once, game, budget)
        one, other = pieces.estimate(), at_once.estimate()
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.error_std, other.error_std)
        assert one.n_coalitions == other.n_coalitions <= budget


def test_trees_that_agree_have_no_error():
    game = smooth(60, 0)
    same = start(OwenForest, [random_tree(60, 0)] * 2, game, head_start=0)
    spend(same, game, 2 + 2 * 10)
    np.testing.assert_allclose(same.estimate().error_std, 0, atol=1e-15)
    assert not same.exact


def test_trees_that_do_not_fit():
    ends = np.zeros(1), np.ones(1)
    with pytest.raises(
        PatchShapError,
        match=r"trees: got 2 trees over \[4, 5\] players; expected at least one, all",
    ):
        OwenForest([random_tree(4, 0), random_tree(5, 0)], *ends)
    with pytest.raises(PatchShapError, match=r"trees: got 0 trees over \[\] players"):
        OwenForest([], *ends)
