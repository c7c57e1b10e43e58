"""Arrays and tensors of every kind that users have, in the form that the package works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.masked import MaskedTensor

from .errors import bad

__all__ = [
    "CHANNELS",
    "Layout",
    "as_array",
    "as_tensor",
    "layout_of",
    "plain_array",
    "plain_tensor",
    "stacked",
]

Layout: TypeAlias = Literal["NCHW", "NHWC"]
CHANNELS = (1, 3, 4)  # of images whose layout is guessed

# Unsigned integers that torch stores but hardly computes with, and what holds them.
_WIDER = {
    getattr(torch, name): wide
    for name, wide in (("uint16", torch.int32), ("uint32", torch.int64), ("uint64", torch.int64))
    if hasattr(torch, name)
}
_WIDER_ARRAYS = {"u2": np.int32, "u4": np.int64, "u8": np.int64}


def plain_tensor(x: Tensor, what: str) -> Tensor:
    """A dense real tensor that torch computes with, sharing memory where that can be."""
    small = x.is_floating_point() and x.element_size() == 1
    for is_so, came, mend in (
        (x.is_nested, "a nested tensor", "Use torch.nested.to_padded_tensor(x, 0.0)."),
        (isinstance(x, MaskedTensor), "a masked tensor", "Use x.to_tensor(0.0)."),
        (x.is_complex(), f"a tensor of {x.dtype}", "Use x.real or x.abs()."),
        (x.is_quantized, f"a tensor of {x.dtype}", "Use x.dequantize()."),
        (x.layout is not torch.strided, f"a tensor of layout {x.layout}", "Use x.to_dense()."),
        (small, f"a tensor of {x.dtype}", "Use x.float()."),
        (x.is_meta, "a tensor on the meta device, without numbers", ""),
    ):
        if is_so:
            raise bad(what, came, "a dense tensor of real numbers", mend)
    x = x.detach().resolve_neg()
    wider = _WIDER.get(x.dtype)
    if wider is None:
        return x
    if x.dtype == getattr(torch, "uint64", None) and bool((x.to(torch.int64) < 0).any()):
        raise bad(what, f"numbers of {x.dtype} beyond 2**63", "smaller ones", "Use x.double().")
    return x.to(wider)


def plain_array(x: Any, what: str) -> NDArray[Any]:
    """A real array of native byte order and positive strides, which torch takes."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise bad(what, "a masked array", "numbers everywhere", "Use x.filled(0).")
    try:
        array = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise bad(what, f"an object of type {type(x).__name__}", "numbers", f"({error})") from None
    if array.dtype == object and not isinstance(x, np.ndarray | list | tuple):
        mend = "Use x.astype(float)." if hasattr(x, "astype") else ""
        raise bad(what, f"an object of type {type(x).__name__}", "numbers", mend)
    if array.dtype.kind not in "fiub":
        mend = "Use x.real or abs(x)." if array.dtype.kind == "c" else "Use x.astype(float)."
        raise bad(what, f"dtype {array.dtype}", "real numbers", mend)
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    if kind == "u8" and array.size and int(array.max()) >= 2**63:
        raise bad(what, "whole numbers beyond 2**63", "smaller ones", "Use x.astype(float).")
    dtype: np.dtype[Any] = array.dtype.newbyteorder("=")
    if kind in _WIDER_ARRAYS:
        dtype = np.dtype(_WIDER_ARRAYS[kind])
    elif dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    return np.ascontiguousarray(array, dtype=dtype).reshape(array.shape)


def as_tensor(x: Any, what: str) -> Tensor:
    """Any array or tensor as a tensor; an array's memory is not shared."""
    return plain_tensor(x, what) if isinstance(x, Tensor) else torch.tensor(plain_array(x, what))


def as_array(x: Any) -> NDArray[Any]:
    """A tensor or anything like an array as an array, without a copy where that can be.

    Floating-point types that numpy lacks, as bfloat16, become float32.
    """
    if not isinstance(x, Tensor):
        return np.asarray(x)
    x = plain_tensor(x, "x").cpu()
    known = (torch.float16, torch.float32, torch.float64)
    known_to_numpy = not x.is_floating_point() or x.dtype in known
    array: NDArray[Any] = (x if known_to_numpy else x.float()).numpy()
    return array


def stacked(x: Any) -> Any:
    """A batch as one tensor or what numpy makes an array of; a list of images is a batch too."""
    if not isinstance(x, list | tuple):
        return x
    for image in x:
        if isinstance(image, Tensor | np.ma.MaskedArray):
            as_tensor(image, "images")  # which refuses what cannot be stacked
    each = [_shape(image) for image in x]
    if len(set(each)) > 1:
        shapes = ", ".join(map(str, each[:3]))
        raise bad(
            "images",
            f"a {type(x).__name__} of arrays of different shapes: {shapes}",
            "one batch of images of one size",
            "Explain images of different sizes one by one, and a model of several inputs by "
            "attribute((x1, x2)).",
        )
    if x and all(isinstance(image, Tensor) for image in x):
        return torch.stack(tuple(x))
    return x


def _shape(image: Any) -> tuple[int, ...] | str:
    try:
        return tuple(np.shape(image))
    except (TypeError, ValueError, RuntimeError):
        return "one that is no array"


def layout_of(x: NDArray[Any] | Tensor, layout: Layout | Literal["auto"] = "auto") -> Layout:
    """Whether a batch of images is (N, C, H, W) or (N, H, W, C).

    Tensors follow torch, channels first. Arrays follow shap, channels last, unless only
    their second axis has 1, 3 or 4 entries.
    """
    if layout in ("NCHW", "NHWC"):
        return layout
    if layout != "auto":
        raise bad("layout", repr(layout), "'auto', 'NCHW' or 'NHWC'")
    first, last = x.shape[1] in CHANNELS, x.shape[3] in CHANNELS
    if isinstance(x, Tensor):
        if last and not first:
            raise bad(
                "images",
                f"a tensor of shape {tuple(x.shape)}",
                "torch's channels-first layout (N, C, H, W)",
                "Use x.permute(0, 3, 1, 2), or PatchMasker(layout='NHWC') if this is right.",
            )
        return "NCHW"
    if last:
        return "NHWC"
    if first:
        return "NCHW"
    raise bad(
        "images",
        f"an array of shape {tuple(x.shape)}",
        "1, 3 or 4 channels in the last or the second axis",
        "Say which axis it is with PatchMasker(layout='NHWC') or 'NCHW'.",
    )


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
