"""The anatomy of vision transformers: where each library keeps patches, blocks and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .._compat import loaded_classes
from ..errors import bad

__all__ = [
    "BEHIND_A_BACKGROUND",
    "Anatomy",
    "anatomy_of",
    "is_bare",
    "n_heads",
    "plain_attention",
    "the_transformer",
    "timm_transformer",
    "vit_patch_size",
]

BEHIND_A_BACKGROUND = (
    "hide patches behind a background instead, as in PatchMasker(background='blur')."
)

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
        cut = _patch_convolution(embed)
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


def _patch_convolution(embed: nn.Module) -> nn.Conv2d | None:
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


@dataclass(frozen=True)
class Anatomy:
    """The parts of a ``VisionTransformer`` of timm or torchvision, by one set of names.

    Attributes
    ----------
    embedding : torch.nn.Module
        Cuts images into patches.
    before : torch.nn.Module
        The first that is called behind the position embedding.
    blocks : torch.nn.Module
        Holds the blocks, in their order.
    norm : torch.nn.Module
        Stands behind the blocks.
    n_prefix : int
        Tokens before those of the patches: of the class, and registers.
    pools_patches : bool
        Whether the head reads a mean over the patches.
    image_size : (int, int) or None
        The only size of images that is taken; None for any in whole patches.
    pads : bool
        Whether images are padded to whole patches.
    """

    embedding: nn.Module
    before: nn.Module
    blocks: nn.Module
    norm: nn.Module
    n_prefix: int
    pools_patches: bool
    image_size: tuple[int, int] | None
    pads: bool


def anatomy_of(vit: Any) -> Anatomy:
    """The parts of such a transformer, as they are now."""
    if not hasattr(vit, "patch_embed"):
        size, encoder = vit.image_size, vit.encoder
        parts = vit.conv_proj, encoder.dropout, encoder.layers, encoder.ln
        return Anatomy(*parts, 1, False, (size, size), False)
    embed, n_prefix = vit.patch_embed, int(vit.num_prefix_tokens)
    pools_prefix = bool(getattr(vit, "pool_include_prefix", False)) and n_prefix > 0
    fixed = getattr(embed, "strict_img_size", False) and embed.img_size
    return Anatomy(
        embed,
        vit.patch_drop,
        vit.blocks,
        vit.norm,
        n_prefix,
        vit.global_pool != "token" and not pools_prefix,
        tuple(fixed) if fixed else None,
        bool(getattr(embed, "dynamic_img_pad", False)),
    )


def the_transformer(model: Any) -> Any:
    """The one vision transformer in a model, or an error."""
    classes = loaded_classes("timm_vit", "torchvision_vit")
    parts = model.modules() if isinstance(model, nn.Module) else ()
    found = [m for m in parts if isinstance(m, classes)]
    if len(found) == 1:
        (vit,) = found
        if any(isinstance(m, torch.jit.ScriptModule) for m in vit.modules()):
            raise bad(
                "model",
                f"{type(model).__name__} with a vision transformer that is scripted in part",
                "one whose modules all run in Python",
                f"Pass the model from before torch.jit.script, or {BEHIND_A_BACKGROUND}",
            )
        if _patch_convolution(anatomy_of(vit).embedding) is not None:
            return vit
    hybrid = " (a hybrid: its patch embedding mixes patches)" if len(found) == 1 else ""
    raise bad(
        "model",
        f"{type(model).__name__} with {len(found)} vision transformers{hybrid}",
        "a timm or torchvision VisionTransformer, or a module that holds one",
        "Others (Swin, hybrids, convolutional networks) need the places of all patches: "
        f"{BEHIND_A_BACKGROUND}",
    )


def timm_transformer(model: Any, what: str = "model") -> Any:
    """The one vision transformer in a model, which is timm's, or an error."""
    vit = the_transformer(model)
    if not isinstance(vit, loaded_classes("timm_vit")):
        raise bad(what, "torchvision's VisionTransformer", "one of timm")
    return vit


def is_bare(model: nn.Module) -> bool:
    """Whether a model is a transformer as its library made it, with nothing before it."""
    kind = type(model)
    known = kind.__module__.startswith(("timm.", "torchvision."))
    return known and "VisionTransformer" in kind.__name__


def n_heads(block: Any) -> int:
    """Heads of the attention of one of timm's blocks."""
    return int(block.attn.num_heads)


def plain_attention(block: Any) -> Any:
    """The attention of one of timm's blocks, if it is the usual one; None otherwise."""
    layer = getattr(block, "attn", None)
    is_usual = isinstance(layer, loaded_classes("timm_attention"))
    return layer if is_usual and isinstance(getattr(layer, "qkv", None), nn.Linear) else None
