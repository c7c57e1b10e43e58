"""The game: values of coalitions, evaluated in batches that run across images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._arrays import as_array, as_tensor
from ._validation import check_memory, whole
from .errors import PatchShapError, bad, raised_by
from .masking.coalition_inputs import CoalitionInputs
from .models.outputs import as_scores, mean_of_maps

__all__ = ["Game"]

# Batches that are sorted together; what is finished of them is lost when one is interrupted.
_WINDOW = 32
_ENTRIES = 2**20  # of values that the link is applied to at once

Forward = Callable[[tuple[Tensor, ...], Tensor], Any]


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
    bound : CoalitionInputs
        The inputs and how they are masked.
    batch_size : int
        Most rows in one call of ``forward``.
    link : callable, optional
        Applied to ``v(S)``, after the average over backgrounds.

    Attributes
    ----------
    evaluations : ndarray of int, shape (N,)
        Model evaluations spent on each example so far.
    model_seconds : float
        Time spent inside ``forward``.
    interrupted : bool
        Whether Ctrl-C ended an evaluation early.
    explained : ndarray of int, shape (N, k), or None
        The outputs of the model that are explained, for explainers that have to know; None
        stands for all of them in their order.
    question : Any
        What is asked of the outputs, where :attr:`columns` does not say it; two games with
        equal questions, inputs and outputs are one game for a warm start.
    by_size : bool
        Whether to evaluate coalitions of equal size together, for models that are faster so.
    progress : tqdm or None
        A bar that is told of the evaluations, once it is set.
    """

    def __init__(
        self,
        forward: Forward,
        bound: CoalitionInputs,
        batch_size: int,
        link: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    ) -> None:
        # Of numpy, as uint8, it would overflow; and no batch is larger.
        batch_size = min(whole(1)("batch size", batch_size), 2**31)
        self.forward, self.bound, self.batch_size = forward, bound, batch_size
        self.link = link
        self.evaluations = np.zeros(bound.n_examples, dtype=np.int64)
        self.model_seconds = 0.0
        self.interrupted = False
        self.progress: Any = None
        self.n_outputs: int | None = None
        self.is_scalar = False
        self.columns: NDArray[np.int64] | None = None
        self.n_guides = 0
        self.explained: NDArray[np.int64] | None = None
        self.question: Any = None
        self.by_size = False

    def select(self, columns: NDArray[np.int64] | None, n_guides: int = 0) -> None:
        """Keep only these outputs, (N, k) indices for each example, from now on.

        The last ``n_guides`` of them are not explained; they guide estimators.
        """
        self.columns, self.n_guides = columns, n_guides

    def full_values(self, *, linked: bool = True) -> NDArray[np.float64]:
        """Values (N, K) of the full coalitions, which also check the model's output.

        One evaluation each: with every player shown, the backgrounds do not matter.
        """
        n = self.bound.n_examples
        everyone = np.ones((n, max(self.bound.n_players)), dtype=bool)
        tables: dict[int, NDArray[np.float64]] = {}
        counts = dict.fromkeys(range(n), 1)
        zeros = np.zeros(n, dtype=np.int64)
        if self._run(np.arange(n), zeros, everyone, counts, tables, n_backgrounds=1) < n:
            raise KeyboardInterrupt
        values = np.concatenate([tables[i] for i in range(n)])
        return self.linked(values) if linked else values

    def given_full_values(self, output: Any) -> NDArray[np.float64]:
        """The same from a forward pass over all examples that has been made already."""
        self.evaluations += 1
        # A copy: the model may write its next output into the same memory.
        values = as_scores(output).detach().double().cpu().numpy().copy()
        n = self.bound.n_examples
        return self.linked(self._checked(values, n, np.full(n, max(self.bound.n_players))))

    def evaluate(
        self,
        coalitions: Mapping[int, NDArray[np.bool_]],
        into: Mapping[int, NDArray[np.float64]] | None = None,
    ) -> dict[int, NDArray[np.float64]]:
        """Values of the coalitions (m, n) asked for each example, (m, n_outputs).

        The examples advance side by side. When Ctrl-C interrupts, each gets the values of
        the coalitions that were finished, and :attr:`interrupted` is set.

        ``into`` has tables (m, n_outputs) that the values are written to.
        """
        counts = {i: len(c) for i, c in coalitions.items()}
        n_rows, n_players = sum(counts.values()), max(self.bound.n_players)
        width = 0 if into else self._width or 1
        check_memory(
            "budget",
            f"{n_rows:,} evaluations of {n_players:,} players and {width:,} outputs",
            n_rows * (8 * width + n_players),
            "Lower it (n_samples= or max_evals=), or choose some outputs with outputs=.",
        )
        tables = {} if into is None else dict(into)
        examples = np.repeat(np.fromiter(counts, np.int64, len(counts)), list(counts.values()))
        rows = np.concatenate([np.arange(c) for c in counts.values()])
        # The first coalition of each example, then the second of each, and so on.
        order = np.argsort(rows, kind="stable")
        window = _WINDOW * self.batch_size if self.by_size else 1
        if self.by_size:
            size = np.concatenate([c.sum(axis=1) for c in coalitions.values()])[order]
            order = order[np.lexsort((size, np.arange(len(order)) // window))]
        place = np.argsort(order)
        table = np.zeros((n_rows, n_players), dtype=bool)
        start = 0
        for c in coalitions.values():
            table[place[start : start + len(c)], : c.shape[1]] = c
            start += len(c)
        examples, rows = examples[order], rows[order]
        finished = self._run(examples, rows, table, counts, tables)
        if finished < n_rows:
            finished -= finished % window  # each example gets the first of its coalitions
        found = np.bincount(examples[:finished], minlength=self.bound.n_examples)
        values = {i: tables[i][: found[i]] for i in coalitions}
        if self.link is not None:
            for part in values.values():
                step = max(1, _ENTRIES // part.shape[1])
                for start in range(0, len(part), step):
                    part[start : start + step] = self.linked(part[start : start + step])
        return values

    @property
    def _width(self) -> int | None:
        """Number of outputs that are kept, once it is known."""
        return self.n_outputs if self.columns is None else self.columns.shape[1]

    def linked(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The link of values of the outputs that are kept."""
        if self.link is None:
            return values
        with np.errstate(all="ignore"), raised_by("the link"):
            given = self.link(values.copy())  # which may write into its argument
        linked = as_array(as_tensor(given, "link")).astype(np.float64)
        if linked.shape != values.shape:
            raise bad(
                "link",
                f"an array of shape {linked.shape} from values of shape {values.shape}",
                "a link that keeps the shape",
            )
        n_explained = values.shape[1] - self.n_guides
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

    def _run(
        self,
        examples: NDArray[np.int64],
        rows: NDArray[np.int64],
        table: NDArray[np.bool_],
        counts: Mapping[int, int],
        tables: dict[int, NDArray[np.float64]],
        n_backgrounds: int | None = None,
    ) -> int:
        """How many coalitions of ``table`` are finished.

        The value of each becomes a row of the table of its example; tables that are not there
        are made, with as many rows as ``counts`` says.
        """
        s = n_backgrounds or self.bound.n_backgrounds
        n_rows = len(examples) * s
        n_shown = table.sum(axis=1)
        for given in tables.values() if s > 1 else ():
            given[:] = 0.0
        done = 0
        try:
            while done < n_rows:
                several = np.arange(done, min(done + self.batch_size, n_rows))
                coalition = several // s
                example = torch.from_numpy(examples[coalition])
                inputs = self.bound.rows(
                    example, torch.from_numpy(table[coalition]), torch.from_numpy(several % s)
                )
                out = self._outputs(inputs, example, n_shown[coalition])
                for i in np.unique(examples[coalition]).tolist():
                    if i not in tables:
                        tables[i] = np.zeros((counts[i], out.shape[1]))
                    own = examples[coalition] == i
                    if s == 1:
                        tables[i][rows[coalition[own]]] = out[own]
                    else:
                        np.add.at(tables[i], rows[coalition[own]], out[own] / s)
                np.add.at(self.evaluations, examples[coalition], 1)
                done = int(several[-1]) + 1
                if self.progress is not None:
                    self.progress.update(len(several))
        except KeyboardInterrupt:
            if self.n_outputs is None:
                raise
            self.interrupted = True
        for i in counts:
            tables.setdefault(i, np.zeros((0, self._width or 0)))
        return done // s

    def _outputs(
        self, inputs: tuple[Tensor, ...], examples: Tensor, shown: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Outputs of rows, each with the number of players that it shows."""
        start = time.perf_counter()
        raw = as_scores(self.forward(inputs, examples)).detach().double().cpu().numpy()
        self.model_seconds += time.perf_counter() - start
        out = self._checked(raw, len(examples), shown)
        if self.columns is not None:
            out = np.take_along_axis(out, self.columns[examples.numpy()], axis=1)
        return out

    def _checked(
        self, raw: NDArray[np.float64], n_rows: int, shown: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The model's output as finite numbers (n_rows, K), or an error."""
        self.is_scalar = raw.ndim == 1
        out = raw[:, None] if raw.ndim == 1 else raw
        if out.ndim != 2 or len(out) != n_rows or not out.shape[1]:
            raise bad(
                "model",
                f"an output of shape {raw.shape} for a batch of {n_rows}",
                f"({n_rows}, K) or ({n_rows},), one row for each input",
                f"Score each class of maps (N, K, ...) by its mean. {mean_of_maps(raw.ndim)}"
                if raw.ndim > 2 and len(raw) == n_rows
                else "Wrap the model in a function that returns one row of scores per image.",
            )
        if self.n_outputs not in (None, out.shape[1]):
            raise bad("model", f"{out.shape[1]} outputs", f"{self.n_outputs} as before")
        if not np.isfinite(out).all():
            raise self._not_finite(shown[~np.isfinite(out).all(axis=1)])
        self.n_outputs = out.shape[1]
        return out

    def _not_finite(self, shown: NDArray[np.int64]) -> PatchShapError:
        """The error for outputs of rows that show so many players."""
        n = max(self.bound.n_players)
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
