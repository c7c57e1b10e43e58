"""The images of a folder of class folders as one tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder

MEAN = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
STD = torch.tensor([0.2470, 0.2435, 0.2616])[:, None, None]


def images_of(folder: Path, cache: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Read (N, 3, H, W) bytes, (N,) labels in a fixed random order, and the classes."""
    file = cache / f"{folder.name}.npz"
    if not file.exists():
        dataset = ImageFolder(str(folder))
        images = np.stack([np.asarray(image) for image, _ in dataset])
        np.savez(file, images=images, labels=dataset.targets, classes=dataset.classes)
    with np.load(file) as stored:
        order = np.random.default_rng(0).permutation(len(stored["labels"]))
        images = torch.from_numpy(stored["images"][order]).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(stored["labels"][order]).long()
        return images, labels, [str(name) for name in stored["classes"]]
