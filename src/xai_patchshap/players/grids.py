"""Players: which parts of an image play the game.

Players are a label map, one integer 0..n-1 for each pixel: the pixels of one label come
and go together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._arrays import as_array
from .._validation import checked, ids, maybe, pair, whole
from ..errors import PatchShapError, bad, raised_by
from .superpixels import slic

__all__ = ["Players", "PlayersSpec", "grid_players", "mask_players", "resolve_players"]

PlayersSpec: TypeAlias = (
    "int | str | tuple[int, int] | ArrayLike | Callable[[NDArray[Any]], ArrayLike] | None"
)

# Up to nine digits: no image is larger.
_GRID = re.compile(r"(\d{1,9})x(\d{1,9})")
_PATCH = re.compile(r"patch:?(\d{1,9})")
_SLIC = re.compile(r"slic(?::(\d{1,9}))?")
_HOW = (
    "Players can be a grid as (rows, columns) or '7x7', a patch size in pixels as 16 or "
    "'patch:16', superpixels as 'slic:200' or slic(200, ...), an integer mask (H, W), or a "
    "function from an image (H, W, C) to such a mask."
)


@dataclass(frozen=True)
class Players:
    """A partition of the positions of one input.

    Attributes
    ----------
    labels : ndarray of int64
        Player of each position, 0..n-1: (H, W) for an image, the input's own shape else.
    names : tuple of str
        One readable name for each player.
    """

    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __repr__(self) -> str:
        some = ", ".join(self.names[:3]) + (", ..." if self.n > 3 else "")
        return f"Players({self.n:,} on {' x '.join(map(str, self.labels.shape))}: {some})"

    @property
    def n(self) -> int:
        """Number of players."""
        return len(self.names)


_TWO = pair(whole(1, mend=_HOW))


@checked(height=whole(1), width=whole(1), patch=maybe(_TWO), grid=maybe(_TWO))
def grid_players(
    height: int,
    width: int,
    *,
    patch: int | tuple[int, int] | None = None,
    grid: tuple[int, int] | None = None,
) -> Players:
    """Rectangular patches of an image, numbered row by row.

    Parameters
    ----------
    height, width : int
        Size of the image in pixels, whole numbers like all sizes here.
    patch : int or (int, int), optional
        Height and width of a patch in pixels. Where it does not divide the image, the
        patches at the right and bottom edges are smaller.
    grid : (int, int), optional
        Rows and columns; sizes differ by at most one pixel where they do not divide the
        image. With neither, about 49 patches, as square as they come.

    Returns
    -------
    Players
        With ``labels`` of shape (height, width).

    Raises
    ------
    PatchShapError
        If a patch or a cell of the grid would be empty.

    Examples
    --------
    >>> grid_players(4, 5, grid=(2, 2)).labels.tolist()
    [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [2, 2, 2, 3, 3], [2, 2, 2, 3, 3]]
    >>> grid_players(224, 224, patch=16).n
    196
    """
    if patch is not None and grid is not None:
        raise PatchShapError(f"players: got patch={patch} and grid={grid}; give only one of them.")
    if patch is not None:
        ph, pw = cast("tuple[int, int]", patch)
        rows, cols = np.arange(height) // min(ph, height), np.arange(width) // min(pw, width)
    else:
        if grid is None:
            # About 49 square patches, whatever the aspect ratio.
            n_rows = min(height, max(1, round(7 * math.sqrt(height / width))))
            n_cols = min(width, max(1, round(7 * math.sqrt(width / height))))
        else:
            n_rows, n_cols = grid
        if not (1 <= n_rows <= height and 1 <= n_cols <= width):
            raise bad(
                "grid",
                f"{n_rows} x {n_cols} on an image of {height} x {width} pixels",
                "at least one pixel in every cell",
            )
        rows = np.arange(height) * n_rows // height
        cols = np.arange(width) * n_cols // width
    n_rows, n_cols = int(rows[-1]) + 1, int(cols[-1]) + 1
    labels = (rows[:, None] * n_cols + cols[None, :]).astype(np.int64)
    names = tuple(f"row {r}, column {c}" for r in range(n_rows) for c in range(n_cols))
    return Players(labels, names)


def mask_players(mask: ArrayLike, shape: tuple[int, ...]) -> Players:
    """Players from a user's integer mask.

    Parameters
    ----------
    mask : array_like of int
        Player of each position, whole numbers of at least 0. The players are the ids that
        occur, in their order.
    shape : tuple of int
        The shape that the mask must have, (H, W) for an image.

    Raises
    ------
    PatchShapError
        If the mask has another shape, or holds anything but whole numbers of at least 0.

    Examples
    --------
    >>> mask_players([[0, 0, 1], [2, 2, 1]], (2, 3)).n
    3
    """
    labels = as_array(mask)
    if labels.shape != tuple(shape):
        raise bad("players", f"a mask of shape {labels.shape}", f"shape {tuple(shape)}", _HOW)
    labels = ids()("players", labels)
    found, closed = np.unique(labels, return_inverse=True)
    return Players(closed.reshape(labels.shape), tuple(f"segment {i}" for i in found.tolist()))


def check_players(spec: Any) -> None:
    """Raise unless players can be made of ``spec`` for some image."""
    if isinstance(spec, str):
        _sizes(spec)
    elif isinstance(spec, bool | float | np.bool_ | np.floating):
        raise bad("players", repr(spec), "a whole number of pixels", _HOW)
    elif isinstance(spec, int | np.integer):
        whole(1, mend=_HOW)("players", spec)
    elif is_grid(spec):
        _TWO("players", spec)
    elif isinstance(spec, Players):
        raise bad("players", "an object of type Players", "its mask", "Give players.labels.")
    elif spec is not None and not callable(spec):
        try:
            mask = as_array(spec)
        except (TypeError, ValueError, RuntimeError):
            mask = np.asarray(None)
        if mask.dtype.kind not in "fiub" or mask.ndim == 0:
            raise bad("players", f"an object of type {type(spec).__name__}", "players", _HOW)
        ids()("players", mask)


def is_grid(spec: Any) -> bool:
    try:
        return isinstance(spec, tuple) and all(np.ndim(s) == 0 for s in spec)
    except (TypeError, ValueError, RuntimeError):
        return False


def _sizes(spec: str) -> dict[str, Any]:
    """What a string of players says, as arguments of :func:`grid_players`; {} for superpixels."""
    for pattern, name in ((_GRID, "grid"), (_PATCH, "patch"), (_SLIC, None)):
        match = pattern.fullmatch(spec)
        if match and all(size is None or int(size) for size in match.groups()):
            sizes = tuple(int(size) for size in match.groups() if size is not None)
            return {} if name is None else {name: sizes if name == "grid" else sizes[0]}
    expected = (
        "'ROWSxCOLUMNS' or 'patch:SIZE', or 'slic:NUMBER' for superpixels, with whole numbers of "
        "1 to 999999999"
    )
    raise bad("players", repr(spec), expected, _HOW)


def named_segmentation(spec: Any) -> Any:
    """The function that 'slic' or 'slic:200' stands for; any other specification as it came."""
    if isinstance(spec, str) and (match := _SLIC.fullmatch(spec)):
        return slic() if match[1] is None else slic(int(match[1]))
    return spec


def resolve_players(
    spec: PlayersSpec, image: NDArray[Any], patch: tuple[int, int] | None = None
) -> Players:
    """Players of one image (H, W, C) from any specification that the package takes.

    ``patch`` is the size used when ``spec`` is None, a vision transformer's own patches;
    without it a grid of about 7x7 plays.
    """
    height, width = image.shape[:2]
    if isinstance(spec, str):
        _sizes(spec)
    spec = named_segmentation(spec)
    if spec is None:
        return grid_players(height, width, patch=patch)
    if isinstance(spec, str):
        return grid_players(height, width, **_sizes(spec))
    if isinstance(spec, int | np.integer) and not isinstance(spec, bool):
        return grid_players(height, width, patch=int(spec))
    if is_grid(spec):
        return grid_players(height, width, grid=_TWO("players", spec))
    if callable(spec):
        with raised_by("the function that makes players"):
            made = spec(image)
        return mask_players(made, (height, width))
    check_players(spec)
    return mask_players(as_array(spec), (height, width))


def player_means(image: NDArray[Any], players: Players) -> NDArray[np.float64]:
    """Mean of an input's elements over each player, shape (n,)."""
    labels = players.labels
    if image.ndim > labels.ndim:
        # Whichever axis is not in the label map is the channel.
        axis = -1 if image.shape[: labels.ndim] == labels.shape else 0
        image = image.mean(axis=axis)
    total = np.bincount(labels.ravel(), weights=image.astype(np.float64).ravel())
    return np.asarray(total / np.bincount(labels.ravel()))
