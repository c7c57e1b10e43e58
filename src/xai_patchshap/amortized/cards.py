"""Cards: the JSON that lies beside the weights of a checkpoint and says what they are.

A card holds the SHA-256 of the weights and its own, and an explainer's that of its surrogate's
card: no file of a checkpoint can change without notice.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import reprlib
from collections.abc import Callable
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from ..errors import bad, file_error
from .network import PREDICTS

__all__ = ["FORMAT", "card_text", "check_card", "load_card"]

FORMAT = "xai_patchshap"
_VERSION = "2"
_LARGEST_CARD = 2**24
_ZEROS = b"0" * 64
_OWN_DIGEST = rb'(?<=\n "sha256": ")[0-9a-f]{64}(?="\n}\n\Z)'


def load_card(path: str | Path) -> dict[str, Any]:
    """The card of a checkpoint ``NAME.safetensors``.

    Raises
    ------
    PatchShapError
        If there is none, or it is not one.
    """
    file = Path(path).with_suffix(".json")
    try:
        if not file.is_file():
            raise FileNotFoundError("no such file")
        if file.stat().st_size > _LARGEST_CARD:
            raise ValueError(f"larger than {_LARGEST_CARD} bytes")
        content = file.read_bytes().replace(b"\r\n", b"\n")  # as git may write it
        card = json.loads(content.decode(), parse_constant=_no_number)
        if card["format"] != FORMAT:
            raise KeyError("format")
        if (version := card["version"]) not in ("1", _VERSION):
            raise KeyError("version")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise bad(
            "card",
            f"'{file}' ({type(error).__name__}: {error})",
            "the JSON card that lies beside every checkpoint of this package",
            "Keep NAME.json and NAME.safetensors together.",
            file_error(error),
        ) from error
    if version != _VERSION:
        raise bad(
            "card",
            f"'{file}' of version {reprlib.repr(version)}",
            f"version {_VERSION!r}, with the SHA-256 of card and weights",
            "Train again; or, if you trust the files, load the weights with safetensors' load_file "
            "into a model of the same architecture and save it with save_surrogate or "
            "save_explainer.",
        )
    if card.get("sha256") != _card_digest(content):
        raise bad(
            "card",
            f"'{file}', whose contents are not those of its SHA-256",
            "the card as it was saved",
            "It is damaged or was edited: copy it again, or save the checkpoint again with the "
            "card that you want.",
        )
    _check_entries(file, card, _OF_EVERY_CARD)
    _check_entries(file, card, _OF_KIND.get(card["kind"], {}))
    return dict(card)


def check_card(card: dict[str, Any] | None) -> dict[str, Any]:
    """What is to be said on a card, or an error before all the work."""
    try:
        _text_of(dict(card or {}))
    except (TypeError, ValueError, RecursionError) as error:
        raise bad(
            "card", reprlib.repr(card), "a dictionary of what JSON can hold", f"({error})"
        ) from error
    return dict(card or {})


def card_text(ours: dict[str, Any], card: dict[str, Any]) -> bytes:
    """A card with its digest: what a checkpoint's kind says, and what a user says beside it."""
    ours = {"format": FORMAT, "version": _VERSION, **ours}
    versions = {"python": platform.python_version()}
    versions |= {name: version_of(name) for name in ("torch", "timm")}
    last = {"versions": versions, "sha256": _ZEROS.decode()}
    said = {k: v for k, v in card.items() if k not in ours and k not in last}
    text = _text_of({**ours, **said, **last})
    return re.sub(_OWN_DIGEST, _card_digest(text).encode(), text)


def _text_of(card: dict[str, Any]) -> bytes:
    return (json.dumps(card, indent=1, allow_nan=False) + "\n").encode()


def _card_digest(content: bytes) -> str:
    """Of a card without its own digest, which is the last it says."""
    return hashlib.sha256(re.sub(_OWN_DIGEST, _ZEROS, content)).hexdigest()


def _check_entries(file: Path, card: dict[str, Any], checks: _Checks) -> None:
    for key, (fits, expected) in checks.items():
        if not fits(card.get(key)):
            raise bad("card", f"'{file}', where {key} is {reprlib.repr(card.get(key))}", expected)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < math.inf


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_digest(value.get("sha256"))
        and _is_whole(value.get("bytes"))
    )


def _is_surrogate(value: Any) -> bool:
    """A file beside the card, and the digest of its own card."""
    name = value.get("file") if isinstance(value, dict) else None
    beside = isinstance(name, str) and re.fullmatch(r"[^/\\:\0]{1,200}\.safetensors", name)
    return bool(beside) and _is_digest(value.get("sha256"))


def _is_architecture(value: Any) -> bool:
    """None, or what :class:`Architecture` is made of, which has checks of its own."""
    return value is None or (
        isinstance(value, dict) and {"name"} <= {*value} <= {"name", "options", "mean", "std"}
    )


def _are(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(fits(v) for v in value)


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


# What is read of a card: whether it fits, and what was expected.
_Checks = dict[str, tuple[Callable[[Any], bool], str]]
_MODEL: _Checks = {
    "architecture": (_is_architecture, "null, or a name, options, mean and std"),
}
_OF_KIND: dict[Any, _Checks] = {
    "classifier": _MODEL,
    "surrogate": _MODEL,
    "explainer": {
        "surrogate": (_is_surrogate, "the name of a .safetensors file beside it, and a SHA-256"),
        "n_frozen": (_is_whole, "a whole number"),
        "n_extra": (_is_whole, "a whole number"),
        "probability": (lambda value: isinstance(value, bool), "true or false"),
        "predicts": (lambda value: value in PREDICTS, f"one of {PREDICTS}"),
        "taps": (_are(_is_whole), "a list of whole numbers"),
        "ridge": (_or_none(_is_number), "null or a number of at least 0"),
        "rmse": (_or_none(_are(_is_number)), "null or a list of numbers of at least 0"),
    },
}
_OF_EVERY_CARD: _Checks = {
    "kind": (lambda value: isinstance(value, str), "a word"),
    "weights": (_is_weights, "SHA-256 and bytes of the weights"),
    "class_names": (
        _or_none(_are(lambda value: isinstance(value, str))),
        "null or a list of names",
    ),
}
