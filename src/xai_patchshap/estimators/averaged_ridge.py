"""Ridge regression averaged over its strengths by their marginal likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._typing import Floats

__all__ = ["SIGNAL_TO_NOISE", "AveragedRidge"]

# Signal-to-noise ratios that are averaged over.
SIGNAL_TO_NOISE = np.logspace(-3.0, 3.0, 41)
_NEGLIGIBLE = 1e-20  # a share of the evidence that changes nothing


@dataclass(frozen=True)
class AveragedRidge:
    """Posterior of the coefficients b of ``y = X b + noise``, ``b ~ N(0, eta sigma^2)``.

    Jeffreys' prior on sigma and a flat one on log(eta) leave Student posteriors that are
    averaged over a grid of eta by their marginal likelihood.

    Attributes
    ----------
    projected : ndarray (r, K)
        ``left.T @ y``, of the singular value decomposition ``X = left * singular @ v.T``.
    evidence, variance : ndarray (e, K)
        Share of each eta, and the variance of b over eta that comes with it.
    etas : ndarray (e,)
    spread : ndarray (e, r)
        ``1 + eta singular^2``.
    gain : ndarray (e, r)
        Means of the coefficients over ``projected``.
    """

    projected: Floats
    evidence: Floats
    variance: Floats
    etas: Floats
    spread: Floats
    gain: Floats

    @classmethod
    def of(
        cls,
        projected: Floats,
        unexplained: Floats,
        m: int,
        singular: Floats,
        signal_to_noise: Floats = SIGNAL_TO_NOISE,
    ) -> AveragedRidge:
        """The posterior for ``m`` rows, at least 3.

        Parameters
        ----------
        projected, singular : ndarray (r, K), (r,)
            As above.
        unexplained : ndarray (K,)
            ``sum(y**2) - sum(projected**2)``.
        signal_to_noise : ndarray (e,)
            Ratios that are averaged over.
        """
        etas = signal_to_noise / np.mean(singular**2)
        spread = 1.0 + etas[:, None] * singular**2
        noise = unexplained + np.einsum("er,rk->ek", 1.0 / spread, projected**2)
        noise = np.maximum(noise, np.finfo(float).tiny) / m
        log_evidence = -0.5 * (m * np.log(noise) + np.log(spread).sum(axis=1)[:, None])
        evidence = np.exp(log_evidence - log_evidence.max(axis=0))
        evidence /= evidence.sum(axis=0)
        variance = noise * (m / (m - 2.0)) * evidence
        return cls(projected, evidence, variance, etas, spread, etas[:, None] * singular / spread)

    def functions(self, right: Floats, prior: Floats) -> tuple[Floats, Floats]:
        """Posterior mean and deviation, each (f, K), of linear functions ``C b``.

        Parameters
        ----------
        right : ndarray (f, r)
            ``C @ v``; ``v`` itself for the coefficients.
        prior : ndarray (f,)
            Variance of these functions for b ~ N(0, I).
        """
        # Moments of the mixture, in the coordinates of the right singular vectors.
        mean_gain = self.evidence.T @ self.gain  # (K, r)
        centre = mean_gain.T * self.projected
        seen = right**2 @ ((self.etas[:, None] / self.spread).T @ self.variance)
        unseen = np.maximum(prior - (right**2).sum(axis=1), 0.0)[:, None]
        between = np.zeros((len(right), self.projected.shape[1]))
        for e in np.flatnonzero(self.evidence.max(axis=1) > _NEGLIGIBLE):
            gap = right @ ((self.gain[e][:, None] - mean_gain.T) * self.projected)
            between += self.evidence[e] * gap**2
        total = seen + unseen * (self.etas @ self.variance) + between
        return right @ centre, np.sqrt(total)
