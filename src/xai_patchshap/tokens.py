"""Token dropping: vision transformers that do not see hidden patches at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import bad
from .models import vit_patch_size

__all__ = ["TokenDropping"]


class TokenDropping(nn.Module):
    """A vision transformer whose hidden patches leave the sequence of tokens.

    A patch is hidden where all of its pixels are NaN. Its token is taken out after position
    embedding, before the first block: every value is that of an attention mask over the
    hidden keys (Covert, Kim and Lee, Learning to estimate Shapley values with vision
    transformers, ICLR 2023), at a part of the work, and no background stands in for what is
    hidden. With ``PatchMasker(background="drop")`` the explainers of this package do so by
    themselves; shap's own explainers take this wrapper as their model.

    Parameters
    ----------
    model : torch.nn.Module
        A timm or torchvision ``VisionTransformer``, or a module that holds exactly one, for
        example behind a normalisation. It is not modified: hooks live during a call.

    Attributes
    ----------
    patch_size : (int, int)
        Height and width of a patch in pixels.

    Raises
    ------
    PatchShapError
        If the model is not such a transformer, or, when it is called, if images are not made
        of whole patches or patches are hidden in part.

    Notes
    -----
    Rows with equally many patches run together: batches of many coalitions are faster than
    small ones. With every patch hidden, a transformer that pools its patches is given
    pooled features of zero; one that reads its class token sees the prefix tokens alone.

    Examples
    --------
    >>> import timm, torch
    >>> from xai_patchshap import PatchKernelShap, PatchMasker
    >>> vit = timm.create_model("test_vit", img_size=64, num_classes=5).eval()
    >>> model = TokenDropping(vit)
    >>> image = torch.rand(1, 3, 64, 64)
    >>> half = image.clone()
    >>> half[:, :, :32] = float("nan")
    >>> model(half).shape
    torch.Size([1, 5])
    >>> explainer = PatchKernelShap(vit, PatchMasker(background="drop"))
    >>> explainer.attribute(image, target=0, n_samples=64).shape
    torch.Size([1, 3, 64, 64])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        vit = _transformer(model)
        self.model = model
        # In a tuple, since it is registered already as a part of the model.
        self._vit: tuple[Any] = (vit,)
        is_timm = hasattr(vit, "patch_embed")
        self.patch_size = vit_patch_size(vit) or (1, 1)
        self._blocks_and_norm: tuple[nn.Module, nn.Module] = (
            (vit.blocks, vit.norm) if is_timm else (vit.encoder.layers, vit.encoder.ln)
        )
        self._n_prefix = int(vit.num_prefix_tokens) if is_timm else 1
        self._pools_patches = is_timm and vit.global_pool != "token"

    def forward(self, x: Tensor, *extra: Any) -> Tensor:
        """Outputs (B, K) for images (B, C, H, W) in which hidden patches are NaN."""
        shown = self._shown(x)
        counts = shown.sum(1)
        if bool((counts == shown.shape[1]).all()):
            out: Tensor = self.model(x, *extra)
            return out
        x = torch.nan_to_num(x)
        parts, places = [], []
        for count in sorted(set(counts.tolist())):
            rows = (counts == count).nonzero()[:, 0]
            arguments = [
                e[rows] if isinstance(e, Tensor) and e.dim() and len(e) == len(x) else e
                for e in extra
            ]
            with self._dropping(shown[rows]):
                parts.append(self.model(x[rows], *arguments))
            places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def coalition_outputs(
        self, images: Tensor, examples: Tensor, coalitions: Tensor, batch_size: int = 512
    ) -> Tensor:
        """Outputs (R, K) of many coalitions, in rectangular batches of equal size.

        Parameters
        ----------
        images : Tensor (N, C, H, W)
        examples : Tensor of int64, shape (R,)
            The image of each row.
        coalitions : Tensor of bool, shape (R, patches)
            The patches that each row shows.
        batch_size : int
            Most rows in one call of the model.
        """
        counts = coalitions.sum(1)
        parts, places = [], []
        for count in sorted(set(counts.tolist())):
            for rows in (counts == count).nonzero()[:, 0].split(batch_size):
                if count == coalitions.shape[1]:
                    parts.append(self.model(images[examples[rows]]))
                else:
                    with self._dropping(coalitions[rows]):
                        parts.append(self.model(images[examples[rows]]))
                places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _shown(self, x: Tensor) -> Tensor:
        """Which patches are shown, bool (B, patches)."""
        height, width = self.patch_size
        if x.dim() != 4 or x.shape[2] % height or x.shape[3] % width:
            raise bad(
                "images",
                f"shape {tuple(x.shape)}",
                f"(B, C, H, W) in whole patches of {height}x{width} pixels",
                "Resize or crop the images to the size that the model was made for.",
            )
        rows, columns = x.shape[2] // height, x.shape[3] // width
        grid = x.isnan().reshape(*x.shape[:2], rows, height, columns, width)
        hidden = grid.all(dim=(1, 3, 5))
        if bool((grid.any(dim=(1, 3, 5)) & ~hidden).any()):
            raise bad(
                "images",
                "patches that are hidden in part",
                "hidden patches that are NaN in every pixel",
                f"Players must be made of whole patches of {height}x{width} pixels, as with "
                f"PatchMasker(players='patch:{height}').",
            )
        shown: Tensor = ~hidden.flatten(1)
        return shown

    @contextmanager
    def _dropping(self, shown: Tensor) -> Iterator[None]:
        """The transformer drops the hidden tokens; all rows show equally many."""
        empty = self._pools_patches and not bool(shown.any())
        if empty:
            # One token stands in; after the last block it is set to zero.
            shown = torch.zeros_like(shown)
            shown[:, 0] = True
        places = shown.nonzero()[:, 1].reshape(len(shown), -1) + self._n_prefix
        prefix = torch.arange(self._n_prefix, device=places.device).expand(len(shown), -1)
        kept = torch.cat([prefix, places], dim=1)[:, :, None]

        def drop(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            tokens, *rest = arguments
            return (tokens.gather(1, kept.expand(-1, -1, tokens.shape[2])), *rest)

        def silence(_: nn.Module, __: Any, tokens: Tensor) -> Tensor:
            return torch.cat([tokens[:, : self._n_prefix], 0 * tokens[:, self._n_prefix :]], dim=1)

        blocks, norm = self._blocks_and_norm
        handles = [blocks.register_forward_pre_hook(drop)]
        if empty:
            handles.append(norm.register_forward_hook(silence))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _transformer(model: Any) -> Any:
    """The one vision transformer in a model, or an error."""
    # A model of a library exists only if the library is imported: no import of our own.
    classes = tuple(
        sys.modules[name].VisionTransformer
        for name in ("timm.models.vision_transformer", "torchvision.models.vision_transformer")
        if name in sys.modules
    )
    parts = model.modules() if isinstance(model, nn.Module) else ()
    found = [m for m in parts if isinstance(m, classes)]
    if len(found) != 1:
        raise bad(
            "model",
            f"{type(model).__name__} with {len(found)} vision transformers",
            "a timm or torchvision VisionTransformer, or a module that holds one",
            "Others (Swin, hybrids, convolutional networks) need the places of all patches: hide "
            "patches behind a background instead, as in PatchMasker(background='blur').",
        )
    return found[0]
