"""Warnings of requests that are likely a mistake."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import warn
from ..masking.coalition_inputs import CoalitionInputs

__all__ = ["warn_of_budget", "warn_of_many_players", "warn_of_scale"]

_MANY_PLAYERS = 10_000


def warn_of_many_players(inputs: CoalitionInputs) -> bool:
    """Whether players that nobody chose are that many that a warning was due."""
    n = max(inputs.n_players)
    if n > _MANY_PLAYERS:
        warn(
            f"{n:,} players, one for each element: evaluations and memory grow with their "
            "number. Group them with feature_mask= or PatchMasker(players=...)."
        )
    return n > _MANY_PLAYERS


def warn_of_budget(name: str, budget: int, inputs: CoalitionInputs, few_per_player: int) -> None:
    """One warning for a budget, given as ``name``, that is too small for good values."""
    n, s = max(inputs.n_players), inputs.n_backgrounds
    coalitions = 1 + (budget - 1) // s
    if coalitions < min(few_per_player * n, 2 ** min(n, 60)):
        warn(
            f"{name}={budget} is few for {n} players: the values will be noisy. Give "
            f"{name}={8 * n * s} or more, eight for each player, or choose fewer players."
        )


def warn_of_scale(model: Any, inputs: tuple[Tensor, ...]) -> None:
    """One warning for images of whole numbers 0..255 that go into a module of floats."""
    for x in inputs if isinstance(model, nn.Module) else ():
        if x.dim() != 4 or x.dtype == torch.bool or not x.numel():
            continue
        low, high = float(x.min()), float(x.max())
        if low < 0 or not 1 < high <= 255 or not bool((x == x.round()).all()):
            continue
        warn(
            f"The images hold whole numbers from {low:g} to {high:g}, and modules are mostly "
            "trained on [0, 1] or on normalised images. If this one is, give images / 255."
        )
        return
