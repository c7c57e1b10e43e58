"""The posterior of every interaction index, once some pairs of coalitions are known.

The values of the empty and the full coalition are met exactly, and an odd half that is additive
up to rounding is taken for what it is. The amplitude of the kernel is the likeliest, or what
makes the errors of pairs predicted from all others as large as expected, if that is more, and
somewhat more than either. See :mod:`.kernel` for the process, :mod:`.prior` for the indices and
:mod:`.evidence` for the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular

from ..._typing import Floats
from ..units import root_mean_square
from .kernel import Factor, cholesky, covariance, own
from .prior import HalfPrior

__all__ = ["HalfGame", "halves"]

_ROUNDING = 1e-6  # of models in single precision, relative
# Times the variance, for what one choice of parameters hides: 90 % intervals then cover .90 of the
# values of 16 patches, on average over the games that it was chosen on.
_WIDENING = 1.15**2
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
        As :func:`~.evidence.learned` takes them.
    parameters : ndarray (n + 5,)
        Its result, perhaps of other outputs.
    factors : tuple of two Factor, optional
        Of :func:`~.kernel.factors_of`, for games that share them.
    """
    n = signs.shape[1]
    found = []
    for y, is_odd, factor in zip((odd, even), (True, False), factors or (None, None), strict=True):
        scale = root_mean_square(y)
        unit = np.where(scale > 0, scale, 1.0)
        found.append(HalfGame(signs, y / unit, is_odd, parameters[own(n, is_odd)], unit, factor))
    return found[0], found[1]


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

    @property
    def prior(self) -> HalfPrior:
        """The half of the process before any data."""
        return HalfPrior(self.parameters, self.odd)

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
            factor = Factor(cholesky(made))
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
            Of :func:`~..indices.diagonal_quadrature`; nodes in (0, 1) and symmetric about 1/2.
        table : ndarray (s + 1, n + 1)
            Of :func:`~..indices.coalition_weights`.
        members : ndarray of int, shape (m, s)
        """
        m, s = members.shape
        prior = self.prior
        part = prior.part(nodes, weights, table)
        mean, variance = np.zeros((m, self.y.shape[1])), np.zeros(m)
        if np.abs(part.weights).max() < 1e-12 or not self.y.any():
            return mean, np.zeros_like(mean)
        factor, alpha, amplitude = self._solved
        chunk = max(1, _BLOCK_ENTRIES // len(self.y))
        for start in range(0, m, chunk):
            block = prior.covariance(self.signs, part, members[start : start + chunk])
            mean[start : start + chunk] = block.T @ alpha
            seen = solve_triangular(factor, block, lower=True, check_finite=False)
            variance[start : start + chunk] = -np.square(seen).sum(axis=0)
        variance += prior.variance(part, members)
        deviation = np.sqrt(np.outer(np.maximum(variance, 0.0), amplitude))
        is_additive, coefficients, errors = self._additive
        if is_additive.any():
            of_players, errors = (2.0 * (s == 1) * a[members[:, 0]] for a in (coefficients, errors))
            mean = np.where(is_additive, of_players, mean)
            deviation = np.where(is_additive, errors, deviation)
        return self.scale * mean, self.scale * deviation
