"""Checkpoints: weights as safetensors, and beside them a JSON card that says what they are.

Nothing is unpickled. A card names the architecture, so that a checkpoint loads by itself.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import PatchShapError, bad
from ._data import write_atomically
from .network import Architecture, ShapleyViT

__all__ = [
    "load_card",
    "load_classifier",
    "load_explainer",
    "load_surrogate",
    "save_explainer",
    "save_surrogate",
]

_FORMAT = "xai_patchshap"
_VERSION = "1"


def save_surrogate(
    model: nn.Module,
    path: str | Path,
    *,
    architecture: Architecture | None = None,
    card: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    kind: str = "surrogate",
) -> None:
    """Write a surrogate (or, with another ``kind``, a classifier) and its card.

    Parameters
    ----------
    model : torch.nn.Module
        As :meth:`Architecture.build` makes it, if ``architecture`` is given.
    path : path
        ``NAME.safetensors``; the card is ``NAME.json``.
    architecture : Architecture, optional
    card : dict, optional
        Anything to say on the card.
    dtype : torch.dtype, optional
        To store floating-point weights in, as ``torch.float16``.
    """
    described = None if architecture is None else architecture.as_dict()
    _save(Path(path), kind, model.state_dict(), {"architecture": described, **(card or {})}, dtype)


def save_explainer(
    network: ShapleyViT,
    path: str | Path,
    *,
    surrogate: str | Path,
    card: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write what was trained of an explainer network, and its card.

    Parameters
    ----------
    network : ShapleyViT
    path : path
        ``NAME.safetensors``; the card is ``NAME.json``.
    surrogate : path
        Checkpoint of its surrogate, in the same folder; the card names it.
    card, dtype
        As in :func:`save_surrogate`.
    """
    file = Path(surrogate)
    described = {
        "surrogate": {"file": file.name, "sha256": _digest(file)},
        "n_frozen": network.n_frozen,
        "n_extra": network.n_extra,
        "probability": network.probability,
        "predicts": network.predicts,
        "taps": list(network.taps),
        "ridge": network.ridge,
        "rmse": network.rmse,
        **(card or {}),
    }
    _save(Path(path), "explainer", network.trained_state(), described, dtype)


def load_card(path: str | Path) -> dict[str, Any]:
    """The card of a checkpoint ``NAME.safetensors``.

    Raises
    ------
    PatchShapError
        If there is none, or it is not one.
    """
    file = Path(path).with_suffix(".json")
    try:
        card = json.loads(file.read_text())
        if card["format"] != _FORMAT or card["version"] != _VERSION:
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise bad(
            "card",
            f"'{file}' ({type(error).__name__}: {error})",
            "the JSON card that lies beside every checkpoint of this package",
            "Keep NAME.json and NAME.safetensors together.",
        ) from error
    return dict(card)


def load_classifier(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The classifier of a checkpoint; see :func:`load_surrogate`."""
    return _load_model(Path(path), "classifier", model)


def load_surrogate(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The surrogate of a checkpoint, from images to logits, in evaluation mode.

    Parameters
    ----------
    path : path
        ``surrogate.safetensors``, with its card beside it.
    model : torch.nn.Module, optional
        A module for the weights, where the card does not say how to build one.

    Raises
    ------
    PatchShapError
        If the file is not such a checkpoint, is damaged, or does not fit the model.
    """
    return _load_model(Path(path), "surrogate", model)


def load_explainer(path: str | Path, surrogate: nn.Module | None = None) -> ShapleyViT:
    """The explainer network of a checkpoint, with its surrogate, in evaluation mode.

    Parameters
    ----------
    path : path
        ``explainer.safetensors``; its card and the surrogate's checkpoint lie beside it.
    surrogate : torch.nn.Module, optional
        The surrogate, if not to be loaded; that it is the right one is for you to know.

    Raises
    ------
    PatchShapError
        If a file is not such a checkpoint, is damaged or does not fit, or the surrogate's file
        is not the one that the explainer was trained for.
    """
    file = Path(path)
    card, weights = _read(file, "explainer")
    if surrogate is None:
        beside = file.with_name(card["surrogate"]["file"])
        surrogate = load_surrogate(beside)
        if _digest(beside) != card["surrogate"]["sha256"]:
            raise bad(
                "surrogate",
                f"'{beside}' with other contents than the explainer was trained for",
                f"SHA-256 {card['surrogate']['sha256'][:16]}...",
                "Keep the two checkpoints of a training together.",
            )
    network = ShapleyViT(
        surrogate,
        n_frozen=card["n_frozen"],
        n_extra=card["n_extra"],
        probability=card["probability"],
        # Cards of the first version have neither.
        predicts=card.get("predicts", "values"),
        taps=card.get("taps", ()),
    )
    network.ridge, network.rmse = card["ridge"], card["rmse"]
    own = {k: v for k, v in network.state_dict().items() if k.startswith("surrogate.")}
    _fill(network, {**own, **weights}, file)
    return network.eval()


def _load_model(path: Path, kind: str, model: nn.Module | None) -> nn.Module:
    card, weights = _read(path, kind)
    if model is None:
        if not card.get("architecture"):
            raise bad(
                "model",
                "None",
                f"a module for the weights of '{path}', whose card names no architecture",
            )
        model = Architecture(**card["architecture"]).build()
    _fill(model, weights, path)
    return model.eval()


def _save(
    path: Path, kind: str, weights: dict[str, Tensor], card: dict[str, Any], dtype: Any
) -> None:
    if path.suffix != ".safetensors":
        raise bad("path", f"'{path}'", "a name that ends in .safetensors")
    stored = {
        k: v.detach().cpu().to(dtype if dtype and v.is_floating_point() else v.dtype).contiguous()
        for k, v in weights.items()
    }
    marks = {"format": _FORMAT, "version": _VERSION, "kind": kind}
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    content = {**marks, **card, "versions": versions}
    write_atomically(path.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(path, save(stored, metadata=marks))


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Card and weights of a checkpoint of this kind, or an error."""
    if not path.is_file():
        raise bad("checkpoint", f"'{path}', which is no file", "a .safetensors file and its card")
    try:
        with safe_open(path, framework="pt") as stored:
            marks = stored.metadata() or {}
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise bad(
            "checkpoint",
            f"'{path}', which is damaged or no safetensors file ({error})",
            "a complete .safetensors file",
            "Copy or train it again. Pickled checkpoints (.pt, .pth) are not read.",
        ) from error
    if marks.get("format") != _FORMAT or marks.get("kind") != kind:
        came = "which is not of this package"
        if marks.get("format") == _FORMAT:
            came = f"which holds the weights of a {marks.get('kind')}"
        raise bad(
            "checkpoint",
            f"'{path}', {came}",
            f"the weights of a {kind}",
        )
    return load_card(path), weights


def _fill(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights in the module's own precision."""
    own = module.state_dict()
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    if missing or foreign or wrong:
        first = (
            f"{wrong[0]} has shape {tuple(weights[wrong[0]].shape)}, "
            f"not {tuple(own[wrong[0]].shape)}"
            if wrong
            else f"without {missing[0]}" if missing else f"with {foreign[0]}"
        )  # fmt: skip
        raise PatchShapError(
            f"checkpoint: got '{path}', {first}; expected the weights of this architecture. "
            "Its card and the model must be those that it was saved with."
        )
    module.load_state_dict(weights)


def _digest(path: Path) -> str:
    if not path.is_file():
        raise bad("surrogate", f"'{path}', which is no file", "the checkpoint of the surrogate")
    return hashlib.sha256(path.read_bytes()).hexdigest()
