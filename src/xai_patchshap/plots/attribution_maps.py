"""Heat maps of players over a photograph."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ..errors import bad
from .canvas import colour_bar, mark_strongest, new_figure, pale_gray, pixel_extent, unit_photo
from .compare_maps import compare_maps
from .scale import centred_scale, diverging

__all__ = ["attribution_maps", "redraw"]

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
    n_panels = 1 + phi.shape[1]
    side = 3.4
    figure = new_figure(side * n_panels * max(width / height, 0.6) + 0.9, side + 0.75)
    panels: list[Any] = list(figure.subplots(1, n_panels, squeeze=False)[0])
    panels[0].imshow(np.clip(shown, 0, 1), extent=extent, cmap="gray")
    panels[0].set_title(photo_title, fontsize=11)
    colors = ScalarMappable(centred_scale(phi), diverging())
    for panel, column, title in zip(panels[1:], phi.T, titles, strict=True):
        panel.imshow(pale_gray(shown), extent=extent, cmap="gray", vmin=0, vmax=1)
        panel.imshow(colors.to_rgba(column[players]), extent=extent, interpolation="nearest")
        mark_strongest(panel, players, column, n_marked)
        panel.set_title(title, fontsize=11)
    for panel in panels:
        panel.set_axis_off()
    colour_bar(figure, panels, colors, label)
    return figure


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
