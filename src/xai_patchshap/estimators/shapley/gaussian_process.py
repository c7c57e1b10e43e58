"""Shapley values from the posterior of a Gaussian process over coalitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..._typing import Floats
from ...errors import bad
from ..base import Estimate, check_values, checked_prior
from ..interactions.gaussian_process import GaussianProcessInteractions
from ..units import constant_outputs

__all__ = ["GaussianProcessShap"]

_MOST_PLAYERS = 1000  # weights of more overflow


class GaussianProcessShap:
    """Shapley values from any number of pairs of coalitions; exact once all are drawn.

    The values of order 1 of :class:`GaussianProcessInteractions`, in whose model some players
    may interact: fewer evaluations do where they do. Standard errors are posterior
    deviations. An additive game is recovered to rounding once there are as many pairs as players.
    All outputs together cost a fraction of a second.

    Parameters
    ----------
    n_players, budget, seed, sampling
        As in :class:`GaussianProcessInteractions`.

    Raises
    ------
    PatchShapError
        If there are more than 1,000 players, or an argument does not fit.

    Attributes
    ----------
    coalitions : ndarray of bool, shape (m, n_players)
        As in :class:`GaussianProcessInteractions`.

    Examples
    --------
    >>> import numpy as np
    >>> estimator = GaussianProcessShap(16, budget=200)
    >>> z = estimator.coalitions.astype(float)
    >>> values = estimator.estimate(z @ np.arange(16) + 20 * z[:, 0] * z[:, 1]).values[:, 0]
    >>> bool(np.abs(values - np.arange(16) - 10 * (np.arange(16) < 2)).max() < 0.5)
    True
    """

    min_coalitions = 2

    def __init__(
        self, n_players: int, budget: int, seed: int | None = 0, sampling: str = "a-optimal"
    ) -> None:
        if n_players > _MOST_PLAYERS:
            raise bad(
                "players", n_players, f"at most {_MOST_PLAYERS:,}", "Merge some, or use KernelShap."
            )
        self._of_order_1 = GaussianProcessInteractions(n_players, budget, "SV", 1, seed, sampling)

    @property
    def coalitions(self) -> NDArray[np.bool_]:
        """Empty, full, then each sampled coalition followed by its complement."""
        return self._of_order_1.coalitions

    def estimate(self, values: Floats, prior: Floats | None = None, n_guides: int = 0) -> Estimate:
        """Estimate from the values of the first coalitions.

        Parameters
        ----------
        values : ndarray of shape (m, n_outputs) or (m,)
            Values of the first ``m >= 2`` of :attr:`coalitions`; a last coalition
            without its complement is left aside.
        prior : ndarray of shape (n_players, n_outputs), optional
            A guess at the Shapley values, as of a trained explainer. The process then models
            what the additive game of the guess leaves of the game.
        n_guides : int
            The last outputs, as many as this, only guide the process, as in
            :meth:`GaussianProcessInteractions.estimate`; ``prior`` has a guess for them, too.
        """
        v = check_values(values, len(self.coalitions), self.min_coalitions)
        n_players, n_outputs = self.coalitions.shape[1], v.shape[1] - n_guides
        guess = None
        if prior is not None:
            guess = checked_prior(prior, (n_players, v.shape[1]))
            guess += (v[1] - v[0] - guess.sum(axis=0)) / n_players
        rest = v if guess is None else v - self.coalitions[: len(v)] @ guess
        found = self._of_order_1.estimate(rest, n_guides)
        mean, std = found.values[0], found.error_std[0]
        v = v[:, :n_outputs]
        if guess is not None:
            mean = mean + guess[:, :n_outputs]
            constant = constant_outputs(v)
            mean[:, constant] = std[:, constant] = 0.0
        # Adding up, to rounding, as the game does.
        mean += (v[1] - v[0] - mean.sum(axis=0)) / n_players
        return Estimate(mean, std, v[0].copy(), v[1].copy(), found.n_coalitions, found.exact)
