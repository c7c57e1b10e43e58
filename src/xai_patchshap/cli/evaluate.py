"""``xai-patchshap evaluate``: methods compared on images."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student
from torch import Tensor
from tqdm.auto import tqdm

from .._files import only_process_in, write_text
from ..errors import PatchShapError, bad
from ..evaluation.compare import SCORES, Protocol, compare_methods, table
from ..evaluation.image_games import ImageGames
from ..evaluation.network_methods import Linked
from ..explainers import PatchExplainer
from ..explainers.methods import dashed
from ..models.named_model import NamedModel
from .failures import Failures
from .images import identified, images_of, read_subject, shown, source_of
from .model import (
    batch_rows,
    check_masker,
    class_name,
    named_model,
    prepare_masker,
    scores_of,
    trained,
)
from .provenance import provenance
from .resume import Kept, Record, check_same
from .settings import EvaluateSettings

__all__: list[str] = []  # parts of the command line, for no one else

# Added to the seed: a method that draws its masks as the scores do would be scored on its own.
_OTHER = 1_000_003
# What is called so in the folder of results: the report, and the folder of each image's scores.
_REPORT, _IMAGES = "evaluation", "images"
_COLUMNS = ("method", "images", "evaluations", "seconds")


def evaluate(settings: EvaluateSettings) -> int:
    """Compare methods on images, and write the report."""
    with only_process_in(settings.out, deep=True):
        return _compare(settings, images_of(settings.images, settings.out))


def _compare(settings: EvaluateSettings, files: Sequence[tuple[str, Path]]) -> int:
    comparison = _Comparison(settings)
    n_methods = len(settings.methods)
    stopped = False
    try:
        with tqdm(total=len(files) * n_methods, desc="evaluate", unit=" maps") as bar:
            for done, (name, path) in enumerate(files, start=1):
                comparison.add(name, path, bar)
                bar.update(done * n_methods - bar.n)
        comparison.failures.check()
    except KeyboardInterrupt:
        # Means over the images that are finished are worth having.
        stopped = True
    if comparison.rows:
        _report(settings, comparison, len(files))
    if stopped:
        raise KeyboardInterrupt
    for line in comparison.failures.lines:
        print(f"xai-patchshap: {line}", file=sys.stderr)
    return 1 if comparison.failures.lines else 0


class _Comparison:
    """Scores of the methods, image by image."""

    def __init__(self, settings: EvaluateSettings) -> None:
        self.asked = settings
        self.rows: list[dict[str, Any]] = []
        self.n_found = 0
        self.failures = Failures()
        self.explainer: PatchExplainer | None = None
        if settings.explainer is None:
            check_masker(settings)
            self.named = named_model(settings)
            self.model, self.masker = self.named.model, prepare_masker(settings, self.named)
        else:
            self.named, explainer = trained(settings)
            network = explainer.model
            self.explainer, self.model = explainer, Linked(network, network.surrogate)
            self.masker = explainer.masker
        self.batch = batch_rows(settings.batch_size, self.model)
        weights = self.model if self.explainer is None else self.explainer.model
        self.settings = provenance(settings, self.named, weights)
        _check_report(settings.out, self.settings)
        self.kept = Kept(settings.out / _IMAGES, self.settings, _read_rows, ".json")
        self.kept.check_settings()

    def add(self, name: str, path: Path, bar: Any) -> None:
        """Score all methods on one image, unless that is done, or note why not."""
        source = source_of(path)
        try:
            digest = identified(path)
            place, record = self.kept.place(name, source, digest)
            if record is None:
                x = read_subject(self.named, place, path, digest).x[None]
        except PatchShapError as error:
            self.failures.unreadable(error)
            return
        if record is None:
            try:
                rows = [row | {"file": shown(source)} for row in self._scored(place, x, bar)]
            except Exception as error:  # of the model itself, too
                self.failures.add(str(path), error)
                return
            self._keep(place, Record(self.settings, source, digest, True, rows))
        else:
            rows = record.content
            self.n_found += 1
        self.rows += rows
        self.failures.n_done += 1

    def _keep(self, name: str, record: Record) -> None:
        """Write what is known of an image."""
        if not self.asked.out.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.asked.out))
        file = self.asked.out / _IMAGES / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(vars(record), allow_nan=False) + "\n")

    def _scored(self, name: str, x: Tensor, bar: Any) -> list[dict[str, Any]]:
        asked = self.asked
        scores = scores_of(self.named, x, self.batch)[0]
        if not np.isfinite(scores).all():
            raise bad("model", "NaN or infinite outputs", "finite numbers")
        target = int(np.argmax(scores))
        games = ImageGames(self.model, self.masker, x, [[target]], batch_size=self.batch)
        compared = compare_methods(
            games,
            self._told(name, bar),
            budget=asked.budget,
            protocol=Protocol(asked.steps, n_coalitions=asked.samples, seed=asked.seed + _OTHER),
            seed=asked.seed,
            explainer=self.explainer,
        )
        of_image = {
            "image": name,
            "class": class_name(self.named, target),
            "score": float(scores[target]),
        }
        return [of_image | row | {"method": dashed(row["method"])} for row in compared]

    def _told(self, name: str, bar: Any) -> Iterator[str]:
        """The methods, while the bar says which one is at work."""
        for method in self.asked.methods:
            bar.set_postfix_str(f"{name}, {dashed(method)}", refresh=False)
            yield method
            bar.update()


def _read_rows(file: Path) -> Record | None:
    """The rows of an image, with what they were made of; None for any other file."""
    try:
        if not file.is_file():  # but a pipe, which would be waited for
            return None
        return Record(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _check_report(out: Path, settings: dict[str, Any]) -> None:
    """Raise if there is a report of other settings, or one that is none of ours."""
    report, csv_file = (out / f"{_REPORT}.{suffix}" for suffix in ("json", "csv"))
    theirs: Any = settings
    for path in (report, csv_file):
        if not os.path.lexists(path):
            continue
        try:
            if not path.is_file():  # a pipe would be waited for
                raise ValueError("no file")
            text = path.read_text(encoding="utf-8")
            if path == report:
                theirs = dict(json.loads(text)["settings"])
            elif not text.startswith(",".join(_COLUMNS)):
                raise ValueError("another table")
        except (OSError, ValueError, KeyError, TypeError):
            raise bad(
                "--out",
                f"'{out}', where '{path.name}' is no report of this command",
                "a folder without such a file",
                "Name another folder, or move that file.",
            ) from None
    check_same(out, report.name, theirs, settings)


def _report(settings: EvaluateSettings, comparison: _Comparison, n_files: int) -> None:
    """Print the table, and write it with what it was made of."""
    means = [_means(dashed(m), comparison.rows) for m in settings.methods]
    named: NamedModel = comparison.named
    n = len(comparison.rows) // len(means)
    known = f", {comparison.n_found} of them scored already" if comparison.n_found else ""
    print(
        f"{n} of {n_files} images{known}, {named.name}, {named.scale} of the predicted class, "
        f"background {settings.background}; means +- half of a 95 % interval, median seconds\n"
    )
    print(_table(means))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(means[0]))
    writer.writeheader()
    writer.writerows(means)
    write_text(settings.out / f"{_REPORT}.csv", text.getvalue())
    content = {
        "settings": comparison.settings,
        "methods": means,
        "images": comparison.rows,
        "failed": comparison.failures.lines,
    }
    write_text(
        settings.out / f"{_REPORT}.json", json.dumps(content, indent=1, allow_nan=False) + "\n"
    )
    print(f"\nwrote {shown(settings.out / _REPORT)}.csv and .json")


def _means(method: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table."""
    own = [row for row in rows if row["method"] == method]
    line: dict[str, Any] = {
        "method": method,
        "images": len(own),
        "evaluations": float(np.mean([row["evaluations"] for row in own])),
        # The first image also pays for what is compiled or loaded once.
        "seconds": float(np.median([row["seconds"] for row in own])),
    }
    for key in SCORES:
        numbers = [row[key] for row in own if row.get(key) is not None]
        n = len(numbers)
        line[key] = float(np.mean(numbers)) if n else None
        half = student.ppf(0.975, n - 1) * np.std(numbers, ddof=1) / np.sqrt(n) if n > 1 else None
        line[f"{key}_half_width"] = None if half is None else float(half)
    return line


def _table(means: Sequence[dict[str, Any]]) -> str:
    shown = [key for key in SCORES if any(line[key] is not None for line in means)]
    lines = [["method", "evaluations", "seconds", *(key.replace("_", "-") for key in shown)]]
    for line in means:
        cells = [line["method"], f"{line['evaluations']:.0f}", f"{line['seconds']:.2f}"]
        for key in shown:
            mean, half = line[key], line[f"{key}_half_width"]
            tail = "" if half is None else f" +- {half:.3f}"
            cells.append("-" if mean is None else f"{mean:.3f}{tail}")
        lines.append(cells)
    return table(lines)
