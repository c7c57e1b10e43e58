"""Images of datasets, in an order that depends on the seed alone; files that are whole."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..._files import only_process_in
from ...errors import PatchShapError, bad, rename
from ...models.outputs import as_scores

__all__ = [
    "NoImages",
    "alone_in",
    "alone_in_out",
    "batches",
    "check_takes",
    "image_of",
    "images_of",
]

P = ParamSpec("P")
R = TypeVar("R")
_HELD: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


class _Numbered(Dataset[tuple[int, Tensor]]):
    """A dataset's images with their indices."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, image_of(self.dataset, index)


class NoImages(Dataset[Tensor]):
    """In place of images that are not needed any more."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, _: int) -> Tensor:
        return torch.empty(0, 0, 0)


def image_of(dataset: Any, index: int) -> Tensor:
    """Image (C, H, W) of an item, which is an image or begins with one."""
    item = dataset[index]
    image = item[0] if isinstance(item, tuple | list) and item else item
    if not isinstance(image, Tensor) or image.dim() != 3:
        came = f"shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise bad(
            "dataset",
            f"an image of {came}",
            "tensors (C, H, W), alone or before a label",
            "torchvision.transforms.ToTensor() makes them of photographs.",
        )
    if not image.is_floating_point():
        raise bad(
            "dataset",
            f"an image of {image.dtype}",
            "floating-point images, as the model takes them",
            "Divide whole numbers of 0 to 255 by 255.",
        )
    return image


def images_of(dataset: Any, indices: Any, device: torch.device | None = None) -> Tensor:
    """Images (B, C, H, W) of a dataset."""
    images = torch.stack([image_of(dataset, int(i)) for i in indices])
    return images if device is None else images.to(device)


def check_takes(what: str, model: nn.Module, image: Tensor) -> None:
    """Raise unless a model gives finite logits (1, K) for an image (1, C, H, W)."""
    came = f"{type(model).__name__}, for an image of {image.dtype} of shape {tuple(image.shape)},"
    try:
        with torch.no_grad():
            output = model(image.clone())
    except PatchShapError:
        raise
    except Exception as error:  # models raise what they like
        raise bad(
            what,
            f"{came} raises {type(error).__name__}",
            "a model that takes the images of the dataset",
            f"Resize and convert them before, as with .float(). ({error!s:.200})",
        ) from error
    try:
        logits = as_scores(output)
    except PatchShapError as error:
        rename(error, {"model": what})
        raise
    if logits.dim() != 2 or len(logits) != 1 or not bool(logits.isfinite().all()):
        gives = f"of shape {tuple(logits.shape)}" if logits.dim() != 2 else "that is not finite"
        raise bad(what, f"{came} gives an output {gives}", "finite logits (B, K)")


def batches(
    dataset: Any, batch: int, seed: int, first: int, steps: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices and images of the steps from ``first`` on."""
    per_epoch = len(dataset) // batch

    def wanted() -> Iterator[list[int]]:
        for epoch in range(first // per_epoch, math.ceil(steps / per_epoch)):
            order = np.random.default_rng([seed, epoch, 1]).permutation(len(dataset))
            for i in range(per_epoch):
                if first <= epoch * per_epoch + i < steps:
                    yield order[i * batch : (i + 1) * batch].tolist()

    yield from DataLoader(
        _Numbered(dataset),
        batch_sampler=wanted(),
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
    )


@contextmanager
def alone_in(out: str | Path, accelerator: Any = None) -> Iterator[Path]:
    """The folder of a run, for this run alone; also within a run that has it already."""
    folder = Path(out)
    place = folder.resolve()
    if place in _HELD.get():
        yield folder
    elif accelerator is not None and not accelerator.is_main_process:
        accelerator.wait_for_everyone()
        yield folder
    else:
        with only_process_in(folder):
            token = _HELD.set(_HELD.get() | {place})
            try:
                if accelerator is not None:
                    accelerator.wait_for_everyone()
                yield folder
            finally:
                _HELD.reset(token)


def alone_in_out(train: Callable[P, R]) -> Callable[P, R]:
    """The same function, alone in the folder that its argument ``out`` names."""
    signature = inspect.signature(train)

    @wraps(train)
    def run(*args: P.args, **options: P.kwargs) -> R:
        given = signature.bind(*args, **options).arguments
        with alone_in(given["out"], given.get("accelerator")):
            return train(*args, **options)

    return run
