"""Images of the command line: found, named, told apart, and made ready for a model."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import PatchShapError, bad, rename
from ..models.named_model import NamedModel
from ..models.photographs import check_image, open_image

__all__: list[str] = []  # parts of the command line, for no one else

# Least side of a picture in pixels.
_PICTURE = 448
# As torchvision's ImageFolder has them.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Folders of images that are called as our files are: x.png/y.jpg beside x.jpg.
_AS_OURS = re.compile(r"\.(?=(npz|png|json|html|pairs)$)", re.IGNORECASE)
# Bytes of a name to which a suffix is added; file systems take 255.
_LONGEST = 200


def digest_of(path: str | Path) -> str:
    """What tells the content of a file from that of another; empty if it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return ""
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return ""


def identified(path: Path) -> str:
    """The digest of an image file.

    Raises
    ------
    PatchShapError
        If the file cannot be read, or does not begin as an image does.
    """
    if path.is_dir():
        raise bad("image", f"'{path}'", "a folder that can be read")
    check_image(path)
    digest = digest_of(path)
    if not digest:
        raise bad("image", f"'{path}'", "a file that can be read, and stays while it is read")
    return digest


def shown(text: object) -> str:
    """A path or name for people; the bytes of a name need not be text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def result_name(path: PurePath) -> str:
    """What the results of an image are called: the path below its folder, without the suffix.

    Examples
    --------
    >>> result_name(PurePath("cats/a.b.jpg")), result_name(PurePath("x.png/y.jpg"))
    ('cats/a.b', 'x-png/y')
    """
    folders = [_AS_OURS.sub("-", part) for part in path.parts[:-1]]
    return "/".join(_short(shown(part)) for part in (*folders, path.stem))


def _short(part: str) -> str:
    raw = part.encode()
    if len(raw) <= _LONGEST:
        return part
    digest = hashlib.blake2b(raw, digest_size=4).hexdigest()
    return f"{raw[: _LONGEST - 20].decode(errors='ignore')}-{digest}"


def images_below(folder: str | Path, beside: Path | None = None) -> list[Path]:
    """Image files at any depth, in the order of their paths; folders that cannot be read too.

    Parameters
    ----------
    folder : path
        Names with a dot in front are left out, which other systems leave behind.
    beside : path, optional
        A folder of results, whose pictures are no images to explain.

    Raises
    ------
    PatchShapError
        If there are none.
    """
    root = os.fspath(folder)
    results = None if beside is None else os.path.realpath(beside)
    found: list[Path] = []
    unread = os.walk(root, onerror=lambda error: found.append(Path(str(error.filename))))
    for path, folders, files in unread:
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(path, name)
            for name in files
            if Path(name).suffix.lower() in _SUFFIXES and not name.startswith(".")
        ]
    if results is not None:
        found = [
            path for path in found if Path(results) not in Path(os.path.realpath(path)).parents
        ]
    if not found:
        raise bad("images", f"'{root}'", "a folder with images, at any depth")
    return sorted(found)


def images_of(paths: Sequence[Path], out: Path) -> list[tuple[str, Path]]:
    """Name and path of every image that files and folders, mixed, stand for.

    A file that is named twice, lies in two of the folders, or has links beside it comes once.

    Raises
    ------
    PatchShapError
        If a folder has no images, or results would lie among them.
    """
    found: dict[str, tuple[str, Path]] = {}
    for path in paths:
        if not os.path.isdir(path):
            files, above = [path], path.parent
        elif os.path.realpath(path) == os.path.realpath(out):
            raise bad("--out", f"'{out}', the folder of the images", "another folder")
        else:
            files, above = images_below(path, out), path
        for file in files:
            real = os.path.realpath(file)
            if real == os.path.realpath(out / f"{file.stem}.png") and above == file.parent:
                raise bad("--out", f"'{out}', where '{file.name}' lies", "another folder")
            if real not in found or (found[real][1].is_symlink() and not file.is_symlink()):
                found[real] = (result_name(file.relative_to(above)), file)
    return list(found.values())


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
