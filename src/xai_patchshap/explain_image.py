"""One function for a photograph and a model, whatever they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._validation import list_of_names, maybe
from .errors import PatchShapError, bad, rename, warnings_said
from .explainers.methods import check_method

if TYPE_CHECKING:
    import shap

    from .models.named_model import NamedModel

__all__ = ["explain_image"]

# What Captum, shap and the explainers call the arguments of explain_image.
_ELSEWHERE = {
    "algorithm": "method",
    "baselines": "background",
    "feature_mask": "players",
    "images": "image",
    "masker": "players",
    "max_evals": "budget",
    "n_samples": "budget",
    "nsamples": "budget",
    "output_names": "class_names",
    "outputs": "labels",
    "ranked_outputs": "labels",
    "silent": "progress",
    "target": "labels",
    "x": "image",
}
# What the explainers say in errors and warnings, and how it is said here.
_SAID = (
    (r"\bmax_evals=", "budget="),
    (r"Choose some with outputs=.*", "Explain fewer labels, or fewer images at a time."),
    (r"PatchMasker\(layout='NHWC'\)", "layout='NHWC'"),
    (r"algorithm='(\w+)'", r"method='\1'"),
    (r" max_evals, batch_size, outputs and silent go .*", ""),
)


def explain_image(
    model: Any,
    image: Any,
    *,
    method: str = "patch_kernel_shap",
    labels: Any = None,
    budget: int | str = "auto",
    background: Any = "mean",
    players: Any = None,
    layout: str = "auto",
    batch_size: int | str = "auto",
    class_names: Sequence[str] | None = None,
    seed: int | None = 0,
    progress: bool = False,
    **options: Any,
) -> shap.Explanation:
    """Explain what a model says of an image, or of a batch of them.

    Parameters
    ----------
    model : torch.nn.Module, callable, str, path, bytes or pipeline
        Anything that :func:`~xai_patchshap.models.load.load_model` takes or returns: a
        module, a function of arrays or tensors, an ONNX file, ``"timm:NAME"``, a transformers
        pipeline. For ``"vit_shapley_amortized"`` a ``ShapleyViT`` or its checkpoint.
    image : ndarray, Tensor, PIL.Image.Image, path, or list of photographs
        (H, W, C), (C, H, W), (H, W), or a batch of these.

        Photographs are turned upright, resized and cropped to the model's size, and scaled
        to [0, 1]. A PIL image or a file is one. For a model whose preprocessing is this
        package's (of a name, of transformers, or a ``ShapleyViT``) so are uint8 arrays, 0 to
        255, and float arrays in [0, 1] of another size than the model's; those of its size
        are taken as they are. Your own module, function or ONNX model gets arrays and tensors
        as they are, in the units that it takes.
    method : {"patch_kernel_shap", "owen_bpt", "vit_shapley_amortized"}
        Shapley values of patches, Owen values to the pixel, or one pass of a trained network.
    labels : int, str, list of these, or "top3" and the like, optional
        Outputs to explain, by index or name; the largest by default.
    budget : int or "auto"
        Model evaluations for each image.
    background, players
        As in :class:`PatchMasker`, for images as the model gets them; a trained network has its
        own. The default background is the image's mean colour, since images are in [0, 1] here;
        that of the classes is 0, as Captum's, since they see images in the model's own units.
    layout : {"auto", "NCHW", "NHWC"}
        Where the channels are. By default where there are 1, 3 or 4 of them; where both
        could be, last for arrays and first for tensors.
    batch_size : int or "auto"
    class_names : sequence of str, optional
        Names of the outputs, by default the model's own if it has any.
    seed : int or None
    progress : bool
    **options
        Further arguments of the explainer, as ``hierarchy=`` of :class:`OwenBPT`.

    Returns
    -------
    shap.Explanation
        ``values`` (N, H, W, C, K), channels last, without K for a model with a single output.
        Over an image they sum to ``f(x) - f(background)``. ``shap.image_plot`` draws it.

    Raises
    ------
    PatchShapError
        If anything does not fit; but for labels and the model's own output, which need one
        evaluation to be known, before the model is called.

    Examples
    --------
    >>> import numpy as np
    >>> def model(images):  # numpy in, numpy out
    ...     return images.mean(axis=(1, 2))
    >>> image = np.random.default_rng(0).random((32, 32, 3))
    >>> explanation = explain_image(model, image, players=(4, 4), labels="green",
    ...                             class_names=["red", "green", "blue"], background=0.0)
    >>> explanation.values.shape
    (1, 32, 32, 3, 1)
    >>> bool(np.isclose(explanation.values.sum(), image[..., 1].mean()))
    True
    """
    for name in options:
        if name in _ELSEWHERE:
            raise bad("arguments", f"{name}=", f"{_ELSEWHERE[name]}=, as it is called here")
    kind = check_method("method", method)
    if kind == "interaction_shap":
        raise bad("method", repr(method), "one whose values are a map", "Use InteractionShap.")
    # Only now: a name that is wrong is refused before torch is imported.
    from .explainers.registry import Explainer, is_network
    from .masking.patch_masker import PatchMasker
    from .models.image_arrays import as_batch
    from .models.load import load_model, prepares_images

    with _in_these_words():
        if kind == "vit_shapley_amortized":
            named = _trained(model, class_names)
            is_mean_or_drop = isinstance(background, str) and background in ("mean", "drop")
            if players is not None or not is_mean_or_drop:
                raise bad(
                    "players or background",
                    f"{players!r}, {background!r}",
                    "neither for vit_shapley_amortized: the training has settled them",
                )
            background = "drop"
        else:
            named = load_model(model, class_names=class_names)
        is_prepared = prepares_images(named.model) or is_network(named.model)
        x, axes = as_batch(image, named, layout, is_prepared)
        masker = PatchMasker(players, background, axes)
        names = named.class_names
        explainer = Explainer(
            named.model,
            masker,
            algorithm=kind,
            output_names=None if names is None else list(names),
            seed=seed,
            **options,
        )
        explanation: shap.Explanation = explainer(
            x,
            max_evals=budget,
            batch_size=batch_size,
            outputs="top1" if labels is None else labels,
            silent=not progress,
        )
    return explanation


@contextmanager
def _in_these_words() -> Iterator[None]:
    """Let errors and warnings speak of the arguments of :func:`explain_image`."""
    try:
        with warnings_said(_said):
            yield
    except PatchShapError as error:
        rename(error, _ELSEWHERE)
        error.args = (_said(str(error)),)
        raise


def _said(message: str) -> str:
    for theirs, ours in _SAID:
        message = re.sub(theirs, ours, message)
    return message


def _trained(model: Any, class_names: Sequence[str] | None) -> NamedModel:
    """An explainer network, or that of a checkpoint, whose card may name the classes."""
    from .amortized import ShapleyViT, load_card, load_explainer
    from .models.named_model import NamedModel

    names = maybe(list_of_names())("class_names", class_names)
    if isinstance(model, str | PathLike):
        file = Path(model)
        model = load_explainer(file)
        names = load_card(file).get("class_names") if names is None else names
    if not isinstance(model, ShapleyViT):
        raise bad(
            "model",
            f"an object of type {type(model).__name__}",
            "a ShapleyViT or the path of its checkpoint for vit_shapley_amortized",
            "xai-patchshap train makes one for your own transformer.",
        )
    known = None if names is None else tuple(str(n) for n in names)
    return NamedModel(model, "", model.image_size, class_names=known)
