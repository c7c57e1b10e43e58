"""Tokens that are kept on disk: what the frozen blocks make of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import bad
from ..network import ShapleyViT
from .run import TrainingRun
from .table import Table

__all__ = ["tokens_table"]

_COLUMNS = ["tokens", "logits"]


def tokens_table(network: ShapleyViT, run: TrainingRun) -> Table:
    """What :meth:`ShapleyViT.shared` gives for each image: tokens in half precision, logits."""

    def computed(indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        found = []
        for some in np.array_split(indices, range(128, len(indices), 128)):
            with torch.no_grad(), run.precision():
                tokens, logits = network.shared(run.images(some))
            halved = torch.stack(tokens, 1).half().cpu()
            if not bool(halved.isfinite().all()):
                raise bad("keep_tokens", "tokens beyond half precision", "False for this surrogate")
            found.append((halved, logits.cpu()))
        columns = zip(_COLUMNS, zip(*found, strict=True), strict=True)
        return {name: torch.cat(parts).numpy() for name, parts in columns}

    return run.table(
        "tokens", len(run.dataset), computed, _COLUMNS,
        n_frozen=network.n_frozen, taps=network.taps,
    )  # fmt: skip
