r"""KernelSHAP: Shapley values by constrained weighted least squares on paired coalitions.

Shapley values minimise :math:`\sum_S \mu(S)\,(v(S) - v(\emptyset) - \sum_{i \in S}
\phi_i)^2` under :math:`\sum_i \phi_i = v(N) - v(\emptyset)`, with the Shapley kernel
:math:`\mu(S) = (n-1) / [\binom{n}{|S|} |S| (n-|S|)]` (Lundberg & Lee, NeurIPS 2017,
theorem 2; Charnes et al., 1988). When a coalition and its complement enter together, the
sum of their two residuals does not depend on phi, and what is left is the regression of
:math:`v(S) - v(N \setminus S)` on the signs :math:`z_i = \pm 1`: half the rows.
"""

from __future__ import annotations

import numpy as np

from ..._typing import Floats
from ..base import Estimate, check_values, checked_prior
from ..coalitions.sampled_pairs import PairSampler, paired_coalitions
from ..units import Block, blocks_of_outputs
from .exact import exact_estimate
from .pair_regression import PairRegression

__all__ = ["KernelShap"]

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

    Time grows with the cube of the smaller of players and pairs: next to none for a few hundred
    players, 17 seconds of one core for 4,096 players, 9,000 evaluations and one output
    (``benchmarks/memory.py``).

    Parameters
    ----------
    n_players : int
        Number of players, at least 2.
    budget : int
        Most coalitions to evaluate, the empty and the full one included; at least 2.
    seed : int or None
        Seed of the coalitions; ``None`` draws fresh entropy.
    sampling : {"modified_l2", "leverage", "kernel"}
        How coalition sizes are drawn; see :class:`~..coalitions.sampled_pairs.PairSampler`.

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
        self.coalitions, self._strata = paired_coalitions(
            n_players, budget, self._sampler, lambda m: 32 * min(m, n_players) ** 2
        )
        self._halves = self.coalitions[2::2]
        self._design: PairRegression | None = None

    def estimate(
        self,
        values: Floats,
        prior: Floats | None = None,
        ridge: float | None = None,
        n_guides: int = 0,
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
        n_guides : int
            The last outputs, as many as this, only guide a Gaussian process: they are left aside.
        """
        v = check_values(values, len(self.coalitions), self.min_coalitions, n_guides)
        n_pairs = (len(v) - 2) // 2
        if n_pairs == self._sampler.n_pairs:
            return exact_estimate(self.coalitions, v)
        v = v[: 2 + 2 * n_pairs]
        found = np.empty((self.coalitions.shape[1], v.shape[1]))
        std = np.empty_like(found)
        if prior is not None:
            prior = checked_prior(prior, found.shape)
        for block in blocks_of_outputs(v):
            guess = None if prior is None else prior[:, block.outputs] / block.unit
            values_, errors = self._of_block(block, guess, ridge)
            found[:, block.outputs] = block.in_units_of_the_game(values_)
            std[:, block.outputs] = block.in_units_of_the_game(errors)
        return Estimate(found, std, v[0].copy(), v[1].copy(), len(v), exact=False)

    def _of_block(
        self, block: Block, prior: Floats | None, ridge: float | None
    ) -> tuple[Floats, Floats]:
        """Values and errors (n, k) of some outputs, in their units."""
        v, n_players = block.values, self.coalitions.shape[1]
        n_pairs = len(v) // 2 - 1
        design = self._design_of(n_pairs)
        empty, full, inside, outside = v[0], v[1], v[2::2], v[3::2]
        equal = (full - empty) / n_players
        centre = np.broadcast_to(equal, (n_players, len(equal)))
        odd = inside - outside
        if prior is None:
            odd -= np.outer(design.balance, equal)
        else:
            centre = prior + equal - prior.mean(axis=0)
            odd -= design.signed_sums(centre)
        if prior is None and design.is_overdetermined:
            psi, std = design.least_squares(odd)
        else:
            psi, std = design.ridge(odd) if ridge is None else design.fixed_ridge(odd, ridge)
            if design.rank == n_players - 1:
                rounding = _ROUNDING * np.abs(v).max(axis=0)
                additive = design.is_additive(odd, inside + outside - (full + empty), rounding)
                if additive.any():
                    psi[:, additive], errors = design.least_squares(odd[:, additive])
                    # Without spare rows least squares interpolates, and says nothing of its error.
                    if design.n_spare >= 2:
                        std[:, additive] = errors
        found = psi + centre
        found[:, block.constant] = equal[block.constant]
        std[:, block.constant] = 0.0
        # Projection onto the efficient hyperplane removes what rounding left.
        found += ((full - empty) - found.sum(axis=0)) / n_players
        return found, std

    def _design_of(self, n_pairs: int) -> PairRegression:
        """Factors of the first ``n_pairs``; the last is kept, for images that share it."""
        if self._design is None or len(self._design.halves) != n_pairs:
            self._design = self._make_design(n_pairs)
        return self._design

    def _make_design(self, n_pairs: int) -> PairRegression:
        weight, unseen = self._sampler.weights(self._strata[:n_pairs])
        return PairRegression(self._halves[:n_pairs], weight, unseen)
