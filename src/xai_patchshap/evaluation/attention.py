"""Attention of vision transformers to their patches.

Last layer and roll-out (Abnar & Zuidema, Quantifying attention flow in transformers, ACL 2020).
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import bad
from ..models.vit_anatomy import anatomy_of, plain_attention, timm_transformer

__all__ = ["attention_matrices", "attention_rollout", "last_attention"]


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


def _to_patches(model: nn.Module, attention: Tensor) -> Tensor:
    """What the tokens that the model's head reads give to the patches: (B, T, T) to (B, P)."""
    vit = timm_transformer(model)
    n_prefix = anatomy_of(vit).n_prefix
    if vit.global_pool == "token":
        return attention[:, 0, n_prefix:]
    return attention[:, n_prefix:, n_prefix:].mean(1)
