"""BatchModel: whatever the user has as one function from a batch to its outputs."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import bad, raised_by
from .outputs import as_scores

__all__ = ["BatchModel"]


class BatchModel:
    """Run a model on batches without leaving a trace on it, nor on what it is given.

    A :class:`torch.nn.Module` runs on the device and in the dtype of its first parameter,
    in evaluation mode and without gradients; every submodule's mode is put back
    afterwards, also where several threads run one module. Every call gets tensors of its own:
    a model may write into its input.

    Parameters
    ----------
    model : torch.nn.Module or callable
        Maps a batch (B, ...) to outputs (B, K) or (B,).
    hands : numpy.dtype or torch.dtype, optional
        A callable that is not a module is handed arrays or tensors of this dtype; by default,
        the tensors as they come.
    autocast : torch.dtype, optional
        Run a module under ``torch.autocast`` in this precision.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        hands: np.dtype[Any] | torch.dtype | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        if not callable(model):
            raise bad(
                "model",
                f"an object of type {type(model).__name__}",
                "a torch.nn.Module or a callable that maps a batch to outputs",
            )
        tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
        if any(is_lazy(t) for t in tensors):
            raise bad("model", "layers that are not built yet", "weights", "Run model(x) once.")
        if any(t.is_meta for t in tensors):
            raise bad("model", "weights on the meta device", "weights with numbers")
        self.model = model
        self.module = model if isinstance(model, nn.Module) else None
        self.hands = hands if self.module is None else None
        if autocast is not None and self.module is None:
            raise bad(
                "autocast",
                f"{autocast} for a model of type {type(model).__name__}",
                "a torch.nn.Module",
                "Enter torch.autocast inside your own function.",
            )
        self.autocast = autocast
        first = next(self._tensors(), None)
        self.device = None if first is None else first.device
        self.dtype = None if first is None else first.dtype
        # Convolutions on the CPU run up to twice as fast on channels-last memory.
        has_convolutions = self.module is not None and any(
            isinstance(m, nn.Conv2d) for m in self.module.modules()
        )
        self.memory_format = torch.channels_last if has_convolutions else torch.contiguous_format

    def _tensors(self) -> Iterator[Tensor]:
        if self.module is not None:
            yield from (p for p in self.module.parameters() if p.is_floating_point())
            yield from (b for b in self.module.buffers() if b.is_floating_point())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Evaluation mode without gradients; what was before comes back at the end."""
        with ExitStack() as stack:
            # Not inference_mode: a buffer that the model caches in its forward pass would
            # become an inference tensor, and the model could not be trained afterwards.
            stack.enter_context(torch.no_grad())
            if self.autocast is not None:
                kind = self.device.type if self.device is not None else "cpu"
                stack.enter_context(torch.autocast(kind, dtype=self.autocast))
            if self.module is not None:
                stack.enter_context(_evaluating(self.module))
            yield

    def __call__(self, inputs: tuple[Tensor, ...], extra: tuple[Any, ...] = ()) -> Tensor:
        """Outputs for one batch, as a tensor of whatever shape."""
        given = ", ".join(f"{tuple(x.shape)} of {x.dtype}" for x in inputs)
        with raised_by(f"the model, which was given {given}"):
            output = self._output(inputs, extra)
        return as_scores(output)

    def _output(self, inputs: tuple[Tensor, ...], extra: tuple[Any, ...]) -> Any:
        if self.memory_format is torch.channels_last:
            try:
                return self.model(*self._copies(inputs), *self._copied(extra))
            except RuntimeError as error:
                # A model that calls .view() on its activations wants them contiguous.
                if "stride" not in str(error) and "contiguous" not in str(error):
                    raise
                self.memory_format = torch.contiguous_format
        return self.model(*self._copies(inputs), *self._copied(extra))

    def _copies(self, inputs: tuple[Tensor, ...]) -> Iterator[Any]:
        """Each input anew, where and how the model wants it."""
        for x in inputs:
            dtype = self.dtype if x.is_floating_point() else None
            memory = self.memory_format if x.dim() == 4 else torch.contiguous_format
            if isinstance(self.hands, np.dtype):
                yield x.numpy().astype(self.hands, order="C")
            elif self.hands is not None:
                yield x.to(dtype=self.hands, memory_format=memory, copy=True)
            else:
                yield x.to(device=self.device, dtype=dtype, memory_format=memory, copy=True)

    def _copied(self, given: Any) -> Any:
        """Further arguments with every tensor and array anew, tensors on the model's device."""
        if isinstance(given, Tensor):
            return given.detach().to(device=self.device, copy=True)
        if isinstance(given, np.ndarray):
            return given.copy()
        if isinstance(given, tuple):
            copies = [self._copied(g) for g in given]
            return given._make(copies) if hasattr(given, "_make") else type(given)(copies)
        if isinstance(given, MutableMapping | MutableSequence):
            new: Any = copy.copy(given)
            for k in list(new) if isinstance(new, MutableMapping) else range(len(new)):
                new[k] = self._copied(new[k])
            return new
        if is_dataclass(given) and not isinstance(given, type | nn.Module):
            new = copy.copy(given)
            for field in fields(given):
                object.__setattr__(new, field.name, self._copied(getattr(given, field.name)))
            return new
        return given


_lock = threading.Lock()
# Modules that some thread runs, by id: the module, its own mode, and how many run it.
_held: dict[int, tuple[nn.Module, bool, int]] = {}


@contextmanager
def _evaluating(root: nn.Module) -> Iterator[None]:
    """Evaluation mode for all modules under ``root``; the last thread puts the modes back.

    Modes are attributes of modules, whatever explainer holds them: threads that share a module
    share its record here. A frozen TorchScript module has no mode, and is in none but this.
    """
    modules = [m for m in root.modules() if hasattr(m, "training")]
    with _lock:
        for m in modules:
            _, mode, n = _held.get(id(m), (m, m.training, 0))
            _held[id(m)] = (m, mode, n + 1)
        # Once all modes are known: a compiled module answers with that of the module inside.
        for m in modules:
            m.training = False
    try:
        yield
    finally:
        with _lock:
            for m in modules:
                _, mode, n = _held.pop(id(m))
                if n > 1:
                    _held[id(m)] = (m, mode, n - 1)
                else:
                    m.training = mode
