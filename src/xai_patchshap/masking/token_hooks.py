"""Hooks that take the tokens of hidden patches out of a vision transformer's sequence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PatchShapError, bad
from ..models.vit_anatomy import BEHIND_A_BACKGROUND, anatomy_of, vit_patch_size

__all__ = ["Dropper", "UnevenError", "arriving_image", "wrong_size"]


class UnevenError(Exception):
    """Rows of one batch keep different numbers of tokens; ``sizes`` where rows are known."""

    def __init__(self, sizes: Tensor | None) -> None:
        super().__init__()
        self.sizes = sizes


@dataclass
class _Tokens:
    """Tokens on their way from the patch embedding to the first block."""

    kept: Tensor  # places (B, n) that stay, prefix included
    n_all: int
    left: bool = False


class Dropper:
    """Hooks on a transformer during one call of the model around it.

    The patch embedding finds the hidden patches in the very image that it is given; tokens
    leave where the first module behind the position embedding is called.
    """

    def __init__(
        self, vit: Any, share: float, *, pools: bool, trains_before: bool, bare: bool
    ) -> None:
        self.vit, self.share, self.pools, self.bare = vit, share, pools, bare
        self.trains_before = trains_before
        self.thread = threading.get_ident()
        self.failure: Exception | None = None
        self.n_calls = self.n_dropped = 0
        self.tokens: _Tokens | None = None
        # Whether no patch is shown in this call of the transformer.
        self.empty = False
        self.parts = anatomy_of(vit)
        self.n_prefix = self.parts.n_prefix

    def __enter__(self) -> None:
        def only_here(hook: Callable[..., Any]) -> Callable[..., Any]:
            def hooked(*arguments: Any) -> Any:
                # Other threads may be calling the same transformer.
                return hook(*arguments) if threading.get_ident() == self.thread else None

            return hooked

        stack = self._stack = ExitStack()
        blocks = [*getattr(self.parts.blocks, "_orig_mod", self.parts.blocks).children()]
        with ExitStack() as undo:

            def register(add: Callable[..., Any], hook: Callable[..., Any]) -> None:
                undo.callback(add(only_here(hook)).remove)

            embed: Any = self.parts.embedding
            register(embed.register_forward_pre_hook, self._at_embedding)
            for module in (self.parts.before, self.parts.blocks, *blocks):
                register(module.register_forward_pre_hook, self._at_tokens)
            register(self.parts.norm.register_forward_hook, self._behind_norm)
            if self.pools:
                for module in blocks:
                    register(module.register_forward_hook, self._behind_block)
            if hasattr(embed, "dynamic_feat_size"):
                own = embed.dynamic_feat_size

                def places(*arguments: Any) -> Any:
                    if threading.get_ident() == self.thread and self.n_dropped:
                        raise self._failed(
                            "a head that puts the tokens of an intermediate layer into a grid",
                            "a head that reads any number of tokens",
                            f"Ask for output_fmt='NLC' or reshape=False, or {BEHIND_A_BACKGROUND}",
                        )
                    return own(*arguments)

                embed.__dict__["dynamic_feat_size"] = places
                undo.callback(embed.__dict__.pop, "dynamic_feat_size")
            stack.enter_context(undo.pop_all())

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _failed(self, came: str, expected: str, mend: str = "") -> Exception:
        # Kept too, where the model's own code swallows what is raised inside it.
        self.failure = bad("model", came, expected, mend)
        return self.failure

    def _at_embedding(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.tokens is not None:
            raise self._lost()
        image, *rest = arguments
        self.n_calls += 1
        self.empty = False
        patch = self._patch_size_of(image)
        if not self.share:
            return None
        nan = image.isnan()
        hidden = self._hidden_patches(nan, patch)
        other_share = abs(float(nan.float().mean()) - self.share) > 1e-4
        if other_share and self.n_calls > 1:
            raise self._failed(
                "a transformer that runs several times, on views that hide different parts",
                "views that hide as much as the images do",
                f"Run the transformer on whole images, or {BEHIND_A_BACKGROUND}",
            )
        if other_share and self.bare:
            raise self._failed(
                "a transformer whose hooks or methods change which pixels are hidden",
                "one that is given the images as they are",
                f"Change the images before the explainer, or {BEHIND_A_BACKGROUND}",
            )
        if not bool(hidden.any()):
            return None
        if image.requires_grad and not self.trains_before:
            raise self._failed(
                "trained weights before the transformer, whose gradients would be NaN",
                "trained weights inside the transformer or behind it",
                "Freeze what stands before it: call requires_grad_(False) on these modules.",
            )
        counts = (~hidden).sum(1)
        if bool((counts != counts[0]).any()):
            self.failure = UnevenError(counts.cpu() if self.n_calls == 1 else None)
            raise self.failure
        shown = ~hidden
        self.empty = not bool(counts[0])
        if self.empty and not self.n_prefix:
            # No sequence is empty: one token stands in, whose features are set to zero.
            shown[:, 0] = True
        places = shown.nonzero()[:, 1].reshape(len(shown), -1) + self.n_prefix
        prefix = torch.arange(self.n_prefix, device=places.device).expand(len(shown), -1)
        n_all = self.n_prefix + shown.shape[1]
        self.tokens = _Tokens(torch.cat([prefix, places], dim=1), n_all)
        return (image.nan_to_num(0.0, torch.inf, -torch.inf), *rest)

    def _patch_size_of(self, image: Tensor) -> tuple[int, int]:
        """Patch size in pixels, for images that the transformer can take."""
        patch = vit_patch_size(self.vit) or (1, 1)
        size = tuple(image.shape[2:])
        if self.parts.image_size is None:
            right = self.parts.pads or not any(n % p for n, p in zip(size, patch, strict=False))
        else:
            right = size == self.parts.image_size
        if image.dim() != 4 or not right:
            self.failure = wrong_size(image, patch)
            raise self.failure
        return patch

    def _hidden_patches(self, nan: Tensor, patch: tuple[int, int]) -> Tensor:
        """Which patches of the transformer's own image are hidden, bool (B, patches)."""
        height, width = patch
        size = tuple(nan.shape[2:])
        every, some = (reduce(f, nan.unbind(1)) for f in (torch.logical_and, torch.logical_or))
        if self.parts.pads:
            pad = (0, -size[1] % width, 0, -size[0] % height)
            every, some = (
                nn.functional.pad(m[:, None].float(), pad, mode="replicate")[:, 0] > 0
                for m in (every, some)
            )
        cells = (len(nan), every.shape[1] // height, height, every.shape[2] // width, width)
        hidden = every.reshape(cells).all(4).all(2)
        if bool((some.reshape(cells).any(4).any(2) & ~hidden).any()):
            self.failure = bad(
                "images",
                "patches that are hidden in part",
                "hidden patches that are NaN in every pixel",
                f"Players must be made of whole patches of {height}x{width} pixels, as with "
                f"PatchMasker(players='patch:{height}'). The transformer sees images of "
                f"{size[0]}x{size[1]} pixels: where this is another size than the images have, "
                "resize, crop or pad them before the explainer.",
            )
            raise self.failure
        return hidden.flatten(1)

    def _at_tokens(self, module: nn.Module, arguments: tuple[Any, ...]) -> Any:
        if self.pools and self.empty and self.n_prefix and self.tokens is None:
            # What the block before added for others to read is not for this one.
            return (arguments[0][:, : self.n_prefix], *arguments[1:])
        if self.tokens is None:
            return None
        going = self.tokens
        if not arguments or not isinstance(arguments[0], Tensor):
            raise self._lost()
        tokens, *rest = arguments
        n_expected = going.kept.shape[1] if going.left else going.n_all
        n_seen = tokens.shape[1] if tokens.dim() == 3 else -1
        # Patch dropout in training takes out more of them.
        fewer = going.left and self.parts.before.training and 0 < n_seen < n_expected
        if len(tokens) != len(going.kept) or not (n_seen == n_expected or fewer):
            raise self._failed(
                f"tokens of shape {tuple(tokens.shape)} before the blocks",
                f"({len(going.kept)}, {n_expected}, width), the prefix and one for each patch",
                "The model adds, removes or combines tokens on its way into the transformer's "
                f"blocks. In this case, {BEHIND_A_BACKGROUND}",
            )
        if not going.left:
            going.left = True
            self.n_dropped += 1
            places = going.kept[:, :, None].expand(-1, -1, tokens.shape[2])
            tokens = tokens.gather(1, places)
        if module is not self.parts.before:
            self.tokens = None
        return (tokens, *rest)

    def _behind_block(self, _: nn.Module, __: Any, tokens: Tensor) -> Tensor | None:
        return self._with_zeros(tokens) if self.empty else None

    def _behind_norm(self, _: nn.Module, __: Any, tokens: Tensor) -> Tensor | None:
        return (
            self._with_zeros(tokens)
            if self.empty and (self.pools or self.parts.pools_patches)
            else None
        )

    def _with_zeros(self, tokens: Tensor) -> Tensor:
        """Patches of zero for a head that pools, where no patch is shown."""
        prefix = tokens[:, : self.n_prefix]
        return torch.cat([prefix, 0 * tokens[:, -1:]], dim=1)

    def _lost(self) -> Exception:
        return self._failed(
            "tokens that left the patch embedding and never reached the transformer's blocks "
            "by themselves",
            "a model that runs patch embedding and blocks in turn",
            f"Call the transformer once for each image, or {BEHIND_A_BACKGROUND}",
        )

    def check_that_it_ran(self, must_hide: bool) -> None:
        """Raise unless tokens left in this call."""
        if not self.n_calls:
            raise self._failed(
                "a transformer whose patch embedding did not run where it can be seen",
                "a model that calls its transformer as a module",
                "Compiled, scripted, exported or parallel code gets around it: pass the module "
                f"that was there before, or {BEHIND_A_BACKGROUND}",
            )
        if self.tokens is not None:
            raise self._lost()
        if must_hide and not self.n_dropped:
            raise self._failed(
                "hidden pixels that do not reach the transformer as NaN",
                "modules before the transformer that pass NaN on",
                "Something replaces NaN or turns images into whole numbers. Do so before the "
                f"explainer, or {BEHIND_A_BACKGROUND}",
            )


class _ArrivedError(Exception):
    pass


def arriving_image(model: nn.Module, vit: Any, x: Tensor, extra: tuple[Any, ...]) -> Tensor:
    """The image that the transformer is given first; the model goes no further."""
    images, thread = [], threading.get_ident()

    def keep(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() == thread:
            images.append(arguments[0])
            raise _ArrivedError

    handle = anatomy_of(vit).embedding.register_forward_pre_hook(keep)
    try:
        with torch.no_grad(), torch.random.fork_rng(_cuda(x)):
            model(x.clone(), *extra)
    except _ArrivedError:
        pass
    finally:
        handle.remove()
    if not images:
        Dropper(vit, 1.0, pools=False, trains_before=False, bare=False).check_that_it_ran(True)
    image: Tensor = images[0]
    return image


def _cuda(x: Tensor) -> list[torch.device]:
    return [x.device] if x.device.type == "cuda" else []


def wrong_size(images: Tensor, patch: tuple[int, int]) -> PatchShapError:
    """The error for images that are not cut into whole patches."""
    return bad(
        "images",
        f"shape {tuple(images.shape)}",
        f"(B, C, H, W) in whole patches of {patch[0]}x{patch[1]} pixels",
        "Resize or crop the images to the size that the model was made for.",
    )
