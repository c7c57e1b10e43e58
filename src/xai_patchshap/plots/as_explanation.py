"""Attributions of other libraries, in the form that ``shap.image_plot`` draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import shap
from numpy.typing import ArrayLike

from ..explainers.explanations import named_explanation
from .read_attributions import AnyLayout, base_values_of, is_drawn, read_attributions

__all__ = ["as_explanation"]


def as_explanation(
    attributions: Any,
    images: Any = None,
    *,
    layout: AnyLayout = "auto",
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
    drawn = isinstance(attributions, shap.Explanation) and is_drawn(attributions, layout)
    given = (images, output_names, base_values, feature_mask)
    if drawn and all(argument is None for argument in given):
        return attributions
    read = read_attributions(
        "attributions", attributions, images, layout, output_names, feature_mask
    )
    base = read.base if base_values is None else base_values_of(base_values, *read.n_and_k)
    return named_explanation(read.values, base, read.data, read.names)
