"""The interface of the estimators: coalitions out, values in, an estimate back.

An estimator knows no image, no model and no torch. A new one supplies ``coalitions`` to
evaluate and turns the values of any prefix of them into an :class:`Estimate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import bad

__all__ = [
    "Block",
    "Estimate",
    "Estimator",
    "blocks_of_outputs",
    "check_values",
    "checked_prior",
    "constant_outputs",
    "same_everywhere",
    "units_of",
]

Floats = NDArray[np.float64]

_BLOCK_ENTRIES = 2**20  # of the values that are worked on at once
_FEWEST = 8  # coalitions of a constant game: what fewer have in common says little
_ROUNDING = 2 * np.finfo(float).eps  # that a constant game may show, relative


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


@dataclass(frozen=True)
class Block:
    """Values of some outputs, each in a unit of its own, so that squares stay in range.

    Attributes
    ----------
    outputs : ndarray of int, shape (k,)
        Which outputs.
    values : ndarray (m, k)
        Over their units.
    unit : ndarray (k,)
        Powers of two: dividing by them and multiplying again costs no accuracy.
    constant : ndarray of bool, shape (k,)
        Outputs whose values are all the same up to rounding: their errors are zero.
    """

    outputs: NDArray[np.intp]
    values: Floats
    unit: Floats
    constant: NDArray[np.bool_]

    def in_units_of_the_game(self, values: Floats) -> Floats:
        """Results (f, k) for these values as results for the game's own."""
        with np.errstate(over="ignore"):
            found: Floats = values * self.unit
        if np.isinf(found).any() and not np.isinf(values).any():
            largest = np.abs(self.unit).max()
            came = f"differences between values of about {largest:.0e}, beyond the range of float64"
            raise bad("values", came, "smaller ones", "Divide the model's outputs by a constant.")
        return found


def blocks_of_outputs(values: Floats, outputs: NDArray[np.intp] | None = None) -> Iterator[Block]:
    """The values (m, K) of a game block by block: no second table is in memory.

    Of all outputs, or of some.
    """
    chosen = np.arange(values.shape[1]) if outputs is None else outputs
    width = max(1, _BLOCK_ENTRIES // max(1, len(values)))
    for start in range(0, len(chosen), width):
        some = chosen[start : start + width]
        part = values[:, some]
        unit = units_of(part)
        part /= unit
        yield Block(some, part, unit, constant_outputs(part))


def constant_outputs(values: Floats) -> NDArray[np.bool_]:
    """Which outputs (K,) of (m, K) are the same everywhere, up to rounding."""
    return same_everywhere(values.min(axis=0), values.max(axis=0), len(values))


def same_everywhere(lowest: Floats, highest: Floats, n_coalitions: int) -> NDArray[np.bool_]:
    """Whether outputs of these extremes are constant, as far as so many coalitions tell."""
    most = _ROUNDING * np.maximum(np.abs(lowest), np.abs(highest))
    return np.asarray((highest / 2 - lowest / 2 <= most / 2) & (n_coalitions >= _FEWEST))


def units_of(values: Floats) -> Floats:
    """For each output of (m, K), the largest power of two up to its largest magnitude."""
    largest = np.maximum(values.max(axis=0, initial=0.0), -values.min(axis=0, initial=0.0))
    return np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1] - 1), 1.0)


def checked_prior(prior: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a copy of ``prior`` as a float64 matrix, or raise if it does not fit."""
    array = np.array(prior, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.shape != shape or not np.isfinite(array).all():
        raise bad("prior", f"shape {np.shape(prior)}", f"finite numbers of shape {shape}")
    return array
