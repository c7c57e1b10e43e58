"""What the pictures share: a figure without a window, the photograph, colours, borders."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

from .._validation import ids
from ..errors import bad

__all__ = [
    "SIDE",
    "borders",
    "colour_bar",
    "fitting_photo",
    "label_position",
    "mark_strongest",
    "new_figure",
    "outline",
    "pale_gray",
    "panel_with_photo",
    "pixel_extent",
    "unit_photo",
]

SIDE = 4.4  # of a picture with one panel, in inches


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches; not of pyplot: nothing to close, no window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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


def mark_strongest(
    panel: Any, players: NDArray[Any], column: NDArray[np.float64], n_marked: int
) -> None:
    """Outline and number the strongest players."""
    strongest = np.argsort(-np.abs(column), kind="stable")[:n_marked]
    for rank, player in enumerate(strongest, start=1):
        if column[player] == 0:
            break
        inside = players == player
        panel.add_collection(LineCollection(list(outline(inside)), colors="0.15", linewidths=1.1))
        x, y = label_position(inside)
        panel.text(
            x,
            y,
            str(rank),
            fontsize=8,
            fontweight="bold",
            color="0.1",
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def label_position(inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Where a number fits: near the corner of a rectangle, else deep inside the region."""
    rows, cols = np.nonzero(inside)
    height, width = np.ptp(rows) + 1, np.ptp(cols) + 1
    if inside.sum() == height * width:
        step = min(height, width, max(inside.shape) / 14) * 0.42
        return float(cols.min() + step), float(rows.min() + step)
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    row, col = np.unravel_index(np.argmax(depth), depth.shape)
    return float(col + 0.5), float(row + 0.5)


def outline(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Edges of the pixels of a region that face outside, as segments (m, 2, 2) of (x, y)."""
    return borders(np.pad(inside, 1)) - 1


def panel_with_photo(
    photo: ArrayLike, labels: ArrayLike, n: int, title: str, network: bool = False
) -> tuple[Figure, Any, NDArray[np.int64], NDArray[Any]]:
    """A figure with the pale photograph, its panel, the labels and the photograph."""
    if np.ndim(labels) != 2:
        raise bad("labels", f"shape {np.shape(labels)}", "(H, W)")
    players = ids(gaps=False)("labels", labels)
    if players.max() != n - 1:
        raise bad("labels", f"ids 0..{players.max()}", f"0..{n - 1}, as the matrix has {n} rows")
    shown, (height, width) = fitting_photo(photo, players.shape, "labels"), players.shape
    room = (0.6 if network else 0.1) + 0.25 * bool(title)
    figure = new_figure(SIDE * max(width / height, 0.6) + 1.0, SIDE + room)
    panel: Any = figure.subplots()
    pale = pale_gray(shown)
    pale = 0.5 + 0.5 * pale if network else pale  # thin lines need more contrast than areas
    panel.imshow(pale, extent=pixel_extent(height, width), cmap="gray", vmin=0, vmax=1)
    between = LineCollection(list(borders(players)), linewidths=0.5)
    between.set(color="0.6" if network else "white", alpha=0.8)
    panel.add_collection(between, autolim=False)
    panel.set_title(title, fontsize=11)
    panel.set_axis_off()
    return figure, panel, players, shown


def colour_bar(figure: Figure, panels: Any, scale: ScalarMappable, text: str) -> None:
    """A slim bar beside one panel or several."""
    bar = figure.colorbar(scale, ax=panels, shrink=0.86, pad=0.015, aspect=28, label=text)
    bar.outline.set_visible(False)
