"""Shipped with the package: a small vision transformer of CIFAR-10 with its explainer.

32 x 32 pixels, patches of 4 x 4, so 64 players; ten classes. The cards beside the weights
(``load_card``) state data, recipe, seeds and scores; ``training/cifar10`` in the repository
trains them again. Images are CIFAR-10's own (Krizhevsky, 2009), twelve of its test images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, from_numpy, nn

from ..amortized import ShapleyViT, load_classifier, load_explainer, load_surrogate

__all__ = [
    "CIFAR10_CLASSES",
    "cifar10_classifier",
    "cifar10_explainer",
    "cifar10_images",
    "cifar10_path",
    "cifar10_surrogate",
]

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def cifar10_path(name: str = "explainer") -> Path:
    """Checkpoint of the ``"classifier"``, the ``"surrogate"`` or the ``"explainer"``."""
    return Path(__file__).parent / f"{name}.safetensors"


def cifar10_classifier() -> nn.Module:
    """The classifier, from images (B, 3, 32, 32) in [0, 1] to logits (B, 10).

    Examples
    --------
    >>> images, labels = cifar10_images()
    >>> logits = cifar10_classifier()(images)
    >>> logits.shape
    torch.Size([12, 10])
    """
    return load_classifier(cifar10_path("classifier"))


def cifar10_surrogate() -> nn.Module:
    """The surrogate, from images (B, 3, 32, 32) in [0, 1] to logits (B, 10)."""
    return load_surrogate(cifar10_path("surrogate"))


def cifar10_explainer() -> ShapleyViT:
    """The explainer network with its surrogate.

    Examples
    --------
    >>> images, _ = cifar10_images()
    >>> values, full = cifar10_explainer()(images)
    >>> values.shape, full.shape
    (torch.Size([12, 64, 10]), torch.Size([12, 10]))
    """
    return load_explainer(cifar10_path())


def cifar10_images() -> tuple[Tensor, Tensor]:
    """Twelve test images (12, 3, 32, 32) in [0, 1] and their labels (12,)."""
    with np.load(Path(__file__).with_name("images.npz")) as stored:
        images = from_numpy(stored["images"]).permute(0, 3, 1, 2).float() / 255
        return images.contiguous(), from_numpy(stored["labels"])
