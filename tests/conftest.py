"""Fixtures and games that several test modules share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest


def orders_of(children, n):
    """The 2 ** (n - 1) orders (., n) of the leaves in which every node stays together."""
    nodes = {i: [[i]] for i in range(n)}
    for k, (a, b) in enumerate(np.asarray(children).tolist()):
        pairs = list(itertools.product(nodes.pop(int(a)), nodes.pop(int(b))))
        nodes[n + k] = [p + q for p, q in pairs] + [q + p for p, q in pairs]
    (orders,) = nodes.values()
    return np.array(orders)


@pytest.fixture(scope="session")
def brute_owen():
    """Owen values (n, K) from a tree's merges and the values (2 ** n, K) of all coalitions.

    Bit i of a row's number says whether player i is in the coalition.
    """

    def owen(children, table):
        n = len(table).bit_length() - 1
        orders = orders_of(children, n)
        after = np.cumsum(1 << orders, axis=1)
        gain = table[after] - table[after - (1 << orders)]
        total = np.zeros((n, table.shape[1]))
        np.add.at(total, orders, gain)
        return total / len(orders)

    return owen
