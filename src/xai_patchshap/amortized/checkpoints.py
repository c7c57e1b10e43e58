"""Checkpoints: weights as safetensors, and beside them a JSON card that says what they are.

Nothing is unpickled. The card (:mod:`.cards`) names the architecture, so that a checkpoint loads
by itself, and holds the SHA-256 of the weights.
"""

from __future__ import annotations

import hashlib
import re
import reprlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from .._files import write_atomically
from ..errors import MissingFileError, PatchShapError, bad
from ..masking.token_dropping import TokenDropping
from .architecture import Architecture
from .cards import FORMAT, card_text, check_card, load_card
from .network import ShapleyViT

__all__ = [
    "load_classifier",
    "load_explainer",
    "load_surrogate",
    "save_explainer",
    "save_surrogate",
]

_LARGEST_HEADER = 2**23  # of some ten thousand weights
_NUMBERS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


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
    _save(Path(path), kind, model.state_dict(), {"architecture": described}, card, dtype)


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
    beside = load_card(surrogate)
    described = {
        "surrogate": {"file": Path(surrogate).name, "sha256": beside["sha256"]},
        "n_frozen": network.n_frozen,
        "n_extra": network.n_extra,
        "probability": network.probability,
        "predicts": network.predicts,
        "taps": list(network.taps),
        "ridge": network.ridge,
        "rmse": network.rmse,
    }
    _save(Path(path), "explainer", network.trained_state(), described, card, dtype)


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
        if load_card(beside)["sha256"] != card["surrogate"]["sha256"]:
            raise bad(
                "surrogate",
                f"'{beside}' with another card or other contents than the explainer was trained "
                "for",
                f"a card of SHA-256 {card['surrogate']['sha256'][:16]}...",
                "Keep the two checkpoints of a training together.",
            )
    # No more is built than there are weights for.
    _check_blocks(
        file, weights, "blocks", card["n_extra"] + _depth_of(surrogate) - card["n_frozen"]
    )
    with torch.random.fork_rng(devices=[]):
        network = ShapleyViT(
            surrogate,
            n_frozen=card["n_frozen"],
            n_extra=card["n_extra"],
            probability=card["probability"],
            predicts=card["predicts"],
            taps=card["taps"],
        )
    for key in ("rmse", "class_names"):
        if card.get(key) is not None and len(card[key]) != network.n_outputs:
            came = f"'{file}', with {len(card[key])} entries of {key}"
            raise bad("card", came, f"{network.n_outputs}, one for each output of the surrogate")
    network.ridge, network.rmse = card["ridge"], card["rmse"]
    _check_shapes(file, weights, network.trained_state())
    network.load_state_dict({**network.state_dict(), **weights})
    return network.eval()


def _load_model(path: Path, kind: str, model: nn.Module | None) -> nn.Module:
    card, weights = _read(path, kind)
    if model is None:
        if not card["architecture"]:
            raise bad(
                "model",
                "None",
                f"a module for the weights of '{path}', whose card names no architecture",
            )
        architecture = Architecture(**card["architecture"])
        n_blocks = architecture.options.get("depth")
        if n_blocks is not None:
            _check_blocks(path, weights, "model.blocks", n_blocks)
        # On the device "meta" nothing takes memory, whatever sizes the card asks for.
        _check_shapes(path, weights, architecture.build("meta").state_dict())
        with torch.random.fork_rng(devices=[]):
            model = architecture.build()
    _check_shapes(path, weights, model.state_dict())
    model.load_state_dict(weights)
    return model.eval()


def _save(
    path: Path,
    kind: str,
    weights: dict[str, Tensor],
    described: dict[str, Any],
    card: dict[str, Any] | None,
    dtype: Any,
) -> None:
    if path.suffix != ".safetensors":
        raise bad("path", f"'{path}'", "a name that ends in .safetensors")
    stored = {
        # Copies: safetensors takes no weights that share their memory.
        k: v.detach().to("cpu", dtype if dtype and v.is_floating_point() else v.dtype, copy=True)
        for k, v in weights.items()
    }
    if not all(bool(v.isfinite().all()) for v in stored.values()):
        raise bad("model", f"weights that are NaN or infinite as {dtype or 'they are'}", "finite")
    stored = {k: v.contiguous() for k, v in stored.items()}
    content = save(stored, metadata={"format": FORMAT, "kind": kind})
    whole = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    ours = {"kind": kind, "weights": whole, **described}
    write_atomically(path.with_suffix(".json"), card_text(ours, check_card(card)))
    write_atomically(path, content)


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Card and weights of a checkpoint of this kind, as they were saved, or an error."""
    if not path.is_file():
        kind_of_error = PatchShapError if path.exists() else MissingFileError
        expected = "a .safetensors file and its card"
        raise bad("checkpoint", f"'{path}', which is no file", expected, kind=kind_of_error)
    try:
        with path.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        if header > min(path.stat().st_size, _LARGEST_HEADER):
            raise SafetensorError(f"a header of {header} bytes")
        with safe_open(path, framework="pt") as stored:
            marks = stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise bad(
            "checkpoint",
            f"'{path}', which is damaged or no safetensors file ({error})",
            "a complete .safetensors file",
            "Copy or train it again. Pickled checkpoints (.pt, .pth) are not read.",
        ) from error
    if marks.get("format") != FORMAT or marks.get("kind") != kind:
        came = "which is not of this package"
        if marks.get("format") == FORMAT:
            came = f"which holds the weights of a {str(marks.get('kind'))[:40]}"
        raise bad("checkpoint", f"'{path}', {came}", f"the weights of a {kind}")
    card = load_card(path)
    if card["kind"] != kind:
        raise bad("card", f"that of a {card['kind'][:40]} beside '{path}'", f"that of a {kind}")
    try:
        same = path.stat().st_size == card["weights"]["bytes"]
        content = path.read_bytes() if same else b""
        if hashlib.sha256(content).hexdigest() != card["weights"]["sha256"]:
            raise SafetensorError("its SHA-256 is not that of its card")
        weights = load(content)
    except (OSError, SafetensorError) as error:
        raise bad(
            "checkpoint",
            f"'{path}', which is damaged or not the file that its card was written for ({error})",
            f"a file of SHA-256 {card['weights']['sha256'][:16]}...",
            "Keep NAME.json and NAME.safetensors together; copy or train them again.",
        ) from error
    for name, tensor in weights.items():
        if tensor.dtype in _NUMBERS and not bool(tensor.isfinite().all()):
            raise bad("checkpoint", f"'{path}', where {name} is NaN or infinite", "finite weights")
    return card, weights


def _check_blocks(path: Path, weights: dict[str, Tensor], prefix: str, n_blocks: int) -> None:
    """Raise unless there are weights of so many blocks."""
    found = {m[1] for k in weights if (m := re.match(rf"{re.escape(prefix)}\.(\d+)\.", k))}
    if len(found) != n_blocks:
        raise _unlike(path, f"with weights of {len(found)} blocks, not {n_blocks}")


def _check_shapes(path: Path, weights: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Raise unless the weights have the names, shapes and kinds of a module's own."""
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing:
        raise _unlike(path, f"without {missing[0]}")
    if foreign:
        raise _unlike(path, f"with {reprlib.repr(foreign[0])}")
    for name, tensor in own.items():
        given = weights[name]
        if given.shape != tensor.shape:
            raise _unlike(path, f"{name} has shape {tuple(given.shape)}, not {tuple(tensor.shape)}")
        if given.dtype != tensor.dtype and not {given.dtype, tensor.dtype} <= _NUMBERS:
            raise _unlike(path, f"{name} is stored as {given.dtype}, not as {tensor.dtype}")


def _unlike(path: Path, what: str) -> PatchShapError:
    return PatchShapError(
        f"checkpoint: got '{path}', {what}; expected the weights of this architecture. "
        "Its card and the model must be those that it was saved with."
    )


def _depth_of(surrogate: nn.Module) -> int:
    vit: Any = TokenDropping(surrogate).transformer
    return len(getattr(vit, "blocks", ()))
