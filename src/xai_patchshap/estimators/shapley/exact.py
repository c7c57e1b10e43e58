"""Exact Shapley values by evaluating every coalition."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from ..base import Estimate, check_values
from ..coalitions.all_coalitions import all_coalitions
from ..units import blocks_of_outputs

__all__ = ["ExactShapley", "exact_estimate"]

_CHUNK = 1 << 14


class ExactShapley:
    r"""Shapley values by full enumeration.

    .. math:: \phi_i = \sum_{S \not\ni i} \frac{|S|!\,(n-|S|-1)!}{n!}\,[v(S \cup i) - v(S)]

    (Shapley, 1953, "A value for n-person games", eq. 13).

    Parameters
    ----------
    n_players : int
        Number of players, 1 to 20.

    Examples
    --------
    >>> import numpy as np
    >>> estimator = ExactShapley(2)
    >>> estimator.coalitions.astype(int).tolist()
    [[0, 0], [1, 1], [1, 0], [0, 1]]
    >>> estimator.estimate(np.array([0.0, 5.0, 1.0, 2.0])).values.ravel().tolist()
    [2.0, 3.0]
    """

    def __init__(self, n_players: int) -> None:
        self.coalitions = all_coalitions(n_players)

    @property
    def min_coalitions(self) -> int:
        """Every coalition is needed."""
        return len(self.coalitions)

    def estimate(self, values: NDArray[np.float64], n_guides: int = 0) -> Estimate:
        """Exact Shapley values of all outputs, with zero errors.

        Parameters
        ----------
        values : ndarray of shape (2**n_players, n_outputs) or (2**n_players,)
            Value of each of :attr:`coalitions`.
        n_guides : int
            The last outputs, as many as this, only guide a Gaussian process: they are left aside.
        """
        v = check_values(values, len(self.coalitions), self.min_coalitions, n_guides)
        return exact_estimate(self.coalitions, v)


def exact_estimate(coalitions: NDArray[np.bool_], v: NDArray[np.float64]) -> Estimate:
    """Shapley values from all 2**n coalitions, the empty one first and the full one second."""
    n = coalitions.shape[1]
    weight = np.array([1.0 / (n * comb(n - 1, s)) for s in range(n)])
    found = np.empty((n, v.shape[1]))
    for block in blocks_of_outputs(v):
        phi = np.zeros((n, len(block.unit)))
        for start in range(0, len(v), _CHUNK):
            z = coalitions[start : start + _CHUNK]
            size = z.sum(axis=1)
            joined = weight[np.maximum(size - 1, 0)][:, None]
            left = weight[np.minimum(size, n - 1)][:, None]
            # Centring on v(empty) changes no value and keeps the rounding of large sums small.
            centred = block.values[start : start + _CHUNK] - block.values[0]
            phi += np.where(z, joined, -left).T @ centred
        found[:, block.outputs] = block.in_units_of_the_game(phi)
    return Estimate(found, np.zeros_like(found), v[0].copy(), v[1].copy(), len(v), exact=True)
