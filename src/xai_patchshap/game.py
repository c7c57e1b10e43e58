"""The game: values of coalitions, evaluated in batches that run across images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._arrays import as_array, as_tensor
from ._typing import Bools, Floats
from ._validation import check_memory, whole
from .errors import PatchShapError, bad, raised_by
from .masking.coalition_inputs import CoalitionInputs
from .models.outputs import as_scores, check_rows

__all__ = ["Game", "Request"]

# Batches that are sorted together; what is finished of them is lost when one is interrupted.
_WINDOW = 32
_ENTRIES = 2**20  # of values that the link is applied to at once

Forward = Callable[[tuple[Tensor, ...], Tensor], Any]


@dataclass(frozen=True)
class Request:
    """What a game needs, apart from the model.

    Attributes
    ----------
    inputs : CoalitionInputs
        The N examples and how they are masked.
    whole : Tensor (N, ...), optional
        What the model says of the whole inputs, where it was asked already: one evaluation of
        each example, which the game counts and does not repeat.
    columns : ndarray of int, shape (N, k), optional
        Outputs of each example that are kept, as indices of the outputs (B, ...) that are
        flattened behind their first axis; by default every column of outputs (B, K).
    n_guides : int
        The last so many of the columns are not explained; they guide estimators.
    link : callable, optional
        Applied to ``v(S)``, after the average over backgrounds.
    batch_size : int
        Most rows in one call of the model.
    by_size : bool
        Whether to evaluate coalitions of equal size together, for models that are faster so.
    every_output : bool
        Whether the columns that are explained are all outputs in their order.
    repeatable : bool
        Whether an equal request is the same game: whether the model sees nothing but ``inputs``.
    """

    inputs: CoalitionInputs
    whole: Tensor | None = None
    columns: NDArray[np.int64] | None = None
    n_guides: int = 0
    link: Callable[[Floats], Floats] | None = None
    batch_size: int = 64
    by_size: bool = False
    every_output: bool = False
    repeatable: bool = True

    @property
    def n_explained(self) -> int:
        """Number of outputs that are explained, where ``whole`` is known."""
        if self.columns is not None:
            return int(self.columns.shape[1]) - self.n_guides
        assert self.whole is not None
        return self.whole.numel() // len(self.whole)

    @property
    def explained(self) -> NDArray[np.int64] | None:
        """The outputs (N, k) that are explained; None for all of them in their order."""
        if self.columns is None or self.every_output:
            return None
        return self.columns[:, : self.columns.shape[1] - self.n_guides]


class Game:
    """Characteristic functions of the examples of one batch.

    ``v(S)`` of an example is the model's output when the players of S are shown and the
    others hidden, averaged over the backgrounds; every output at once. Coalitions of
    several examples fill one batch, and no more than one batch of masked inputs is in
    memory at a time.

    Parameters
    ----------
    forward : callable
        ``forward(inputs, examples)`` maps a tuple of batches (B, ...) and the index (B,)
        of the example behind each row to outputs (B, K) or (B,).
    request : Request
        The inputs, how they are masked, and what is asked of the outputs.
    progress : tqdm, optional
        A bar that is told of the evaluations.

    Attributes
    ----------
    full_values : ndarray (N, k), or None where the request has no ``whole``
        Values of the full coalitions.
    evaluations : ndarray of int, shape (N,)
        Model evaluations spent on each example so far.
    model_seconds : float
        Time spent inside ``forward``.
    interrupted : bool
        Whether Ctrl-C ended an evaluation early.
    """

    def __init__(self, forward: Forward, request: Request, progress: Any = None) -> None:
        # Of numpy, as uint8, it would overflow; and no batch is larger.
        self._batch_size = min(whole(1)("batch size", request.batch_size), 2**31)
        self.request = request
        self._forward, self._progress = forward, progress
        columns = request.columns
        self._columns = None if columns is None else torch.tensor(columns)
        n = request.inputs.n_examples
        self.evaluations = np.zeros(n, dtype=np.int64)
        self.model_seconds = 0.0
        self.interrupted = False
        self._n_outputs: int | None = None
        self.full_values: Floats | None = None
        if request.whole is not None:
            shown = np.full(n, max(request.inputs.n_players))
            self.full_values = self._linked(self._kept(request.whole, np.arange(n), shown))
            self.evaluations += 1

    @property
    def n_players(self) -> tuple[int, ...]:
        """Number of players of each example."""
        return self.request.inputs.n_players

    @property
    def n_outputs(self) -> int:
        """Number of outputs that are kept, of a game whose whole inputs are known."""
        assert self._width is not None
        return self._width

    def n_coalitions(self, i: int) -> int:
        """Coalitions of an example that were evaluated."""
        one = int(self.full_values is not None)  # whole inputs need no background
        return one + (int(self.evaluations[i]) - one) // self.request.inputs.n_backgrounds

    def evaluate(self, coalitions: Mapping[int, Bools]) -> dict[int, Floats]:
        """Values of the coalitions (m, n) asked for each example, (m, k).

        The examples advance side by side. When Ctrl-C interrupts, each gets the values of
        the coalitions that were finished, and :attr:`interrupted` is set. Full coalitions whose
        values are known are not evaluated again.
        """
        n_rows = sum(map(len, coalitions.values()))
        n_players, width = max(self.n_players), self._width or 1
        check_memory(
            "budget",
            f"{n_rows:,} evaluations of {n_players:,} players and {width:,} outputs",
            n_rows * (8 * width + n_players),
            "Lower it (n_samples= or max_evals=), or choose some outputs with outputs=.",
        )
        tables: dict[int, Floats] = {}
        if self._width is not None:
            tables = {i: np.zeros((len(c), self._width)) for i, c in coalitions.items()}
        todo = {i: self._unknown(c, i, tables) for i, c in coalitions.items()}
        finished = self._run(coalitions, todo, tables)
        values = {i: tables[i][: finished[i]] for i in coalitions}
        if self.request.link is not None:
            for i, part in values.items():
                rows = todo[i][todo[i] < len(part)]
                step = max(1, _ENTRIES // part.shape[1])
                for start in range(0, len(rows), step):
                    some = rows[start : start + step]
                    part[some] = self._linked(part[some])
        return values

    @property
    def _width(self) -> int | None:
        """Number of outputs that are kept, once it is known."""
        columns = self.request.columns
        return self._n_outputs if columns is None else columns.shape[1]

    def _unknown(self, coalitions: Bools, i: int, tables: dict[int, Floats]) -> NDArray[np.intp]:
        """Rows to evaluate; the values of the others are written into the example's table."""
        if self.full_values is None:
            return np.arange(len(coalitions))
        is_full = coalitions.all(axis=1)
        tables[i][is_full] = self.full_values[i]
        return np.flatnonzero(~is_full)

    def _in_order(
        self, coalitions: Mapping[int, Bools], todo: Mapping[int, NDArray[np.intp]]
    ) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """Example and row of each coalition to evaluate, in the order of the evaluations."""
        examples = np.repeat(np.fromiter(todo, np.int64, len(todo)), [*map(len, todo.values())])
        # The first coalition of each example, then the second of each, and so on.
        turn = np.concatenate([np.arange(len(rows)) for rows in todo.values()])
        order = np.argsort(turn, kind="stable")
        if self.request.by_size:
            size = np.concatenate([coalitions[i][rows].sum(axis=1) for i, rows in todo.items()])
            window = np.arange(len(order)) // (_WINDOW * self._batch_size)
            order = order[np.lexsort((size[order], window))]
        return examples[order], np.concatenate([*todo.values()])[order]

    def _run(
        self,
        coalitions: Mapping[int, Bools],
        todo: Mapping[int, NDArray[np.intp]],
        tables: dict[int, Floats],
    ) -> dict[int, int]:
        """How many coalitions of each example, from the first on, have values in its table."""
        examples, rows = self._in_order(coalitions, todo)
        s = self.request.inputs.n_backgrounds
        n_rows, done = len(rows) * s, 0
        try:
            while done < n_rows:
                several = np.arange(done, min(done + self._batch_size, n_rows))
                self._batch(
                    coalitions, examples[several // s], rows[several // s], several % s, tables
                )
                done = int(several[-1]) + 1
                if self._progress is not None:
                    self._progress.update(len(several))
        except KeyboardInterrupt:
            if self._n_outputs is None:
                raise
            self.interrupted = True
        for i in coalitions:
            tables.setdefault(i, np.zeros((0, self._width or 0)))
        done //= s
        if self.request.by_size and done < len(rows):
            done -= done % (_WINDOW * self._batch_size)  # each gets the first of its coalitions
        finished = {}
        for i, c in coalitions.items():
            left = rows[done:][examples[done:] == i]
            finished[i] = int(left.min()) if len(left) else len(c)
        return finished

    def _batch(
        self,
        coalitions: Mapping[int, Bools],
        examples: NDArray[np.int64],
        rows: NDArray[np.intp],
        backgrounds: NDArray[np.int64],
        tables: dict[int, Floats],
    ) -> None:
        """Evaluate one batch and add its values to the tables."""
        several = np.unique(examples).tolist()
        table = np.zeros((len(rows), max(self.n_players)), dtype=bool)
        for i in several:
            own = examples == i
            table[own, : coalitions[i].shape[1]] = coalitions[i][rows[own]]
        index = torch.from_numpy(examples)
        inputs = self.request.inputs.rows(
            index, torch.from_numpy(table), torch.from_numpy(backgrounds)
        )
        start = time.perf_counter()
        out = self._kept(self._forward(inputs, index), examples, table.sum(axis=1))
        self.model_seconds += time.perf_counter() - start
        s = self.request.inputs.n_backgrounds
        for i in several:
            if i not in tables:
                tables[i] = np.zeros((len(coalitions[i]), out.shape[1]))
            own = examples == i
            if s == 1:
                tables[i][rows[own]] = out[own]
            else:
                np.add.at(tables[i], rows[own], out[own] / s)
        np.add.at(self.evaluations, examples, 1)

    def _kept(self, output: Any, examples: NDArray[np.int64], shown: NDArray[np.int64]) -> Floats:
        """The outputs of some rows that are kept, as finite numbers (B, k), or an error.

        ``shown`` has the number of players that each row shows.
        """
        scores = as_scores(output).detach()
        n_outputs = scores.numel() // len(examples)
        # A model that squeezes its output may give one number for one row.
        rows = len(scores) if scores.dim() else 1
        fits = rows == len(examples) and n_outputs == (self._n_outputs or n_outputs)
        if self._columns is None or not fits:
            check_rows(scores, len(examples), self._n_outputs)
        self._n_outputs = n_outputs
        scores = scores.reshape(len(examples), -1)
        if self._columns is not None:
            index = self._columns[torch.from_numpy(examples)].to(scores.device)
            scores = scores.gather(1, index)
        # A copy: the model may write its next output into the same memory.
        values: Floats = scores.to("cpu", torch.float64, copy=True).numpy()
        n_guides = self.request.n_guides
        if n_guides:  # guides only steer: what is not finite among them must not stop anything
            values[:, -n_guides:] = np.nan_to_num(values[:, -n_guides:], posinf=0.0, neginf=0.0)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise self._not_finite(shown[~finite])
        return values

    def _linked(self, values: Floats) -> Floats:
        """The link of values of the outputs that are kept."""
        if self.request.link is None:
            return values
        with np.errstate(all="ignore"), raised_by("the link"):
            given = self.request.link(values.copy())  # which may write into its argument
        linked = as_array(as_tensor(given, "link")).astype(np.float64)
        if linked.shape != values.shape:
            raise bad(
                "link",
                f"an array of shape {linked.shape} from values of shape {values.shape}",
                "a link that keeps the shape",
            )
        n_explained = values.shape[1] - self.request.n_guides
        # Guides only steer: where the link is undefined for them, they keep still.
        linked[:, n_explained:] = np.nan_to_num(linked[:, n_explained:], posinf=0.0, neginf=0.0)
        if not np.isfinite(linked).all():
            raise bad(
                "link",
                f"infinite or undefined values from outputs {values.min():g} to {values.max():g}",
                "outputs inside the link's domain",
                "Explain logits instead, or clip probabilities to [1e-6, 1 - 1e-6] in the model.",
            )
        return linked

    def _not_finite(self, shown: NDArray[np.int64]) -> PatchShapError:
        """The error for outputs of rows that show so many players."""
        n = max(self.n_players)
        if shown.max() == n:
            where = "for the whole image"
            mend = "Check the weights and the range of the inputs, or try another autocast."
        else:
            where = f"where {n - int(shown.min())} of {n} players are hidden"
            mend = (
                "The model cannot take what stands in for them, for example where it divides by "
                "the deviation of a uniform image. Choose another background, as in "
                "PatchMasker(background='blur') or 'noise', or baselines=, or try another autocast."
            )
        return bad("model", f"NaN or infinite outputs {where}", "finite numbers", mend)
