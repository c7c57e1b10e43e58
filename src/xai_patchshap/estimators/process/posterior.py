r"""A Gaussian process over coalitions, and the posterior of every interaction index.

A coalition is a vector of signs :math:`z \in \{-1, 1\}^n`, and a game a function of it. The
product kernel

.. math:: k(z, z') = \prod_i (1 + \rho_i z_i z'_i) \propto \exp(\tfrac12 \sum_i c_i z_i z'_i),
          \quad \rho_i = \tanh(c_i / 2),

gives the Fourier coefficient of the subset S the prior variance
:math:`\prod_{i \in S} \rho_i`: low orders come first, and players of large :math:`\rho_i`
interact more. It is the sum of an even and an odd kernel, cosh and sinh of
:math:`\tfrac12 \sum_i c_i z_i z'_i`, so that the two halves of a game,
:math:`[v(S) \pm v(N \setminus S)] / 2`, are independent, each a regression on pairs of
coalitions with half the rows.

Interaction indices are linear in the game; their posterior is Gaussian. With the derivatives
of the multilinear extension on the diagonal, :math:`u = 2x - 1`,

.. math:: \partial_S k(\cdot, z')(u) = \prod_{i \in S} 2 \rho_i z'_i
          \prod_{i \notin S} (1 + \rho_i u z'_i),

an index is a sum over the nodes of :func:`~.indices.diagonal_quadrature`, exact for
64 players and fewer. The part of an index that sees the odd (even) half of a game has the nodes'
weights antisymmetrised (symmetrised).

A linear part of its own has variances in the proportions of the :math:`c_i`. Both are multiplied
by a scale that depends on the size of the coalitions,

.. math:: g(z) g(z'), \quad g(z) \propto \cosh(\sqrt{\tau} \bar z) \text{ or, of negative }
          \tau, \cos(\sqrt{-\tau} \bar z), \quad \bar z = \tfrac1n \sum_i z_i:

games of probabilities are often flat where nearly all or nearly no players are there
(:math:`\tau < 0`), and networks that saw few tokens in training are rough there
(:math:`\tau > 0`). As :math:`e^{b z_i} = \cosh b\,(1 + z_i \tanh b)`, g times k is a sum of two
products over the players again, and its derivatives are as simple.

To this smooth part comes a rough one, of independent values of all pairs of coalitions, which
stands for interactions of high order. It is part of the game: what is known of it, at the
coalitions that were evaluated, enters the index with their weights
(:func:`~.indices.coalition_weights`), and what is not adds to the error.

The values of the empty and the full coalition are met exactly, and an odd half that is additive
up to rounding is taken for what it is. The amplitude of the kernel is the likeliest, or what
makes the errors of pairs predicted from all others as large as expected, if that is more, and
somewhat more than either. The strengths :math:`c_i`, the variances of the linear and of the rough
part, and the flare :math:`\tau` maximise the marginal likelihood of the first pairs, with weak
priors; the :math:`c_i` are kept near each other. Outputs of one model share them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from ...errors import bad
from .evidence import covariance, flared, own, root_mean_square

__all__ = ["HalfGame", "halves"]

Floats = NDArray[np.float64]

_ROUNDING = 1e-6  # of models in single precision, relative
# Times the variance, for what one choice of parameters hides: 90 % intervals then cover .90 of the
# values of 16 patches, on average over the games that it was chosen on.
_WIDENING = 1.15**2
_JITTERS = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)  # what was learned from fewer rows may need some
_LEFT_OUT = 512  # pairs predicted from the others, of all
_BLOCK_ENTRIES = 2**23


def halves(
    signs: Floats,
    odd: Floats,
    even: Floats,
    parameters: Floats,
    factors: tuple[Factor, Factor] | None = None,
) -> tuple[HalfGame, HalfGame]:
    """The odd and the even halves of the games of K outputs.

    Parameters
    ----------
    signs, odd, even
        As :func:`~._evidence.learned` takes them.
    parameters : ndarray (n + 5,)
        Its result, perhaps of other outputs.
    factors : tuple of two Factor, optional
        Of :func:`factors_of`, for games that share them.
    """
    n = signs.shape[1]
    found = []
    for y, is_odd, factor in zip((odd, even), (True, False), factors or (None, None), strict=True):
        scale = root_mean_square(y)
        unit = np.where(scale > 0, scale, 1.0)
        found.append(HalfGame(signs, y / unit, is_odd, parameters[own(n, is_odd)], unit, factor))
    return found[0], found[1]


@dataclass(frozen=True)
class Factor:
    """Cholesky factor (p, p) of a kernel, and what all outputs have from it."""

    lower: Floats

    @cached_property
    def left_out(self) -> tuple[NDArray[np.intp], Floats]:
        """Some pairs, and their entries on the diagonal of the inverse of the kernel."""
        p = len(self.lower)
        rows = np.unique(np.linspace(1, p - 1, min(_LEFT_OUT, p - 1)).astype(int))
        columns = np.zeros((p, len(rows)))
        columns[rows, np.arange(len(rows))] = 1.0
        columns = solve_triangular(self.lower, columns, lower=True, check_finite=False)
        return rows, np.square(columns).sum(axis=0)


def factors_of(signs: Floats, parameters: Floats) -> tuple[Factor, Factor]:
    """Factors of the kernels of the odd and the even half."""
    n = signs.shape[1]
    odd, even = (
        Factor(_factor(partial(covariance, parameters[own(n, is_odd)], signs, is_odd)))
        for is_odd in (True, False)
    )
    return odd, even


@dataclass(frozen=True)
class HalfGame:
    """The odd or even halves of the games of K outputs, seen on some pairs of coalitions.

    Attributes
    ----------
    signs : ndarray (p, n)
        One coalition of each pair, in {-1, 1}; the first row is the full coalition.
    y : ndarray (p, K)
        Values of the halves, over ``scale``.
    odd : bool
    parameters : ndarray (n + 3,)
        Logarithms of the strengths c, of the variance of the linear part (of the odd half)
        and of that of the rough part; the flare.
    scale : ndarray (K,)
    factor : Factor, optional
        Of the kernel, if it is known.
    """

    signs: Floats
    y: Floats
    odd: bool
    parameters: Floats
    scale: Floats
    factor: Factor | None = None

    @cached_property
    def _additive(self) -> tuple[NDArray[np.bool_], Floats, Floats]:
        """Outputs (K,) whose signs explain all but rounding; coefficients, errors (n, K)."""
        p, n = self.signs.shape
        nothing = np.zeros((n, self.y.shape[1]))
        if not self.odd or p <= n:
            return np.zeros(self.y.shape[1], dtype=bool), nothing, nothing
        solved, _, rank, _ = np.linalg.lstsq(self.signs, self.y, rcond=None)
        coefficients: Floats = solved.astype(np.float64)
        left = np.square(self.y - self.signs @ coefficients).sum(axis=0)
        is_additive: NDArray[np.bool_] = (left <= _ROUNDING**2 * np.square(self.y).sum(axis=0)) & (
            rank == n
        )
        if not is_additive.any():
            return is_additive, nothing, nothing
        inverse = np.diag(np.linalg.inv(self.signs.T @ self.signs))
        return is_additive, coefficients, np.sqrt(np.outer(inverse, left / (p - n)))

    @cached_property
    def _solved(self) -> tuple[Floats, Floats, Floats]:
        """Cholesky factor of the kernel, its solution for y, and the most likely amplitudes."""
        factor = self.factor
        if factor is None:
            made = partial(covariance, self.parameters, self.signs, self.odd)
            factor = Factor(_factor(made))
        alpha = cho_solve((factor.lower, True), self.y, check_finite=False)
        likely = np.maximum(np.einsum("pk,pk->k", self.y, alpha), 0.0) / len(self.y)
        if len(alpha) > 1:
            # Mean squared error, over its variance, of pairs predicted from all others: 1 where
            # the model is right, and more where its intervals are too narrow.
            rows, inverse = factor.left_out
            error = np.mean(np.square(alpha[rows]) / inverse[:, None], axis=0)
            likely = np.maximum(likely, error)
        return factor.lower, alpha, _WIDENING * likely

    def functional(
        self, nodes: Floats, weights: Floats, table: Floats, members: NDArray[np.int64]
    ) -> tuple[Floats, Floats]:
        """Posterior means and deviations (m, K) of the interactions of subsets.

        Parameters
        ----------
        nodes, weights : ndarray (Q,)
            Of :func:`diagonal_quadrature`; nodes in (0, 1) and symmetric about 1/2.
        table : ndarray (s + 1, n + 1)
            Of :func:`coalition_weights`.
        members : ndarray of int, shape (m, s)
        """
        m, s = members.shape
        nodes, weights, table = self._own_part(nodes, weights, table)
        mean, variance = np.zeros((m, self.y.shape[1])), np.zeros(m)
        if np.abs(weights).max() < 1e-12 or not self.y.any():
            return mean, np.zeros_like(mean)
        factor, alpha, amplitude = self._solved
        chunk = max(1, _BLOCK_ENTRIES // len(self.y))
        for start in range(0, m, chunk):
            block = self._covariance(nodes, weights, table, members[start : start + chunk])
            mean[start : start + chunk] = block.T @ alpha
            seen = solve_triangular(factor, block, lower=True, check_finite=False)
            variance[start : start + chunk] = -np.square(seen).sum(axis=0)
        c, linear, noise, flare = self._variances
        rho = np.tanh(c / 2)
        variance += _prior_variance(rho, self._log_scale, nodes, weights, members, flare)
        variance += noise * _sum_of_squares(table)
        if linear:
            share = (c / c.sum())[members].sum(axis=1)
            inside, outside = _of_players(table, flare)
            variance += linear * (inside**2 * share + outside**2 * (1 - share))
        deviation = np.sqrt(np.outer(np.maximum(variance, 0.0), amplitude))
        is_additive, coefficients, errors = self._additive
        if is_additive.any():
            of_players, errors = (2.0 * (s == 1) * a[members[:, 0]] for a in (coefficients, errors))
            mean = np.where(is_additive, of_players, mean)
            deviation = np.where(is_additive, errors, deviation)
        return self.scale * mean, self.scale * deviation

    def covariance(
        self, nodes: Floats, weights: Floats, table: Floats, members: NDArray[np.int64]
    ) -> Floats:
        """Prior covariance (p, m), over the amplitude, of the pairs and the interactions.

        Parameters
        ----------
        nodes, weights, table, members
            As of :meth:`functional`.
        """
        return self._covariance(*self._own_part(nodes, weights, table), members)

    @property
    def _variances(self) -> tuple[Floats, float, float, float]:
        """Strengths, variances of the linear and of the rough part, and the flare."""
        n = self.signs.shape[1]
        c, (linear, noise) = np.exp(self.parameters[:n]), np.exp(self.parameters[n : n + 2])
        flare = float(self.parameters[n + 2])
        return c, float(linear) if self.odd else 0.0, float(noise), flare

    @property
    def _log_scale(self) -> float:
        """Logarithm of what normalises the product kernel to 1 on the diagonal of this half."""
        c = self._variances[0]
        return float(np.log(np.cosh(c / 2)).sum() - _log_f(c.sum() / 2, self.odd))

    def _own_part(
        self, nodes: Floats, weights: Floats, table: Floats
    ) -> tuple[Floats, Floats, Floats]:
        """Nodes in (-1, 1), and the part of an index that sees this half of a game."""
        s = len(table) - 1
        flip = 1.0 if (s % 2 == 1) == self.odd else -1.0
        # Of a coalition and its complement, of which the rough part knows one value.
        own = table + (-1.0 if self.odd else 1.0) * table[::-1, ::-1]
        return 2 * nodes - 1, (weights + flip * weights[::-1]) / 2, own

    def _covariance(
        self, u: Floats, weights: Floats, table: Floats, members: NDArray[np.int64]
    ) -> Floats:
        s = members.shape[1]
        c, linear, noise, flare = self._variances
        rho = np.tanh(c / 2)
        scale = flared(self.signs.mean(axis=1), flare)[:, None]
        block = np.zeros((len(self.signs), len(members)))
        for tilt, share in _tilts(flare, len(c)):
            # Signs are +-1: every factor is affine in its sign, and sums over nodes are
            # products of matrices.
            even, odd = (1 + u * tilt)[:, None], np.outer(u + tilt, rho)
            plus, minus = np.log(even + odd), np.log(even - odd)
            product = share * np.exp(
                self.signs @ ((plus - minus) / 2).T
                + ((plus + minus) / 2).sum(axis=1)
                + self._log_scale
            )
            inside, outside = (tilt + rho) * np.exp(-plus), (tilt - rho) * np.exp(-minus)
            slope, constant = inside - outside, inside + outside
            for signed in itertools.product((True, False), repeat=s):
                coefficient = weights[:, None]
                sign: Floats | float = 1.0
                for k, with_sign in enumerate(signed):
                    coefficient = coefficient * (slope if with_sign else constant)[:, members[:, k]]
                    if with_sign:
                        sign = sign * self.signs[:, members[:, k]]
                block += scale * sign * (product @ coefficient).real
        sizes = (self.signs > 0).sum(axis=1)
        shared = sum((self.signs[:, members[:, k]] > 0).astype(np.intp) for k in range(s))
        # The first row, of the empty and the full coalition, has no rough part.
        block[1:] += noise * table[shared, sizes[:, None]][1:]
        if linear:
            weighted = self.signs * (c / c.sum())
            own = weighted[:, members].sum(axis=2)
            one, other = _of_players(table, flare)
            total = weighted.sum(axis=1, keepdims=True)
            block += linear * scale * ((one - other) * own + other * total)
        return block


def _tilts(flare: float, n: int) -> list[tuple[Any, Any]]:
    """Tangents and weights of products of all players that sum up to the scale.

    ``exp(b z) = cosh b (1 + z tanh b)`` for every player: cosh and cosine of the mean sign are
    sums of two products, of real or imaginary b.
    """
    if flare == 0:
        return [(0.0, 1.0)]
    b = np.emath.sqrt(flare) / n
    share = np.cosh(b) ** n / 2 * flared(np.zeros(()), flare)
    return [(np.tanh(b), share), (-np.tanh(b), share)]


def _factor(made: Callable[[], Floats]) -> Floats:
    """Cholesky factor, with more on the diagonal if rounding has left too little there.

    ``made`` makes the matrix, which is overwritten.
    """
    for jitter in np.cumsum(_JITTERS):
        matrix = made()
        matrix[np.diag_indices_from(matrix)] += jitter
        try:
            # Transposed, it is in the order in which it is factorised in place.
            return np.asarray(cho_factor(matrix.T, True, overwrite_a=True, check_finite=False)[0])
        except np.linalg.LinAlgError:
            continue
    raise bad(
        "estimator",
        "a covariance of the coalitions that is not positive definite",
        "values that a Gaussian process can learn from",
        "Use estimator='kernel-shap'.",
    )


def _log_f(x: float, odd: bool) -> float:
    """Logarithm of sinh or cosh."""
    return float(x + np.log1p((-1.0 if odd else 1.0) * np.exp(-2 * x)) - np.log(2.0))


def _of_players(table: Floats, flare: float) -> tuple[float, float]:
    """The index of a subset, of one sign times the scale, of a player inside or outside of it."""
    s, n = table.shape[0] - 1, table.shape[1] - 1
    size = np.arange(n + 1)
    scale = flared(1 - 2 * size / n, flare)

    def ways(out_of: int, chosen: NDArray[np.intp]) -> Floats:
        return np.array([float(comb(out_of, k)) if k >= 0 else 0.0 for k in chosen.tolist()])

    inside = outside = 0.0
    for shared in range(s + 1):
        with_it = comb(s - 1, shared - 1) if shared else 0
        rest = ways(n - s, size - shared)
        inside += (with_it - comb(s - 1, shared)) * float(np.sum(table[shared] * scale * rest))
        if n > s:
            signed = ways(n - s - 1, size - shared - 1) - ways(n - s - 1, size - shared)
            outside += comb(s, shared) * float(np.sum(table[shared] * scale * signed))
    # ``table`` counts a coalition and its complement, which are one pair.
    return inside / 2, outside / 2


def _sum_of_squares(table: Floats) -> float:
    """Over all pairs of coalitions but the empty and the full one."""
    s, n = table.shape[0] - 1, table.shape[1] - 1
    total = 0.0
    for j in range(s + 1):
        for c in range(max(j, 1), min(n - s + j, n - 1) + 1):
            total += comb(s, j) * comb(n - s, c - j) * float(table[j, c]) ** 2
    return total / 2


def _prior_variance(
    rho: Floats,
    log_scale: float,
    u: Floats,
    weights: Floats,
    members: NDArray[np.int64],
    flare: float,
) -> Floats:
    """Variance of the functional before any data, of the kernel of amplitude 1."""
    variance = np.zeros(len(members))
    weight = np.multiply.outer(weights, weights).ravel()
    tilts = _tilts(flare, len(rho))
    for (one, one_share), (other, other_share) in itertools.product(tilts, repeat=2):
        even = np.multiply.outer(1 + u * one, 1 + u * other).ravel()[:, None]
        odd = np.multiply.outer(u + one, u + other).ravel()[:, None] * rho
        log_product = np.log(even + odd)
        part = one_share * other_share * weight * np.exp(log_product.sum(axis=1) + log_scale)
        derivative = 4 * (one * other + rho) / np.exp(log_product)
        chunk = max(1, _BLOCK_ENTRIES // len(part))
        for start in range(0, len(members), chunk):
            some = members[start : start + chunk]
            term = part[:, None] * derivative[:, some[:, 0]]
            for k in range(1, members.shape[1]):
                term = term * derivative[:, some[:, k]]
            variance[start : start + chunk] += term.sum(axis=0).real
    return variance
