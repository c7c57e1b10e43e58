"""How well a map finds an object: intersection over union with its mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import bad
from .checks import finite_array

__all__ = ["IoU", "max_iou"]


class IoU(NamedTuple):
    """The largest intersection over union of a thresholded map.

    Attributes
    ----------
    iou : float
        In [0, 1].
    threshold : float
        The attributions ``>= threshold`` give it; the highest such one.
    """

    iou: float
    threshold: float


def max_iou(attribution: ArrayLike, truth: ArrayLike) -> IoU:
    """Largest IoU of ``attribution >= t`` with the truth, over every threshold t.

    Exact over all distinct attributions, in O(n log n).

    Parameters
    ----------
    attribution : array_like of any shape
        One finite number per element.
    truth : array_like of the same shape
        Bool, or numbers of which all but 0 are true, such as 0 and 255; some must be.

    Raises
    ------
    PatchShapError
        If the shapes differ, a number is not finite, or nothing is true.

    Examples
    --------
    >>> max_iou([[0.9, 0.4], [0.5, 0.1]], [[1, 1], [0, 0]])
    IoU(iou=0.6666666666666666, threshold=0.4)
    """
    scores, true = finite_array("attribution", attribution), finite_array("truth", truth) != 0
    if true.shape != scores.shape:
        raise bad("truth", f"shape {true.shape}", f"{scores.shape}, that of the attribution")
    if not true.any():
        raise bad("truth", "no true element", "at least one, as the union may be empty otherwise")
    order = np.argsort(-scores, axis=None, kind="stable")
    ranked = scores.ravel()[order]
    hits = np.cumsum(true.ravel()[order])
    iou = hits / (np.arange(1, len(hits) + 1) + hits[-1] - hits)
    # A threshold takes all equal attributions or none: only the last of each counts.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    best = ends[np.argmax(iou[ends])]
    return IoU(float(iou[best]), float(ranked[best]))
