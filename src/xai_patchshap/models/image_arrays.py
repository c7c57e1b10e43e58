"""Photographs and arrays of images as the batch that a model takes."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .._arrays import as_array, layout_of, stacked
from ..errors import bad
from .named_model import NamedModel
from .photographs import open_image

__all__ = ["as_batch"]

_OVERSHOOT = 0.1  # of a photograph in [0, 1] that was resized


def as_batch(
    image: Any, named: NamedModel, layout: Any, is_prepared: bool = True
) -> tuple[Any, Any]:
    """A batch of images as a model takes them, and where its channels are.

    Parameters
    ----------
    image : ndarray, Tensor, PIL.Image.Image, path, or list of photographs
    named : NamedModel
    layout : {"auto", "NCHW", "NHWC"}
    is_prepared : bool
        Whether arrays and tensors are photographs too, which are prepared for the model.
    """
    several = image if isinstance(image, list | tuple) else [image]
    are_files = [isinstance(one, str | PathLike | Image.Image) for one in several]
    if several and all(are_files):
        photographs = [one if isinstance(one, Image.Image) else open_image(one) for one in several]
        return torch.stack([named.prepare(p) for p in photographs]), "NCHW"
    if any(are_files):
        raise bad("image", "a list of photographs and arrays", "one or the other")
    x, axes = _arrays(image, layout)
    if not is_prepared:
        return x, axes
    pixels = as_array(x)
    pixels = pixels if axes == "NHWC" else np.moveaxis(pixels, 1, 3)
    if pixels.shape[3] not in (1, 3, 4):
        raise bad("image", f"{pixels.shape[3]} channels", "1, 3 or 4")
    if pixels.dtype != np.uint8:
        _check_scale(pixels)
        if pixels.shape[1:] == (*named.size, named.channels):
            return x, axes
        pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    # Pillow has no axis of channels for gray.
    pixels = pixels[..., 0] if pixels.shape[3] == 1 else pixels
    return torch.stack([named.prepare(Image.fromarray(p)) for p in pixels]), "NCHW"


def _check_scale(pixels: NDArray[Any]) -> None:
    """Raise unless images lie in [0, 1], where a resized one may overshoot a little."""
    if pixels.dtype.kind not in "bf":
        mend = "Divide whole numbers by what is white." if pixels.dtype.kind in "iu" else ""
        raise bad("image", f"dtype {pixels.dtype}", "uint8, 0 to 255, or floats in [0, 1]", mend)
    if not np.isfinite(pixels).all():
        raise bad("image", "NaN or infinity", "numbers", "np.nan_to_num(x) replaces them.")
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0, 0)
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        mend = "Divide by 255." if low >= 0 else "The model normalises them itself."
        raise bad("image", f"numbers from {low:.3g} to {high:.3g}", "images in [0, 1]", mend)


def _arrays(image: Any, layout: Any) -> tuple[NDArray[Any] | Tensor, Any]:
    """An array or a tensor as a batch, and where its channels are."""
    try:
        image = stacked(image)
        x = image if isinstance(image, Tensor) else np.asarray(image)
    except ValueError as error:
        raise bad(
            "image", "images of several sizes", "a batch of one size", f"({error})"
        ) from error
    if x.ndim == 2:
        axes = layout if layout != "auto" else "NCHW" if isinstance(x, Tensor) else "NHWC"
        return (x[None, None] if axes == "NCHW" else x[None, :, :, None]), axes
    if x.ndim not in (3, 4):
        raise bad(
            "image", f"shape {tuple(x.shape)}", "(H, W), (H, W, C), (C, H, W), or a batch of these"
        )
    x = x[None] if x.ndim == 3 else x
    return x, layout_of(x, layout)
