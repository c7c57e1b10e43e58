"""The images that could not be done, in words."""

from __future__ import annotations

from ..errors import PatchShapError, bad
from .images import shown
from .words import say_in_words

__all__: list[str] = []  # parts of the command line, for no one else

# So many images that fail alike, and not one that does not: it is not the images.
_ALIKE = 10


class Failures:
    """The images that could not be done, in words, and whether the fault is theirs."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.n_done = 0
        self._errors: list[PatchShapError] = []

    def unreadable(self, error: PatchShapError) -> None:
        """Note an image that cannot be read."""
        self.lines.append(shown(error))

    def add(self, path: str, error: Exception) -> None:
        """Note an image that failed, and raise if all do, and alike."""
        if not isinstance(error, PatchShapError):
            error = of_the_model(error)
        say_in_words(error)
        self.lines.append(f"'{shown(path)}': {shown(error)}")
        if not str(error).startswith("model: got NaN"):  # which are of the image
            self._errors.append(error)
            if len(self._errors) == _ALIKE:
                self.check()

    def check(self) -> None:
        """Raise if nothing could be done, for one reason."""
        if not self.n_done and len({str(error) for error in self._errors}) == 1:
            raise self._errors[0]


def of_the_model(error: Exception) -> PatchShapError:
    """An error of somebody else's code, in words."""
    said = f"{type(error).__name__}: {error}".strip().splitlines()
    wrapped = bad("model", said[0] if said else type(error).__name__, "scores of every image")
    wrapped.__cause__ = error
    return wrapped
