"""Fixtures and games that several test modules share."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("quick", max_examples=20, deadline=None)
settings.register_profile("full", max_examples=100, deadline=None)
settings.load_profile("quick")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items):
    """Of a test marked ``pairwise``, cases that add nothing to the quick tier become slow.

    The quick tier meets every pair of values of two parameters, or with ``pairwise(1)`` every
    value. Cases are taken one after the other, those first that add most.
    """
    tests = defaultdict(dict)
    for item in items:
        if marker := item.get_closest_marker("pairwise"):
            name = item.nodeid.partition("[")[0]
            tests[name][item] = _values_of(item.callspec.params, *marker.args)
    for cases in tests.values():
        wanted = set().union(*cases.values())
        while wanted:
            best = max(cases, key=lambda item: len(cases[item] & wanted))
            wanted -= cases.pop(best)
        for item in cases:
            item.add_marker(pytest.mark.slow)


def _values_of(params, strength=2):
    """The pairs of values that a case meets, or the values."""
    simple = str | int | float | bool | None
    named = [  # a product of parameters holds the same objects again
        (name, repr(value) if isinstance(value, simple) else id(value))
        for name, value in sorted(params.items(), key=lambda pair: pair[0])
    ]
    return set(itertools.combinations(named, min(strength, len(named))))


def orders_of(children, n):
    """The 2 ** (n - 1) orders (., n) of the leaves in which every node stays together."""
    nodes = {i: [[i]] for i in range(n)}
    for k, (a, b) in enumerate(np.asarray(children).tolist()):
        pairs = list(itertools.product(nodes.pop(int(a)), nodes.pop(int(b))))
        nodes[n + k] = [p + q for p, q in pairs] + [q + p for p, q in pairs]
    (orders,) = nodes.values()
    return np.array(orders)


@pytest.fixture(scope="session")
def cifar10_network():
    """The shipped explainer; tests leave it as it is."""
    from xai_patchshap.samples import cifar10_explainer

    return cifar10_explainer()


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
