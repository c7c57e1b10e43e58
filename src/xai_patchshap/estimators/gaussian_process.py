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

To this smooth part comes a rough one, of independent values of all pairs of coalitions, which
stands for interactions of high order. It is part of the game: what is known of it, at the
coalitions that were evaluated, enters the index with their weights
(:func:`~.indices.coalition_weights`), and what is not adds to the error.

The values of the empty and the full coalition are met exactly, and an odd half that is additive
up to rounding is taken for what it is. The amplitude of the kernel is the likeliest, or what
makes the errors of pairs predicted from all others as large as expected, if that is more. The
strengths :math:`c_i`, a linear part of its own, and the variance of the rough part maximise the
marginal likelihood of the first pairs, with a weak prior that keeps the :math:`c_i` near each
other.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

__all__ = ["HalfGame", "halves"]

Floats = NDArray[np.float64]

# Pairs that the strengths are learned from: more cost time and change little.
_LEARN_FROM = 256
_ITERATIONS = 40
_FEWEST = 4  # pairs below which nothing is learned
_JITTER = 1e-9
_CONSTANT = 100.0  # prior variance of the even half's constant, that of the rest being 1
# Priors of the logarithms: mean and deviation.
_SPREAD = 0.5  # of a player's strength about the mean of all
_LEVEL = 1.5  # of that mean about 2 / n
_LINEAR = (0.0, 3.0)
_NOISE = (np.log(1e-2), 3.0)
_ROUNDING = 1e-6  # of models in single precision, relative
_LEFT_OUT = 512  # pairs predicted from the others, of all
_BLOCK_ENTRIES = 2**23


def halves(signs: Floats, odd: Floats, even: Floats) -> tuple[HalfGame, HalfGame]:
    """The odd and the even half of a game, with the parameters that suit both.

    Parameters
    ----------
    signs : ndarray (p, n)
        One coalition of each pair, in {-1, 1}; the first row is the full coalition.
    odd, even : ndarray (p,)
        Values of the halves; the first of ``even`` is 0, its constant taken out.
    """
    n = signs.shape[1]
    scales = [_root_mean_square(y) or 1.0 for y in (odd, even)]
    theta = np.full(n + 3, np.log(2.0 / n))
    theta[n:] = _LINEAR[0], _NOISE[0], _NOISE[0]
    if len(odd) >= 1 + _FEWEST and (odd.any() or even.any()):
        rows = slice(0, 1 + _LEARN_FROM)
        data = (signs[rows], odd[rows] / scales[0], even[rows] / scales[1])
        theta = minimize(
            lambda t: _negative_evidence(t, *data),
            theta,
            jac=True,
            method="L-BFGS-B",
            # Strengths far below the start would leave the even half nothing but its constant.
            bounds=[(np.log(2.0 / n) - 3.5, 1.5)] * n + [(-9.0, 9.0), (-16.0, 3.0), (-16.0, 3.0)],
            options={"maxiter": _ITERATIONS},
        ).x
    return (
        HalfGame(signs, odd / scales[0], True, theta[: n + 2], scales[0]),
        HalfGame(signs, even / scales[1], False, np.delete(theta, n + 1), scales[1]),
    )


def _root_mean_square(y: Floats) -> float:
    """Without overflow or underflow of the squares."""
    largest = float(np.abs(y).max())
    return largest * float(np.sqrt(np.mean((y / largest) ** 2))) if largest else 0.0


@dataclass(frozen=True)
class HalfGame:
    """The odd or even half of one game, seen on some pairs of coalitions.

    Attributes
    ----------
    signs : ndarray (p, n)
        One coalition of each pair, in {-1, 1}; the first row is the full coalition.
    y : ndarray (p,)
        Values of the half, over ``scale``.
    odd : bool
    parameters : ndarray (n + 2,)
        Logarithms of the strengths c, of the variance of the linear part (of the odd half)
        and of that of the rough part.
    scale : float
    """

    signs: Floats
    y: Floats
    odd: bool
    parameters: Floats
    scale: float = 1.0

    @cached_property
    def _additive(self) -> tuple[Floats, Floats] | None:
        """Coefficients of the signs and their errors, if these explain all but rounding."""
        p, n = self.signs.shape
        if not self.odd or p <= n:
            return None
        solved, _, rank, _ = np.linalg.lstsq(self.signs, self.y)
        coefficients: Floats = solved.astype(np.float64)
        left = float(np.sum(np.square(self.y - self.signs @ coefficients)))
        if rank < n or left > _ROUNDING**2 * float(self.y @ self.y):
            return None
        inverse = np.linalg.inv(self.signs.T @ self.signs)
        errors: Floats = np.sqrt(left / (p - n) * np.diag(inverse))
        return coefficients, errors

    @cached_property
    def _solved(self) -> tuple[Floats, Floats, float]:
        """Cholesky factor of the kernel, its solution for y, and the most likely amplitude."""
        kernel, _ = _kernel(self.parameters, self.signs, self.odd)
        factor = cho_factor(kernel, lower=True, check_finite=False)
        alpha = cho_solve(factor, self.y, check_finite=False)
        amplitude = max(float(self.y @ alpha), 0.0) / len(self.y)
        return factor[0], alpha, max(amplitude, self._left_out(factor[0], alpha))

    def _left_out(self, factor: Floats, alpha: Floats) -> float:
        """Mean squared error, over its variance, of pairs predicted from all others.

        It is 1 where the model is right, and more where its intervals are too narrow.
        """
        rows = np.unique(np.linspace(1, len(alpha) - 1, min(_LEFT_OUT, len(alpha) - 1)).astype(int))
        columns = np.zeros((len(alpha), len(rows)))
        columns[rows, np.arange(len(rows))] = 1.0
        inverse = np.square(solve_triangular(factor, columns, lower=True, check_finite=False)).sum(
            axis=0
        )
        return float(np.mean(alpha[rows] ** 2 / inverse)) if len(rows) else 0.0

    def functional(
        self, nodes: Floats, weights: Floats, table: Floats, members: NDArray[np.int64]
    ) -> tuple[Floats, Floats]:
        """Posterior mean and deviation of the interactions of subsets.

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
        if np.abs(weights).max() < 1e-12 or not self.y.any():
            return np.zeros(m), np.zeros(m)
        if self._additive is not None:
            of_players, errors = (2 * self.scale * a for a in self._additive)
            is_main = float(s == 1)
            return of_players[members[:, 0]] * is_main, errors[members[:, 0]] * is_main
        factor, alpha, amplitude = self._solved
        mean, variance = np.zeros(m), np.zeros(m)
        chunk = max(1, _BLOCK_ENTRIES // len(self.y))
        for start in range(0, m, chunk):
            block = self._covariance(nodes, weights, table, members[start : start + chunk])
            mean[start : start + chunk] = block.T @ alpha
            seen = solve_triangular(factor, block, lower=True, check_finite=False)
            variance[start : start + chunk] = -np.square(seen).sum(axis=0)
        c, linear, noise = self._variances
        variance += _prior_variance(np.tanh(c / 2), self._log_scale, nodes, weights, members)
        variance += noise * _sum_of_squares(table)
        if s == 1 and self.odd:
            variance += 4 * linear / len(c)
        return self.scale * mean, self.scale * np.sqrt(amplitude * np.maximum(variance, 0.0))

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
    def _variances(self) -> tuple[Floats, float, float]:
        """Strengths, and variances of the linear and of the rough part."""
        n = self.signs.shape[1]
        c, (linear, noise) = np.exp(self.parameters[:n]), np.exp(self.parameters[n:])
        return c, float(linear) if self.odd else 0.0, float(noise)

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
        c, linear, noise = self._variances
        rho = np.tanh(c / 2)
        # Signs are +-1: every factor is affine in its sign, and sums over nodes are products
        # of matrices.
        plus, minus = np.log1p(np.outer(u, rho)), np.log1p(-np.outer(u, rho))
        product = np.exp(
            self.signs @ ((plus - minus) / 2).T + ((plus + minus) / 2).sum(axis=1) + self._log_scale
        )
        slope = rho * (np.exp(-plus) + np.exp(-minus))
        constant = rho * (np.exp(-plus) - np.exp(-minus))
        block = np.zeros((len(self.signs), len(members)))
        for signed in itertools.product((True, False), repeat=s):
            coefficient = weights[:, None]
            sign: Floats | float = 1.0
            for k, with_sign in enumerate(signed):
                coefficient = coefficient * (slope if with_sign else constant)[:, members[:, k]]
                if with_sign:
                    sign = sign * self.signs[:, members[:, k]]
            block += sign * (product @ coefficient)
        sizes = (self.signs > 0).sum(axis=1)
        shared = sum((self.signs[:, members[:, k]] > 0).astype(np.intp) for k in range(s))
        # The first row, of the empty and the full coalition, has no rough part.
        block[1:] += noise * table[shared, sizes[:, None]][1:]
        if s == 1 and self.odd:
            block += 2 * linear / len(c) * self.signs[:, members[:, 0]]
        return block


def _log_f(x: float, odd: bool) -> float:
    """Logarithm of sinh or cosh."""
    return float(x + np.log1p((-1.0 if odd else 1.0) * np.exp(-2 * x)) - np.log(2.0))


def _kernel(theta: Floats, signs: Floats, odd: bool) -> tuple[Floats, tuple[Floats, Floats, float]]:
    """The kernel with its noise; and, for the gradient, f, f' and the ratio at the diagonal."""
    n = signs.shape[1]
    c, linear, noise = np.exp(theta[:n]), np.exp(theta[n]), np.exp(theta[n + 1])
    half = c.sum() / 2
    exponent = (signs * (c / 2)) @ signs.T
    up, down = np.exp(exponent - half), np.exp(-exponent - half)
    ends = 1.0 - np.exp(-2 * half) if odd else 1.0 + np.exp(-2 * half)
    other = 2.0 - ends
    f, slope = ((up - down) / ends, (up + down) / ends)
    if not odd:
        f, slope = slope, f
    kernel = f + (linear / n * (signs @ signs.T) if odd else _CONSTANT)
    diagonal = np.arange(1, len(signs))
    kernel[diagonal, diagonal] += noise
    kernel[np.arange(len(signs)), np.arange(len(signs))] += _JITTER
    return kernel, (f, slope, other / ends)


def _negative_evidence(
    theta: Floats, signs: Floats, odd: Floats, even: Floats
) -> tuple[float, Floats]:
    """Negative logarithm of both halves' marginal likelihood times the prior; its gradient."""
    n = signs.shape[1]
    # The prior: strengths are near each other, and all else is not extreme.
    level = theta[:n].mean()
    away, above = theta[:n] - level, level - np.log(2.0 / n)
    value = 0.5 * float(away @ away) / _SPREAD**2 + 0.5 * above**2 / _LEVEL**2
    gradient = np.zeros_like(theta)
    gradient[:n] = away / _SPREAD**2 + above / _LEVEL**2 / n
    for place, (mean, deviation) in zip(range(n, n + 3), (_LINEAR, _NOISE, _NOISE), strict=True):
        value += 0.5 * (theta[place] - mean) ** 2 / deviation**2
        gradient[place] += (theta[place] - mean) / deviation**2
    for is_odd, y in ((True, odd), (False, even)):
        own = np.r_[0 : n + 1, n + 1 if is_odd else n + 2]
        if y.any():
            part, slope = _half_evidence(theta[own], signs, y, is_odd)
            value += part
            gradient[own] += slope
    return float(value), gradient


def _half_evidence(theta: Floats, signs: Floats, y: Floats, odd: bool) -> tuple[float, Floats]:
    """Negative logarithm of one half's marginal likelihood, and its gradient."""
    p, n = signs.shape
    kernel, (f, slope, ratio) = _kernel(theta, signs, odd)
    try:
        factor = cho_factor(kernel, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 1e25, np.zeros_like(theta)
    inverse = cho_solve(factor, np.eye(p), check_finite=False)
    alpha = inverse @ y
    amplitude = max(float(y @ alpha) / p, np.finfo(float).tiny)
    value = 0.5 * p * np.log(amplitude) + np.log(np.diag(factor[0])).sum()
    # d value = 1/2 tr(gap dK)
    gap = inverse - np.outer(alpha, alpha) / amplitude
    gradient = np.zeros_like(theta)
    both = (((gap * slope) @ signs) * signs).sum(axis=0)
    gradient[:n] = 0.25 * np.exp(theta[:n]) * (both - ratio * (gap * f).sum())
    if odd:
        gradient[n] = 0.5 * np.exp(theta[n]) / n * float(((gap @ signs) * signs).sum())
    gradient[n + 1] = 0.5 * np.exp(theta[n + 1]) * float(np.trace(gap) - gap[0, 0])
    return float(value), gradient


def _sum_of_squares(table: Floats) -> float:
    """Over all pairs of coalitions but the empty and the full one."""
    s, n = table.shape[0] - 1, table.shape[1] - 1
    total = 0.0
    for j in range(s + 1):
        for c in range(max(j, 1), min(n - s + j, n - 1) + 1):
            total += comb(s, j) * comb(n - s, c - j) * float(table[j, c]) ** 2
    return total / 2


def _prior_variance(
    rho: Floats, log_scale: float, u: Floats, weights: Floats, members: NDArray[np.int64]
) -> Floats:
    """Variance of the functional before any data, of the kernel of amplitude 1."""
    across = np.multiply.outer(u, u).ravel()
    weight = np.multiply.outer(weights, weights).ravel()
    log_product = np.log1p(np.multiply.outer(across, rho))
    weight = weight * np.exp(log_product.sum(axis=1) + log_scale)
    derivative = 4 * rho / np.exp(log_product)
    variance = np.zeros(len(members))
    chunk = max(1, _BLOCK_ENTRIES // len(across))
    for start in range(0, len(members), chunk):
        part = members[start : start + chunk]
        term = weight[:, None] * derivative[:, part[:, 0]]
        for k in range(1, members.shape[1]):
            term = term * derivative[:, part[:, k]]
        variance[start : start + chunk] = term.sum(axis=0)
    return variance
