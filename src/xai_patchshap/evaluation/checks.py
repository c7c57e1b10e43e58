"""What the metrics ask of games and attributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._typing import Bools, Floats
from ..errors import bad

__all__ = ["GameLike", "finite_array"]

# From coalitions, bool (m, n), to values (m,) or (m, 1).
GameLike = Callable[[Bools], Any]


def finite_array(what: str, given: ArrayLike) -> Floats:
    """An array of finite numbers, or an error."""
    array = np.asarray(given, dtype=np.float64)
    if not np.isfinite(array).all():
        raise bad(what, "NaN or infinite numbers", "finite numbers")
    return array
