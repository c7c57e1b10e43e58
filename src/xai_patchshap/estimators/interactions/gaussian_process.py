"""Interactions from the posterior of a Gaussian process over coalitions."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..._typing import Floats
from ...errors import bad
from ..base import check_values
from ..coalitions.designed_pairs import DesignedPairs
from ..coalitions.sampled_pairs import Pairs, PairSampler, paired_coalitions
from ..indices import EFFICIENT, check_index, coalition_weights, diagonal_quadrature
from ..process.evidence import LEARN_FROM_OUTPUTS, learned
from ..process.kernel import factors_of
from ..process.posterior import HalfGame, halves
from ..units import Block, blocks_of_outputs, root_mean_square, units_of
from .exact import exact_interactions
from .interactions import Interactions, subsets

__all__ = ["GaussianProcessInteractions"]

# Guides that are for themselves: the classes of high score depend on other patches than the rest.
_LEADING = 4
_FEWEST_PAIRS = 4  # below which nothing is claimed about errors


class GaussianProcessInteractions:
    """Any index from any number of pairs of coalitions; exact once all are drawn.

    The game is modelled as a Gaussian process (see
    :mod:`xai_patchshap.estimators.process.kernel`), whose posterior gives interactions of
    every index and order, also where they outnumber the evaluations, with their standard
    deviations. Outputs of one model share the parameters of the process: what one class depends
    on, others often do.

    Parameters
    ----------
    n_players : int
        Number of players, at least 2.
    budget : int
        Most coalitions to evaluate, the empty and the full one included; at least 2.
    index, order
        As in :class:`ExactInteractions`.
    seed : int or None
        Seed of the coalitions; ``None`` draws fresh entropy.
    sampling : {"a-optimal", "a-optimal-residual", "modified_l2", "leverage", "kernel"}
        ``"a-optimal"``: coalitions that are worth knowing together, chosen beforehand, the
        residual ones for what a guess at the values leaves; see
        :class:`~..coalitions.designed_pairs.DesignedPairs`. The others draw coalition sizes at
        random; see :class:`~..coalitions.sampled_pairs.PairSampler`.

    Attributes
    ----------
    coalitions : ndarray of bool, shape (m, n_players)
        Empty, full, then each sampled coalition followed by its complement. Any prefix
        is a valid sample, and a larger budget extends a smaller one (not the smallest of
        designed ones, see :class:`~..coalitions.designed_pairs.DesignedPairs`).

    Raises
    ------
    PatchShapError
        If the index, the order or the sampling rule does not exist, or the budget is below 2.

    Examples
    --------
    >>> import numpy as np
    >>> estimator = GaussianProcessInteractions(20, budget=400, index="SII", order=2)
    >>> z = estimator.coalitions
    >>> interactions = estimator.estimate(z @ np.arange(20.0) + 30 * z[:, 3] * z[:, 4])
    >>> interactions.top(1, order=2)[0][0]
    (3, 4)
    """

    min_coalitions = 2

    def __init__(
        self,
        n_players: int,
        budget: int,
        index: str = "SII",
        order: int = 2,
        seed: int | None = 0,
        sampling: str = "a-optimal",
    ) -> None:
        check_index(index, order, n_players)
        self.index, self.order = index, order
        pairs: Pairs = (
            DesignedPairs(n_players, seed, residual=sampling == "a-optimal-residual")
            if sampling in ("a-optimal", "a-optimal-residual")
            else PairSampler(n_players, seed, sampling)
        )
        self.coalitions, _ = paired_coalitions(n_players, budget, pairs, lambda p: 32 * p**2)
        self._all_pairs = pairs.n_pairs

    def estimate(self, values: Floats, n_guides: int = 0) -> Interactions:
        """Interactions of all outputs from the values of the first coalitions.

        Parameters
        ----------
        values : ndarray of shape (m, n_outputs) or (m,)
            Values of the first ``m >= 2`` of :attr:`coalitions`; a last coalition
            without its complement is left aside.
        n_guides : int
            The last outputs, as many as this, are not estimated: the parameters of the
            process are learned from them. The first four, as of the classes of highest score,
            are for outputs that are among these, the others for all other outputs. By
            default, parameters are learned from the outputs themselves.
        """
        v = check_values(values, len(self.coalitions), self.min_coalitions)
        n_pairs = (len(v) - 2) // 2
        n, n_outputs = self.coalitions.shape[1], v.shape[1] - n_guides
        if not 0 <= n_guides < v.shape[1]:
            raise bad("n_guides", n_guides, f"0 to {v.shape[1] - 1}, of {v.shape[1]} outputs")
        if n_pairs == self._all_pairs:
            return exact_interactions(self.coalitions, v[:, :n_outputs], self.index, self.order)
        v = v[: 2 + 2 * n_pairs]
        # Of the pair of the empty and the full coalition, the full one comes first.
        signs = np.where(self.coalitions[np.r_[1, 2 : 2 + 2 * n_pairs : 2]], 1.0, -1.0)
        means = [np.empty((len(subsets(n, s)), n_outputs)) for s in range(1, self.order + 1)]
        stds = [np.empty_like(m) for m in means]
        # Threads cost these small matrices several times what they gain.
        with threadpool_limits(1, user_api="blas"):
            for some, teachers in _groups(v, n_guides):
                parameters = _learned(signs, v, teachers)
                factors = factors_of(signs, parameters)
                for block in blocks_of_outputs(v, some):
                    parts = halves(signs, *_odd_and_even(block.values), parameters, factors)
                    for mean, std, found in zip(
                        means, stds, self._of_block(block, parts), strict=True
                    ):
                        mean[:, block.outputs] = block.in_units_of_the_game(found[0])
                        std[:, block.outputs] = block.in_units_of_the_game(found[1])
        return Interactions(
            self.index,
            n,
            tuple(means),
            tuple(stds),
            v[0, :n_outputs].copy(),
            v[1, :n_outputs].copy(),
            len(v),
            exact=False,
        )

    def _of_block(self, block: Block, parts: Sequence[HalfGame]) -> list[tuple[Floats, Floats]]:
        """Values and errors of every order, of some outputs in their units."""
        n, gap = self.coalitions.shape[1], block.values[1] - block.values[0]
        means, stds = [], []
        for s in range(1, self.order + 1):
            nodes, weights = diagonal_quadrature(self.index, self.order, s, n)
            table = coalition_weights(self.index, self.order, s, n)
            found = [half.functional(nodes, weights, table, subsets(n, s)) for half in parts]
            means.append(found[0][0] + found[1][0])
            stds.append(np.hypot(found[0][1], found[1][1]))
            if len(block.values) < 2 + 2 * _FEWEST_PAIRS:
                stds[-1][:] = np.inf
            means[-1][:, block.constant] = stds[-1][:, block.constant] = 0.0
        if self.index in EFFICIENT or self.index == "SII":
            # What rounding left of v(N) - v(empty) goes to the players.
            adding = means[:1] if self.index == "SII" else means
            totals = [fsum(x for m in adding for x in m[:, k]) for k in range(len(gap))]
            means[0] += (gap - totals) / n
        return list(zip(means, stds, strict=True))


def _odd_and_even(v: Floats) -> tuple[Floats, Floats]:
    """Halves (p, K) of games, the pair of the full and the empty coalition first."""
    inside, outside = np.concatenate([v[1:2], v[2::2]]), np.concatenate([v[:1], v[3::2]])
    even = (inside + outside) / 2
    return (inside - outside) / 2, even - even[0]


def _learned(signs: Floats, v: Floats, teachers: NDArray[np.intp]) -> Floats:
    """Parameters of the process that suit these outputs best."""
    if len(teachers) > LEARN_FROM_OUTPUTS:  # the others have no say
        sizes = [
            block.unit * np.hypot(*map(root_mean_square, _odd_and_even(block.values)))
            for block in blocks_of_outputs(v, teachers)
        ]
        teachers = teachers[np.argsort(-np.concatenate(sizes), kind="stable")[:LEARN_FROM_OUTPUTS]]
    unit = units_of(v[:, teachers])
    return learned(signs, *_odd_and_even(v[:, teachers] / unit), unit)


def _groups(values: Floats, n_guides: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Outputs that share parameters, and those whose values these are learned from."""
    outputs, guides = np.split(np.arange(values.shape[1]), [values.shape[1] - n_guides])
    if not n_guides:
        return [(outputs, outputs)]
    leading, others = np.split(guides, [_LEADING])
    known = {values[:, k].tobytes() for k in leading}
    leads = np.array([values[:, k].tobytes() in known for k in outputs], dtype=bool)
    groups = [(outputs[leads], leading), (outputs[~leads], others if len(others) else leading)]
    return [(some, teachers) for some, teachers in groups if len(some)]
