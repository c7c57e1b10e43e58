"""Models and images that several test modules share."""

from __future__ import annotations

import timm
import torch
from torch import nn


def tiny_vit(seed=0, deviation=0.3, head=2.0, **options):
    """A transformer of 4x4 patches whose outputs depend on its patches."""
    options = {
        "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
        "num_classes": 3, "class_token": False, "global_pool": "avg", **options,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", **options).eval()
        for p in model.parameters():
            nn.init.normal_(p, std=deviation)
        nn.init.normal_(model.head.weight, std=head)
    return model


def random_images(n=4, seed=0, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
