"""Backgrounds: what stands in for the hidden parts of an input."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from .errors import PatchShapError, bad

__all__ = ["Layout", "background_tensor"]

Layout: TypeAlias = Literal["NCHW", "NHWC"]

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
    try:
        array = spec.detach().cpu() if isinstance(spec, Tensor) else spec
        made = torch.tensor(np.asarray(array, dtype=np.float64))
    except (TypeError, ValueError):
        raise bad("background", repr(spec), "numbers", _HOW) from None
    if not torch.isfinite(made).all():
        raise bad("background", "NaN or infinite numbers", "finite numbers")
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
    name, _, argument = spec.partition(":")
    if spec == "drop":
        if not x.is_floating_point():
            raise bad("background", f"'drop' for images of {x.dtype}", "floating-point images")
        return torch.full((1, *x.shape[1:]), torch.nan, dtype=torch.double)
    x = x.detach().double().cpu()
    space = (2, 3) if layout == "NCHW" else (1, 2)
    if name == "mean" and not argument:
        return x.mean(dim=space, keepdim=True).expand_as(x)
    if name == "blur":
        try:
            sigma = float(argument) if argument else min(x.shape[d] for d in space) / 10
        except ValueError:
            sigma = -1.0
        if not 0 < sigma < np.inf:
            raise bad("background", repr(spec), "'blur:SIGMA' with a positive number of pixels")
        sigmas = tuple(sigma if d in space else 0.0 for d in range(4))
        return torch.from_numpy(gaussian_filter(x.numpy(), sigmas, mode="nearest"))
    if name == "noise" and not argument:
        rng = torch.Generator().manual_seed(seed)
        # The same noise for every image, so that an image does not depend on its batch.
        noise = torch.randn(x.shape[1:], generator=rng, dtype=x.dtype)
        deviation = x.std(dim=space, keepdim=True, correction=0)
        return x.mean(dim=space, keepdim=True) + deviation * noise
    raise bad("background", repr(spec), "'mean', 'blur', 'blur:SIGMA', 'noise' or 'drop'", _HOW)
