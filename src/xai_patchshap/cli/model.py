"""The model that was named, the explainer that was asked for, and what they say of images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..amortized import load_card, load_explainer
from ..errors import bad
from ..explainers import PatchExplainer, Run, ViTShapleyAmortized
from ..explainers.registry import method_class
from ..explainers.shap_face import bar_delay
from ..masking.patch_masker import PatchMasker
from ..models.batch import BatchModel
from ..models.load import load_model
from ..models.named_model import NamedModel
from ..models.photographs import open_image
from .provenance import provenance
from .settings import ExplainSettings, GameSettings

__all__: list[str] = []  # parts of the command line, for no one else


@dataclass(frozen=True)
class Task:
    """A model, its explainer, and all that their results depend on."""

    settings: ExplainSettings
    named: NamedModel
    explainer: PatchExplainer
    depends_on: dict[str, Any]


def started(settings: ExplainSettings) -> Task:
    """The model and the explainer that were asked for."""
    named, explainer = trained(settings) if settings.is_amortized else _built(settings)
    depends_on = provenance(settings, named, explainer.model)
    return Task(settings, named, explainer, depends_on)


def named_model(settings: GameSettings) -> NamedModel:
    """The model that was named, on its device."""
    if settings.device is not None:
        check_device(settings.device)
    named = load_model(
        settings.model,
        weights=settings.weights,
        probability=settings.scale == "probability",
        size=settings.size,
    )
    if settings.device is not None:
        if not isinstance(named.model, nn.Module):
            raise bad("--device", repr(settings.device), "none for a model that is a function")
        named.model.to(settings.device)
    return named


def check_device(device: str) -> None:
    """Raise unless torch can compute on the device of that name."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # without CUDA, others
        reason = str(error).partition("\n")[0]
        raise bad("--device", repr(device), "a device that torch can use", f"({reason})") from error


def check_masker(settings: GameSettings) -> None:
    """Raise unless the players and the background can be had; no model is needed for that."""
    background = _background(settings.background)
    PatchMasker(settings.players, "mean" if isinstance(background, Path) else background)


def prepare_masker(settings: GameSettings, named: NamedModel) -> PatchMasker:
    """The players and the background that were asked for."""
    background = _background(settings.background)
    if isinstance(background, Path):
        background = named.prepare(open_image(background))
    return PatchMasker(settings.players, background)


def _background(text: str) -> Any:
    """A number, a colour 'R,G,B', the path of an image, or one of the masker's own words."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        return Path(text) if Path(text).is_file() else text
    return numbers if len(numbers) > 1 else numbers[0]


def _built(settings: ExplainSettings) -> tuple[NamedModel, PatchExplainer]:
    """The model that was named, and the explainer that was asked for."""
    kind: Any = method_class(settings.method)
    options = {"seed": settings.seed, **settings.options}
    check_masker(settings)
    kind(_no_model, None, **options)  # which checks all options, before a model is loaded
    named = named_model(settings)
    return named, kind(named.model, prepare_masker(settings, named), **options)


def _no_model(images: Any) -> Any:
    raise NotImplementedError


def trained(settings: GameSettings) -> tuple[NamedModel, ViTShapleyAmortized]:
    """The surrogate of a trained explainer, and the explainer."""
    device, file = settings.device or "cpu", settings.explainer
    assert file is not None
    check_device(device)
    network = load_explainer(file)
    network.to(device)
    names = load_card(file).get("class_names")
    named = NamedModel(
        network.whole_images,
        str(file.name),
        network.image_size,
        class_names=None if names is None else tuple(names),
        scale="probability" if network.probability else "logit",
    )
    return named, ViTShapleyAmortized(network, seed=settings.seed)


def batch_rows(batch_size: int | str, model: Any) -> int:
    """Images in one batch of the model."""
    if batch_size != "auto":
        return int(batch_size)
    device = BatchModel(model).device
    return 16 if device is None or device.type == "cpu" else 128


def scores_of(named: NamedModel, x: Tensor, rows: int) -> NDArray[np.float64]:
    """The model's outputs (N, K) for images (N, C, H, W), which need not be finite."""
    model = BatchModel(named.model)
    parts = []
    with model.running():
        for part in torch.split(x, max(1, min(rows, len(x)))):
            out = torch.as_tensor(model((part,))).double().cpu()
            if out.dim() not in (1, 2) or len(out) != len(part):
                came = f"an output of shape {tuple(out.shape)} for a batch of {len(part)}"
                raise bad("model", came, f"({len(part)}, K) or ({len(part)},)")
            parts.append(out.reshape(len(part), -1))
    return torch.cat(parts).numpy()


def explained(explainer: PatchExplainer, x: Tensor, *, partly: bool, **options: Any) -> Run:
    """Explain images (N, C, H, W); of several, results of less than the budget are not kept.

    Raises
    ------
    KeyboardInterrupt
        If Ctrl-C ended the explanation early, unless ``partly``.
    """
    shown_at_once = bar_delay.set(0.0)
    try:
        with warnings.catch_warnings():
            if not partly:
                warnings.filterwarnings("ignore", "Interrupted after", RuntimeWarning)
            explainer.explain_players(x, **options)
    finally:
        bar_delay.reset(shown_at_once)
    run = explainer.last_run
    assert run is not None
    if run.interrupted and not partly:
        raise KeyboardInterrupt
    return run


def class_name(named: NamedModel, index: int) -> str:
    """What an output is called."""
    if named.class_names is None or index >= len(named.class_names):
        return f"class {index}"
    return named.class_names[index].split(", ")[0]
