"""Backgrounds: what stands in for the hidden parts of an input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from .._arrays import Layout, as_array, as_tensor, plain_tensor
from ..errors import PatchShapError, bad, warn

__all__ = ["background_tensor", "baseline_tensors"]


_HOW = (
    "A background can be a number, a tuple with one number per channel, 'mean', 'blur', "
    "'blur:SIGMA', 'noise', 'drop', an image of the input's own shape, or a list of these, whose "
    "values are averaged."
)


def background_tensor(spec: Any, x: Tensor, layout: Layout | None, seed: int = 0) -> Tensor:
    """All backgrounds of a batch.

    Parameters
    ----------
    spec
        Any background that :class:`~xai_patchshap.PatchMasker` takes; a list, or images
        stacked along a new first axis, is a set.
    x : Tensor
        Images (N, C, H, W) or (N, H, W, C), as ``layout`` says; with ``layout=None`` any
        batch (N, ...).
    seed : int
        Seed of noise.

    Returns
    -------
    Tensor of shape (S, N or 1, ...)
        In the dtype and on the device of ``x``; rounded for integers.
    """
    spec = _array_of(spec)
    if isinstance(spec, np.ndarray | Tensor) and spec.ndim == x.dim() and len(spec) != 1:
        spec = list(spec)
    specs = spec if isinstance(spec, list) else [spec]
    if not specs:
        raise bad("background", "an empty list", "at least one background", _HOW)
    each = []
    for i, s in enumerate(specs):
        made = _generated(s, x, layout, seed + i) if isinstance(s, str) else _given(s, x, layout)
        each.append(made if x.is_floating_point() else made.round())
    n = max(len(b) for b in each)
    stacked = torch.stack([b.expand(n, *x.shape[1:]) for b in each])
    return stacked.to(device=x.device, dtype=x.dtype)


def _given(spec: Any, x: Tensor, layout: Layout | None) -> Tensor:
    """A number, a colour or an image, (1, ...)."""
    shape = tuple(x.shape[1:])
    made = _finite(spec)
    if made.dim() == x.dim() and len(made) == 1:
        made = made[0]
    if made.dim() == 1 and layout is not None:
        channels = shape[0 if layout == "NCHW" else -1]
        if len(made) not in (1, channels):
            raise bad("background", f"a colour of {len(made)} channels", f"{channels} channels")
        made = made[:, None, None] if layout == "NCHW" else made
    elif made.dim() == 3 and layout is not None and tuple(made.shape) != shape:
        # A background image may come channels last for a model that wants channels first.
        made = made.permute(2, 0, 1) if layout == "NCHW" else made.permute(1, 2, 0)
    if made.dim() and made.dim() != len(shape) and layout is None:
        raise bad("background", f"shape {tuple(made.shape)}", f"the shape of one input, {shape}")
    try:
        return made.expand(1, *shape)
    except RuntimeError:
        came = f"an array of shape {np.shape(spec)}"
        raise bad("background", came, f"the shape of one input, {shape}", _HOW) from None


def _generated(spec: str, x: Tensor, layout: Layout | None, seed: int) -> Tensor:
    """What a background's name stands for, (N or 1, ...)."""
    if layout is None:
        raise PatchShapError(
            f"background: {spec!r} is made from an image, got inputs of shape {tuple(x.shape)}; "
            "expected (N, C, H, W) or (N, H, W, C). Give a number or an array instead."
        )
    name = _name(spec)
    if name == "drop":
        if not x.is_floating_point():
            raise bad("background", f"'drop' for images of {x.dtype}", "floating-point images")
        return torch.full((1, *x.shape[1:]), torch.nan, dtype=torch.double)
    x = x.detach().double().cpu()
    space = (2, 3) if layout == "NCHW" else (1, 2)
    if name == "mean":
        return x.mean(dim=space, keepdim=True).expand_as(x)
    if name == "blur":
        sigma = _sigma(spec) or min(x.shape[d] for d in space) / 10
        most = 10 * max(x.shape[d] for d in space)
        if sigma > most:
            raise bad(
                "background",
                repr(spec),
                f"at most {most} pixels, ten times the image's longer side",
            )
        sigmas = tuple(sigma if d in space else 0.0 for d in range(4))
        return torch.from_numpy(gaussian_filter(x.numpy(), sigmas, mode="nearest"))
    rng = torch.Generator().manual_seed(seed)
    # The same noise for every image, so that an image does not depend on its batch.
    noise = torch.randn(x.shape[1:], generator=rng, dtype=x.dtype)
    deviation = x.std(dim=space, keepdim=True, correction=0)
    return x.mean(dim=space, keepdim=True) + deviation * noise


def check_background(spec: Any) -> None:
    """Raise unless ``spec`` is a background for some image; warn of a list of three numbers."""
    specs = spec if isinstance(spec, list) else [spec]
    if not specs:
        raise bad("background", "an empty list", "at least one background", _HOW)
    for s in specs:
        if isinstance(s, str):
            _name(s)
        else:
            _finite(_array_of(s))
    if len(specs) == 3 and all(isinstance(s, int | float | np.number) for s in specs):
        warn(
            f"background: the list {spec} is a set of three gray backgrounds, over which values "
            f"are averaged. The colour is the tuple {tuple(spec)}."
        )


def _name(spec: str) -> str:
    """The name in a background's text, which is checked."""
    name, colon, _ = spec.partition(":")
    if name not in ("mean", "blur", "noise", "drop") or (colon and name != "blur"):
        raise bad("background", repr(spec), "'mean', 'blur', 'blur:SIGMA', 'noise' or 'drop'", _HOW)
    if colon:
        _sigma(spec)
    return name


def _sigma(spec: str) -> float:
    """The number of pixels in 'blur:SIGMA'; 0 for 'blur' alone."""
    _, colon, argument = spec.partition(":")
    if not colon:
        return 0.0
    try:
        sigma = float(argument)
    except ValueError:
        sigma = -1.0
    if not 0 < sigma < np.inf:
        raise bad("background", repr(spec), "'blur:SIGMA' with a positive number of pixels")
    return sigma


def _array_of(spec: Any) -> Any:
    """The rows of a table as an array; every other background as it came."""
    if type(spec).__name__ == "DenseData":  # what shap.kmeans and shap.sample's like return
        raise bad(
            "background",
            "a weighted summary, as shap.kmeans makes it",
            "rows without weights",
            "Give its centres, background=summary.data, or rows of the data, "
            "background=shap.sample(data, 20).",
        )
    return spec.to_numpy() if hasattr(spec, "to_numpy") else spec


def _finite(spec: Any) -> Tensor:
    """A background of finite numbers as a tensor of float64."""
    made = _numbers(spec)
    if not made.numel():
        raise bad("background", f"an empty {type(spec).__name__}", "at least one number", _HOW)
    if not torch.isfinite(made).all():
        raise bad("background", "NaN or infinite numbers", "finite numbers")
    return made


def _numbers(spec: Any) -> Tensor:
    """A background of numbers as a tensor of float64."""
    try:
        if isinstance(spec, Tensor):
            spec = plain_tensor(spec, "background")
        elif isinstance(spec, tuple) and any(isinstance(s, Tensor) for s in spec):
            spec = [as_array(s) for s in spec]
        array = as_array(spec)
        if spec is None or array.dtype.kind not in "fiubO" or np.ma.is_masked(spec):
            raise TypeError(array.dtype)
        return torch.tensor(array.astype(np.float64))
    except PatchShapError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError):
        is_one = not isinstance(spec, list | tuple) and np.ndim(spec) == 0
        came = repr(spec) if is_one else f"an object of type {type(spec).__name__}"
        raise bad("background", came, "numbers", _HOW) from None


def baseline_tensors(baselines: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Captum's ``baselines`` (None, number, tensor or tuple) as (1, N or 1, ...) tensors."""
    if baselines is None:
        baselines = tuple(0 for _ in inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(given) != len(inputs):
        raise bad("baselines", f"{len(given)} of them", f"{len(inputs)}, one for each input")
    out = []
    for i, (b, x) in enumerate(zip(given, inputs, strict=True)):
        what = f"baselines[{i}]" if len(inputs) > 1 else "baselines"
        b = as_tensor(b, what)
        if not b.dim():
            b = b.to(x.device).reshape([1] * x.dim())
        elif b.shape[1:] != x.shape[1:] or b.dim() != x.dim() or len(b) not in (1, len(x)):
            raise bad(
                what,
                f"shape {tuple(b.shape)}",
                f"{tuple(x.shape)}, or the same with 1 as first size",
            )
        if b.is_floating_point() and torch.isnan(b).any():
            raise bad(what, "NaN", "numbers")
        b = b.to(x.device)
        out.append((b.to(x.dtype) if x.is_floating_point() else b)[None])
    return tuple(out)
