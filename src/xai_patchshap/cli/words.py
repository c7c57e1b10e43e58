"""Errors and warnings of the library in the words of the command line."""

from __future__ import annotations

import re

from ..errors import PatchShapError
from ..explainers.methods import COMPARED, dashed

__all__: list[str] = []  # parts of the command line, for no one else

# Arguments of the library by their names on the command line.
FLAGS = {
    "architecture": "--model-args",
    "dataset": "images",
    "folder": "--out",
    "grid": "--players",
    "keep_tokens": "--keep-tokens",
    "max_evals": "--budget",
    "n_frozen": "--frozen",
    "n_pairs": "--pairs",
    "n_samples": "--budget",
    "n_sizes": "--sizes",
    "n_trees": "--trees",
    "outputs": "--classes",
    "patch": "--players",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in (
            "accumulate", "background", "batch_size", "budget", "epochs", "hierarchy", "index",
            "learning_rate", "methods", "order", "out", "players", "predicts", "save_every",
            "scale", "seed", "size", "start", "taps", "tolerance", "validation", "validations",
            "weight_decay", "weights", "workers",
        )
    },
}  # fmt: skip
# Advice of the library, and how it is typed.
_SAID = (
    (r"PatchMasker\((\w+=[^()]*(\([^()]*\))?)\)", r"\1"),
    (r" ?\(n_samples= or max_evals=\)", ""),
    (r"feature_mask= or players=\.\.\.", "--players"),
    (r", or baselines=,", ","),
    (r"weights= \(--weights\)", "--weights"),
    (r"outputs=shap\.Explanation\.argsort\.flip\[:(\d+)\]", r"--classes top\1"),
    (r"outputs=\[([\d, ]+)\]", lambda found: f"--classes {found[1].replace(' ', '')}"),
    (r"players=\((\d+), (\d+)\)", r"--players \1x\2"),
    (
        rf"\b({'|'.join(FLAGS)})=(?:'([^']*)'|([\w.,:\[\]]*\w)?)",
        lambda found: f"{FLAGS[found[1]]} {found[2] or found[3] or ''}".rstrip(),
    ),
)


def in_words(message: str) -> str:
    """A message of the library with advice that can be typed.

    Examples
    --------
    >>> in_words("budget: got 1; expected 2. Give max_evals=384, or PatchMasker(players=(7, 7)).")
    '--budget: got 1; expected 2. Give --budget 384, or --players 7x7.'
    """
    came, expected, advice = message.partition("; expected")
    what, colon, got = came.partition(":") if expected else ("", "", "")
    if what == "methods":
        got = re.sub("|".join(COMPARED), lambda name: dashed(name[0]), _typed(got))
    # Else what came stays as it is: it may be the path of a file.
    return f"{FLAGS.get(what, what)}{colon}{got}{expected}{_typed(advice or message)}"


def _typed(advice: str) -> str:
    for theirs, ours in _SAID:
        advice = re.sub(theirs, ours, advice)
    return advice


def say_in_words(error: PatchShapError) -> None:
    """Let an error speak to those who typed a command."""
    error.args = (in_words(str(error)),)
