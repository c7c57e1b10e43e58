"""Owen values averaged over several trees: pure arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from .._typing import Bools, Floats
from ..errors import bad
from ..players.trees import PartitionTree
from .base import Estimate
from .owen import OwenRefiner
from .units import same_everywhere, units_of

__all__ = ["OwenForest"]

# A tree is grown whenever so many times as much is spent as when the last one was.
_RATIO = 3


class OwenForest:
    r"""Owen values averaged over several trees, some of which are grown from the values so far.

    The first ``head_start`` evaluations go to the first tree, since a shallow map of two
    trees is worse than a deeper one of a single tree; after that, the given tree on which
    least was spent advances next. When ``head_start`` evaluations are spent, and again
    whenever three times as many are, the next tree is grown: a function makes it from the
    values so far, and it gets the evaluations until the next one is grown. Trees are
    weighted by what was spent on them, and equally once all are exact. When and where a
    tree is refined depends on neither budget nor batch size: a larger budget only adds to a
    smaller one.

    Parameters
    ----------
    trees : sequence of PartitionTree
        Trees over the same players.
    base_values, full_values, guides, guide_weights
        As for :class:`OwenRefiner`.
    grow : sequence of callable
        Each makes a further tree over the players from the values so far, (n,), of the first
        guide. A tree that is there already is left out.
    head_start : int
        Evaluations before the second tree is begun.

    Raises
    ------
    PatchShapError
        If there is no tree, or their players differ in number.

    Examples
    --------
    >>> from xai_patchshap.players.trees import linkage_tree
    >>> trees = [linkage_tree([[0, 1], [2, 3]]), linkage_tree([[0, 2], [1, 3]])]
    >>> forest = OwenForest(trees, np.zeros(1), np.ones(1))
    >>> while len(coalitions := forest.ask(100)):
    ...     forest.tell(coalitions.any(axis=1)[:, None].astype(float))
    >>> forest.estimate().values[:, 0].tolist()
    [0.25, 0.375, 0.375]
    """

    def __init__(
        self,
        trees: Sequence[PartitionTree],
        base_values: Floats,
        full_values: Floats,
        guides: Sequence[int] | None = None,
        guide_weights: Sequence[float] | None = None,
        grow: Sequence[Callable[[Floats], PartitionTree]] = (),
        head_start: int = 100,
    ) -> None:
        if not trees or len({tree.n for tree in trees}) > 1:
            came = f"{len(trees)} trees over {sorted({tree.n for tree in trees})} players"
            raise bad("trees", came, "at least one, all over the same players")
        self.base_values, self.full_values = base_values, full_values
        self.guides, self.guide_weights = guides, guide_weights
        self.refiners: list[OwenRefiner] = []
        for tree in trees:
            self._plant(tree)
        self._active = self.refiners[0]
        self._given = len(trees)
        self._grow = list(grow)
        self.head_start = self._next_grown = head_start

    @property
    def n_coalitions(self) -> int:
        """Coalitions whose values are known, the empty and the full one included."""
        return 2 + sum(r.n_coalitions - 2 for r in self.refiners)

    @property
    def exact(self) -> bool:
        """Whether all trees are grown and exact."""
        return not self._grow and all(r.exact for r in self.refiners)

    def copy(self) -> OwenForest:
        """Another forest in the same state, over the same trees."""
        shared: list[Any] = [*(r.tree for r in self.refiners), *self._grow]
        return deepcopy(self, {id(part): part for part in shared})

    def ask(self, most: int) -> Bools:
        """The next coalitions (m, n), m at most ``most``; none once all trees are exact."""
        if self._active.round_is_over:
            if most < 2:  # no tree is grown in vain
                return np.zeros((0, self._active.tree.n), dtype=bool)
            self._active = self._next()
        return self._active.ask(most)

    def tell(self, values: Floats) -> None:
        """Take the values (m, K) of the coalitions asked for last."""
        self._active.tell(values)

    def estimate(self, n_outputs: int | None = None) -> Estimate:
        """Values and standard errors of the players, for all or the first few outputs.

        The standard error compares the trees, as if their differences were chance: it shows
        where the map hangs on the tree, not what no tree has opened yet, and with two trees
        it is rough. A single tree tells nothing about its error: it is infinite. Both are
        zero once the values are exact.
        """
        outputs = slice(n_outputs)
        used, weights = self._weights()
        each = [r.values(outputs) for r in used]
        mean = np.asarray(sum(w * v for w, v in zip(weights, each, strict=True)))
        if self.exact:
            error = np.zeros_like(mean)
        elif len(used) == 1:
            error = np.full_like(mean, np.inf)
        else:
            # The variance of a weighted mean of independent values of equal variance.
            unit = units_of(np.concatenate(each))
            spread = sum(w * ((v - mean) / unit) ** 2 for w, v in zip(weights, each, strict=True))
            error = unit * np.sqrt(spread * (weights @ weights) / (1 - weights @ weights))
        constant = self._constant(used)[outputs]
        mean[:, constant] = ((self.full_values - self.base_values) / len(mean))[outputs][constant]
        error[:, constant] = 0.0
        return Estimate(
            mean,
            error,
            self.base_values[outputs],
            self.full_values[outputs],
            self.n_coalitions,
            self.exact,
        )

    def _constant(self, refiners: Sequence[OwenRefiner]) -> Bools:
        """Outputs that were the same at every coalition so far."""
        lowest, highest = zip(*(r.extremes() for r in refiners), strict=True)
        return same_everywhere(np.min(lowest, axis=0), np.max(highest, axis=0), self.n_coalitions)

    def _plant(self, tree: PartitionTree) -> None:
        ends = (self.base_values, self.full_values)
        self.refiners.append(OwenRefiner(tree, *ends, self.guides, self.guide_weights))

    def _next(self) -> OwenRefiner:
        """The tree that the next round belongs to."""
        idle = all(r.exact for r in self.refiners)
        while self._grow and (idle or self.n_coalitions - 2 >= self._next_grown):
            used, weights = self._weights()
            guide = [0 if self.guides is None else self.guides[0]]
            so_far = sum(w * r.values(guide)[:, 0] for w, r in zip(weights, used, strict=True))
            tree = self._grow.pop(0)(np.asarray(so_far))
            if not any(np.array_equal(tree.children, r.tree.children) for r in self.refiners):
                self._plant(tree)
                self._next_grown *= _RATIO
                return self.refiners[-1]
        if len(self.refiners) > self._given and not self.refiners[-1].exact:
            return self.refiners[-1]
        first = self.refiners[0]
        if not first.exact and first.n_coalitions - 2 < self.head_start:
            return first
        left = [r for r in self.refiners if not r.exact]
        return min(left, key=lambda r: r.n_coalitions, default=self._active)

    def _weights(self) -> tuple[list[OwenRefiner], Floats]:
        """The trees that have begun, and their weights in the average."""
        used = [r for r in self.refiners if r.n_coalitions > 2] or self.refiners[:1]
        spent = np.array([1.0 if self.exact else r.n_coalitions - 2.0 for r in used])
        return used, spent / spent.sum() if spent.any() else np.ones(1)
