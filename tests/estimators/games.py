"""Games and trees that the tests of Owen values share."""

from __future__ import annotations

import numpy as np

from xai_patchshap.players.trees import PartitionTree


def random_tree(n, seed):
    """A tree grown by joining random nodes."""
    rng = np.random.default_rng(seed)
    alive, children = list(range(n)), []
    for k in range(n - 1):
        a, b = (alive.pop(rng.integers(len(alive))) for _ in range(2))
        children.append((a, b))
        alive.append(n + k)
    return PartitionTree.from_children(np.array(children))


def random_table(n, outputs, seed):
    return np.random.default_rng(seed).normal(size=(2**n, outputs))


def smooth(n, seed, outputs=3):
    """A game on many players with interactions, (m, n) coalitions to (m, outputs)."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(n, 8)) / np.sqrt(n), rng.normal(size=(8, outputs))
    return lambda z: np.tanh(3 * (z.astype(float) @ first)) @ second


def of_table(table):
    bits = 1 << np.arange(len(table).bit_length() - 1)
    return lambda z: table[z @ bits]


def spend(estimator, game, budget, most=10**9):
    """Refine until the budget is reached; returns all coalitions that were asked for."""
    asked = []
    while True:
        allowed = min(most, budget - estimator.n_coalitions)
        coalitions = estimator.ask(allowed)
        assert len(coalitions) <= allowed
        if not len(coalitions):
            return asked
        asked += [tuple(row) for row in coalitions]
        estimator.tell(game(coalitions))
