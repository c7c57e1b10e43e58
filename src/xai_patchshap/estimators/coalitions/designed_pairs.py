r"""Which pairs of coalitions tell most about Shapley values, chosen before any is evaluated.

A Gaussian process of equal players (:mod:`~xai_patchshap.estimators.process.kernel`) says how
uncertain the Shapley values :math:`\phi` are once some coalitions are known, whatever their
values. One pair after another is added, the one that lowers the sum of the variances most: with
covariances given the pairs chosen so far,

.. math:: z^* = \arg\max_z \sum_i \operatorname{Cov}(\phi_i, v(z))^2 / \operatorname{Var} v(z),

a greedy Bayesian A-optimal design (Chaloner & Verdinelli, Statistical Science 10, 1995). Sizes
come about as the Shapley kernel weighs them, players equally often, and no two coalitions are
nearly alike. After eight pairs per player the process becomes less rough, with those chosen so far:
by then more of the game can be told from noise.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..._typing import Floats
from ..._validation import said
from ...errors import bad
from ..indices import coalition_weights, diagonal_quadrature
from ..process.prior import HalfPrior
from .sampled_pairs import PairSampler

__all__ = ["DesignedPairs"]

Process = tuple[float, float, float, float]

# The processes that the design is made for: from how many pairs per player on, sum of the
# strengths, variances of the linear and of the rough part. What looks rough to few pairs is
# smooth to many.
_PROCESSES = ((0, 4.0, 0.1, 1.0), (8, 4.0, 0.1, 0.1))
# Of what a guess at the values leaves, less can be told from few pairs.
_PROCESSES_OF_RESIDUALS = ((0, 3.5, 0.1, 2.0), (2, 4.0, 0.1, 1.0), (8, 4.0, 0.1, 0.1))
# Where players are few, and pairs enough to say more, players alone are candidates from the start,
# else after as many pairs as there are players: they would come first, and tell little of games
# with many interactions.
_FEW_PLAYERS = 16
_PAIRS_FOR_SINGLES = 1.25  # per player
# Candidates join in blocks, so that a longer design begins as a shorter one does.
_BLOCK = 2048
_PICKS_PER_BLOCK = 512
# Time grows with the square of the picks and with the players, while less and less is gained.
_MOST_PICKS, _MOST_PICKS_OF_MANY, _MANY_PLAYERS = 2048, 1024, 33


class DesignedPairs:
    """An endless reproducible sequence of distinct coalition pairs, the most telling first.

    The first 2,048 pairs, 1,024 of more than 32 players, are chosen greedily among random
    ones; what follows is drawn as :class:`PairSampler` draws by ``"leverage"``. A longer
    sequence begins with the shorter ones, but for up to 16 players and fewer than 1.25 pairs
    for each: so few are chosen among larger coalitions, while otherwise each player alone
    comes first.

    Parameters
    ----------
    n_players : int
        Number of players, at least 2.
    seed : int or None
        Seed of the candidates; ``None`` draws fresh entropy.
    residual : bool
        Whether the game is what a guess at the Shapley values, as of a trained explainer,
        leaves to find.

    Raises
    ------
    PatchShapError
        If there are fewer than 2 players, or more pairs are asked for than there are.

    Attributes
    ----------
    n_pairs : int
        Number of different pairs there are, ``2**(n_players - 1) - 1``.

    Examples
    --------
    >>> halves, strata = DesignedPairs(16, seed=0).take(30)
    >>> (strata[:16] + 1).tolist()  # of so few players, each alone against all others first
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    """

    def __init__(self, n_players: int, seed: int | None = 0, residual: bool = False) -> None:
        self.n_players = n_players
        self._processes = _PROCESSES_OF_RESIDUALS if residual else _PROCESSES
        # Fresh entropy is drawn once for all calls of take.
        self._seed = int(np.random.SeedSequence(seed).entropy)  # type: ignore[arg-type]
        self._sampler = PairSampler(n_players, self._seed, "leverage")
        self.n_pairs = self._sampler.n_pairs

    def take(self, n_pairs: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """First ``n_pairs`` of the sequence, as :meth:`PairSampler.take` returns them."""
        if not 0 <= n_pairs <= self.n_pairs:
            raise bad("n_pairs", n_pairs, f"between 0 and {said(self.n_pairs)}")
        halves = self._take(n_pairs)
        return halves, halves.sum(axis=1) - 1

    def _take(self, n_pairs: int) -> NDArray[np.bool_]:
        most = _MOST_PICKS if self.n_players < _MANY_PLAYERS else _MOST_PICKS_OF_MANY
        chosen = _chosen(self.n_players, self._seed, min(n_pairs, most), self._processes)
        if n_pairs <= len(chosen):
            return chosen
        taken = set(_keys(chosen))
        more, _ = self._sampler.take(n_pairs)
        more = more[[key not in taken for key in _keys(more)]]
        return np.concatenate([chosen, more[: n_pairs - len(chosen)]])


def _keys(halves: NDArray[np.bool_]) -> list[bytes]:
    """One key for each row."""
    return [row.tobytes() for row in np.packbits(halves, axis=1)]


@lru_cache(maxsize=16)  # the examples of a batch share their coalitions
def _chosen(
    n_players: int, seed: int, n_pairs: int, processes: tuple[Process, ...]
) -> NDArray[np.bool_]:
    sampler = PairSampler(n_players, seed, "leverage")
    single = np.eye(n_players, dtype=bool)[: int(sampler.n_pairs_of[0])]
    single = np.random.default_rng(seed).permutation(single)
    singles_from = n_players
    if n_players <= _FEW_PLAYERS:
        others = sampler.n_pairs - len(single)
        singles_from = 0 if n_pairs >= min(_PAIRS_FOR_SINGLES * n_players, others) else n_pairs
    greedy = _Greedy(n_players, n_pairs, *processes[0][1:])
    for done in range(n_pairs):
        for pairs_per_player, *process in processes[1:]:
            if done == int(pairs_per_player * n_players):
                greedy.start(*process)
        if done % _PICKS_PER_BLOCK == 0:
            first = done // _PICKS_PER_BLOCK * _BLOCK
            fresh, strata = sampler.take(min(first + _BLOCK, sampler.n_pairs))
            greedy.extend(fresh[first:][strata[first:] > 0])
        if done == singles_from:
            greedy.extend(single)
        greedy.pick()
    halves: NDArray[np.bool_] = greedy.signs[greedy.order[1:]] > 0
    halves.flags.writeable = False
    return halves


class _Greedy:
    """Candidates and their covariances given those chosen, as of a pivoted Cholesky factor."""

    def __init__(
        self, n_players: int, n_picks: int, strength: float, linear: float, rough: float
    ) -> None:
        self._shapley = (
            *diagonal_quadrature("SV", 1, 1, n_players),
            coalition_weights("SV", 1, 1, n_players),
        )
        self._players = np.arange(n_players)[:, None]
        self._n_rows = n_picks + 1
        # The empty and the full coalition are chosen.
        self.signs = np.ones((1, n_players))
        self.order = [0]
        self.start(strength, linear, rough)

    def start(self, strength: float, linear: float, rough: float) -> None:
        """Begin anew with what was chosen, under another process."""
        n, known = self.signs.shape[1], self.signs
        self._process = strength, linear, rough
        strengths = np.full(n, strength / n)
        self._parameters = np.r_[np.log(np.r_[strengths, linear, rough]), 0.0]
        self._roots: list[float] = []
        self._gains: list[Floats] = []
        # The empty and the full coalition have no rough part.
        self.signs = known[:1]
        self._variance = np.array([1.0 + linear])
        self._covariance = self._prior(self.signs)
        self._factor = np.zeros((1, self._n_rows), dtype=np.float32)
        self._extend(known[1:])
        for chosen in self.order:
            self._take(chosen)

    def extend(self, halves: NDArray[np.bool_]) -> None:
        """More candidates."""
        self._extend(np.where(halves, 1.0, -1.0))

    def _extend(self, fresh: Floats) -> None:
        _, linear, rough = self._process
        known = len(self.signs)
        self.signs = np.concatenate([self.signs, fresh])
        self._variance = np.r_[self._variance, np.full(len(fresh), 1 + linear + rough)]
        with_ends = np.concatenate([self.signs[:1], fresh])
        self._covariance = np.concatenate([self._covariance, self._prior(with_ends)[1:]])
        room = np.zeros((len(fresh), self._factor.shape[1]), dtype=np.float32)
        self._factor = np.concatenate([self._factor, room])
        for step in range(len(self._roots)):
            self._condition(step, slice(known, None))

    def pick(self) -> None:
        """Choose the best candidate."""
        score = np.square(self._covariance).sum(axis=1) / self._variance
        self.order.append(int(score.argmax()))
        self._take(self.order[-1])

    def _take(self, chosen: int) -> None:
        self._roots.append(float(np.sqrt(self._variance[chosen])))
        self._gains.append(self._covariance[chosen] / self._roots[-1])
        self._condition(len(self._roots) - 1, slice(None))
        self._variance[chosen] = np.inf  # never again

    def _prior(self, signs: Floats) -> Floats:
        """Covariance of the pairs, of which the first is the empty and the full coalition."""
        prior = HalfPrior(self._parameters, odd=True)
        return prior.covariance(signs, prior.part(*self._shapley), self._players)

    def _condition(self, step: int, rows: slice) -> None:
        """Take out of the covariances of some candidates what a choice told."""
        chosen = self.order[step]
        n = self.signs.shape[1]
        dot = self.signs[rows] @ self.signs[chosen] / n
        strength, linear, _ = self._process
        column = np.sinh(strength / 2 * dot) / np.sinh(strength / 2) + linear * dot
        column -= self._factor[rows, :step] @ self._factor[chosen, :step]
        column /= self._roots[step]
        self._factor[rows, step] = column
        self._covariance[rows] -= np.outer(column, self._gains[step])
        self._variance[rows] -= np.square(column)
