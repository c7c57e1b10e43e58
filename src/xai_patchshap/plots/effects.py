"""Main effects and pairs, as the pictures of interactions take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .._typing import Floats
from .._validation import list_of_names, maybe
from ..errors import bad

__all__ = ["main_and_pairs", "names_of"]


def main_and_pairs(matrix: ArrayLike) -> tuple[Floats, Floats]:
    """Main effects (P,) and whole interactions (P, P), these with zeros on the diagonal."""
    try:
        given = np.asarray(matrix, dtype=float)
    except (TypeError, ValueError) as error:
        raise bad(
            "matrix",
            f"an object of type {type(matrix).__name__}",
            "numbers (P, P)",
            "found.matrix()[:, :, k] of Interactions, explanation.values[i, :, :, k] otherwise.",
        ) from error
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not given.size:
        raise bad("matrix", f"shape {given.shape}", "(P, P), a row and a column for each player")
    if not np.isfinite(given).all():
        raise bad("matrix", "NaN or infinity", "finite numbers")
    apart = float(np.abs(given - given.T).max())
    if apart > 1e-5 * np.abs(given).max():  # sums in single precision differ by less
        came = f"entries that differ by up to {apart:g} from those across the diagonal"
        mend = "Give half of an interaction in both of its entries: (m + m.T) / 2."
        raise bad("matrix", came, "a symmetric matrix", mend)
    pairs = given + given.T
    np.fill_diagonal(pairs, 0.0)
    return given.diagonal().copy(), pairs


def names_of(names: Sequence[str] | None, n: int) -> list[str]:
    """Names of n players, none without."""
    names = maybe(list_of_names())("names", names)
    if names is not None and len(names) != n:
        raise bad("names", f"{len(names)} of them", f"{n}, one for each player")
    return [str(name) for name in names or ()]
