"""Attributions of other libraries, read in whatever form they come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import shap
from numpy.typing import NDArray
from torch import Tensor

from .._arrays import Layout, as_array, layout_of
from .._typing import Floats
from ..errors import PatchShapError, bad

__all__ = [
    "AnyLayout",
    "Attributions",
    "Names",
    "base_values_of",
    "first_images",
    "is_drawn",
    "plain",
    "read_attributions",
]

Names: TypeAlias = list[str] | NDArray[np.str_]
AnyLayout: TypeAlias = Layout | Literal["auto"]

_SAY = "Say which with layout='NHWC' or layout='NCHW'."
_SAME = 1e-5  # of the largest value: what float32 leaves of a group's one coefficient


@dataclass(frozen=True)
class Attributions:
    """Values (N, H, W, C, K), data (N, H, W, C), names (K) or (N, K), base values (N, K)."""

    values: Floats
    data: NDArray[Any]
    names: Names
    base: Floats | None

    @property
    def n_and_k(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[-1]


def read_attributions(
    what: str, given: Any, images: Any, layout: AnyLayout, names: Any, feature_mask: Any
) -> Attributions:
    """Attributions in any form, read with their images."""
    indexes, base = None, None
    if isinstance(given, shap.Explanation):
        if images is None:
            images = given.data
        names = given.output_names if names is None else names
        base, given = given.base_values, given.values
    elif images is None and isinstance(given, Mapping | list | tuple):
        images = first_images(given.values() if isinstance(given, Mapping) else given)
    if images is None:
        raise bad("images", "None", "the images", "Only an Explanation brings its own.")
    data = _pixels(images, layout)
    if isinstance(given, tuple) and len(given) == 2 and _are_indexes(given[1]):
        given, indexes = given[0], np.asarray(plain(given[1]))
    if isinstance(given, Mapping):
        if names is not None:
            raise bad("output_names", "names beside those of a mapping", "None")
        names = [str(key) for key in given]
        values = _stacked(what, given, data.shape, layout, feature_mask)
    elif isinstance(given, list | tuple):
        values = _stacked(what, dict(enumerate(given)), data.shape, layout, feature_mask)
    else:
        values = _maps(what, given, data.shape, layout, feature_mask)
    n, k = values.shape[0], values.shape[-1]
    return Attributions(
        values,
        data,
        _named(names, n, k) if indexes is None else _ranked(names, indexes, n, k),
        None if base is None else base_values_of(base, n, k),
    )


def _are_indexes(second: Any) -> bool:
    """Whether the second of a pair goes with ``ranked_outputs``, and is no map of its own."""
    # numpy would slice an Explanation element by element.
    return not isinstance(second, shap.Explanation) and np.ndim(plain(second)) == 2


def first_images(several: Iterable[Any]) -> Any:
    """Images of the first Explanation among attributions; None if there is none."""
    return next((given.data for given in several if isinstance(given, shap.Explanation)), None)


def plain(given: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    return as_array(given) if isinstance(given, Tensor) else given


def _pixels(images: Any, layout: AnyLayout) -> NDArray[Any]:
    """Images as (N, H, W, C), finite."""
    array = np.asarray(plain(images))
    if array.ndim != 4 or not array.size or array.dtype.kind not in "fiub":
        raise bad(
            "images",
            f"shape {array.shape} of {array.dtype}",
            "(N, H, W, C) or (N, C, H, W) of numbers",
            "One image alone needs a batch axis: x[None]." if array.ndim == 3 else "",
        )
    try:
        axes = layout_of(images if isinstance(images, Tensor) else array, layout)
    except PatchShapError:
        if layout not in ("auto", "NCHW", "NHWC"):
            raise
        what = "a tensor" if isinstance(images, Tensor) else "an array"
        raise bad("images", f"{what} of shape {array.shape}", "a clear layout", _SAY) from None
    _check_finite("images", array)
    return array if axes == "NHWC" else np.moveaxis(array, 1, 3)


def _check_finite(what: str, array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise bad(what, "NaN or infinity", "finite numbers")


def is_drawn(given: shap.Explanation, layout: AnyLayout) -> bool:
    """Whether ``shap.image_plot`` draws an Explanation as it is."""
    values, data = given.values, given.data
    if not (isinstance(values, np.ndarray) and isinstance(data, np.ndarray) and data.ndim == 4):
        return False
    n_outputs = len(given.output_dims)
    fits = values.shape[:4] == data.shape and values.ndim == 4 + n_outputs and n_outputs <= 1
    try:
        if not fits or layout_of(data, layout) != "NHWC":
            return False
    except PatchShapError:  # _pixels says more
        return False
    _check_finite("attributions", values)
    return True


def _stacked(
    what: str,
    several: Mapping[Any, Any],
    shape: tuple[int, ...],
    layout: AnyLayout,
    feature_mask: Any,
) -> Floats:
    """Attributions to one output each, as (N, H, W, C, K)."""
    if not several:
        raise bad(what, "no attributions", "those to at least one output")
    outputs = []
    for key, given in several.items():
        of_one = f"{what}[{key!r}]"
        values = given.values if isinstance(given, shap.Explanation) else given
        maps = _maps(of_one, values, shape, layout, feature_mask)
        if maps.shape[-1] != 1:
            raise bad(
                of_one,
                f"attributions to {maps.shape[-1]} outputs",
                "to a single one",
                "side_by_side(..., output=) shows one output of several methods.",
            )
        outputs.append(maps)
    return np.concatenate(outputs, axis=-1)


def _maps(
    what: str, given: Any, shape: tuple[int, ...], layout: AnyLayout, feature_mask: Any
) -> Floats:
    """One array of attributions, as (N, H, W, C, K) for images of shape (N, H, W, C)."""
    try:
        array = np.asarray(plain(given), dtype=np.float64)
    except (TypeError, ValueError):
        raise bad(what, f"an object of type {type(given).__name__}", "arrays of numbers") from None
    n, height, width, channels = shape
    if array.shape == (n, height, width):
        array = array[..., None, None]
    else:
        has_outputs = array.ndim == 5
        axes = _axes(array.shape[:4] if has_outputs else array.shape, shape)
        if not axes:
            images = f"{n} images of {height} by {width} pixels and {channels} channel(s)"
            raise bad(
                what,
                f"shape {array.shape} for {images}",
                f"({n}, {channels}, {height}, {width}) or ({n}, {height}, {width}, {channels}), "
                "and one axis more for several outputs",
                "Values per patch are drawn by plots.attribution_maps.",
            )
        if len(axes) > 1 and layout == "auto" and not isinstance(given, Tensor):
            raise bad(what, f"shape {array.shape}, which fits both layouts", "a clear one", _SAY)
        told = "NCHW" if layout == "auto" else layout
        array = array if has_outputs else array[..., None]
        if (axes[0] if len(axes) == 1 else told) == "NCHW":
            array = np.moveaxis(array, 1, 3)
    _check_finite(what, array)
    if feature_mask is not None:
        array = array / _group_sizes(what, array, feature_mask, shape, layout)[..., None]
    if array.shape[3] != channels:
        array = np.broadcast_to(array / channels, (*shape, array.shape[-1]))
    return array


def _axes(given: tuple[int, ...], shape: tuple[int, ...]) -> list[str]:
    """Layouts in which a shape is that of the images, with all channels or with one."""
    n, height, width, channels = shape
    return [
        axes
        for axes, fits in {
            "NHWC": [(n, height, width, c) for c in (channels, 1)],
            "NCHW": [(n, c, height, width) for c in (channels, 1)],
        }.items()
        if given in fits
    ]


def _group_sizes(
    what: str, values: Floats, mask: Any, shape: tuple[int, ...], layout: AnyLayout
) -> NDArray[np.int64]:
    """How many elements the group of each has, (N, H, W, C' or 1)."""
    n, height, width, _ = shape
    ids = np.asarray(plain(mask))
    came, whole = f"shape {ids.shape} of {ids.dtype}", ids.dtype.kind in "iu"
    if ids.ndim in (2, 3):
        ids = ids.reshape(-1, *ids.shape[-2:], 1)
    elif ids.ndim == 4 and len(ids) in (1, n):
        axes = _axes((n, *ids.shape[1:]), shape)
        first = "NCHW" if isinstance(mask, Tensor) or layout == "NCHW" else "NHWC"
        if (axes[0] if len(axes) == 1 else first) == "NCHW":
            ids = np.moveaxis(ids, 1, 3)
    fits = ids.ndim == 4 and len(ids) in (1, n) and ids.shape[1:3] == (height, width)
    if not fits or ids.shape[3] not in (1, values.shape[3]) or not whole:
        raise bad(
            "feature_mask",
            came,
            f"whole numbers of shape ({height}, {width}), with or without axes of images and of "
            f"the {values.shape[3]} channel(s) of {what}",
        )
    ids = np.broadcast_to(ids, values.shape[:4])
    sizes = np.empty(ids.shape, dtype=np.int64)
    for i in range(n):
        _, group, count = np.unique(ids[i], return_inverse=True, return_counts=True)
        sizes[i] = count[group].reshape(ids.shape[1:])
        for column in np.moveaxis(values[i], -1, 0):
            mean = np.bincount(group.ravel(), weights=column.ravel()) / count
            if np.abs(column.ravel() - mean[group.ravel()]).max() > _SAME * np.abs(column).max():
                raise bad(
                    what,
                    f"values that differ within a group of the feature_mask, for image {i}",
                    "one value on all elements of a group, which is Captum's convention",
                    "Leave out the feature_mask where the elements add up as they are.",
                )
    return sizes


def _named(names: Any, n: int, k: int) -> Names:
    """Names of the outputs, (K,), or (N, K) where those of the images differ."""
    if names is None:
        return [f"Output {i}" for i in range(k)]
    table = np.array(names, dtype=str)
    if k == 1 and table.shape in ((), (n,)):  # one output cut out of several
        table = table.reshape(-1, 1)
    if table.shape not in ((k,), (1, k), (n, k)):
        raise bad("output_names", f"shape {table.shape}", f"({k},) or ({n}, {k}), one per output")
    if table.ndim == 2 and (table == table[0]).all():
        table = table[0]
    return [str(name) for name in table] if table.ndim == 1 else table


def _ranked(names: Any, indexes: NDArray[Any], n: int, k: int) -> Names:
    """Names (N, K) of the outputs that were chosen for each image."""
    if indexes.shape != (n, k) or indexes.dtype.kind not in "iu":
        raise bad(
            "attributions",
            f"indexes of shape {indexes.shape} of {indexes.dtype}",
            f"whole numbers of shape ({n}, {k}), as ranked_outputs gives them",
        )
    known = int(indexes.max()) + 1
    table = np.array([f"Output {i}" for i in range(known)] if names is None else names, dtype=str)
    if table.ndim != 1 or len(table) < known:
        raise bad("output_names", f"shape {table.shape}", f"{known} or more, one for each output")
    return _named(table[indexes], n, k)


def base_values_of(given: Any, n: int, k: int) -> Floats:
    """Base values as (N, K)."""
    try:
        base = np.asarray(plain(given), dtype=np.float64)
    except (TypeError, ValueError):
        raise bad("base_values", repr(given)[:60], "numbers") from None
    _check_finite("base_values", base)
    if k == 1 and base.shape in ((), (n,)):
        base = base.reshape(-1, 1)
    if base.shape not in ((k,), (1, 1), (1, k), (n, k)):
        raise bad("base_values", f"shape {base.shape}", f"({k},) or ({n}, {k}), one per output")
    return np.broadcast_to(base, (n, k)).copy()
