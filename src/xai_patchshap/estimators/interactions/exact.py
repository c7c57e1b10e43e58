"""Exact interactions from the values of all coalitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..._typing import Floats
from ..base import check_values
from ..coalitions.all_coalitions import all_coalitions
from ..indices import check_index, coalition_weights
from ..units import units_of
from .interactions import Interactions, subsets

__all__ = ["ExactInteractions", "exact_interactions"]

# Entries of the matrix of weights that is held at once.
_CHUNK_ENTRIES = 2**23


class ExactInteractions:
    """Interactions by full enumeration, for up to 20 players and any order.

    Parameters
    ----------
    n_players : int
    index : {"SV", "BV", "SII", "BII", "k-SII", "STII", "FSII", "FBII"}
        See :mod:`xai_patchshap.estimators.indices` for the definitions.
    order : int
        Highest order, at most ``n_players``.

    Attributes
    ----------
    coalitions : ndarray of bool, shape (2**n_players, n_players)
        All of them, the empty one first and the full one second.

    Raises
    ------
    PatchShapError
        If the index or the order does not exist, or there are more than 20 players.

    Examples
    --------
    >>> import numpy as np
    >>> estimator = ExactInteractions(4, "STII", order=2)
    >>> product = estimator.coalitions[:, 1] * estimator.coalitions[:, 2]
    >>> estimator.estimate(product.astype(float))[1, 2]
    array([1.])
    """

    def __init__(self, n_players: int, index: str = "SII", order: int = 2) -> None:
        check_index(index, order, n_players)
        self.coalitions = all_coalitions(n_players)
        self.index, self.order = index, order

    @property
    def min_coalitions(self) -> int:
        """Every coalition is needed."""
        return len(self.coalitions)

    def estimate(self, values: Floats, n_guides: int = 0) -> Interactions:
        """Exact interactions of all outputs, with zero errors.

        Parameters
        ----------
        values : ndarray of shape (2**n_players, n_outputs) or (2**n_players,)
            Value of each of :attr:`coalitions`.
        n_guides : int
            The last outputs, as many as this, only guide a Gaussian process: they are left aside.
        """
        v = check_values(values, len(self.coalitions), self.min_coalitions, n_guides)
        return exact_interactions(self.coalitions, v, self.index, self.order)


def exact_interactions(
    coalitions: NDArray[np.bool_], v: Floats, index: str, order: int
) -> Interactions:
    """Interactions from all coalitions, the empty one first and the full one second."""
    n = coalitions.shape[1]
    sizes = coalitions.sum(axis=1)
    unit = units_of(v)
    found = []
    for s in range(1, order + 1):
        weights = coalition_weights(index, order, s, n)
        members = np.zeros((n, len(subsets(n, s))), dtype=np.float32)
        np.put_along_axis(members, subsets(n, s).T, 1.0, axis=0)
        total = np.zeros((members.shape[1], v.shape[1]))
        chunk = max(1, _CHUNK_ENTRIES // members.shape[1])
        for start in range(0, len(v), chunk):
            rows = slice(start, start + chunk)
            inside = (coalitions[rows].astype(np.float32) @ members).astype(np.intp)
            of_players = weights[inside, sizes[rows, None]].T
            # Centring on v(empty) changes no value and keeps the rounding of large sums small.
            total += of_players @ ((v[rows] - v[0]) / unit)
        found.append(total * unit)
    return Interactions(
        index,
        n,
        tuple(found),
        tuple(np.zeros_like(t) for t in found),
        v[0].copy(),
        v[1].copy(),
        len(v),
        exact=True,
    )
