"""What training keeps on disk: values that others evaluated, tokens of the frozen blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import bad
from ..network import ShapleyViT
from ..predicted_game import Prediction
from .data import images_of
from .schedule import Schedule, precision
from .table import Table

__all__ = ["Arguments", "Numbers", "elsewhere", "predicted", "with_tokens"]

Arguments = Callable[[Tensor, Tensor, torch.Generator], tuple[Any, ...]]


class Numbers(Dataset[Tensor]):
    """In place of images that are not needed any more."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, _: int) -> Tensor:
        return torch.empty(0, 0, 0)


def elsewhere(
    evaluate: Callable[[Tensor, Tensor], Tensor],
    network: ShapleyViT,
    images: Tensor,
    halves: Tensor,
) -> Tensor:
    """Logits (B, 2 m, K) of pairs of coalitions (B, m, n) by another function."""
    both = torch.cat([halves, ~halves], 1).to(images.device)
    parts = []
    for some, coalitions in zip(torch.split(images, 128), torch.split(both, 128), strict=True):
        with torch.no_grad():
            found = torch.as_tensor(evaluate(some.clone(), coalitions)).detach().cpu().float()
        wanted = (*coalitions.shape[:2], network.n_outputs)
        if found.shape != wanted or not bool(found.isfinite().all()):
            what = "" if found.shape != wanted else ", some not finite"
            raise bad(
                "evaluate",
                f"a function that gives {tuple(found.shape)}{what}",
                f"one that gives finite logits {wanted} for images {tuple(some.shape)} and "
                f"coalitions {tuple(coalitions.shape)}",
            )
        parts.append(found)
    return torch.cat(parts)


def predicted(network: ShapleyViT, images: Tensor, kept: Sequence[Tensor]) -> Prediction:
    """The prediction for images, of which tokens and logits may be known already."""
    if not kept:
        return network.predict(images)
    tokens, logits = kept
    return network.predict_from(tokens.float().unbind(1), logits)


def with_tokens(
    arguments: Arguments,
    network: ShapleyViT,
    dataset: Any,
    folder: Path,
    described: dict[str, Any],
    schedule: Schedule,
    common: dict[str, Any],
) -> Arguments:
    """The same arguments, and behind them what the frozen blocks make of the images."""
    device = network.null.device

    def passed(indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        found = []
        for some in np.array_split(indices, range(128, len(indices), 128)):
            with torch.no_grad(), precision(device, schedule.autocast):
                tokens, logits = network.shared(images_of(dataset, some, device))
            halved = torch.stack(tokens, 1).half().cpu()
            if not bool(halved.isfinite().all()):
                raise bad("keep_tokens", "tokens beyond half precision", "False for this surrogate")
            found.append((halved, logits.cpu()))
        columns = zip(names, zip(*found, strict=True), strict=True)
        return {name: torch.cat(parts).numpy() for name, parts in columns}

    key = {**described, "n_frozen": network.n_frozen, "taps": network.taps}
    names = ["tokens", "logits"]
    table = Table(folder / "tokens", len(dataset), passed, names, key, title="tokens", **common)

    def extended(indices: Tensor, images: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        rows = table.rows(indices.numpy())
        kept = [torch.from_numpy(rows[name]) for name in names]
        return *arguments(indices, images, generator), *kept

    return extended
