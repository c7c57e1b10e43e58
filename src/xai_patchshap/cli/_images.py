"""Image files for the command line: finding and telling them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from ..errors import bad

__all__: list[str] = []  # parts of the command line, for no one else


def digest_of(path: str | Path) -> str:
    """What tells the content of a file from that of another; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return ""


def images_below(folder: str | Path, beside: Path | None = None) -> list[Path]:
    """Image files at any depth, in the order of their paths.

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
    root = Path(folder)
    results = None if beside is None else beside.resolve()
    found = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in IMG_EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and (results is None or results not in path.resolve().parents)
    ]
    if not found:
        raise bad("images", f"'{root}'", "a folder with images, at any depth")
    return found


def images_of(paths: Sequence[Path], out: Path) -> list[tuple[str, Path]]:
    """Name and path of every image that files and folders, mixed, stand for.

    The name is the path below the folder, without its suffix. A file that is named twice, or
    lies in two of the folders, comes once.

    Raises
    ------
    PatchShapError
        If a path does not exist, a folder has no images, or results would lie among them.
    """
    found: dict[Path, str] = {}
    for path in paths:
        if not path.is_dir():
            if not path.is_file():
                raise bad("image", f"'{path}'", "a file or a folder that exists")
            found.setdefault(path, path.stem)
            continue
        if path.resolve() == out.resolve():
            raise bad("--out", f"'{out}', the folder of the images", "another folder")
        for file in images_below(path, out):
            found.setdefault(file, file.relative_to(path).with_suffix("").as_posix())
    return [(name, path) for path, name in found.items()]
