r"""Which coalitions to evaluate: paired, stratified by size, without replacement.

A coalition and its complement always come together, because Shapley values depend only
on the odd part of a game, ``v(S) - v(N \ S)``. Pairs are grouped into strata by the
size ``k`` of their smaller half.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, islice
from math import comb
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..._validation import check_memory, maybe, one_of, said, whole
from ...errors import bad
from .shapley_kernel import shapley_kernel_strata

__all__ = ["SAMPLING_RULES", "PairSampler", "Pairs", "check_sampling", "paired_coalitions"]

SAMPLING_RULES = ("modified_l2", "leverage", "kernel")

# Strata up to this size are listed and shuffled; larger ones are drawn by rejection.
_ENUMERATE_UP_TO = 20_000
_CHUNK = 256
_ENTRIES = 2**17  # of random numbers that are held at once
_BYTES_OF_A_PAIR = 200  # whatever the players
_GOLDEN = (5**0.5 - 1) / 2


def check_sampling(sampling: str | None, estimator: str) -> None:
    """Raise unless an estimator can use coalitions that are chosen so.

    ``"a-optimal"`` (:class:`~.designed_pairs.DesignedPairs`) is not random, and for regressions
    the sampling weights have to be known.
    """
    designed = () if estimator in ("kernel-shap", "regression") else ("a-optimal",)
    rules = (*designed, *SAMPLING_RULES)
    maybe(one_of(*rules))("sampling", sampling)


class Pairs(Protocol):
    """A sequence of distinct coalition pairs."""

    @property
    def n_pairs(self) -> int:
        """Number of different pairs there are."""
        ...

    def take(self, n_pairs: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """One half of each of the first pairs, and the smaller half's size less 1."""
        ...


def paired_coalitions(
    n_players: int, budget: int, pairs: Pairs, bytes_to_solve: Callable[[int], int]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Empty, full, then each coalition and its complement; and the strata of the pairs.

    ``bytes_to_solve`` says how much memory a number of pairs takes later, unless they are all
    there are.
    """
    budget = whole(2, unit=" evaluations, the empty and the full coalition")("budget", budget)
    n_pairs = min((budget - 2) // 2, pairs.n_pairs)
    check_memory(
        "budget",
        f"{said(budget)} evaluations of {n_players:,} players",
        n_pairs * (3 * n_players + n_players // 8 + _BYTES_OF_A_PAIR)
        + (bytes_to_solve(n_pairs) if n_pairs < pairs.n_pairs else 0),
        "Lower the budget (n_samples= or max_evals=), or choose fewer players.",
    )
    halves, strata = pairs.take(n_pairs)
    coalitions = np.zeros((2 + 2 * n_pairs, n_players), dtype=bool)
    coalitions[1] = True
    coalitions[2::2] = halves
    np.logical_not(halves, out=coalitions[3::2])
    return coalitions, strata


class PairSampler:
    """An endless reproducible sequence of distinct coalition pairs.

    Any prefix of the sequence is a valid sample, and a longer prefix contains the
    shorter ones: raising a budget continues where the smaller budget stopped. The size
    of each pair comes from a low-discrepancy (golden ratio) sequence, so every size gets
    its share of the budget to within a few pairs; a size all of whose coalitions are drawn
    is enumerated in full and leaves its share to the others.

    Parameters
    ----------
    n_players : int
        Number of players, at least 2.
    seed : int or None
        Seed of the sequence; ``None`` draws fresh entropy.
    rule : {"modified_l2", "leverage", "kernel"}
        How sizes ``k`` are drawn. ``"kernel"``: by the Shapley kernel, ``1 / (k (n - k))``
        (Lundberg & Lee, NeurIPS 2017). ``"leverage"``: uniformly, which is sampling
        coalitions by their leverage in the regression (Musco & Witter, ICLR 2025).
        ``"modified_l2"``: the geometric mean of the two (Chen et al., NeurIPS 2025,
        arXiv 2506.05216).

    Examples
    --------
    >>> halves, strata = PairSampler(4, seed=0).take(7)  # all there are
    >>> sorted((strata + 1).tolist())  # four of size 1 and 3, three of size 2 and 2
    [1, 1, 1, 1, 2, 2, 2]

    Attributes
    ----------
    mass : ndarray of shape (n_strata,)
        Share of the Shapley kernel that each stratum holds; sums to 1.
    rate : ndarray of shape (n_strata,)
        Share of the draws that each stratum gets; sums to 1.
    """

    def __init__(self, n_players: int, seed: int | None = 0, rule: str = "modified_l2") -> None:
        if n_players < 2:
            raise bad("n_players", n_players, "at least 2 players to draw pairs of coalitions")
        one_of(*SAMPLING_RULES)("sampling", rule)
        self.n_players = n_players
        power = {"kernel": 1.0, "modified_l2": 0.5, "leverage": 0.0}[rule]
        self.mass: NDArray[np.float64] = shapley_kernel_strata(n_players)
        self.rate: NDArray[np.float64] = shapley_kernel_strata(n_players, power)
        self._entropy = np.random.SeedSequence(seed).entropy
        self._offset = np.random.default_rng(self._seed_of(0)).random()
        self._strata: dict[int, _Stratum] = {}
        self.n_pairs_of: NDArray[np.float64] = np.array(
            [float(_pairs_of_size(n_players, k)) for k in range(1, n_players // 2 + 1)]
        )

    def _seed_of(self, size: int) -> np.random.SeedSequence:
        """Seed of the pairs of one size; 0 stands for the sizes themselves."""
        return np.random.SeedSequence(self._entropy, spawn_key=(size,))

    @property
    def n_pairs(self) -> int:
        """Number of different pairs there are, ``2**(n - 1) - 1``."""
        return int(2 ** (self.n_players - 1)) - 1

    def take(self, n_pairs: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """First ``n_pairs`` of the sequence.

        Returns
        -------
        halves : ndarray of bool, shape (n_pairs, n_players)
            The smaller half of each pair; the other half is its complement.
        strata : ndarray of int, shape (n_pairs,)
            Index of the stratum of each pair; stratum ``j`` holds size ``j + 1``.
        """
        if not 0 <= n_pairs <= self.n_pairs:
            raise bad("n_pairs", n_pairs, f"between 0 and {said(self.n_pairs)}")
        strata = self._strata_of_first(n_pairs)
        halves = np.zeros((n_pairs, self.n_players), dtype=bool)
        for j in np.unique(strata):
            where = np.flatnonzero(strata == j)
            if j not in self._strata:
                self._strata[j] = _Stratum(self.n_players, int(j) + 1, self._seed_of(int(j) + 1))
            halves[where] = self._strata[j].take(len(where))
        return halves, strata

    def weights(
        self, strata: NDArray[np.int64], mass: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight of each of the first pairs, and the share of its stratum not drawn.

        Horvitz-Thompson: a stratum's mass, by default of the Shapley kernel, over the number
        of draws expected in it. Sizes enumerated in full hold their mass exactly; the others
        share the rest of the draws in proportion to their rates.

        Parameters
        ----------
        strata : ndarray of int, shape (n_pairs,)
            Of the first pairs of the sequence, as :meth:`take` returns them.
        mass : ndarray of shape (n_strata,), optional
        """
        count = np.bincount(strata, minlength=len(self.mass)).astype(float)
        drawn = count / self.n_pairs_of
        expected = count.copy()
        open_ = drawn < 1.0
        if open_.any():
            share = self.rate[open_] / self.rate[open_].sum()
            expected[open_] = np.maximum(count[open_].sum() * share, np.finfo(float).tiny)
        mass = self.mass if mass is None else mass
        return mass[strata] / expected[strata], 1.0 - drawn[strata]

    def _strata_of_first(self, n_pairs: int) -> NDArray[np.int64]:
        points = (self._offset + _GOLDEN * np.arange(1, n_pairs + 1)) % 1.0
        room = self.n_pairs_of.copy()
        strata = np.empty(n_pairs, dtype=np.int64)
        done = 0
        while done < n_pairs:
            rate = np.where(room > 0, self.rate, 0.0)
            edges = np.cumsum(rate / rate.sum())
            edges[np.flatnonzero(rate)[-1] :] = 1.0  # rounding must not reach an empty stratum
            picks = np.searchsorted(edges, points[done:], side="right")
            # Keep the draws up to the first that would overfill its stratum.
            stop = len(picks)
            for j in np.flatnonzero(np.bincount(picks, minlength=len(room)) > room):
                stop = min(stop, int(np.flatnonzero(picks == j)[int(room[j])]))
            picks = picks[:stop]
            room -= np.bincount(picks, minlength=len(room))
            strata[done : done + stop] = picks
            done += stop
        return strata


def _pairs_of_size(n_players: int, size: int) -> int:
    """Pairs whose smaller half has ``size`` players; 2**62 stands for anything larger."""
    if size >= 64:
        return 2**62
    return min(comb(n_players, size) // (2 if 2 * size == n_players else 1), 2**62)


class _Stratum:
    """All pairs whose smaller half has ``size`` players, in a reproducible random order."""

    def __init__(self, n_players: int, size: int, seed: np.random.SeedSequence) -> None:
        self.n_players, self.size = n_players, size
        self.middle = 2 * size == n_players
        self.n_pairs = _pairs_of_size(n_players, size)
        self._rng = np.random.default_rng(seed)
        # Every coalition once, as packed bits, in the order in which they were drawn.
        self._drawn: dict[bytes, None] = {}
        self._n_tried = 0
        self._rest: NDArray[np.int64] | None = None  # members of those that are listed

    def take(self, count: int) -> NDArray[np.bool_]:
        while len(self._drawn) < count:
            # The switch depends on what is drawn, never on what is asked for, so that
            # every prefix is the same whatever the budget.
            if self._rest is None and self._n_tried % _CHUNK == 0:
                many = len(self._drawn) >= self.n_pairs // 2
                if self.n_pairs <= _ENUMERATE_UP_TO or many:
                    self._list_all()
            # Never more than is needed: with many players, rows are long.
            self._draw(min(max(1, _ENTRIES // self.n_players), count - len(self._drawn)))
        packed = np.frombuffer(b"".join(islice(self._drawn, count)), dtype=np.uint8)
        bits = np.unpackbits(packed.reshape(count, -1), axis=1, count=self.n_players)
        return np.asarray(bits.view(bool))

    def _list_all(self) -> None:
        n, k = self.n_players, self.size
        # In the middle, the half that holds player 0 stands for its pair.
        members = (
            ((0, *rest) for rest in combinations(range(1, n), k - 1))
            if self.middle
            else combinations(range(n), k)
        )
        index = np.fromiter((i for c in members for i in c), dtype=np.int64).reshape(-1, k)
        self._rest, self._n_tried = index[self._rng.permutation(len(index))], 0

    def _draw(self, most: int) -> None:
        n, k = self.n_players, self.size
        if self._rest is not None:
            index = self._rest[self._n_tried : self._n_tried + most]
        else:
            # The numbers are the same in chunks of whatever length.
            most = min(most, _CHUNK - self._n_tried % _CHUNK)
            index = np.argpartition(self._rng.random((most, n)), k - 1, axis=1)[:, :k]
        self._n_tried += len(index)
        rows = np.zeros((len(index), n), dtype=bool)
        np.put_along_axis(rows, index, True, axis=1)
        if self.middle:
            rows ^= ~rows[:, :1]
        for packed in np.packbits(rows, axis=1):
            self._drawn.setdefault(packed.tobytes())
