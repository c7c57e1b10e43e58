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
from scipy.linalg import eigh

from ..._typing import Floats
from ..averaged_ridge import AveragedRidge
from ..base import Estimate, check_values, checked_prior
from ..coalitions.sampled_pairs import PairSampler, paired_coalitions
from ..units import Block, blocks_of_outputs
from .exact import exact_estimate

__all__ = ["KernelShap"]


_RANK_TOLERANCE = 1e-7  # singular values below this share of the largest count as zero
_RANK_TOLERANCE_OF_SQUARES = 1e-12
_SMALL = 2**20  # entries of a matrix that is decomposed as it is
_CHUNK_ENTRIES = 2**21  # of a larger one that are in memory at once
_EVERY = slice(None)
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
        self._design: _Design | None = None

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

    def _design_of(self, n_pairs: int) -> _Design:
        """Factors of the first ``n_pairs``; the last is kept, for images that share it."""
        if self._design is None or len(self._design.halves) != n_pairs:
            self._design = self._make_design(n_pairs)
        return self._design

    def _make_design(self, n_pairs: int) -> _Design:
        weight, unseen = self._sampler.weights(self._strata[:n_pairs])
        return _Design(self._halves[:n_pairs], weight, unseen)


@dataclass(frozen=True)
class _Design:
    """The regression of odd differences on signs; what depends on the coalitions alone.

    ``halves`` (m, n) one coalition of each pair; ``weight`` (m,) of each pair; ``unseen`` (m,)
    the share of its stratum that was not drawn, the finite-population correction of its
    variance.

    The matrix of the regression holds the weighted signs, in {-1, 1}, centred over the players.
    With phi = equal split + psi and sum(psi) = 0 they span exactly the free directions. Only
    parts of it are ever in memory.
    """

    halves: NDArray[np.bool_]
    weight: Floats
    unseen: Floats

    @property
    def is_overdetermined(self) -> bool:
        n_free = self.halves.shape[1] - 1
        if self.rank < n_free or len(self.halves) < 2 * n_free:
            return False
        # A direction that rests on one sampled pair has no residual to tell its error from.
        return bool((self._leverage[self.unseen > 0] < 1.0 - 1e-6).all())

    @property
    def n_spare(self) -> int:
        """Pairs beyond those that determine the fit."""
        return len(self.halves) - self.rank

    @property
    def rank(self) -> int:
        return len(self._factors[1])

    @cached_property
    def balance(self) -> Floats:
        """Sum of the signs of each pair (m,): players inside less players outside."""
        return np.asarray(2.0 * self.halves.sum(axis=1) - self.halves.shape[1])

    def signed_sums(self, numbers: Floats) -> Floats:
        """Sums (m, K) of the players' numbers (n, K) inside less those outside."""
        total = numbers.sum(axis=0)
        return np.concatenate(
            [np.zeros((0, numbers.shape[1]))]
            + [2 * (self.halves[rows] @ numbers) - total for rows in self._chunks(0)]
        )

    def is_additive(self, odd: Floats, even: Floats, rounding: Floats) -> NDArray[np.bool_]:
        """Which outputs look additive, up to ``rounding`` (K,): then least squares is exact.

        In an additive game the ``even`` parts (m, K) vanish and the fit of the odd parts
        leaves nothing; both also against the size of the odd parts, for a game that is
        small beside a large constant.
        """
        limit = np.minimum(rounding, 1e-3 * np.abs(odd).max(axis=0))
        additive = np.abs(even).max(axis=0) <= limit
        if self.n_spare >= 2 and additive.any():
            _, residual = self._fitted(self._root * odd[:, additive])
            additive[additive] = (
                np.abs(residual).max(axis=0) <= (limit * self._root.max())[additive]
            )
        return np.asarray(additive | (np.abs(odd).max(axis=0) == 0))

    def least_squares(self, odd: Floats) -> tuple[Floats, Floats]:
        """Weighted least squares of ``odd`` (m, K) and its HC3 standard errors."""
        singular = self._factors[1]
        psi, residual = self._fitted(self._root * odd)
        # An exactly interpolated row has no residual to speak of; the floor avoids 0/0.
        slack = np.maximum(1.0 - self._leverage, 1e-6)
        share = residual**2 * (self.unseen / slack**2)[:, None]
        right = self._right(_EVERY) / singular
        variance = np.zeros_like(psi)
        for rows in self._chunks(0):
            variance += np.square(right @ self._left(rows).T) @ share[rows]
        return psi, np.sqrt(variance)

    def fixed_ridge(self, odd: Floats, strength: float) -> tuple[Floats, Floats]:
        """Ridge estimate of ``odd`` (m, K) at one strength, and its posterior deviation.

        The variance of the noise is its most likely one, given the strength.
        """
        singular = self._factors[1]
        n, m = self.halves.shape[1], len(self.halves)
        if not m:
            return np.zeros((n, odd.shape[1])), np.full((n, odd.shape[1]), np.inf)
        projected, unexplained = self._projected(self._root * odd)
        kept = strength / (singular**2 + strength)
        noise = (unexplained + kept @ projected**2) / m
        centre = (singular / (singular**2 + strength))[:, None] * projected
        psi, std = np.empty((2, n, odd.shape[1]))
        for players in self._chunks(1):
            right = self._right(players)
            seen = right**2 @ (1.0 / (singular**2 + strength))
            unseen = np.maximum(1.0 - 1.0 / n - (right**2).sum(axis=1), 0.0) / strength
            psi[players] = right @ centre
            std[players] = np.sqrt((seen + unseen)[:, None] * noise)
        return psi, std

    def ridge(self, odd: Floats) -> tuple[Floats, Floats]:
        """Ridge estimate of ``odd`` (m, K) and its posterior standard deviation.

        Averaged over ridge strengths; psi is free on sum(psi) = 0.
        """
        n, m = self.halves.shape[1], len(self.halves)
        psi, std = np.zeros((n, odd.shape[1])), np.full((n, odd.shape[1]), np.inf)
        if m < 3:
            # Too little to learn a scale from: the equal split, with no claim about its error.
            return psi, std
        ridge = AveragedRidge.of(*self._projected(self._root * odd), m, self._factors[1])
        for players in self._chunks(1):
            right = self._right(players)
            psi[players], std[players] = ridge.functions(right, np.full(len(right), 1.0 - 1.0 / n))
        return psi, std

    # ----- parts of the matrix and of its singular value decomposition ----------------------

    def _chunks(self, axis: int) -> list[slice]:
        """Rows or columns that are held at once."""
        size, other = self.halves.shape[axis], self.halves.shape[1 - axis]
        length = max(1, _CHUNK_ENTRIES // max(1, other))
        return [slice(start, start + length) for start in range(0, size, length)]

    def _part(self, rows: slice, players: slice) -> Floats:
        """Of the matrix."""
        share = (self.balance[rows] / self.halves.shape[1])[:, None]
        return np.asarray(
            self._root[rows] * (np.where(self.halves[rows, players], 1.0, -1.0) - share)
        )

    @cached_property
    def _root(self) -> Floats:
        """Square roots of the weights, whose mean is 1."""
        return np.asarray(np.sqrt(self.weight / self.weight.mean())[:, None])

    @cached_property
    def _factors(self) -> tuple[Floats | None, Floats, Floats | None]:
        """Left singular vectors (m, r), singular values (r,), right singular vectors (n, r).

        Of a large matrix one side is missing: the other comes from the smaller matrix of inner
        products, which takes a fraction of the time and memory. It squares the condition,
        which is harmless for random signs.
        """
        m, n = self.halves.shape
        if not m:
            return np.zeros((0, 0)), np.zeros(0), np.zeros((n, 0))
        if m * n <= _SMALL:
            left, singular, right = np.linalg.svd(self._part(_EVERY, _EVERY), full_matrices=False)
            keep = singular > _RANK_TOLERANCE * singular[0]
            return left[:, keep], singular[keep], right[keep].T
        wide = m < n
        products = np.zeros((m, m) if wide else (n, n))
        for some in self._chunks(1 if wide else 0):
            part = self._part(_EVERY, some) if wide else self._part(some, _EVERY).T
            products += part @ part.T
        squares, vectors = eigh(products, overwrite_a=True, check_finite=False, driver="evd")
        keep = squares > _RANK_TOLERANCE_OF_SQUARES * squares[-1]
        singular, vectors = np.sqrt(squares[keep]), vectors[:, keep]
        return (vectors, singular, None) if wide else (None, singular, vectors)

    def _left(self, rows: slice) -> Floats:
        left, singular, right = self._factors
        if left is not None:
            return left[rows]
        assert right is not None
        return np.asarray(self._part(rows, _EVERY) @ (right / singular))

    def _right(self, players: slice) -> Floats:
        left, singular, right = self._factors
        if right is not None:
            return right[players]
        assert left is not None
        return np.asarray(self._part(_EVERY, players).T @ (left / singular))

    @cached_property
    def _leverage(self) -> Floats:
        return np.concatenate([np.square(self._left(rows)).sum(axis=1) for rows in self._chunks(0)])

    def _projected(self, y: Floats) -> tuple[Floats, Floats]:
        """Coordinates (r, K) of ``y`` (m, K) along the left vectors, and the squares left over."""
        left, singular, right = self._factors
        if left is None:
            assert right is not None
            sums = np.zeros((len(right), y.shape[1]))
            for rows in self._chunks(0):
                sums += self._part(rows, _EVERY).T @ y[rows]
            projected = right.T @ sums / singular[:, None]
        else:
            projected = left.T @ y
        rest = np.square(y).sum(axis=0) - np.square(projected).sum(axis=0)
        return projected, np.maximum(rest, 0.0)

    def _fitted(self, y: Floats) -> tuple[Floats, Floats]:
        """Coefficients (n, K) of ``y`` (m, K), and the residuals."""
        singular = self._factors[1]
        psi, residual = np.zeros((self.halves.shape[1], y.shape[1])), y
        for _ in range(2):  # the second time takes out what rounding left
            step = self._projected(residual)[0] / singular[:, None]
            for players in self._chunks(1):
                psi[players] += self._right(players) @ step
            residual = y.copy()
            for rows in self._chunks(0):
                residual[rows] -= self._part(rows, _EVERY) @ psi
        return psi, residual
