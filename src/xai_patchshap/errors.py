"""The one error type of the package.

Every message says what came, what was expected, and how to mend it; the helper
:func:`bad` keeps them in that order.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

__all__ = ["MissingExtraError", "MissingFileError", "PatchShapError", "TargetError", "deprecated"]


F = TypeVar("F", bound=Callable[..., Any])

_LONGEST = 500  # letters of what came in a message


class PatchShapError(ValueError):
    """A request that cannot be answered as it stands.

    Raised before any long work begins. It is a :class:`ValueError`, so code that
    guards calls into Captum or shap with ``except ValueError`` catches it too.
    """


class MissingExtraError(PatchShapError, ImportError):
    """A package is not installed that an extra brings; an :class:`ImportError` too."""

    def __str__(self) -> str:  # ImportError keeps a message of its own
        return str(self.args[0])


class MissingFileError(PatchShapError, FileNotFoundError):
    """A file that was named does not exist; a :class:`FileNotFoundError` too."""


class TargetError(PatchShapError, AssertionError):
    """A target that the outputs do not have; an :class:`AssertionError` too, as in Captum."""


def file_error(cause: BaseException) -> type[PatchShapError]:
    """The class of an error about a file that could not be read."""
    return MissingFileError if isinstance(cause, FileNotFoundError) else PatchShapError


def bad(
    what: str,
    came: object,
    expected: str,
    mend: str = "",
    kind: type[PatchShapError] = PatchShapError,
) -> PatchShapError:
    """Build the error for argument ``what``: what came, what was expected, how to mend it."""
    told = str(came)
    if len(told) > _LONGEST:
        told = f"{told[: _LONGEST - 50]} ... {told[-40:]}"
    message = f"{what}: got {told}; expected {expected}."
    return kind(f"{message} {mend}".rstrip())


def rename(error: PatchShapError, names: Mapping[str, str]) -> None:
    """Call the argument that an error is about by the name that its user typed."""
    what, colon, said = str(error).partition(":")
    error.args = (f"{names.get(what, what)}{colon}{said}",)


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


def deprecated(instead: str, since: str) -> Callable[[F], F]:
    """Let a function, or a class's constructor, warn that it goes away.

    Parameters
    ----------
    instead : str
        What its user writes instead.
    since : str
        The version that deprecates it; it stays for two minor versions more.
    """

    def declare(function: F) -> F:
        @wraps(function)
        def warning(*args: Any, **kwargs: Any) -> Any:
            name = function.__qualname__.removesuffix(".__init__")
            warn(f"{name} is deprecated since {since}: use {instead}.", DeprecationWarning)
            return function(*args, **kwargs)

        return warning  # type: ignore[return-value]

    return declare


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
