"""Interactions between pairs of players: a network, a matrix, the partners of one player."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from .._validation import ids, list_of_names, maybe, whole
from ..errors import bad
from .attribution_maps import _border, _label_position, _mark
from .canvas import borders, fitting_photo, new_figure, pale_gray, pixel_extent
from .canvas import transparent_diverging as diverging

_Floats: TypeAlias = NDArray[np.float64]
_NEGATIVE, _POSITIVE = (colormaps["RdBu_r"](at) for at in (0.08, 0.92))
_FEW = 36  # up to so many players, each has its own tick
_SIDE = 4.4  # of the picture, in inches


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
    main, pairs = _effects(matrix)
    n_edges, written = whole(1)("n_edges", n_edges), _names(names, len(main))
    errors = np.zeros_like(pairs) if std is None else 2 * np.asarray(std, dtype=float)
    if errors.shape != pairs.shape:
        raise bad("std", f"shape {errors.shape}", f"that of the matrix, {pairs.shape}")
    figure, panel, players, _ = _on_photo(photo, labels, len(main), title, network=True)
    centres = _centres(players, len(main))
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)
    np.fill_diagonal(apart, np.inf if len(main) > 1 else min(players.shape))
    spacing = float(np.median(apart.min(axis=1)))  # from a node to its neighbour, in pixels
    points = _SIDE * 72 / len(players)  # to the pixel
    # The area, and not the diameter, is proportional; a node of value zero remains a dot.
    largest = min(0.33 * spacing, 0.06 * max(players.shape))
    radii = largest * np.sqrt(np.abs(main) / _limit(main))
    radii = np.maximum(radii, min(0.22 * largest, 2.5 / points))

    first, second = np.triu_indices(len(main), 1)
    values = pairs[first, second]
    order = np.argsort(-np.abs(values), kind="stable")[:n_edges]  # thin lines lie on wide ones
    order = order[values[order] != 0]
    values, strength = values[order], np.abs(values[order]) / _limit(values)
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
    scale = ScalarMappable(_scale(main), _opaque())
    nodes.set(facecolor=scale.to_rgba(main), edgecolor="0.15", zorder=3, gid="nodes")
    nodes.set_linewidth(0.8 if spacing * points > 30 else 0.4)
    panel.add_collection(edges, autolim=False)
    panel.add_collection(nodes, autolim=False)
    halo = [withStroke(linewidth=2, foreground="white")]
    for (x, y), radius, name in zip(centres, radii, written, strict=False):
        below = y + radius + 1 / points
        panel.text(x, below, name, fontsize=8, ha="center", va="top", path_effects=halo, zorder=4)
    _bar(figure, panel, scale, "main effect (colour and area of nodes)")

    # What width and colour mean: the strongest and the weakest line of either sign.
    of_signs = (np.flatnonzero(values < 0), np.flatnonzero(values > 0)[::-1])
    at = [n for of_sign in of_signs for n in of_sign[[0, -1][: of_sign.size]]]
    drawn = f"{len(order)} strongest of {len(first)} pairs" if len(order) else "zero for all pairs"
    figure.legend(
        [Line2D([], [], color=tuple(colors[n]), linewidth=widths[n]) for n in at],
        [f"{values[n]:+.3g}".replace("-", "\N{MINUS SIGN}") for n in at],
        loc="outside lower center",
        ncols=4 if figure.get_figwidth() > 5 else 2,
        frameon=False,
        fontsize=9,
        title=f"{label}: {drawn}"
        + (", dotted below two standard errors" if doubtful.any() else ""),
    )
    return figure


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
    main, pairs = _effects(matrix)
    written = _names(names, len(main))
    if grid is not None and (len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != len(main)):
        raise bad("grid", grid, f"rows and columns of {len(main)} players in all")
    figure = new_figure(_SIDE + 1.5, _SIDE + 0.25 * bool(title))
    heat: Any = figure.subplots()
    # Inset, so that they stay beside the heat map, which is square whatever its ticks.
    strip = heat.inset_axes((1.03, 0.0, 0.05, 1.0))
    bars = [heat.inset_axes((1.13, low, 0.035, 0.46)) for low in (0.54, 0.0)]
    alone = np.ma.masked_array(pairs, np.eye(len(main), dtype=bool))
    for panel, shown, bar, text in (
        (heat, alone, bars[0], label),
        (strip, main[:, None], bars[1], "main effect"),
    ):
        image = panel.imshow(shown, cmap=_opaque(), norm=_scale(shown), aspect="auto")
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
    main, pairs = _effects(matrix)
    player = whole(0, len(main) - 1)("player", player)
    n_marked = whole(0)("n_marked", n_marked)
    figure, panel, players, shown = _on_photo(photo, labels, len(main), title)
    values, inside, extent = pairs[player], players == player, pixel_extent(*players.shape)
    colors = ScalarMappable(_scale(values), diverging())
    panel.imshow(colors.to_rgba(values[players]), extent=extent, interpolation="nearest")
    own = ScalarMappable(Normalize(0, 1), "gray").to_rgba(np.clip(shown, 0.0, 1.0))
    at = (np.arange(n) * m // n for n, m in zip(shown.shape, inside.shape, strict=False))
    own[..., 3] = inside[np.ix_(*at)]
    panel.imshow(own, extent=extent, interpolation="nearest")
    _mark(panel, players, values, n_marked)
    for color, wide in (("white", 4.5), ("black", 2.5)):
        outline = LineCollection(list(_border(inside)), colors=color, linewidths=wide)
        outline.set(capstyle="projecting", clip_on=False)  # at the rim too
        panel.add_collection(outline, autolim=False)
    _bar(figure, panel, colors, f"{label} with player {player}")
    return figure


def _effects(matrix: ArrayLike) -> tuple[_Floats, _Floats]:
    """Main effects (P,) and whole interactions (P, P), these with zeros on the diagonal."""
    try:
        given = np.asarray(matrix, dtype=float)
    except (TypeError, ValueError) as error:
        raise bad(
            "matrix",
            f"an object of type {type(matrix).__name__}",
            "numbers (P, P)",
            "found.matrix()[:, :, k] of Interactions, explanation.values[i, :, :, k] otherwise.",
        ) from error
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not given.size:
        raise bad("matrix", f"shape {given.shape}", "(P, P), a row and a column for each player")
    if not np.isfinite(given).all():
        raise bad("matrix", "NaN or infinity", "finite numbers")
    apart = float(np.abs(given - given.T).max())
    if apart > 1e-5 * np.abs(given).max():  # sums in single precision differ by less
        came = f"entries that differ by up to {apart:g} from those across the diagonal"
        mend = "Give half of an interaction in both of its entries: (m + m.T) / 2."
        raise bad("matrix", came, "a symmetric matrix", mend)
    pairs = given + given.T
    np.fill_diagonal(pairs, 0.0)
    return given.diagonal().copy(), pairs


def _names(names: Sequence[str] | None, n: int) -> list[str]:
    names = maybe(list_of_names())("names", names)
    if names is not None and len(names) != n:
        raise bad("names", f"{len(names)} of them", f"{n}, one for each player")
    return [str(name) for name in names or ()]


def _limit(values: NDArray[Any]) -> float:
    """Where a scale ends."""
    return float(np.abs(np.asarray(values)).max(initial=0.0)) or 1.0


def _scale(values: NDArray[Any]) -> Normalize:
    return Normalize(-_limit(values), _limit(values))


def _opaque() -> ListedColormap:
    """The transparent colours as they look on white paper."""
    colors = diverging()(np.arange(255))
    return ListedColormap(1 - (1 - colors[:, :3]) * colors[:, 3:], name="diverging_on_white")


def _on_photo(
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
    figure = new_figure(_SIDE * max(width / height, 0.6) + 1.0, _SIDE + room)
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


def _bar(figure: Figure, panel: Any, scale: ScalarMappable, text: str) -> None:
    bar = figure.colorbar(scale, ax=panel, shrink=0.86, pad=0.015, aspect=28, label=text)
    bar.outline.set_visible(False)


def _centres(players: NDArray[np.int64], n: int) -> _Floats:
    """Centre (x, y) of each player, (P, 2); inside it, whatever its shape."""
    flat, area = players.ravel(), np.bincount(players.ravel())
    rows, cols = (at.ravel() + 0.5 for at in np.indices(players.shape))
    centres = np.stack([np.bincount(flat, at) / area for at in (cols, rows)], axis=1)
    x, y = centres.astype(int).T
    for player in np.flatnonzero(players[y, x] != np.arange(n)):
        centres[player] = _label_position(players == player)
    return centres


def _curve(
    i: int, j: int, centres: _Floats, clear: _Floats, step: float, shape: tuple[int, ...]
) -> _Floats:
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
