"""Which outputs are explained: ``outputs=`` of shap, 'top3', names, and their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shap
from numpy.typing import NDArray
from shap.utils import OpChain

from .._arrays import as_array, as_tensor
from .._validation import whole
from ..errors import bad, raised_by

__all__ = [
    "Ranked",
    "check_outputs",
    "choose_names",
    "choose_outputs",
    "leading_outputs",
    "outputs_called",
]


_TOP = re.compile("top([1-9][0-9]*)")


@dataclass(frozen=True)
class Ranked:
    """DeepExplainer's choice of outputs: the first ``n`` of each example by some order."""

    n: int
    order: str = "max"

    def choose(self, full: NDArray[np.float64]) -> NDArray[np.int64]:
        """Indices (N, n), of equals the first output first."""
        key = {"max": -full, "min": full, "max_abs": -np.abs(full)}.get(self.order)
        if key is None:
            raise bad("output_rank_order", repr(self.order), "'max', 'min' or 'max_abs'")
        whole(1)("ranked_outputs", self.n)
        if self.n > full.shape[1]:
            expected = f"1 to {full.shape[1]}, the outputs of the model"
            raise bad("ranked_outputs", self.n, expected)
        return np.argsort(key, axis=1, kind="stable")[:, : self.n]


def check_outputs(outputs: Any, names: Sequence[str] | None = None) -> Any:
    """The outputs to explain with every name as its index, before the model is asked.

    Parameters
    ----------
    outputs : int, str, list of these, ndarray, Ranked or OpChain, optional
        Indices, ``"top3"`` and the like, names, or shap's operations.
    names : sequence of str, optional
        The names of the model's outputs.

    Returns
    -------
    None, str, Ranked, OpChain or ndarray of int
        As :func:`choose_outputs` takes it.
    """
    if outputs is None or isinstance(outputs, Ranked | OpChain):
        return outputs
    if isinstance(outputs, str) and _TOP.fullmatch(outputs):
        return outputs
    index = as_array(as_tensor(_without_names(outputs, names), "outputs"))
    if not index.size or index.dtype.kind not in "iu":
        expected = "an index, a name, a list of these, or 'top3' and the like"
        raise bad("outputs", repr(outputs), expected)
    return index


def choose_outputs(
    outputs: Any, full: NDArray[np.float64], is_scalar: bool
) -> NDArray[np.int64] | None:
    """Indices (N, k) of the outputs to explain; None for all of them.

    Parameters
    ----------
    outputs
        What :func:`check_outputs` returned.
    full : ndarray (N, K)
        What the model says of the whole inputs.
    is_scalar : bool
        Whether the model has one score (N,), which is explained whatever it is called.
    """
    n, n_outputs = full.shape
    if outputs is None:
        return None
    if isinstance(outputs, Ranked):
        if is_scalar:
            raise bad("ranked_outputs", outputs.n, "None for a model with a single output")
        return outputs.choose(full)
    if isinstance(outputs, str):
        most = int(outputs.removeprefix("top"))
        if most > n_outputs:
            expected = f"'top1' to 'top{n_outputs}', the outputs of the model"
            raise bad("outputs", repr(outputs), "None or 'top1'" if is_scalar else expected)
        return None if is_scalar else Ranked(most).choose(full)
    if isinstance(outputs, OpChain):
        with raised_by("the operations in outputs"):
            rows = [np.atleast_1d(outputs.apply(shap.Explanation(f)).values) for f in full]
            outputs = np.stack(rows)
    index = np.broadcast_to(np.ravel(outputs), (n, outputs.size)) if outputs.ndim < 2 else outputs
    if index.ndim != 2 or len(index) != n or not index.size or index.dtype.kind not in "iu":
        expected = f"an index, a list of indices, or integers of shape ({n}, k)"
        raise bad("outputs", f"{outputs!r}", expected)
    if index.min() < -n_outputs or index.max() >= n_outputs:
        raise bad(
            "outputs",
            f"indices from {index.min()} to {index.max()}",
            f"0 to {n_outputs - 1}, the outputs of the model",
        )
    # A model with a single output has it explained, whatever it is called.
    return None if is_scalar else np.asarray(index % n_outputs, dtype=np.int64)


def outputs_called(names: Sequence[str] | None, name: str) -> list[int]:
    """Indices of the outputs of that name, in any case; ImageNet's are lists of synonyms."""
    wanted = name.lower()
    return [i for i, n in enumerate(names or ()) if wanted in (n.lower(), *n.lower().split(", "))]


def _without_names(outputs: Any, names: Sequence[str] | None) -> Any:
    """Outputs with every name as its index."""
    each = outputs if isinstance(outputs, list | tuple) else [outputs]
    if not any(isinstance(one, str) for one in each):
        return outputs
    indices: list[Any] = []
    for one in each:
        found = outputs_called(names, one) if isinstance(one, str) else [one]
        if len(found) != 1:
            came = f"{one!r}, which names {len(found)} of the outputs"
            raise bad(
                "outputs", came, "indices, 'top3' and the like, or names that output_names= gives"
            )
        indices += found
    return indices


def choose_names(
    names: Sequence[str] | None,
    chosen: NDArray[np.int64] | None,
    n_outputs: int | None,
    is_scalar: bool,
) -> Any:
    """Names of the explained outputs: (k,), or (N, k) where the examples differ."""
    if is_scalar:
        return None
    if names is None:
        if chosen is None:
            return None
        names = [f"Output {c}" for c in range(int(chosen.max()) + 1)]
    elif len(names) != n_outputs:
        raise bad("output_names", f"{len(names)} names", f"{n_outputs}, the outputs of the model")
    table = np.array(names)
    if chosen is None:
        return list(table)
    return list(table[chosen[0]]) if (chosen == chosen[0]).all() else table[chosen]


def leading_outputs(full: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """The outputs (N, n or fewer) of highest score, the highest first, of equals the first."""
    n = min(n, full.shape[1])
    leading = np.empty((len(full), n), dtype=np.int64)
    for row, scores in zip(
        leading, np.nan_to_num(-full, nan=np.inf, posinf=np.inf, neginf=-np.inf), strict=True
    ):
        last = np.partition(scores, n - 1)[n - 1]
        some = np.r_[np.flatnonzero(scores < last), np.flatnonzero(scores == last)][:n]
        row[:] = some[np.argsort(scores[some], kind="stable")]
    return leading


def guides_of_a_process(full: NDArray[np.float64], estimator: str) -> NDArray[np.int64] | None:
    """The outputs (N, 16 or fewer) that a Gaussian process learns its parameters from.

    Those of highest score: all are evaluated anyway, so the same is learned whichever are
    explained. None for other estimators, and for a model with a single output.
    """
    if estimator not in ("auto", "gaussian-process") or full.shape[1] == 1:
        return None
    return leading_outputs(full, 16)
