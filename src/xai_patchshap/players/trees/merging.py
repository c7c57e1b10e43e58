"""Greedy merging of a region adjacency graph, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["merge"]


@njit(cache=True, error_model="numpy")
def _find(parent, i):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The living region that region i has become part of."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, error_model="numpy")
def _cost(region, a, b, border):  # type: ignore[no-untyped-def]  # pragma: no cover
    n_channels = (region.shape[1] - 2) // 2
    colour = np.float32(0.0)
    for c in range(n_channels):
        high = max(region[a, 2 + n_channels + c], region[b, 2 + n_channels + c])
        low = min(region[a, 2 + c], region[b, 2 + c])
        d = high - low + np.float32(1.0)
        colour += d * d
    outline = region[a, 1] + region[b, 1] - 2.0 * border
    return colour * (region[a, 0] + region[b, 0]) * np.sqrt(outline)


@njit(cache=True, error_model="numpy")
def _sift_down(keys, heap, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Restore a 4-ary heap of regions below its top."""
    key, region = keys[0], heap[0]
    i = 0
    while True:
        first = 4 * i + 1
        if first >= size:
            break
        j = first
        for k in range(first + 1, min(first + 4, size)):
            if keys[k] < keys[j] or (keys[k] == keys[j] and heap[k] < heap[j]):
                j = k
        if key < keys[j] or (key == keys[j] and region < heap[j]):
            break
        keys[i], heap[i] = keys[j], heap[j]
        i = j
    keys[i], heap[i] = key, region


@njit(cache=True, error_model="numpy")
def merge(first, second, border, region0):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Greedy merging of a region adjacency graph; returns the merges.

    An edge belongs to its younger end, which keeps only its cheapest one in the heap. The
    edges that a region owns can only die, with their older end: a key in the heap is a
    lower bound, mended when it comes to the top. Nothing else in the heap ever changes.
    """
    n = len(region0)
    n_channels = (region0.shape[1] - 2) // 2
    n_nodes = 2 * n - 1
    n_edges = len(first)
    # One row per region: area (0 once it is merged), perimeter, lows, highs.
    region = np.empty((n_nodes, region0.shape[1]), dtype=np.float32)
    region[:n] = region0
    parent = np.arange(n_nodes).astype(np.int32)
    # Neighbours of region i are rows begin[i]..end[i] of the pool, with border lengths;
    # they may name regions that have been merged since.
    begin = np.zeros(n_nodes, dtype=np.int32)
    end = np.zeros(n_nodes, dtype=np.int32)
    pool = np.empty((5 * n_edges // 2 + 8, 2), dtype=np.int32)
    for e in range(n_edges):
        end[first[e]] += 1
        end[second[e]] += 1
    for i in range(1, n):
        begin[i] = begin[i - 1] + end[i - 1]
    end[:n] = begin[:n]
    for e in range(n_edges):
        a, b = first[e], second[e]
        pool[end[a], 0], pool[end[a], 1] = b, border[e]
        pool[end[b], 0], pool[end[b], 1] = a, border[e]
        end[a] += 1
        end[b] += 1
    used = 2 * n_edges
    slot = np.empty(n_nodes, dtype=np.int32)  # valid where made_for names the new region
    made_for = np.full(n_nodes, -1, dtype=np.int32)
    best = np.empty(n_nodes, dtype=np.int32)
    keys = np.empty(n, dtype=np.float64)
    heap = np.empty(n, dtype=np.int32)
    size = 0
    for i in range(n):
        best[i], keys[size] = _cheapest(i, region, pool, begin[i], end[i])
        heap[size] = i
        size += best[i] >= 0
    order = np.argsort(keys[:size], kind="mergesort")  # sorted is a heap
    keys[:size], heap[:size] = keys[order], heap[order]
    children = np.empty((n - 1, 2), dtype=np.int64)
    made = 0
    while size:
        a = heap[0]
        b = best[a]
        if region[a, 0] > 0 and region[b, 0] > 0:
            new = n + made
            children[made, 0], children[made, 1] = b, a
            made += 1
            if used + end[a] - begin[a] + end[b] - begin[b] > len(pool):
                used = _compact(new, region, begin, end, pool)
                wanted = used + end[a] - begin[a] + end[b] - begin[b]
                if wanted > len(pool):  # never on the pixels of a photograph
                    larger = np.empty((2 * wanted, 2), dtype=np.int32)
                    larger[:used] = pool[:used]
                    pool = larger
            common = 0
            begin[new] = used
            for side in range(2):
                one, other = (a, b) if side == 0 else (b, a)
                for at in range(begin[one], end[one]):
                    r = _find(parent, pool[at, 0])
                    if r == other:
                        if side == 0:
                            common += pool[at, 1]
                    elif made_for[r] == new:
                        pool[slot[r], 1] += pool[at, 1]
                    else:
                        slot[r], made_for[r] = used, new
                        pool[used, 0], pool[used, 1] = r, pool[at, 1]
                        used += 1
            end[new] = used
            region[new, 0] = region[a, 0] + region[b, 0]
            region[new, 1] = region[a, 1] + region[b, 1] - 2 * common
            for c in range(2, 2 + n_channels):
                region[new, c] = min(region[a, c], region[b, c])
                region[new, c + n_channels] = max(
                    region[a, c + n_channels], region[b, c + n_channels]
                )
            parent[a] = parent[b] = new
            region[a, 0] = region[b, 0] = 0
            a = new
        if region[a, 0] > 0:
            best[a], keys[0] = _cheapest(a, region, pool, begin[a], end[a])
            heap[0] = a
        if region[a, 0] == 0 or best[a] < 0:
            size -= 1
            heap[0], keys[0] = heap[size], keys[size]
        if size:
            _sift_down(keys, heap, size)
    return children[:made]


@njit(cache=True, error_model="numpy")
def _cheapest(i, region, pool, begin, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Partner and cost of region i: its cheapest edge to an older region still alive."""
    best, least = -1, np.inf
    for at in range(begin, end):
        b = pool[at, 0]
        if b < i and region[b, 0] > 0:
            cost = _cost(region, i, b, pool[at, 1])
            if cost < least or (cost == least and b < best):
                best, least = b, cost
    return best, least


@njit(cache=True, error_model="numpy")
def _compact(new, region, begin, end, pool):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Move the lists of the living regions to the front of the pool."""
    # Lists are made in the order of the regions, so that none overtakes another.
    used = 0
    for i in range(new):
        if region[i, 0] > 0:
            start = used
            for at in range(begin[i], end[i]):
                pool[used] = pool[at]
                used += 1
            begin[i], end[i] = start, used
    return used
