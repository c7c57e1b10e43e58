"""The interface of the estimators: coalitions out, values in, an estimate back.

An estimator knows no image, no model and no torch. It asks for coalitions, is told their values,
and estimates. Most name all their coalitions beforehand: such a :class:`Plan` supplies
``coalitions`` and turns the values of any prefix of them into an estimate, and
:class:`Planned` asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import bad

__all__ = ["Estimate", "Estimator", "Plan", "Planned", "check_values", "checked_prior"]

# With a tolerance, errors are looked at each time the sample has grown by this factor.
_GROWTH = 1.5


@dataclass(frozen=True)
class Estimate:
    """Attributions of one game, for all its outputs.

    Attributes
    ----------
    values : ndarray of float64, shape (n_players, n_outputs)
        One attribution per player and output, in the units of the game.
    error_std : ndarray of float64, shape (n_players, n_outputs)
        Standard error of each value, as far as the estimator can tell: 0 where the value is
        exact or the game was the same at every one of eight coalitions or more, infinite where
        nothing is known of the error.
    base_values, full_values : ndarray of float64, shape (n_outputs,)
        Value of the empty and of the full coalition.
    n_coalitions : int
        Number of coalitions whose values were used.
    exact : bool
        Whether every coalition that matters was evaluated.
    """

    values: NDArray[np.float64]
    error_std: NDArray[np.float64]
    base_values: NDArray[np.float64]
    full_values: NDArray[np.float64]
    n_coalitions: int
    exact: bool

    def __repr__(self) -> str:
        n, k = self.values.shape
        sure = "exact" if self.exact else f"largest error_std {self.error_std.max():.3g}"
        return f"Estimate({n:,} players, {k:,} outputs, {self.n_coalitions:,} coalitions, {sure})"


class Estimator(Protocol):
    """What the explainers ask of an estimator: the state of one game that is being played."""

    def ask(self, most: int) -> NDArray[np.bool_]:
        """The coalitions (m, n_players) wanted next, none when nothing is left to know.

        At most ``most`` of them; the full coalition, whose value is known, does not count.
        """
        ...

    def tell(self, values: NDArray[np.float64]) -> None:
        """Take the values (m', n_outputs) of the first ``m' <= m`` of them."""
        ...

    def estimate(self) -> Any:
        """The answer so far; a :class:`PatchShapError` where too little is known for any."""
        ...


class Plan(Protocol):
    """An estimator that names its coalitions beforehand.

    ``coalitions`` has shape (m, n_players); its first row is the empty coalition and its
    second the full one. ``min_coalitions`` rows are the least that give an estimate.
    """

    @property
    def coalitions(self) -> NDArray[np.bool_]: ...

    @property
    def min_coalitions(self) -> int: ...

    def estimate(self, values: NDArray[np.float64], *, n_guides: int = 0) -> Any:
        """Estimate from the values (m', n_outputs) of the first m' coalitions.

        The last ``n_guides`` outputs are not estimated; they may guide the estimate.
        """
        ...


class Planned:
    """A plan as an estimator that asks for its coalitions: all at once, or until errors are small.

    Parameters
    ----------
    plan : Plan
        Estimators of several games may share one.
    n_guides : int
        The last so many outputs are not estimated; they may guide the estimate.
    tolerance : float, optional
        Ask for no more once the largest standard error is at most this.

    Examples
    --------
    >>> from xai_patchshap.estimators import KernelShap
    >>> estimator = Planned(KernelShap(n_players=4, budget=10))
    >>> while len(coalitions := estimator.ask(100)):
    ...     estimator.tell(coalitions @ np.array([[1.0], [2.0], [3.0], [4.0]]))
    >>> estimator.estimate().values[:, 0].round(6).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """

    def __init__(self, plan: Plan, n_guides: int = 0, tolerance: float | None = None) -> None:
        self.plan = plan
        self._n_guides, self._tolerance = n_guides, tolerance
        self._stop = 0
        self._told: list[NDArray[np.float64]] = []
        self._answer: Any = None

    @property
    def n_coalitions(self) -> int:
        """Coalitions whose values are known."""
        return sum(map(len, self._told))

    def ask(self, most: int) -> NDArray[np.bool_]:
        known = self.n_coalitions
        if known == self._stop and self._is_unsure():
            self._stop = self._next_stop(known)
        # The full coalition, second of every plan, costs nothing.
        return self.plan.coalitions[known : min(self._stop, known + most + (not known))]

    def tell(self, values: NDArray[np.float64]) -> None:
        self._told.append(values)
        self._answer = None

    def estimate(self) -> Any:
        if self._answer is None:
            self._told = [np.concatenate(self._told)] if len(self._told) > 1 else self._told
            values = self._told[0] if self._told else np.zeros((0, 1))
            self._answer = self.plan.estimate(values, n_guides=self._n_guides)
        return self._answer

    def _is_unsure(self) -> bool:
        """Whether more coalitions than were asked for so far are wanted."""
        if not self._told or self._tolerance is None:
            return not self._told
        return bool(self.estimate().error_std.max() > self._tolerance)

    def _next_stop(self, known: int) -> int:
        """Coalitions after which to look at the errors next."""
        plan, most = self.plan, len(self.plan.coalitions)
        if self._tolerance is None:
            return most
        # The first look comes where least squares has data enough for honest errors.
        start = 4 * plan.coalitions.shape[1]
        return int(min(most, max(plan.min_coalitions, start, 2 * int(known * _GROWTH / 2))))


def check_values(
    values: NDArray[np.float64], most: int, least: int, n_guides: int = 0
) -> NDArray[np.float64]:
    """Return ``values`` as a float64 matrix, or raise if it does not fit the coalitions.

    The last ``n_guides`` outputs are left out.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or not least <= len(array) <= most:
        raise bad(
            "values",
            f"shape {np.shape(values)}",
            f"(m, n_outputs) with {least} <= m <= {most}, one row per coalition",
        )
    # Without a table of bools: values can fill most of the memory.
    if not (np.isfinite(array.min(initial=0.0)) and np.isfinite(array.max(initial=0.0))):
        raise bad("values", "NaN or infinite numbers", "finite numbers")
    return array[:, : array.shape[1] - n_guides]


def checked_prior(prior: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a copy of ``prior`` as a float64 matrix, or raise if it does not fit."""
    array = np.array(prior, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.shape != shape or not np.isfinite(array).all():
        raise bad("prior", f"shape {np.shape(prior)}", f"finite numbers of shape {shape}")
    return array
