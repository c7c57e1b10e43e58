"""solve, the one loop in which estimators ask and games answer, and what a run of it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..estimators import Estimate, Interactions
from ..estimators.base import Estimator
from ..game import Game
from ..players.trees import PartitionTree

__all__ = ["Run", "solve"]

# Coalitions of one round are held at once.
_MAX_BYTES = 2**26


@dataclass(frozen=True)
class Run:
    """What the last explanation found, what it cost and how sure it is.

    Attributes
    ----------
    estimates : list of Estimate
        One for each example: values, standard errors, base values per player and output.
    evaluations : ndarray of int, shape (N,)
        Model evaluations spent on each example.
    seconds, model_seconds : float
        Wall time of the whole explanation, and of the model within it.
    interrupted : bool
        Whether Ctrl-C ended it early.
    outputs : ndarray of int, shape (N, k), or None
        The outputs that were explained, as columns of the model's outputs (N, K), or of outputs
        (N, ...) that are flattened behind their first axis; None for all of them.
    interactions : list of Interactions
        Those of :class:`InteractionShap`, one for each example.
    trees : list of list of PartitionTree
        Those of :class:`OwenBPT`, for each example.
    """

    estimates: list[Estimate]
    evaluations: NDArray[np.int64]
    seconds: float
    model_seconds: float
    interrupted: bool
    outputs: NDArray[np.int64] | None = None
    interactions: list[Interactions] = field(default_factory=list)
    trees: list[list[PartitionTree]] = field(default_factory=list)

    def __repr__(self) -> str:
        errors = [float(e.error_std.max()) for e in self.estimates]
        return (
            f"Run({len(self.estimates)} inputs, {_span(len(e.values) for e in self.estimates)} "
            f"players, {self.estimates[0].values.shape[1]} outputs, {_span(self.evaluations)} "
            f"evaluations each, largest error_std {max(errors):.3g}, {self.seconds:.3g} s, of "
            f"them {self.model_seconds:.3g} s in the model{', interrupted' * self.interrupted})"
        )


def _span(numbers: Iterable[int]) -> str:
    distinct = sorted(map(int, numbers))
    low, high = distinct[0], distinct[-1]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def solve(game: Game, estimators: Mapping[int, Estimator], budgets: Mapping[int, int]) -> None:
    """Let the estimators of some examples ask the game until they know enough.

    ``budgets`` counts the coalitions of each example, the full one included. Ctrl-C ends the
    loop, with what was told so far.
    """
    most = max(16, _MAX_BYTES // (max(game.n_players) * len(estimators)))
    while not game.interrupted:
        wanted: dict[int, Any] = {}
        for i, estimator in estimators.items():
            asked = estimator.ask(min(most, budgets[i] - game.n_coalitions(i)))
            if len(asked):
                wanted[i] = asked
        if not wanted:
            break
        for i, values in game.evaluate(wanted).items():
            estimators[i].tell(values)
