"""What is known of images when they are explained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__
from ..errors import bad
from ..estimators import Interactions
from ..explainers.methods import dashed
from ..models.named_model import NamedModel
from ..targets.outputs import outputs_called
from .images import Subject
from .model import Task, class_name, explained
from .settings import ExplainSettings

__all__: list[str] = []  # parts of the command line, for no one else


_ESTIMATED = ("values", "error_std", "base_values", "full_values", "exact")


@dataclass(frozen=True)
class Result:
    """What is known of one image: ``arrays`` is what its .npz holds."""

    name: str
    arrays: dict[str, Any]
    interactions: Interactions | None = None


def chosen_classes(text: str, scores: NDArray[np.float64], named: NamedModel) -> list[int]:
    """Indices of the classes that ``--classes`` names."""
    if text.startswith("top") and text[3:].isdecimal() and int(text[3:]) > 0:
        return [int(c) for c in np.argsort(-scores, kind="stable")[: int(text[3:])]]
    chosen = []
    for part in (p.strip() for p in text.split(",")):
        if part.isdecimal():
            index = int(part)
        else:
            matches = outputs_called(named.class_names, part)
            if len(matches) > 1:
                raise bad("--classes", repr(part), f"one class; it names those of index {matches}")
            index = matches[0] if matches else -1
        if not 0 <= index < len(scores):
            raise bad(
                "--classes",
                repr(part),
                f"topN, or indices 0 to {len(scores) - 1} or the model's own class names",
            )
        chosen.append(index)
    return chosen


def explain_together(
    task: Task,
    subjects: Sequence[Subject],
    scores: NDArray[np.float64],
    *,
    alone: bool = False,
) -> list[Result]:
    """Explain several images in one go: batches of the model run across them.

    ``scores`` (N, K) are the model's outputs for the images. An image ``alone`` has a bar of its
    own, and its result counts even if Ctrl-C ends it early.
    """
    settings, explainer = task.settings, task.explainer
    x = torch.stack([s.x for s in subjects])
    classes = [chosen_classes(settings.classes, row, task.named) for row in scores]
    run = explained(
        explainer,
        x,
        partly=alone,
        max_evals=settings.budget,
        batch_size=settings.batch_size,
        outputs=None if scores.shape[1] == 1 else np.array(classes),
        silent=not alone,
    )
    players = explainer.masker.prepare(x, "NCHW", explainer.model_patch_size)[1]
    found: Sequence[Any] = run.interactions or [None] * len(x)
    results = []
    for i, subject in enumerate(subjects):
        arrays = _of_image(task, subject, scores[i], classes[i]) | {
            "labels": players[i].labels,
            "player_names": list(players[i].names),
            **{name: getattr(run.estimates[i], name) for name in _ESTIMATED},
            "evaluations": run.evaluations[i],
            "seconds": run.seconds / len(x),
            "finished": not run.interrupted,
        }
        results.append(Result(subject.name, arrays, found[i]))
    return results


def _of_image(
    task: Task, subject: Subject, scores: NDArray[np.float64], classes: Sequence[int]
) -> dict[str, Any]:
    """What a result holds of an image, its classes and the settings."""
    settings, named = task.settings, task.named
    names = [class_name(named, c) for c in classes]
    best = int(np.argmax(scores))
    return {
        "photo": subject.photo,
        "image": subject.x.permute(1, 2, 0).numpy(),
        "photo_title": plain(subject.name),
        "titles": [
            f"{plain(name)}\n{named.scale} {scores[c]:.3f}"
            for name, c in zip(names, classes, strict=True)
        ],
        "label": f"{_value_name(settings)} ({named.scale})",
        "classes": classes,
        "class_names": names,
        "scores": scores[classes],
        "predicted": best,
        "predicted_name": class_name(named, best),
        "predicted_score": scores[best],
        "scale": named.scale,
        "seed": settings.seed,
        "model": named.name,
        "method": dashed(settings.method),
        "background": settings.background,
        "version": __version__,
        "settings": json.dumps(task.depends_on),
        "source": subject.source,
        "source_digest": subject.digest,
    }


def _value_name(settings: ExplainSettings) -> str:
    """What the numbers of the players are."""
    index = settings.options.get("index", "SII")
    if index not in ("SII", "SV"):
        return f"{index}, order 1"
    return "Owen value" if settings.method == "owen_bpt" else "Shapley value"


def plain(text: str) -> str:
    """A title that matplotlib takes for no formula."""
    return text.replace("$", r"\$")
