"""The game over the pixels of one image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._typing import Bools, Floats
from ..errors import bad
from ..models.outputs import one_score_each
from .checks import finite_array

__all__ = ["masker_game"]


def masker_game(
    predict: Callable[[NDArray[Any]], Any],
    image: ArrayLike,
    background: ArrayLike,
    *,
    pixel_axes: tuple[int, int] = (0, 1),
) -> Callable[[Bools], Floats]:
    r"""Game over the pixels of one image, hidden by putting a background in their place.

    Parameters
    ----------
    predict : callable
        Maps images (B, \*image.shape), of the image's dtype, to values (B,) or (B, 1).
    image : array_like, shape (H, W, C), (C, H, W) or (H, W)
        The image, in the units that ``predict`` takes.
    background : array_like
        Broadcast to the image's shape; with one axis more, (S, \*image.shape), a set of
        backgrounds over which the values are averaged.
    pixel_axes : tuple of int
        Axes of rows and columns in ``image``, ascending: (0, 1) for channels last or
        none, (1, 2) for channels first.

    Returns
    -------
    callable
        Maps coalitions, bool (m, H * W), to values (m,), in S calls of ``predict`` on m
        images each.

    Raises
    ------
    PatchShapError
        If an argument is not as above, or the image's dtype cannot hold the background.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(12.0).reshape(2, 2, 3)
    >>> game = masker_game(lambda x: x.sum(axis=(1, 2, 3)), image, 0.0)
    >>> game(np.array([[False, False, False, True], [True, True, True, True]]))
    array([30., 66.])
    """
    pixels = np.asarray(image)
    if not finite_array("image", pixels).size:
        raise bad("image", f"shape {pixels.shape}", "at least one pixel")
    axes = [a + pixels.ndim if a < 0 else a for a in pixel_axes]
    if len(axes) != 2 or not 0 <= axes[0] < axes[1] < pixels.ndim:
        raise bad(
            "pixel_axes",
            f"{pixel_axes} for an image of shape {pixels.shape}",
            "two ascending axes of the image",
            "Use (0, 1) for channels last and (1, 2) for channels first.",
        )
    given = finite_array("background", background)
    lead = (len(given),) if given.ndim == pixels.ndim + 1 else (1,)
    try:
        stack = np.broadcast_to(given, (*lead, *pixels.shape))
    except ValueError:
        stack = given[:0]
    if not stack.size:
        raise bad(
            "background",
            f"shape {given.shape}",
            f"one that broadcasts to {pixels.shape}, or a set (S, *{pixels.shape}) of them",
        )
    with np.errstate(invalid="ignore"):
        hidden = stack.astype(pixels.dtype)
    if pixels.dtype.kind != "f" and (hidden != stack).any():
        raise bad(
            "background",
            f"numbers that {pixels.dtype} cannot hold",
            "numbers of the image's dtype",
            "Round them, or convert the image to float.",
        )
    size = (pixels.shape[axes[0]], pixels.shape[axes[1]])
    mask_shape = [s if a in axes else 1 for a, s in enumerate(pixels.shape)]

    def game(coalitions: Bools) -> Floats:
        shown = np.asarray(coalitions, dtype=bool)
        if shown.ndim != 2 or shown.shape[1] != size[0] * size[1]:
            raise bad("coalitions", f"shape {shown.shape}", f"(m, {size[0] * size[1]}) for pixels")
        mask = shown.reshape(len(shown), *mask_shape)
        total = np.zeros(len(shown))
        for one in hidden:
            total += one_score_each("predict", predict(np.where(mask, pixels, one)), len(shown))
        return total / len(hidden)

    return game
