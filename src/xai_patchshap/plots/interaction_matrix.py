"""Interactions of all pairs of players as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ..errors import bad
from .canvas import SIDE, new_figure
from .effects import main_and_pairs, names_of
from .scale import centred_scale, opaque_diverging

__all__ = ["interaction_matrix"]

_FEW = 36  # up to so many players, each has its own tick


def interaction_matrix(
    matrix: ArrayLike,
    *,
    grid: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
    title: str = "",
    label: str = "interaction",
) -> Figure:
    """All interactions as a heat map; the main effects are a strip with a scale of its own.

    Parameters
    ----------
    matrix : array_like of shape (P, P)
        As :func:`interaction_network` takes it; shown is the whole interaction, twice the entry.
    grid : (int, int), optional
        Rows and columns of players numbered row by row; lines separate the rows.
    names : sequence of str, length P, optional
        Written in place of the numbers of up to 36 players.
    title, label : str
        Title of the picture, and what the colour bar calls the interactions.

    Returns
    -------
    matplotlib.figure.Figure
        The ``child_axes`` of its one axes are the strip and the colour bars of both.

    Raises
    ------
    PatchShapError
        If the matrix is not square, symmetric and finite, or ``grid`` or ``names`` do not
        fit it.

    Examples
    --------
    >>> matrix = [[3.0, 0.5, 0.0], [0.5, 2.0, -0.25], [0.0, -0.25, -1.0]]
    >>> heat = interaction_matrix(matrix, names=["head", "tail", "sky"]).axes[0]
    >>> heat.images[0].get_clim(), heat.child_axes[0].images[0].get_clim()
    ((-1.0, 1.0), (-3.0, 3.0))
    """
    main, pairs = main_and_pairs(matrix)
    written = names_of(names, len(main))
    if grid is not None and (len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != len(main)):
        raise bad("grid", grid, f"rows and columns of {len(main)} players in all")
    figure = new_figure(SIDE + 1.5, SIDE + 0.25 * bool(title))
    heat: Any = figure.subplots()
    # Inset, so that they stay beside the heat map, which is square whatever its ticks.
    strip = heat.inset_axes((1.03, 0.0, 0.05, 1.0))
    bars = [heat.inset_axes((1.13, low, 0.035, 0.46)) for low in (0.54, 0.0)]
    alone = np.ma.masked_array(pairs, np.eye(len(main), dtype=bool))
    for panel, shown, bar, text in (
        (heat, alone, bars[0], label),
        (strip, main[:, None], bars[1], "main effect"),
    ):
        image = panel.imshow(
            shown, cmap=opaque_diverging(), norm=centred_scale(shown), aspect="auto"
        )
        figure.colorbar(image, cax=bar, label=text).outline.set_visible(False)
    heat.set(aspect="equal", facecolor="0.8", title=title)  # gray: the diagonal
    strip.set(xticks=[], yticks=[])
    strip.set_title("main\neffect", fontsize=8)
    _ticks(heat, len(main), written, grid)
    if grid is not None:
        between = np.arange(1, grid[0]) * grid[1] - 0.5
        look = {"colors": "0.45", "linewidths": 0.8 if grid[0] <= 7 else 0.4}
        heat.vlines(between, -0.5, len(main) - 0.5, **look)
        for panel in (heat, strip):
            panel.hlines(between, *panel.get_xlim(), **look)
    return figure


def _ticks(heat: Any, n: int, names: list[str], grid: tuple[int, int] | None) -> None:
    """A tick for each player where they are few, else for each row of the grid, if any."""
    if n <= _FEW:
        at, texts = np.arange(n, dtype=float), names or [str(i) for i in range(n)]
    elif grid is not None:
        rows = np.arange(0, grid[0], 1 + grid[0] // 30)
        at, texts = (rows + 0.5) * grid[1] - 0.5, [f"row {row}" for row in rows]
    for axis, turned in ((heat.xaxis, 90), (heat.yaxis, 0)):
        if n <= _FEW or grid is not None:
            axis.set_ticks(at, texts, fontsize=8 if len(texts) <= 20 else 6.5)
            axis.set_tick_params(length=0, rotation=turned * (max(map(len, texts)) > 2))
        if not names or n > _FEW:
            axis.set_label_text("player")
