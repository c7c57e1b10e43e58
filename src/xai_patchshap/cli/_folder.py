"""``xai-patchshap explain`` on folders: many images, in groups, again and again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..errors import PatchShapError, bad, rename
from ..explainers import PatchExplainer
from ..named_models import NamedModel
from ..plots import redraw
from ._images import digest_of
from ._model import FLAGS, batch_rows, scores_of
from ._report import write_index
from ._result import (
    Subject,
    explain_together,
    read_record,
    read_subject,
    settings_of,
    write_result,
)

__all__: list[str] = []  # parts of the command line, for no one else

# Full batches of the model that a group of images is worth: the last one, of which a half is
# empty on average, is then no more than a percent or two of the work, and tokens are dropped
# from as many batches at once.
_BATCHES = 32


def group_size(budget: int | str, rows: int, method: str) -> int:
    """Images that are explained together.

    As many as give the model some full batches, and no more: what is not finished of a group
    is lost when the program is ended. It depends on no clock, so that a run that was ended and
    begun again has the groups, and hence the last digits, of one that was not.

    Parameters
    ----------
    budget : int or "auto"
        Evaluations for each image.
    rows : int
        Images in one batch of the model.
    method : str
        Of the command line.

    Examples
    --------
    >>> group_size(1000, 16, "owen-bpt"), group_size(1000, 128, "owen-bpt")
    (1, 5)
    >>> group_size("auto", 16, "vit-shapley")
    16
    """
    evaluations = int(budget) if budget != "auto" else 1 if method == "vit-shapley" else 500
    return max(1, min(rows, -(-_BATCHES * rows // max(1, evaluations))))


def explain_folders(
    a: argparse.Namespace,
    files: Sequence[tuple[str, Path]],
    named: NamedModel,
    explainer: PatchExplainer,
) -> int:
    """Explain all images that have no result yet, and write the index.

    Returns
    -------
    int
        The exit status: 1 if some image could not be explained.
    """
    settings = settings_of(a, named, explainer)
    kept = _Kept(a.out, settings)
    work = _Work(a, named, explainer, settings, kept)
    size = group_size(a.budget, work.rows, a.method)
    try:
        with tqdm(total=len(files), desc="explain", unit=" images") as bar:
            for start in range(0, len(files), size):
                group = files[start : start + size]
                work.explain(group, bar)
                bar.update(start + len(group) - bar.n)
    except KeyboardInterrupt:
        write_index(a.out, settings, work.failed)  # of what is there
        raise
    page = write_index(a.out, settings, work.failed)
    print(
        f"{work.n_explained} of {len(files)} images explained, {kept.n_found} were explained "
        f"already, {len(work.failed)} could not be\nwrote {page}"
    )
    for line in work.failed:
        print(f"xai-patchshap: {line}", file=sys.stderr)
    return 1 if work.failed else 0


class _Kept:
    """The results that a folder holds already, which must be of the same settings."""

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out, self.n_found = out, 0
        self.records: dict[str, dict[str, Any] | None] = {}
        self.names: dict[str, str] = {}
        self._given: set[str] = set()
        for file in sorted(out.rglob("*.npz")):
            name = file.relative_to(out).as_posix().removesuffix(".npz")
            record = self.records[name] = read_record(file)
            if record is None:
                continue
            theirs = record["settings"]
            other = [key for key in settings if theirs.get(key) != settings[key]]
            if other:
                raise bad(
                    "--out",
                    f"'{out}', where {other[0]} is {theirs.get(other[0])!r} for '{name}.npz'",
                    f"results of the same settings, here {settings[other[0]]!r}",
                    "Name another folder, or remove these results.",
                )
            self.names.setdefault(record["source"], name)

    def place(self, wanted: str, path: Path, digest: str) -> tuple[str, bool]:
        """The name of an image's result, and whether it is there already.

        Nothing is overwritten but the result that an image had before it was changed.
        """
        source = str(path.resolve())
        name, n = self.names.get(source, wanted), 2
        while name in self._given or not self._is_free(name, source, digest):
            name, n = f"{wanted}-{n}", n + 1
        self._given.add(name)
        record = self.records.get(name)
        if record is None or not record["finished"] or not digest == record["digest"] != "":
            return name, False
        self.n_found += 1
        picture = self.out / f"{name}.png"
        if not picture.exists():
            redraw(self.out / f"{name}.npz").savefig(picture, dpi=150)
        return name, True

    def _is_free(self, name: str, source: str, digest: str) -> bool:
        """Whether a name is nobody's, or that of this image, which may have been moved."""
        if name in self.records:
            record = self.records[name]
            return record is not None and (record["source"] == source or record["digest"] == digest)
        # A picture alone is of a run that was ended, or it is none of ours.
        return (self.out / f"{name}.npz.new").exists() or not (self.out / f"{name}.png").exists()


class _Work:
    """What is explained, and what could not be."""

    def __init__(
        self,
        a: argparse.Namespace,
        named: NamedModel,
        explainer: PatchExplainer,
        settings: dict[str, Any],
        kept: _Kept,
    ) -> None:
        self.a, self.named, self.explainer, self.settings = a, named, explainer, settings
        self.kept = kept
        self.rows = batch_rows(a.batch_size, explainer.model)
        self.failed: list[str] = []
        self.n_explained = 0

    def explain(self, files: Sequence[tuple[str, Path]], bar: Any) -> None:
        """Explain those of a group of files that have no result, and write theirs."""
        self.bar = bar
        subjects, paths = [], {}
        for wanted, path in files:
            digest = digest_of(path)
            name, done = self.kept.place(wanted, path, digest)
            if done:
                continue
            paths[name] = str(path)
            try:
                subjects.append(read_subject(self.named, name, path, digest))
            except PatchShapError as error:
                self.failed.append(str(error))
        if not subjects:
            return
        x = torch.stack([s.x for s in subjects])
        scores = scores_of(self.named, x, self.rows)
        finite = [bool(np.isfinite(row).all()) for row in scores]
        good = [s for s, is_finite in zip(subjects, finite, strict=True) if is_finite]
        wrong = self._explain(good, scores[finite]) if good else {}
        if wrong and not self.n_explained and not self.kept.n_found:
            # It is not this image: all the others would fail too.
            raise next(iter(wrong.values()))
        for subject, is_finite in zip(subjects, finite, strict=True):
            if not is_finite:
                wrong[subject.name] = bad("model", "NaN or infinite outputs", "finite numbers")
        self.failed += [f"'{paths[name]}': {error}" for name, error in wrong.items()]

    def _explain(
        self, subjects: Sequence[Subject], scores: NDArray[np.float64]
    ) -> dict[str, PatchShapError]:
        """Explain images together, or one by one where that fails; errors by name."""
        try:
            results = explain_together(
                self.a, self.named, self.explainer, subjects, scores, settings=self.settings
            )
        except PatchShapError as error:
            if len(subjects) == 1:
                rename(error, FLAGS)
                return {subjects[0].name: error}
            errors: dict[str, PatchShapError] = {}
            for i in range(len(subjects)):
                errors |= self._explain(subjects[i : i + 1], scores[i : i + 1])
            return errors
        for result in results:
            write_result(self.a.out, result)
            self.n_explained += 1
            self.bar.update()
        return {}
