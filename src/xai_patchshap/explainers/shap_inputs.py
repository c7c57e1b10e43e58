"""Batches as shap's users give them: arrays or tensors, channels first or last, rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._arrays import Layout, as_array, as_tensor, layout_of, stacked
from ..errors import bad

__all__ = ["Images", "as_images"]


@dataclass(frozen=True)
class Images:
    """A batch as the model takes it, ``x``, and as shap shows it, ``data``.

    ``layout`` is that of ``x`` and ``given_layout`` the user's; None for rows (N, F), whose
    ``columns`` may have names. ``dtype`` is the user's, where ``x`` has another or an array came.
    """

    x: Tensor
    data: NDArray[Any]
    layout: Layout | None
    given_layout: Layout | None
    columns: list[str] | None = None
    dtype: np.dtype[Any] | torch.dtype | None = None


def as_images(x: Any, layout: Any, *, for_module: bool) -> Images:
    """Check a batch and bring it into the form that the model wants."""
    columns = getattr(x, "columns", None)  # of a pandas DataFrame
    given = stacked(x)
    tensor = as_tensor(given, "images")
    given = given if isinstance(given, Tensor) else np.asarray(given)
    dtype: np.dtype[Any] | torch.dtype | None = given.dtype
    if isinstance(dtype, np.dtype):
        dtype = dtype.newbyteorder("=")
    if given.ndim not in (2, 4):
        hint = {
            3: "One image alone needs a batch axis: x[None].",
            5: "For volumes and clips use attribute(x, feature_mask=...), which takes any shape.",
        }.get(given.ndim, "")
        raise bad(
            "images",
            f"shape {tuple(given.shape)}",
            "a batch of images, (N, H, W, C) or for tensors (N, C, H, W), or rows (N, F)",
            hint,
        )
    if not len(given) or 0 in given.shape:
        raise bad("images", f"an empty batch of shape {tuple(given.shape)}", "at least one example")
    if isinstance(given, Tensor) and tensor.dtype == given.dtype:
        dtype = None
    if tensor.is_floating_point() and torch.isnan(tensor).any():
        raise bad("images", "NaN", "numbers", "np.nan_to_num(x) replaces NaN.")
    if given.ndim == 2:
        if for_module and not tensor.is_floating_point():
            tensor = tensor.float()
        names = None if columns is None else [str(c) for c in columns]
        return Images(tensor, as_array(tensor).copy(), None, None, names, dtype)
    axes = layout_of(given, layout)
    data = as_array(tensor if axes == "NHWC" else tensor.permute(0, 2, 3, 1)).copy()
    if not for_module:
        return Images(tensor, data, axes, axes, None, dtype)
    if axes == "NHWC":
        tensor = tensor.permute(0, 3, 1, 2)
    return Images(tensor if tensor.is_floating_point() else tensor.float(), data, "NCHW", axes)
