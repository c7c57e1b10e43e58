"""Owen values over a binary partition tree by best-first refinement: pure arrays."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from .._typing import Bools, Floats
from ..errors import bad
from ..players.trees import PartitionTree
from .units import units_of

__all__ = ["OwenRefiner"]

# (node, context as nodes, row of v(Q), row of v(Q + T), weight)
Branch: TypeAlias = tuple[int, tuple[int, ...], int, int, float]

# Branches opened before their scores are looked at again: few at first, later a part of
# what is open already, so that batches stay full. Never a function of budget or batch size.
_ROUND, _ROUND_PART = 8, 16
_EVERY = slice(None)


class OwenRefiner:
    r"""Owen values of one tree, refined where the game still changes.

    The Owen value (Owen, Values of games with a priori unions, 1977) of a leaf is its
    marginal contribution averaged over the orders of the players in which every node of the
    tree stays together. It is computed from branches (Q, T, w): node T joins the context Q
    with weight w, worth :math:`w\,(v(Q \cup T) - v(Q))`. Opening T = A + B costs two evaluations,
    :math:`v(Q \cup A)` and :math:`v(Q \cup B)`, and gives four branches of weight w / 2:
    (Q, A), (Q, B), (Q + A, B), (Q + B, A) (Rashid et al., AAAI 2026, algorithm 1). A branch
    that is not open spreads its worth evenly over its players; once all are open, the
    values are exact. At every moment they add up to v(N) - v(0).

    Branches are opened in the order of
    :math:`w\,(\lVert v(Q \cup T) - v(Q) \rVert + \epsilon\,s)\,(|T| / n)^\gamma`: what is
    at stake, times how much of the map it can change. The norm runs over the guide outputs
    and ``s`` is the norm of v(N) - v(0), so that a large region whose parts cancel is opened
    too.

    Parameters
    ----------
    tree : PartitionTree
    base_values, full_values : ndarray of shape (K,)
        Values of the empty and of the full coalition.
    guides : sequence of int, optional
        Outputs whose changes decide what is opened; all by default.
    guide_weights : sequence of float, optional
        Weight of each guide in the norm; equal by default.
    area_power, floor : float
        :math:`\gamma` and :math:`\epsilon` above.

    Examples
    --------
    >>> from xai_patchshap.players.trees import axis_tree
    >>> weights = np.array([1.0, 2.0, 3.0, 4.0])
    >>> refiner = OwenRefiner(axis_tree([[0, 1], [2, 3]]), np.zeros(1), np.full(1, 10.0))
    >>> while len(coalitions := refiner.ask(100)):
    ...     refiner.tell(coalitions @ weights[:, None])
    >>> refiner.values()[:, 0].tolist(), refiner.exact
    ([1.0, 2.0, 3.0, 4.0], True)
    """

    def __init__(
        self,
        tree: PartitionTree,
        base_values: Floats,
        full_values: Floats,
        guides: Sequence[int] | None = None,
        guide_weights: Sequence[float] | None = None,
        area_power: float = 0.1,
        floor: float = 0.01,
    ) -> None:
        self.tree = tree
        self._rank = np.argsort(tree.order)  # place of each player in the tree's order
        self.guides = list(range(len(base_values)) if guides is None else guides)
        self.guide_weights = np.ones(len(self.guides)) if guide_weights is None else guide_weights
        self.area_power, self.floor = area_power, floor
        # Row i of the table is the value of the i-th coalition: empty, full, then asked.
        self._table = np.empty((64, len(base_values)))
        self._table[0], self._table[1] = base_values, full_values
        self.n_coalitions = 2
        self._settled: list[Branch] = []
        self._heap: list[tuple[float, int, Branch]] = []
        self._round: list[Branch] = []
        self._done = 0  # branches of the round that are open, and what they gave
        self._fresh: list[Branch] = []
        self._asked = 0
        self._n_open = self._count = 0
        self._scale = float(self._norm((full_values - base_values)[None])[0])
        self._unit = 0.0  # what is at stake at first: scores are relative to it
        self._push([(tree.root, (), 0, 1, 1.0)])

    @property
    def exact(self) -> bool:
        """Whether every branch is open, so that the values are the tree's Owen values."""
        return not self._heap and self.round_is_over

    @property
    def round_is_over(self) -> bool:
        """Whether all branches chosen last are open."""
        return self._done == len(self._round)

    def ask(self, most: int) -> Bools:
        """The next coalitions to evaluate, (m, n) with m at most ``most``.

        None are left once the values are exact.
        """
        if self._asked:
            raise RuntimeError("ask() was called twice without tell()")
        if self.round_is_over:
            size = max(_ROUND, self._n_open // _ROUND_PART)
            self._round = [heapq.heappop(self._heap)[2] for _ in range(min(size, len(self._heap)))]
            self._done = 0
        self._asked = min(len(self._round) - self._done, max(0, most // 2))
        coalitions = np.zeros((2 * self._asked, self.tree.n), dtype=bool)
        start, stop = self.tree.start, self.tree.stop
        for i in range(self._asked):
            node, context, *_ = self._round[self._done + i]
            pair = coalitions[2 * i : 2 * i + 2]
            for member in context:
                pair[:, start[member] : stop[member]] = True
            for row, child in zip(pair, self._children(node), strict=True):
                row[start[child] : stop[child]] = True
        return np.asarray(coalitions[:, self._rank])

    def tell(self, values: Floats) -> None:
        """Take the values (m, K) of the coalitions asked for last.

        Fewer rows than asked for mean that the evaluation was interrupted.
        """
        values = np.asarray(values, dtype=np.float64)
        if (
            values.ndim != 2
            or values.shape[1] != self._table.shape[1]
            or (len(values) > 2 * self._asked)
        ):
            expected = f"at most {2 * self._asked} rows of {self._table.shape[1]} outputs"
            raise bad("values", f"shape {values.shape}", expected)
        if not np.isfinite(values).all():
            raise bad("values", "NaN or infinite numbers", "finite numbers")
        for i in range(len(values) // 2):
            node, context, without, with_all, weight = self._round[self._done]
            row = self._store(values[2 * i : 2 * i + 2])
            a, b = self._children(node)
            half = weight / 2
            self._fresh += [
                (a, context, without, row, half),
                (b, context, without, row + 1, half),
                (a, (*context, b), row + 1, with_all, half),
                (b, (*context, a), row, with_all, half),
            ]
            self._done += 1
            self._n_open += 1
        self._asked = 0
        if self.round_is_over:
            self._push(self._fresh)
            self._fresh = []

    def values(self, outputs: slice | list[int] = _EVERY) -> Floats:
        """Values of the players as far as they are known, (n, K) or some of the outputs."""
        tree = self.tree
        closed = [*self._settled, *self._fresh, *self._round[self._done :]]
        closed += [branch for _, _, branch in self._heap]
        node = np.array([b[0] for b in closed])
        without = np.array([b[2] for b in closed])
        with_all = np.array([b[3] for b in closed])
        size = tree.stop[node] - tree.start[node]
        share = np.array([b[4] for b in closed]) / size
        worth = share[:, None] * (
            self._table[:, outputs][with_all] - self._table[:, outputs][without]
        )
        nodes, group = np.unique(node, return_inverse=True)
        density = np.zeros((len(nodes), worth.shape[1]))
        np.add.at(density, group, worth)
        ordered = np.zeros((tree.n, worth.shape[1]))
        for i, d in zip(nodes, density, strict=True):
            ordered[tree.start[i] : tree.stop[i]] += d
        return ordered[self._rank]

    def extremes(self) -> tuple[Floats, Floats]:
        """Lowest and highest value (K,) of each output so far."""
        known = self._table[: self.n_coalitions]
        return known.min(axis=0), known.max(axis=0)

    def _children(self, node: int) -> tuple[int, int]:
        a, b = self.tree.children[node - self.tree.n]
        return int(a), int(b)

    def _store(self, rows: Floats) -> int:
        """Append two rows to the table of values; returns the index of the first."""
        at = self.n_coalitions
        if at + 2 > len(self._table):
            self._table = np.concatenate([self._table, np.empty_like(self._table)])
        self._table[at : at + 2] = rows
        self.n_coalitions += 2
        return at

    def _norm(self, change: Floats) -> Floats:
        """Norm (m,) of changes (m, K) over the guide outputs."""
        guided = change[:, self.guides] * self.guide_weights
        unit = units_of(guided.T)  # squares stay in range
        return np.asarray(unit * np.linalg.norm(guided / unit[:, None], axis=1))

    def _push(self, branches: list[Branch]) -> None:
        if not branches:
            return
        rows = np.array([(b[2], b[3]) for b in branches])
        change = self._table[rows[:, 1]] - self._table[rows[:, 0]]
        at_stake = self._norm(change) + self.floor * self._scale
        size = np.array([self.tree.stop[b[0]] - self.tree.start[b[0]] for b in branches])
        weight = np.array([b[4] for b in branches])
        self._unit = self._unit or float(at_stake.max())
        with np.errstate(divide="ignore"):
            # In steps of about one per cent: the model's rounding, which depends on the
            # batch, does not decide between equals.
            relative = at_stake / (self._unit or 1.0)
            score = np.round(
                50 * np.log2(weight * relative * (size / self.tree.n) ** self.area_power)
            )
        for branch, s, n in zip(branches, score, size, strict=True):
            if n == 1:
                self._settled.append(branch)
            else:
                # Among equals, the older branch comes first.
                heapq.heappush(self._heap, (-float(s), self._count, branch))
                self._count += 1
