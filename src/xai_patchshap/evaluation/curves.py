"""Metrics of one attribution map against one game: curves, their areas, and IoU.

The curves are those of RISE (Petsiuk, Das & Saenko, BMVC 2018): elements, pixels or
players, enter (insertion) or leave (deletion) by descending attribution. The clipped and
adjusted areas and the error of the explanation along the curve are those of ShapBPT
(Rashid et al., AAAI 2026, arXiv 2602.07047). A game is any callable from coalitions, bool
(m, n), to values (m,); nothing here knows of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._typing import Floats
from ..errors import bad
from ..models.outputs import one_score_each

__all__ = ["Curve", "IoU", "deletion_curve", "insertion_curve", "masker_game", "max_iou"]

GameLike = Callable[[NDArray[np.bool_]], Any]

_FORMS = ("plain", "clipped", "adjusted")
_RULES = ("trapezoid", "midpoint")
_TIES = ("together", "random")
_BATCH_SIZE = 64
_ROUNDING = 1e-9  # what cumulative sums leave of an equality of shares


@dataclass(frozen=True)
class Curve:
    """Values of a game along an insertion or deletion curve.

    Attributes
    ----------
    fractions : ndarray of float64, shape (m,)
        Share of the elements shown (insertion) or removed (deletion), increasing: from 0
        to 1 for the trapezoid rule, the centres of m equal cells for the midpoint rule.
    values : ndarray of float64, shape (m,)
        The game's values there.
    predicted : ndarray of float64, shape (m,)
        What the explanation predicts there: ``base_value`` plus the attributions shown.
    base_value, full_value : float
        Value of the empty and of the full coalition.
    kind : {"insertion", "deletion"}
        Which curve this is.
    rule : {"trapezoid", "midpoint"}
        How it is integrated.

    Examples
    --------
    >>> curve = insertion_curve(lambda shown: shown @ [1.0, 3.0], [1.0, 3.0])
    >>> curve.fractions, curve.values
    (array([0. , 0.5, 1. ]), array([0., 3., 4.]))
    >>> curve.auc(), curve.auc(rescaled=True), curve.mae()
    (2.5, 0.625, 0.0)
    """

    fractions: Floats
    values: Floats
    predicted: Floats
    base_value: float
    full_value: float
    kind: str
    rule: str

    def auc(self, form: str = "plain", rescaled: bool = False) -> float:
        """Area under the curve.

        Parameters
        ----------
        form : {"plain", "clipped", "adjusted"}
            ``"plain"`` integrates the values as they are (RISE). ``"clipped"`` clips them
            to the range of ``base_value`` and ``full_value``; ``"adjusted"`` mirrors what
            overshoots the range back into it, as a penalty, up to its other end. Both
            then count from ``base_value`` in the direction of ``full_value``,
            ``(y - base) * sign(full - base)``, so that the area is at least 0.
        rescaled : bool
            Integrate ``(y - base) / (full - base)`` instead, for any form.

        Returns
        -------
        float
            In the units of the game, or without a unit where ``rescaled``. High is good
            for insertion, low for deletion; for the plain form only if ``full > base``.

        Raises
        ------
        PatchShapError
            If the form is unknown, or ``full_value == base_value`` in anything but the
            plain area, where direction and scale are undefined.
        """
        if form not in _FORMS:
            raise bad("form", repr(form), f"one of {_FORMS}")
        if form == "plain" and not rescaled:
            return self._area(self.values)
        base, gap = self.base_value, self.full_value - self.base_value
        if gap == 0:
            raise bad(
                f"{'rescaled' if rescaled else form} curve",
                f"{base:g} for both the empty and the full coalition",
                "two different values; without a range the rescaled curve is undefined",
                "Use auc('plain'), or leave such an image out.",
            )
        low, high = min(base, self.full_value), max(base, self.full_value)
        y = self.values
        if form == "adjusted":
            y = y - 2.0 * np.maximum(0.0, y - high) + 2.0 * np.maximum(0.0, low - y)
        if form != "plain":
            y = np.clip(y, low, high)
        return self._area((y - base) / (gap if rescaled else np.sign(gap)))

    def mae(self) -> float:
        """Integral of ``|values - predicted|`` over the fractions, in units of the game.

        The trapezoid rule adds the errors at both ends of each interval (the published
        notebook of ShapBPT subtracts them, by mistake).
        """
        return self._area(np.abs(self.values - self.predicted))

    def mse(self) -> float:
        """Integral of ``(values - predicted)**2``, likewise, in squared units of the game."""
        return self._area((self.values - self.predicted) ** 2)

    def _area(self, y: Floats) -> float:
        if self.rule == "midpoint":
            return float(y.mean())
        # np.trapezoid came with numpy 2, which also dropped np.trapz.
        return float(np.sum(np.diff(self.fractions) * (y[1:] + y[:-1])) / 2.0)


def insertion_curve(
    game: GameLike,
    attribution: ArrayLike,
    *,
    steps: int = 100,
    rule: str = "trapezoid",
    ties: str | None = None,
    seed: int = 0,
    weights: ArrayLike | None = None,
    batch_size: int | None = None,
) -> Curve:
    """Values of the game as the elements enter by descending attribution.

    Parameters
    ----------
    game : callable
        Maps coalitions, bool (m, n), to values (m,) or (m, 1).
    attribution : array_like of any shape
        One number for each of the n elements, in C order: a pixel map (H, W) or player
        values (n,), in the units of the game.
    steps : int
        The curve is sampled at the shares k / steps, k = 0..steps (trapezoid), or
        (k + 1/2) / steps, k = 0..steps - 1 (midpoint).
    rule : {"trapezoid", "midpoint"}
        ``"trapezoid"`` shows the fewest elements that reach a share, reports their true
        share, and drops duplicates, which arise where steps > n. ``"midpoint"`` shows the
        number of elements nearest to the share (of two, the even one), stands for the
        whole cell with it, and spends two more evaluations on the ends.
    ties : {"together", "random"}, optional
        Whether elements of equal attribution enter together, or one by one in an order
        drawn from ``seed``. By default together for the trapezoid rule; the midpoint rule
        has equal cells, which needs ``"random"``, its default.
    seed : int
        Seed of the order of ties; not used where they enter together.
    weights : array_like of n numbers > 0, optional
        Sizes of the elements, such as areas of players in pixels. Shares are shares of
        their sum; by default all are equal.
    batch_size : int, optional
        Most coalitions in one call of ``game``, and in memory; 64 by default.

    Raises
    ------
    PatchShapError
        If an argument is not as above, or the game's output has another shape or is not
        finite.

    Examples
    --------
    >>> import numpy as np
    >>> both = lambda shown: shown[:, :2].all(axis=1)  # a game that needs two players
    >>> curve = insertion_curve(both, [0.5, 0.5, 0.0, 0.0], ties="random")
    >>> curve.values, curve.predicted
    (array([0., 0., 1., 1., 1.]), array([0. , 0.5, 1. , 1. , 1. ]))
    >>> curve.auc(), curve.mae()
    (0.625, 0.125)
    """
    flat = _finite("attribution", attribution).ravel()
    n = len(flat)
    if not n:
        raise bad("attribution", f"shape {np.shape(attribution)}", "at least one element")
    if steps != int(steps) or steps < 1:
        raise bad("steps", steps, "a whole number of at least 1")
    if rule not in _RULES:
        raise bad("rule", repr(rule), f"one of {_RULES}")
    if ties is None:
        ties = "together" if rule == "trapezoid" else "random"
    if ties not in _TIES:
        raise bad("ties", repr(ties), f"one of {_TIES}")
    if rule == "midpoint" and ties == "together":
        raise bad(
            "ties",
            "'together' with the midpoint rule",
            "'random', since elements that enter together would break its equal cells",
            "Use rule='trapezoid' to keep ties together.",
        )
    batch_size = _BATCH_SIZE if batch_size is None else batch_size
    if batch_size < 1:
        raise bad("batch size", batch_size, "at least 1")

    shuffled = np.random.default_rng(seed).permutation(n) if ties == "random" else np.arange(n)
    order = shuffled[np.argsort(-flat[shuffled], kind="stable")]
    reached = _cumulative(np.ones(n) if weights is None else _weights(weights, n)[order])
    reached /= reached[-1]
    if rule == "trapezoid":
        sizes = np.searchsorted(reached, np.arange(steps + 1) / steps - _ROUNDING)
        sizes[-1] = n  # even where the last weights are lost to rounding
        if ties == "together":
            last = np.searchsorted(-flat[order], -flat[order], side="right")
            sizes = np.concatenate([[0], last])[sizes]
        sizes = np.unique(sizes)
        fractions = reached[sizes]
    else:
        fractions = (np.arange(steps) + 0.5) / steps
        sizes = _nearest(reached, fractions)

    distinct, place = np.unique(np.concatenate([[0, n], sizes]), return_inverse=True)
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    found = np.empty(len(distinct))
    for start in range(0, len(distinct), batch_size):
        some = slice(start, start + batch_size)
        shown = rank < distinct[some, None]
        found[some] = one_score_each("game", game(shown), len(shown))
    base, full, values = float(found[place[0]]), float(found[place[1]]), found[place[2:]]
    predicted = base + _cumulative(flat[order])[sizes]
    return Curve(fractions, values, predicted, base, full, "insertion", rule)


def deletion_curve(
    game: GameLike,
    attribution: ArrayLike,
    *,
    steps: int = 100,
    rule: str = "trapezoid",
    ties: str | None = None,
    seed: int = 0,
    weights: ArrayLike | None = None,
    batch_size: int | None = None,
) -> Curve:
    """Values of the game as the elements leave by descending attribution.

    Parameters, errors and order are those of :func:`insertion_curve`; the fractions are
    shares of what is removed, and the curve starts from the full coalition.

    Examples
    --------
    >>> curve = deletion_curve(lambda shown: shown @ [1.0, 3.0], [1.0, 3.0])
    >>> curve.values, curve.auc()
    (array([4., 1., 0.]), 1.5)
    """
    # What is removed enters the complementary game, whose empty coalition is our full one.
    entering = insertion_curve(
        lambda removed: game(~removed),
        attribution,
        steps=steps,
        rule=rule,
        ties=ties,
        seed=seed,
        weights=weights,
        batch_size=batch_size,
    )
    base, full = entering.full_value, entering.base_value
    left = np.sum(np.asarray(attribution, dtype=np.float64)) - (entering.predicted - full)
    return replace(
        entering, predicted=base + left, base_value=base, full_value=full, kind="deletion"
    )


def _cumulative(x: Floats) -> Floats:
    """Sums of the first 0..n elements."""
    return np.concatenate([[0.0], np.cumsum(x)])


def _nearest(reached: Floats, fractions: Floats) -> NDArray[np.int64]:
    """Number of elements whose share is nearest; of two, the even one.

    With n = steps every centre lies halfway. Rounding all of them up would move the whole
    curve by half a cell; to even, the errors cancel.
    """
    above = np.maximum(np.searchsorted(reached, fractions), 1)
    nearer = (reached[above] - fractions) - (fractions - reached[above - 1])
    down = np.where(np.abs(nearer) <= _ROUNDING, above % 2 == 1, nearer > 0)
    return np.asarray(above - down, dtype=np.int64)


def _finite(what: str, given: ArrayLike) -> Floats:
    array = np.asarray(given, dtype=np.float64)
    if not np.isfinite(array).all():
        raise bad(what, "NaN or infinite numbers", "finite numbers")
    return array


def _weights(given: ArrayLike, n: int) -> Floats:
    weights = _finite("weights", given)
    if weights.size != n:
        raise bad("weights", f"shape {weights.shape}", f"one for each of the {n} elements")
    if weights.min() <= 0:
        raise bad("weights", f"the weight {weights.min():g}", "numbers above 0")
    # Against the largest: equal weights of any size then sum as exactly as ones.
    return np.asarray(weights.ravel() / weights.max())


class IoU(NamedTuple):
    """The largest intersection over union of a thresholded map.

    Attributes
    ----------
    iou : float
        In [0, 1].
    threshold : float
        The attributions ``>= threshold`` give it; the highest such one.
    """

    iou: float
    threshold: float


def max_iou(attribution: ArrayLike, truth: ArrayLike) -> IoU:
    """Largest IoU of ``attribution >= t`` with the truth, over every threshold t.

    Exact over all distinct attributions, in O(n log n).

    Parameters
    ----------
    attribution : array_like of any shape
        One finite number per element.
    truth : array_like of the same shape
        Bool, or numbers of which all but 0 are true, such as 0 and 255; some must be.

    Raises
    ------
    PatchShapError
        If the shapes differ, a number is not finite, or nothing is true.

    Examples
    --------
    >>> max_iou([[0.9, 0.4], [0.5, 0.1]], [[1, 1], [0, 0]])
    IoU(iou=0.6666666666666666, threshold=0.4)
    """
    scores, true = _finite("attribution", attribution), _finite("truth", truth) != 0
    if true.shape != scores.shape:
        raise bad("truth", f"shape {true.shape}", f"{scores.shape}, that of the attribution")
    if not true.any():
        raise bad("truth", "no true element", "at least one, as the union may be empty otherwise")
    order = np.argsort(-scores, axis=None, kind="stable")
    ranked = scores.ravel()[order]
    hits = np.cumsum(true.ravel()[order])
    iou = hits / (np.arange(1, len(hits) + 1) + hits[-1] - hits)
    # A threshold takes all equal attributions or none: only the last of each counts.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    best = ends[np.argmax(iou[ends])]
    return IoU(float(iou[best]), float(ranked[best]))


def masker_game(
    predict: Callable[[NDArray[Any]], Any],
    image: ArrayLike,
    background: ArrayLike,
    *,
    pixel_axes: tuple[int, int] = (0, 1),
) -> Callable[[NDArray[np.bool_]], Floats]:
    r"""Game over the pixels of one image, hidden by putting a background in their place.

    Parameters
    ----------
    predict : callable
        Maps images (B, \*image.shape), of the image's dtype, to values (B,) or (B, 1).
    image : array_like, shape (H, W, C), (C, H, W) or (H, W)
        The image, in the units that ``predict`` takes.
    background : array_like
        Broadcast to the image's shape; with one axis more, (S, \*image.shape), a set of
        backgrounds over which the values are averaged.
    pixel_axes : tuple of int
        Axes of rows and columns in ``image``, ascending: (0, 1) for channels last or
        none, (1, 2) for channels first.

    Returns
    -------
    callable
        Maps coalitions, bool (m, H * W), to values (m,), in S calls of ``predict`` on m
        images each.

    Raises
    ------
    PatchShapError
        If an argument is not as above, or the image's dtype cannot hold the background.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(12.0).reshape(2, 2, 3)
    >>> game = masker_game(lambda x: x.sum(axis=(1, 2, 3)), image, 0.0)
    >>> game(np.array([[False, False, False, True], [True, True, True, True]]))
    array([30., 66.])
    """
    pixels = np.asarray(image)
    if not _finite("image", pixels).size:
        raise bad("image", f"shape {pixels.shape}", "at least one pixel")
    axes = [a + pixels.ndim if a < 0 else a for a in pixel_axes]
    if len(axes) != 2 or not 0 <= axes[0] < axes[1] < pixels.ndim:
        raise bad(
            "pixel_axes",
            f"{pixel_axes} for an image of shape {pixels.shape}",
            "two ascending axes of the image",
            "Use (0, 1) for channels last and (1, 2) for channels first.",
        )
    given = _finite("background", background)
    lead = (len(given),) if given.ndim == pixels.ndim + 1 else (1,)
    try:
        stack = np.broadcast_to(given, (*lead, *pixels.shape))
    except ValueError:
        stack = given[:0]
    if not stack.size:
        raise bad(
            "background",
            f"shape {given.shape}",
            f"one that broadcasts to {pixels.shape}, or a set (S, *{pixels.shape}) of them",
        )
    with np.errstate(invalid="ignore"):
        hidden = stack.astype(pixels.dtype)
    if pixels.dtype.kind != "f" and (hidden != stack).any():
        raise bad(
            "background",
            f"numbers that {pixels.dtype} cannot hold",
            "numbers of the image's dtype",
            "Round them, or convert the image to float.",
        )
    size = (pixels.shape[axes[0]], pixels.shape[axes[1]])
    mask_shape = [s if a in axes else 1 for a, s in enumerate(pixels.shape)]

    def game(coalitions: NDArray[np.bool_]) -> Floats:
        shown = np.asarray(coalitions, dtype=bool)
        if shown.ndim != 2 or shown.shape[1] != size[0] * size[1]:
            raise bad("coalitions", f"shape {shown.shape}", f"(m, {size[0] * size[1]}) for pixels")
        mask = shown.reshape(len(shown), *mask_shape)
        total = np.zeros(len(shown))
        for one in hidden:
            total += one_score_each("predict", predict(np.where(mask, pixels, one)), len(shown))
        return total / len(hidden)

    return game
