"""The data-aware binary partition tree of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._validation import checked, finite, ids
from ...errors import bad
from .partition_tree import PartitionTree

__all__ = ["MOST_COMPACT", "bpt_tree"]

# Compactness is below this: far beyond, costs overflow.
MOST_COMPACT = 1e6


@checked(compactness=finite(least=0, below=MOST_COMPACT), noise=finite(least=0, below=1e6))
def bpt_tree(
    image: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    compactness: float = 0.0,
    noise: float = 0.0,
    seed: int = 0,
    extra: ArrayLike | None = None,
) -> PartitionTree:
    r"""Data-aware binary partition tree of an image.

    Regions are merged greedily, the cheapest pair of neighbours (8-adjacency) first, at the
    cost of ShapBPT (Rashid et al., AAAI 2026, eq. 7):

    .. math:: \sum_c (d_c + 1)^2 \cdot (A_1 + A_2) \cdot \sqrt{P_1 + P_2 - 2 L_{12}}

    with :math:`d_c` the range of channel c over the merged region on a scale of 0 to 255,
    :math:`A` areas, :math:`P` perimeters and :math:`L_{12}` the length of the common border.

    Parameters
    ----------
    image : array_like of shape (H, W), (H, W, C), uint8, float or bool
        Channels last. RGB is compared in CIELAB; any other number of channels as it is.
        uint8 counts as 0..255; other images as 0..1, as 0..255 if the largest value is
        above 16, or else by their own range.
    labels : array_like of int, shape (H, W), optional
        Players 0..n-1 that are never split. By default the pixels.
    compactness : float
        0 is the published cost. Otherwise rows and columns count as two more channels,
        whose scale of 0 to 255 times ``compactness`` spans the longer side of the image:
        regions become rounder.
    noise : float
        Deviation of normal noise added to the image on a scale of 0 to 1; for several
        different trees of one image.
    seed : int
        Seed of the noise.
    extra : array_like of shape (H, W) or (H, W, E), optional
        More channels, taken as they are, on the scale of 0 to 255 of a colour that spans
        its whole range: a depth map, a segmentation, or attributions found so far.

    Returns
    -------
    PartitionTree
        With ``H * W`` leaves, pixels row by row, or one leaf for each player.

    Raises
    ------
    PatchShapError
        If the image is empty, not finite, or not (H, W) or (H, W, C), or ``extra`` does not
        fit it.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((4, 6), dtype=np.uint8)
    >>> image[1:3, 1:3] = 200
    >>> bpt_tree(image).regions(1).reshape(4, 6)[:3, :4].tolist()
    [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1]]
    """
    x = np.asarray(image)
    if x.ndim == 2:
        x = x[:, :, None]
    if x.ndim != 3 or not x.size:
        raise bad("image", f"shape {np.shape(image)}", "a nonempty image (H, W) or (H, W, C)")
    if x.dtype.kind not in "fiub" or not np.isfinite(x).all():
        raise bad("image", f"dtype {x.dtype} with NaN or no numbers", "finite numbers")
    height, width = x.shape[:2]
    colour = _colour(x, compactness, noise, seed)
    if extra is not None:
        more = np.asarray(extra, dtype=np.float32)
        more = more[:, :, None] if more.ndim == 2 else more
        if more.ndim != 3 or more.shape[:2] != (height, width) or not np.isfinite(more).all():
            shape = np.shape(extra)
            raise bad(
                "extra", f"shape {shape}", f"finite numbers, {(height, width)} or with channels"
            )
        colour = np.concatenate([colour, more], axis=2)
    if labels is None:
        first, second, border = _pixel_graph(height, width)
        region = np.empty((height * width, 2 + 2 * colour.shape[2]), dtype=np.float32)
        region[:, 0], region[:, 1] = 1, 4
        region[:, 2:] = np.tile(colour.reshape(height * width, -1), 2)
    else:
        players = np.asarray(labels)
        if players.shape != (height, width):
            raise bad("labels", f"shape {players.shape}", f"{(height, width)}, the image's")
        players = ids(gaps=False)("labels", players)
        first, second, border, region = _player_graph(players, colour)
    from .merging import merge  # numba takes a while to load

    del colour  # merging takes the most memory
    children = merge(first, second, border, region)
    return PartitionTree.from_children(children)


def _colour(x: NDArray[Any], compactness: float, noise: float, seed: int) -> NDArray[np.float32]:
    """What regions are compared by, (H, W, C'), on scales of 0 to 255."""
    unit = _unit(x)
    if noise:
        unit = np.clip(unit + np.random.default_rng(seed).normal(0, noise, x.shape), 0, 1)
    colour = (_lab(unit) if x.shape[2] == 3 else 255 * unit).astype(np.float32)
    if not compactness:
        return colour
    height, width = x.shape[:2]
    step = 255 * compactness / max(height - 1, width - 1, 1)
    place = np.moveaxis(np.indices((height, width), dtype=np.float32), 0, -1)
    return np.concatenate([colour, np.float32(step) * place], axis=2)


def _unit(x: NDArray[Any]) -> NDArray[np.float64]:
    """The image in [0, 1]."""
    values: NDArray[np.float64] = x.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if x.dtype == np.uint8 or (low >= 0 and 16 < high <= 255):
        return values / 255
    if low >= 0 and high <= 1:
        return values
    # Normalised inputs, for example: only differences matter for a tree.
    return (values - low) / ((high - low) or 1.0)


def _lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """From sRGB in [0, 1] to CIELAB (D65), each axis stretched to 0..255 as in ShapBPT."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    xyz = linear @ (to_xyz / to_xyz.sum(axis=1, keepdims=True)).T
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )
    stretched: NDArray[np.float64] = lab * (255 / np.array([100, 256, 256]))
    return stretched  # only ranges matter: no offset


# ----- region adjacency graphs --------------------------------------------------------------

# Steps to four of the eight neighbours, and the length of the border with each.
_STEPS = ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, -1, 0))


def _pixel_graph(height: int, width: int) -> tuple[NDArray[np.int32], ...]:
    """Edges between pixels: ends and lengths of common borders, each (E,)."""
    index = np.arange(height * width, dtype=np.int32).reshape(height, width)
    n_edges = sum((height - down) * (width - abs(right)) for down, right, _ in _STEPS)
    first, second, border = (np.empty(n_edges, dtype=np.int32) for _ in range(3))
    start = 0
    for down, right, length in _STEPS:
        a = index[: height - down, max(0, -right) : width - max(0, right)]
        b = index[down:, max(0, right) : width - max(0, -right)]
        part = slice(start, start + a.size)
        first[part], second[part], border[part] = a.ravel(), b.ravel(), length
        start += a.size
    return first, second, border


def _player_graph(players: NDArray[Any], colour: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
    """The same for players of any form, with their colour ranges, areas and perimeters."""
    flat = players.ravel().astype(np.int64)
    n = int(flat.max()) + 1
    first, second, border = _pixel_graph(*players.shape)
    a, b = flat[first], flat[second]
    differ = a != b
    pair = np.minimum(a, b)[differ] * n + np.maximum(a, b)[differ]
    unique, inverse = np.unique(pair, return_inverse=True)
    shared = np.bincount(inverse, weights=border[differ], minlength=len(unique))
    area = np.bincount(flat, minlength=n)
    inside = np.bincount(a[~differ], weights=border[~differ], minlength=n)
    low = np.full((n, colour.shape[2]), np.inf)
    high = -low
    np.minimum.at(low, flat, colour.reshape(len(flat), -1))
    np.maximum.at(high, flat, colour.reshape(len(flat), -1))
    return (
        (unique // n).astype(np.int32),
        (unique % n).astype(np.int32),
        shared.astype(np.int32),
        np.column_stack([area, 4 * area - 2 * inside, low, high]).astype(np.float32),
    )
