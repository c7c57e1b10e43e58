"""Values of any magnitude, block by block of outputs, each in a unit of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._typing import Floats
from ..errors import bad

__all__ = [
    "Block",
    "blocks_of_outputs",
    "constant_outputs",
    "root_mean_square",
    "same_everywhere",
    "units_of",
]

_BLOCK_ENTRIES = 2**20  # of the values that are worked on at once
_FEWEST = 8  # coalitions of a constant game: what fewer have in common says little
_ROUNDING = 2 * np.finfo(float).eps  # that a constant game may show, relative


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


def root_mean_square(y: Floats) -> Floats:
    """Of every column, without overflow or underflow of the squares."""
    largest = np.abs(y).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    root: Floats = unit * np.sqrt(np.mean(np.square(y / unit), axis=0))
    return root
