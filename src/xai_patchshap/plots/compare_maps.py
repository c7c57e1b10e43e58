"""Maps of pixels, method by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from numpy.typing import ArrayLike, NDArray

from ..errors import bad
from .canvas import fitting_photo, new_figure, pale_gray, pixel_extent
from .scale import SATURATED, centred_scale, diverging

__all__ = ["compare_maps"]


def compare_maps(
    photo: ArrayLike,
    maps: Mapping[str, ArrayLike],
    outputs: Sequence[str],
    *,
    photo_title: str = "",
    label: str = "attribution",
    unit: str = "per pixel",
    percentile: float = SATURATED,
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
    norm = centred_scale(values, percentile)
    saturated = bool((np.abs(values) > norm.vmax).any())
    extent = pixel_extent(height, width)
    side, n_rows = 2.1, len(values)
    panel_width = side * max(width / height, 0.6)
    figure = new_figure(panel_width * (1 + n_outputs) + 1.7, side * n_rows + 0.4)
    grid = figure.add_gridspec(n_rows, 1 + n_outputs)
    panels = [figure.add_subplot(grid[0, 0])]
    panels[0].imshow(np.clip(shown, 0, 1), extent=extent, cmap="gray", vmin=0, vmax=1)
    panels[0].set_title(_wrapped(photo_title, panel_width), fontsize=11)
    colors, pale = diverging(), pale_gray(shown)
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
