"""The weighted least squares of KernelSHAP on pairs of coalitions, and its ridge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import eigh

from ..._typing import Bools, Floats
from ..averaged_ridge import AveragedRidge

__all__ = ["PairRegression"]

_RANK_TOLERANCE = 1e-7  # singular values below this share of the largest count as zero
_RANK_TOLERANCE_OF_SQUARES = 1e-12
_SMALL = 2**20  # entries of a matrix that is decomposed as it is
_CHUNK_ENTRIES = 2**21  # of a larger one that are in memory at once
_EVERY = slice(None)


@dataclass(frozen=True)
class PairRegression:
    """The regression of odd differences on signs; what depends on the coalitions alone.

    ``halves`` (m, n) one coalition of each pair; ``weight`` (m,) of each pair; ``unseen`` (m,)
    the share of its stratum that was not drawn, the finite-population correction of its
    variance.

    The matrix of the regression holds the weighted signs, in {-1, 1}, centred over the players.
    With phi = equal split + psi and sum(psi) = 0 they span exactly the free directions. Only
    parts of it are ever in memory.
    """

    halves: Bools
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

    def is_additive(self, odd: Floats, even: Floats, rounding: Floats) -> Bools:
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
