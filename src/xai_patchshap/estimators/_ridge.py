"""Ridge regression averaged over its strengths by their marginal likelihood."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIGNAL_TO_NOISE", "averaged_ridge"]

Floats = NDArray[np.float64]

# Signal-to-noise ratios that are averaged over.
SIGNAL_TO_NOISE = np.logspace(-3.0, 3.0, 41)


def averaged_ridge(
    left: Floats,
    singular: Floats,
    right: Floats,
    y: Floats,
    prior: Floats,
    signal_to_noise: Floats = SIGNAL_TO_NOISE,
) -> tuple[Floats, Floats]:
    """Posterior mean and deviation, each (f, K), of linear functions of the coefficients.

    The model is ``y = X b + noise``, ``b ~ N(0, eta sigma^2)``. Jeffreys' prior on sigma and
    a flat one on log(eta) leave Student posteriors that are averaged over a grid of eta by
    their marginal likelihood.

    Parameters
    ----------
    left, singular : ndarray (m, r), (r,)
        Of the singular value decomposition ``X = left * singular @ v.T``; m of at least 3.
    right : ndarray (f, r)
        ``C @ v`` for the functions ``C b`` that are wanted; ``v`` for the coefficients.
    y : ndarray (m, K)
    prior : ndarray (f,)
        Variance of these functions for b ~ N(0, I).
    signal_to_noise : ndarray (e,)
        Ratios that are averaged over.
    """
    m = len(y)
    projected = left.T @ y
    unexplained = np.maximum((y**2).sum(axis=0) - (projected**2).sum(axis=0), 0.0)
    etas = signal_to_noise / np.mean(singular**2)
    spread = 1.0 + etas[:, None] * singular**2
    noise = unexplained + np.einsum("er,rk->ek", 1.0 / spread, projected**2)
    noise = np.maximum(noise, np.finfo(float).tiny) / m
    log_evidence = -0.5 * (m * np.log(noise) + np.log(spread).sum(axis=1)[:, None])
    evidence = np.exp(log_evidence - log_evidence.max(axis=0))
    evidence /= evidence.sum(axis=0)
    # Moments of the mixture, in the coordinates of the right singular vectors.
    gain = etas[:, None] * singular / spread
    mean_gain = evidence.T @ gain  # (K, r)
    centre = mean_gain.T * projected
    variance = noise * (m / (m - 2.0)) * evidence
    seen = right**2 @ ((etas[:, None] / spread).T @ variance)
    unseen = np.maximum(prior - (right**2).sum(axis=1), 0.0)[:, None]
    between = np.zeros((len(right), y.shape[1]))
    for e in range(len(etas)):
        gap = right @ ((gain[e][:, None] - mean_gain.T) * projected)
        between += evidence[e] * gap**2
    total = seen + unseen * (etas @ variance) + between
    return right @ centre, np.sqrt(total)
