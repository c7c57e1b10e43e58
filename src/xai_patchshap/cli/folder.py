"""``xai-patchshap explain`` on folders: many images, in groups, again and again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..errors import PatchShapError, bad
from .failures import Failures
from .images import Subject, identified, read_subject, shown, source_of
from .index_page import write_index
from .model import Task, batch_rows, scores_of
from .result_files import SUFFIXES, add_picture, read_record, write_result
from .results import explain_together
from .resume import Kept
from .settings import AMORTIZED

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
        As the library spells it.

    Examples
    --------
    >>> group_size(1000, 16, "owen_bpt"), group_size(1000, 128, "owen_bpt")
    (1, 5)
    >>> group_size("auto", 16, "vit_shapley_amortized")
    16
    """
    evaluations = int(budget) if budget != "auto" else 1 if method == AMORTIZED else 500
    return max(1, min(rows, -(-_BATCHES * rows // max(1, evaluations))))


def explain_folders(task: Task, files: Sequence[tuple[str, Path]]) -> int:
    """Explain all images that have no result yet, and write the index.

    Returns
    -------
    int
        The exit status: 1 if some image could not be explained.
    """
    settings, out = task.settings, task.settings.out
    kept = Kept(out, task.depends_on, read_record, SUFFIXES[0], SUFFIXES[1:])
    kept.check_settings()
    work = _Work(task, kept)
    failed = work.failures.lines
    size = group_size(settings.budget, work.rows, settings.method)
    try:
        with tqdm(total=len(files), desc="explain", unit=" images") as bar:
            for start in range(0, len(files), size):
                group = files[start : start + size]
                work.explain(group, bar)
                bar.update(start + len(group) - bar.n)
        work.failures.check()
    except KeyboardInterrupt:
        write_index(out, task.depends_on, failed)  # of what is there
        raise
    page = write_index(out, task.depends_on, failed)
    print(
        f"{work.n_explained} of {len(files)} images explained, {work.n_found} were explained "
        f"already, {len(failed)} could not be\nwrote {shown(page)}"
    )
    for line in failed:
        print(f"xai-patchshap: {line}", file=sys.stderr)
    return 1 if failed else 0


class _Work:
    """What is explained, and what could not be."""

    def __init__(self, task: Task, kept: Kept) -> None:
        self.task, self.kept, self.out = task, kept, task.settings.out
        self.rows = batch_rows(task.settings.batch_size, task.explainer.model)
        self.failures = Failures()
        self.n_explained = self.n_found = 0

    def explain(self, files: Sequence[tuple[str, Path]], bar: Any) -> None:
        """Explain those of a group of files that have no result, and write theirs."""
        self.bar = bar
        subjects, paths = [], {}
        for wanted, path in files:
            try:
                digest = identified(path)
                name, record = self.kept.place(wanted, source_of(path), digest)
                if record is None:
                    subjects.append(read_subject(self.task.named, name, path, digest))
                    paths[name] = str(path)
                    continue
            except PatchShapError as error:
                self.failures.unreadable(error)
                continue
            add_picture(self.out, name)
            self.n_found += 1
            self.failures.n_done += 1
        for name, mishap in (self._explain(subjects) if subjects else {}).items():
            self.failures.add(paths[name], mishap)

    def _explain(self, subjects: Sequence[Subject]) -> dict[str, Exception]:
        """Explain images together, or one by one where that fails; errors by name."""
        try:
            scores = scores_of(self.task.named, torch.stack([s.x for s in subjects]), self.rows)
            finite = [bool(np.isfinite(row).all()) for row in scores]
            good = [s for s, is_finite in zip(subjects, finite, strict=True) if is_finite]
            results = explain_together(self.task, good, scores[finite]) if good else []
        except Exception as mishap:  # of the model itself, too
            if len(subjects) == 1:
                return {subjects[0].name: mishap}
            each = [self._explain([subject]) for subject in subjects]
            return {name: error for errors in each for name, error in errors.items()}
        wrong: dict[str, Exception] = {
            s.name: bad("model", "NaN or infinite outputs", "finite numbers")
            for s, is_finite in zip(subjects, finite, strict=True)
            if not is_finite
        }
        for result in results:
            try:
                write_result(self.out, result)
            except OSError:  # of the folder
                raise
            except Exception as error:  # a picture that cannot be drawn
                wrong[result.name] = error
                continue
            self.n_explained += 1
            self.failures.n_done += 1
            self.bar.update()
        return wrong
