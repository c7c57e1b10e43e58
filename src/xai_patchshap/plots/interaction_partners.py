"""Interactions of one player with all others, on the photograph."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .._validation import whole
from .canvas import colour_bar, mark_strongest, outline, panel_with_photo, pixel_extent
from .effects import main_and_pairs
from .scale import centred_scale, diverging

__all__ = ["interaction_partners"]


def interaction_partners(
    photo: ArrayLike,
    labels: ArrayLike,
    matrix: ArrayLike,
    player: int,
    *,
    title: str = "",
    label: str = "interaction",
    n_marked: int = 5,
) -> Figure:
    """The interactions of one player with all others, painted on the photograph.

    Parameters
    ----------
    photo, labels, matrix : array_like
        As :func:`interaction_network` takes them; shown is the whole interaction, twice the
        entry of the matrix (P, P).
    player : int
        Whose interactions, 0..P-1. It is outlined and shows the photograph as it is.
    title, label : str
        Title of the picture, and what the colour bar calls the interactions.
    n_marked : int
        How many of the strongest partners to outline and number.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    PatchShapError
        If the matrix is not square, symmetric and finite, shapes do not fit together, or
        there is no such player.

    Examples
    --------
    >>> import numpy as np
    >>> photo = np.random.default_rng(0).random((8, 8, 3))
    >>> labels = np.arange(64).reshape(8, 8) // 16
    >>> matrix = np.diag([0.5, 0.25, 0.0, -0.25])
    >>> matrix[0, 3] = matrix[3, 0] = 0.125
    >>> interaction_partners(photo, labels, matrix, 3).axes[1].get_ylabel()
    'interaction with player 3'
    """
    main, pairs = main_and_pairs(matrix)
    player = whole(0, len(main) - 1)("player", player)
    n_marked = whole(0)("n_marked", n_marked)
    figure, panel, players, shown = panel_with_photo(photo, labels, len(main), title)
    values, inside, extent = pairs[player], players == player, pixel_extent(*players.shape)
    colors = ScalarMappable(centred_scale(values), diverging())
    panel.imshow(colors.to_rgba(values[players]), extent=extent, interpolation="nearest")
    own = ScalarMappable(Normalize(0, 1), "gray").to_rgba(np.clip(shown, 0.0, 1.0))
    at = (np.arange(n) * m // n for n, m in zip(shown.shape, inside.shape, strict=False))
    own[..., 3] = inside[np.ix_(*at)]
    panel.imshow(own, extent=extent, interpolation="nearest")
    mark_strongest(panel, players, values, n_marked)
    for color, wide in (("white", 4.5), ("black", 2.5)):
        line = LineCollection(list(outline(inside)), colors=color, linewidths=wide)
        line.set(capstyle="projecting", clip_on=False)  # at the rim too
        panel.add_collection(line, autolim=False)
    colour_bar(figure, panel, colors, f"{label} with player {player}")
    return figure
