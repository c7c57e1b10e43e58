"""How long, how fast and how precisely to train, and from which seed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..._validation import checked, finite, whole
from ...errors import bad

__all__ = ["Schedule", "as_settings", "precision"]

_LARGEST_SEED = 2**63 - 1  # of torch


@checked(
    epochs=whole(1, 10**6),
    batch_size=whole(1),
    learning_rate=finite(above=0),
    weight_decay=finite(least=0),
    warm_up=finite(least=0, below=1),
    accumulate=whole(1),
    validations=whole(1),
    save_every=whole(1),
    workers=whole(0, 1024),
    seed=whole(0, _LARGEST_SEED),
)
@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; shared by all stages.

    Attributes
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
        Images in one step, over all processes and accumulated parts together.
    learning_rate : float
        Of AdamW, after a warm-up over the first ``warm_up`` share of the steps; from there
        it falls to nothing along a half cosine.
    weight_decay : float
        For matrices; vectors have none.
    warm_up : float
    clip : float
        Largest norm of the gradient.
    accumulate : int
        Parts that a step's batch is split into, one after another.
    validations : int
        How often to validate, evenly spread; the best weights are kept.
    save_every : int
        Steps between two states on disk.
    workers : int
        Processes that load images.
    autocast : torch.dtype, optional
        Precision of the matrix products, as ``torch.bfloat16``.
    seed : int
        Of all that is random in the run.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warm_up: float = 0.05
    clip: float = 1.0
    accumulate: int = 1
    validations: int = 10
    save_every: int = 200
    workers: int = 0
    autocast: torch.dtype | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise bad("accumulate", self.accumulate, f"a divisor of batch_size={self.batch_size}")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step."""
        share = step / steps
        if share < self.warm_up:
            return self.learning_rate * (step + 1) / math.ceil(self.warm_up * steps)
        down = (share - self.warm_up) / (1 - self.warm_up)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * down))


def precision(device: torch.device, dtype: torch.dtype | None) -> Any:
    """Context of the precision that a schedule asks for."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def as_settings(schedule: Schedule) -> dict[str, Any]:
    """What the result of a run depends on."""
    settings = asdict(schedule)
    settings.pop("workers")
    settings.pop("save_every")
    settings["autocast"] = str(schedule.autocast)
    return settings
