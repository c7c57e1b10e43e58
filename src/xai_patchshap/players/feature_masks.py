"""Captum's ``feature_mask=``: ids of groups as players, and values of players spread over it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._arrays import as_array, as_tensor
from .._validation import ids
from ..errors import bad, warn

__all__ = ["as_labels", "mask_tensors", "spread_coefficients", "sum_over_players"]


# Ids of a feature mask may be this large, or four times the number of elements.
_LARGEST_ID = 10**7


def mask_tensors(feature_mask: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Captum's ``feature_mask`` as int64 tensors (N or 1, ...) that broadcast to the inputs.

    As in Captum, ids that start above 0 are shifted down with a warning.
    """
    given = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
    if len(given) != len(inputs):
        raise bad("feature_mask", f"{len(given)} masks", f"{len(inputs)}, one for each input")
    masks = []
    for i, (m, x) in enumerate(zip(given, inputs, strict=True)):
        what = f"feature_mask[{i}]" if len(inputs) > 1 else "feature_mask"
        m = as_tensor(m, what)
        fits = m.dim() <= x.dim() and all(
            a in (1, b) for a, b in zip(m.shape[::-1], x.shape[::-1], strict=False)
        )
        if not fits:
            raise bad(
                what,
                f"shape {tuple(m.shape)}",
                f"the shape of the input, {tuple(x.shape)}, or one that broadcasts to it",
            )
        m = m.reshape([1] * (x.dim() - m.dim()) + list(m.shape))
        masks.append(torch.from_numpy(ids(empty=True)(what, as_array(m))))
    everyone = torch.cat([m.flatten() for m in masks])
    ids()("feature_mask", everyone.numpy())
    lowest, highest = int(everyone.min()), int(everyone.max())
    if highest > max(_LARGEST_ID, 4 * sum(x.numel() for x in inputs)):
        raise bad(
            "feature_mask",
            f"the id {highest}",
            f"ids of at most {_LARGEST_ID}, since attributions have a place for each id",
            "np.unique(mask, return_inverse=True)[1].reshape(mask.shape) numbers the groups one by "
            "one.",
        )
    if lowest > 0:
        warn(f"feature_mask: the smallest id is {lowest}; ids are shifted to start at 0.")
        masks = [m - lowest for m in masks]
    return tuple(m.to(x.device) for m, x in zip(masks, inputs, strict=True))


def as_labels(
    masks: tuple[Tensor, ...], n_examples: int
) -> tuple[tuple[Tensor, ...], list[NDArray[np.int64]]]:
    """Labels 0..n_i-1 of each example, and the ids of the mask behind them.

    An example plays without the ids that its mask lacks, whether others have them or not.
    """
    everyone: Tensor = torch.cat([m.flatten() for m in masks]).unique()  # type: ignore[no-untyped-call]
    if all(len(m) == 1 for m in masks):
        ids = [everyone] * n_examples
    else:
        masks = tuple(m.expand(n_examples, *m.shape[1:]) for m in masks)
        rows = torch.cat([m.flatten(1) for m in masks], dim=1)
        ids = [row.unique() for row in rows]
    if any(int(present[-1]) != len(present) - 1 for present in ids):
        masks = tuple(
            torch.stack([torch.searchsorted(ids[i], row.contiguous()) for i, row in enumerate(m)])
            for m in masks
        )
    return masks, [present.cpu().numpy() for present in ids]


def spread_coefficients(
    coefficients: Tensor, masks: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Each player's coefficient on all of its elements: (B, M) to the inputs' shapes."""
    out = []
    for m, x in zip(masks, inputs, strict=True):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        rows = coefficients.to(device=x.device, dtype=dtype)
        shape = (len(rows), *x.shape[1:])
        if len(m) == 1:
            spread = rows[:, m[0].reshape(-1)].reshape(len(rows), *m.shape[1:])
        else:
            index = m[: len(rows)]
            spread = rows.gather(1, index.flatten(1)).reshape(index.shape)
        out.append(spread.expand(shape).clone())
    return tuple(out)


def sum_over_players(attributions: tuple[Tensor, ...], masks: tuple[Tensor, ...]) -> Tensor:
    """Sum (B,) that counts each player once, however many elements repeat its value."""
    ids = [m.expand_as(a).flatten(1) for m, a in zip(masks, attributions, strict=True)]
    values = torch.cat([a.double().flatten(1) for a in attributions], dim=1)
    players = torch.cat(ids, dim=1)
    count = torch.zeros(len(players), int(players.max()) + 1, dtype=torch.float64)
    count = count.to(values.device).scatter_add(1, players, torch.ones_like(values))
    return (values / count.gather(1, players)).sum(dim=1)
