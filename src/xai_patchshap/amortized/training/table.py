"""Numbers that are computed once for each image of a dataset and kept on disk."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from ..._files import write_atomically
from ...errors import bad

__all__ = ["Compute", "Table", "check_same"]

# What a digest in a key is of.
_DIGESTS = {
    "dataset": "other training images",
    "validation": "other validation images",
    "weights": "another model or other weights",
    "network": "another network or other weights",
    "start": "another network to start from",
    "evaluate": "other code to evaluate with",
}

Arrays = dict[str, NDArray[Any]]
Compute = Callable[[NDArray[np.int64]], Arrays]


class Table:
    """Rows of arrays, computed in chunks that survive a kill and are mapped, not read.

    Parameters
    ----------
    folder : Path
        One ``.npy`` file for each chunk and name.
    n_rows : int
    compute : callable
        Maps indices (c,) to arrays, each (c, ...), by name.
    names : sequence of str
        The names.
    key : dict
        What the numbers depend on, a part in each entry. A folder with numbers of another key
        is refused; those that are damaged are computed again.
    """

    def __init__(
        self,
        folder: Path,
        n_rows: int,
        compute: Compute,
        names: Sequence[str],
        key: dict[str, Any],
        *,
        chunk: int = 1024,
        title: str = "",
        accelerator: Any = None,
        progress: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key = json.loads(json.dumps({**key, "rows": n_rows, "chunk": chunk}))
        self.chunk = chunk
        starts = range(0, n_rows, chunk)
        files = {s: [folder / f"{name}-{s // chunk:05d}.npy" for name in names] for s in starts}
        notes = {s: folder / f"{s // chunk:05d}.json" for s in starts}
        ranks = 1 if accelerator is None else accelerator.num_processes
        rank = 0 if accelerator is None else accelerator.process_index
        mine = [s for s in starts if s // chunk % ranks == rank]
        missing = [s for s in mine if not _is_kept(notes[s], files[s], key)]
        for start in tqdm(missing, desc=title, disable=not progress or rank > 0):
            arrays = compute(np.arange(start, min(start + chunk, n_rows)))
            digests = []
            for name, file in zip(names, files[start], strict=True):
                buffer = io.BytesIO()
                np.save(buffer, arrays[name])
                write_atomically(file, buffer.getvalue())
                digests.append(hashlib.sha256(buffer.getvalue()).hexdigest())
            # The note comes last: without it the chunk is not there.
            note = {"key": key, "sha256": digests}
            write_atomically(notes[start], json.dumps(note).encode())
        if accelerator is not None:
            accelerator.wait_for_everyone()
        self._files = [dict(zip(names, fs, strict=True)) for fs in files.values()]
        # A mapped file holds a descriptor, of which a process may have some thousand.
        self._mapped = lru_cache(maxsize=512)(partial(np.load, mmap_mode="r"))

    def rows(self, indices: NDArray[np.int64]) -> Arrays:
        """The rows of some indices, as arrays (len(indices), ...) by name."""
        places = [divmod(int(i), self.chunk) for i in indices]
        return {
            name: np.stack([self._mapped(self._files[c][name])[row] for c, row in places])
            for name in self._files[0]
        }

    def tensors(self, indices: Tensor) -> dict[str, Tensor]:
        """The same as tensors."""
        return {name: torch.from_numpy(a) for name, a in self.rows(indices.numpy()).items()}


def _is_kept(note: Path, files: Sequence[Path], key: dict[str, Any]) -> bool:
    """Whether a chunk is there as it was written, or an error if it is of another key."""
    try:
        said = json.loads(note.read_bytes())
        theirs, digests = dict(said["key"]), list(said["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    check_same(note.parent, theirs, key)
    try:
        return digests == [_digest(file) for file in files]
    except OSError:
        return False


def check_same(folder: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise if what is kept in a folder belongs to other images, weights or settings."""
    if theirs.get("objective") == "regression":  # as it was called before
        theirs = {**theirs, "objective": "labels"}
    other = sorted(k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k))
    if not other:
        return
    things = [_DIGESTS[k] for k in other if k in _DIGESTS]
    values = [f"{k}={theirs.get(k)!r}, not {ours.get(k)!r}" for k in other if k not in _DIGESTS]
    raise bad(
        "out",
        f"'{folder}', which holds what was made with {'; '.join([*things, *values])}",
        "a new folder, or one of the same images, weights and settings",
        "Name another folder, or remove this one to begin again.",
    )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
