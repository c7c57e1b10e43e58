"""Interactions from a sample of coalitions: Gaussian process and regression."""

from __future__ import annotations

import math
import re
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_patchshap import PatchShapError
from xai_patchshap.estimators import (
    ExactInteractions,
    GaussianProcessInteractions,
    Interactions,
    KernelShap,
    RegressionInteractions,
)
from xai_patchshap.estimators.choose import INTERACTION_ESTIMATORS, interaction_estimator
from xai_patchshap.estimators.coalitions.sampled_pairs import SAMPLING_RULES
from xai_patchshap.estimators.indices import (
    EFFICIENT,
    INDICES,
    coalition_weights,
    diagonal_quadrature,
    moebius_weights,
)
from xai_patchshap.estimators.interactions.interactions import subsets
from xai_patchshap.estimators.interactions.regression import REGRESSION_INDICES
from xai_patchshap.estimators.process import evidence
from xai_patchshap.estimators.process import kernel as kernels
from xai_patchshap.estimators.process import posterior as gp

GAUSSIAN, REGRESSION = INTERACTION_ESTIMATORS
INDICES_OF = {GAUSSIAN: INDICES, REGRESSION: REGRESSION_INDICES}


def kinds(highest: int = 3, lowest: int = 1) -> list[tuple[str, str, int]]:
    """Every estimator with every index and order that it takes."""
    return [
        (kind, index, order)
        for kind, indices in INDICES_OF.items()
        for index in indices
        for order in range(lowest, 2 if index in ("SV", "BV") else highest + 1)
        if not (kind == REGRESSION and index in ("SII", "k-SII") and order > 2)
    ]


every_kind = pytest.mark.parametrize(("kind", "index", "order"), kinds())


def smooth_game(n: int, seed: int) -> np.ndarray:
    """Values of all coalitions, of two outputs; bit i of a row's number stands for player i."""
    rng = np.random.default_rng([n, seed])
    z = np.arange(2**n)[:, None] >> np.arange(n) & 1
    pairs = [np.einsum("si,ij,sj->s", z, rng.normal(size=(n, n)), z) / n for _ in range(2)]
    return np.stack([np.tanh(z @ rng.normal(size=n)) + p for p in pairs], axis=1)


def run(
    table: np.ndarray, budget: int, kind: str, index: str, order: int, seed: int = 0, **options
) -> Interactions:
    n = len(table).bit_length() - 1
    estimator = interaction_estimator(n, budget, index, order, kind, seed, **options)
    return estimator.estimate(table[estimator.coalitions @ (1 << np.arange(n))])


def exact(table: np.ndarray, index: str, order: int) -> np.ndarray:
    n = len(table).bit_length() - 1
    estimator = ExactInteractions(n, index, order)
    return flat(estimator.estimate(table[estimator.coalitions @ (1 << np.arange(n))]))


def flat(interactions: Interactions) -> np.ndarray:
    return np.concatenate(interactions.values)


def errors(interactions: Interactions) -> np.ndarray:
    return np.concatenate(interactions.error_std)


def polynomial(coalitions: np.ndarray, coefficients: list[np.ndarray]) -> np.ndarray:
    """Sums of products of players (or of signs), of order 1, 2, ..."""
    n, total = coalitions.shape[1], 0
    for s, c in enumerate(coefficients, start=1):
        total = total + np.prod([coalitions[:, m] for m in subsets(n, s).T], axis=0) @ c
    return np.asarray(total)


def of_polynomial(
    n: int, coefficients: list[np.ndarray], index: str, order: int
) -> list[np.ndarray]:
    """The index from the Moebius transform, which the coefficients of a polynomial are."""
    found = []
    for s in range(1, order + 1):
        weights = [float(x) for x in moebius_weights(index, order, s, n)]
        place = {tuple(u): i for i, u in enumerate(subsets(n, s).tolist())}
        total = np.zeros((len(place), coefficients[0].shape[1]))
        for t in range(s, len(coefficients) + 1):
            for inside in subsets(t, s):
                rows = [place[tuple(u)] for u in subsets(n, t)[:, inside].tolist()]
                np.add.at(total, rows, weights[t - s] * coefficients[t - 1])
        found.append(total)
    return found


def of_signs(n: int, coefficients: list[np.ndarray]) -> list[np.ndarray]:
    """The coefficients of products of players, z = 2x - 1, from those of products of signs."""
    found = [np.zeros_like(c) for c in coefficients]
    for s in range(1, len(coefficients) + 1):
        place = {tuple(u): i for i, u in enumerate(subsets(n, s).tolist())}
        for t in range(s, len(coefficients) + 1):
            for inside in subsets(t, s):
                rows = [place[tuple(u)] for u in subsets(n, t)[:, inside].tolist()]
                np.add.at(found[s - 1], rows, 2.0**s * (-1) ** (t - s) * coefficients[t - 1])
    return found


def random_coefficients(n: int, order: int, seed: int, outputs: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng([n, order, seed])
    return [rng.normal(size=(comb(n, s), outputs)) for s in range(1, order + 1)]


def game_of_the_model(n: int, seed: int) -> np.ndarray:
    """A game drawn from the product kernel: Fourier coefficients of variance prod rho."""
    rng = np.random.default_rng([n, seed])
    strengths = 2 / n * np.exp(0.5 * rng.normal(size=n) + 0.4 * rng.normal())
    variance = np.ones(1)
    for rho in np.tanh(strengths / 2):
        variance = np.concatenate([variance, variance * rho])
    table = rng.normal(size=2**n) * np.sqrt(variance)
    for i in range(n):  # fast Walsh-Hadamard transform
        without, with_ = table.reshape(-1, 2, 2**i).transpose(1, 0, 2)
        table = np.stack([without - with_, without + with_], axis=1).ravel()
    return table[:, None]


# ----- the posterior ------------------------------------------------------------------------


def kernel_by_definition(theta, first, second, odd):
    """Half of prod(1 + rho z z'), 1 on the diagonal, with the linear part or the constant."""
    n = first.shape[1]
    rho = np.tanh(np.exp(theta[:n]) / 2)

    def product(a, b):
        return np.prod(1 + rho * a[:, None] * b[None], axis=2)

    def half(a, b):
        return product(a, b) - product(a, -b) if odd else product(a, b) + product(a, -b)

    def scale(z):
        # cosh(sqrt(flare) u) as a power series, whatever the sign of the flare; 1 at u^2 = .3.
        def at(square):
            return sum((theta[n + 2] * square) ** k / math.factorial(2 * k) for k in range(12))

        return at(z.mean(axis=1) ** 2) / at(0.3)

    one, c = np.ones((1, n)), np.exp(theta[:n])
    smooth = half(first, second) / half(one, one)
    if odd:
        smooth += np.exp(theta[n]) * (first * c / c.sum()) @ second.T
    return np.outer(scale(first), scale(second)) * smooth + (0.0 if odd else 100.0)


def random_pairs(n: int, p: int, rng: np.random.Generator) -> np.ndarray:
    """Signs of different pairs of coalitions, that of the two ends first."""
    numbers = rng.choice(2 ** (n - 1) - 1, p - 1, replace=False)
    numbers = np.r_[2**n - 1, np.where(rng.random(p - 1) < 0.5, numbers + 1, 2**n - 2 - numbers)]
    return np.where(numbers[:, None] >> np.arange(n) & 1, 1.0, -1.0)


def random_halves(n: int, p: int, seed: int) -> tuple[gp.HalfGame, gp.HalfGame]:
    rng = np.random.default_rng([n, p, seed])
    odd, even = rng.normal(size=(2, p))
    return halves_of(random_pairs(n, p, rng), odd, even - even[0])


def halves_of(signs: np.ndarray, odd: np.ndarray, even: np.ndarray):
    """Of one output."""
    odd, even = odd[:, None], even[:, None]
    return gp.halves(signs, odd, even, evidence.learned(signs, odd, even))


@pytest.fixture(scope="module", params=["learned", (0.0, 0.0), (1.3, -0.9), (-0.9, 5.0)])
def both_halves(request):
    """The odd and the even half of a game of 6 players on 19 pairs and the ends."""
    both = random_halves(6, 20, 3)
    if request.param == "learned":
        return both
    rng, flares = np.random.default_rng(4), request.param
    return [
        gp.HalfGame(h.signs, h.y, h.odd, np.r_[rng.normal(size=8) - 1, flare], np.full(1, scale))
        for h, scale, flare in zip(both, (1.0, 2.5), flares, strict=True)
    ]


def test_the_kernel_is_half_of_the_product(both_halves):
    for half in both_halves:
        theta, z, odd = half.parameters, half.signs, half.odd
        noise = np.exp(theta[-2]) * np.r_[0, np.ones(19)] + 1e-9
        truth = kernel_by_definition(theta, z, z, odd) + np.diag(noise)
        np.testing.assert_allclose(kernels.kernel(theta, z, odd)[0], truth, rtol=1e-12, atol=1e-12)


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("index", INDICES)
def test_posterior_equals_linear_algebra_on_all_coalitions(both_halves, index):
    n = 6
    for order in (1,) if index in ("SV", "BV") else (1, 2, 3, 6):
        estimator = ExactInteractions(n, index, order)
        everything = np.where(estimator.coalitions, 1.0, -1.0)
        # The index as a linear map of the values of all coalitions.
        maps = estimator.estimate(np.eye(64)).values
        for half in both_halves:
            theta, z, y, odd = half.parameters, half.signs, half.y[:, 0], half.odd

            def covariance(a, b, theta=theta, odd=odd):
                # The rough part: independent values of all pairs but that of the ends.
                same = (a[:, None] == b[None]).all(axis=2).astype(float)
                opposite = (a[:, None] == -b[None]).all(axis=2).astype(float)
                rough = same - opposite if odd else same + opposite
                rough[np.abs(a.sum(axis=1)) == n] = 0
                return kernel_by_definition(theta, a, b, odd) + np.exp(theta[-2]) * rough

            seen = covariance(z, z) + 1e-9 * np.eye(20)
            cross, prior = covariance(everything, z), covariance(everything, everything)
            posterior_mean = half.scale * cross @ np.linalg.solve(seen, y)
            # The likeliest amplitude, or that of the pairs predicted from all others.
            inverse = np.linalg.inv(seen)
            left_out = np.mean((inverse @ y)[1:] ** 2 / np.diag(inverse)[1:])
            amplitude = gp._WIDENING * half.scale**2 * max(y @ inverse @ y / len(y), left_out)
            posterior = amplitude * (prior - cross @ np.linalg.solve(seen, cross.T))
            for s in range(1, order + 1):
                mean, std = functional(half, index, order, s)
                label = f"{index} {order} {s} odd {odd}"
                np.testing.assert_allclose(
                    mean, maps[s - 1] @ posterior_mean, rtol=0, atol=1e-8, err_msg=label
                )
                variance = np.einsum("fj,jk,fk->f", maps[s - 1], posterior, maps[s - 1])
                np.testing.assert_allclose(std**2, variance, rtol=1e-6, atol=1e-8, err_msg=label)


def functional(half: gp.HalfGame, index: str, order: int, s: int, relabel=slice(None)):
    n = half.signs.shape[1]
    mean, std = half.functional(
        *diagonal_quadrature(index, order, s, n),
        coalition_weights(index, order, s, n),
        np.arange(n)[relabel][subsets(n, s)],
    )
    return mean[:, 0], std[:, 0]


def test_gradient_of_the_evidence():
    n, p, rng = 6, 20, np.random.default_rng(5)
    z, odd, even = random_pairs(n, p, rng), *rng.normal(size=(2, p, 2))
    share = np.array([0.8, 0.2])
    for y in ((odd, even), (odd, 0 * even), (0 * odd, even)):
        theta = rng.normal(size=n + 5) - 1
        data = [(half, share * half.any()) for half in y]
        value, gradient = evidence.negative_evidence(theta, z, *data)
        numeric = [
            evidence.negative_evidence(theta + h, z, *data)[0]
            - evidence.negative_evidence(theta - h, z, *data)[0]
            for h in 1e-5 * np.eye(n + 5)
        ]
        np.testing.assert_allclose(gradient, np.array(numeric) / 2e-5, rtol=1e-6, atol=1e-7)
        # And the value: the density of both halves at their likeliest amplitudes, with the priors.
        level = theta[:n].mean()
        squares = [
            *((theta[:n] - level) / evidence._SPREAD),
            (level - np.log(6 / n)) / evidence._LEVEL,
        ]
        squares += [
            (t - m) / d
            for t, (m, d) in zip(
                theta[n:],
                (evidence._LINEAR, *2 * [evidence._NOISE], *2 * [evidence._FLARE]),
                strict=True,
            )
        ]
        truth = np.square(squares).sum() / 2
        for half, own in ((0, [*range(n + 1), n + 1, n + 3]), (1, [*range(n + 1), n + 2, n + 4])):
            if y[half].any():
                kernel = kernels.kernel(theta[own], z, half == 0)[0]
                for part, one in zip(share, y[half].T, strict=True):
                    amplitude = one @ np.linalg.solve(kernel, one) / p
                    truth += part * (p * np.log(amplitude) + np.linalg.slogdet(kernel)[1]) / 2
        assert value == pytest.approx(truth, rel=1e-9)


def test_learning_improves_the_evidence_from_where_it_starts():
    n, p = 8, 60
    z = random_pairs(n, p, np.random.default_rng(2))
    odd, even = z[:, 0] * z[:, 1] * z[:, 2] + 0.3 * z[:, 3], z[:, 0] * z[:, 2] - 1
    (few, _), (half, other) = halves_of(z[:4], odd[:4], even[:4]), halves_of(z, odd, even)
    start = [*np.log(np.full(n, 6 / n)), evidence._LINEAR[0], evidence._NOISE[0], 0.0]
    np.testing.assert_allclose(few.parameters, start)
    np.testing.assert_array_equal(half.parameters[:n], other.parameters[:n])
    learned, before = (
        evidence.negative_evidence(t, z, (half.y, np.ones(1)), (other.y, np.ones(1)))[0]
        for t in (
            np.r_[
                half.parameters[:-1],
                other.parameters[-2],
                half.parameters[-1:],
                other.parameters[-1],
            ],
            np.r_[start[:-1], evidence._NOISE[0], 0.0, 0.0],
        )
    )
    assert learned < before - 5
    # Those who interact are stronger than those who do not.
    assert half.parameters[:3].min() > half.parameters[4:n].max()


@given(st.integers(2, 9), st.integers(1, 60), st.integers(0, 10**6), st.data())
def test_the_posterior_is_blind_to_labels_and_to_which_half_stands_for_a_pair(n, p, seed, data):
    rng = np.random.default_rng(seed)
    z = random_pairs(n, min(p, 2 ** (n - 1)), rng)
    y = rng.normal(size=(2, len(z)))
    flip = np.r_[1.0, rng.choice([-1.0, 1.0], len(z) - 1)]
    order = rng.permutation(n)
    highest = min(n, 3)
    s = data.draw(st.integers(1, highest))
    ours = halves_of(z, *y)
    # Player j of the new game is player order[j] of the old one.
    relabelled, flipped = (
        halves_of(z[:, order], *y),
        halves_of(z * flip[:, None], y[0] * flip, y[1]),
    )
    for k in (0, 1):
        mean, std = functional(ours[k], "FBII", highest, s)
        scale = np.abs(mean).max() + std.max() + 1e-9
        for other, names in ((relabelled, np.argsort(order)), (flipped, slice(None))):
            theirs, their_std = functional(other[k], "FBII", highest, s, names)
            np.testing.assert_allclose(theirs, mean, rtol=0, atol=1e-5 * scale)
            np.testing.assert_allclose(their_std, std, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("n", [2, 6, 30])
def test_the_posterior_holds_at_the_two_ends(n):
    odd, even = random_halves(n, min(40, 2 ** (n - 1)), 0)
    mean, _ = functional(odd, "SV", 1, 1)
    assert mean.sum() == pytest.approx(2 * odd.scale[0] * odd.y[0, 0], rel=1e-6)
    mean, std = functional(even, "SV", 1, 1)
    assert not mean.any()  # Shapley values see the odd half alone
    assert not std.any()


def test_blocks_change_nothing(monkeypatch):
    table = smooth_game(7, 0)
    whole = run(table, 60, GAUSSIAN, "FSII", 3)
    monkeypatch.setattr(gp, "_BLOCK_ENTRIES", 100)
    parts = run(table, 60, GAUSSIAN, "FSII", 3)
    np.testing.assert_allclose(flat(parts), flat(whole), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(errors(parts), errors(whole), rtol=1e-6, atol=1e-9)


# ----- invariants of the estimators ---------------------------------------------------------


@given(
    st.integers(2, 9),
    st.integers(0, 10**6),
    st.sampled_from([k for k in kinds() if k[1] in EFFICIENT]),
    st.sampled_from([None, *SAMPLING_RULES]),
    st.data(),
)
def test_values_add_up_at_every_budget(n, seed, kind, rule, data):
    name, index, order = kind
    budget = data.draw(st.integers(2, min(2**n + 3, 120)))
    table = smooth_game(n, seed) * 10.0 ** data.draw(st.integers(-4, 4))
    result = run(table, budget, name, index, min(order, n), seed, sampling=rule)
    np.testing.assert_allclose(
        flat(result).sum(axis=0), table[-1] - table[0], rtol=0, atol=1e-9 * np.abs(table).max()
    )
    np.testing.assert_array_equal(result.base_values, table[0])
    np.testing.assert_array_equal(result.full_values, table[-1])
    assert np.isfinite(flat(result)).all()
    assert (errors(result) >= 0).all()


@pytest.mark.pairwise
@pytest.mark.parametrize("budget", [2, 3, 4, 7, 50])
@every_kind
def test_small_budgets(kind, index, order, budget):
    table = smooth_game(7, 1)
    result = run(table, budget, kind, index, order)
    assert result.n_coalitions == budget - budget % 2
    assert not result.exact
    assert [v.shape for v in result.values] == [(comb(7, s), 2) for s in range(1, order + 1)]
    assert [v.shape for v in result.error_std] == [v.shape for v in result.values]
    assert np.isfinite(flat(result)).all()
    gain = table[-1] - table[0]
    if index in EFFICIENT:
        np.testing.assert_allclose(flat(result).sum(axis=0), gain, atol=1e-9)
    if index == "SII":
        np.testing.assert_allclose(result.values[0].sum(axis=0), gain, atol=1e-9)


@pytest.mark.pairwise
@pytest.mark.parametrize("budget", [2, 3])
@every_kind
def test_nothing_but_the_ends(kind, index, order, budget):
    table = smooth_game(7, 1)
    result = run(table, budget, kind, index, order)
    assert np.isinf(errors(result)).all()
    for values in result.values:
        # Nothing tells the players apart.
        np.testing.assert_allclose(values - values[0], 0, atol=1e-9)
    if index in (*EFFICIENT, "SII"):
        total = result.values[0].sum(axis=0) if index == "SII" else flat(result).sum(axis=0)
        np.testing.assert_allclose(total, table[-1] - table[0], atol=1e-9)


@pytest.mark.pairwise
@every_kind
def test_errors_are_infinite_where_nothing_is_known_of_them(kind, index, order):
    table = smooth_game(8, 2)
    few = 4 if kind == GAUSSIAN else 3
    for n_pairs in range(1, few + 3):
        result = run(table, 2 + 2 * n_pairs, kind, index, order)
        if n_pairs < few:
            assert np.isinf(errors(result)).all()
        else:
            assert np.isfinite(errors(result)).all()
            assert errors(result).max() > 0


@pytest.mark.pairwise(1)
@every_kind
def test_a_prefix_equals_a_smaller_budget_and_an_odd_one_is_left_aside(kind, index, order):
    n, powers = 8, 1 << np.arange(8)
    table = smooth_game(n, 3)
    large = interaction_estimator(n, 100, index, order, kind, seed=4)
    values = table[large.coalitions @ powers]
    before = values.copy()
    # Shorter designs are others; see DesignedPairs.
    for m in (22, 23, 61) if kind == GAUSSIAN else (5, 6, 61):
        early = large.estimate(values[:m])
        small = run(table, m - m % 2, kind, index, order, seed=4)
        np.testing.assert_array_equal(flat(early), flat(small))
        np.testing.assert_array_equal(errors(early), errors(small))
        assert early.n_coalitions == m - m % 2
    np.testing.assert_array_equal(values, before)


@pytest.mark.pairwise(1)
@every_kind
def test_the_same_seed_gives_the_same_numbers(kind, index, order):
    table = smooth_game(8, 4)
    first, again, other = (run(table, 60, kind, index, order, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(flat(first), flat(again))
    np.testing.assert_array_equal(errors(first), errors(again))
    assert np.abs(flat(first) - flat(other)).max() > 1e-6


@pytest.mark.pairwise(1)
@every_kind
def test_outputs_do_not_influence_each_other(kind, index, order):
    table = smooth_game(8, 5)
    table[:, 0] *= 1e6
    guided = table[:, [0, 1, 1, 0]]  # the last two guide the process
    for budget in (4, 16, 80):
        if kind == GAUSSIAN:
            estimator = interaction_estimator(8, budget, index, order, kind)
            values = guided[estimator.coalitions @ (1 << np.arange(8))]
            both = estimator.estimate(values, n_guides=2)
            one = estimator.estimate(values[:, 1:], n_guides=2)
        else:
            both = run(table, budget, kind, index, order)
            one = run(table[:, 1], budget, kind, index, order)
        np.testing.assert_allclose(flat(both)[:, 1:], flat(one), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(errors(both)[:, 1:], errors(one), rtol=1e-7, atol=1e-9)


def test_the_first_guides_are_for_themselves_and_the_others_for_all_else():
    estimator = interaction_estimator(8, 80, "SV", 1, GAUSSIAN)
    rows = estimator.coalitions @ (1 << np.arange(8))
    games = np.concatenate([smooth_game(8, seed)[rows] for seed in (6, 7, 8, 9)], axis=1)[:, :7]
    leading, others = games[:, :4], games[:, 4:6]
    both = estimator.estimate(np.c_[games, leading, others], n_guides=6)
    np.testing.assert_allclose(flat(both)[:, :4], flat(estimator.estimate(leading)), atol=1e-9)
    rest = estimator.estimate(np.c_[games[:, 4:], others, others], n_guides=4)
    np.testing.assert_allclose(flat(both)[:, 4:], flat(rest), atol=1e-9)
    assert flat(both).shape[1] == 7
    for wrong in (-1, 7):
        with pytest.raises(PatchShapError, match=f"n_guides: got {wrong}; expected 0 to 6, of 7"):
            estimator.estimate(games, n_guides=wrong)


@given(
    st.integers(3, 8),
    st.integers(0, 10**6),
    st.sampled_from(kinds()),
    st.sampled_from([-1.0, 1.0]),
    st.floats(-6, 6),
    st.floats(-100, 100),
    st.data(),
)
def test_other_units_and_another_origin(n, seed, kind, sign, exponent, shift, data):
    name, index, order = kind
    budget = data.draw(st.integers(4, min(2**n, 80)))
    table, factor = smooth_game(n, seed), sign * 10.0**exponent
    first = run(table, budget, name, index, min(order, n), seed)
    second = run(factor * (table + shift), budget, name, index, min(order, n), seed)
    scale = np.abs(table).max()
    np.testing.assert_allclose(flat(second) / factor, flat(first), rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(
        errors(second) / abs(factor), errors(first), rtol=1e-4, atol=1e-5 * scale
    )
    np.testing.assert_allclose(second.base_values, factor * (table[0] + shift))


@every_kind
def test_constant_games(kind, index, order):
    for budget in (4, 7, 40):
        result = run(np.full((128, 2), 3.25), budget, kind, index, order)
        np.testing.assert_allclose(flat(result), 0, atol=1e-12)
        if budget == 40:
            np.testing.assert_allclose(errors(result), 0, atol=1e-12)


@pytest.mark.pairwise
@pytest.mark.parametrize("budget", [32, 33, 34, 1000])
@every_kind
def test_exact_once_all_coalitions_are_drawn(kind, index, order, budget):
    table = smooth_game(5, 6)
    result = run(table, budget, kind, index, order)
    np.testing.assert_allclose(flat(result), exact(table, index, order), atol=1e-12)
    assert result.exact
    assert result.n_coalitions == 32
    assert not errors(result).any()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_few_players(n):
    table = np.random.default_rng(n).normal(size=(2**n, 2))
    for kind, index, order in kinds():
        if order <= n:
            result = run(table, 2**n, kind, index, order)
            assert result.exact
            np.testing.assert_allclose(flat(result), exact(table, index, order), atol=1e-12)


def test_order_1_of_the_regression_is_close_to_kernel_shap():
    table = smooth_game(9, 7)
    estimator = KernelShap(9, 200, seed=3)
    shap = estimator.estimate(table[estimator.coalitions @ (1 << np.arange(9))])
    ours = run(table, 200, REGRESSION, "SII", 1, seed=3)
    truth = exact(table, "SV", 1)
    assert (np.abs(ours.values[0] - shap.values) <= 3 * shap.error_std + 0.01).all()
    assert np.abs(ours.values[0] - truth).max() < 0.05 * np.abs(truth).max()


# ----- accuracy -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "index", "order"), kinds(lowest=2))
def test_one_pair_short_of_everything_is_close_to_exact(kind, index, order):
    table = smooth_game(8, 8)
    truth = exact(table, index, order)
    result = run(table, 254, kind, index, order)
    assert not result.exact
    assert result.n_coalitions == 254
    gap = np.abs(flat(result) - truth).max(axis=0) / np.abs(truth).max(axis=0)
    assert (gap < (0.01 if kind == GAUSSIAN else 0.1)).all(), gap


@pytest.mark.parametrize(("kind", "index", "order"), kinds(highest=2))
def test_polynomials_of_order_2_are_recovered(kind, index, order):
    n = 10
    coefficients = random_coefficients(n, 2, 0, outputs=2)
    estimator = interaction_estimator(n, 250, index, order, kind)
    found = flat(estimator.estimate(polynomial(estimator.coalitions, coefficients)))
    truth = np.concatenate(of_polynomial(n, coefficients, index, order))
    gap = np.abs(found - truth).max() / np.abs(truth).max()
    assert gap < (1e-3 if kind == GAUSSIAN else 1e-2)


@pytest.mark.parametrize(("kind", "index", "order"), kinds())
def test_additive_games_need_few_evaluations(kind, index, order):
    if kind == REGRESSION and order == 3:
        return  # to which products of three players are as likely as main effects
    n = 12
    weights = np.random.default_rng(0).normal(size=(n, 1))
    estimator = interaction_estimator(n, 60, index, order, kind)
    result = estimator.estimate(estimator.coalitions @ weights + 5)
    limit = 1e-4 if kind == GAUSSIAN else 0.03
    np.testing.assert_allclose(result.values[0], weights, rtol=0, atol=limit)
    for higher in result.values[1:]:
        np.testing.assert_allclose(higher, 0, atol=limit)


@pytest.mark.parametrize("index", ["SII", "STII", "FSII", "FBII"])
def test_the_strongest_pair_is_found_among_many_players(index):
    n = 64
    weights = np.random.default_rng(1).normal(size=n)
    for kind in INTERACTION_ESTIMATORS:
        if index in INDICES_OF[kind]:
            estimator = interaction_estimator(n, 400, index, 2, kind)
            z = estimator.coalitions.astype(float)
            result = estimator.estimate(z @ weights + 12 * z[:, 5] * z[:, 40])
            ((players, value),) = result.top(1, order=2)
            assert players == (5, 40)
            if kind == GAUSSIAN:
                assert value == pytest.approx(12, rel=0.05)


@pytest.fixture(scope="module", params=["players", "signs"])
def games_of_order_3(request):
    """Coefficients of three polynomials of 16 players with products of up to three."""
    coefficients = random_coefficients(16, 3, 0, outputs=3)
    return coefficients if request.param == "players" else of_signs(16, coefficients)


@pytest.mark.pairwise(1)
@pytest.mark.parametrize(("kind", "index", "order"), kinds(lowest=2))
def test_tiny_budgets_give_nothing_absurd(games_of_order_3, kind, index, order):
    truth = of_polynomial(16, games_of_order_3, index, order)[1]
    for budget in (20, 48, 128):
        estimator = interaction_estimator(16, budget, index, order, kind)
        values = polynomial(estimator.coalitions, games_of_order_3)
        gap = estimator.estimate(values).values[1] - truth
        # Those that do not regularise reach thousands; no interactions at all have 1.
        assert np.mean((gap**2).sum(axis=0) / (truth**2).sum(axis=0)) < 4, budget


@pytest.mark.parametrize("budget", [100, pytest.param(200, marks=pytest.mark.slow)])
def test_intervals_cover_games_of_the_model(budget):
    covered = []
    for seed in range(30):
        table = game_of_the_model(10, seed)
        result = run(table, budget, GAUSSIAN, "SII", 2, seed)
        truth = exact(table, "SII", 2)[10:]
        covered.append(np.abs(result.values[1] - truth) <= 1.6449 * result.error_std[1])
    assert 0.75 < np.mean(covered) < 0.99


def test_intervals_of_the_regression_cover_the_best_polynomial():
    # FSII and FBII of a game with main effects, pairs and noise, the regression's own model.
    for index in ("FSII", "FBII"):
        covered = []
        for seed in range(30):
            rng = np.random.default_rng(seed)
            z = np.arange(256)[:, None] >> np.arange(8) & 1
            coefficients = of_signs(8, random_coefficients(8, 2, seed))
            table = polynomial(z, coefficients) + rng.normal(size=(256, 1))
            result = run(table, 120, REGRESSION, index, 2, seed)
            truth = exact(table, index, 2)[8:]
            covered.append(np.abs(result.values[1] - truth) <= 1.6449 * result.error_std[1])
        assert 0.75 < np.mean(covered) <= 0.99, index


# ----- the choice of an estimator, and errors -----------------------------------------------


def test_the_choice_of_an_estimator():
    assert type(interaction_estimator(8, 50)) is GaussianProcessInteractions
    assert type(interaction_estimator(8, 50, estimator=GAUSSIAN)) is GaussianProcessInteractions
    assert type(interaction_estimator(8, 50, estimator=REGRESSION)) is RegressionInteractions
    assert type(interaction_estimator(1, 50, order=1)) is ExactInteractions
    one = interaction_estimator(8, 50)
    assert (one.index, one.order, one.min_coalitions) == ("SII", 2, 2)
    for kind, rule in ((GAUSSIAN, "a-optimal"), (REGRESSION, "modified_l2")):
        default, same = (
            interaction_estimator(12, 200, estimator=kind, sampling=r).coalitions
            for r in (None, rule)
        )
        np.testing.assert_array_equal(default, same)
        other = interaction_estimator(12, 200, estimator=kind, sampling="kernel").coalitions
        assert (default != other).any()


def test_the_coalitions_come_in_pairs_after_the_two_ends():
    for kind in INTERACTION_ESTIMATORS:
        z = interaction_estimator(9, 60, estimator=kind).coalitions
        assert z.shape == (60, 9)
        assert not z[0].any()
        assert z[1].all()
        np.testing.assert_array_equal(z[2::2], ~z[3::2])
        assert len(np.unique(z, axis=0)) == 60
        fresh = [interaction_estimator(9, 60, estimator=kind, seed=None) for _ in range(2)]
        assert (fresh[0].coalitions != fresh[1].coalitions).any()
        for budget in range(2, 24):
            assert len(interaction_estimator(4, budget, estimator=kind).coalitions) == min(
                budget - budget % 2, 16
            )


@pytest.mark.parametrize("kind", ["auto", *INTERACTION_ESTIMATORS])
@pytest.mark.parametrize(
    ("index", "order", "message"),
    [
        ("Shapley", 2, r"index: got 'Shapley'; expected one of 'SV', 'BV', 'SII'"),
        (None, 2, r"index: got None; expected one of"),
        ("SII", 0, r"order: got 0; expected a whole number of at least 1"),
        ("SII", True, r"order: got True; expected a whole number of at least 1"),
        ("SII", 2.5, r"order: got 2\.5; expected a whole number of at least 1"),
        ("SII", 9, r"order: got 9; expected at most 8, the number of players"),
        ("SV", 2, r"order: got 2; expected 1 for index 'SV'\. SII and BII are their higher"),
        ("BV", 2, r"order: got 2; expected 1 for index 'BV'\. SII and BII are their higher"),
    ],
)
def test_refuses_what_does_not_exist(kind, index, order, message):
    with pytest.raises(PatchShapError, match=message):
        interaction_estimator(8, 50, index, order, kind)
    with pytest.raises(PatchShapError, match=message):
        GaussianProcessInteractions(8, 50, index, order)
    with pytest.raises(PatchShapError, match="got"):
        RegressionInteractions(8, 50, index, order)


def test_refuses_an_estimator_or_a_sampling_that_does_not_exist():
    message = "estimator: got 'GP'; expected one of 'auto', 'gaussian-process' or 'regression'"
    with pytest.raises(PatchShapError, match=re.escape(message)):
        interaction_estimator(8, 50, estimator="GP")
    with pytest.raises(PatchShapError, match=r"sampling: got 'all'; expected one of 'modified"):
        interaction_estimator(8, 50, sampling="all")


@pytest.mark.parametrize(
    ("index", "order"), [("STII", 2), ("STII", 1), ("BII", 2), ("SII", 3), ("FSII", 4)]
)
def test_refuses_what_the_regression_cannot_do(index, order):
    message = (
        f"index: got '{index}' of order {order}; expected SII and k-SII up to order 2, FSII and "
        "FBII up to order 3 for regression. estimator='gaussian-process' takes every index and "
        "order."
    )
    with pytest.raises(PatchShapError, match=re.escape(message)):
        interaction_estimator(8, 50, index, order, REGRESSION)
    assert interaction_estimator(8, 50, index, order, GAUSSIAN).order == order


@pytest.mark.parametrize("kind", INTERACTION_ESTIMATORS)
@pytest.mark.parametrize("budget", [1, 0, -3])
def test_refuses_a_budget_without_the_ends(kind, budget):
    with pytest.raises(
        PatchShapError,
        match=f"budget: got {budget}; expected a whole number of at least 2 evaluations",
    ):
        interaction_estimator(8, budget, estimator=kind)


def test_refuses_one_player_where_there_are_no_pairs():
    for one in (GaussianProcessInteractions, RegressionInteractions):
        with pytest.raises(PatchShapError, match="n_players: got 1; expected at least 2"):
            one(1, 50, "SII", 1)
    with pytest.raises(PatchShapError, match="order: got 1; expected at most 0"):
        interaction_estimator(0, 50, "SII", 1)


@pytest.mark.parametrize(
    ("players", "order"),
    [
        (230, 3),
        (2001, 2),
        # Fewer of the highest order than of one below.
        (40, 40),
        (30, 27),
    ],
)
def test_refuses_too_many_interactions(players, order):
    with pytest.raises(
        PatchShapError, match=rf"players: got {players}.*expected at most 2,000,000 interactions"
    ):
        interaction_estimator(players, 100, "SII", order)


@pytest.mark.slow
def test_takes_as_many_interactions_as_it_promises():
    assert comb(229, 3) <= 2_000_000 < comb(230, 3)
    assert interaction_estimator(229, 2, "SII", 3).order == 3
    assert interaction_estimator(1000, 2, "SII", 2).order == 2
    for order in (1, 2):
        with pytest.raises(
            PatchShapError, match="players: got 1001; expected at most 1,000 for interactions"
        ):
            interaction_estimator(1001, 2, "SII", order)


@pytest.mark.parametrize("kind", INTERACTION_ESTIMATORS)
def test_refuses_values_that_do_not_fit(kind):
    estimator = interaction_estimator(6, 20, estimator=kind)
    for shape in ((1,), (21,), (20, 1, 1), ()):
        with pytest.raises(
            PatchShapError, match=r"values: got shape \(.*\); expected \(m, n_outputs\) with 2 <= m"
        ):
            estimator.estimate(np.zeros(shape))
    for wrong in (np.nan, np.inf, -np.inf):
        values = np.zeros(20)
        values[7] = wrong
        with pytest.raises(PatchShapError, match="values: got NaN or infinite numbers; expected"):
            estimator.estimate(values)


def test_one_column_or_a_vector_of_values():
    estimator = interaction_estimator(6, 20)
    values = np.random.default_rng(0).normal(size=20)
    np.testing.assert_array_equal(
        flat(estimator.estimate(values)), flat(estimator.estimate(values[:, None]))
    )


def test_pairs_found_by_players_and_matrix_of_a_sample():
    result = run(smooth_game(8, 9), 60, GAUSSIAN, "SII", 2)
    shapley = run(smooth_game(8, 9), 60, GAUSSIAN, "SV", 1)
    rows = result.matrix().sum(axis=1)
    np.testing.assert_allclose(rows, shapley.values[0], atol=1e-9)
    for row, (i, j) in enumerate(combinations(range(8), 2)):
        np.testing.assert_array_equal(result[j, i], result.values[1][row])
        np.testing.assert_array_equal(result.matrix_std()[i, j], result.error_std[1][row] / 2)
