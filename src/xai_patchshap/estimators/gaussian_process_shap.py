"""Shapley values from the posterior of a Gaussian process over coalitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .base import Estimate
from .interactions import GaussianProcessInteractions

__all__ = ["GaussianProcessShap"]

Floats = NDArray[np.float64]


class GaussianProcessShap:
    """Shapley values from any number of pairs of coalitions; exact once all are drawn.

    The values of order 1 of :class:`GaussianProcessInteractions`, in whose model some players
    may interact: fewer evaluations do where they do. Standard errors are posterior
    deviations. An additive game is recovered to rounding once there are as many pairs as players;
    each output costs a fraction of a second.

    Parameters
    ----------
    n_players, budget, seed, sampling
        As in :class:`GaussianProcessInteractions`.

    Attributes
    ----------
    coalitions : ndarray of bool, shape (m, n_players)
        As in :class:`GaussianProcessInteractions`.

    Examples
    --------
    >>> import numpy as np
    >>> estimator = GaussianProcessShap(16, budget=200)
    >>> z = estimator.coalitions.astype(float)
    >>> values = estimator.estimate(z @ np.arange(16) + 20 * z[:, 0] * z[:, 1]).values[:, 0]
    >>> bool(np.abs(values - np.arange(16) - 10 * (np.arange(16) < 2)).max() < 0.5)
    True
    """

    min_coalitions = 2

    def __init__(
        self, n_players: int, budget: int, seed: int | None = 0, sampling: str = "a-optimal"
    ) -> None:
        self._of_order_1 = GaussianProcessInteractions(n_players, budget, "SV", 1, seed, sampling)

    @property
    def coalitions(self) -> NDArray[np.bool_]:
        """Empty, full, then each sampled coalition followed by its complement."""
        return self._of_order_1.coalitions

    def estimate(self, values: Floats) -> Estimate:
        """Estimate from the values (m, n_outputs) of the first coalitions."""
        found = self._of_order_1.estimate(values)
        return Estimate(
            found.values[0],
            found.error_std[0],
            found.base_values,
            found.full_values,
            found.n_coalitions,
            found.exact,
        )
