from __future__ import annotations

import pytest
import torch
from tests.helpers import random_images, tiny_vit
from torch import nn

from xai_patchshap.amortized import ShapleyViT


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
