"""Refinement: a network's prediction, corrected by some evaluations of its surrogate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._typing import Floats
from ..estimators import Estimate, GaussianProcessShap, KernelShap, Plan
from .predicted_game import PredictedGame

__all__ = ["PatchPrediction", "RefinedPrediction"]


@dataclass(frozen=True)
class PatchPrediction:
    """What a network predicts of one image.

    Attributes
    ----------
    values : ndarray (patches, K)
        Shapley values of all outputs.
    null : ndarray (K,)
        Value of the empty coalition.
    game : PredictedGame or None
        The game of this image, of networks that predict one.
    patches : ndarray of int (n_players,)
        The patch that each player is.
    columns : ndarray of int (k,)
        The outputs of the game that is played.
    ridge : float or None
        Strength of the prediction in a regression, as calibrated.
    rmse : sequence of K floats, or None
        Root mean squared errors of ``values`` on validation images.
    """

    values: Floats
    null: Floats
    game: PredictedGame | None
    patches: NDArray[np.int64]
    columns: NDArray[np.int64]
    ridge: float | None
    rmse: list[float] | None

    @property
    def of_players(self) -> Floats:
        """Values (n_players, k) of the outputs that are played."""
        return self.values[self.patches][:, self.columns]

    def played(self, coalitions: NDArray[np.bool_]) -> Floats:
        """Values (m, k) of coalitions of the players in the predicted game."""
        assert self.game is not None
        shown = np.empty((1, *coalitions.shape), dtype=bool)
        shown[0][:, self.patches] = coalitions
        values = self.game.values(torch.from_numpy(shown).to(self.game.mass.device))
        return self._numbers(values)

    def of_game(self, m: int) -> tuple[Floats, Floats]:
        """Shapley values of the predicted game and their errors, the smaller the larger m."""
        assert self.game is not None
        found = self.game.estimate(n_orders=max(8, m // 64))
        values, error = (self._numbers(part)[self.patches] for part in found)
        return values, error

    def _numbers(self, of_one: Tensor) -> Floats:
        return np.asarray(of_one[0].double().cpu())[:, self.columns]


class RefinedPrediction:
    """The Shapley values of one image: the prediction alone, or corrected by a sample.

    The sample models what the prediction leaves of the game: by a Gaussian process, which
    starts from the predicted game if there is one, or by a regression with a ridge.

    Parameters
    ----------
    plan : Plan
        Names the coalitions of the sample.
    prediction : PatchPrediction
    full_values : ndarray (k,)
        Value of the whole image.
    n_guides : int
        The last so many outputs are not estimated; they guide a process.
    """

    def __init__(
        self, plan: Plan, prediction: PatchPrediction, full_values: Floats, n_guides: int
    ) -> None:
        self._plan, self._prediction, self._n_guides = plan, prediction, n_guides
        # The values of the empty and the full coalition are known.
        self._values = np.stack([prediction.null[prediction.columns], full_values])

    def ask(self, most: int) -> NDArray[np.bool_]:
        known = len(self._values)
        return self._plan.coalitions[known : known + most]

    def tell(self, values: Floats) -> None:
        self._values = np.concatenate([self._values, values])

    def estimate(self) -> Estimate:
        """The corrected values; a prediction alone has its validation error."""
        found = self._refined()
        if found.n_coalitions > 2 or self._prediction.rmse is None:
            return found
        n_explained = found.values.shape[1]
        rmse = np.asarray(self._prediction.rmse)[self._prediction.columns[:n_explained]]
        error = np.broadcast_to(rmse, found.values.shape).copy()
        return replace(found, error_std=error, n_coalitions=2, exact=False)

    def _refined(self) -> Estimate:
        plan, values, prior = self._plan, self._values, self._prediction.of_players
        if isinstance(plan, GaussianProcessShap):
            is_complete = len(values) == 2 ** len(prior)
            if self._prediction.game is None or len(values) <= 2 or is_complete:
                return plan.estimate(values, prior, self._n_guides)
            return self._refined_game(plan)
        if isinstance(plan, KernelShap):
            prior = prior[:, : prior.shape[1] - self._n_guides]
            return plan.estimate(values, prior, self._prediction.ridge, self._n_guides)
        estimate: Estimate = plan.estimate(values, n_guides=self._n_guides)
        return estimate

    def _refined_game(self, process: GaussianProcessShap) -> Estimate:
        """The process of what the predicted game leaves."""
        values, prior, m = self._values, self._prediction.of_players, len(self._values)
        played = self._prediction.played(process.coalitions[:m])
        shapley, error = self._prediction.of_game(m)
        shapley += (played[1] - played[0] - shapley.sum(axis=0)) / len(shapley)
        left = process.estimate(values - played, prior - shapley, self._n_guides)
        n_outputs = values.shape[1] - self._n_guides
        return replace(
            left,
            values=left.values + shapley[:, :n_outputs],
            error_std=np.hypot(left.error_std, error[:, :n_outputs]),
            base_values=values[0, :n_outputs],
            full_values=values[1, :n_outputs],
        )
