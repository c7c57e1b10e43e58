"""Explainers that draw coalitions by an estimator and evaluate them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..estimators import Estimate, GaussianProcessInteractions, GaussianProcessShap
from ..game import Game
from ._base import PatchExplainer

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


def with_guides(estimator: Any, values: NDArray[np.float64], guides: NDArray[np.float64]) -> Any:
    """The estimate of an estimator that may not know of guides."""
    if guides.shape[1] and isinstance(
        estimator, (GaussianProcessShap, GaussianProcessInteractions)
    ):
        both = np.concatenate([values, guides], axis=1)
        return estimator.estimate(both, n_guides=guides.shape[1])
    return estimator.estimate(values)


class SampledExplainer(PatchExplainer):
    """Base of explainers whose estimator names its coalitions beforehand."""

    _few_per_player = 4
    tolerance: float | None = None
    estimator: str = "auto"

    def _estimator(self, n_players: int, budget: int, seed: int) -> Any:
        """An estimator with ``coalitions``, ``min_coalitions`` and ``estimate``."""
        raise NotImplementedError(f"{type(self).__name__} has no estimator of its own")

    def _estimated(
        self, estimator: Any, values: NDArray[np.float64], guides: NDArray[np.float64]
    ) -> Estimate:
        """The estimate from the values of the first coalitions, and from those of guides."""
        estimate: Estimate = with_guides(estimator, values, guides)
        return estimate

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
        # One sample of coalitions serves all examples with as many players.
        seed = secrets.randbits(64) if self.seed is None else self.seed
        estimators = {s: self._estimator(*s, seed) for s in dict.fromkeys(sizes)}
        estimator = dict(zip(examples, (estimators[s] for s in sizes), strict=True))
        values = {i: np.zeros((0, full.shape[1])) for i in examples}
        estimates: dict[int, Estimate] = {}
        active = list(examples)
        while active:
            stops = {i: self._next_stop(estimator[i], len(values[i])) for i in active}
            # The full coalition, second of every sample, is known already.
            wanted = {i: estimator[i].coalitions[len(values[i]) : stops[i]] for i in active}
            first = {i for i in active if not len(values[i])}
            fresh = game.evaluate(
                {i: np.delete(c, 1, 0) if i in first else c for i, c in wanted.items()}
            )
            for i in active:
                if i in first:
                    fresh[i] = np.insert(fresh[i], min(1, len(fresh[i])), full[i], axis=0)
                values[i] = np.concatenate([values[i], fresh[i]])
                least = estimator[i].min_coalitions
                if len(values[i]) < least:
                    # Interrupted too early for any answer.
                    raise KeyboardInterrupt
                own, guides = np.split(values[i], [full.shape[1] - game.n_guides], axis=1)
                estimates[i] = self._estimated(estimator[i], own, guides)
            active = [
                i
                for i in active
                if not game.interrupted
                and len(values[i]) < len(estimator[i].coalitions)
                and self.tolerance is not None
                and estimates[i].error_std.max() > self.tolerance
            ]
        return [estimates[i] for i in examples]

    def _next_stop(self, estimator: Any, done: int) -> int:
        """Coalitions after which to look at the errors next."""
        most = len(estimator.coalitions)
        if self.tolerance is None:
            return most
        # The first look comes where least squares has data enough for honest errors.
        start = 4 * estimator.coalitions.shape[1]
        return int(min(most, max(estimator.min_coalitions, start, 2 * int(done * _GROWTH / 2))))
