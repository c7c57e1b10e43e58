"""Results of ``explain``: made, written as .npz and picture, and read back."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from ..errors import PatchShapError, bad, rename
from ..estimators import Interactions
from ..explainers import InteractionShap, PatchExplainer
from ..named_models import NamedModel, open_image, outputs_called
from ..onnx_models import OnnxModel
from ..plots import interaction_network, redraw
from ._images import digest_of
from ._model import OWN_OPTIONS, class_name, explained

__all__: list[str] = []  # parts of the command line, for no one else

# Least side of a picture in pixels.
_PICTURE = 448


@dataclass(frozen=True)
class Subject:
    """An image to explain: ``x`` as the model takes it, ``photo`` to look at."""

    name: str
    x: Tensor
    photo: NDArray[np.uint8]
    source: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Result:
    """What is known of one image: ``arrays`` is what its .npz holds."""

    name: str
    arrays: dict[str, Any]
    interactions: Interactions | None = None


def read_subject(named: NamedModel, name: str, image: Any, digest: str = "") -> Subject:
    """An image, or the file of one, made ready for the model."""
    source = ""
    if isinstance(image, Path):
        source, digest = str(image.resolve()), digest or digest_of(image)
        image = open_image(image)
    zoom = max(2, -(-_PICTURE // min(named.size)))
    try:
        x, larger = named.prepare(image), named.prepare(image, zoom=zoom)
    except PatchShapError as error:
        rename(error, {"image": f"image '{source or name}'"})
        raise
    photo = (larger.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    photo = photo[..., 0] if photo.shape[2] == 1 else photo[..., :3]
    return Subject(name, x, photo, source, digest)


def settings_of(
    a: argparse.Namespace, named: NamedModel, explainer: PatchExplainer
) -> dict[str, Any]:
    """All that the numbers of a result depend on, but for the image.

    The device and the size of the batches are not among it: they change the last digits alone.
    """
    settings = {
        key: getattr(a, key)
        for key in ("method", "players", "background", "classes", "budget", "seed", *OWN_OPTIONS)
    }
    if Path(str(a.background)).is_file():
        settings["background"] = digest_of(a.background)
    return settings | {
        "model": named.name,
        "weights": _weights(explainer.model),
        "scale": named.scale,
        "size": list(named.size),
        "version": __version__,
    }


def _weights(model: Any) -> str:
    """What tells a model's weights from others; those of a function cannot be seen."""
    digest = hashlib.blake2b(model.content if isinstance(model, OnnxModel) else b"", digest_size=16)
    for key, tensor in model.state_dict().items() if isinstance(model, torch.nn.Module) else ():
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
            digest.update(key.encode())
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().data)
    return digest.hexdigest()


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
    a: argparse.Namespace,
    named: NamedModel,
    explainer: PatchExplainer,
    subjects: Sequence[Subject],
    scores: NDArray[np.float64],
    *,
    settings: dict[str, Any],
    alone: bool = False,
) -> list[Result]:
    """Explain several images in one go: batches of the model run across them.

    ``scores`` (N, K) are the model's outputs for the images. An image ``alone`` has a bar of its
    own, and its result counts even if Ctrl-C ends it early.
    """
    x = torch.stack([s.x for s in subjects])
    classes = [chosen_classes(a.classes, row, named) for row in scores]
    run = explained(
        explainer,
        x,
        partly=alone,
        max_evals=a.budget,
        batch_size=a.batch_size,
        outputs=None if scores.shape[1] == 1 else np.array(classes),
        silent=not alone,
    )
    players = explainer.masker.prepare(x, "NCHW", explainer.model_patch_size)[1]
    found = explainer.found() if isinstance(explainer, InteractionShap) else [None] * len(x)
    results = []
    for i, (subject, chosen, estimate) in enumerate(
        zip(subjects, classes, run.estimates, strict=True)
    ):
        names = [class_name(named, c) for c in chosen]
        best = int(np.argmax(scores[i]))
        arrays = {
            "photo": subject.photo,
            "labels": players[i].labels,
            "values": estimate.values,
            "titles": [
                f"{n}\n{named.scale} {scores[i][c]:.3f}" for n, c in zip(names, chosen, strict=True)
            ],
            "photo_title": subject.name,
            "label": f"{_value_name(a)} ({named.scale})",
            "image": subject.x.permute(1, 2, 0).numpy(),
            "error_std": estimate.error_std,
            "base_values": estimate.base_values,
            "full_values": estimate.full_values,
            "classes": chosen,
            "class_names": names,
            "scores": scores[i][chosen],
            "predicted": best,
            "predicted_name": class_name(named, best),
            "predicted_score": scores[i][best],
            "scale": named.scale,
            "player_names": list(players[i].names),
            "evaluations": run.evaluations[i],
            "seconds": run.seconds / len(x),
            "exact": estimate.exact,
            "finished": not run.interrupted,
            "seed": a.seed,
            "model": named.name,
            "method": a.method,
            "background": str(a.background),
            "version": __version__,
            "settings": json.dumps(settings),
            "source": subject.source,
            "source_digest": subject.digest,
        }
        results.append(Result(subject.name, arrays, found[i]))
    return results


def write_result(out: Path, result: Result) -> list[Path]:
    """Write the pictures and, last and in one go, the .npz that says that all is there.

    Returns
    -------
    list of path
        The pictures of pairs, one for each class where there are any.
    """
    file = out / f"{result.name}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    pairs = []
    if result.interactions is not None:
        result.interactions.save(out / f"{result.name}-interactions.npz")
        pairs = _draw_pairs(out, result.name, result.arrays, result.interactions)
    draft = out / f"{result.name}.npz.new"
    with draft.open("wb") as stream:
        names = np.array([picture.name for picture in pairs], dtype=str)
        np.savez_compressed(stream, **result.arrays, pairs=names)
    redraw(draft).savefig(out / f"{result.name}.png", dpi=150)
    draft.replace(file)
    return pairs


def _draw_pairs(out: Path, name: str, arrays: dict[str, Any], found: Interactions) -> list[Path]:
    """One picture of the pairs for each class."""
    if found.order < 2:
        return []
    files = []
    for k, class_ in enumerate(arrays["class_names"]):
        figure = interaction_network(
            arrays["photo"],
            arrays["labels"],
            found.matrix()[:, :, k],
            title=class_,
            label=f"interaction ({found.index})",
            std=np.nan_to_num(found.matrix_std()[:, :, k], posinf=1e300),
        )
        slug = "".join(c if c.isalnum() else "-" for c in class_)
        file = out / f"{name}-{slug}.png"
        if file in files:  # two of ImageNet's classes are cranes
            file = out / f"{name}-{slug}-{arrays['classes'][k]}.png"
        files.append(file)
        figure.savefig(file, dpi=150)
    return files


def _value_name(a: argparse.Namespace) -> str:
    """What the numbers of the players are."""
    if a.method == "interaction-shap" and a.index not in (None, "SII", "SV"):
        return f"{a.index}, order 1"
    return "Owen value" if a.method == "owen-bpt" else "Shapley value"


def read_record(file: Path) -> dict[str, Any] | None:
    """Settings, source and digest of a result's .npz; None for any other file."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as saved:
            return {
                "settings": json.loads(str(saved["settings"])),
                "source": str(saved["source"]),
                "digest": str(saved["source_digest"]),
                "finished": bool(saved["finished"]),
            }
    except Exception:  # not a zip file, a damaged one, one without these entries
        return None
