"""Owen values against averages over all admissible orders, closed forms and invariances."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.estimators.games import of_table, random_table, random_tree, smooth, spend

from xai_patchshap import PatchShapError
from xai_patchshap.estimators import OwenRefiner
from xai_patchshap.players.trees import PartitionTree, axis_tree, linkage_tree


@cache
def shapes(n):
    """Every full binary tree with n leaves, as nested pairs."""
    if n == 1:
        return ((),)
    return tuple((a, b) for k in range(1, n) for a in shapes(k) for b in shapes(n - k))


def as_tree(shape, leaves):
    """A nested pair as a tree over the leaves, which it uses up from the left."""
    n, rest, children = len(leaves), iter(leaves), []

    def node(s):
        if not s:
            return int(next(rest))
        children.append((node(s[0]), node(s[1])))
        return n + len(children) - 1

    node(shape)
    return PartitionTree.from_children(np.array(children))


def start(tree, game, guides=None, **options):
    ends = game(np.array([[False] * tree.n, [True] * tree.n]))
    return OwenRefiner(tree, ends[0], ends[1], guides, **options)


def refined(tree, game, budget=10**9, most=10**9, **options):
    refiner = start(tree, game, **options)
    spend(refiner, game, budget, most)
    return refiner


# ----- exact values ---------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 9))
def test_every_tree_of_up_to_8_leaves_gives_the_average_over_its_orders(n, brute_owen):
    assert len(shapes(n)) == [1, 1, 2, 5, 14, 42, 132, 429][n - 1]
    rng = np.random.default_rng(n)
    for seed, shape in enumerate(shapes(n)):
        tree, table = as_tree(shape, rng.permutation(n)), random_table(n, 2, seed)
        refiner = refined(tree, of_table(table))
        assert refiner.exact
        assert refiner.n_coalitions <= max(2**n, 2)
        np.testing.assert_allclose(refiner.values(), brute_owen(tree.children, table), atol=1e-10)


def test_a_single_player_gets_everything_at_once():
    refiner = OwenRefiner(linkage_tree(np.zeros((0, 4))), np.array([1.0, 2.0]), np.array([4.0, 0]))
    assert refiner.exact
    assert not len(refiner.ask(100))
    assert refiner.values().tolist() == [[3.0, -2.0]]


def depth_of_splits(tree, team):
    """For each player of a team, how many of the nodes above it divide the team."""
    above = np.zeros(tree.n)
    for a, b in tree.children:
        left, right = (np.isin(team, tree.members(node)).any() for node in (a, b))
        if left and right:
            above[np.concatenate([tree.members(a), tree.members(b)])] += 1
    return above


@pytest.mark.parametrize(
    "tree",
    [axis_tree(np.arange(36).reshape(6, 6)), axis_tree(np.arange(40).reshape(2, 20))],
    ids=["6x6", "2x20"],
)
@pytest.mark.parametrize("size", [1, 2, 5, 17])
def test_unanimity_games_have_a_closed_form(tree, size):
    team = np.random.default_rng(size).choice(tree.n, size, replace=False)
    refiner = refined(tree, lambda z: z[:, team].all(axis=1)[:, None].astype(float))
    assert refiner.exact
    expected = np.zeros(tree.n)
    # Each node that divides the team halves what its members get.
    expected[team] = 0.5 ** depth_of_splits(tree, team)[team]
    np.testing.assert_allclose(refiner.values()[:, 0], expected, atol=1e-12)


@given(st.integers(2, 9), st.integers(0, 10**6))
def test_dummies_get_nothing_and_symmetric_siblings_the_same(n, seed):
    tree = random_tree(n, seed)
    pair = next(c for c in tree.children if c.max() < n)
    rng = np.random.default_rng(seed)
    dummy = int(rng.integers(n))
    weights = rng.normal(size=(n, 4))
    weights[pair[1]] = weights[pair[0]]
    weights[dummy] = 0
    refiner = refined(tree, lambda z: np.tanh(z @ weights) ** 2)
    np.testing.assert_allclose(refiner.values()[dummy], 0, atol=1e-12)
    if dummy not in pair:
        gap = np.diff(refiner.values()[pair], axis=0)
        np.testing.assert_allclose(gap, 0, atol=1e-12)


# ----- every budget ---------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 16, 41])
def test_values_add_up_and_the_budget_holds_at_every_budget(n):
    tree, game = random_tree(n, n), smooth(n, n)
    ends = game(np.array([[False] * n, [True] * n]))
    for budget in range(2, 90):
        calls = []

        def counted(z, calls=calls):
            calls.extend(z)
            return game(z)

        refiner = start(tree, game)
        spend(refiner, counted, budget)
        assert 2 + len(calls) == refiner.n_coalitions
        # Evaluations come in pairs: no more than one may be left over.
        assert refiner.exact or budget - 1 <= refiner.n_coalitions <= budget
        np.testing.assert_allclose(refiner.values().sum(0), ends[1] - ends[0], atol=1e-12)
        assert refiner.exact or budget < 2**n


@given(
    st.integers(2, 60),
    st.integers(0, 10**6),
    st.lists(st.integers(2, 200), min_size=1, max_size=6),
    st.sampled_from([2, 3, 7, 50, 51]),
)
def test_in_pieces_as_in_one_go(n, seed, budgets, most):
    tree, game = random_tree(n, seed), smooth(n, seed)
    pieces = start(tree, game)
    asked = []
    for budget in sorted(budgets):
        asked += spend(pieces, game, budget, most)
        at_once = start(tree, game)
        assert spend(at_once, game, budget) == asked
        np.testing.assert_array_equal(pieces.values(), at_once.values())
        assert pieces.exact == at_once.exact


def test_nothing_is_asked_for_when_nothing_may_be():
    game = smooth(9, 0)
    refiner = start(random_tree(9, 0), game)
    before = refiner.values()
    for most in (0, 1, -1, -20):
        assert refiner.ask(most).shape == (0, 9)
    np.testing.assert_array_equal(refiner.values(), before)
    spend(refiner, game, 20)
    assert refiner.n_coalitions == 20


def test_an_interrupted_tell_keeps_whole_pairs_and_goes_on():
    tree, game = random_tree(30, 3), smooth(30, 3)
    broken = start(tree, game)
    for rows in (0, 1, 2, 3, 5, 0, 7):
        coalitions = broken.ask(100)
        before = broken.n_coalitions
        rows = min(rows, len(coalitions))
        broken.tell(game(coalitions)[:rows])
        assert broken.n_coalitions == before + rows // 2 * 2
        total = broken.values().sum(0)
        np.testing.assert_allclose(total, np.diff(game(np.eye(2)[:, [0] * 30]), axis=0)[0] * -1)
    spend(broken, game, 160)
    np.testing.assert_array_equal(broken.values(), refined(tree, game, 160).values())


def test_asking_twice_without_telling_is_refused():
    refiner = start(random_tree(9, 0), smooth(9, 0))
    refiner.ask(10)
    with pytest.raises(RuntimeError, match="twice without tell"):
        refiner.ask(10)


@given(st.integers(2, 50), st.integers(0, 10**6), st.integers(4, 200))
def test_additive_games_have_exact_totals_on_every_fully_opened_level(n, seed, budget):
    tree = random_tree(n, seed)
    weights = np.random.default_rng(seed).normal(size=n)
    values = refined(tree, lambda z: z @ weights[:, None] + 5, budget).values()[:, 0]
    for child in tree.children[-1]:
        members = tree.members(child)
        assert values[members].sum() == pytest.approx(weights[members].sum(), abs=1e-12)
    # Equal weights are right before anything is opened.
    equal = refined(tree, lambda z: z.sum(axis=1, dtype=float)[:, None], 2)
    np.testing.assert_allclose(equal.values()[:, 0], 1, atol=1e-12)


def test_an_additive_game_on_halves_is_exact_once_they_are_told_apart():
    tree = axis_tree(np.arange(64).reshape(8, 8))
    weights = np.where(tree.regions(2) == 1, 3.0, np.where(tree.regions(2) == 2, -1.0, 0.5))
    # One opening of the root, four of its halves.
    values = refined(tree, lambda z: z @ weights[:, None], 2 + 2 * 5).values()[:, 0]
    np.testing.assert_allclose(values, weights, atol=1e-12)


def test_more_budget_comes_closer():
    tree, game = axis_tree(np.arange(64).reshape(8, 8)), smooth(64, 5)
    exact = refined(tree, game)
    assert exact.exact
    assert exact.n_coalitions == 2 + 2 * sum(4**d for d in range(6))
    errors = [
        np.square(refined(tree, game, b).values() - exact.values()).sum()
        for b in (2, 20, 200, 1000, exact.n_coalitions)
    ]
    assert all(a > b for a, b in pairwise(errors))
    assert errors[-1] < 1e-20


# ----- what is opened -------------------------------------------------------------------


@given(st.integers(3, 40), st.integers(0, 10**6), st.integers(4, 150))
def test_explained_outputs_do_not_influence_what_is_opened(n, seed, budget):
    tree, guide = random_tree(n, seed), smooth(n, seed, 2)
    runs, explained = [], []
    for other in (1, 2):
        explain = smooth(n, seed + other, 1)

        def game(z, explain=explain):
            return np.concatenate([1e6 * explain(z), guide(z)], axis=1)

        refiner = start(tree, game, guides=range(1, 3))
        runs.append(spend(refiner, game, budget))
        explained.append(refiner.values(slice(1)))
        assert refiner.values(slice(1)).shape == (n, 1)
        np.testing.assert_array_equal(refiner.values()[:, :1], refiner.values(slice(1)))
        np.testing.assert_array_equal(refiner.values()[:, [2, 0]], refiner.values([2, 0]))
    assert runs[0] == runs[1]
    assert np.abs(explained[0] - explained[1]).max() > 0
    np.testing.assert_allclose(
        refined(tree, guide, budget).values(), refiner.values()[:, 1:], atol=1e-12
    )


def test_guides_do_influence_what_is_opened():
    tree, game = axis_tree(np.arange(64).reshape(8, 8)), smooth(64, 0, 6)
    one, other = (start(tree, game, guides=[g]) for g in (0, 5))
    assert spend(one, game, 100) != spend(other, game, 100)


def test_a_guide_of_no_weight_is_none():
    tree, game = axis_tree(np.arange(64).reshape(8, 8)), smooth(64, 0, 6)
    first, other = (
        spend(start(tree, game, [0]), game, 150),
        spend(start(tree, game, [5]), game, 150),
    )
    for weights, expected in (([1, 0], first), ([8.0, 0.0], first), (np.array([0, 1]), other)):
        refiner = start(tree, game, [0, 5], guide_weights=weights)
        assert spend(refiner, game, 150) == expected
    both = spend(start(tree, game, [0, 5]), game, 150)
    assert spend(start(tree, game, [0, 5], guide_weights=[2, 2]), game, 150) == both != first


def test_the_branch_where_the_game_changes_is_opened_first():
    labels = np.arange(256).reshape(16, 16)
    tree = axis_tree(labels)
    refiner = refined(tree, lambda z: 1.0 * z[:, [37]], 2 + 2 * 40)
    touched = np.flatnonzero(refiner.values()[:, 0])
    assert 37 in touched
    # Opened blindly, 21 of 40 would do for two levels: halves of halves, 64 pixels.
    assert len(touched) <= 16
    assert refiner.values().min() >= 0


def test_a_region_whose_parts_cancel_is_opened_too():
    # Both quarters on the left are worth nothing, in any context, though their parts are;
    # on the right there are many players of little worth.
    weights = np.concatenate([np.repeat([1.0, -1.0, 1.0, -1.0], 8), np.full(32, 1e-4)])
    weights[-1] = 1.0
    tree = axis_tree(np.arange(64)[None])
    values = refined(tree, lambda z: z @ weights[:, None], 150).values()[:, 0]
    assert values[:8].mean() > 0.1
    assert values[24:32].mean() < -0.1
    blind = refined(tree, lambda z: z @ weights[:, None], 150, floor=0.0).values()[:, 0]
    np.testing.assert_allclose(blind[:32], 0, atol=1e-12)


def test_a_game_that_never_changes_is_zero_and_ends():
    refiner = refined(random_tree(12, 1), lambda z: np.full((len(z), 2), 3.0), 500)
    assert not refiner.values().any()


@given(st.integers(2, 30), st.integers(0, 10**6), st.integers(2, 150))
def test_relabelling_the_players_relabels_their_values(n, seed, budget):
    tree, game = random_tree(n, seed), smooth(n, seed)
    names = np.random.default_rng(seed).permutation(n)  # player i is now called names[i]
    renamed = tree.children.copy()
    renamed[renamed < n] = names[renamed[renamed < n]]
    before = refined(tree, game, budget)
    after = refined(PartitionTree.from_children(renamed), lambda z: game(z[:, names]), budget)
    np.testing.assert_allclose(after.values()[names], before.values(), atol=1e-12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 1)), r"values: got shape \(2, 1\); expected at most 2 rows of 2 outputs"),
        (np.zeros((4, 2)), r"values: got shape \(4, 2\); expected at most 2 rows"),
        (np.zeros(2), r"values: got shape \(2,\)"),
        (np.full((2, 2), np.nan), "values: got NaN or infinite numbers"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, message):
    refiner = OwenRefiner(axis_tree([[0, 1, 2]]), np.zeros(2), np.ones(2))
    refiner.ask(2)
    with pytest.raises(PatchShapError, match=message):
        refiner.tell(values)
