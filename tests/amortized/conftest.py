from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from xai_patchshap.amortized import ShapleyViT


def tiny_vit(seed=0, **options):
    """A transformer of 4x4 patches whose outputs depend on its patches."""
    options = {
        "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
        "num_classes": 3, "class_token": False, "global_pool": "avg", **options,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model("vit_tiny_patch16_224", **options).eval()
        for p in model.parameters():
            nn.init.normal_(p, std=0.3)
        nn.init.normal_(model.head.weight, std=2.0)
    return model


def random_images(n=4, seed=0, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def vit():
    return tiny_vit()


@pytest.fixture
def images():
    return random_images()


@pytest.fixture
def network(vit):
    """An explainer network with random predictions, in evaluation mode."""
    made = ShapleyViT(vit, n_frozen=1)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        nn.init.normal_(made.head[2].weight, std=0.05)
    return made.eval()
