"""The interface of the estimators: coalitions out, values in, an estimate back.

An estimator knows no image, no model and no torch. A new one supplies ``coalitions`` to
evaluate and turns the values of any prefix of them into an :class:`Estimate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import bad

__all__ = ["Estimate", "Estimator", "check_values", "checked_prior"]


@dataclass(frozen=True)
class Estimate:
    """Attributions of one game, for all its outputs.

    Attributes
    ----------
    values : ndarray of float64, shape (n_players, n_outputs)
        One attribution per player and output, in the units of the game.
    error_std : ndarray of float64, shape (n_players, n_outputs)
        Standard error of each value, as far as the estimator can tell: 0 where the value is
        exact or the game was the same at every one of eight coalitions or more, infinite where
        nothing is known of the error.
    base_values, full_values : ndarray of float64, shape (n_outputs,)
        Value of the empty and of the full coalition.
    n_coalitions : int
        Number of coalitions whose values were used.
    exact : bool
        Whether every coalition that matters was evaluated.
    """

    values: NDArray[np.float64]
    error_std: NDArray[np.float64]
    base_values: NDArray[np.float64]
    full_values: NDArray[np.float64]
    n_coalitions: int
    exact: bool


class Estimator(Protocol):
    """What the explainers ask of an estimator.

    ``coalitions`` has shape (m, n_players); its first row is the empty coalition and its
    second the full one. ``min_coalitions`` rows are the least that give an estimate.
    """

    @property
    def coalitions(self) -> NDArray[np.bool_]: ...

    @property
    def min_coalitions(self) -> int: ...

    def estimate(self, values: NDArray[np.float64]) -> Estimate:
        """Estimate from the values (m', n_outputs) of the first m' coalitions."""
        ...


def check_values(values: NDArray[np.float64], most: int, least: int) -> NDArray[np.float64]:
    """Return ``values`` as a float64 matrix, or raise if it does not fit the coalitions."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or not least <= len(array) <= most:
        raise bad(
            "values",
            f"shape {np.shape(values)}",
            f"(m, n_outputs) with {least} <= m <= {most}, one row per coalition",
        )
    # Without a table of bools: values can fill most of the memory.
    if not (np.isfinite(array.min(initial=0.0)) and np.isfinite(array.max(initial=0.0))):
        raise bad("values", "NaN or infinite numbers", "finite numbers")
    return array


def checked_prior(prior: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a copy of ``prior`` as a float64 matrix, or raise if it does not fit."""
    array = np.array(prior, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.shape != shape or not np.isfinite(array).all():
        raise bad("prior", f"shape {np.shape(prior)}", f"finite numbers of shape {shape}")
    return array
