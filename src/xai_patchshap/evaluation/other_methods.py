"""Attributions of patches that are not Shapley values, to compare these with.

Attention: last layer and roll-out (Abnar & Zuidema, Quantifying attention flow in
transformers, ACL 2020). Gradients: those of Captum, summed over the pixels of each patch.
Perturbation: leave-one-out, and random masks (RISE: Petsiuk, Das & Saenko, BMVC 2018).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from .._typing import Bools, Floats
from ..amortized import ShapleyViT
from ..errors import bad
from ..estimators import KernelShap
from ..models.vit_anatomy import anatomy_of, plain_attention, timm_transformer

__all__ = [
    "GRADIENT_METHODS",
    "METHODS",
    "attention_matrices",
    "attention_rollout",
    "gradient_attribution",
    "last_attention",
    "leave_one_out",
    "rise",
]

Attributions = tuple[str, int | None, Floats]
Games = Callable[[Bools], Floats]

# Forward and backward passes for each image.
GRADIENT_METHODS = {
    "gradients": 1,
    "gradient x input": 1,
    "integrated gradients": 50,
    "SmoothGrad": 50,
}
METHODS = (
    "reference",
    "amortized",
    "refined",
    "KernelSHAP",
    "leave-one-out",
    "RISE",
    *GRADIENT_METHODS,
    "attention roll-out",
    "last attention",
    "random",
)
_NOISE = 0.15  # standard deviation over the range of the pixels, as Smilkov et al. advise
_MOST_ROWS = 2**16  # coalitions, and
_MOST_NUMBERS = 2**25  # outputs of them, held at once


def attention_matrices(model: nn.Module, images: Tensor) -> Tensor:
    """Attention of every block, averaged over its heads.

    Computed again from queries and keys, since fused attention does not keep it.

    Parameters
    ----------
    model : torch.nn.Module
        A timm ``VisionTransformer``, or a module that holds exactly one.
    images : Tensor (B, C, H, W)

    Returns
    -------
    Tensor (B, blocks, tokens, tokens)
        Row: the token that attends, column: the one that is attended to; rows sum to 1.

    Raises
    ------
    PatchShapError
        If the model is not such a transformer, or its blocks have another attention.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64, num_classes=5).eval()
    >>> attention_matrices(vit, torch.rand(2, 3, 64, 64)).shape  # 16 patches and a class token
    torch.Size([2, 6, 17, 17])
    """
    vit = timm_transformer(model)
    layers = [plain_attention(block) for block in vit.blocks]
    other = [type(b).__name__ for b, a in zip(vit.blocks, layers, strict=True) if a is None]
    if other:
        raise bad("model", f"blocks of type {other[0]}", "blocks with timm's Attention")
    found: list[Tensor] = []
    thread = threading.get_ident()

    def keep(layer: Any, qkv: Tensor) -> None:
        if threading.get_ident() != thread:  # another thread calls the same model
            return
        batch, tokens, _ = qkv.shape
        parts = qkv.reshape(batch, tokens, 3, layer.num_heads, -1)
        q, k, _ = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = layer.q_norm(q).float() @ layer.k_norm(k).float().transpose(-2, -1)
        found.append((scores * layer.scale).softmax(-1).mean(1))

    handles = [
        layer.qkv.register_forward_hook(lambda _, __, qkv, layer=layer: keep(layer, qkv))
        for layer in layers
    ]
    try:
        with torch.no_grad():
            model(images.clone())  # a model may write into its input
    finally:
        for handle in handles:
            handle.remove()
    if len(found) != len(layers) or len({len(scores) for scores in found}) != 1:
        raise bad(
            "model",
            f"{len(found)} calls of the attention of {len(layers)} blocks",
            "one call of each block for a batch",
            "Give the transformer itself, neither compiled nor called several times.",
        )
    return torch.stack(found, dim=1)


def last_attention(model: nn.Module, images: Tensor) -> Tensor:
    """Attention of the last block to each patch, (B, patches).

    That of the class token where the model reads it, and the mean over the patches where it
    pools them. Parameters and errors are those of :func:`attention_matrices`.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64, num_classes=5).eval()
    >>> last_attention(vit, torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 16])
    """
    return _to_patches(model, attention_matrices(model, images)[:, -1])


def attention_rollout(model: nn.Module, images: Tensor) -> Tensor:
    r"""Attention through all blocks to each patch, (B, patches).

    .. math:: \hat A = \tilde A_L \cdots \tilde A_1, \quad \tilde A_l = (A_l + I) / 2

    with the attention :math:`A_l` of block l averaged over its heads (Abnar & Zuidema, ACL
    2020, equation 1); the identity is for the residual connection. What of it is read, and
    parameters and errors, are as in :func:`last_attention`.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64, num_classes=5).eval()
    >>> attention_rollout(vit, torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 16])
    """
    layers = attention_matrices(model, images)
    own = torch.eye(layers.shape[-1], device=layers.device)
    flow = own.expand_as(layers[:, 0])
    for layer in layers.unbind(1):
        flow = (layer + own) / 2 @ flow
    return _to_patches(model, flow)


def gradient_attribution(
    method: str,
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    patch_size: tuple[int, int],
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """Captum's gradients with their signs, summed over channels and pixels of each patch.

    Parameters
    ----------
    method : {"gradients", "gradient x input", "integrated gradients", "SmoothGrad"}
        Integrated gradients take 50 steps from images of zeros (Sundararajan, Taly & Yan,
        ICML 2017). SmoothGrad averages over 50 images with Gaussian noise, whose deviation
        is 0.15 of the range of the image's pixels (Smilkov et al., 2017).
    forward : callable
        Maps images (B, C, H, W) to outputs (B, K).
    images : Tensor (N, C, H, W)
    targets : Tensor of int64, shape (N,)
        The output of each image that is explained.
    patch_size : (int, int)
        Height and width, which divide those of the images.
    seed : int
        Seed of the noise; PyTorch's own random state stays as it is.
    batch_size : int
        Most images in one pass, if it is at least 50; each of the last two methods needs 50.

    Returns
    -------
    Tensor (N, patches)

    Raises
    ------
    PatchShapError
        If the method is unknown.

    Examples
    --------
    >>> weights = torch.arange(16.0).reshape(4, 4)
    >>> forward = lambda x: (x * weights).flatten(1).sum(1, keepdim=True)
    >>> images, targets = torch.ones(1, 1, 4, 4), torch.tensor([0])
    >>> gradient_attribution("gradients", forward, images, targets, (2, 2))
    tensor([[10., 18., 42., 50.]])
    """
    if method not in GRADIENT_METHODS:
        raise bad("method", repr(method), f"one of {tuple(GRADIENT_METHODS)}")
    passes = GRADIENT_METHODS[method]
    # SmoothGrad goes image by image: the noise must not depend on the size of a batch.
    size = 1 if method == "SmoothGrad" else max(1, batch_size // passes)
    explain = _captum(method, lambda x: forward(x.clone()))  # a model may write into its input
    parts = []
    devices = range(torch.cuda.device_count())  # all of them: unnamed, several cause a warning
    with torch.random.fork_rng(devices):  # captum draws its noise from the global state
        torch.random.manual_seed(seed)
        for x, t in zip(torch.split(images, size), torch.split(targets, size), strict=True):
            found = explain(x.detach().clone().requires_grad_(), t).detach()
            parts.append(avg_pool2d(found, patch_size, divisor_override=1).sum(1).flatten(1))
    return torch.cat(parts)


def leave_one_out(games: Games, n_players: int) -> Floats:
    """Loss of value as each player leaves all others, v(N) - v(N without i).

    Parameters
    ----------
    games : callable
        Maps coalitions, bool (m, n_players), to values (N, m, K) of N games.
    n_players : int

    Returns
    -------
    ndarray (N, n_players, K)
        From ``n_players + 1`` evaluations of each game.

    Examples
    --------
    >>> games = lambda shown: np.stack([shown @ [1.0, 2.0], shown.all(1)])[:, :, None]
    >>> leave_one_out(games, 2)[:, :, 0]
    array([[1., 2.],
           [1., 1.]])
    """
    values = games(np.concatenate([np.ones((1, n_players), bool), ~np.eye(n_players, dtype=bool)]))
    return np.asarray(values[:, :1] - values[:, 1:])


def rise(games: Games, n_players: int, n_masks: int, seed: int = 0) -> Floats:
    """Mean value of the random coalitions that show a player.

    Each player is in each coalition with probability 1/2. Divided by the number of masks that
    show the player rather than by its expectation, as Petsiuk et al. do: the level of the
    values then adds no noise.

    Parameters
    ----------
    games : callable
        Maps coalitions, bool (m, n_players), to values (N, m, K) of N games.
    n_players, n_masks : int
    seed : int
        Seed of the coalitions.

    Returns
    -------
    ndarray (N, n_players, K)
        From ``n_masks`` evaluations of each game. The mean value for a player that is never
        shown.

    Examples
    --------
    >>> games = lambda shown: (shown @ [0.0, 4.0])[None, :, None]
    >>> rise(games, 2, 1000)[0, :, 0].round()
    array([2., 4.])
    """
    masks = np.random.default_rng(seed).random((n_masks, n_players)) < 0.5
    values = games(masks)
    count = masks.sum(0)[:, None]
    mean = masks.T.astype(float) @ values / np.maximum(count, 1)
    return np.asarray(np.where(count > 0, mean, values.mean(1, keepdims=True)))


@dataclass(frozen=True)
class ImageGames:
    """The games of all images for their classes (N, k), as one model plays them."""

    play: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    images: Tensor
    classes: Tensor
    n_outputs: int
    batch_size: int
    autocast: torch.dtype | None

    def __call__(self, coalitions: Bools) -> Floats:
        """Values (N, m, k) of coalitions (m, patches), or of each image's own (N, m, patches)."""
        n, device = len(self.images), self.images.device
        m, n_players = coalitions.shape[-2:]
        each = np.broadcast_to(coalitions, (n, m, n_players))
        step = max(1, min(_MOST_ROWS, _MOST_NUMBERS // self.n_outputs) // m)
        parts = []
        on = self.autocast is not None
        for start in range(0, n, step):
            some = each[start : start + step]
            shown = torch.tensor(some.reshape(-1, n_players), device=device)
            examples = torch.arange(start, start + len(some), device=device).repeat_interleave(m)
            with torch.no_grad(), torch.autocast(device.type, dtype=self.autocast, enabled=on):
                values = self.play(self.images, examples, shown, self.batch_size)
            values = values.gather(1, self.classes[examples])
            parts.append(values.reshape(len(some), m, -1).double().cpu())
        return np.asarray(torch.cat(parts))


@dataclass(frozen=True)
class Explanations:
    """Attributions of the images' patches for their classes, by all methods."""

    network: ShapleyViT
    images: Tensor
    classes: Tensor
    games: ImageGames
    reference: Floats
    n_reference: int | None
    budgets: tuple[int, ...]
    seed: int

    def of(self, method: str) -> Iterator[Attributions]:
        """Name, evaluations and attributions (N, patches, k), at each of a method's budgets."""
        n = self.network.n_players
        if method == "reference":
            yield method, self.n_reference, self.reference
        elif method == "amortized":
            yield method, 1, self._predicted
        elif method in ("KernelSHAP", "refined"):
            yield from self._estimates(refine=method == "refined")
        elif method == "leave-one-out":
            yield method, n + 1, leave_one_out(self.games, n)
        elif method == "RISE":
            # Not the seed of the coalitions that score it.
            masks = max(self.budgets)
            yield f"{method} at {masks}", masks, rise(self.games, n, masks, self.seed + 3)
        elif method == "random":
            drawn = np.random.default_rng([self.seed, 1]).random(self.reference.shape)
            yield method, 0, drawn
        elif method in GRADIENT_METHODS:
            yield method, GRADIENT_METHODS[method], self._gradients(method)
        else:
            yield method, 1, self._attention(method)

    @cached_property
    def _predicted(self) -> Floats:
        parts = []
        with torch.no_grad():
            for some in torch.split(torch.arange(len(self.images)), self.games.batch_size):
                values = self.network(self.images[some])[0]
                picks = self.classes[some][:, None].expand(-1, values.shape[1], -1)
                parts.append(values.gather(2, picks).double().cpu())
        return np.asarray(torch.cat(parts))

    @cached_property
    def _kernel(self) -> tuple[KernelShap, Floats]:
        # Other coalitions than the reference's, whose errors would agree.
        kernel = KernelShap(self.network.n_players, max(self.budgets), self.seed + 2)
        return kernel, self.games(kernel.coalitions)

    def _estimates(self, refine: bool) -> Iterator[Attributions]:
        kernel, values = self._kernel
        name = "refined" if refine else "KernelSHAP"
        for budget in self.budgets:
            found = [
                kernel.estimate(v[:budget], self._predicted[i], self.network.ridge).values
                if refine
                else kernel.estimate(v[:budget]).values
                for i, v in enumerate(values)
            ]
            yield (
                f"{name} at {budget}",
                min(budget, len(kernel.coalitions)) + refine,
                np.stack(found),
            )

    def _gradients(self, method: str) -> Floats:
        network = self.network
        maps = [
            gradient_attribution(
                method,
                lambda x: network.link(network.surrogate.model(x)),
                self.images,
                target,
                network.surrogate.patch_size,
                seed=self.seed,
                batch_size=self._small_batch,
            )
            for target in self.classes.unbind(1)
        ]
        return np.asarray(torch.stack(maps, dim=2).double().cpu())

    def _attention(self, method: str) -> Floats:
        function = last_attention if method == "last attention" else attention_rollout
        parts = [
            function(self.network.surrogate.model, x).double().cpu()
            for x in torch.split(self.images, self._small_batch)
        ]
        return np.repeat(np.asarray(torch.cat(parts))[:, :, None], self.classes.shape[1], axis=2)

    @property
    def _small_batch(self) -> int:
        return max(1, self.games.batch_size // 8)


def _captum(method: str, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Attributions (B, C, H, W) of images and targets by a method of Captum."""
    passes = GRADIENT_METHODS[method]
    if method == "gradients":
        return lambda x, t: Saliency(forward).attribute(x, target=t, abs=False)
    if method == "gradient x input":
        return lambda x, t: InputXGradient(forward).attribute(x, target=t)
    if method == "integrated gradients":
        return lambda x, t: IntegratedGradients(forward).attribute(x, target=t, n_steps=passes)

    tunnel = NoiseTunnel(Saliency(forward))
    return lambda x, t: tunnel.attribute(
        x,
        target=t,
        abs=False,
        nt_samples=passes,
        stdevs=_NOISE * float(x.detach().max() - x.detach().min()),
    )


def _to_patches(model: nn.Module, attention: Tensor) -> Tensor:
    """What the tokens that the model's head reads give to the patches: (B, T, T) to (B, P)."""
    vit = timm_transformer(model)
    n_prefix = anatomy_of(vit).n_prefix
    if vit.global_pool == "token":
        return attention[:, 0, n_prefix:]
    return attention[:, n_prefix:, n_prefix:].mean(1)
