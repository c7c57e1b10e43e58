"""Images made ready for a model, and to look at."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import PatchShapError, bad, rename
from ..models.load import NamedModel, open_image
from .images import digest_of

__all__: list[str] = []  # parts of the command line, for no one else

# Least side of a picture in pixels.
_PICTURE = 448


@dataclass(frozen=True)
class Subject:
    """An image to explain: ``x`` as the model takes it, ``photo`` to look at."""

    name: str
    x: Tensor
    photo: NDArray[np.uint8]
    source: str = ""
    digest: str = ""


def read_subject(
    named: NamedModel, name: str, image: Any, digest: str = "", source: str = ""
) -> Subject:
    """An image, or the file of one, made ready for the model."""
    if isinstance(image, Path):
        source, digest = source_of(image), digest or digest_of(image)
        image = open_image(image)
    zoom = max(2, -(-_PICTURE // min(named.size)))
    try:
        x, larger = named.prepare(image), named.prepare(image, zoom=zoom)
    except PatchShapError as error:
        rename(error, {"image": f"image '{source or name}'"})
        raise
    except (OSError, ValueError, MemoryError) as error:  # of the image library
        came = f"'{source or name}'"
        raise bad("image", came, "an image that can be resized", f"({error})") from error
    photo = (larger.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    photo = photo[..., 0] if photo.shape[2] == 1 else photo[..., :3]
    return Subject(name, x, photo, source, digest)


def source_of(path: Path) -> str:
    """Where an image lies, links followed."""
    return os.path.realpath(path)
