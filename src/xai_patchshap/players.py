"""Players: which parts of an image play the game.

Players are a label map, one integer 0..n-1 for each pixel: the pixels of one label come
and go together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import PatchShapError, bad
from .superpixels import slic

__all__ = ["Players", "PlayersSpec", "grid_players", "mask_players", "resolve_players"]

PlayersSpec: TypeAlias = (
    "int | str | tuple[int, int] | ArrayLike | Callable[[NDArray[Any]], ArrayLike] | None"
)

_GRID = re.compile(r"(\d+)x(\d+)")
_PATCH = re.compile(r"patch:?(\d+)")
_SLIC = re.compile(r"slic(?::(\d+))?")
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

    @property
    def n(self) -> int:
        """Number of players."""
        return len(self.names)


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
        Size of the image in pixels.
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
    if height < 1 or width < 1:
        raise bad("image size", f"{height} x {width}", "at least one pixel")
    if patch is not None and grid is not None:
        raise PatchShapError(f"players: got patch={patch} and grid={grid}; give only one of them.")
    if patch is not None:
        ph, pw = (patch, patch) if isinstance(patch, int) else patch
        if ph < 1 or pw < 1:
            raise bad("patch", patch, "a size of at least 1 pixel")
        rows, cols = np.arange(height) // ph, np.arange(width) // pw
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
        Player of each position; the ids are 0..n-1, each used at least once.
    shape : tuple of int
        The shape that the mask must have, (H, W) for an image.

    Raises
    ------
    PatchShapError
        If the mask has another shape, is not of whole numbers, or skips an id.

    Examples
    --------
    >>> mask_players([[0, 0, 1], [2, 2, 1]], (2, 3)).n
    3
    """
    labels = np.asarray(mask)
    if labels.shape != tuple(shape):
        raise bad("players", f"a mask of shape {labels.shape}", f"shape {tuple(shape)}", _HOW)
    labels = whole_numbers(labels, "players")
    n = check_ids(labels, "players")
    return Players(labels, tuple(f"segment {i}" for i in range(n)))


def whole_numbers(mask: NDArray[Any], what: str) -> NDArray[np.int64]:
    """Return ``mask`` as int64, or raise if it holds anything but whole numbers."""
    whole = mask.dtype.kind in "iub"
    if not whole and (mask.dtype.kind != "f" or not np.array_equal(mask, np.floor(mask))):
        raise bad(what, f"a mask of dtype {mask.dtype}", "whole numbers")
    return mask.astype(np.int64)


def check_ids(labels: NDArray[np.int64], what: str) -> int:
    """Number of ids in ``labels``; raise unless they are 0..n-1 without a gap."""
    ids = np.unique(labels)
    if ids.size == 0:
        raise bad(what, "a mask without positions", "at least one player")
    if ids[0] < 0:
        raise bad(what, f"the negative id {ids[0]}", "ids 0..n-1")
    missing = np.setdiff1d(np.arange(ids[-1] + 1), ids)
    if missing.size:
        some = ", ".join(map(str, missing[:5])) + ("..." if missing.size > 5 else "")
        raise bad(
            what,
            f"ids up to {ids[-1]} without {some}",
            "ids 0..n-1, each used at least once",
            "np.unique(mask, return_inverse=True)[1].reshape(mask.shape) closes the gaps.",
        )
    return int(ids[-1]) + 1


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
    spec = named_segmentation(spec)
    if spec is None:
        return grid_players(height, width, patch=patch)
    if isinstance(spec, str):
        if match := _GRID.fullmatch(spec):
            return grid_players(height, width, grid=(int(match[1]), int(match[2])))
        if match := _PATCH.fullmatch(spec):
            return grid_players(height, width, patch=int(match[1]))
        expected = "'ROWSxCOLUMNS' or 'patch:SIZE', or 'slic:NUMBER' for superpixels"
        raise bad("players", repr(spec), expected, _HOW)
    if isinstance(spec, int) and not isinstance(spec, bool):
        return grid_players(height, width, patch=spec)
    if isinstance(spec, tuple) and len(spec) == 2 and all(isinstance(s, int) for s in spec):
        return grid_players(height, width, grid=(int(spec[0]), int(spec[1])))
    if callable(spec):
        return mask_players(spec(image), (height, width))
    return mask_players(np.asarray(spec), (height, width))
