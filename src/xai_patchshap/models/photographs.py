"""Photographs: files as images, upright, resized, cut to the size that a model takes."""

from __future__ import annotations

import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from .._validation import check_memory, said
from ..errors import bad, file_error

__all__ = ["MODES", "Crop", "check_image", "check_size", "open_image"]


# PIL's names for images of so many channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


# A photograph is resized as a whole if that is no larger than this many times its centre.
_ROOMY = 16


# What sets a photograph upright, by its orientation in EXIF.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Crop:
    """The centre of photographs, as a model takes it.

    Attributes
    ----------
    size : (int, int)
        Height and width in pixels.
    share : float
        Of the resized photograph's height or width that is kept.
    channels : {3, 1, 4}
        RGB, gray or RGBA.
    """

    size: tuple[int, int]
    share: float = 1.0
    channels: int = 3

    def __call__(self, image: Image.Image, zoom: int = 1) -> Tensor:
        """Turn a photograph upright, resize it and cut out its centre.

        Parameters
        ----------
        image : PIL.Image.Image
            In any mode of 8 bits, or gray in 16.
        zoom : int
            2 gives the same crop at twice the resolution, to look at.

        Returns
        -------
        Tensor of float32, shape (channels, zoom * height, zoom * width)
            In [0, 1].

        Raises
        ------
        PatchShapError
            If a photograph has more than 16 bits, or there are no such channels.
        """
        if self.channels not in MODES:
            raise bad("image", f"a photograph for a model of {self.channels} channels", "1, 3 or 4")
        if not image.width or not image.height:
            raise bad("image", f"{image.width} x {image.height} pixels", "at least one pixel")
        height, width = (zoom * side for side in self.size)
        check_size(height, width)
        image = _in_mode(_upright(image), MODES[self.channels])
        crop = _resized_centre(image, height, width, self.share)
        pixels = np.array(crop).reshape(height, width, self.channels)
        return torch.tensor(pixels).permute(2, 0, 1).float() / 255


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise OSError("no regular file")
        with warnings.catch_warnings():
            # Pillow refuses what is dangerously large, and only warns of half of that.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except Exception as error:  # each decoder has errors of its own
        kind = file_error(error)
        raise bad("image", f"'{path}'", "a readable image file", f"({error})", kind) from error


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image of a file, as it is stored.

    Raises
    ------
    PatchShapError
        If it is no readable image.
    """
    with _opened(path) as image:
        return image.copy()


def check_image(path: str | os.PathLike[str]) -> None:
    """Raise the error of :func:`open_image` if a file does not even begin as an image does."""
    with _opened(path):
        pass


def _upright(image: Image.Image) -> Image.Image:
    """The photograph as the camera was held; as it is stored, if its EXIF data are damaged."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of many kinds
        turn = None
    return image if turn is None else image.transpose(turn)


def _resized_centre(image: Image.Image, height: int, width: int, share: float) -> Image.Image:
    """Resize to the ``share``-th part of height or width, and cut out the centre."""
    scale = max(height / image.height, width / image.width) / share
    whole = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    cut = left, top, left + width, top + height
    if whole[0] * whole[1] <= _ROOMY * width * height:
        return image.resize(whole, Image.Resampling.BICUBIC).crop(cut)
    # A long strip of pixels: what is cut off is never resized. PIL keeps places in single
    # precision, so they are counted from a first, coarse cut.
    scales = (image.width / whole[0], image.height / whole[1]) * 2
    box = [place * scale for place, scale in zip(cut, scales, strict=True)]
    margin = [3 + 2 * (box[2] - box[0]), 3 + 2 * (box[3] - box[1])]
    x, y = (max(0, math.floor(box[i] - margin[i])) for i in (0, 1))
    right = min(image.width, math.ceil(box[2] + margin[0]))
    bottom = min(image.height, math.ceil(box[3] + margin[1]))
    inside = (box[0] - x, box[1] - y, box[2] - x, box[3] - y)
    coarse = image.crop((x, y, right, bottom))
    return coarse.resize((width, height), Image.Resampling.BICUBIC, box=inside)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """``image.convert(mode)``, which alone makes white of all that is brighter than 255."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    try:
        if image.mode in ("I", "F"):
            raise ValueError("nothing says what white is")
        return image.convert(mode)
    except ValueError as error:
        came = f"a photograph of PIL's mode {image.mode!r}"
        raise bad("image", came, "gray or colour of 8 bits, or gray of 16", f"({error})") from error


def check_size(height: int, width: int) -> None:
    """Raise unless there is memory for a photograph of that size, in floats and in bytes."""
    came = f"{said(height)} x {said(width)} pixels for one image"
    check_memory("size", came, 30 * height * width, "Choose a smaller size.")
