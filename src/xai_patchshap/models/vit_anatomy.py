"""The anatomy of vision transformers: where each library keeps patches, blocks and tokens."""

from __future__ import annotations

from typing import Any

from torch import nn

from .._compat import loaded_classes

__all__ = ["patch_convolution", "vit_patch_size"]


_TRANSFORMERS = ("timm_vit", "timm_eva", "timm_beit", "torchvision_vit")


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
    if isinstance(module, loaded_classes(*_TRANSFORMERS)):
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
    if isinstance(module, loaded_classes("transformers_model")):
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
