"""Where a colour scale ends, and its colours: the one place that chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, Normalize
from numpy.typing import NDArray

__all__ = ["SATURATED", "centred_scale", "diverging", "opaque_diverging", "scale_end"]

# Percentile at which the scale of a map of pixels ends: single ones are far above all others.
SATURATED = 99.5


def scale_end(values: NDArray[Any], percentile: float = 100.0) -> float:
    """Where a scale that is symmetric about zero ends: a percentile of the absolute values.

    Examples
    --------
    >>> scale_end(np.array([-3.0, 1.0])), scale_end(np.zeros(4))
    (3.0, 1.0)
    """
    size = np.abs(np.asarray(values)).ravel()
    if not size.size:
        return 1.0
    # Where so few count that the percentile is zero, the largest is the end.
    limit = np.percentile(size, percentile) if percentile < 100 else 0.0
    return float(limit or size.max()) or 1.0


def centred_scale(values: NDArray[Any], percentile: float = 100.0) -> Normalize:
    """A scale for some values, centred at zero."""
    end = scale_end(values, percentile)
    return Normalize(-end, end)


def diverging() -> ListedColormap:
    """Blue, nothing, red: the photograph shows through where the value is near zero."""
    colors = colormaps["RdBu_r"](np.linspace(0, 1, 255))
    colors[:, 3] = np.abs(np.linspace(-1, 1, 255)) ** 0.6 * 0.9
    return ListedColormap(colors, name="transparent_diverging")


def opaque_diverging() -> ListedColormap:
    """The transparent colours as they look on white paper."""
    colors = diverging()(np.arange(255))
    return ListedColormap(1 - (1 - colors[:, :3]) * colors[:, 3:], name="diverging_on_white")
