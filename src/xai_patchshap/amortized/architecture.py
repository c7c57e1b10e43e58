"""How to build a vision transformer again: what a card says of a checkpoint's model."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import timm
import torch
from timm.models import is_model_in_modules
from torch import Tensor, nn

from ..errors import bad
from ..models.named_model import ScoredImages

__all__ = ["Architecture", "is_plain_transformer"]

# What a card may say of timm's VisionTransformer: plain numbers and words, nothing to open.
_OPTIONS = frozenset({
    "act_layer", "attn_drop_rate", "class_token", "depth", "drop_path_rate", "drop_rate",
    "dynamic_img_pad", "dynamic_img_size", "embed_dim", "embed_norm_layer", "fc_norm",
    "final_norm", "fix_init", "global_pool", "img_size", "in_chans", "init_values", "mlp_ratio",
    "no_embed_class", "norm_layer", "num_classes", "num_heads", "patch_drop_rate", "patch_size",
    "pool_include_prefix", "pos_drop_rate", "pos_embed", "pre_norm", "proj_bias",
    "proj_drop_rate", "qk_norm", "qkv_bias", "reg_tokens", "scale_attn_norm", "scale_mlp_norm",
    "weight_init",
})  # fmt: skip
_FAMILIES = ("vision_transformer", "deit")
_LARGEST = 2**20
_MOST_BLOCKS = 1024


@dataclass(frozen=True)
class Architecture:
    """How to build a vision transformer again, without its weights.

    Attributes
    ----------
    name : str
        Of a timm ``VisionTransformer``, without a tag of pretrained weights.
    options : dict
        Further arguments of ``timm.create_model``: numbers, booleans and short words that say
        what is built, as ``img_size``, ``num_classes``, ``embed_dim`` or ``depth``.
    mean, std : sequence of float
        Normalisation of the images, which are RGB in [0, 1].

    Raises
    ------
    PatchShapError
        If the name is none that timm has, or an option is of another kind: a card of a
        checkpoint cannot make a file be opened or a network be asked.

    Examples
    --------
    >>> Architecture("test_vit", {"num_classes": 5}).build()(torch.rand(2, 3, 160, 160)).shape
    torch.Size([2, 5])
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not is_plain_transformer(self.name):
            raise bad(
                "architecture",
                reprlib.repr(self.name),
                "the name of a VisionTransformer that timm has",
                "Leave out tags of pretrained weights, as in 'vit_tiny_patch16_224'.",
            )
        if not isinstance(self.options, Mapping):
            raise bad("architecture", f"options {reprlib.repr(self.options)}", "a dictionary")
        for key, value in self.options.items():
            if key not in _OPTIONS:
                raise bad(
                    "architecture",
                    f"an option {reprlib.repr(key)}",
                    f"those of a VisionTransformer that are plain: {', '.join(sorted(_OPTIONS))}",
                )
            if not _is_option(key, value):
                raise bad(
                    "architecture",
                    f"{key}={reprlib.repr(value)}",
                    f"a number of at most {_LARGEST} (of blocks, {_MOST_BLOCKS}), a boolean or a "
                    "short word, or two numbers for the size of images and patches",
                )
        channels = self.options.get("in_chans", 3)
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if not _are_numbers(numbers, channels) or (key == "std" and 0 in numbers):
                raise bad(
                    "architecture",
                    f"{key}={reprlib.repr(numbers)}",
                    f"{channels} finite numbers, one for each channel"
                    + ", none of them 0" * (key == "std"),
                )

    def build(self, device: str | None = None) -> ScoredImages:
        """The transformer with random weights, from images in [0, 1] to logits.

        On the device "meta" it has none, and takes no memory.
        """
        place = {} if device is None else {"device": device}
        try:
            vit = timm.create_model(self.name, pretrained=False, **self.options, **place)
        except Exception as error:  # timm raises whatever the model's constructor raises
            raise bad(
                "architecture",
                f"{self.name!r} with {dict(self.options)}",
                "a timm model and arguments that it takes",
                f"({error})",
            ) from error
        return ScoredImages(vit, tuple(self.mean), tuple(self.std), probability=False)

    def check_builds(self, model: nn.Module, images: Tensor) -> None:
        """Raise unless this, with the weights of a model in evaluation mode, gives its outputs."""
        weights = model.state_dict()
        mine = {k: v.shape for k, v in self.build("meta").state_dict().items()}
        if mine != {k: v.shape for k, v in weights.items()}:
            raise bad(
                "architecture",
                f"{self.name!r} with {dict(self.options)}, whose weights are not the model's",
                "the architecture of this model, of which architecture.build() makes one",
            )
        with torch.random.fork_rng(devices=[]):
            built = self.build()
        built.load_state_dict(weights)
        with torch.no_grad():
            found, wanted = built.to(images.device).eval()(images), model(images)
        if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())):
            raise bad(
                "architecture",
                f"{self.name!r} with {dict(self.options)}, mean={tuple(self.mean)}, "
                f"std={tuple(self.std)}, which with the model's weights gives other outputs",
                "the architecture and the normalisation of this model",
            )

    def as_dict(self) -> dict[str, Any]:
        """For a JSON card."""
        return asdict(self)


def is_plain_transformer(name: Any) -> bool:
    """Whether timm has a VisionTransformer of that name, which must be no more than a name."""
    return (
        isinstance(name, str)
        and re.fullmatch(r"\w{1,100}", name, re.ASCII) is not None
        and bool(is_model_in_modules(name, _FAMILIES))
    )


def _is_option(key: str, value: Any) -> bool:
    if isinstance(value, tuple | list):
        sizes = key in ("img_size", "patch_size") and len(value) == 2
        return sizes and all(_is_option(key, v) and isinstance(v, int) for v in value)
    if isinstance(value, str):
        return re.fullmatch(r"\w{0,32}", value, re.ASCII) is not None
    if value is None or isinstance(value, bool):
        return True
    limit = _MOST_BLOCKS if key == "depth" else _LARGEST
    return isinstance(value, int | float) and abs(value) <= limit  # which NaN is not


def _are_numbers(numbers: Any, n: Any) -> bool:
    return (
        isinstance(numbers, tuple | list)
        and len(numbers) == n
        and all(
            isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= _LARGEST
            for x in numbers
        )
    )
