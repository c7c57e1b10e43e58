"""Outlines of regions over a photograph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from ..errors import bad
from .canvas import borders, fitting_photo, new_figure, pixel_extent

__all__ = ["region_outlines"]


def region_outlines(
    photo: ArrayLike,
    regions: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike],
    *,
    title: str = "",
    color: str = "black",
    halo: str = "white",
) -> Figure:
    """A photograph with the outlines of regions, one panel for each map of regions.

    Parameters
    ----------
    photo : array_like of shape (H', W', 3) or (H', W')
        In [0, 1] or uint8; may be finer than the maps of regions.
    regions : array_like of int, shape (H, W), or several in a sequence or a mapping
        Region of each pixel, for example ``tree.regions(depth).reshape(H, W)``. Several maps
        are drawn side by side, under the names of the mapping, or under their numbers of
        regions.
    title : str
        Title of the picture.
    color, halo : str
        Matplotlib colours of the line and of the wider one below it: one of them stands out
        wherever the photograph is dark or bright.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    PatchShapError
        If shapes do not fit together, or regions are not whole numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from xai_patchshap.players.trees import bpt_tree
    >>> photo = np.random.default_rng(0).random((8, 8, 3))
    >>> tree = bpt_tree(photo)
    >>> depths = {f"depth {d}": tree.regions(d).reshape(8, 8) for d in (1, 3)}
    >>> [panel.get_title() for panel in region_outlines(photo, depths).axes]
    ['depth 1', 'depth 3']
    """
    several, names = _named_regions(regions)
    for one in several:
        if one.ndim != 2 or not one.size or one.dtype.kind not in "iub":
            raise bad(
                "regions",
                f"shape {one.shape} of {one.dtype}",
                "(H, W) of whole numbers, or several such maps",
                "Reshape tree.regions(depth) to (H, W).",
            )
        shown = fitting_photo(photo, one.shape, "regions")
    side, (height, width) = 3.4, several[0].shape
    panel_width = side * max(width / height, 0.6)
    titled = bool(title) + bool(any(names))
    figure = new_figure(panel_width * len(several) + 0.15, side + 0.1 + 0.24 * titled)
    panels: list[Any] = list(figure.subplots(1, len(several), squeeze=False)[0])
    for panel, one, name in zip(panels, several, names, strict=True):
        extent = pixel_extent(*one.shape)
        panel.imshow(np.clip(shown, 0, 1), extent=extent, cmap="gray", vmin=0, vmax=1)
        segments = list(borders(one))
        # The closer the lines, the finer, so that the photograph stays to be seen.
        apart = 72 * side * one.shape[1] / max(len(segments), 1)
        thick = float(np.clip(0.16 * apart, 1.0, 1.7))
        for shade, linewidth in ((halo, thick), (color, 0.45 * thick)):
            panel.add_collection(
                LineCollection(segments, colors=shade, linewidths=linewidth, capstyle="projecting"),
                autolim=False,
            )
        panel.set_title(name, fontsize=11)
        panel.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def _named_regions(
    regions: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike],
) -> tuple[list[NDArray[Any]], list[str]]:
    """The maps of regions and the titles of their panels."""
    if isinstance(regions, Mapping):
        several, names = [np.asarray(r) for r in regions.values()], [str(n) for n in regions]
    elif _is_several(regions):
        several = [np.asarray(r) for r in cast("Sequence[ArrayLike]", regions)]
        counts = [len(np.unique(r)) for r in several]
        names = [f"{n} region{'s' * (n != 1)}" for n in counts]
    else:
        several, names = [np.asarray(regions)], [""]
    if not several or several[0].shape == (0,):
        raise bad("regions", "no map", "one or more of shape (H, W)")
    return several, names


def _is_several(regions: ArrayLike | Sequence[ArrayLike]) -> bool:
    """Whether these are maps (H, W), and not one map."""
    if isinstance(regions, np.ndarray):
        return regions.ndim == 3
    return isinstance(regions, Sequence) and len(regions) > 0 and np.ndim(regions[0]) == 2
