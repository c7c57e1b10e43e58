"""Token dropping: vision transformers that do not see hidden patches at all."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .._compat import loaded_classes, not_compiled
from ..errors import PatchShapError, bad
from ..models.outputs import as_scores
from ..models.vit_anatomy import patch_convolution, vit_patch_size

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
        vit = _transformer(model)
        self.model = model
        self.patch_size = vit_patch_size(vit) or (1, 1)
        # Shapes of images whose way to the transformer was looked at.
        self._known_ways: set[tuple[int, ...]] = set()

    @property
    def transformer(self) -> Any:
        """The vision transformer in the model."""
        return _transformer(self.model)

    @not_compiled
    def forward(self, x: Tensor, *extra: Any) -> Any:
        """Outputs (B, K) for images (B, C, H, W) in which hidden patches are NaN."""
        vit = self.transformer
        if vit in _entered():  # this module stands inside another one of its kind
            return self.model(x.clone(), *extra)
        counts = x.isnan().flatten(1).sum(1)
        parts, places = [], []
        with _alone(vit), _compiled_code_off(self.model):
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
            raise _wrong_size(images, self.patch_size)
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
        except _UnevenError as uneven:
            if len(rows) == 1:
                raise bad(
                    "model",
                    "a transformer that runs on several views of an image at once, which show "
                    "different numbers of patches",
                    "views that show equally many",
                    "Run the transformer on one view after the other, or " + _BACKGROUND,
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
        if 0 < share < 1 and not _is_bare(model) and shape not in self._known_ways:
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
        bare = _is_bare(model)
        dropper = _Dropper(vit, share, pools=pools, trains_before=x.requires_grad, bare=bare)
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
                _PLACES,
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
        black = _arriving(model, self.transformer, x.nan_to_num(), extra)
        try:
            marked = _arriving(model, self.transformer, x, extra)
            other = torch.where(hidden, 0.0, torch.nan).to(x.dtype)
            a = marked.isnan()
            b = _arriving(model, self.transformer, other, extra).isnan()
        except Exception as error:
            raise bad(
                "model",
                f"{type(error).__name__} ({_first_line(error)}) for hidden pixels, which are NaN",
                "a model that hands them to its transformer as they are",
                f"Take the check out of the model, or {_BACKGROUND}",
            ) from error
        if a.shape != b.shape or a.shape != black.shape or not bool((a | b).any()):
            raise bad(
                "model",
                "hidden pixels that do not reach the transformer as NaN",
                "modules before the transformer that pass NaN on",
                "Something replaces NaN, turns images into whole numbers, or changes them at "
                f"random. Do so before the explainer, or {_BACKGROUND}",
            )
        if bool((a & b).any()) or not bool((a | torch.isclose(marked, black)).all()):
            raise bad(
                "model",
                "a module before the transformer that mixes hidden pixels with shown ones",
                "modules that treat each patch by itself",
                "Blurs, smooth resizes and statistics of an image do so. Apply it to the images "
                f"before the explainer, or {_BACKGROUND}",
            )


_BACKGROUND = "hide patches behind a background instead, as in PatchMasker(background='blur')."
_SO_HIDE = f"H{_BACKGROUND[1:]}"
_PLACES = "Heads that put tokens back in their places need all of them. " + _SO_HIDE
_LIBRARIES = ("timm.", "torchvision.")


class _UnevenError(Exception):
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


class _Dropper:
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
        self.embed: Any = _embedding(vit)
        self.pads = bool(getattr(self.embed, "dynamic_img_pad", False))
        if hasattr(vit, "patch_embed"):
            self.before, self.norm = vit.patch_drop, vit.norm
            self.blocks, self.n_prefix = vit.blocks, int(vit.num_prefix_tokens)
            pools_prefix = bool(getattr(vit, "pool_include_prefix", False)) and self.n_prefix > 0
            self.pools_patches = vit.global_pool != "token" and not pools_prefix
        else:
            self.before, self.norm = vit.encoder.dropout, vit.encoder.ln
            self.blocks, self.n_prefix, self.pools_patches = vit.encoder.layers, 1, False

    def __enter__(self) -> None:
        def only_here(hook: Callable[..., Any]) -> Callable[..., Any]:
            def hooked(*arguments: Any) -> Any:
                # Other threads may be calling the same transformer.
                return hook(*arguments) if threading.get_ident() == self.thread else None

            return hooked

        stack = self._stack = ExitStack()
        blocks = [*getattr(self.blocks, "_orig_mod", self.blocks).children()]
        with ExitStack() as undo:

            def register(add: Callable[..., Any], hook: Callable[..., Any]) -> None:
                undo.callback(add(only_here(hook)).remove)

            register(self.embed.register_forward_pre_hook, self._at_embedding)
            for module in (self.before, self.blocks, *blocks):
                register(module.register_forward_pre_hook, self._at_tokens)
            register(self.norm.register_forward_hook, self._behind_norm)
            if self.pools:
                for module in blocks:
                    register(module.register_forward_hook, self._behind_block)
            if hasattr(self.embed, "dynamic_feat_size"):
                own = self.embed.dynamic_feat_size

                def places(*arguments: Any) -> Any:
                    if threading.get_ident() == self.thread and self.n_dropped:
                        raise self._failed(
                            "a head that puts the tokens of an intermediate layer into a grid",
                            "a head that reads any number of tokens",
                            f"Ask for output_fmt='NLC' or reshape=False, or {_BACKGROUND}",
                        )
                    return own(*arguments)

                self.embed.__dict__["dynamic_feat_size"] = places
                undo.callback(self.embed.__dict__.pop, "dynamic_feat_size")
            stack.enter_context(undo.pop_all())

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _failed(self, *words: str) -> Exception:
        # Kept too, where the model's own code swallows what is raised inside it.
        self.failure = bad("model", *words)
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
                f"Run the transformer on whole images, or {_BACKGROUND}",
            )
        if other_share and self.bare:
            raise self._failed(
                "a transformer whose hooks or methods change which pixels are hidden",
                "one that is given the images as they are",
                f"Change the images before the explainer, or {_BACKGROUND}",
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
            self.failure = _UnevenError(counts.cpu() if self.n_calls == 1 else None)
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
        if hasattr(self.vit, "image_size"):
            right = size == (self.vit.image_size,) * 2
        elif getattr(self.embed, "strict_img_size", False) and self.embed.img_size:
            right = size == tuple(self.embed.img_size)
        else:
            right = self.pads or not any(n % p for n, p in zip(size, patch, strict=False))
        if image.dim() != 4 or not right:
            self.failure = _wrong_size(image, patch)
            raise self.failure
        return patch

    def _hidden_patches(self, nan: Tensor, patch: tuple[int, int]) -> Tensor:
        """Which patches of the transformer's own image are hidden, bool (B, patches)."""
        height, width = patch
        size = tuple(nan.shape[2:])
        every, some = (reduce(f, nan.unbind(1)) for f in (torch.logical_and, torch.logical_or))
        if self.pads:
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
        fewer = going.left and self.before.training and 0 < n_seen < n_expected
        if len(tokens) != len(going.kept) or not (n_seen == n_expected or fewer):
            raise self._failed(
                f"tokens of shape {tuple(tokens.shape)} before the blocks",
                f"({len(going.kept)}, {n_expected}, width), the prefix and one for each patch",
                "The model adds, removes or combines tokens on its way into the transformer's "
                f"blocks. In this case, {_BACKGROUND}",
            )
        if not going.left:
            going.left = True
            self.n_dropped += 1
            places = going.kept[:, :, None].expand(-1, -1, tokens.shape[2])
            tokens = tokens.gather(1, places)
        if module is not self.before:
            self.tokens = None
        return (tokens, *rest)

    def _behind_block(self, _: nn.Module, __: Any, tokens: Tensor) -> Tensor | None:
        return self._with_zeros(tokens) if self.empty else None

    def _behind_norm(self, _: nn.Module, __: Any, tokens: Tensor) -> Tensor | None:
        return (
            self._with_zeros(tokens) if self.empty and (self.pools or self.pools_patches) else None
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
            f"Call the transformer once for each image, or {_BACKGROUND}",
        )

    def check_that_it_ran(self, must_hide: bool) -> None:
        """Raise unless tokens left in this call."""
        if not self.n_calls:
            raise self._failed(
                "a transformer whose patch embedding did not run where it can be seen",
                "a model that calls its transformer as a module",
                "Compiled, scripted, exported or parallel code gets around it: pass the module "
                f"that was there before, or {_BACKGROUND}",
            )
        if self.tokens is not None:
            raise self._lost()
        if must_hide and not self.n_dropped:
            raise self._failed(
                "hidden pixels that do not reach the transformer as NaN",
                "modules before the transformer that pass NaN on",
                "Something replaces NaN or turns images into whole numbers. Do so before the "
                f"explainer, or {_BACKGROUND}",
            )


def _wrong_size(images: Tensor, patch: tuple[int, int]) -> PatchShapError:
    return bad(
        "images",
        f"shape {tuple(images.shape)}",
        f"(B, C, H, W) in whole patches of {patch[0]}x{patch[1]} pixels",
        "Resize or crop the images to the size that the model was made for.",
    )


def _is_bare(model: nn.Module) -> bool:
    """Whether the model is a transformer as its library made it, with nothing before it."""
    kind = type(model)
    return kind.__module__.startswith(_LIBRARIES) and "VisionTransformer" in kind.__name__


def _first_line(error: Exception) -> str:
    return f"{error!s:.120}".partition("\n")[0]


def _has_nan(out: Any) -> bool:
    return isinstance(out, Tensor) and out.is_floating_point() and bool(out.isnan().any())


def _first_row(extra: tuple[Any, ...], n: int) -> tuple[Any, ...]:
    return tuple(e[:1] if isinstance(e, Tensor) and e.dim() and len(e) == n else e for e in extra)


class _ArrivedError(Exception):
    pass


def _arriving(model: nn.Module, vit: Any, x: Tensor, extra: tuple[Any, ...]) -> Tensor:
    """The image that the transformer is given first; the model goes no further."""
    images, thread = [], threading.get_ident()

    def keep(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() == thread:
            images.append(arguments[0])
            raise _ArrivedError

    handle = _embedding(vit).register_forward_pre_hook(keep)
    try:
        with torch.no_grad(), torch.random.fork_rng(_cuda(x)):
            model(x.clone(), *extra)
    except _ArrivedError:
        pass
    finally:
        handle.remove()
    if not images:
        _Dropper(vit, 1.0, pools=False, trains_before=False, bare=False).check_that_it_ran(True)
    image: Tensor = images[0]
    return image


def _cuda(x: Tensor) -> list[torch.device]:
    return [x.device] if x.device.type == "cuda" else []


# Hooks are on the module, for all threads: one call at a time.
_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_guard = threading.Lock()
_of_thread = threading.local()


def _entered() -> list[Any]:
    """Transformers whose hidden tokens are being dropped in this thread."""
    if not hasattr(_of_thread, "entered"):
        _of_thread.entered = []
    entered: list[Any] = _of_thread.entered
    return entered


@contextmanager
def _alone(vit: nn.Module) -> Iterator[None]:
    with _guard:
        lock = _locks.setdefault(vit, threading.Lock())
    with lock:
        _entered().append(vit)
        try:
            yield
        finally:
            _entered().pop()


class _Stance:
    """How many calls want compiled code to run eagerly; the stance is of the whole process."""

    n = 0
    context: Any = None


@contextmanager
def _compiled_code_off(model: nn.Module) -> Iterator[None]:
    """What torch.compile compiled runs eagerly, so that hooks run; nothing else changes."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled yet
        yield
        return
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None:  # before torch 2.6
        compiled = (
            hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None
            for m in model.modules()
        )
        if any(compiled):
            raise bad(
                "model",
                "a compiled module",
                "the module before torch.compile, where torch is older than 2.6",
                "Pass model._orig_mod, or a copy that compile() was not called on.",
            )
        yield
        return
    with _guard:
        if not _Stance.n:
            _Stance.context = set_stance("force_eager")
        _Stance.n += 1
    try:
        yield
    finally:
        with _guard:
            _Stance.n -= 1
            if not _Stance.n:
                _Stance.context.__exit__(None, None, None)


def _transformer(model: Any) -> Any:
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
                f"Pass the model from before torch.jit.script, or {_BACKGROUND}",
            )
        if patch_convolution(_embedding(vit)) is not None:
            return vit
    hybrid = " (a hybrid: its patch embedding mixes patches)" if len(found) == 1 else ""
    raise bad(
        "model",
        f"{type(model).__name__} with {len(found)} vision transformers{hybrid}",
        "a timm or torchvision VisionTransformer, or a module that holds one",
        "Others (Swin, hybrids, convolutional networks) need the places of all patches: hide "
        "patches behind a background instead, as in PatchMasker(background='blur').",
    )


def _embedding(vit: Any) -> nn.Module:
    embed: nn.Module = vit.patch_embed if hasattr(vit, "patch_embed") else vit.conv_proj
    return embed
