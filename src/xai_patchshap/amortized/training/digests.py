"""What tells models and images apart: SHA-256 of all that their values depend on."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ...errors import PatchShapError, bad
from .data import image_of
from .schedule import Schedule

__all__ = ["code_digest", "digests_of", "images_digest", "model_digest"]

# What changes how a model computes, and not what.
_WITHOUT_EFFECT = {"training", "fused_attn", "grad_checkpointing"}
_ASKED_TWICE = 8


def model_digest(model: nn.Module) -> str:
    """Of a model's parts, their weights and buffers and plain settings, by their names.

    Examples
    --------
    >>> a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> same = b.load_state_dict(a.state_dict())
    >>> model_digest(a) == model_digest(b)
    True
    >>> with torch.no_grad():
    ...     negated = b.weight.neg_()
    >>> model_digest(a) == model_digest(b)
    False
    """
    found = hashlib.sha256()
    for name, part in model.named_modules(remove_duplicate=False):
        plain = {
            k: v
            for k, v in vars(part).items()
            if not k.startswith("_") and k not in _WITHOUT_EFFECT and _is_plain(v)
        }
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        found.update(repr((name, kind, sorted(plain.items()))).encode())
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in named:
        found.update(name.encode() + b"\0")
        _add(found, tensor)
    return found.hexdigest()


def images_digest(dataset: Any, *, name: str, workers: int = 0, progress: bool = False) -> str:
    """Of all images of a dataset, in their order.

    Raises
    ------
    PatchShapError
        If it has none, or they are no finite float tensors (C, H, W) of one shape, or not the
        same whenever they are asked for.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise bad(
            name,
            f"an object of type {type(dataset).__name__}",
            "a dataset with a length, whose items are images (C, H, W)",
            "Of a DataLoader, give its .dataset.",
        )
    if not len(dataset):
        raise bad(name, "no images", "at least one")
    found, first = hashlib.sha256(), ""
    loader = DataLoader(
        _Digests(dataset), batch_size=None, num_workers=workers, generator=torch.Generator()
    )
    begun = []
    bar = tqdm(loader, desc=name, disable=not progress, mininterval=1.0)
    for i, one in enumerate(bar):
        if isinstance(one, PatchShapError):
            raise one
        digest, kind, is_finite = one
        first = first or kind
        if kind != first:
            raise bad(name, f"{kind} in image {i}", f"that of the first, {first}", "Resize them.")
        if not is_finite:
            raise bad(name, f"NaN or infinite numbers in image {i}", "finite numbers")
        if i < _ASKED_TWICE:
            begun.append(digest)
        found.update(digest)
    again = [_Digests(dataset)[i] for i in range(len(begun))]
    if [isinstance(one, tuple) and one[0] for one in again] != begun:
        raise bad(
            name,
            "other images when they are asked for again",
            "the same image for the same index",
            "Make random copies beforehand, or draw them with a seed that the index gives.",
        )
    return found.hexdigest()


def digests_of(dataset: Any, validation: Any, schedule: Schedule, progress: bool) -> dict[str, Any]:
    """What tells a run's images from those of another run."""
    found = {
        name: images_digest(of, name=name, workers=schedule.workers, progress=progress)
        for name, of in (("dataset", dataset), ("validation", validation))
    }
    kind, held = (_kind(image_of(of, 0)) for of in (dataset, validation))
    if held != kind:
        raise bad("validation", f"images of {held}", f"those of the dataset, of {kind}")
    return found


def code_digest(function: Any) -> str:
    """Name of a function, or of an object's class, and what is known of its source."""
    named = function if hasattr(function, "__qualname__") else type(function)
    try:
        source = inspect.getsource(named)
    except (OSError, TypeError):
        source = ""
    return f"{named.__qualname__} {hashlib.sha256(source.encode()).hexdigest()}"


class _Digests(Dataset[Any]):
    """Digest, shape and precision of each image, and whether it is finite; or what is wrong.

    What is raised in another process comes with all of its traceback in the message.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[bytes, str, bool] | PatchShapError:
        try:
            image = image_of(self.dataset, index)
        except PatchShapError as error:
            return error
        found = hashlib.sha256()
        _add(found, image)
        return found.digest(), _kind(image), bool(image.isfinite().all())


def _kind(image: Tensor) -> str:
    return f"shape {tuple(image.shape)} and {image.dtype}"


def _add(found: Any, tensor: Tensor) -> None:
    found.update(f"{tensor.dtype} {tuple(tensor.shape)}\0".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    found.update(flat.view(torch.uint8).numpy())


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)
