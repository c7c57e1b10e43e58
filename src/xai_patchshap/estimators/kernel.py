r"""KernelSHAP: Shapley values by constrained weighted least squares on paired coalitions.

Shapley values minimise :math:`\sum_S \mu(S)\,(v(S) - v(\emptyset) - \sum_{i \in S}
\phi_i)^2` under :math:`\sum_i \phi_i = v(N) - v(\emptyset)`, with the Shapley kernel
:math:`\mu(S) = (n-1) / [\binom{n}{|S|} |S| (n-|S|)]` (Lundberg & Lee, NeurIPS 2017,
theorem 2; Charnes et al., 1988). When a coalition and its complement enter together, the
sum of their two residuals does not depend on phi, and what is left is the regression of
:math:`v(S) - v(N \setminus S)` on the signs :math:`z_i = \pm 1`: half the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ._ridge import averaged_ridge
from .base import Estimate, check_values, checked_prior
from .exact import exact_estimate
from .sampling import PairSampler, paired_coalitions

__all__ = ["KernelShap"]

Floats = NDArray[np.float64]

_RANK_TOLERANCE = 1e-7  # singular values below this share of the largest count as zero
_ROUNDING = 2e-6  # what float32 models leave of an equality, relative to their outputs


class KernelShap:
    """Shapley values from a sample of coalition pairs.

    With at least two pairs for each free parameter the constrained weighted least
    squares is solved as it stands: consistent, unbiased up to O(1/m), and exact for
    additive games. With fewer, down to none, least squares would magnify the
    interactions of the game without bound; the estimate is then shrunk towards the equal
    split of ``v(N) - v(empty)`` by ridge, averaged over ridge strengths by their marginal
    likelihood. The sum of the values is ``v(N) - v(empty)`` in every case.

    Standard errors are the jackknife-like HC3 sandwich over pairs (MacKinnon & White,
    1985) with a finite-population correction for each coalition size, or the posterior
    deviation of the ridge, which is right on average but too small for players that differ
    much from the others. Where least squares takes over from the ridge the errors become
    honest and larger: the squared error can double there before it falls again.

    Parameters
    ----------
    n_players : int
        Number of players, at least 2.
    budget : int
        Most coalitions to evaluate, the empty and the full one included; at least 2.
    seed : int or None
        Seed of the coalitions; ``None`` draws fresh entropy.
    sampling : {"modified_l2", "leverage", "kernel"}
        How coalition sizes are drawn; see :class:`~.sampling.PairSampler`.

    Attributes
    ----------
    coalitions : ndarray of bool, shape (m, n_players)
        Empty, full, then each sampled coalition followed by its complement. Any prefix
        is a valid sample, and a larger budget extends a smaller one.

    Examples
    --------
    >>> import numpy as np
    >>> estimator = KernelShap(n_players=20, budget=200, seed=0)
    >>> weights = np.arange(20.0)
    >>> estimate = estimator.estimate(estimator.coalitions @ weights)
    >>> bool(np.allclose(estimate.values[:, 0], weights))
    True
    """

    min_coalitions = 2

    def __init__(
        self, n_players: int, budget: int, seed: int | None = 0, sampling: str = "modified_l2"
    ) -> None:
        self._sampler = PairSampler(n_players, seed, sampling)
        self.coalitions, self._strata = paired_coalitions(n_players, budget, self._sampler)
        self._halves = self.coalitions[2::2]
        self._design: _Design | None = None

    def estimate(
        self, values: Floats, prior: Floats | None = None, ridge: float | None = None
    ) -> Estimate:
        r"""Estimate from the values of the first coalitions.

        Parameters
        ----------
        values : ndarray of shape (m, n_outputs) or (m,)
            Values of the first ``m >= 2`` of :attr:`coalitions`; a last coalition
            without its complement is left aside.
        prior : ndarray of shape (n_players, n_outputs), optional
            A guess at the Shapley values, as of a trained explainer, that the sample corrects:
            :math:`(X^\top X + \lambda I)\,\psi = X^\top y + \lambda \psi_0`, for however
            many coalitions.
        ridge : float, optional
            Its strength lambda: the variance of one pair's residual over that of the prior's
            errors. By default it is averaged over, by marginal likelihood.
        """
        v = check_values(values, len(self.coalitions), self.min_coalitions)
        n_pairs = (len(v) - 2) // 2
        if n_pairs == self._sampler.n_pairs:
            return exact_estimate(self.coalitions, v)
        empty, full = v[0], v[1]
        n_players = self.coalitions.shape[1]
        equal = (full - empty) / n_players
        design = self._design_of(n_pairs)
        inside, outside = v[2 : 2 + 2 * n_pairs : 2], v[3 : 3 + 2 * n_pairs : 2]
        centre = np.broadcast_to(equal, (n_players, len(equal)))
        if prior is not None:
            centre = checked_prior(prior, centre.shape)
            centre = centre + equal - centre.mean(axis=0)
        odd = inside - outside - design.signs @ centre
        if prior is None and design.is_overdetermined:
            psi, std = design.least_squares(odd)
        else:
            psi, std = design.ridge(odd) if ridge is None else design.fixed_ridge(odd, ridge)
            if design.rank == n_players - 1:
                exact_psi, exact_std = design.least_squares(odd)
                rounding = _ROUNDING * np.abs(v).max(axis=0)
                additive = design.is_additive(odd, inside + outside - (full + empty), rounding)
                psi[:, additive] = exact_psi[:, additive]
                # Without spare rows least squares interpolates, and says nothing of its error.
                if design.n_spare >= 2:
                    std[:, additive] = exact_std[:, additive]
        values_ = psi + centre
        # Projection onto the efficient hyperplane removes what rounding left.
        values_ += ((full - empty) - values_.sum(axis=0)) / n_players
        return Estimate(values_, std, empty.copy(), full.copy(), 2 + 2 * n_pairs, exact=False)

    def _design_of(self, n_pairs: int) -> _Design:
        """Factors of the first ``n_pairs``; the last is kept, for images that share it."""
        if self._design is None or len(self._design.signs) != n_pairs:
            self._design = self._make_design(n_pairs)
        return self._design

    def _make_design(self, n_pairs: int) -> _Design:
        weight, unseen = self._sampler.weights(self._strata[:n_pairs])
        signs: Floats = np.where(self._halves[:n_pairs], 1.0, -1.0)
        return _Design(signs, weight, unseen)


@dataclass(frozen=True)
class _Design:
    """The regression of odd differences on signs; what depends on the coalitions alone.

    ``signs`` (m, n) in {-1, 1}; ``weight`` (m,) of each pair; ``unseen`` (m,) the share of
    its stratum that was not drawn, the finite-population correction of its variance.
    """

    signs: Floats
    weight: Floats
    unseen: Floats

    @property
    def is_overdetermined(self) -> bool:
        n_free = self.signs.shape[1] - 1
        if self.rank < n_free or len(self.signs) < 2 * n_free:
            return False
        # A direction that rests on one sampled pair has no residual to tell its error from.
        return bool((self._leverage[self.unseen > 0] < 1.0 - 1e-6).all())

    @property
    def n_spare(self) -> int:
        """Pairs beyond those that determine the fit."""
        return len(self.signs) - self.rank

    @cached_property
    def _leverage(self) -> Floats:
        return np.asarray((self._factors[0] ** 2).sum(axis=1))

    def is_additive(self, odd: Floats, even: Floats, rounding: Floats) -> NDArray[np.bool_]:
        """Which outputs look additive, up to ``rounding`` (K,): then least squares is exact.

        In an additive game the ``even`` parts (m, K) vanish and the fit of the odd parts
        leaves nothing; both also against the size of the odd parts, for a game that is
        small beside a large constant.
        """
        left = self._factors[0]
        y = self._root * odd
        residual = y - left @ (left.T @ y)
        limit = np.minimum(rounding, 1e-3 * np.abs(odd).max(axis=0))
        additive = np.abs(even).max(axis=0) <= limit
        if self.n_spare >= 2:
            additive &= np.abs(residual).max(axis=0) <= limit * self._root.max()
        return np.asarray(additive | (np.abs(odd).max(axis=0) == 0))

    @property
    def rank(self) -> int:
        return len(self._factors[1])

    @cached_property
    def _root(self) -> Floats:
        """Square roots of the weights, whose mean is 1."""
        return np.asarray(np.sqrt(self.weight / self.weight.mean())[:, None])

    @cached_property
    def _factors(self) -> tuple[Floats, Floats, Floats]:
        """Singular vectors and values of the weighted signs; the constraint is built in.

        With phi = equal split + psi and sum(psi) = 0, signs centred over the players
        span exactly the free directions.
        """
        if not len(self.signs):
            n = self.signs.shape[1]
            return np.zeros((0, 0)), np.zeros(0), np.zeros((n, 0))
        centred = self.signs - self.signs.mean(axis=1, keepdims=True)
        left, singular, right = np.linalg.svd(self._root * centred, full_matrices=False)
        keep = singular > _RANK_TOLERANCE * singular[0]
        return left[:, keep], singular[keep], right[keep].T

    def least_squares(self, odd: Floats) -> tuple[Floats, Floats]:
        """Weighted least squares of ``odd`` (m, K) and its HC3 standard errors."""
        left, singular, right = self._factors
        y = self._root * odd
        solve = (right / singular) @ left.T
        residual = y - left @ (left.T @ y)
        # An exactly interpolated row has no residual to speak of; the floor avoids 0/0.
        slack = np.maximum(1.0 - self._leverage, 1e-6)
        variance = (solve**2 * (self.unseen / slack**2)) @ residual**2
        return solve @ y, np.sqrt(variance)

    def fixed_ridge(self, odd: Floats, strength: float) -> tuple[Floats, Floats]:
        """Ridge estimate of ``odd`` (m, K) at one strength, and its posterior deviation.

        The variance of the noise is its most likely one, given the strength.
        """
        left, singular, right = self._factors
        n, m = self.signs.shape[1], len(self.signs)
        if not m:
            return np.zeros((n, odd.shape[1])), np.full((n, odd.shape[1]), np.inf)
        y = self._root * odd
        projected = left.T @ y
        unexplained = np.maximum((y**2).sum(axis=0) - (projected**2).sum(axis=0), 0.0)
        kept = strength / (singular**2 + strength)
        noise = (unexplained + kept @ projected**2) / m
        seen = right**2 @ (1.0 / (singular**2 + strength))
        unseen = np.maximum(1.0 - 1.0 / n - (right**2).sum(axis=1), 0.0) / strength
        psi = right @ ((singular / (singular**2 + strength))[:, None] * projected)
        return psi, np.sqrt((seen + unseen)[:, None] * noise)

    def ridge(self, odd: Floats) -> tuple[Floats, Floats]:
        """Ridge estimate of ``odd`` (m, K) and its posterior standard deviation.

        Averaged over ridge strengths; psi is free on sum(psi) = 0.
        """
        left, singular, right = self._factors
        n, n_outputs = self.signs.shape[1], odd.shape[1]
        m = len(self.signs)
        if m < 3:
            # Too little to learn a scale from: the equal split, with no claim about its error.
            return np.zeros((n, n_outputs)), np.full((n, n_outputs), np.inf)
        prior = np.full(n, 1.0 - 1.0 / n)
        return averaged_ridge(left, singular, right, self._root * odd, prior)
