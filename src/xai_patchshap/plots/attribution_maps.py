"""Heat maps of players over a photograph."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt

from ..errors import bad
from .canvas import borders, new_figure, pale_gray, pixel_extent, transparent_diverging, unit_photo
from .compare_maps import compare_maps

# From this many players on, they are drawn as a map of pixels.
_MANY = 1000


def attribution_maps(
    photo: ArrayLike,
    labels: ArrayLike,
    values: ArrayLike,
    titles: Sequence[str],
    *,
    photo_title: str = "",
    label: str = "Shapley value",
    n_marked: int = 5,
) -> Figure:
    """A photograph beside heat maps of its players, all on one scale centred at zero.

    Parameters
    ----------
    photo : array_like of shape (H', W', 3) or (H', W')
        What was explained, in [0, 1] or uint8; may be finer than ``labels``.
    labels : array_like of int, shape (H, W)
        Player of each pixel, 0..n-1.
    values : array_like of shape (n, K) or (n,)
        Attribution of each player to each of K outputs.
    titles : sequence of str
        One title for each output.
    photo_title : str
        Title of the photograph.
    label : str
        What the colour bar shows.
    n_marked : int
        How many of the strongest players of each output to outline and number.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    PatchShapError
        If shapes do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> photo = np.random.default_rng(0).random((8, 8, 3))
    >>> labels = np.arange(64).reshape(8, 8) // 16
    >>> figure = attribution_maps(photo, labels, [[0.1], [0.0], [-0.2], [0.4]], ["cat"])
    >>> len(figure.axes)  # photograph, one map, colour bar
    3
    """
    shown, players, phi = unit_photo(photo), np.asarray(labels), np.asarray(values, dtype=float)
    phi = phi[:, None] if phi.ndim == 1 else phi
    if players.ndim != 2 or phi.ndim != 2 or players.max() >= len(phi) or players.min() < 0:
        raise bad(
            "values",
            f"shape {np.shape(values)} for labels {players.shape} with ids up to {players.max()}",
            "labels (H, W) and one row of values for each id",
        )
    if len(titles) != phi.shape[1]:
        raise bad("titles", f"{len(titles)} of them", f"{phi.shape[1]}, one for each output")
    height, width = players.shape
    extent = pixel_extent(height, width)
    limit = float(np.abs(phi).max()) or 1.0
    n_panels = 1 + phi.shape[1]
    side = 3.4
    figure = new_figure(side * n_panels * max(width / height, 0.6) + 0.9, side + 0.75)
    panels: list[Any] = list(figure.subplots(1, n_panels, squeeze=False)[0])
    panels[0].imshow(np.clip(shown, 0, 1), extent=extent, cmap="gray")
    panels[0].set_title(photo_title, fontsize=11)
    colors = ScalarMappable(Normalize(-limit, limit), transparent_diverging())
    for panel, column, title in zip(panels[1:], phi.T, titles, strict=True):
        panel.imshow(pale_gray(shown), extent=extent, cmap="gray", vmin=0, vmax=1)
        panel.imshow(colors.to_rgba(column[players]), extent=extent, interpolation="nearest")
        _mark(panel, players, column, n_marked)
        panel.set_title(title, fontsize=11)
    for panel in panels:
        panel.set_axis_off()
    bar = figure.colorbar(colors, ax=panels, shrink=0.86, pad=0.015, aspect=28, label=label)
    bar.outline.set_visible(False)
    return figure


def _mark(panel: Any, players: NDArray[Any], column: NDArray[np.float64], n_marked: int) -> None:
    """Outline and number the strongest players."""
    strongest = np.argsort(-np.abs(column), kind="stable")[:n_marked]
    for rank, player in enumerate(strongest, start=1):
        if column[player] == 0:
            break
        inside = players == player
        panel.add_collection(LineCollection(list(_border(inside)), colors="0.15", linewidths=1.1))
        x, y = _label_position(inside)
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


def _label_position(inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Where a number fits: near the corner of a rectangle, else deep inside the region."""
    rows, cols = np.nonzero(inside)
    height, width = np.ptp(rows) + 1, np.ptp(cols) + 1
    if inside.sum() == height * width:
        step = min(height, width, max(inside.shape) / 14) * 0.42
        return float(cols.min() + step), float(rows.min() + step)
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    row, col = np.unravel_index(np.argmax(depth), depth.shape)
    return float(col + 0.5), float(row + 0.5)


def _border(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Edges of the pixels of a region that face outside, as segments (m, 2, 2) of (x, y)."""
    return borders(np.pad(inside, 1)) - 1


def redraw(path: str | PathLike[str]) -> Figure:
    """Draw the picture of an ``.npz`` that ``xai-patchshap`` saved.

    Up to a thousand players are drawn by :func:`attribution_maps`, pixels by
    :func:`compare_maps`.

    Parameters
    ----------
    path : str or path
        File with the arrays ``photo``, ``labels``, ``values``, ``titles`` and
        ``photo_title``.
    """
    with np.load(path, allow_pickle=False) as saved:
        photo, labels, values = saved["photo"], saved["labels"], saved["values"]
        titles = [str(t) for t in saved["titles"]]
        photo_title, label = str(saved["photo_title"]), str(saved["label"])
    if len(values) < _MANY:
        return attribution_maps(photo, labels, values, titles, photo_title=photo_title, label=label)
    density = values / np.bincount(labels.ravel())[:, None]
    maps = {"": density[labels]}
    return compare_maps(photo, maps, titles, photo_title=photo_title, label=label)
