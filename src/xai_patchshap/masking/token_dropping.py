"""Token dropping: vision transformers that do not see hidden patches at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._compat import not_compiled
from ..errors import bad
from ..models.outputs import as_scores
from ..models.vit_anatomy import BEHIND_A_BACKGROUND, is_bare, the_transformer, vit_patch_size
from .call_guards import alone, compiled_code_off, entered
from .token_hooks import Dropper, UnevenError, arriving_image, wrong_size

__all__ = ["TokenDropping"]

_SO_HIDE = f"H{BEHIND_A_BACKGROUND[1:]}"


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
        example behind a normalisation. It is not modified: hooks live during a call, and the
        model gets a copy of the images.

    Attributes
    ----------
    transformer : torch.nn.Module
        The vision transformer in the model.
    patch_size : (int, int)
        Height and width of a patch in pixels.

    Raises
    ------
    PatchShapError
        If the model is not such a transformer, or, when it is called, if images are not made
        of whole patches, patches are hidden in part, or tokens cannot leave: see the notes.

    Notes
    -----
    Rows with equally many patches run together: batches of many coalitions are faster than
    small ones. With every patch hidden, a transformer that pools its patches is given
    pooled features of zero; one that reads its class token sees the prefix tokens alone.

    NaN travels with the pixels through what stands before the transformer, so the tokens that
    leave are right behind a flip, a crop or a pad by whole patches, a resize that keeps patches
    apart, and for each call of a transformer that runs several times. What cannot be right is
    refused: modules that mix pixels of different patches (blurs, statistics of the image), that
    replace NaN, or that read hidden pixels beside the transformer, and heads that put the tokens
    back in their places. Compiled code runs eagerly meanwhile. Calls of one transformer from
    several threads wait for each other.

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
        vit = the_transformer(model)
        self.model = model
        self.patch_size = vit_patch_size(vit) or (1, 1)
        # Shapes of images whose way to the transformer was looked at.
        self._known_ways: set[tuple[int, ...]] = set()

    @property
    def transformer(self) -> Any:
        """The vision transformer in the model."""
        return the_transformer(self.model)

    @not_compiled
    def forward(self, x: Tensor, *extra: Any) -> Any:
        """Outputs (B, K) for images (B, C, H, W) in which hidden patches are NaN."""
        vit = self.transformer
        if vit in entered():  # this module stands inside another one of its kind
            return self.model(x.clone(), *extra)
        counts = x.isnan().flatten(1).sum(1)
        parts, places = [], []
        with alone(vit), compiled_code_off(self.model):
            for count in sorted(set(counts.tolist())):
                rows = (counts == count).nonzero()[:, 0]
                for some, out in self._even_rows(x, extra, rows, count / x[0].numel()):
                    places.append(some)
                    parts.append(out)
        if len(parts) == 1:
            return parts[0]
        scores = [as_scores(p) for p in parts]
        widths = {tuple(p.shape[1:]) for p in scores}
        if len(widths) > 1:
            raise bad(
                "model",
                f"outputs of {', '.join(map(str, sorted(widths)))} for different numbers of tokens",
                "outputs (B, K), whose width does not depend on the number of tokens",
                "Wrap the model in a module that returns one row of scores per image.",
            )
        return torch.cat(scores)[torch.cat(places).argsort()]

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
        grid, (height, width) = self.grid_of(images), self.patch_size
        counts = coalitions.sum(1)
        parts, places = [], []
        for count in sorted(set(counts.tolist())):
            for rows in (counts == count).nonzero()[:, 0].split(batch_size):
                x = images[examples[rows]]
                if count < coalitions.shape[1]:
                    hidden = ~coalitions[rows].reshape(-1, 1, *grid)
                    pixels = hidden.repeat_interleave(height, 2).repeat_interleave(width, 3)
                    x = x.masked_fill(pixels, torch.nan)
                parts.append(self(x))
                places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of images (B, C, H, W)."""
        height, width = self.patch_size
        if images.dim() != 4 or images.shape[2] % height or images.shape[3] % width:
            raise wrong_size(images, self.patch_size)
        return images.shape[2] // height, images.shape[3] // width

    def _even_rows(
        self, x: Tensor, extra: tuple[Any, ...], rows: Tensor, share: float
    ) -> Iterator[tuple[Tensor, Any]]:
        """Outputs of rows that hide equally much; in parts where fewer tokens are alike."""
        arguments = tuple(
            e[rows] if isinstance(e, Tensor) and e.dim() and len(e) == len(x) else e for e in extra
        )
        try:
            yield rows, self._run(x[rows], arguments, share)
            return
        except UnevenError as uneven:
            if len(rows) == 1:
                raise bad(
                    "model",
                    "a transformer that runs on several views of an image at once, which show "
                    "different numbers of patches",
                    "views that show equally many",
                    "Run the transformer on one view after the other, or " + BEHIND_A_BACKGROUND,
                ) from None
            sizes = uneven.sizes
        if sizes is None or len(sizes) != len(rows):
            sizes = torch.arange(len(rows))  # who is who is not known: one by one
        for size in sorted(set(sizes.tolist())):
            some = rows[(sizes == size).to(rows.device)]
            yield from self._even_rows(x, extra, some, share)

    def _run(self, x: Tensor, extra: tuple[Any, ...], share: float) -> Any:
        """Outputs of rows that hide the same share of their numbers."""
        # A DataParallel would run the transformer in threads of its own.
        model = self.model.module if isinstance(self.model, nn.DataParallel) else self.model
        shape = tuple(x.shape[1:])
        if 0 < share < 1 and not is_bare(model) and shape not in self._known_ways:
            self._look_at_the_way(model, x[:1], _first_row(extra, len(x)))
            self._known_ways.add(shape)
        out = self._dropped(model, x, extra, share, pools=False)
        if share == 1 and (isinstance(out, Exception) or _has_nan(out)):
            # A head that averages over no patch at all: pooled features of zero.
            out = self._dropped(model, x, extra, share, pools=True)
        if isinstance(out, Exception):
            raise out
        if share and _has_nan(out):
            with torch.no_grad():
                always = _has_nan(model(x.nan_to_num(), *extra))
            if not always:
                raise bad(
                    "model",
                    "outputs that are NaN where patches are hidden",
                    "a model that reads hidden patches through its transformer alone",
                    f"Something beside the transformer reads their pixels. {_SO_HIDE}",
                )
        return out

    def _dropped(
        self, model: nn.Module, x: Tensor, extra: tuple[Any, ...], share: float, *, pools: bool
    ) -> Any:
        """The model's output, or the error that it ended in because tokens left."""
        vit = self.transformer
        bare = is_bare(model)
        dropper = Dropper(vit, share, pools=pools, trains_before=x.requires_grad, bare=bare)
        try:
            with dropper:
                out = model(x.clone(), *extra)
        except (MemoryError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:
            if dropper.failure is not None:
                raise dropper.failure from None
            if not share:
                raise
            with torch.no_grad():
                model(x.nan_to_num(), *extra)  # raises where the reason is another one
            refused = bad(
                "model",
                f"{type(error).__name__} ({_first_line(error)}) where tokens leave the sequence",
                "a head that reads any number of tokens",
                f"Heads that put tokens back in their places need all of them. {_SO_HIDE}",
            )
            refused.__cause__ = error
            return refused
        if dropper.failure is not None:
            raise dropper.failure
        if share:
            dropper.check_that_it_ran(bare or share == 1)
        return out

    def _look_at_the_way(self, model: nn.Module, x: Tensor, extra: tuple[Any, ...]) -> None:
        """Refuse what stands before the transformer unless each pixel keeps to itself."""
        hidden = x.isnan()
        black = arriving_image(model, self.transformer, x.nan_to_num(), extra)
        try:
            marked = arriving_image(model, self.transformer, x, extra)
            other = torch.where(hidden, 0.0, torch.nan).to(x.dtype)
            a = marked.isnan()
            b = arriving_image(model, self.transformer, other, extra).isnan()
        except Exception as error:
            raise bad(
                "model",
                f"{type(error).__name__} ({_first_line(error)}) for hidden pixels, which are NaN",
                "a model that hands them to its transformer as they are",
                f"Take the check out of the model, or {BEHIND_A_BACKGROUND}",
            ) from error
        if a.shape != b.shape or a.shape != black.shape or not bool((a | b).any()):
            raise bad(
                "model",
                "hidden pixels that do not reach the transformer as NaN",
                "modules before the transformer that pass NaN on",
                "Something replaces NaN, turns images into whole numbers, or changes them at "
                f"random. Do so before the explainer, or {BEHIND_A_BACKGROUND}",
            )
        if bool((a & b).any()) or not bool((a | torch.isclose(marked, black)).all()):
            raise bad(
                "model",
                "a module before the transformer that mixes hidden pixels with shown ones",
                "modules that treat each patch by itself",
                "Blurs, smooth resizes and statistics of an image do so. Apply it to the images "
                f"before the explainer, or {BEHIND_A_BACKGROUND}",
            )


def _first_line(error: Exception) -> str:
    return f"{error!s:.120}".partition("\n")[0]


def _has_nan(out: Any) -> bool:
    return isinstance(out, Tensor) and out.is_floating_point() and bool(out.isnan().any())


def _first_row(extra: tuple[Any, ...], n: int) -> tuple[Any, ...]:
    return tuple(e[:1] if isinstance(e, Tensor) and e.dim() and len(e) == n else e for e in extra)
