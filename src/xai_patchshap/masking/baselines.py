"""Captum's ``baselines=``: what stands in for hidden elements, as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._arrays import as_tensor
from ..errors import bad

__all__ = ["baseline_tensors"]


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
