"""Explanations: players' values as ``shap.Explanation`` objects, per element or per player."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shap
from numpy.typing import NDArray
from slicer import Obj

from .._arrays import Images
from ..errors import PatchShapError, bad
from ..estimators import Estimate
from ..players.grids import Players, player_means
from .solve import Run

__all__ = [
    "PerImageExplanation",
    "Result",
    "element_explanation",
    "named_explanation",
    "player_explanation",
]


MAX_BYTES = 2**32


@dataclass(frozen=True)
class Result:
    """A run over a batch and what it takes to shape it into an Explanation."""

    images: Images
    players: list[Players]
    run: Run
    scalar: bool
    names: Any

    @property
    def estimates(self) -> list[Estimate]:
        return self.run.estimates

    def output_indices(self, i: int) -> NDArray[np.int64] | None:
        """Which outputs are explained for an example; None for a model with a single one."""
        if self.scalar:
            return None
        if self.run.outputs is None:
            return np.arange(self.estimates[i].values.shape[1])
        return np.asarray(self.run.outputs[i])

    @property
    def base_values(self) -> NDArray[np.float64]:
        """(N, K), or (N,) for a single output."""
        base = np.stack([e.base_values for e in self.estimates])
        return base[:, 0] if self.scalar else base


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
        compute_time=result.run.seconds,
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
        compute_time=result.run.seconds,
    )
