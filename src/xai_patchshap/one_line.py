"""One function for a photograph and a model, whatever they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import shap
from PIL import Image
from torch import Tensor

from .amortized import ShapleyViT, load_explainer
from .dispatch import Explainer
from .errors import bad
from .explainers._shap import Ranked
from .masking import PatchMasker, layout_of
from .named_models import NamedModel, load_model

__all__ = ["METHODS", "explain_image"]

METHODS = ("patch-kernel-shap", "owen-bpt", "vit-shapley")


def explain_image(
    model: Any,
    image: Any,
    *,
    method: str = "patch-kernel-shap",
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
        Anything that :func:`~xai_patchshap.named_models.load_model` takes: a module, a
        function of arrays or tensors, an ONNX file, ``"timm:NAME"``, a transformers pipeline.
        For ``"vit-shapley"`` a ``ShapleyViT`` or its checkpoint.
    image : ndarray, Tensor, PIL.Image.Image or path
        (H, W, C), (C, H, W), (H, W) or a batch of these, in the units that the model takes;
        photographs and files are resized, cropped and scaled to [0, 1].
    method : {"patch-kernel-shap", "owen-bpt", "vit-shapley"}
        Shapley values of patches, Owen values to the pixel, or one pass of a trained network.
    labels : int, str, list of these, or "top3" and the like, optional
        Outputs to explain, by index or name; the largest by default.
    budget : int or "auto"
        Model evaluations for each image.
    background, players
        As in :class:`PatchMasker`; vit-shapley has its own.
    layout : {"auto", "NCHW", "NHWC"}
        Where the channels are. By default where there are 1, 3 or 4 of them; where both
        could be, last for arrays and first for tensors.
    batch_size : int or "auto"
    class_names : sequence of str, optional
        Names of the outputs, where the model has none.
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
    kind = str(method).replace("_", "-")
    if kind not in METHODS:
        raise bad("method", repr(method), f"one of {METHODS}", "For pairs, use InteractionShap.")
    if kind == "vit-shapley":
        if players is not None or background not in ("mean", "drop"):
            raise bad(
                "players or background",
                f"{players!r}, {background!r}",
                "neither for vit-shapley: the training has settled them",
            )
        network = model if isinstance(model, ShapleyViT) else load_explainer(model)
        names = class_names
        x, _ = _as_batch(image, NamedModel(network, "", network.image_size), layout)
        explainer = Explainer(network, None, algorithm=kind, seed=seed, **options)
    else:
        named = load_model(model, class_names=class_names)
        names = named.class_names
        x, axes = _as_batch(image, named, layout)
        masker = PatchMasker(players, background, axes)
        explainer = Explainer(named.model, masker, algorithm=kind, seed=seed, **options)
    explainer.output_names = None if names is None else list(names)
    explanation: shap.Explanation = explainer(
        x,
        max_evals=budget,
        batch_size=batch_size,
        outputs=_chosen(labels, names),
        silent=not progress,
    )
    return explanation


def _as_batch(image: Any, named: NamedModel, layout: Any) -> tuple[Any, Any]:
    """A batch of images, and where its channels are."""
    if isinstance(image, str | PathLike):
        try:
            with Image.open(image) as opened:
                image = opened.convert("RGBA" if named.channels == 4 else "RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise bad("image", f"'{image}'", "a readable image file", f"({error})") from error
    if isinstance(image, Image.Image):
        return named.prepare(image)[None], "NCHW"
    x = image if isinstance(image, Tensor) else np.asarray(image)
    if x.ndim == 2:
        axes = layout if layout != "auto" else "NCHW" if isinstance(x, Tensor) else "NHWC"
        return (x[None, None] if axes == "NCHW" else x[None, :, :, None]), axes
    if x.ndim not in (3, 4):
        raise bad(
            "image", f"shape {tuple(x.shape)}", "(H, W), (H, W, C), (C, H, W), or a batch of these"
        )
    x = x[None] if x.ndim == 3 else x
    return x, layout_of(x, layout)


def _chosen(labels: Any, names: Sequence[str] | None) -> Any:
    """What the explainers take as outputs."""
    if labels is None:
        return Ranked(1, "max", if_any=True)
    if isinstance(labels, str) and re.fullmatch("top[1-9][0-9]*", labels):
        return Ranked(int(labels[3:]), "max")
    several = isinstance(labels, list | tuple | np.ndarray)
    chosen = []
    for label in labels if several else [labels]:
        if isinstance(label, str):
            # ImageNet's names are lists of synonyms.
            known = [n.lower() for n in names or ()]
            found = [i for i, n in enumerate(known) if label.lower() in (n, *n.split(", "))]
            if len(found) != 1:
                came = f"{label!r}, which names {len(found)} of the outputs"
                raise bad(
                    "labels", came, "indices, 'topN', or names that the model or class_names has"
                )
            chosen.append(found[0])
        elif isinstance(label, int | np.integer) and not isinstance(label, bool):
            chosen.append(int(label))
        else:
            raise bad("labels", repr(label), "an index, a name, a list of these, or 'topN'")
    if not chosen:
        raise bad("labels", "an empty list", "at least one")
    return chosen
