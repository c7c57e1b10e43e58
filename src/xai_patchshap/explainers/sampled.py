"""Explainers that draw coalitions by an estimator and evaluate them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._validation import check_memory, said
from ..estimators import Estimate, GaussianProcessInteractions, GaussianProcessShap
from ..game import Game
from .base import PatchExplainer

__all__ = ["SampledExplainer", "leading_outputs", "with_guides"]

# With a tolerance, errors are looked at each time the sample has grown by this factor.
_GROWTH = 1.5
N_GUIDES = 16  # outputs that a Gaussian process learns from


def leading_outputs(full: NDArray[np.float64]) -> NDArray[np.int64]:
    """The outputs (N, 16 or fewer) of highest score, the highest first."""
    n_outputs = full.shape[1]
    some = np.argpartition(-full, min(N_GUIDES, n_outputs) - 1, axis=1)[:, :N_GUIDES]
    some.sort(axis=1)  # of equal scores, the first output first
    order = np.argsort(-np.take_along_axis(full, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def with_guides(estimator: Any, values: NDArray[np.float64], n_guides: int) -> Any:
    """The estimate of an estimator that may not know of guides, the last outputs."""
    if isinstance(estimator, GaussianProcessShap | GaussianProcessInteractions):
        return estimator.estimate(values, n_guides=n_guides)
    return estimator.estimate(values[:, : values.shape[1] - n_guides])


class SampledExplainer(PatchExplainer):
    """Base of explainers whose estimator names its coalitions beforehand."""

    _few_per_player = 4
    tolerance: float | None = None
    estimator: str = "auto"

    def _estimator(self, n_players: int, budget: int, seed: int) -> Any:
        """An estimator with ``coalitions``, ``min_coalitions`` and ``estimate``."""
        raise NotImplementedError(f"{type(self).__name__} has no estimator of its own")

    def _estimated(self, estimator: Any, values: NDArray[np.float64], n_guides: int) -> Estimate:
        """The estimate from the values of the first coalitions; guides are the last outputs."""
        estimate: Estimate = with_guides(estimator, values, n_guides)
        return estimate

    def _numbers_per_output(self, n_players: int) -> int:
        """Numbers that the results hold for each output."""
        return 2 * n_players

    def _guide_columns(self, full: NDArray[np.float64]) -> NDArray[np.int64] | None:
        """The outputs of highest score, which a Gaussian process learns its parameters from.

        All outputs are evaluated anyway; so the same is learned whichever are explained.
        """
        if self.estimator not in ("auto", "gaussian-process") or full.shape[1] == 1:
            return None
        return leading_outputs(full)

    def _solve(
        self,
        game: Game,
        examples: Sequence[int],
        full: NDArray[np.float64],
        budgets: Sequence[int],
    ) -> list[Estimate]:
        sizes = [(game.bound.n_players[i], b) for i, b in zip(examples, budgets, strict=True)]
        self._check_memory(sizes, full)
        # One sample of coalitions serves all examples with as many players.
        seed = secrets.randbits(64) if self.seed is None else self.seed
        estimators = {s: self._estimator(*s, seed) for s in dict.fromkeys(sizes)}
        estimator = dict(zip(examples, (estimators[s] for s in sizes), strict=True))
        # Values are written where they stay: they can fill most of the memory.
        tables = {i: np.empty((len(e.coalitions), full.shape[1])) for i, e in estimator.items()}
        known = dict.fromkeys(examples, 0)
        estimates: dict[int, Estimate] = {}
        active = list(examples)
        while active:
            wanted, into = {}, {}
            for i in active:
                rows = slice(known[i], self._next_stop(estimator[i], known[i]))
                wanted[i], into[i] = estimator[i].coalitions[rows], tables[i][rows]
                if not known[i]:
                    # The full coalition, second of every sample, is known already.
                    wanted[i], into[i] = np.delete(wanted[i], 1, 0), into[i][1:]
            for i, fresh in game.evaluate(wanted, into).items():
                if not known[i] and len(fresh):
                    tables[i][:2] = tables[i][1], full[i]
                    known[i] = 1
                known[i] += len(fresh)
                if known[i] < estimator[i].min_coalitions:
                    # Interrupted too early for any answer.
                    raise KeyboardInterrupt
                values = tables[i][: known[i]]
                estimates[i] = self._estimated(estimator[i], values, game.n_guides)
            active = [
                i
                for i in active
                if not game.interrupted
                and known[i] < len(estimator[i].coalitions)
                and self.tolerance is not None
                and estimates[i].error_std.max() > self.tolerance
            ]
        return [estimates[i] for i in examples]

    def _check_memory(self, sizes: Sequence[tuple[int, int]], full: NDArray[np.float64]) -> None:
        """Raise unless values and results of some examples, (players, budget) each, fit."""
        n_outputs, most = full.shape[1], max(n for n, _ in sizes)
        asked = said(max(budget for _, budget in sizes))
        came = f"{asked} evaluations for {most:,} players and {n_outputs:,} outputs"
        n_rows = sum(min(budget, 2 ** min(n, 62)) for n, budget in sizes)
        mend = "Lower it (n_samples= or max_evals=), or choose some outputs with outputs=."
        check_memory("budget", came, 8 * n_rows * n_outputs, mend)
        numbers = len(full) * n_outputs * max(self._numbers_per_output(n) for n, _ in sizes)
        came = f"{n_outputs:,} outputs of {most:,} players"
        mend = "Choose some with outputs=, as in outputs=[0, 1], or fewer players."
        check_memory("outputs", came, 8 * numbers, mend)

    def _next_stop(self, estimator: Any, done: int) -> int:
        """Coalitions after which to look at the errors next."""
        most = len(estimator.coalitions)
        if self.tolerance is None:
            return most
        # The first look comes where least squares has data enough for honest errors.
        start = 4 * estimator.coalitions.shape[1]
        return int(min(most, max(estimator.min_coalitions, start, 2 * int(done * _GROWTH / 2))))
