r"""The kernel of a Gaussian process over coalitions, its parameters, and its Cholesky factors.

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

A linear part of its own has variances in the proportions of the :math:`c_i`. Both are multiplied
by a scale that depends on the size of the coalitions,

.. math:: g(z) g(z'), \quad g(z) \propto \cosh(\sqrt{\tau} \bar z) \text{ or, of negative }
          \tau, \cos(\sqrt{-\tau} \bar z), \quad \bar z = \tfrac1n \sum_i z_i:

games of probabilities are often flat where nearly all or nearly no players are there
(:math:`\tau < 0`), and networks that saw few tokens in training are rough there
(:math:`\tau > 0`).

To this smooth part comes a rough one, of independent values of all pairs of coalitions, which
stands for interactions of high order. It is part of the game: what is known of it, at the
coalitions that were evaluated, counts, and what is not adds to the error.

Vectors of parameters hold, for n players, the logarithms of the n strengths :math:`c_i`, of the
variance of the linear part and of that of the rough part, and the flare :math:`\tau`; what both
halves of a game share comes once, and then what each has of its own: see :func:`own`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, solve_triangular

from ..._typing import Floats
from ...errors import bad

__all__ = [
    "Factor",
    "cholesky",
    "covariance",
    "factors_of",
    "flare_slope",
    "flared",
    "kernel",
    "own",
]

_JITTER = 1e-9
_JITTERS = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)  # what was learned from fewer rows may need some
_ENTRIES = 2**20  # of the kernel that are computed at once
_CONSTANT = 100.0  # prior variance of the even half's constant, that of the rest being 1
_USUAL = 0.3  # mean square of the mean sign where the flare changes nothing
_LEFT_OUT = 512  # pairs predicted from the others, of all


def own(n: int, odd: bool) -> NDArray[np.intp]:
    """Which of the parameters of both halves are those of one."""
    places: NDArray[np.intp] = np.r_[0 : n + 1, (n + 1, n + 3) if odd else (n + 2, n + 4)]
    return places


def flared(mean_sign: Floats, flare: float) -> Floats:
    """Scale of the game at coalitions of a size: cosh(sqrt(flare) u), or the cosine."""
    root = np.sqrt(abs(flare))
    even = np.cosh if flare > 0 else np.cos
    scale: Floats = even(root * mean_sign) / even(root * np.sqrt(_USUAL))
    return scale


def flare_slope(mean_sign: Floats, flare: float) -> Floats:
    """Derivative of the logarithm of the scale by the flare."""
    root = np.sqrt(abs(flare))
    tangent = np.tanh if flare > 0 else np.tan

    def slope(u: Floats) -> Floats:
        return u**2 / 2 if abs(flare) < 1e-8 else u * tangent(root * u) / (2 * root)

    difference: Floats = slope(mean_sign) - slope(np.array(np.sqrt(_USUAL)))
    return difference


def kernel(
    theta: Floats, signs: Floats, odd: bool
) -> tuple[Floats, tuple[Floats, Floats, float, Floats]]:
    """The kernel with its noise; and, for the gradient, f, f', their ratio, and the scales."""
    matrix, for_gradient = _smooth(theta, signs, signs, odd)
    _add_noise(matrix, theta)
    return matrix, for_gradient


def covariance(theta: Floats, signs: Floats, odd: bool) -> Floats:
    """The kernel alone, without further matrices of its size."""
    matrix = np.empty((len(signs), len(signs)))
    step = max(1, _ENTRIES // len(signs))
    for start in range(0, len(signs), step):
        rows = slice(start, start + step)
        matrix[rows] = _smooth(theta, signs[rows], signs, odd)[0]
    _add_noise(matrix, theta)
    return matrix


def _add_noise(matrix: Floats, theta: Floats) -> None:
    diagonal = np.arange(len(matrix))
    matrix[diagonal[1:], diagonal[1:]] += np.exp(theta[-2])
    matrix[diagonal, diagonal] += _JITTER


def _smooth(
    theta: Floats, signs: Floats, others: Floats, odd: bool
) -> tuple[Floats, tuple[Floats, Floats, float, Floats]]:
    """Kernel of some pairs with others but for its noise, and what its gradient needs."""
    n = signs.shape[1]
    c, linear = np.exp(theta[:n]), np.exp(theta[n])
    scales = np.outer(*(flared(some.mean(axis=1), float(theta[n + 2])) for some in (signs, others)))
    half = c.sum() / 2
    exponent = (signs * (c / 2)) @ others.T
    up, down = np.exp(exponent - half), np.exp(-exponent - half)
    ends = 1.0 - np.exp(-2 * half) if odd else 1.0 + np.exp(-2 * half)
    other = 2.0 - ends
    f, slope = ((up - down) / ends, (up + down) / ends)
    if not odd:
        f, slope = slope, f
    linear_part = 2 * linear / c.sum() * exponent if odd else 0.0
    matrix = scales * (f + linear_part) + (0.0 if odd else _CONSTANT)
    return matrix, (f, slope, other / ends, scales)


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
        Factor(cholesky(partial(covariance, parameters[own(n, is_odd)], signs, is_odd)))
        for is_odd in (True, False)
    )
    return odd, even


def cholesky(made: Callable[[], Floats]) -> Floats:
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
