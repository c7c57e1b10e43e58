"""shap's conventions for inputs, outputs and explanations, as arrays of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shap
import torch
from numpy.typing import NDArray
from shap.utils import OpChain
from slicer import Obj
from torch import Tensor

from .._arrays import Layout, as_array, as_tensor, layout_of, stacked
from .._validation import whole
from ..errors import PatchShapError, bad, raised_by
from ..estimators import Estimate
from ..players.grids import Players, player_means

__all__ = ["Images", "Ranked", "Result"]

MAX_BYTES = 2**32


@dataclass(frozen=True)
class Images:
    """A batch as the model takes it, ``x``, and as shap shows it, ``data``.

    ``layout`` is that of ``x`` and ``given_layout`` the user's; None for rows (N, F), whose
    ``columns`` may have names. ``dtype`` is the user's, where ``x`` has another or an array came.
    """

    x: Tensor
    data: NDArray[Any]
    layout: Layout | None
    given_layout: Layout | None
    columns: list[str] | None = None
    dtype: np.dtype[Any] | torch.dtype | None = None


@dataclass(frozen=True)
class Ranked:
    """DeepExplainer's choice of outputs: the first ``n`` of each example by some order.

    ``if_any``: a model with a single output has nothing to choose from, and that is all right.
    """

    n: int
    order: str
    if_any: bool = False


@dataclass(frozen=True)
class Result:
    """Estimates of a batch and what it takes to shape them into an Explanation."""

    images: Images
    players: list[Players]
    estimates: list[Estimate]
    outputs: NDArray[np.int64] | None
    scalar: bool
    names: Any
    seconds: float

    def output_indices(self, i: int) -> NDArray[np.int64] | None:
        """Which outputs are explained for an example; None for a model with a single one."""
        if self.scalar:
            return None
        if self.outputs is None:
            return np.arange(self.estimates[i].values.shape[1])
        return np.asarray(self.outputs[i])

    @property
    def base_values(self) -> NDArray[np.float64]:
        """(N, K), or (N,) for a single output."""
        base = np.stack([e.base_values for e in self.estimates])
        return base[:, 0] if self.scalar else base


def as_images(x: Any, layout: Any, *, for_module: bool) -> Images:
    """Check a batch and bring it into the form that the model wants."""
    columns = getattr(x, "columns", None)  # of a pandas DataFrame
    given = stacked(x)
    tensor = as_tensor(given, "images")
    given = given if isinstance(given, Tensor) else np.asarray(given)
    dtype: np.dtype[Any] | torch.dtype | None = given.dtype
    if isinstance(dtype, np.dtype):
        dtype = dtype.newbyteorder("=")
    if given.ndim not in (2, 4):
        hint = {
            3: "One image alone needs a batch axis: x[None].",
            5: "For volumes and clips use attribute(x, feature_mask=...), which takes any shape.",
        }.get(given.ndim, "")
        raise bad(
            "images",
            f"shape {tuple(given.shape)}",
            "a batch of images, (N, H, W, C) or for tensors (N, C, H, W), or rows (N, F)",
            hint,
        )
    if not len(given) or 0 in given.shape:
        raise bad("images", f"an empty batch of shape {tuple(given.shape)}", "at least one example")
    if isinstance(given, Tensor) and tensor.dtype == given.dtype:
        dtype = None
    if tensor.is_floating_point() and torch.isnan(tensor).any():
        raise bad("images", "NaN", "numbers", "np.nan_to_num(x) replaces NaN.")
    if given.ndim == 2:
        if for_module and not tensor.is_floating_point():
            tensor = tensor.float()
        names = None if columns is None else [str(c) for c in columns]
        return Images(tensor, as_array(tensor).copy(), None, None, names, dtype)
    axes = layout_of(given, layout)
    data = as_array(tensor if axes == "NHWC" else tensor.permute(0, 2, 3, 1)).copy()
    if not for_module:
        return Images(tensor, data, axes, axes, None, dtype)
    if axes == "NHWC":
        tensor = tensor.permute(0, 3, 1, 2)
    return Images(tensor if tensor.is_floating_point() else tensor.float(), data, "NCHW", axes)


def choose_outputs(
    outputs: Any, full: NDArray[np.float64], is_scalar: bool
) -> NDArray[np.int64] | None:
    """Indices (N, k) of the outputs to explain; None for all of them."""
    n, n_outputs = full.shape
    if outputs is None:
        return None
    if isinstance(outputs, Ranked):
        if is_scalar and outputs.if_any:
            return None
        if is_scalar:
            raise bad("ranked_outputs", outputs.n, "None for a model with a single output")
        key = {"max": -full, "min": full, "max_abs": -np.abs(full)}.get(outputs.order)
        if key is None:
            raise bad("output_rank_order", repr(outputs.order), "'max', 'min' or 'max_abs'")
        whole(1)("ranked_outputs", outputs.n)
        if outputs.n > n_outputs:
            raise bad("ranked_outputs", outputs.n, f"1 to {n_outputs}, the outputs of the model")
        return np.argsort(key, axis=1, kind="stable")[:, : outputs.n]
    if isinstance(outputs, OpChain):
        with raised_by("the operations in outputs"):
            rows = [np.atleast_1d(outputs.apply(shap.Explanation(f)).values) for f in full]
            index = np.stack(rows)
    else:
        each = outputs if isinstance(outputs, list | tuple) else [outputs]
        if any(isinstance(one, str) for one in each):
            mend = "explain_image takes names, as labels=."
            raise bad("outputs", repr(outputs), "an index or a list of indices", mend)
        index = as_array(as_tensor(outputs, "outputs"))
        index = np.broadcast_to(np.atleast_1d(index), (n, index.size)) if index.ndim < 2 else index
    if index.ndim != 2 or len(index) != n or not index.size or index.dtype.kind not in "iu":
        raise bad(
            "outputs",
            f"{outputs!r}",
            f"an index, a list of indices, or integers of shape ({n}, k)",
        )
    if index.min() < -n_outputs or index.max() >= n_outputs:
        raise bad(
            "outputs",
            f"indices from {index.min()} to {index.max()}",
            f"0 to {n_outputs - 1}, the outputs of the model",
        )
    # A model with a single output has it explained, whatever it is called.
    return None if is_scalar else np.asarray(index % n_outputs, dtype=np.int64)


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


def check_size(data: NDArray[Any], n_outputs: int) -> None:
    """Refuse values of elements that would not fit into memory."""
    size = data.size * n_outputs * 8
    if size > MAX_BYTES:
        raise PatchShapError(
            f"outputs: got {n_outputs} outputs for inputs of shape {data.shape}, whose values "
            f"take {size / 2**30:.1f} GiB; expected at most {MAX_BYTES / 2**30:.1f}. "
            "Choose some with outputs=, as in outputs=shap.Explanation.argsort.flip[:5], or "
            "use explain_players(), whose values are per player."
        )


def check_feature_names(names: Sequence[str] | None, n_players: Sequence[int]) -> None:
    """Refuse names that are not one for each player of every example."""
    if names is not None and {len(names)} != set(n_players):
        raise bad("feature_names", f"{len(names)} names", f"{n_players[0]}, one for each player")


def spread(result: Result, per_player: Sequence[NDArray[np.float64]], layout: Any) -> Any:
    """Each player's number divided evenly over its elements: (N, ..., K) or (N, ...)."""
    data = result.images.data
    out = np.empty((*data.shape, per_player[0].shape[1]))
    channels = data.shape[-1] if data.ndim == 4 else 1
    for i, (players, values) in enumerate(zip(result.players, per_player, strict=True)):
        count = np.bincount(players.labels.ravel())[:, None] * channels
        on_elements = (values / count)[players.labels]
        out[i] = on_elements[:, :, None, :] if data.ndim == 4 else on_elements
    if layout == "NCHW":
        out = np.moveaxis(out, 3, 1)
    return out[..., 0] if result.scalar else out


def spread_values(result: Result, layout: Any) -> Any:
    """Values of the elements in the given layout."""
    return spread(result, [e.values for e in result.estimates], layout)


def element_explanation(
    result: Result, error_bounds: bool, names: Sequence[str] | None = None
) -> shap.Explanation:
    """What ``explainer(x)`` returns; always channels last."""
    is_rows = result.images.data.ndim == 2
    stds = [e.error_std for e in result.estimates]
    return named_explanation(
        spread_values(result, "NHWC"),
        result.base_values,
        result.images.data,
        result.names,
        spread(result, stds, "NHWC") if error_bounds else None,
        feature_names=(list(names) if names else result.images.columns) if is_rows else None,
        compute_time=result.seconds,
    )


def named_explanation(
    values: NDArray[Any],
    base: NDArray[Any] | None,
    data: NDArray[Any],
    names: Any,
    error_std: NDArray[Any] | None = None,
    **kept: Any,
) -> shap.Explanation:
    """An Explanation of images whose outputs may have names of their own for each image."""
    if not isinstance(names, np.ndarray) or names.ndim != 2:
        return shap.Explanation(values, base, data, output_names=names, error_std=error_std, **kept)
    return PerImageExplanation(values, base, data, names, error_std, **kept)


class PerImageExplanation(shap.Explanation):
    """An Explanation whose outputs have names of their own for each example.

    ``shap.Explanation`` guesses from the shapes which axis is that of the outputs, whenever it
    is made or copied, and is mistaken where there are as many examples as channels or players.
    """

    output_dims: tuple[int, ...]

    def __init__(
        self,
        values: NDArray[Any],
        base: NDArray[Any] | None,
        data: NDArray[Any],
        names: NDArray[Any],
        error_std: NDArray[Any] | None = None,
        **kept: Any,
    ) -> None:
        super().__init__(values, base, data, error_std=error_std, **kept)
        if not self.output_dims:  # without base values shap sees no axis of outputs
            self.output_dims = (np.ndim(values) - 1,)
        self.output_names = Obj(names, [0, *self.output_dims])

    def __copy__(self) -> PerImageExplanation:
        new: PerImageExplanation = object.__new__(type(self))
        new.__dict__.update(self.__dict__, op_history=list(self.op_history), _s=self._s[:])
        return new

    def __getitem__(self, item: Any) -> shap.Explanation:
        """As in shap; the name of an output stands last, and chooses the examples that have it."""
        names = np.asarray(self.output_names)
        last = item[-1] if isinstance(item, tuple) else item
        if not isinstance(last, str) or names.ndim != 2:
            return super().__getitem__(item)
        examples, places = np.nonzero(names == last)
        if not len(examples):
            known = ", ".join(np.unique(names)[:10])
            raise bad("output", repr(last), f"the name of an explained output, one of {known}")
        chosen = shap.Explanation(
            self.values[examples, ..., places],
            None if self.base_values is None else self.base_values[examples, places],
            self.data[examples],
            feature_names=self.feature_names,
            output_names=last,
            error_std=None if self.error_std is None else self.error_std[examples, ..., places],
        )
        rest = item[:-1] if isinstance(item, tuple) else ()
        return chosen[rest] if any(r is not Ellipsis for r in rest) else chosen


def player_explanation(
    result: Result,
    names: Sequence[str] | None,
    values: list[NDArray[np.float64]] | None = None,
    stds: list[NDArray[np.float64]] | None = None,
) -> shap.Explanation:
    """What ``explain_players(x)`` returns, or the same with other values and their errors."""

    def pack(rows: list[NDArray[np.float64]]) -> NDArray[Any]:
        rows = [r[..., 0] for r in rows] if result.scalar else rows
        if len({r.shape for r in rows}) == 1:
            return np.stack(rows)
        packed = np.empty(len(rows), dtype=object)
        packed[:] = rows
        return packed

    means = [
        player_means(image, players)
        for image, players in zip(result.images.data, result.players, strict=True)
    ]
    feature_names: Any = [list(p.names) for p in result.players]
    if all(f == feature_names[0] for f in feature_names):
        feature_names = list(names or result.images.columns or feature_names[0])
    if len({len(m) for m in means}) == 1:
        data: NDArray[Any] = np.stack(means)
    else:
        data = np.empty(len(means), dtype=object)
        data[:] = means
    if values is None:
        values = [e.values for e in result.estimates]
        stds = [e.error_std for e in result.estimates]
    return named_explanation(
        pack(values),
        result.base_values,
        data,
        result.names,
        None if stds is None else pack(stds),
        feature_names=feature_names,
        compute_time=result.seconds,
    )
