"""The command line: ``xai-patchshap demo``, ``explain``, ``evaluate`` and ``train``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import PatchShapError, rename
from .evaluate import add_evaluate
from .explain import add_explain
from .model import FLAGS
from .train import add_train

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0 if all went well, 1 if some images could not be explained, 2 if nothing could be
        done as asked, 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except PatchShapError as error:
        rename(error, FLAGS)
        print(f"xai-patchshap: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("xai-patchshap: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xai-patchshap", description="Shapley-based attribution of image models."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_explain(commands)
    add_evaluate(commands)
    add_train(commands)
    return parser
