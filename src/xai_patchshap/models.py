"""Models: whatever the user has becomes one function from a batch to its outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import bad

__all__ = ["BatchModel", "vit_patch_size"]


_TRANSFORMERS = (
    ("timm.models.vision_transformer", "VisionTransformer"),
    ("timm.models.eva", "Eva"),
    ("timm.models.beit", "Beit"),
    ("torchvision.models.vision_transformer", "VisionTransformer"),
)
_PRETRAINED = (("transformers.modeling_utils", "PreTrainedModel"),)


class BatchModel:
    """Run a model on batches without leaving a trace on it.

    A :class:`torch.nn.Module` runs on the device and in the dtype of its first parameter,
    in evaluation mode and without gradients; every submodule's mode is put back
    afterwards. A callable gets what the user gave: numpy arrays or tensors.

    Parameters
    ----------
    model : torch.nn.Module or callable
        Maps a batch (B, ...) to outputs (B, K) or (B,).
    numpy_io : bool
        Hand numpy arrays to a callable that is not a module.
    autocast : torch.dtype, optional
        Run a module under ``torch.autocast`` in this precision.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        numpy_io: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        if not callable(model):
            raise bad(
                "model",
                f"an object of type {type(model).__name__}",
                "a torch.nn.Module or a callable that maps a batch to outputs",
            )
        self.model = model
        self.module = model if isinstance(model, nn.Module) else None
        self.numpy_io = numpy_io and self.module is None
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
        modes = [(m, m.training) for m in self.module.modules()] if self.module else []
        with ExitStack() as stack:
            # Not inference_mode: a buffer that the model caches in its forward pass would
            # become an inference tensor, and the model could not be trained afterwards.
            stack.enter_context(torch.no_grad())
            if self.autocast is not None:
                kind = self.device.type if self.device is not None else "cpu"
                stack.enter_context(torch.autocast(kind, dtype=self.autocast))
            try:
                for module, _ in modes:
                    module.training = False
                yield
            finally:
                for module, mode in modes:
                    module.training = mode

    def __call__(self, inputs: tuple[Tensor, ...], extra: tuple[Any, ...] = ()) -> Any:
        """Outputs for one batch, as the model returns them."""
        if self.numpy_io:
            return self.model(*(x.numpy() for x in inputs), *extra)
        inputs = tuple(self._placed(x) for x in inputs)
        extra = tuple(
            x.to(self.device) if isinstance(x, Tensor) and self.device is not None else x
            for x in extra
        )
        if self.memory_format is torch.channels_last:
            try:
                return self.model(*(_in_format(x, self.memory_format) for x in inputs), *extra)
            except RuntimeError as error:
                # A model that calls .view() on its activations wants them contiguous.
                if "stride" not in str(error) and "contiguous" not in str(error):
                    raise
                self.memory_format = torch.contiguous_format
        return self.model(*(_in_format(x, self.memory_format) for x in inputs), *extra)

    def _placed(self, x: Tensor) -> Tensor:
        if self.device is None:
            return x
        return x.to(self.device, self.dtype if x.is_floating_point() else None)


def _in_format(x: Tensor, memory: torch.memory_format) -> Tensor:
    return x.contiguous(memory_format=memory) if x.dim() == 4 else x


def vit_patch_size(model: object) -> tuple[int, int] | None:
    """Patch size in pixels of the vision transformer in ``model``; None if there is none.

    Knows the vision transformers of timm, torchvision and transformers, also inside a wrapper
    module. Those that merge their patches on the way, as Swin does, are not among them.
    """
    if not isinstance(model, nn.Module):
        return None
    for module in model.modules():
        size = _own_patch_size(module)
        if size is not None:
            return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return None


def _own_patch_size(module: nn.Module) -> Any:
    """As the library that made the module keeps it, a number or two; None for other modules."""
    if isinstance(module, _classes(_TRANSFORMERS)):
        return getattr(module, "patch_embed", module).patch_size
    if isinstance(module, _classes(_PRETRAINED)):
        # Of models of text and images, the part that sees the images.
        config = getattr(module.config, "vision_config", module.config)
        # Those that merge their patches count their layers stage by stage, in depths.
        is_plain = hasattr(config, "hidden_size") and not hasattr(config, "depths")
        return getattr(config, "patch_size", None) if is_plain else None
    return None


def _classes(names: tuple[tuple[str, str], ...]) -> tuple[type, ...]:
    """Those of the classes whose library is imported: without it nothing is an instance."""
    return tuple(getattr(sys.modules[m], name) for m, name in names if m in sys.modules)
