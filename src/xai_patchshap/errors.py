"""The one error type of the package.

Every message says what came, what was expected, and how to mend it; the helper
:func:`bad` keeps them in that order.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

__all__ = ["PatchShapError"]


_LONGEST = 500  # letters of what came in a message


class PatchShapError(ValueError):
    """A request that cannot be answered as it stands.

    Raised before any long work begins. It is a :class:`ValueError`, so code that
    guards calls into Captum or shap with ``except ValueError`` catches it too.
    """


def bad(what: str, came: object, expected: str, mend: str = "") -> PatchShapError:
    """Build the error for argument ``what``: what came, what was expected, how to mend it."""
    told = str(came)
    if len(told) > _LONGEST:
        told = f"{told[: _LONGEST - 50]} ... {told[-40:]}"
    message = f"{what}: got {told}; expected {expected}."
    return PatchShapError(f"{message} {mend}".rstrip())


def rename(error: PatchShapError, names: Mapping[str, str]) -> None:
    """Call the argument that an error is about by the name that its user typed."""
    what, colon, said = str(error).partition(":")
    error.args = (f"{names.get(what, what)}{colon}{said}",)


def check_whole(
    what: str, value: Any, least: int, most: int | None = None, mend: str = "", unit: str = ""
) -> int:
    """The whole number, or an error unless it lies between ``least`` and ``most``."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        end = "" if most is None else f" and at most {most}"
        raise bad(what, repr(value), f"a whole number of at least {least}{end}{unit}", mend)
    return int(value)


def check_amount(what: str, value: Any, limit: float = math.inf) -> None:
    """Raise unless ``value`` is a finite number of at least 0 and less than ``limit``."""
    if not 0 <= _number(value) < limit:
        below = "" if limit == math.inf else f" and less than {limit:g}"
        raise bad(what, repr(value), f"a number of at least 0{below}")


def check_names(what: str, names: Any) -> list[Any] | None:
    """Names in their order as a list, or an error."""
    if names is None:
        return None
    if isinstance(names, str | bytes):
        raise bad(what, f"the text {names!r}", "a list of names", f"Use [{names!r}].")
    if isinstance(names, set | frozenset) or not isinstance(names, Iterable):
        raise bad(what, f"an object of type {type(names).__name__}", "a list of names")
    listed = list(names)
    for name in listed:
        if isinstance(name, Iterable) and not isinstance(name, str | bytes):
            raise bad(what, f"the name {name!r}", "a list of texts")
    return listed


# How warnings are said to the user of a function that calls its arguments by other names.
_said: ContextVar[Callable[[str], str]] = ContextVar("_said", default=str)


@contextmanager
def warnings_said(say: Callable[[str], str]) -> Iterator[None]:
    """Let :func:`warn` say its messages as ``say`` puts them."""
    token = _said.set(say)
    try:
        yield
    finally:
        _said.reset(token)


def check_positive(what: str, value: Any) -> None:
    """Raise unless ``value`` is a number above 0."""
    if not _number(value) > 0:
        raise bad(what, repr(value), "a positive number")


def _number(value: Any) -> float:
    """The number, or NaN for what is none."""
    of_many = isinstance(value, np.ndarray) and value.ndim
    if isinstance(value, bool | np.bool_ | str | bytes) or of_many:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan


@contextmanager
def raised_by(whose: str) -> Iterator[None]:
    """Say in a note of an exception whose code raised it."""
    try:
        yield
    except PatchShapError:
        raise
    except Exception as error:
        error.add_note(f"Raised by {whose}.")
        raise


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of a doubtful request, at the line of the user's own code that made it."""
    message = _said.get()(message)
    own = ("xai_patchshap.", "captum.", "shap.")
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and f"{frame.f_globals.get('__name__')}.".startswith(own):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
