"""Numbers that are computed once for each image of a dataset and kept on disk."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..errors import bad
from ._data import write_atomically

__all__ = ["Table"]

Arrays = dict[str, NDArray[Any]]


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
        What the numbers depend on; a folder with those of another key is refused.
    """

    def __init__(
        self,
        folder: Path,
        n_rows: int,
        compute: Callable[[NDArray[np.int64]], Arrays],
        names: Sequence[str],
        key: dict[str, Any],
        *,
        chunk: int = 1024,
        title: str = "",
        accelerator: Any = None,
        progress: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / "key.json"
        key = json.loads(json.dumps({**key, "rows": n_rows, "chunk": chunk}, default=str))
        if known.exists() and json.loads(known.read_text()) != key:
            raise bad(
                "out", f"'{folder}', which holds values of other settings", "a folder without them"
            )
        if accelerator is None or accelerator.is_main_process:
            write_atomically(known, json.dumps(key).encode())
        self.chunk = chunk
        starts = range(0, n_rows, chunk)
        files = {s: [folder / f"{name}-{s // chunk:05d}.npy" for name in names] for s in starts}
        missing = [s for s in starts if not all(f.exists() for f in files[s])]
        ranks = 1 if accelerator is None else accelerator.num_processes
        rank = 0 if accelerator is None else accelerator.process_index
        # By their numbers: what is missing changes while other processes write.
        missing = [s for s in missing if s // chunk % ranks == rank]
        for start in tqdm(missing, desc=title, disable=not progress or rank > 0):
            arrays = compute(np.arange(start, min(start + chunk, n_rows)))
            for name, file in zip(names, files[start], strict=True):
                buffer = io.BytesIO()
                np.save(buffer, arrays[name])
                write_atomically(file, buffer.getvalue())
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
