"""Binary partition trees whose every node is a slice of one order of the leaves.

A tree over n leaves has the n - 1 inner nodes of a scipy linkage: node ``n + k`` joins
``children[k]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._validation import checked, ids, whole
from ...errors import bad

__all__ = ["PartitionTree", "axis_tree", "linkage_tree"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PartitionTree:
    """A binary partition tree over the players 0..n-1.

    Attributes
    ----------
    children : ndarray of int64, shape (n - 1, 2)
        The two nodes that node ``n + k`` joins; both smaller than ``n + k``.
    order : ndarray of int64, shape (n,)
        The players, ordered so that every node holds a contiguous slice of them.
    start, stop : ndarray of int64, shape (2n - 1,)
        Node ``i`` holds the players ``order[start[i]:stop[i]]``.

    Examples
    --------
    >>> tree = linkage_tree([[0, 2, 1.0, 2], [1, 3, 2.0, 3]])
    >>> tree.members(3).tolist(), tree.members(tree.root).tolist()
    ([0, 2], [1, 0, 2])
    """

    children: Ints
    order: Ints
    start: Ints
    stop: Ints

    @classmethod
    def from_children(cls, children: Ints) -> PartitionTree:
        """Lay out the leaves of a tree given by its merges, in the order they happened."""
        children = np.ascontiguousarray(children, dtype=np.int64).reshape(-1, 2)
        from .compiled import layout  # numba takes a while to load

        return cls(children, *layout(children))

    def __repr__(self) -> str:
        return f"PartitionTree({self.n:,} players)"

    @property
    def n(self) -> int:
        """Number of leaves, the players."""
        return len(self.order)

    @property
    def root(self) -> int:
        """The node that holds all players."""
        return 2 * self.n - 2

    def members(self, node: int) -> Ints:
        """The players of a node."""
        return self.order[self.start[node] : self.stop[node]]

    @cached_property
    def linkage(self) -> NDArray[np.float64]:
        """The tree as a scipy linkage (n - 1, 4), heights rising to 1 with the order of merges.

        It is what shap's ``masker.clustering`` wants.
        """
        n = self.n
        size = (self.stop - self.start)[n:]
        height = np.arange(1, n) / max(n - 1, 1)
        return np.column_stack([self.children, height, size]).astype(np.float64)

    @cached_property
    def n_coalitions(self) -> float:
        """Number of coalitions that its exact Owen values take, infinite if beyond floats."""
        depth = np.zeros(2 * self.n - 1, dtype=np.int64)
        for k in range(self.n - 2, -1, -1):
            depth[self.children[k]] = depth[self.n + k] + 1
        with np.errstate(over="ignore"):
            return 2.0 + float(np.ldexp(2.0, depth[self.n :]).sum())

    @checked(depth=whole(0))
    def regions(self, depth: int) -> Ints:
        """Region of each player, (n,), when the tree is opened ``depth`` times everywhere.

        Regions are numbered from left to right; leaves that lie higher up stay whole.
        """
        nodes = [self.root]
        for _ in range(depth):
            nodes = [
                int(c)
                for node in nodes
                for c in (self.children[node - self.n] if node >= self.n else (node,))
            ]
        out = np.empty(self.n, dtype=np.int64)
        for label, node in enumerate(nodes):
            out[self.members(node)] = label
        return out


def linkage_tree(linkage: ArrayLike) -> PartitionTree:
    """A tree from a scipy linkage.

    Parameters
    ----------
    linkage : array_like of shape (n - 1, 4)
        As :func:`scipy.cluster.hierarchy.linkage` returns it; only its first two columns
        are used.

    Raises
    ------
    PatchShapError
        If it is not a tree: a node that is used twice, before it is made, or never.

    Examples
    --------
    >>> from scipy.cluster.hierarchy import linkage
    >>> linkage_tree(linkage([[0.0], [0.1], [5.0]])).regions(1).tolist()
    [1, 1, 0]
    """
    try:
        z = np.asarray(linkage, dtype=np.float64)
    except (TypeError, ValueError):
        raise bad("hierarchy", repr(linkage), "'bpt', 'axis' or a scipy linkage") from None
    if z.ndim != 2 or z.shape[1] not in (2, 4):
        raise bad("hierarchy", f"a linkage of shape {z.shape}", "shape (n - 1, 4)")
    children = z[:, :2]
    whole = np.isfinite(children).all() and (children == np.floor(children)).all()
    n = len(z) + 1
    if not whole or (children < 0).any() or (children.max(axis=1) >= n + np.arange(len(z))).any():
        raise bad("hierarchy", "a linkage that joins unknown nodes", "nodes made by earlier rows")
    nodes, count = np.unique(children, return_counts=True)
    if (count > 1).any():
        raise bad(
            "hierarchy", f"a linkage that joins node {int(nodes[count > 1][0])} twice", "once"
        )
    return PartitionTree.from_children(children.astype(np.int64))


def axis_tree(labels: ArrayLike, values: ArrayLike | None = None) -> PartitionTree:
    """Axis-aligned tree: every region is cut across its rows or columns.

    Parameters
    ----------
    labels : array_like of int, shape (H, W)
        Player of each pixel, 0..n-1. ``np.arange(H * W).reshape(H, W)`` plays by pixels.
        Players larger than a pixel go to the side where their centre lies.
    values : array_like of shape (H, W), optional
        A map, for example of attributions: every region is cut where the sum over one side
        is furthest from that side's share of the area. It is the split of a regression tree
        (the largest sum of squares between the sides) weighted by the product of their
        areas, so that it does not cut off slivers. Without a map, and where it is constant,
        a region is halved across the longer side of its bounding box.

    Returns
    -------
    PartitionTree
        With one leaf for each player.

    Raises
    ------
    PatchShapError
        If ``labels`` are not an image's players, or ``values`` do not fit them.

    Examples
    --------
    >>> axis_tree([[0, 1, 2], [3, 4, 5]]).regions(1).tolist()
    [0, 1, 1, 0, 1, 1]
    >>> axis_tree([[0, 1, 2], [3, 4, 5]], [[0, 0, 9], [0, 0, 9]]).regions(1).tolist()
    [0, 0, 1, 0, 0, 1]
    """
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise bad("labels", f"shape {labels.shape}", "an image's players, (H, W)")
    flat = ids(gaps=False)("labels", labels).ravel()
    count = np.bincount(flat)
    rows, cols = (np.bincount(flat, weights=p.ravel()) / count for p in np.indices(labels.shape))
    level: NDArray[np.float64] = np.zeros(len(count))
    if values is not None:
        shown = np.asarray(values, dtype=np.float64)
        if shown.shape != labels.shape or not np.isfinite(shown).all():
            raise bad("values", f"shape {shown.shape}", f"finite numbers, {labels.shape}")
        level = np.bincount(flat, weights=shown.ravel()).astype(np.float64)
    from .compiled import cut_boxes  # numba takes a while to load

    return PartitionTree.from_children(cut_boxes(rows, cols, level, count.astype(np.float64)))
