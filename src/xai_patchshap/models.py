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
    module. Behind a convolutional stem (a hybrid) the size is the stride of the whole patch
    embedding. Transformers that merge their patches on the way, as Swin does, are not among
    them.
    """
    if not isinstance(model, nn.Module):
        return None
    sizes = (_own_patch_size(module) for module in model.modules())
    return next((size for size in sizes if size is not None), None)


def _own_patch_size(module: nn.Module) -> tuple[int, int] | None:
    """Of this very module, from what its library keeps there; None for other modules."""
    if isinstance(module, _classes(_TRANSFORMERS)):
        embed: Any = getattr(module, "patch_embed", None)
        if embed is None:  # torchvision counts in pixels, behind a stem too
            return _pair(module.patch_size)
        cut = patch_convolution(embed)
        if cut is not None:
            return _pair(cut.stride)
        sides = _pair(getattr(embed, "img_size", None))
        grid = _pair(getattr(embed, "grid_size", None))
        if sides is None or grid is None or sides[0] % grid[0] or sides[1] % grid[1]:
            return None
        return sides[0] // grid[0], sides[1] // grid[1]
    if isinstance(module, _classes(_PRETRAINED)):
        # Of models of text and images, the part that sees the images.
        config: Any = getattr(module.config, "vision_config", module.config)
        # Those that merge their patches count their layers stage by stage, in depths.
        is_plain = hasattr(config, "hidden_size") and not hasattr(config, "depths")
        size = _pair(getattr(config, "patch_size", None)) if is_plain else None
        # Behind a stem the size is one of feature maps, and no convolution cuts the image so.
        channels = getattr(config, "num_channels", 3)
        for c in module.modules():
            cuts = isinstance(c, nn.Conv2d) and c.kernel_size == c.stride == size
            if cuts and c.in_channels == channels:
                return size
    return None


def patch_convolution(embed: nn.Module) -> nn.Conv2d | None:
    """The convolution that cuts images into patches; None if another module has a part in it."""
    leaves = [m for m in embed.modules() if not any(m.children())]
    convolutions = [m for m in leaves if isinstance(m, nn.Conv2d)]
    others = (m for m in leaves if not isinstance(m, nn.Conv2d))
    harmless = (nn.Identity, nn.Flatten, nn.Dropout)
    if len(convolutions) != 1 or not all(
        isinstance(m, harmless) or "Norm" in type(m).__name__ for m in others
    ):
        return None
    c = convolutions[0]
    cuts = c.kernel_size == c.stride and c.dilation == (1, 1) and c.padding in ((0, 0), "valid")
    return c if cuts else None


def _pair(size: Any) -> tuple[int, int] | None:
    """One number or two as a pair; None for anything else."""
    if isinstance(size, int):
        return size, size
    numbers = isinstance(size, list | tuple) and all(isinstance(n, int) for n in size)
    return (size[0], size[1]) if numbers and len(size) == 2 else None


def _classes(names: tuple[tuple[str, str], ...]) -> tuple[type, ...]:
    """Those of the classes whose library is imported: without it nothing is an instance."""
    return tuple(getattr(sys.modules[m], name) for m, name in names if m in sys.modules)
