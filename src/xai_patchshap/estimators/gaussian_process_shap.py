"""Shapley values from the posterior of a Gaussian process over coalitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import bad
from .base import Estimate, check_values, checked_prior
from .interactions import GaussianProcessInteractions

__all__ = ["GaussianProcessShap"]

Floats = NDArray[np.float64]

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
        guess = np.zeros((self.coalitions.shape[1], v.shape[1]))
        if prior is not None:
            guess = checked_prior(prior, guess.shape)
            guess += (v[1] - v[0] - guess.sum(axis=0)) / len(guess)
        found = self._of_order_1.estimate(v - self.coalitions[: len(v)] @ guess, n_guides)
        n_outputs = found.values[0].shape[1]
        v, guess = v[:, :n_outputs], guess[:, :n_outputs]
        # Adding up, to rounding, as the game does.
        mean = found.values[0] + guess
        mean += (v[1] - v[0] - mean.sum(axis=0)) / len(mean)
        return Estimate(mean, found.error_std[0], v[0], v[1], found.n_coalitions, found.exact)
