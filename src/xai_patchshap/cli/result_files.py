"""Files of results, with their pictures: written, and read back."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .._files import draft_of
from ..estimators import Interactions
from ..plots import interaction_network, redraw
from .results import Result, plain
from .resume import Record

__all__: list[str] = []  # parts of the command line, for no one else

# What the results of one image are called, after its name: a file, a picture, a folder.
SUFFIXES = (".npz", ".png", ".pairs")
_INTERACTIONS = "interactions.npz"


def write_result(out: Path, result: Result) -> list[Path]:
    """Write the .npz that says that all is there, and the pictures.

    All is written under other names before it takes its place. A process that is killed
    between these steps leaves a result that is seen not to be whole.

    Returns
    -------
    list of path
        The pictures of pairs, one for each class where there are any.
    """
    if not out.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(out))
    file, picture, beside = (out / f"{result.name}{suffix}" for suffix in SUFFIXES)
    file.parent.mkdir(parents=True, exist_ok=True)
    drafts = [draft_of(path) for path in (file, picture, beside)]
    try:
        names = []
        if result.interactions is not None:
            drafts[2].mkdir()
            result.interactions.save(drafts[2] / _INTERACTIONS)
            names = _draw_pairs(drafts[2], result.arrays, result.interactions)
        pairs = [f"{beside.name}/{name}" for name in names]
        with drafts[0].open("wb") as stream:
            np.savez_compressed(stream, **result.arrays, pairs=np.array(pairs, dtype=str))
        save_figure(redraw(drafts[0]), drafts[1])
        picture.unlink(missing_ok=True)
        if beside.exists():
            shutil.rmtree(beside)
        drafts[0].replace(file)
        if drafts[2].exists():
            drafts[2].replace(beside)
        drafts[1].replace(picture)
    finally:
        for draft in drafts[:2]:
            draft.unlink(missing_ok=True)
        shutil.rmtree(drafts[2], ignore_errors=True)
    return [file.parent / name for name in pairs]


def save_figure(figure: Figure, file: Path) -> None:
    """Write a picture; letters that the font lacks are boxes in it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file, dpi=150)


def add_picture(out: Path, name: str) -> None:
    """Draw the picture of a result, if it is missing."""
    picture = out / f"{name}.png"
    if not picture.exists():
        save_figure(redraw(out / f"{name}.npz"), draft_of(picture))
        draft_of(picture).replace(picture)


def _draw_pairs(folder: Path, arrays: dict[str, Any], found: Interactions) -> list[str]:
    """One picture of the pairs for each class, and what they are called."""
    if found.order < 2:
        return []
    names = []
    for k, (index, class_) in enumerate(zip(arrays["classes"], arrays["class_names"], strict=True)):
        figure = interaction_network(
            arrays["photo"],
            arrays["labels"],
            found.matrix()[:, :, k],
            title=plain(class_),
            label=f"interaction ({found.index})",
            std=np.nan_to_num(found.matrix_std()[:, :, k], posinf=1e300),
        )
        slug = "".join(c if c.isalnum() else "-" for c in class_)[:40]
        names.append(f"{index}-{slug}.png")
        save_figure(figure, folder / names[-1])
    return names


def read_record(file: Path) -> Record | None:
    """What a result's .npz says of itself; None for any other file."""
    try:
        if not file.is_file():  # but a pipe, which would be waited for
            return None
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
            settings = json.loads(str(saved["settings"]))
            parts = [file.parent / str(name) for name in saved["pairs"]]
            if settings["method"] == "interaction-shap":
                parts.append(file.with_name(file.name.removesuffix(".npz") + SUFFIXES[2]))
            return Record(
                settings,
                str(saved["source"]),
                str(saved["source_digest"]),
                bool(saved["finished"]) and all(part.exists() for part in parts),
            )
    except Exception:  # not a zip file, a damaged one, one without these entries
        return None
