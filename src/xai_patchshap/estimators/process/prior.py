r"""What the Gaussian process says of interaction indices before any data.

Interaction indices are linear in the game, so that their distribution is Gaussian. With the
derivatives of the multilinear extension on the diagonal, :math:`u = 2x - 1`,

.. math:: \partial_S k(\cdot, z')(u) = \prod_{i \in S} 2 \rho_i z'_i
          \prod_{i \notin S} (1 + \rho_i u z'_i),

an index is a sum over the nodes of :func:`~..indices.diagonal_quadrature`, exact for
64 players and fewer. The part of an index that sees the odd (even) half of a game has the nodes'
weights antisymmetrised (symmetrised).

As :math:`e^{b z_i} = \cosh b\,(1 + z_i \tanh b)`, the scale g times the kernel k is a sum of two
products over the players again, and its derivatives are as simple. The rough part enters the
index with the weights of the coalitions (:func:`~..indices.coalition_weights`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._typing import Floats
from .kernel import flared

__all__ = ["HalfPrior", "Part"]

_BLOCK_ENTRIES = 2**23


class Part(NamedTuple):
    """The part of an index that one half of a game sees: nodes in (-1, 1), weights, table."""

    nodes: Floats
    weights: Floats
    table: Floats


@dataclass(frozen=True)
class HalfPrior:
    """The odd or the even half of the process, of amplitude 1.

    Attributes
    ----------
    parameters : ndarray (n + 3,)
        Logarithms of the strengths c, of the variance of the linear part (of the odd half)
        and of that of the rough part; the flare.
    odd : bool
    """

    parameters: Floats
    odd: bool

    @property
    def _variances(self) -> tuple[Floats, float, float, float]:
        """Strengths, variances of the linear and of the rough part, and the flare."""
        n = len(self.parameters) - 3
        c, (linear, noise) = np.exp(self.parameters[:n]), np.exp(self.parameters[n : n + 2])
        flare = float(self.parameters[n + 2])
        return c, float(linear) if self.odd else 0.0, float(noise), flare

    @property
    def _log_scale(self) -> float:
        """Logarithm of what normalises the product kernel to 1 on the diagonal of this half."""
        c = self._variances[0]
        return float(np.log(np.cosh(c / 2)).sum() - _log_f(c.sum() / 2, self.odd))

    def part(self, nodes: Floats, weights: Floats, table: Floats) -> Part:
        """The part of an index that sees this half of a game.

        Parameters
        ----------
        nodes, weights : ndarray (Q,)
            Of :func:`~..indices.diagonal_quadrature`; nodes in (0, 1) and symmetric about 1/2.
        table : ndarray (s + 1, n + 1)
            Of :func:`~..indices.coalition_weights`.
        """
        s = len(table) - 1
        flip = 1.0 if (s % 2 == 1) == self.odd else -1.0
        # Of a coalition and its complement, of which the rough part knows one value.
        own = table + (-1.0 if self.odd else 1.0) * table[::-1, ::-1]
        return Part(2 * nodes - 1, (weights + flip * weights[::-1]) / 2, own)

    def covariance(self, signs: Floats, part: Part, members: NDArray[np.int64]) -> Floats:
        """Covariance (p, m) of pairs ``signs`` (p, n) and interactions of ``members`` (m, s)."""
        u, weights, table = part
        s = members.shape[1]
        c, linear, noise, flare = self._variances
        rho = np.tanh(c / 2)
        scale = flared(signs.mean(axis=1), flare)[:, None]
        block = np.zeros((len(signs), len(members)))
        for tilt, share in _tilts(flare, len(c)):
            # Signs are +-1: every factor is affine in its sign, and sums over nodes are
            # products of matrices.
            even, odd = (1 + u * tilt)[:, None], np.outer(u + tilt, rho)
            plus, minus = np.log(even + odd), np.log(even - odd)
            product = share * np.exp(
                signs @ ((plus - minus) / 2).T + ((plus + minus) / 2).sum(axis=1) + self._log_scale
            )
            inside, outside = (tilt + rho) * np.exp(-plus), (tilt - rho) * np.exp(-minus)
            slope, constant = inside - outside, inside + outside
            for signed in itertools.product((True, False), repeat=s):
                coefficient = weights[:, None]
                sign: Floats | float = 1.0
                for k, with_sign in enumerate(signed):
                    coefficient = coefficient * (slope if with_sign else constant)[:, members[:, k]]
                    if with_sign:
                        sign = sign * signs[:, members[:, k]]
                block += scale * sign * (product @ coefficient).real
        sizes = (signs > 0).sum(axis=1)
        shared = sum((signs[:, members[:, k]] > 0).astype(np.intp) for k in range(s))
        # The first row, of the empty and the full coalition, has no rough part.
        block[1:] += noise * table[shared, sizes[:, None]][1:]
        if linear:
            weighted = signs * (c / c.sum())
            own = weighted[:, members].sum(axis=2)
            one, other = _of_players(table, flare)
            total = weighted.sum(axis=1, keepdims=True)
            block += linear * scale * ((one - other) * own + other * total)
        return block

    def variance(self, part: Part, members: NDArray[np.int64]) -> Floats:
        """Variance (m,) of the interactions of ``members`` (m, s)."""
        u, weights, table = part
        c, linear, noise, flare = self._variances
        variance = _of_kernel(np.tanh(c / 2), self._log_scale, u, weights, members, flare)
        variance += noise * _sum_of_squares(table)
        if linear:
            share = (c / c.sum())[members].sum(axis=1)
            inside, outside = _of_players(table, flare)
            variance += linear * (inside**2 * share + outside**2 * (1 - share))
        return variance


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


def _of_kernel(
    rho: Floats,
    log_scale: float,
    u: Floats,
    weights: Floats,
    members: NDArray[np.int64],
    flare: float,
) -> Floats:
    """Variance of the interactions of the product kernel."""
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
