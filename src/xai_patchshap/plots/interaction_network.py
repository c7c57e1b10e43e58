"""Interactions as lines between the players of a photograph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from .._typing import Floats
from .._validation import whole
from ..errors import bad
from .canvas import SIDE, colour_bar, label_position, panel_with_photo
from .effects import main_and_pairs, names_of
from .scale import centred_scale, opaque_diverging, scale_end

__all__ = ["interaction_network"]

_NEGATIVE, _POSITIVE = (colormaps["RdBu_r"](at) for at in (0.08, 0.92))


def interaction_network(
    photo: ArrayLike,
    labels: ArrayLike,
    matrix: ArrayLike,
    *,
    title: str = "",
    n_edges: int = 20,
    label: str = "interaction",
    names: Sequence[str] | None = None,
    std: ArrayLike | None = None,
) -> Figure:
    """The strongest interactions as lines between the players of a photograph.

    A node at the centre of each player has the colour of its main effect and an area
    proportional to its size. A line is red where the interaction is positive, blue where it
    is negative, the wider and the more opaque the stronger it is, and bends where it would
    run through another node.

    Parameters
    ----------
    photo : array_like of shape (H', W', 3) or (H', W')
        What was explained, in [0, 1] or uint8; may be finer than ``labels``.
    labels : array_like of int, shape (H, W)
        Player of each pixel, 0..P-1.
    matrix : array_like of shape (P, P)
        Symmetric, as shap's interaction values: main effects on the diagonal, half of the
        interaction of two players in each of their two entries. What is shown is the whole
        interaction, twice the entry.
    std : array_like of shape (P, P), optional
        Standard errors of the entries, as :meth:`Interactions.matrix_std` gives them: lines of
        less than two are dotted.
    title, label : str
        Title of the picture, and what the legend calls the interactions.
    n_edges : int
        How many of the strongest interactions to draw, at least 1; zeros are not drawn.
    names : sequence of str, length P, optional
        Written below the nodes.

    Returns
    -------
    matplotlib.figure.Figure
        Lines, strongest first, and nodes are the collections of its first axes with the gids
        ``"edges"`` and ``"nodes"``.

    Raises
    ------
    PatchShapError
        If the matrix is not square, symmetric and finite, shapes do not fit together, or
        ``n_edges`` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> photo = np.random.default_rng(0).random((8, 8, 3))
    >>> labels = np.arange(64).reshape(8, 8) // 16
    >>> matrix = np.diag([0.5, 0.25, 0.0, -0.25])
    >>> matrix[0, 3] = matrix[3, 0] = 0.125
    >>> figure = interaction_network(photo, labels, matrix)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['+0.25']
    """
    main, pairs = main_and_pairs(matrix)
    n_edges, written = whole(1)("n_edges", n_edges), names_of(names, len(main))
    errors = np.zeros_like(pairs) if std is None else 2 * np.asarray(std, dtype=float)
    if errors.shape != pairs.shape:
        raise bad("std", f"shape {errors.shape}", f"that of the matrix, {pairs.shape}")
    figure, panel, players, _ = panel_with_photo(photo, labels, len(main), title, network=True)
    centres = _centres(players, len(main))
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)
    np.fill_diagonal(apart, np.inf if len(main) > 1 else min(players.shape))
    spacing = float(np.median(apart.min(axis=1)))  # from a node to its neighbour, in pixels
    points = SIDE * 72 / len(players)  # to the pixel
    # The area, and not the diameter, is proportional; a node of value zero remains a dot.
    largest = min(0.33 * spacing, 0.06 * max(players.shape))
    radii = largest * np.sqrt(np.abs(main) / scale_end(main))
    radii = np.maximum(radii, min(0.22 * largest, 2.5 / points))

    first, second = np.triu_indices(len(main), 1)
    values = pairs[first, second]
    order = np.argsort(-np.abs(values), kind="stable")[:n_edges]  # thin lines lie on wide ones
    order = order[values[order] != 0]
    values, strength = values[order], np.abs(values[order]) / scale_end(values)
    colors = np.where(values[:, None] > 0, _POSITIVE, _NEGATIVE)
    colors[:, 3] = 0.45 + 0.5 * strength
    thickest = float(np.clip(0.2 * spacing * points, 1.5, 5.5))
    widths = np.maximum(0.7, thickest * strength)
    clear, ends = radii + 0.6 * thickest / points, zip(first[order], second[order], strict=True)
    curves = [_curve(i, j, centres, clear, 0.15 * spacing, players.shape) for i, j in ends]
    # What could be zero as well is dotted.
    doubtful = np.abs(values) < 2 * errors[first, second][order]
    dashes = [(0, (1.2, 1.2)) if d else "solid" for d in doubtful]
    edges = LineCollection(curves, colors=colors, linewidths=widths, linestyles=dashes, gid="edges")
    nodes = PatchCollection([Circle((x, y), r) for (x, y), r in zip(centres, radii, strict=True)])
    scale = ScalarMappable(centred_scale(main), opaque_diverging())
    nodes.set(facecolor=scale.to_rgba(main), edgecolor="0.15", zorder=3, gid="nodes")
    nodes.set_linewidth(0.8 if spacing * points > 30 else 0.4)
    panel.add_collection(edges, autolim=False)
    panel.add_collection(nodes, autolim=False)
    halo = [withStroke(linewidth=2, foreground="white")]
    for (x, y), radius, name in zip(centres, radii, written, strict=False):
        below = y + radius + 1 / points
        panel.text(x, below, name, fontsize=8, ha="center", va="top", path_effects=halo, zorder=4)
    colour_bar(figure, panel, scale, "main effect (colour and area of nodes)")

    said = f"{label}: zero for all pairs"
    if len(order):
        said = f"{label}: {len(order)} strongest of {len(first)} pairs"
    doubt = ", dotted below two standard errors" if doubtful.any() else ""
    _key(figure, values, colors, widths, said + doubt)
    return figure


def _key(figure: Figure, values: Floats, colors: Floats, widths: Floats, title: str) -> None:
    """What width and colour mean: the strongest and the weakest line of either sign."""
    of_signs = (np.flatnonzero(values < 0), np.flatnonzero(values > 0)[::-1])
    at = [n for of_sign in of_signs for n in of_sign[[0, -1][: of_sign.size]]]
    figure.legend(
        [Line2D([], [], color=tuple(colors[n]), linewidth=widths[n]) for n in at],
        [f"{values[n]:+.3g}".replace("-", "\N{MINUS SIGN}") for n in at],
        loc="outside lower center",
        ncols=4 if figure.get_figwidth() > 5 else 2,
        frameon=False,
        fontsize=9,
        title=title,
    )


def _centres(players: NDArray[np.int64], n: int) -> Floats:
    """Centre (x, y) of each player, (P, 2); inside it, whatever its shape."""
    flat, area = players.ravel(), np.bincount(players.ravel())
    rows, cols = (at.ravel() + 0.5 for at in np.indices(players.shape))
    centres = np.stack([np.bincount(flat, at) / area for at in (cols, rows)], axis=1)
    x, y = centres.astype(int).T
    for player in np.flatnonzero(players[y, x] != np.arange(n)):
        centres[player] = label_position(players == player)
    return centres


def _curve(
    i: int, j: int, centres: Floats, clear: Floats, step: float, shape: tuple[int, ...]
) -> Floats:
    """A line (33, 2) between two nodes that bends, by as few steps as it can, past the others."""
    along = centres[j] - centres[i]
    length = float(np.hypot(*along))
    aside = np.array([-along[1], along[0]]) / length
    # To the rim first: there is room.
    aside *= 1 if aside @ (centres[i] + centres[j] - 2 * centres.mean(axis=0)) > 0 else -1
    t = np.linspace(0, 1, 33)[:, None]
    others, gaps = np.delete(centres, [i, j], axis=0), np.delete(clear, [i, j])
    widest, best = -np.inf, centres[[i, j]]
    for steps in (0, 2, -2, 3, -3, 4, -4, 5, -5):
        bend = np.sign(steps) * min(abs(steps) * step, 0.25 * length)
        curve = centres[i] + t * along + 4 * t * (1 - t) * bend * aside
        apart = np.linalg.norm(curve[:, None] - others, axis=-1) - gaps
        gap = min(float(apart.min(initial=np.inf)), 0.0)  # clear is clear
        if gap > widest and (curve >= 0).all() and (curve <= shape[::-1]).all():
            widest, best = gap, curve
    return best
