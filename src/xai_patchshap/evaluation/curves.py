"""Insertion and deletion curves of one attribution map against one game.

The curves are those of RISE (Petsiuk, Das & Saenko, BMVC 2018): elements, pixels or
players, enter (insertion) or leave (deletion) by descending attribution. The clipped and
adjusted areas and the error of the explanation along the curve are those of ShapBPT
(Rashid et al., AAAI 2026, arXiv 2602.07047). A game is any callable from coalitions, bool
(m, n), to values (m,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._typing import Bools, Floats
from .._validation import one_of, whole
from ..errors import bad
from ..models.outputs import one_score_each
from .checks import GameLike, finite_array

__all__ = ["Curve", "CurvePlan", "deletion_curve", "insertion_curve"]

_FORMS = ("plain", "clipped", "adjusted")
_RULES = ("trapezoid", "midpoint")
_TIES = ("together", "random")
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
        one_of(*_FORMS)("form", form)
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
    batch_size: int = 64,
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
    batch_size : int
        Most coalitions in one call of ``game``, and in memory.

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
    plan = CurvePlan.of(attribution, steps, rule, ties, seed, weights)
    return plan.insertion(_values(plan, game, batch_size))


def deletion_curve(
    game: GameLike,
    attribution: ArrayLike,
    *,
    steps: int = 100,
    rule: str = "trapezoid",
    ties: str | None = None,
    seed: int = 0,
    weights: ArrayLike | None = None,
    batch_size: int = 64,
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
    plan = CurvePlan.of(attribution, steps, rule, ties, seed, weights)
    return plan.deletion(_values(plan, lambda removed: game(~removed), batch_size), attribution)


def _values(plan: CurvePlan, game: GameLike, batch_size: int) -> Floats:
    size = whole(1)("batch_size", batch_size)
    found = np.empty(len(plan))
    for start in range(0, len(plan), size):
        some = slice(start, start + size)
        shown = plan.coalitions(some)
        found[some] = one_score_each("game", game(shown), len(shown))
    return found


@dataclass(frozen=True)
class CurvePlan:
    """The coalitions of a curve, before their values are known."""

    rank: NDArray[np.int64]
    distinct: NDArray[np.int64]
    place: NDArray[np.intp]
    fractions: Floats
    sums: Floats
    rule: str

    @classmethod
    def of(
        cls,
        attribution: ArrayLike,
        steps: int = 100,
        rule: str = "trapezoid",
        ties: str | None = None,
        seed: int | Sequence[int] = 0,
        weights: ArrayLike | None = None,
    ) -> CurvePlan:
        """The plan of :func:`insertion_curve`, whose parameters these are."""
        flat = finite_array("attribution", attribution).ravel()
        n = len(flat)
        if not n:
            raise bad("attribution", f"shape {np.shape(attribution)}", "at least one element")
        whole(1)("steps", steps)
        ties = _check_ties(rule, ties)
        drawn = ties == "random"
        shuffled = np.random.default_rng(seed).permutation(n) if drawn else np.arange(n)
        order = shuffled[np.argsort(-flat[shuffled], kind="stable")]
        reached = _cumulative(np.ones(n) if weights is None else _weights(weights, n)[order])
        reached /= reached[-1]
        if rule == "trapezoid":
            sizes = np.searchsorted(reached, np.arange(steps + 1) / steps - _ROUNDING)
            sizes[-1] = n  # even where the last weights are lost to rounding
            if not drawn:
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
        return cls(rank, distinct, place, fractions, _cumulative(flat[order])[sizes], rule)

    def __len__(self) -> int:
        return len(self.distinct)

    def coalitions(self, some: slice = slice(None)) -> Bools:
        """What is shown, bool (m, n); for the curve of a deletion, what is removed."""
        return np.asarray(self.rank < self.distinct[some, None])

    def insertion(self, values: Floats) -> Curve:
        """The curve of the values of all coalitions."""
        base, full = float(values[self.place[0]]), float(values[self.place[1]])
        along = values[self.place[2:]]
        return Curve(self.fractions, along, base + self.sums, base, full, "insertion", self.rule)

    def deletion(self, values: Floats, attribution: ArrayLike) -> Curve:
        """The curve of the values of the complements of all coalitions."""
        entering = self.insertion(values)
        base, full = entering.full_value, entering.base_value
        left = np.sum(np.asarray(attribution, dtype=np.float64)) - (entering.predicted - full)
        return replace(
            entering, predicted=base + left, base_value=base, full_value=full, kind="deletion"
        )


def _check_ties(rule: str, ties: str | None) -> str:
    """What happens to ties, by default what goes with the rule."""
    one_of(*_RULES)("rule", rule)
    if ties is None:
        return "together" if rule == "trapezoid" else "random"
    one_of(*_TIES)("ties", ties)
    if rule == "midpoint" and ties == "together":
        raise bad(
            "ties",
            "'together' with the midpoint rule",
            "'random', since elements that enter together would break its equal cells",
            "Use rule='trapezoid' to keep ties together.",
        )
    return ties


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


def _weights(given: ArrayLike, n: int) -> Floats:
    weights = finite_array("weights", given)
    if weights.size != n:
        raise bad("weights", f"shape {weights.shape}", f"one for each of the {n} elements")
    if weights.min() <= 0:
        raise bad("weights", f"the weight {weights.min():g}", "numbers above 0")
    # Against the largest: equal weights of any size then sum as exactly as ones.
    return np.asarray(weights.ravel() / weights.max())
