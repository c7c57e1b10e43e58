"""What the pictures share: a figure without a window, the photograph, colours, borders."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from ..errors import bad


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches; not of pyplot: nothing to close, no window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def transparent_diverging() -> ListedColormap:
    """Blue, nothing, red: the photograph shows through where the value is near zero."""
    colors = colormaps["RdBu_r"](np.linspace(0, 1, 255))
    colors[:, 3] = np.abs(np.linspace(-1, 1, 255)) ** 0.6 * 0.9
    return ListedColormap(colors, name="transparent_diverging")


def unit_photo(photo: ArrayLike) -> NDArray[Any]:
    """The photograph as imshow takes it: (H, W) or (H, W, 3), bytes brought to [0, 1]."""
    shown = np.asarray(photo)
    shown = shown[..., 0] if shown.ndim == 3 and shown.shape[2] == 1 else shown
    return shown / 255 if shown.dtype == np.uint8 else shown


def pale_gray(shown: NDArray[Any]) -> NDArray[np.float64]:
    """A pale photograph keeps the place readable without competing with the colours."""
    gray = shown if shown.ndim == 2 else shown[..., :3] @ (0.299, 0.587, 0.114)
    return np.asarray(0.45 + 0.55 * gray)


def pixel_extent(height: int, width: int) -> tuple[float, float, float, float]:
    """Axes on which pixel (r, c) is the square from (c, r) to (c + 1, r + 1)."""
    return (0.0, float(width), float(height), 0.0)


def fitting_photo(photo: ArrayLike, shape: tuple[int, ...], other: str) -> NDArray[Any]:
    """The photograph, where it has the proportions of the pixels (H, W) drawn over it."""
    shown = unit_photo(photo)
    if not (shown.ndim == 2 or (shown.ndim == 3 and shown.shape[2] in (3, 4))) or not shown.size:
        raise bad("photo", f"shape {shown.shape}", "(H, W) or (H, W, 3)", "Put the channels last.")
    ratio = (shown.shape[0] * shape[1]) / (shown.shape[1] * shape[0])
    if abs(ratio - 1) > 0.02:
        raise bad(
            "photo",
            f"{shown.shape[0]} by {shown.shape[1]} pixels for {other} of {shape[0]} by {shape[1]}",
            "the same proportions",
            "Give the photograph as the model saw it, resized and cropped.",
        )
    return shown


def borders(regions: NDArray[Any]) -> NDArray[np.float64]:
    """Edges between pixels of different regions, as segments (m, 2, 2) of (x, y)."""
    r, c = np.nonzero(regions[1:] != regions[:-1])  # between rows r and r + 1
    flat = np.stack([np.stack([c, r + 1], 1), np.stack([c + 1, r + 1], 1)], 1)
    r, c = np.nonzero(regions[:, 1:] != regions[:, :-1])
    upright = np.stack([np.stack([c + 1, r], 1), np.stack([c + 1, r + 1], 1)], 1)
    return np.concatenate([flat, upright]).astype(float)
