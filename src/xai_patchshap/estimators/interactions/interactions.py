"""Interactions of every order, as one object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._typing import Floats
from ...errors import bad
from ..base import Estimate
from ..indices import bernoulli, check_index

__all__ = ["Interactions", "k_sii_of_sii", "subsets"]


@cache
def subsets(n_players: int, size: int) -> NDArray[np.int64]:
    """All subsets of a size, (C(n, size), size), in lexicographic order."""
    flat = (i for c in combinations(range(n_players), size) for i in c)
    rows = np.fromiter(flat, dtype=np.int64, count=comb(n_players, size) * size)
    rows = rows.reshape(-1, size)
    rows.flags.writeable = False  # shared by all who ask
    return rows


def k_sii_of_sii(sii: Sequence[Floats], n_players: int, of_errors: bool = False) -> list[Floats]:
    """The k-SII of the SII of all orders, ``sum_R B_|R| SII(S + R)``; or its standard errors.

    Errors are added as if they were independent.
    """
    power = 2 if of_errors else 1
    found = []
    for s in range(1, len(sii) + 1):
        total = sii[s - 1] ** power
        place = {tuple(u): i for i, u in enumerate(subsets(n_players, s).tolist())}
        for t in range(s + 1, len(sii) + 1):
            share = float(bernoulli(t - s)) ** power * sii[t - 1] ** power
            for inside in subsets(t, s):
                rows = [place[tuple(u)] for u in subsets(n_players, t)[:, inside].tolist()]
                np.add.at(total, rows, share)
        found.append(np.sqrt(total) if of_errors else total)
    return found


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions between the players of one game, for all its outputs.

    Attributes
    ----------
    index : str
        One of :data:`INDICES`.
    n_players : int
    values, error_std : tuple of ndarray of float64
        For each order s = 1, 2, ... an array (C(n_players, s), n_outputs), in the order of
        :meth:`subsets`, in the units of the game. Errors are 0 where values are exact and
        infinite where nothing is known of them.
    base_values, full_values : ndarray of float64, shape (n_outputs,)
        Value of the empty and of the full coalition.
    n_coalitions : int
        Number of coalitions whose values were used.
    exact : bool
        Whether every coalition was evaluated.

    Examples
    --------
    >>> import numpy as np
    >>> from xai_patchshap.estimators import interaction_estimator
    >>> estimator = interaction_estimator(3, budget=8, index="SII", order=2)
    >>> both = estimator.coalitions[:, 0] & estimator.coalitions[:, 2]
    >>> interactions = estimator.estimate(both.astype(float))
    >>> interactions.top(1, order=2)[0][0]  # the players
    (0, 2)
    >>> interactions[0, 2].round(6)
    array([1.])
    """

    index: str
    n_players: int
    values: tuple[Floats, ...]
    error_std: tuple[Floats, ...]
    base_values: Floats
    full_values: Floats
    n_coalitions: int
    exact: bool

    def __repr__(self) -> str:
        worst = max(float(error.max()) for error in self.error_std)
        return (
            f"Interactions({self.index} of order {self.order}, {self.n_players:,} players, "
            f"{self.n_outputs:,} outputs, {self.n_coalitions:,} coalitions, "
            f"{'exact' if self.exact else f'largest error_std {worst:.3g}'})"
        )

    @property
    def order(self) -> int:
        """The highest order."""
        return len(self.values)

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the game."""
        return len(self.base_values)

    def of_order_1(self) -> Estimate:
        """The values of the players themselves."""
        return Estimate(
            self.values[0],
            self.error_std[0],
            self.base_values,
            self.full_values,
            self.n_coalitions,
            self.exact,
        )

    def subsets(self, order: int) -> NDArray[np.int64]:
        """Players (C(n_players, order), order) of each interaction of an order."""
        self._check_order(order)
        return subsets(self.n_players, order)

    def __getitem__(self, players: Any) -> Floats:
        """Interaction (n_outputs,) of one or several players, by their numbers."""
        order, place = self._place(players)
        found: Floats = self.values[order - 1][place]
        return found

    def error_of(self, players: Any) -> Floats:
        """Standard error (n_outputs,) of ``self[players]``."""
        order, place = self._place(players)
        found: Floats = self.error_std[order - 1][place]
        return found

    def _place(self, players: Any) -> tuple[int, int]:
        """Order and row of some players' interaction."""
        chosen = tuple(players) if isinstance(players, Sequence | np.ndarray) else (players,)
        whole = all(isinstance(p, int | np.integer) for p in chosen)
        wanted = tuple(sorted(int(p) for p in chosen)) if whole else ()
        distinct = len(set(wanted)) == len(wanted) <= self.order
        if not distinct or not wanted or wanted[0] < 0 or wanted[-1] >= self.n_players:
            raise bad(
                "players",
                repr(players),
                f"1 to {self.order} different numbers of 0..{self.n_players - 1}",
            )
        # The number of subsets that come before in lexicographic order.
        n, size, place, last = self.n_players, len(wanted), 0, -1
        for i, player in enumerate(wanted):
            place += sum(comb(n - p - 1, size - i - 1) for p in range(last + 1, player))
            last = player
        return size, place

    def top(
        self, k: int = 10, order: int | None = None, output: int = 0
    ) -> list[tuple[tuple[int, ...], float]]:
        """The k strongest interactions of an order (or of all), as (players, value).

        ``output`` is a place among the outputs that were explained, 0..n_outputs - 1.
        """
        self._check_output(output)
        if not isinstance(k, int | np.integer) or k < 0:
            raise bad("k", repr(k), "a whole number of at least 0")
        orders = range(1, self.order + 1) if order is None else [order]
        found: list[tuple[tuple[int, ...], float]] = []
        for s in orders:
            self._check_order(s)
            column = self.values[s - 1][:, output]
            for place in np.argsort(-np.abs(column), kind="stable")[:k]:
                members = tuple(int(p) for p in self.subsets(s)[place])
                found.append((members, float(column[place])))
        return sorted(found, key=lambda item: -abs(item[1]))[:k]

    def matrix(self) -> Floats:
        """Pairs and main effects (n_players, n_players, n_outputs) as TreeExplainer gives them.

        Symmetric; half of a pair's interaction stands in each of its two places, the main
        effects on the diagonal. Where there are order 1 and 2 alone, each row of ``SII``,
        ``k-SII`` and ``BII`` adds up to the player's Shapley or Banzhaf value, for whose sake
        the diagonal of SII and BII is that value less half of the player's pairs. Rows of
        ``STII`` and ``FSII`` add up, all together, to the value of the full coalition less
        that of the empty one, each alone to no known value. Rows of ``FBII`` do neither.
        """
        main, pairs = self.values[0], self._pairs(self.values)
        table = pairs / 2
        diagonal = np.arange(self.n_players)
        overlapping = self.index in ("SII", "BII")
        table[diagonal, diagonal] = main - table.sum(axis=1) if overlapping else main
        return table

    def matrix_std(self) -> Floats:
        """Standard errors of :meth:`matrix`; of the diagonal, those of the order 1 values."""
        table = self._pairs(self.error_std) / 2
        diagonal = np.arange(self.n_players)
        table[diagonal, diagonal] = self.error_std[0]
        return table

    def _pairs(self, source: Sequence[Floats]) -> Floats:
        """Values of pairs in both their places of (n, n, K)."""
        table = np.zeros((self.n_players, self.n_players, self.n_outputs))
        if len(source) > 1:
            first, second = subsets(self.n_players, 2).T
            table[first, second] = table[second, first] = source[1]
        return table

    def save(self, file: str | Path) -> None:
        """Write an ``.npz`` file; :meth:`load` reads it back."""
        arrays = {f"values_{s}": v for s, v in enumerate(self.values, start=1)}
        arrays |= {f"error_std_{s}": e for s, e in enumerate(self.error_std, start=1)}
        with Path(file).open("wb") as stream:
            np.savez_compressed(
                stream,
                allow_pickle=False,
                index=self.index,
                n_players=self.n_players,
                base_values=self.base_values,
                full_values=self.full_values,
                n_coalitions=self.n_coalitions,
                exact=self.exact,
                **arrays,
            )

    @classmethod
    def load(cls, file: str | Path) -> Interactions:
        """Read what :meth:`save` wrote.

        Raises
        ------
        PatchShapError
            If the file is damaged or something else; ``FileNotFoundError`` if it is missing.
        """
        try:
            with Path(file).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                orders = range(1, sum(name.startswith("values_") for name in stored.files) + 1)
                loaded = cls(
                    str(stored["index"]),
                    int(stored["n_players"]),
                    tuple(stored[f"values_{s}"] for s in orders),
                    tuple(stored[f"error_std_{s}"] for s in orders),
                    stored["base_values"],
                    stored["full_values"],
                    int(stored["n_coalitions"]),
                    bool(stored["exact"]),
                )
        except FileNotFoundError:
            raise
        except Exception as error:  # numpy and zipfile raise whatever the damage leads to
            raise bad(
                "file", f"'{file}'", "an .npz file that Interactions.save wrote", f"({error})"
            ) from error
        check_index(loaded.index, loaded.order, loaded.n_players)
        k = loaded.n_outputs
        for s in range(1, loaded.order + 1):
            for table in (loaded.values[s - 1], loaded.error_std[s - 1]):
                if table.shape != (comb(loaded.n_players, s), k):
                    raise bad("file", f"values of shape {table.shape}", "one for each interaction")
        return loaded

    def to_shapiq(self, output: int = 0) -> Any:
        """The same as ``shapiq.InteractionValues``, for its plots.

        ``output`` is a place among the outputs that were explained, 0..n_outputs - 1.
        """
        self._check_output(output)
        try:
            import shapiq
        except ImportError as error:
            raise bad(
                "to_shapiq", "no module 'shapiq'", "it to be installed", "pip install shapiq"
            ) from error
        values = [self.base_values[output]]
        lookup: dict[tuple[int, ...], int] = {(): 0}
        for s, table in enumerate(self.values, start=1):
            for members, value in zip(self.subsets(s).tolist(), table[:, output], strict=True):
                lookup[tuple(members)] = len(values)
                values.append(value)
        return shapiq.InteractionValues(
            values=np.array(values),
            index=self.index,
            max_order=self.order,
            n_players=self.n_players,
            min_order=0,
            interaction_lookup=lookup,
            estimated=not self.exact,
            estimation_budget=self.n_coalitions,
            baseline_value=float(self.base_values[output]),
        )

    def _check_output(self, output: int) -> None:
        if not isinstance(output, int | np.integer) or not 0 <= output < self.n_outputs:
            most = self.n_outputs - 1
            raise bad("output", repr(output), f"0 to {most}, a place among those explained")

    def _check_order(self, order: int) -> None:
        if not isinstance(order, int | np.integer) or not 1 <= order <= self.order:
            raise bad("order", repr(order), f"1 to {self.order}")
