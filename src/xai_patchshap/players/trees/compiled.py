"""Slices of a tree's nodes, and the tree of cuts along the axes, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["cut_boxes", "layout"]


@njit(cache=True, error_model="numpy")
def layout(children):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Leaf order and slices of all nodes."""
    n = len(children) + 1
    size = np.ones(2 * n - 1, dtype=np.int64)
    for k in range(n - 1):
        size[n + k] = size[children[k, 0]] + size[children[k, 1]]
    start = np.zeros(2 * n - 1, dtype=np.int64)
    for k in range(n - 2, -1, -1):
        start[children[k, 0]] = start[n + k]
        start[children[k, 1]] = start[n + k] + size[children[k, 0]]
    order = np.empty(n, dtype=np.int64)
    for leaf in range(n):
        order[start[leaf]] = leaf
    return order, start, start + size


@njit(cache=True, error_model="numpy")
def _best_cut(lines, level, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    """How far one side's sum is from its share at the best cut, and the cut's place."""
    first = np.floor(lines.min())
    total, area = np.zeros((2, int(lines.max() - first) + 1))
    for k in range(len(lines)):
        line = int(lines[k] - first)
        total[line] += level[k]
        area[line] += size[k]
    whole, every = total.sum(), area.sum()
    best, place, one, part = 0.0, 0.0, 0.0, 0.0
    for line in range(len(total) - 1):
        one += total[line]
        part += area[line]
        gain = abs(one - part * whole / every)
        if gain > best * (1 + 1e-9):  # of equals, the first
            best, place = gain, first + line + 1
    return best, place


@njit(cache=True, error_model="numpy")
def cut_boxes(rows, cols, level, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Merges of the tree that cuts bounding boxes, found from the top down.

    ``level`` and ``size`` are sums over the pixels of each player.
    """
    n = len(rows)
    order = np.arange(n)
    # Nodes are numbered from the root in the order of their discovery, 0, 1, 2, ...
    begin = np.zeros(2 * n - 1, dtype=np.int64)
    end = np.zeros(2 * n - 1, dtype=np.int64)
    child = np.full((2 * n - 1, 2), -1, dtype=np.int64)
    end[0] = n
    found = 1
    for node in range(2 * n - 1):
        b, e = begin[node], end[node]
        if e - b == 1:
            continue
        part = order[b:e]
        r, c = rows[part], cols[part]
        height, width = r.max() - r.min(), c.max() - c.min()
        key = c if width > height else r
        cut = (key.min() + key.max()) / 2
        mean = level[part] / size[part]
        if mean.min() < mean.max():
            across, row = _best_cut(r, level[part], size[part])
            along, col = _best_cut(c, level[part], size[part])
            if max(across, along) > 0:
                key, cut = (c, col) if along > across else (r, row)
        left = part[key < cut]
        right = part[key >= cut]
        if len(left) == 0:  # all centres coincide
            left, right = part[: len(part) // 2], part[len(part) // 2 :]
        order[b : b + len(left)] = left
        order[b + len(left) : e] = right
        for side in range(2):
            child[node, side] = found
            begin[found] = b if side == 0 else b + len(left)
            end[found] = b + len(left) if side == 0 else e
            found += 1
    # Number leaves by player and inner nodes from the bottom up.
    name = np.empty(2 * n - 1, dtype=np.int64)
    children = np.empty((n - 1, 2), dtype=np.int64)
    k = 0
    for node in range(2 * n - 2, -1, -1):
        if child[node, 0] < 0:
            name[node] = order[begin[node]]
        else:
            children[k, 0] = name[child[node, 0]]
            children[k, 1] = name[child[node, 1]]
            name[node] = n + k
            k += 1
    return children
