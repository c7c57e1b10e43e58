"""What the training loop asks of Accelerate, for a single process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .schedule import precision

__all__ = ["SingleProcess"]


class SingleProcess:
    """The part of ``accelerate.Accelerator`` that the loop needs, and a step of its own.

    Parameters
    ----------
    device : torch.device
    autocast : torch.dtype or None
        Precision of the matrix products.
    """

    is_main_process = True
    num_processes, process_index = 1, 0

    def __init__(self, device: torch.device, autocast: torch.dtype | None) -> None:
        self.device, self._dtype = device, autocast
        # Half precision underflows without a scale; bfloat16 has the range of float32.
        scaled = autocast == torch.float16 and device.type == "cuda"
        self.scaler = torch.amp.GradScaler(enabled=scaled)

    def prepare(self, *parts: Any) -> tuple[Any, ...]:
        return parts

    def autocast(self) -> Any:
        return precision(self.device, self._dtype)

    def no_sync(self, _: nn.Module) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        scaled: Any = self.scaler.scale(loss)
        scaled.backward()

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], clip: float
    ) -> None:
        self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, clip)
        self.scaler.step(optimizer)
        self.scaler.update()

    def wait_for_everyone(self) -> None:
        pass
