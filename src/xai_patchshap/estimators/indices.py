r"""Interaction indices: what each of them is, in one table.

With the Moebius transform :math:`a(T) = \sum_{S \subseteq T} (-1)^{|T|-|S|} v(S)` of a game,
each index here is

.. math:: \Phi(S) = \sum_{T \supseteq S} w_{|S|}(|T|)\, a(T),

and an index is its weights :math:`w_s(t)`, with :math:`u = t - s`:

======  ==============================================================================
SV      Shapley value, :math:`1/(u+1)` (Shapley, 1953)
BV      Banzhaf value, :math:`2^{-u}` (Banzhaf, 1965)
SII     Shapley interaction index, :math:`1/(u+1)` (Grabisch & Roubens, 1999)
BII     Banzhaf interaction index, :math:`2^{-u}` (Grabisch & Roubens, 1999)
k-SII   :math:`\sum_{r=0}^{\ell-s} B_r \binom{u}{r} / (u-r+1)`, the SII of all orders up
        to :math:`\ell` aggregated with the Bernoulli numbers :math:`B_r` so that they add
        up (Lundberg et al., 2020, for order 2; Bord & von Luxburg, AISTATS 2023, def. 6)
STII    Shapley-Taylor index: :math:`[u = 0]` below the top order,
        :math:`1/\binom{t}{\ell}` at it (Sundararajan, Dhamdhere & Agarwal, ICML 2020)
FSII    Faith-Shap: the best approximation of the game by interactions up to order
        :math:`\ell` under the Shapley kernel, exact for the empty and the full coalition,
        :math:`[u=0] + [t>\ell] (-1)^{\ell-s} \frac{s}{\ell+s} \binom{\ell}{s}
        \binom{t-1}{\ell} / \binom{t+\ell-1}{\ell+s}` (Tsai, Yeh & Ravikumar, JMLR 2023,
        theorem 19)
FBII    Faith-Banzhaf: the same with equal weights of all coalitions and no constraint,
        :math:`[u=0] + [t>\ell] (-1)^{\ell-s} 2^{-u} \binom{u-1}{\ell-s}` (theorem 16)
======  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import pairwise
from math import comb

import numpy as np

from .._typing import Floats
from .._validation import one_of, whole
from ..errors import bad

__all__ = [
    "EFFICIENT",
    "INDICES",
    "bernoulli",
    "check_index",
    "coalition_weights",
    "diagonal_quadrature",
    "moebius_weights",
]

INDICES = ("SV", "BV", "SII", "BII", "k-SII", "STII", "FSII", "FBII")
_DEGREE = 64
# Those whose values of all orders add up to v(N) - v(empty).
EFFICIENT = ("SV", "k-SII", "STII", "FSII")


def check_index(index: str, order: int, n_players: int | None = None) -> None:
    """Raise unless the index exists and has such an order."""
    one_of(*INDICES)("index", index)
    whole(1)("order", order)
    if index in ("SV", "BV") and order != 1:
        raise bad("order", order, f"1 for index {index!r}", "SII and BII are their higher orders.")
    if n_players is not None and order > n_players:
        raise bad("order", order, f"at most {n_players}, the number of players")


@cache
def bernoulli(r: int) -> Fraction:
    """Bernoulli number with B_1 = -1/2."""
    if r == 0:
        return Fraction(1)
    return -sum((comb(r + 1, k) * bernoulli(k) for k in range(r)), Fraction(0)) / (r + 1)


def _sii(s: int, t: int, order: int) -> Fraction:
    return Fraction(1, t - s + 1)


def _bii(s: int, t: int, order: int) -> Fraction:
    return Fraction(1, 2 ** (t - s))


def _k_sii(s: int, t: int, order: int) -> Fraction:
    u = t - s
    terms = (bernoulli(r) * comb(u, r) / (u - r + 1) for r in range(min(order - s, u) + 1))
    return sum(terms, Fraction(0))


def _stii(s: int, t: int, order: int) -> Fraction:
    return Fraction(1, comb(t, order)) if s == order else Fraction(int(t == s))


def _fsii(s: int, t: int, order: int) -> Fraction:
    if t <= order:
        return Fraction(int(t == s))
    scale = Fraction((-1) ** (order - s) * s * comb(order, s), order + s)
    return scale * Fraction(comb(t - 1, order), comb(t + order - 1, order + s))


def _fbii(s: int, t: int, order: int) -> Fraction:
    if t <= order:
        return Fraction(int(t == s))
    return Fraction((-1) ** (order - s) * comb(t - s - 1, order - s), 2 ** (t - s))


_WEIGHT: dict[str, Callable[[int, int, int], Fraction]] = {
    "SV": _sii,
    "BV": _bii,
    "SII": _sii,
    "BII": _bii,
    "k-SII": _k_sii,
    "STII": _stii,
    "FSII": _fsii,
    "FBII": _fbii,
}


def moebius_weights(index: str, order: int, s: int, n_players: int) -> list[Fraction]:
    """Weights ``w_s(t)`` of an index for t = s..n; ``s = 0`` is the constant of FBII.

    Examples
    --------
    >>> [str(w) for w in moebius_weights("SII", 2, 2, 4)]
    ['1', '1/2', '1/3']
    """
    return [_WEIGHT[index](s, t, order) for t in range(s, n_players + 1)]


@cache
def coalition_weights(index: str, order: int, s: int, n_players: int) -> Floats:
    r"""Weights ``g[j, c]`` of v(C) in the interaction of S, where |C| = c and |C & S| = j.

    The Moebius transform put into the definition: with :math:`u = |S \cup C| = s + c - j`,

    .. math:: g = (-1)^{s-j} \sum_{r=0}^{n-u} (-1)^r \binom{n-u}{r}\, w_s(u+r),

    a finite difference of the weights, which is taken in whole numbers.
    """
    differences = moebius_weights(index, order, s, n_players)
    of_union = {n_players: differences[-1]}
    for u in range(n_players - 1, s - 1, -1):
        differences = [a - b for a, b in pairwise(differences)]
        of_union[u] = differences[-1]
    table = np.zeros((s + 1, n_players + 1))
    for j in range(s + 1):
        for c in range(j, n_players - s + j + 1):
            table[j, c] = (-1) ** (s - j) * float(of_union[s + c - j])
    return table


@cache
def diagonal_quadrature(index: str, order: int, s: int, n_players: int) -> tuple[Floats, Floats]:
    r"""Nodes x in (0, 1) and weights that turn derivatives on the diagonal into the index.

    The multilinear extension :math:`f(x) = \sum_T a(T) \prod_{i \in T} x_i` (Owen, 1972) has
    :math:`\partial_S f(x, \dots, x) = \sum_{T \supseteq S} a(T)\, x^{|T|-|S|}`, so that an
    index is a linear functional L of this polynomial with :math:`L(x^u) = w_s(s+u)`. It is
    applied exactly: L of the shifted Legendre polynomials in whole numbers, the expansion in
    them by Gauss-Legendre.

    Polynomials of degree above 64, of more than 64 players, are expanded up to that degree;
    what is left out of a game's is far below rounding unless its order is as high.
    """
    weights = moebius_weights(index, order, s, n_players)
    degree = min(n_players - s, _DEGREE)
    moments = np.array([float(_of_legendre(weights, j)) for j in range(degree + 1)])
    highest = int(np.flatnonzero(moments)[-1]) if moments.any() else 0
    t, gauss = np.polynomial.legendre.leggauss((degree + highest) // 2 + 1)
    polynomials = np.polynomial.legendre.legvander(t, highest)
    expansion = (2 * np.arange(highest + 1) + 1) * moments[: highest + 1]
    return (t + 1) / 2, gauss / 2 * (polynomials @ expansion)


def _of_legendre(weights: list[Fraction], j: int) -> Fraction:
    """The functional of the shifted Legendre polynomial of degree j."""
    terms = ((-1) ** (i + j) * comb(j, i) * comb(j + i, i) * weights[i] for i in range(j + 1))
    return sum(terms, Fraction(0))
