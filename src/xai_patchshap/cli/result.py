"""Results of ``explain``: made, written as .npz and picture, and read back."""

from __future__ import annotations

import argparse
import ast
import errno
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from .._files import draft_of
from ..errors import PatchShapError, bad, rename
from ..estimators import Interactions
from ..explainers import InteractionShap, PatchExplainer
from ..models.load import NamedModel, open_image, outputs_called
from ..models.onnx import OnnxModel
from ..plots import interaction_network, redraw
from .images import digest_of
from .kept import Record
from .model import OWN_OPTIONS, class_name, explained

__all__: list[str] = []  # parts of the command line, for no one else

# Least side of a picture in pixels.
_PICTURE = 448
# What the results of one image are called, after its name: a file, a picture, a folder.
SUFFIXES = (".npz", ".png", ".pairs")
_INTERACTIONS = "interactions.npz"


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


def read_subject(
    named: NamedModel, name: str, image: Any, digest: str = "", source: str = ""
) -> Subject:
    """An image, or the file of one, made ready for the model."""
    if isinstance(image, Path):
        source, digest = source_of(image), digest or digest_of(image)
        image = open_image(image)
    zoom = max(2, -(-_PICTURE // min(named.size)))
    try:
        x, larger = named.prepare(image), named.prepare(image, zoom=zoom)
    except PatchShapError as error:
        rename(error, {"image": f"image '{source or name}'"})
        raise
    except (OSError, ValueError, MemoryError) as error:  # of the image library
        came = f"'{source or name}'"
        raise bad("image", came, "an image that can be resized", f"({error})") from error
    photo = (larger.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    photo = photo[..., 0] if photo.shape[2] == 1 else photo[..., :3]
    return Subject(name, x, photo, source, digest)


def source_of(path: Path) -> str:
    """Where an image lies, links followed."""
    return os.path.realpath(path)


def settings_of(
    a: argparse.Namespace,
    named: NamedModel,
    model: Any,
    keys: Sequence[str] = ("method", "players", "classes", "budget", "seed", *OWN_OPTIONS),
) -> dict[str, Any]:
    """All that the numbers of a result depend on, but for the image.

    The device and the size of the batches are not among it: they change the last digits alone.
    """
    settings = {key: getattr(a, key) for key in keys} | {"background": a.background}
    if Path(str(a.background)).is_file():
        settings["background"] = digest_of(a.background)
    if code := code_of(named.name):
        settings["code"] = code
    return settings | {
        "model": named.name,
        "weights": _weights(model),
        "scale": named.scale,
        "size": list(named.size),
        "version": __version__,
    }


def code_of(name: str) -> str:
    """The digest of the source behind ``module:function``; empty for any other model.

    It is that of the module's file, and of the files beside it or in its package that the
    module uses. What it runs in other ways cannot be seen.
    """
    prefix, _, rest = name.partition(":")
    if not rest or prefix in ("timm", "torchvision", "hf", "onnx") or prefix not in sys.modules:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for _, file in sorted(_sources(sys.modules[prefix]).items()):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(first: ModuleType) -> dict[str, Path]:
    """Files of a module and of those that it uses and that lie with it, by their names."""
    package = first.__name__.partition(".")[0]
    top = Path(getattr(sys.modules.get(package, first), "__file__", None) or first.__name__)
    home = top.parent.parent if top.stem == "__init__" else top.parent
    found: dict[str, Path] = {}
    waiting = [first.__name__]
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = _file_of(name, module, home)
        below = file.relative_to(home).parts if home in file.parents else ()
        is_near = below and not {"site-packages", "dist-packages"} & set(file.parts)
        is_own = name.partition(".")[0] == package
        if name in found or not (is_own or is_near) or not file.is_file():
            continue
        found[name] = file
        for value in list(vars(module).values()) if module else ():
            used = value if isinstance(value, ModuleType) else _home_of(value)
            if used is not None:
                waiting.append(used.__name__)
        waiting += _imports(file, name)
    return found


def _file_of(name: str, module: ModuleType | None, home: Path) -> Path:
    """Where a module lies, or would lie, which may be imported only when it is needed."""
    if module is not None:
        return Path(getattr(module, "__file__", None) or "")
    place = home.joinpath(*name.split("."))
    package = place / "__init__.py"
    return package if package.is_file() else place.with_suffix(".py")


def _imports(file: Path, name: str) -> list[str]:
    """What a file's code imports, anywhere in it; names in a module are taken for modules too."""
    try:
        code = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # a compiled module
        return []
    parts = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    found = []
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            found += [start, *(f"{start}.{alias.name}".lstrip(".") for alias in node.names)]
    names = {".".join(name.split(".")[:k]) for name in found for k in range(1, name.count(".") + 2)}
    return sorted(names - {""})


def _home_of(value: Any) -> ModuleType | None:
    """The module where a class or function was written."""
    written = value if isinstance(value, type | FunctionType) else type(value)
    return sys.modules.get(written.__module__)


def _weights(model: Any) -> str:
    """What tells a model's weights from others; of a function, those of all it computes with."""
    digest = hashlib.blake2b(digest_size=16)
    for key, content in _contents(model, set()):
        digest.update(key.encode())
        digest.update(content)
    return digest.hexdigest()


def _contents(value: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Names and bytes of the tensors that a model holds, or that its function refers to."""
    if id(value) in seen:
        return
    seen.add(id(value))
    used: list[Any] = []
    if isinstance(value, OnnxModel):
        yield "", value.content
    elif isinstance(value, torch.nn.Module):
        yield from ((k, _bytes(v)) for k, v in value.state_dict().items() if _is_dense(v))
    elif _is_dense(value):
        yield "", _bytes(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        yield "", value.tobytes()
    elif isinstance(value, partial):
        used = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, MethodType):
        used = [value.__func__, value.__self__]
    elif isinstance(value, dict):
        used = list(value.values())
    elif isinstance(value, list | tuple):
        used = list(value)
    elif isinstance(value, FunctionType) and not _is_installed(value):
        used = _named_in(value)
    elif _is_own_object(value):
        used = [*vars(value).values(), *([value.__call__] if callable(value) else [])]
    for part in used:
        yield from _contents(part, seen)


def _is_own_object(value: Any) -> bool:
    """Whether a value is an object of a class that no library has."""
    is_code = isinstance(value, type | ModuleType | FunctionType)
    return hasattr(value, "__dict__") and not is_code and not _is_installed(type(value))


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _named_in(function: FunctionType) -> list[Any]:
    """What the names in a function's code stand for."""
    codes = [function.__code__]
    for code in codes:
        codes += [part for part in code.co_consts if isinstance(part, CodeType)]
    names = sorted({name for code in codes for name in code.co_names})
    found = [function.__globals__[name] for name in names if name in function.__globals__]
    for module in [value for value in found if isinstance(value, ModuleType)]:
        found += [vars(module)[name] for name in names if name in vars(module)]
    found += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # nothing is in it yet
            found.append(cell.cell_contents)
    return found


def _is_installed(written: Any) -> bool:
    """Whether a function or class is of a library, and its state not that of a model."""
    module = sys.modules.get(written.__module__ or "")
    parts = Path(getattr(module, "__file__", None) or "").parts
    return bool({"site-packages", "dist-packages"} & set(parts))


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
                f"{_plain(n)}\n{named.scale} {scores[i][c]:.3f}"
                for n, c in zip(names, chosen, strict=True)
            ],
            "photo_title": _plain(subject.name),
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
            title=_plain(class_),
            label=f"interaction ({found.index})",
            std=np.nan_to_num(found.matrix_std()[:, :, k], posinf=1e300),
        )
        slug = "".join(c if c.isalnum() else "-" for c in class_)[:40]
        names.append(f"{index}-{slug}.png")
        save_figure(figure, folder / names[-1])
    return names


def _plain(text: str) -> str:
    """A title that matplotlib takes for no formula."""
    return text.replace("$", r"\$")


def _value_name(a: argparse.Namespace) -> str:
    """What the numbers of the players are."""
    if a.method == "interaction-shap" and a.index not in (None, "SII", "SV"):
        return f"{a.index}, order 1"
    return "Owen value" if a.method == "owen-bpt" else "Shapley value"


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
