"""The page that shows the results of a folder: one file, without scripts from elsewhere.

``index_page.html`` is its template.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._files import write_text
from ..plots.canvas import pale_gray
from ..plots.scale import SATURATED, diverging, scale_end
from .images import shown

__all__: list[str] = []  # parts of the command line, for no one else

_SIDE = 160  # of a thumbnail, in pixels
_HIDDEN = ("method", "weights", "code")  # settings that say nothing to a reader

_OURS = "<meta name=generator content='xai-patchshap'>"


@dataclass(frozen=True)
class Entry:
    """One image of the page.

    ``photo`` and ``map`` are data URIs, ``picture`` and ``pairs`` addresses relative to the
    page; ``classes`` holds name, score, ``f(x) - f(background)`` and the sum of the
    attributions.
    """

    name: str
    picture: str
    pairs: list[str]
    photo: str
    map: str
    predicted: str
    score: float
    scale: str
    classes: list[tuple[str, float, float, float]]
    players: int
    evaluations: int
    seconds: float
    exact: bool
    source: str = ""


def write_index(out: Path, settings: dict[str, Any], failed: Sequence[str]) -> Path:
    """Write ``index.html`` on all results below a folder.

    A page of that name that is not one of these is left alone, and the page has another name.

    Parameters
    ----------
    out : path
    settings : dict
        What the results have in common.
    failed : sequence of str
        Which images could not be explained, and why.
    """
    found = [_entry(out, file) for file in out.rglob("*.npz")]
    entries = sorted((e for e in found if e is not None), key=lambda e: e.name)
    names = chain(("index", "xai-patchshap"), (f"xai-patchshap-{n}" for n in count(2)))
    page = next(p for p in (out / f"{name}.html" for name in names) if _is_ours(p))
    write_text(page, index_page(entries, settings, failed))
    return page


def _is_ours(page: Path) -> bool:
    """Whether a page may be written: it is not there, or it is one of these."""
    if not os.path.lexists(page):
        return True
    return page.is_file() and _OURS.encode() in page.read_bytes()[:1000]


def index_page(entries: Sequence[Entry], settings: dict[str, Any], failed: Sequence[str]) -> str:
    """The page as HTML; arguments as for :func:`write_index`."""
    n = len(entries)
    title = f"{n} image{'' if n == 1 else 's'} explained by {settings.get('method', '')}"
    told = {k: v for k, v in settings.items() if v is not None and k not in _HIDDEN}
    lines = "".join(f"<p>{escape(line)}</p>\n" for line in failed)
    heading = f"<h2>{len(failed)} could not be explained</h2>\n"
    template = files(__package__).joinpath("index_page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        settings=escape(", ".join(f"{k} {_plain(v)}" for k, v in told.items())),
        failed=f"<section id=failed>{heading}{lines}</section>" if failed else "",
        cards="".join(map(_card, entries)),
    )


def _plain(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


def _card(entry: Entry) -> str:
    text = escape(f"{entry.name} {entry.predicted}".lower(), quote=True)
    rows = "".join(
        f"<tr><td>{escape(name)}<td>{score:.3f}<td>{gap:+.4f}<td>{total:+.4f}"
        for name, score, gap, total in entry.classes
    )
    name, link = escape(entry.name, quote=True), escape(entry.picture, quote=True)
    pairs = "".join(
        f" · <a href='{escape(pair, quote=True)}'>pairs: {escape(row[0])}</a>"
        for pair, row in zip(entry.pairs, entry.classes, strict=False)
    )
    kind = "exact" if entry.exact else "estimated"
    return (
        f"<article data-text='{text}' data-score={entry.score:.6g} "
        f"data-spent={entry.evaluations} data-seconds={entry.seconds:.6g}>\n"
        f"<a class=thumbs href='{link}'><img src='{entry.photo}' alt='{name}'>"
        f"<img src='{entry.map}' alt='Attributions to {escape(entry.classes[0][0], quote=True)}'>"
        f"</a>\n<h2><a href='{link}'>{name}</a></h2>\n"
        f"<p class='dim file'>{escape(shown(entry.source))}</p>\n"
        f"<p>{escape(entry.predicted)}, {escape(entry.scale)} {entry.score:.3f}</p>\n"
        "<table><tr><th>class<th>score<th>f(x) - f(background)<th>sum"
        f"{rows}</table>\n"
        f"<p class=dim>{entry.players} players, {entry.evaluations} evaluations, "
        f"{entry.seconds:.1f} s, {kind}{pairs}</p>\n</article>\n"
    )


def _entry(out: Path, file: Path) -> Entry | None:
    """What the page says of a result; None for any other file."""
    try:
        if not file.is_file():
            return None
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
            if "settings" not in saved:
                return None
            values, gap = saved["values"], saved["full_values"] - saved["base_values"]
            names = [str(name) for name in saved["class_names"]]
            numbers = zip(names, saved["scores"], gap, values.sum(axis=0), strict=True)
            photo, labels = saved["photo"], saved["labels"]
            folder = file.relative_to(out).parent
            stem = file.name.removesuffix(".npz")
            return Entry(
                name=(folder / stem).as_posix(),
                picture=_address(folder / f"{stem}.png"),
                pairs=[_address(folder / str(name)) for name in saved["pairs"]],
                photo=_data_uri(photo),
                map=_data_uri(_heat(photo, labels, values[:, 0])),
                predicted=str(saved["predicted_name"]),
                score=float(saved["predicted_score"]),
                scale=str(saved["scale"]),
                classes=[(name, float(s), float(g), float(t)) for name, s, g, t in numbers],
                players=len(values),
                evaluations=int(saved["evaluations"]),
                seconds=float(saved["seconds"]),
                exact=bool(saved["exact"]),
                source=str(saved["source"]),
            )
    except Exception:  # not a zip file, or a damaged one
        return None


def _address(path: Path) -> str:
    return quote(path.as_posix())


def _heat(
    photo: NDArray[np.uint8], labels: NDArray[np.int64], values: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """The map of a class over a pale photograph, as in the pictures."""
    density = (values / np.bincount(labels.ravel()))[labels]
    limit = scale_end(density, SATURATED)
    pale = pale_gray(np.asarray(Image.fromarray(photo).resize(labels.shape[::-1])) / 255)
    color = diverging()(np.clip(0.5 + 0.5 * density / limit, 0, 1))
    alpha = color[..., 3:]
    return np.asarray((color[..., :3] * alpha + pale[..., None] * (1 - alpha)) * 255, np.uint8)


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels)
    scale = _SIDE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
