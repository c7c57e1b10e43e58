"""Attributions of one output by several methods, in columns of one picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shap
from numpy.typing import ArrayLike, NDArray

from ..errors import bad
from ..explainers.explanations import named_explanation
from .read_attributions import AnyLayout, Names, first_images, plain, read_attributions

__all__ = ["side_by_side"]


def side_by_side(
    methods: Mapping[str, Any],
    images: Any = None,
    output: int | Sequence[int] | ArrayLike | None = None,
    *,
    layout: AnyLayout = "auto",
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
    images = first_images(methods.values()) if images is None else images
    columns, bases = [], []
    for name, attributions in methods.items():
        what = f"methods[{name!r}]"
        read = read_attributions(what, attributions, images, layout, None, None)
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


def _by_number(what: str, output: Any, names: Names, n: int) -> NDArray[np.int64] | None:
    """Where the output of each image is among some that were chosen, (N,); None: not known.

    An explainer that was asked for some of the outputs calls them by their numbers.
    """
    rows = np.broadcast_to(np.array(names, dtype=str), (n, np.shape(names)[-1]))
    numbered = all(re.fullmatch(r"Output \d+", name) for name in rows.ravel())
    wanted = np.asarray(plain(output))
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
    chosen = np.asarray(plain(output))
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
