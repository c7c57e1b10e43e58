"""Attributions of other libraries in the form that ``shap.image_plot`` draws."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import shap
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .._arrays import Layout, as_array, layout_of
from ..errors import PatchShapError, bad
from ..explainers.explanations import named_explanation

_Floats: TypeAlias = NDArray[np.float64]
_Names: TypeAlias = list[str] | NDArray[np.str_]
_Layout: TypeAlias = Layout | Literal["auto"]

_SAY = "Say which with layout='NHWC' or layout='NCHW'."
_SAME = 1e-5  # of the largest value: what float32 leaves of a group's one coefficient


def as_explanation(
    attributions: Any,
    images: Any = None,
    *,
    layout: _Layout = "auto",
    output_names: Sequence[str] | ArrayLike | None = None,
    base_values: ArrayLike | None = None,
    feature_mask: Any = None,
) -> shap.Explanation:
    """Anyone's attributions of images, as ``shap.image_plot`` draws them.

    Parameters
    ----------
    attributions : ndarray, Tensor, list, mapping, tuple or shap.Explanation
        Of N images with H by W pixels and C channels:

        - an array or a tensor, (N, C, H, W) or (N, H, W, C) for one output, with a last axis
          of K outputs for several. ``DeepExplainer`` and ``GradientExplainer`` of shap give
          (N, C, H, W, K), Captum's methods (N, C, H, W). A map that is the same for all
          channels may have a single one, or be (N, H, W);
        - a list of such arrays of one output each, as older versions of shap gave them, or
          as a loop over Captum's ``target`` makes them;
        - a mapping of them, whose keys become the names of the outputs;
        - the pair ``(values, indexes)`` that ``shap_values(..., ranked_outputs=)`` returns;
        - an Explanation of any of these explainers. One that ``shap.image_plot`` draws as
          it is, as this package's explainers return it, comes back unchanged.
    images : ndarray or Tensor (N, H, W, C) or (N, C, H, W)
        What is shown beside and below the maps: floats in [0, 1], or uint8. By default those
        of the Explanation, or of the first one in a list or mapping.
    layout : {"auto", "NCHW", "NHWC"}
        Axes of the images, and of attributions whose shape fits both. By default tensors
        have channels first, and arrays have them where an axis has 1, 3 or 4 entries, the
        last one rather than the second.
    output_names : sequence of K str, or array_like of str (N, K), optional
        Names of the outputs, or of each image's own. For a pair of values and indexes, the
        names of all outputs of the model.
    base_values : array_like (K,) or (N, K), or for K = 1 a number or (N,), optional
        Values of the empty coalition, such as ``explainer.expected_value``.
    feature_mask : ndarray or Tensor, optional
        For attributions to groups of elements in Captum's convention, which repeats the
        group's value on each element: the mask that ``attribute`` was given, (H, W),
        (1 or N, H, W), or with an axis of channels as the images have it. Values are divided
        by the size of their group, so that the elements add up to the group's value, as they
        do in shap.

    Returns
    -------
    shap.Explanation
        ``values`` (N, H, W, C, K), where a map with a single channel is divided evenly over
        C, ``data`` (N, H, W, C), and always ``output_names``: without them ``image_plot``
        takes outputs for colours.

    Raises
    ------
    PatchShapError
        If shapes do not fit together or fit both layouts, a number is not finite, or values
        differ within a group of the mask.

    Notes
    -----
    ``shap.image_plot`` adds up the channels. It fails on an Explanation whose outputs have
    names of their own for each image if there are as many images as channels, such as three
    colour photographs; what is returned here is drawn then too (shap cannot slice it).

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((2, 1, 28, 28), dtype=np.float32)
    >>> deep = np.zeros((2, 1, 28, 28, 10))  # as DeepExplainer.shap_values gives it
    >>> explanation = as_explanation(deep, images)
    >>> explanation.values.shape, explanation.data.shape
    ((2, 28, 28, 1, 10), (2, 28, 28, 1))

    Captum's attributions to the four quarters of each image, for two targets:

    >>> import torch
    >>> mask = torch.arange(2).repeat_interleave(14)
    >>> mask = (2 * mask[:, None] + mask)[None, None]
    >>> cat, dog = torch.ones(2, 1, 28, 28), -torch.ones(2, 1, 28, 28)
    >>> explanation = as_explanation(
    ...     {"cat": cat, "dog": dog}, torch.from_numpy(images), feature_mask=mask
    ... )
    >>> explanation.output_names, explanation.values[0].sum(axis=(0, 1, 2)).round(6)
    (['cat', 'dog'], array([ 4., -4.]))
    """
    is_drawn = isinstance(attributions, shap.Explanation) and _is_drawn(attributions, layout)
    given = (images, output_names, base_values, feature_mask)
    if is_drawn and all(argument is None for argument in given):
        return attributions
    read = _read("attributions", attributions, images, layout, output_names, feature_mask)
    base = read.base if base_values is None else _base(base_values, *read.n_and_k)
    return named_explanation(read.values, base, read.data, read.names)


def side_by_side(
    methods: Mapping[str, Any],
    images: Any = None,
    output: int | Sequence[int] | ArrayLike | None = None,
    *,
    layout: _Layout = "auto",
    rescaled: bool = False,
) -> shap.Explanation:
    """One output's attributions by several methods, in columns of one ``shap.image_plot``.

    Parameters
    ----------
    methods : mapping of str to attributions
        By name of the method, anything that :func:`as_explanation` takes. Where Captum's
        convention calls for a ``feature_mask``, give what :func:`as_explanation` makes of it.
    images : ndarray or Tensor (N, H, W, C) or (N, C, H, W), optional
        As for :func:`as_explanation`; by default those of the first Explanation.
    output : int, or one int for each image, optional
        Which output of the model to show, of methods that explain several. Attributions to a
        single output are shown as they are: see to it that it is the same one.
    layout : {"auto", "NCHW", "NHWC"}
        As for :func:`as_explanation`.
    rescaled : bool
        Divide each map by its largest absolute value, channels added up. ``image_plot`` has
        one scale for all; on it, values per pixel of a method that sees whole patches are
        faint beside those of one that sees pixels. Rescaled maps show where, no longer how
        much: they do not add up to anything.

    Returns
    -------
    shap.Explanation
        ``values`` (N, H, W, C, M) for M methods, ``output_names`` the methods, ``data``
        (N, H, W, C); ``base_values`` (N, M) where all methods have them, unless rescaled.

    Raises
    ------
    PatchShapError
        As :func:`as_explanation`; if there is no method, no image, or no such output.

    Examples
    --------
    >>> import numpy as np, shap, torch
    >>> from xai_patchshap import PatchKernelShap, PatchMasker
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    >>> images, background = torch.rand(2, 1, 8, 8), torch.rand(5, 1, 8, 8)
    >>> ours = PatchKernelShap(model, PatchMasker((2, 2), background))
    >>> explanation = side_by_side(
    ...     {
    ...         "DeepExplainer": shap.DeepExplainer(model, background).shap_values(images),
    ...         "PatchKernelShap": ours(images, silent=True),
    ...     },
    ...     images,
    ...     output=3,
    ... )
    >>> explanation.values.shape, explanation.output_names
    ((2, 8, 8, 1, 2), ['DeepExplainer', 'PatchKernelShap'])
    >>> deep, patches = explanation.values.sum(axis=(1, 2, 3)).T
    >>> bool(np.allclose(deep, patches, atol=1e-5))  # both are f(x) - f(background)
    True
    """
    if not isinstance(methods, Mapping) or not methods:
        raise bad("methods", repr(methods)[:60], "a mapping of names to attributions")
    images = _first_images(methods.values()) if images is None else images
    columns, bases = [], []
    for name, attributions in methods.items():
        what = f"methods[{name!r}]"
        read = _read(what, attributions, images, layout, None, None)
        n, k = read.n_and_k
        named = isinstance(attributions, shap.Explanation) and attributions.output_names is not None
        chosen = _by_number(what, output, read.names, n) if named else None
        chosen = _chosen(what, output, n, k) if chosen is None else chosen
        column = read.values[np.arange(n), ..., chosen]
        if rescaled:
            largest = np.abs(column.sum(axis=3)).max(axis=(1, 2))
            column = column / np.where(largest > 0, largest, 1.0)[:, None, None, None]
        columns.append(column)
        bases.append(None if read.base is None else read.base[np.arange(n), chosen])
    known = [b for b in bases if b is not None]
    base = np.stack(known, axis=1) if len(known) == len(bases) and not rescaled else None
    return named_explanation(np.stack(columns, axis=-1), base, read.data, [str(n) for n in methods])


@dataclass(frozen=True)
class _Read:
    """Values (N, H, W, C, K), data (N, H, W, C), names (K) or (N, K), base values (N, K)."""

    values: _Floats
    data: NDArray[Any]
    names: _Names
    base: _Floats | None

    @property
    def n_and_k(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[-1]


def _read(
    what: str, given: Any, images: Any, layout: _Layout, names: Any, feature_mask: Any
) -> _Read:
    """Attributions in any form, read with their images."""
    indexes, base = None, None
    if isinstance(given, shap.Explanation):
        if images is None:
            images = given.data
        names = given.output_names if names is None else names
        base, given = given.base_values, given.values
    elif images is None and isinstance(given, Mapping | list | tuple):
        images = _first_images(given.values() if isinstance(given, Mapping) else given)
    if images is None:
        raise bad("images", "None", "the images", "Only an Explanation brings its own.")
    data = _pixels(images, layout)
    if isinstance(given, tuple) and len(given) == 2 and _are_indexes(given[1]):
        given, indexes = given[0], np.asarray(_plain(given[1]))
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
    return _Read(
        values,
        data,
        _named(names, n, k) if indexes is None else _ranked(names, indexes, n, k),
        None if base is None else _base(base, n, k),
    )


def _are_indexes(second: Any) -> bool:
    """Whether the second of a pair goes with ``ranked_outputs``, and is no map of its own."""
    # numpy would slice an Explanation element by element.
    return not isinstance(second, shap.Explanation) and np.ndim(_plain(second)) == 2


def _first_images(several: Iterable[Any]) -> Any:
    """Images of the first Explanation among attributions; None if there is none."""
    return next((given.data for given in several if isinstance(given, shap.Explanation)), None)


def _plain(given: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    return as_array(given) if isinstance(given, Tensor) else given


def _pixels(images: Any, layout: _Layout) -> NDArray[Any]:
    """Images as (N, H, W, C), finite."""
    array = np.asarray(_plain(images))
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


def _is_drawn(given: shap.Explanation, layout: _Layout) -> bool:
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
    layout: _Layout,
    feature_mask: Any,
) -> _Floats:
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
    what: str, given: Any, shape: tuple[int, ...], layout: _Layout, feature_mask: Any
) -> _Floats:
    """One array of attributions, as (N, H, W, C, K) for images of shape (N, H, W, C)."""
    try:
        array = np.asarray(_plain(given), dtype=np.float64)
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
    what: str, values: _Floats, mask: Any, shape: tuple[int, ...], layout: _Layout
) -> NDArray[np.int64]:
    """How many elements the group of each has, (N, H, W, C' or 1)."""
    n, height, width, _ = shape
    ids = np.asarray(_plain(mask))
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


def _by_number(what: str, output: Any, names: _Names, n: int) -> NDArray[np.int64] | None:
    """Where the output of each image is among some that were chosen, (N,); None: not known.

    An explainer that was asked for some of the outputs calls them by their numbers.
    """
    rows = np.broadcast_to(np.array(names, dtype=str), (n, np.shape(names)[-1]))
    numbered = all(re.fullmatch(r"Output \d+", name) for name in rows.ravel())
    wanted = np.asarray(_plain(output))
    if output is None or not numbered or wanted.dtype.kind not in "iu":
        return None
    if rows.shape[1] == 1 and (rows == "Output 0").all():
        return None  # as as_explanation calls a single one, whichever it is
    if wanted.shape not in ((), (n,)):
        return None
    found = rows == np.array([[f"Output {o}"] for o in np.broadcast_to(wanted, (n,))])
    if not found.any(axis=1).all():
        missing = int(np.flatnonzero(~found.any(axis=1))[0])
        raise bad(
            "output",
            f"{output!r}, which {what} does not explain for image {missing}",
            f"one of {', '.join(rows[missing])}",
            "Explain it with outputs=, or all outputs.",
        )
    return np.asarray(found.argmax(axis=1))


def _chosen(what: str, output: Any, n: int, k: int) -> NDArray[np.int64]:
    """The output of each image, (N,)."""
    if k == 1:
        return np.zeros(n, dtype=np.int64)
    chosen = np.asarray(_plain(output))
    if output is None or chosen.dtype.kind not in "iu" or chosen.shape not in ((), (n,)):
        came = "None" if output is None else f"{output!r}"
        raise bad("output", f"{came} for {k} outputs of {what}", f"one, or one for each of {n}")
    if chosen.min() < 0 or chosen.max() >= k:
        raise bad(
            "output",
            f"{chosen.min()} to {chosen.max()} for {k} outputs of {what}",
            f"0 to {k - 1}",
        )
    return np.broadcast_to(chosen.astype(np.int64), (n,))


def _named(names: Any, n: int, k: int) -> _Names:
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


def _ranked(names: Any, indexes: NDArray[Any], n: int, k: int) -> _Names:
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


def _base(given: Any, n: int, k: int) -> _Floats:
    """Base values as (N, K)."""
    try:
        base = np.asarray(_plain(given), dtype=np.float64)
    except (TypeError, ValueError):
        raise bad("base_values", repr(given)[:60], "numbers") from None
    _check_finite("base_values", base)
    if k == 1 and base.shape in ((), (n,)):
        base = base.reshape(-1, 1)
    if base.shape not in ((k,), (1, 1), (1, k), (n, k)):
        raise bad("base_values", f"shape {base.shape}", f"({k},) or ({n}, {k}), one per output")
    return np.broadcast_to(base, (n, k)).copy()
