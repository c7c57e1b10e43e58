"""The parameters of the Gaussian process that suit a game best, by marginal likelihood.

The strengths, the variances of the linear and of the rough part, and the flare maximise the
marginal likelihood of the first pairs, with weak priors; the strengths are kept near each other.
Outputs of one model share them. See :mod:`.kernel` for their meaning.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from ..._typing import Floats
from ..units import root_mean_square
from .kernel import flare_slope, kernel, own

__all__ = ["LEARN_FROM_OUTPUTS", "learned", "negative_evidence"]

# Pairs that the strengths are learned from: more cost time and change little.
_LEARN_FROM = 256
LEARN_FROM_OUTPUTS = 16
_ITERATIONS = 25
_FEWEST = 4  # pairs below which nothing is learned
# Priors: means and deviations, of logarithms but for the flare.
_STRENGTH = 6.0  # sum of the strengths of all players
_LEVEL = 0.5  # of the mean strength about _STRENGTH / n
_SPREAD = 0.7  # of a player's strength about the mean of all
_LINEAR = (0.0, 1.5)
_NOISE = (np.log(0.1), 2.0)
_FLARE = (0.5, 0.7)
_FLARE_FROM = 1.5  # pairs per player from which the flare is learned
_OTHERS = (_LINEAR, _NOISE, _NOISE, _FLARE, _FLARE)  # what follows the strengths
_BOUNDS = [(-9.0, 9.0), (-16.0, 3.0), (-16.0, 3.0)]
_FLARES = (-1.0, 6.0)  # of the ends, from half to six times as much


def learned(signs: Floats, odd: Floats, even: Floats, units: Floats | None = None) -> Floats:
    """Parameters (n + 5,) of both halves that suit the outputs of a model best.

    The outputs of most variance count, in the proportions of their deviations: what one
    class depends on, others often do.

    Parameters
    ----------
    signs : ndarray (p, n)
        One coalition of each pair, in {-1, 1}; the first row is the full coalition.
    odd, even : ndarray (p, K)
        Values of the halves; the first of ``even`` is 0, its constant taken out.
    units : ndarray (K,), optional
        What one stands for in the values of each output; by default the same for all.
    """
    n = signs.shape[1]
    theta = np.full(n + 5, np.log(_STRENGTH / n))
    theta[n:] = *(mean for mean, _ in _OTHERS[:3]), 0.0, 0.0
    scales = [root_mean_square(y) for y in (odd, even)]
    sizes = np.hypot(*scales)
    if units is not None:
        sizes *= units / units.max()
    if len(signs) < 1 + _FEWEST or not sizes.any():
        return theta
    most = np.argsort(-sizes, kind="stable")[:LEARN_FROM_OUTPUTS]
    share = sizes[most] / sizes[most[0]]
    halves = []
    for y, scale in zip((odd, even), scales, strict=True):
        unit = np.where(scale > 0, scale, 1.0)
        halves.append(((y / unit)[: 1 + _LEARN_FROM, most], share * (scale > 0)[most]))
    # Strengths far below the start would leave the even half nothing but its constant.
    strengths = [(np.log(2.0 / n) - 3.5, 1.5)] * n
    flat, free = [(0.0, 0.0)] * 2, [_FLARES] * 2
    # The flare comes last, or the search can end far from the best; too few pairs cannot tell
    # how the scale depends on size.
    for flares in [flat, free] if len(signs) > 1 + _FLARE_FROM * n else [flat]:
        theta = minimize(
            lambda t: negative_evidence(t, signs[: 1 + _LEARN_FROM], *halves),
            theta,
            jac=True,
            method="L-BFGS-B",
            bounds=[*strengths, *_BOUNDS, *flares],
            options={"maxiter": _ITERATIONS},
        ).x
    return theta


def negative_evidence(
    theta: Floats, signs: Floats, odd: tuple[Floats, Floats], even: tuple[Floats, Floats]
) -> tuple[float, Floats]:
    """Negative logarithm of both halves' marginal likelihood times the prior; its gradient.

    A half is values (p, K) and the weights (K,) of the outputs, which stand for one game.
    """
    n = signs.shape[1]
    # The prior: strengths are near each other, and all else is not extreme.
    level = theta[:n].mean()
    away, above = theta[:n] - level, level - np.log(_STRENGTH / n)
    value = 0.5 * float(away @ away) / _SPREAD**2 + 0.5 * above**2 / _LEVEL**2
    gradient = np.zeros_like(theta)
    gradient[:n] = away / _SPREAD**2 + above / _LEVEL**2 / n
    for place, (mean, deviation) in zip(range(n, n + 5), _OTHERS, strict=True):
        value += 0.5 * (theta[place] - mean) ** 2 / deviation**2
        gradient[place] += (theta[place] - mean) / deviation**2
    for is_odd, (y, weights) in ((True, odd), (False, even)):
        mine = own(n, is_odd)
        if weights.any():
            part, slope = _half_evidence(theta[mine], signs, y, weights / weights.sum(), is_odd)
            value += part
            gradient[mine] += slope
    return float(value), gradient


def _half_evidence(
    theta: Floats, signs: Floats, y: Floats, weights: Floats, odd: bool
) -> tuple[float, Floats]:
    """Negative logarithm of one half's marginal likelihood, and its gradient."""
    p, n = signs.shape
    covariance, (f, slope, ratio, scales) = kernel(theta, signs, odd)
    try:
        factor = cho_factor(covariance, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 1e25, np.zeros_like(theta)
    inverse = cho_solve(factor, np.eye(p), check_finite=False)
    alpha = inverse @ y
    amplitude = np.maximum(np.einsum("pk,pk->k", y, alpha) / p, np.finfo(float).tiny)
    value = 0.5 * p * (weights @ np.log(amplitude)) + np.log(np.diag(factor[0])).sum()
    # d value = 1/2 tr(gap dK)
    gap = inverse - (alpha * (weights / amplitude)) @ alpha.T
    gradient = np.zeros_like(theta)
    c, linear, noise = np.exp(theta[:n]), np.exp(theta[n]), np.exp(theta[n + 1])
    smooth = gap * scales
    both = (((smooth * slope) @ signs) * signs).sum(axis=0)
    gradient[:n] = 0.25 * c * (both - ratio * (smooth * f).sum())
    of_scales = f
    if odd:
        share = c / c.sum()
        of_players = ((smooth @ signs) * signs).sum(axis=0)
        gradient[n] = 0.5 * linear * (share @ of_players)
        gradient[:n] += 0.5 * linear * share * (of_players - share @ of_players)
        of_scales = f + linear * ((signs * share) @ signs.T)
    gradient[n + 1] = 0.5 * noise * (np.trace(gap) - gap[0, 0])
    by_row = (smooth * of_scales).sum(axis=1)
    gradient[n + 2] = by_row @ flare_slope(signs.mean(axis=1), float(theta[n + 2]))
    return float(value), gradient
