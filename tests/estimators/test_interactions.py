"""Definitions of the indices, exact interactions, and the object that holds interactions."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import chain, combinations
from math import comb, factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_patchshap import PatchShapError
from xai_patchshap.estimators import ExactInteractions, ExactShapley, Interactions
from xai_patchshap.estimators.indices import (
    EFFICIENT,
    INDICES,
    bernoulli,
    check_index,
    coalition_weights,
    diagonal_quadrature,
    moebius_weights,
)
from xai_patchshap.estimators.interactions.interactions import k_sii_of_sii, subsets

HIGHER = tuple(i for i in INDICES if i not in ("SV", "BV"))
BERNOULLI = (1.0, -1 / 2, 1 / 6, 0.0, -1 / 30, 0.0, 1 / 42)


def random_table(n: int, seed: int, outputs: int | None = None) -> np.ndarray:
    """Values of all coalitions; bit i of a row's number says whether player i is in it."""
    shape = (2**n,) if outputs is None else (2**n, outputs)
    return np.random.default_rng([n, seed]).normal(size=shape)


def solve(index: str, order: int, table: np.ndarray) -> Interactions:
    n = len(table).bit_length() - 1
    estimator = ExactInteractions(n, index, order)
    return estimator.estimate(table[estimator.coalitions @ (1 << np.arange(n))])


def every(n: int, least: int = 0, most: int | None = None) -> list[tuple[int, ...]]:
    """All subsets of n players by size."""
    sizes = range(least, (n if most is None else most) + 1)
    return list(chain.from_iterable(combinations(range(n), s) for s in sizes))


def flat(interactions: Interactions) -> np.ndarray:
    """All values in the order of :func:`every`, of the first output."""
    return np.concatenate([v[:, 0] for v in interactions.values])


def bits(players: tuple[int, ...]) -> int:
    return sum(1 << p for p in players)


def moebius(table: np.ndarray) -> np.ndarray:
    """a(T) by its definition, T as the number of a row."""
    n = len(table).bit_length() - 1
    found = np.zeros_like(table)
    for whole in every(n):
        for size in range(len(whole) + 1):
            for inside in combinations(whole, size):
                found[bits(whole)] += (-1) ** (len(whole) - size) * table[bits(inside)]
    return found


def orders_of(index: str, n: int, highest: int = 3) -> range:
    return range(1, 2 if index in ("SV", "BV") else min(highest, n) + 1)


def cases(n: int, highest: int = 3) -> list[tuple[str, int]]:
    return [(index, order) for index in INDICES for order in orders_of(index, n, highest)]


def w(index: str, order: int, s: int, t: int) -> float:
    """Weight of a(T), |T| = t, in the interaction of s of its players, in floats."""
    u = t - s
    if index in ("SV", "SII"):
        return 1 / (u + 1)
    if index in ("BV", "BII"):
        return 0.5**u
    if index == "k-SII":
        return sum(BERNOULLI[r] * comb(u, r) / (u - r + 1) for r in range(min(order - s, u) + 1))
    if index == "STII":
        return 1 / comb(t, order) if s == order else float(u == 0)
    if t <= order:
        return float(u == 0)
    if index == "FSII":
        sign = (-1) ** (order - s) * s / (order + s) * comb(order, s)
        return sign * comb(t - 1, order) / comb(t + order - 1, order + s)
    return (-1) ** (order - s) * 0.5**u * comb(u - 1, order - s)


# ----- against other implementations --------------------------------------------------------


@pytest.mark.parametrize("n", range(3, 11))
def test_equals_shapiq(n):
    shapiq = pytest.importorskip("shapiq")
    table = random_table(n, 0)
    powers = 1 << np.arange(n)
    computer = shapiq.ExactComputer(n_players=n, game=lambda z: table[z.astype(int) @ powers])
    for index, order in cases(n, n if n <= 6 else 3):
        theirs = computer(index, order)
        ours = solve(index, order, table)
        # shapiq's FSII gives its constraint a large finite weight.
        np.testing.assert_allclose(
            flat(ours),
            [theirs[players] for players in every(n, 1, order)],
            rtol=0,
            atol=1e-8 if index == "FSII" else 1e-9,
            err_msg=f"{index} of order {order}",
        )


def faithful(index: str, order: int, table: np.ndarray) -> np.ndarray:
    """The best polynomial of an order as the solution of its KKT system."""
    n = len(table).bit_length() - 1
    rows, columns = every(n), every(n, 0, order)
    x = np.array([[float(set(t) <= set(s)) for t in columns] for s in rows])
    v = np.array([table[bits(s)] for s in rows])
    if index == "FBII":
        return np.linalg.lstsq(x, v, rcond=None)[0]
    mu = np.array(
        [(n - 1) / (comb(n, len(s)) * len(s) * (n - len(s))) if 0 < len(s) < n else 0 for s in rows]
    )
    ends = x[[0, -1]]
    hessian = x.T @ (mu[:, None] * x)
    system = np.block([[hessian, ends.T], [ends, np.zeros((2, 2))]])
    return np.linalg.solve(system, np.concatenate([x.T @ (mu * v), v[[0, -1]]]))[:-2]


@pytest.mark.parametrize("n", range(2, 8))
@pytest.mark.parametrize("index", ["FSII", "FBII"])
def test_faithful_indices_are_the_best_polynomials(index, n):
    table = random_table(n, 1)
    for order in range(1, n + 1):
        best = faithful(index, order, table)
        np.testing.assert_allclose(flat(solve(index, order, table)), best[1:], rtol=0, atol=1e-10)
        if index == "FBII":
            constant = [float(x) for x in moebius_weights("FBII", order, 0, n)]
            a = moebius(table)
            total = sum(constant[len(t)] * a[bits(t)] for t in every(n))
            assert total == pytest.approx(best[0], abs=1e-10)


@pytest.mark.parametrize("n", [4, 5])
def test_equals_averages_of_discrete_derivatives(n):
    table = random_table(n, 2)

    def derivative(players, others):
        return sum(
            (-1) ** (len(players) - size) * table[bits(inside) + bits(others)]
            for size in range(len(players) + 1)
            for inside in combinations(players, size)
        )

    def average(players, weight):
        others = [p for p in range(n) if p not in players]
        return sum(
            weight(size) * derivative(players, chosen)
            for size in range(len(others) + 1)
            for chosen in combinations(others, size)
        )

    for s in range(1, n + 1):
        expected = {
            # Grabisch & Roubens (1999)
            "SII": lambda t, s=s: factorial(n - t - s) * factorial(t) / factorial(n - s + 1),
            "BII": lambda t, s=s: 0.5 ** (n - s),
            # Sundararajan, Dhamdhere & Agarwal (2020), equation 4
            "STII": lambda t, s=s: s / n / comb(n - 1, t),
            # Tsai, Yeh & Ravikumar (2023), the top order of theorems 16 and 19
            "FBII": lambda t, s=s: 0.5 ** (n - s),
            "FSII": lambda t, s=s: (
                factorial(2 * s - 1)
                / factorial(s - 1) ** 2
                * factorial(n - t - 1)
                * factorial(t + s - 1)
                / factorial(n + s - 1)
            ),
        }
        for index, weight in expected.items():
            found = solve(index, s, table).values[s - 1][:, 0]
            players = combinations(range(n), s)
            truth = [average(p, weight) for p in players]
            np.testing.assert_allclose(found, truth, atol=1e-11, err_msg=f"{index} {s}")
        below = solve("STII", n, table).values[s - 1][:, 0]
        truth = [derivative(p, ()) for p in combinations(range(n), s)]
        np.testing.assert_allclose(below, truth, atol=1e-11)


# ----- closed forms -------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "order"), cases(6, 6))
def test_additive_games_do_not_interact(index, order):
    weights = np.array([3.0, -1.0, 0.5, 0.0, 7.25, -2.5])
    z = np.arange(64)[:, None] >> np.arange(6) & 1
    found = solve(index, order, 10 + z @ weights)
    np.testing.assert_allclose(found.values[0][:, 0], weights, atol=1e-11)
    for higher in found.values[1:]:
        np.testing.assert_allclose(higher, 0, atol=1e-11)


@pytest.mark.parametrize(("index", "order"), cases(6, 5))
def test_unanimity_games(index, order):
    for coalition in ((4,), (0, 3), (1, 3, 4), (0, 1, 4, 5), (0, 1, 2, 3, 4, 5)):
        t = len(coalition)
        table = np.array([float(s & bits(coalition) == bits(coalition)) for s in range(64)])
        truth = [
            w(index, order, len(players), t) if set(players) <= set(coalition) else 0.0
            for players in every(6, 1, order)
        ]
        np.testing.assert_allclose(flat(solve(index, order, table)), truth, atol=1e-12)
        np.testing.assert_allclose(
            [w(index, order, s, t) for s in range(1, min(t, order) + 1)],
            [
                float(moebius_weights(index, order, s, 6)[t - s])
                for s in range(1, min(t, order) + 1)
            ],
            atol=1e-14,
        )


@pytest.mark.parametrize(("index", "order"), cases(5, 5))
def test_constant_games_have_no_interactions(index, order):
    found = solve(index, order, np.full(32, 4.5))
    assert all(not v.any() for v in found.values)
    assert found.base_values == found.full_values == 4.5


@pytest.mark.parametrize(("index", "order"), cases(6, 6))
def test_games_of_the_number_of_players_give_all_of_an_order_the_same(index, order):
    size = np.array([bin(s).count("1") for s in range(64)])
    for values in solve(index, order, random_table(6, 3)[size]).values:
        np.testing.assert_allclose(values, values[0, 0], atol=1e-11)


@pytest.mark.parametrize(("index", "order"), cases(6, 6))
def test_a_player_who_adds_the_same_to_all_gets_it_and_interacts_with_none(index, order):
    table = random_table(6, 4)
    with_dummy = np.arange(64) >> 2 & 1
    table = table[np.arange(64) & ~4] + 1.25 * with_dummy
    found = solve(index, order, table)
    assert found[2] == pytest.approx(1.25, abs=1e-11)
    for s in range(2, order + 1):
        of_dummy = (found.subsets(s) == 2).any(axis=1)
        np.testing.assert_allclose(found.values[s - 1][of_dummy], 0, atol=1e-11)
    # The others interact as if the dummy were not there.
    rest = table.reshape(8, 2, 4)[:, 0].ravel()
    if order < 6:
        without = solve(index, order, rest)
        others = [p for p in range(6) if p != 2]
        for players in every(5, 1, order):
            assert found[[others[p] for p in players]] == pytest.approx(without[players], abs=1e-11)


# ----- identities ---------------------------------------------------------------------------


@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.sampled_from(INDICES), st.data())
def test_linear_blind_to_a_constant_and_to_labels(n, seed, index, data):
    order = data.draw(st.sampled_from(list(orders_of(index, n, n))))
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, 2**n)) * 10 ** rng.uniform(-3, 3)
    scale = max(np.abs(first).max(), np.abs(second).max()) * 4**n
    found = flat(solve(index, order, first))
    both = flat(solve(index, order, 2.5 * first - second + 7 * scale / 4**n))
    expected = 2.5 * found - flat(solve(index, order, second))
    np.testing.assert_allclose(both, expected, rtol=0, atol=1e-13 * scale)
    permuted = rng.permutation(n)
    z = np.arange(2**n)[:, None] >> np.arange(n) & 1
    relabelled = solve(index, order, first[z @ (1 << permuted)])
    back = [relabelled[np.argsort(permuted)[list(p)]][0] for p in every(n, 1, order)]
    np.testing.assert_allclose(back, found, rtol=0, atol=1e-13 * scale)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_values_of_all_orders_of_efficient_indices_add_up(n):
    table = random_table(n, 5, outputs=2)
    for index, order in cases(n, n):
        found = solve(index, order, table)
        np.testing.assert_allclose(found.base_values, table[0])
        np.testing.assert_allclose(found.full_values, table[-1])
        if index in EFFICIENT:
            total = sum(v.sum(axis=0) for v in found.values)
            np.testing.assert_allclose(total, table[-1] - table[0], atol=1e-10)
    assert EFFICIENT == ("SV", "k-SII", "STII", "FSII")


def test_order_1_is_the_shapley_or_the_banzhaf_value():
    table = random_table(6, 6)
    exact = ExactShapley(6)
    shapley = exact.estimate(table[exact.coalitions @ (1 << np.arange(6))]).values
    z = np.arange(64)[:, None] >> np.arange(6) & 1
    banzhaf = ((2 * z - 1) * table[:, None]).sum(axis=0)[:, None] / 32
    for index in ("SV", "SII", "k-SII", "STII", "FSII"):
        np.testing.assert_allclose(solve(index, 1, table).values[0], shapley, atol=1e-12)
    for index in ("BV", "BII", "FBII"):
        np.testing.assert_allclose(solve(index, 1, table).values[0], banzhaf, atol=1e-12)
    for order in (2, 3, 6):
        np.testing.assert_allclose(solve("SII", order, table).values[0], shapley, atol=1e-12)
        np.testing.assert_allclose(solve("BII", order, table).values[0], banzhaf, atol=1e-12)


def test_indices_coincide_where_theory_says():
    n = 6
    table = random_table(n, 7)
    a = moebius(table)
    top = {i: [solve(i, s, table).values[s - 1] for s in range(1, n + 1)] for i in HIGHER}
    for s in range(n):
        np.testing.assert_allclose(top["k-SII"][s], top["SII"][s], atol=1e-12)
        np.testing.assert_allclose(top["FBII"][s], top["BII"][s], atol=1e-12)
    for index in HIGHER:
        # The interaction of all players is their Moebius coefficient in every index.
        np.testing.assert_allclose(top[index][-1], a[-1], atol=1e-11)
    # With all orders allowed, the best polynomial is the game, and so is the Taylor series.
    for index in ("STII", "FSII", "FBII"):
        truth = [a[bits(p)] for p in every(n, 1)]
        np.testing.assert_allclose(flat(solve(index, n, table)), truth, atol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_k_sii_is_the_aggregate_of_the_sii(order):
    n = 6
    table = random_table(n, 8, outputs=2)
    sii = solve("SII", order, table)
    before = [v.copy() for v in sii.values]
    found = k_sii_of_sii(sii.values, n)
    for mine, direct in zip(found, solve("k-SII", order, table).values, strict=True):
        np.testing.assert_allclose(mine, direct, atol=1e-12)
    for old, new in zip(before, sii.values, strict=True):
        np.testing.assert_array_equal(old, new)
    errors = k_sii_of_sii([np.abs(v) for v in sii.values], n, of_errors=True)
    for s, error in enumerate(errors, start=1):
        for players, one in zip(combinations(range(n), s), error, strict=True):
            variance = sum(
                (BERNOULLI[len(t) - s] * sii[t]) ** 2
                for t in every(n, s, order)
                if set(players) <= set(t)
            )
            np.testing.assert_allclose(one, np.sqrt(variance), atol=1e-12)


def test_infinite_errors_stay_infinite_in_the_aggregate():
    sii = [np.full((comb(5, s), 1), np.inf) for s in (1, 2, 3)]
    with np.errstate(all="raise"):
        assert all(np.isinf(e).all() for e in k_sii_of_sii(sii, 5, of_errors=True))


def test_bernoulli_numbers():
    found = [bernoulli(r) for r in (0, 1, 2, 3, 4, 5, 6, 8, 10, 12)]
    expected = ["1", "-1/2", "1/6", "0", "-1/30", "0", "1/42", "-1/30", "5/66", "-691/2730"]
    assert found == [Fraction(x) for x in expected]


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_weights_of_coalitions_and_of_the_moebius_transform_agree(n):
    table = random_table(n, 9)
    a = moebius(table)
    for index, order in cases(n, n):
        for s in range(1, order + 1):
            on_moebius = [float(x) for x in moebius_weights(index, order, s, n)]
            on_values = coalition_weights(index, order, s, n)
            assert on_values.shape == (s + 1, n + 1)
            for players in combinations(range(n), s):
                truth = sum(
                    on_moebius[len(t) - s] * a[bits(t)]
                    for t in every(n, s)
                    if set(players) <= set(t)
                )
                found = sum(
                    on_values[len(set(players) & set(c)), len(c)] * table[bits(c)] for c in every(n)
                )
                assert found == pytest.approx(truth, abs=1e-11)


@pytest.mark.parametrize("n", [3, 8, 16, 64])
def test_the_quadrature_has_the_moments_of_the_index(n):
    for index, order in cases(n, n if n == 8 else 4):
        for s in range(1, order + 1):
            nodes, weights = diagonal_quadrature(index, order, s, n)
            moments = np.array([float(x) for x in moebius_weights(index, order, s, n)])
            found = weights @ nodes[:, None] ** np.arange(n - s + 1)
            scale = max(1.0, np.abs(moments).max())
            np.testing.assert_allclose(
                found, moments, rtol=0, atol=1e-9 * scale, err_msg=f"{index} {order} {s}"
            )
            # As HalfGame.functional wants them.
            assert ((nodes > 0) & (nodes < 1)).all()
            np.testing.assert_allclose(nodes + nodes[::-1], 1, atol=1e-13)


def test_the_quadrature_of_many_players_has_the_moments_up_to_a_high_degree():
    n = 100
    for index, order, s in (("SII", 2, 2), ("k-SII", 2, 1), ("STII", 2, 1), ("FBII", 3, 2)):
        nodes, weights = diagonal_quadrature(index, order, s, n)
        moments = [float(x) for x in moebius_weights(index, order, s, n)[:65]]
        found = weights @ nodes[:, None] ** np.arange(65)
        np.testing.assert_allclose(found, moments, rtol=0, atol=1e-9, err_msg=index)


# ----- the exact estimator ------------------------------------------------------------------


def test_outputs_chunks_and_lists_of_numbers(monkeypatch):
    table = random_table(7, 10, outputs=3)
    whole = solve("k-SII", 3, table)
    assert [v.shape for v in whole.values] == [(7, 3), (21, 3), (35, 3)]
    for k in range(3):
        one = solve("k-SII", 3, table[:, k])
        for a, b in zip(one.values, whole.values, strict=True):
            np.testing.assert_allclose(a[:, 0], b[:, k], atol=1e-13)
    monkeypatch.setattr("xai_patchshap.estimators.interactions.exact._CHUNK_ENTRIES", 100)
    for a, b in zip(solve("k-SII", 3, table).values, whole.values, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)


def test_reports_no_error_and_all_coalitions():
    estimator = ExactInteractions(4)
    assert (estimator.index, estimator.order) == ("SII", 2)
    assert estimator.min_coalitions == 16
    assert not estimator.coalitions[0].any()
    assert estimator.coalitions[1].all()
    found = estimator.estimate(np.arange(16.0))
    assert found.exact
    assert found.n_coalitions == 16
    assert not any(e.any() for e in found.error_std)
    assert [e.shape for e in found.error_std] == [(4, 1), (6, 1)]


def test_one_player():
    for index in INDICES:
        found = ExactInteractions(1, index, 1).estimate(np.array([1.0, 3.5]))
        assert found.values[0].tolist() == [[2.5]]
        assert found.matrix().tolist() == [[[2.5]]]


def test_a_large_constant_costs_only_the_rounding_of_the_values():
    table = np.round(random_table(8, 11) * 2**20) / 2**20
    for index in ("SII", "FSII", "STII"):
        plain, shifted = solve(index, 3, table), solve(index, 3, table + 2.0**30)
        np.testing.assert_array_equal(flat(plain), flat(shifted))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, "sii", 2), r"index: got 'sii'; expected one of 'SV', 'BV', 'SII', .* or 'FBII'"),
        ((4, "SII", 0), r"order: got 0; expected a whole number of at least 1"),
        ((4, "SII", -1), r"order: got -1; expected a whole number of at least 1"),
        ((4, "SII", True), r"order: got True; expected a whole number of at least 1"),
        ((4, "SII", 2.5), r"order: got 2\.5; expected a whole number of at least 1"),
        ((4, "SII", 2.0), r"order: got 2\.0; expected a whole number of at least 1"),
        ((4, "SII", "2"), r"order: got '2'; expected a whole number of at least 1"),
        ((4, "SII", 5), r"order: got 5; expected at most 4, the number of players"),
        ((4, "SV", 2), r"order: got 2; expected 1 for index 'SV'\. SII and BII are"),
        ((4, "BV", 3), r"order: got 3; expected 1 for index 'BV'\. SII and BII are"),
        ((21, "SII", 2), r"n_players: got 21; expected 1 to 20"),
    ],
)
def test_refuses_what_does_not_exist(arguments, message):
    with pytest.raises(PatchShapError, match=message):
        ExactInteractions(*arguments)
    if arguments[0] == 4:
        with pytest.raises(PatchShapError, match=message):
            check_index(arguments[1], arguments[2], 4)


def test_takes_whole_numbers_of_numpy():
    assert ExactInteractions(4, "SII", np.int64(2)).order == 2
    check_index("SII", 99)  # of no players in particular


def test_refuses_values_that_do_not_fit():
    estimator = ExactInteractions(3)
    for shape in ((7,), (9, 1), (8, 1, 1), ()):
        with pytest.raises(PatchShapError, match=r"values: got shape \(.*\); expected \(m, n_out"):
            estimator.estimate(np.zeros(shape))
    for wrong in (np.nan, np.inf):
        with pytest.raises(PatchShapError, match="values: got NaN or infinite numbers"):
            estimator.estimate(np.full(8, wrong))


# ----- the object ---------------------------------------------------------------------------


@pytest.fixture
def found() -> Interactions:
    return solve("k-SII", 3, random_table(5, 12, outputs=2))


def test_interactions_are_found_by_players_in_any_order(found):
    for s in (1, 2, 3):
        for row, players in enumerate(combinations(range(5), s)):
            truth = found.values[s - 1][row]
            for wanted in (players, players[::-1], list(players), np.array(players)):
                np.testing.assert_array_equal(found[wanted], truth)
    np.testing.assert_array_equal(found[3], found[(3,)])
    np.testing.assert_array_equal(found[np.int64(3)], found[(3,)])
    np.testing.assert_array_equal(found[4, 0, 2], found.values[2][4])


def test_interactions_are_found_among_many_players():
    n, rng = 120, np.random.default_rng(0)
    values = tuple(np.arange(float(comb(n, s)))[:, None] for s in (1, 2, 3))
    many = Interactions("SII", n, values, values, np.zeros(1), np.ones(1), 2, exact=False)
    for s in (1, 2, 3):
        rows = [0, comb(n, s) - 1, *rng.integers(comb(n, s), size=50).tolist()]
        for row in rows:
            assert many[rng.permutation(many.subsets(s)[row])] == row


@pytest.mark.parametrize("players", [(1, 1), (2, 4, 2), 5, (0, 5), -1, (0, -1), (0, 1, 2, 3), ()])
def test_refuses_players_that_are_no_interaction(found, players):
    with pytest.raises(
        PatchShapError, match=r"players: got .*; expected 1 to 3 different numbers of 0\.\.4"
    ):
        found[players]


def test_subsets_are_listed_in_lexicographic_order(found):
    for s in (1, 2, 3):
        assert [tuple(row) for row in found.subsets(s)] == list(combinations(range(5), s))
    assert not found.subsets(2).flags.writeable  # all share it
    for order in (0, 4, -1):
        with pytest.raises(PatchShapError, match=rf"order: got {order}; expected 1 to 3"):
            found.subsets(order)
    assert subsets(4, 4).tolist() == [[0, 1, 2, 3]]
    assert (found.order, found.n_outputs) == (3, 2)


def test_top_interactions_by_strength(found):
    for output in (0, 1):
        for order in (None, 1, 2, 3):
            players = every(5, 1, 3) if order is None else list(combinations(range(5), order))
            truth = sorted(((p, found[p][output]) for p in players), key=lambda x: -abs(x[1]))
            assert found.top(4, order, output) == truth[:4]
            assert found.top(1000, order, output) == truth
    assert found.top() == found.top(10, None, 0)
    assert len(found.top()) == 10
    assert found.top(0) == []
    (players, value), *_ = found.top(1, order=2)
    assert all(type(p) is int for p in players)
    assert type(value) is float
    for order in (0, 4):
        with pytest.raises(PatchShapError, match=rf"order: got {order}; expected 1 to 3"):
            found.top(3, order=order)


def test_ties_of_the_top_come_in_the_order_of_the_players():
    values = (np.ones((4, 1)), np.array([[1.0], [-2.0], [0.5], [2.0], [-2.0], [1.0]]))
    tied = Interactions("STII", 4, values, values, np.zeros(1), np.ones(1), 16, exact=True)
    assert [p for p, _ in tied.top(4, order=2)] == [(0, 2), (1, 2), (1, 3), (0, 1)]
    assert [p for p, _ in tied.top(5)] == [(0, 2), (1, 2), (1, 3), (0,), (1,)]


@pytest.mark.parametrize(("index", "order"), cases(5, 3))
def test_matrix_holds_halves_of_pairs(index, order):
    table = random_table(5, 13, outputs=2)
    result = solve(index, order, table)
    matrix = result.matrix()
    assert matrix.shape == (5, 5, 2)
    np.testing.assert_array_equal(matrix, matrix.transpose(1, 0, 2))
    for i, j in combinations(range(5), 2):
        np.testing.assert_array_equal(matrix[i, j], result[i, j] / 2 if order > 1 else 0)
    diagonal = matrix[np.arange(5), np.arange(5)]
    pairs = matrix.sum(axis=1) - diagonal
    main = result.values[0] - (pairs if index in ("SII", "BII") else 0)
    np.testing.assert_allclose(diagonal, main, atol=1e-14)
    rows, value = matrix.sum(axis=1), None
    if index in ("SII", "SV") or (index == "k-SII" and order < 3):
        value = solve("SV", 1, table).values[0]
    elif index in ("BII", "BV"):
        value = solve("BV", 1, table).values[0]
    if value is not None:
        np.testing.assert_allclose(rows, value, atol=1e-12)
    if index in EFFICIENT and order < 3:
        np.testing.assert_allclose(rows.sum(axis=0), table[-1] - table[0], atol=1e-12)


def test_matrix_of_errors():
    errors = tuple(np.random.default_rng(s).random((comb(4, s), 2)) for s in (1, 2))
    for index in ("SII", "FSII"):
        result = Interactions(index, 4, errors, errors, np.zeros(2), np.ones(2), 9, exact=False)
        matrix = result.matrix_std()
        np.testing.assert_array_equal(matrix, matrix.transpose(1, 0, 2))
        np.testing.assert_array_equal(matrix[np.arange(4), np.arange(4)], errors[0])
        for row, (i, j) in enumerate(combinations(range(4), 2)):
            np.testing.assert_array_equal(matrix[i, j], errors[1][row] / 2)


def test_matrices_change_nothing(found):
    before = [v.copy() for v in found.values]
    found.matrix()[:] = 7
    found.matrix_std()[:] = 7
    for old, new in zip(before, found.values, strict=True):
        np.testing.assert_array_equal(old, new)


# ----- files --------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("as_text", [True, False])
def test_a_file_gives_back_what_was_saved(tmp_path, as_text, exact):
    rng = np.random.default_rng(0)
    values = tuple(rng.normal(size=(comb(5, s), 2)) for s in (1, 2, 3))
    errors = (np.full((5, 2), np.inf), rng.random((10, 2)), np.zeros((10, 2)))
    saved = Interactions("FSII", 5, values, errors, rng.random(2), rng.random(2), 23, exact=exact)
    file = tmp_path / "no extension is added"
    saved.save(str(file) if as_text else file)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
    loaded = Interactions.load(str(file) if as_text else file)
    for name in ("index", "n_players", "order", "n_outputs", "n_coalitions", "exact"):
        assert getattr(loaded, name) == getattr(saved, name)
        assert type(getattr(loaded, name)) is type(getattr(saved, name))
    for name in ("values", "error_std"):
        for a, b in zip(getattr(loaded, name), getattr(saved, name), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(loaded.base_values, saved.base_values)
    np.testing.assert_array_equal(loaded.full_values, saved.full_values)
    np.testing.assert_array_equal(loaded[4, 1], saved[1, 4])


REFUSED = r"file: got '.*'; expected an \.npz file that Interactions\.save wrote\. \(.*\)"


@pytest.mark.parametrize("length", [0, 1, 40, 400, -400, -10, -1])
def test_refuses_files_that_are_cut_short(tmp_path, found, length):
    file = tmp_path / "whole.npz"
    found.save(file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(PatchShapError, match=REFUSED):
        Interactions.load(file)


def test_refuses_files_that_are_damaged_or_something_else(tmp_path, found):
    found.save(tmp_path / "whole.npz")
    data = (tmp_path / "whole.npz").read_bytes()
    wrong = {
        "damaged.npz": data[:200] + bytes(60) + data[260:],
        "text.npz": b"these are no interactions",
        "text.txt": b"\x93NUMPY",
    }
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "foreign.npz", a=np.arange(3))
    np.savez(tmp_path / "no index.npz", values_1=np.zeros((3, 1)))
    np.save(tmp_path / "array.npy", np.arange(3))
    with np.load(tmp_path / "whole.npz") as whole:
        stored = dict(whole)
    np.savez(tmp_path / "pickled.npz", **(stored | {"values_1": np.array([{}, None])}))
    del stored["error_std_2"]
    np.savez(tmp_path / "no errors.npz", **stored)
    names = ("foreign.npz", "no index.npz", "array.npy", "pickled.npz", "no errors.npz")
    for name in (*wrong, *names):
        with pytest.raises(PatchShapError, match=REFUSED):
            Interactions.load(tmp_path / name)
    with pytest.raises(PatchShapError, match=REFUSED):
        Interactions.load(tmp_path)  # a folder


def test_refuses_files_of_an_index_that_does_not_exist(tmp_path, found):
    found.save(tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as whole:
        stored = dict(whole)
    for change, message in (
        ({"index": "XYZ"}, "index: got 'XYZ'"),
        ({"index": "SV"}, "order: got 3; expected 1 for index 'SV'"),
        ({"n_players": 2}, "order: got 3; expected at most 2"),
    ):
        np.savez(tmp_path / "changed.npz", **(stored | change))
        with pytest.raises(PatchShapError, match=message):
            Interactions.load(tmp_path / "changed.npz")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Interactions.load(tmp_path / "missing.npz")


# ----- shapiq -------------------------------------------------------------------------------


@pytest.mark.parametrize("index", INDICES)
def test_to_shapiq(index):
    shapiq = pytest.importorskip("shapiq")
    table = random_table(5, 14, outputs=2) + 3
    order = orders_of(index, 5)[-1]
    ours = solve(index, order, table)
    theirs = ours.to_shapiq(output=1)
    assert isinstance(theirs, shapiq.InteractionValues)
    assert (theirs.index, theirs.n_players) == (index, 5)
    assert (theirs.min_order, theirs.max_order) == (0, order)
    assert not theirs.estimated
    assert theirs.estimation_budget == 32
    assert theirs.baseline_value == ours.base_values[1] == table[0, 1]
    assert theirs[()] == table[0, 1]
    assert sorted(theirs.interaction_lookup, key=lambda p: (len(p), p)) == every(5, 0, order)
    for players in every(5, 1, order):
        assert theirs[players] == ours[players][1]
    assert ours.to_shapiq()[(2,)] == ours[2][0]


def test_to_shapiq_without_shapiq(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "shapiq", None)
    with pytest.raises(
        PatchShapError,
        match=r"to_shapiq: got no module 'shapiq'; expected it to be installed\. "
        r"pip install shapiq",
    ):
        found.to_shapiq()


def test_refuses_outputs_and_counts_that_do_not_exist():
    found = ExactInteractions(3, "SII", 2).estimate(np.arange(16.0).reshape(8, 2))
    for call in (lambda: found.top(output=2), lambda: found.to_shapiq(output=-1)):
        with pytest.raises(PatchShapError, match=r"output: got .*; expected 0 to 1, a place among"):
            call()
    with pytest.raises(PatchShapError, match="k: got -1; expected a whole number of at least 0"):
        found.top(-1)
    with pytest.raises(PatchShapError, match="order: got '2'; expected 1 to 2"):
        found.top(order="2")
    assert found.error_of((2, 0)).tolist() == [0.0, 0.0]
