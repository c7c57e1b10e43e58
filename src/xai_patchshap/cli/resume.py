"""What a folder of results holds already, and where each image's result goes."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import bad

__all__: list[str] = []  # parts of the command line, for no one else

_WORDS = {"code": "the digest of the model's source", "weights": "the digest of the weights"}


@dataclass(frozen=True)
class Record:
    """What a result says of itself.

    ``is_whole`` says whether all that belongs to it is there.
    """

    settings: dict[str, Any]
    source: str
    digest: str
    is_whole: bool
    content: Any = None


class Kept:
    """Results in a folder, each a file ``NAME.suffix`` that is written last and in one go.

    Parameters
    ----------
    folder : path
    settings : dict
        All that the numbers depend on, but for the image.
    read : callable
        The :class:`Record` of a file; None for a file that is not ours.
    suffix : str
        Of the file that says that a result is there.
    beside : sequence of str
        Suffixes of what lies beside it.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        read: Callable[[Path], Record | None],
        suffix: str,
        beside: Sequence[str] = (),
    ) -> None:
        self.folder, self.settings, self._read = folder, settings, read
        self._suffix, self._beside = suffix, beside
        self._names: dict[str, str] = {}
        self._spelled: dict[str, str] = {}
        self._given: set[str] = set()

    def check_settings(self) -> None:
        """Raise if the folder holds results of other settings."""
        for file in sorted(self.folder.rglob(f"*{self._suffix}")):
            record = self._read(file)
            name = file.relative_to(self.folder).as_posix().removesuffix(self._suffix)
            self._spelled.setdefault(_folded(name), name)
            if record is None:
                continue
            check_same(self.folder, f"{name}{self._suffix}", record.settings, self.settings)
            self._names.setdefault(record.source, name)

    def place(self, wanted: str, source: str, digest: str) -> tuple[str, Record | None]:
        """The name of an image's result, and the result where it is there already.

        Nothing is overwritten but the result that an image had before it was changed.
        """
        if any(p.exists() and not p.is_dir() for p in self._file(wanted).parents):
            wanted = wanted.replace("/", "-")
        name, n = self._names.get(source, wanted), 2
        while _folded(name) in self._given or not self._is_free(name, source, digest):
            name, n = f"{wanted}-{n}", n + 1
        self._given.add(_folded(name))
        record = self._read(self._file(name))
        if record is None or not record.is_whole or not digest == record.digest != "":
            return name, None
        return name, record

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}{self._suffix}"

    def _is_free(self, name: str, source: str, digest: str) -> bool:
        """Whether a name is nobody's, or that of this image, which may have been moved."""
        if self._spelled.get(_folded(name), name) != name:
            return False  # where capitals do not count, these two are one
        file = self._file(name)
        if not os.path.lexists(file):
            beside = (self.folder / f"{name}{suffix}" for suffix in self._beside)
            return not any(os.path.lexists(path) for path in beside)
        record = self._read(file)
        if record is None or record.settings != self.settings:
            return False
        return record.source == source or record.digest == digest != ""


def check_same(folder: Path, name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise unless what lies in a folder is of these settings."""
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise bad(
                "--out",
                f"'{folder}', where {_WORDS.get(key, key)} is {theirs.get(key)!r} for '{name}'",
                f"results of the same settings, here {ours.get(key)!r}",
                "Name another folder, or remove these results.",
            )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
