"""Maps of pixels, method by method, and outlines of regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, cast

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from numpy.typing import ArrayLike, NDArray

from ..errors import bad
from .canvas import borders, fitting_photo, new_figure, pale_gray, pixel_extent
from .canvas import transparent_diverging as diverging


def compare_maps(
    photo: ArrayLike,
    maps: Mapping[str, ArrayLike],
    outputs: Sequence[str],
    *,
    photo_title: str = "",
    label: str = "attribution",
    unit: str = "per pixel",
    percentile: float = 99.5,
) -> Figure:
    """Maps of several methods, one row each, beside the photograph, all on one scale.

    Single pixels often have values far above all others. The scale, symmetric about zero,
    ends at a percentile of the absolute values of all maps together; what lies beyond has
    the colour of the end, and the colour bar says so.

    Parameters
    ----------
    photo : array_like of shape (H', W', 3) or (H', W')
        What was explained, in [0, 1] or uint8; may be finer than the maps.
    maps : mapping of str to array_like, each of shape (H, W, K) or, for one output, (H, W)
        Attribution of each pixel to each of K outputs, by name of the method.
    outputs : sequence of str
        One title for each output.
    photo_title : str
        Title of the photograph.
    label, unit : str
        What the colour bar shows, and in which unit.
    percentile : float
        Where the scale ends, above 0; 100 saturates nothing.

    Returns
    -------
    matplotlib.figure.Figure
        Its axes are the photograph, the maps row by row, and the colour bar.

    Raises
    ------
    PatchShapError
        If shapes do not fit together, a value is not finite, or the percentile is not one.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> maps = {"A": rng.normal(size=(8, 8, 2)), "B": rng.normal(size=(8, 8, 2))}
    >>> figure = compare_maps(rng.random((8, 8, 3)), maps, ["cat", "dog"])
    >>> [panel.get_title() for panel in figure.axes[:3]]
    ['', 'cat', 'dog']
    >>> len(figure.axes)  # photograph, two rows of two maps, colour bar
    6
    """
    if not 0 < percentile <= 100:
        raise bad("percentile", percentile, "a number above 0 and up to 100")
    values = _stack(maps, len(outputs))
    height, width, n_outputs = values.shape[1:]
    shown = fitting_photo(photo, (height, width), "maps")
    size = np.abs(values)
    # Where so few pixels count that the percentile is zero, the largest is the limit.
    limit = float(np.percentile(size, percentile) or size.max()) or 1.0
    saturated = bool((size > limit).any())
    extent = pixel_extent(height, width)
    side, n_rows = 2.1, len(values)
    panel_width = side * max(width / height, 0.6)
    figure = new_figure(panel_width * (1 + n_outputs) + 1.7, side * n_rows + 0.4)
    grid = figure.add_gridspec(n_rows, 1 + n_outputs)
    panels = [figure.add_subplot(grid[0, 0])]
    panels[0].imshow(np.clip(shown, 0, 1), extent=extent, cmap="gray", vmin=0, vmax=1)
    panels[0].set_title(_wrapped(photo_title, panel_width), fontsize=11)
    norm, colors, pale = Normalize(-limit, limit), diverging(), pale_gray(shown)
    for row, (name, stack) in enumerate(zip(maps, values, strict=True)):
        for column in range(n_outputs):
            panel = figure.add_subplot(grid[row, 1 + column])
            panel.imshow(pale, extent=extent, cmap="gray", vmin=0, vmax=1)
            panel.imshow(stack[..., column], extent=extent, cmap=colors, norm=norm)
            if row == 0:
                panel.set_title(_wrapped(outputs[column], panel_width), fontsize=11)
            if column == 0:
                panel.set_ylabel(_wrapped(name, side), fontsize=11, labelpad=3)
            panels.append(panel)
    for panel in panels:  # without the axes, but with their labels
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    numbers = ScalarFormatter(useMathText=True)
    numbers.set_powerlimits((-2, 3))
    long = min(n_rows, 3)  # rows beside the bar
    bar = figure.colorbar(
        ScalarMappable(norm, colors),
        ax=panels,
        shrink=0.86 * long / n_rows,
        pad=0.015,
        aspect=14 * long,
        extend="both" if saturated else "neither",
        extendfrac=0.08 / long,
        format=numbers,
    )
    text = _wrapped(f"{label} {unit}".strip(), side * long)
    if saturated:
        note = f"(saturated beyond percentile {percentile:g})"
        text += "\n" + _wrapped(note, side * long)
    bar.set_label(text, fontsize=10)
    bar.outline.set_visible(False)
    return figure


def _stack(maps: Mapping[str, ArrayLike], n_outputs: int) -> NDArray[np.float64]:
    """All maps, (M, H, W, K)."""
    if not maps:
        raise bad("maps", "none", "a map for each method")
    stacks: list[NDArray[np.float64]] = []
    for name, given in maps.items():
        one = np.asarray(given, dtype=float)
        one = one[..., None] if one.ndim == 2 else one
        if one.ndim != 3 or not one.size or one.shape[2] != n_outputs:
            raise bad(
                f"maps[{name!r}]",
                f"shape {np.shape(given)}",
                f"(H, W, {n_outputs}), one map for each of the outputs",
            )
        if not np.isfinite(one).all():
            raise bad(f"maps[{name!r}]", "NaN or infinity", "finite numbers")
        if stacks and one.shape != stacks[0].shape:
            raise bad(
                f"maps[{name!r}]",
                f"{one.shape[0]} by {one.shape[1]} pixels",
                f"{stacks[0].shape[0]} by {stacks[0].shape[1]}, as the first map",
                "Values per pixel compare only where pixels are of one size.",
            )
        stacks.append(one)
    return np.stack(stacks)


def _wrapped(text: str, inches: float) -> str:
    """A text on as many lines as the side of a panel needs; its own line breaks stay."""
    return "\n".join(fill(line, int(12.5 * inches)) for line in str(text).split("\n"))


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
