"""The command line: ``xai-patchshap demo``, ``explain``, ``evaluate`` and ``train``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from ..errors import PatchShapError, warnings_said
from .arguments import parser
from .words import in_words, say_in_words

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0 if all went well, 1 if some images could not be explained, 2 if nothing could be
        done as asked, 130 after Ctrl-C.
    """
    arguments = parser().parse_args(argv)
    try:
        settings = arguments.read(arguments)
        module, function = arguments.run
        with warnings_said(in_words):
            return getattr(import_module(f".{module}", __package__), function)(settings) or 0
    except PatchShapError as error:
        say_in_words(error)
        print(f"xai-patchshap: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("xai-patchshap: interrupted", file=sys.stderr)
        return 130
