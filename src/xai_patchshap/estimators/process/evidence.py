r"""The kernel of the Gaussian process over coalitions, and its parameters.

Vectors of parameters hold, for n players, the logarithms of the n strengths, of the variance of
the linear part and of that of the rough part, and the flare; what both halves of a game share
comes once, and then what each has of its own: see :func:`own`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

__all__ = [
    "LEARN_FROM_OUTPUTS",
    "covariance",
    "flared",
    "kernel",
    "learned",
    "negative_evidence",
    "own",
    "root_mean_square",
]

Floats = NDArray[np.float64]

# Pairs that the strengths are learned from: more cost time and change little.
_LEARN_FROM = 256
LEARN_FROM_OUTPUTS = 16
_ITERATIONS = 25
_FEWEST = 4  # pairs below which nothing is learned
_JITTER = 1e-9
_ENTRIES = 2**20  # of the kernel that are computed at once
_CONSTANT = 100.0  # prior variance of the even half's constant, that of the rest being 1
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
_USUAL = 0.3  # mean square of the mean sign where the flare changes nothing


def own(n: int, odd: bool) -> NDArray[np.intp]:
    """Which of the parameters of both halves are those of one."""
    places: NDArray[np.intp] = np.r_[0 : n + 1, (n + 1, n + 3) if odd else (n + 2, n + 4)]
    return places


def root_mean_square(y: Floats) -> Floats:
    """Of every column, without overflow or underflow of the squares."""
    largest = np.abs(y).max(axis=0)
    unit = np.where(largest > 0, largest, 1.0)
    root: Floats = unit * np.sqrt(np.mean(np.square(y / unit), axis=0))
    return root


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


def flared(mean_sign: Floats, flare: float) -> Floats:
    """Scale of the game at coalitions of a size: cosh(sqrt(flare) u), or the cosine."""
    root = np.sqrt(abs(flare))
    even = np.cosh if flare > 0 else np.cos
    scale: Floats = even(root * mean_sign) / even(root * np.sqrt(_USUAL))
    return scale


def _flare_slope(mean_sign: Floats, flare: float) -> Floats:
    """Derivative of the logarithm of the scale by the flare."""
    root = np.sqrt(abs(flare))
    tangent = np.tanh if flare > 0 else np.tan

    def slope(u: Floats) -> Floats:
        return u**2 / 2 if abs(flare) < 1e-8 else u * tangent(root * u) / (2 * root)

    difference: Floats = slope(mean_sign) - slope(np.array(np.sqrt(_USUAL)))
    return difference


def kernel(
    theta: Floats, signs: Floats, odd: bool
) -> tuple[Floats, tuple[Floats, Floats, float, Floats]]:
    """The kernel with its noise; and, for the gradient, f, f', their ratio, and the scales."""
    matrix, for_gradient = _smooth(theta, signs, signs, odd)
    _add_noise(matrix, theta)
    return matrix, for_gradient


def covariance(theta: Floats, signs: Floats, odd: bool) -> Floats:
    """The kernel alone, without further matrices of its size."""
    matrix = np.empty((len(signs), len(signs)))
    step = max(1, _ENTRIES // len(signs))
    for start in range(0, len(signs), step):
        rows = slice(start, start + step)
        matrix[rows] = _smooth(theta, signs[rows], signs, odd)[0]
    _add_noise(matrix, theta)
    return matrix


def _add_noise(matrix: Floats, theta: Floats) -> None:
    diagonal = np.arange(len(matrix))
    matrix[diagonal[1:], diagonal[1:]] += np.exp(theta[-2])
    matrix[diagonal, diagonal] += _JITTER


def _smooth(
    theta: Floats, signs: Floats, others: Floats, odd: bool
) -> tuple[Floats, tuple[Floats, Floats, float, Floats]]:
    """Kernel of some pairs with others but for its noise, and what its gradient needs."""
    n = signs.shape[1]
    c, linear = np.exp(theta[:n]), np.exp(theta[n])
    scales = np.outer(*(flared(some.mean(axis=1), float(theta[n + 2])) for some in (signs, others)))
    half = c.sum() / 2
    exponent = (signs * (c / 2)) @ others.T
    up, down = np.exp(exponent - half), np.exp(-exponent - half)
    ends = 1.0 - np.exp(-2 * half) if odd else 1.0 + np.exp(-2 * half)
    other = 2.0 - ends
    f, slope = ((up - down) / ends, (up + down) / ends)
    if not odd:
        f, slope = slope, f
    linear_part = 2 * linear / c.sum() * exponent if odd else 0.0
    matrix = scales * (f + linear_part) + (0.0 if odd else _CONSTANT)
    return matrix, (f, slope, other / ends, scales)


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
    gradient[n + 2] = by_row @ _flare_slope(signs.mean(axis=1), float(theta[n + 2]))
    return float(value), gradient
