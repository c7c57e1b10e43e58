"""Image classifiers of Hugging Face transformers as functions of images in [0, 1]."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import MissingExtraError, PatchShapError, bad, warn
from .batch import BatchModel

__all__ = ["HFModel", "is_transformers"]

# What classes of models are called, and the scores (B, K) or (B,) in their outputs.
_SCORES = (
    ("ForImageClassification", ".logits"),
    ("ForObjectDetection", ".logits.amax(1)"),
    ("ForSemanticSegmentation", ".logits.mean((2, 3))"),
    ("ForUniversalSegmentation", ".class_queries_logits.amax(1)"),
    ("ForDepthEstimation", ".predicted_depth.mean((1, 2))"),
)
# Arguments of models that do not take images alone, or take the patches of images of any size.
_MORE = {"input_ids", "spatial_shapes", "input_points"}


@dataclass(frozen=True)
class _Frame:
    """From a photograph in [0, 1] to what the model takes, ``(image - mean) / std``."""

    size: tuple[int, int]
    crop: float
    mean: list[float]
    std: list[float]
    flips: bool


class HFModel(nn.Module):
    """An image classifier of transformers with what its image processor does inside.

    Photographs are resized by :meth:`NamedModel.prepare`, which cuts out the centre where some
    image processors squeeze the whole photograph; rescaling, normalisation and the order of
    the channels are the processor's. Needs transformers:
    ``pip install 'xai-patchshap[hf]'``.

    Parameters
    ----------
    model : str, transformers pipeline, or ...ForImageClassification
        A name on the Hugging Face hub, which is downloaded unless it is cached, or the folder
        of a model; an ``image-classification`` pipeline; or a model alone. Beside a model
        that came from a checkpoint, its image processor is looked for in the local files; one
        that was made from a configuration gets its images in [0, 1] as they are. It is shown
        one black image, to count its outputs.
    probability : bool
        Whether to give probabilities, or logits.

    Attributes
    ----------
    size : (int, int)
        Height and width of its images, in pixels.
    crop : float
        Share of the resized image that the centre crop keeps.
    channels : int
        Channels of its images.
    class_names : tuple of str or None
        One name for each output, if any has one.
    scale : {"probability", "logit", "output"}
        What the outputs are: after a softmax or, for several labels at once and for a single
        one, a sigmoid each; ``"output"`` for a regression.

    Raises
    ------
    PatchShapError
        If the model cannot be had, classifies no images, or transformers is missing.

    Examples
    --------
    A small network with random weights; online, ``HFModel("google/vit-base-patch16-224")``.

    >>> import torch
    >>> from transformers import ViTConfig, ViTForImageClassification
    >>> from xai_patchshap import PatchKernelShap
    >>> config = ViTConfig(
    ...     image_size=32, patch_size=16, hidden_size=32, num_hidden_layers=1,
    ...     num_attention_heads=2, intermediate_size=64, num_labels=3,
    ... )
    >>> model = HFModel(ViTForImageClassification(config))
    >>> images = torch.rand(1, 3, 32, 32)
    >>> PatchKernelShap(model)(images, max_evals=60, silent=True).values.shape
    (1, 32, 32, 3, 3)
    """

    def __init__(self, model: Any, *, probability: bool = True) -> None:
        super().__init__()
        given, asked = model, None
        if isinstance(model, str):
            model, processor = _from_hub(model)
            given = model
        elif hasattr(model, "task"):
            if model.task != "image-classification":
                raise _refused(model, f"a pipeline for {model.task!r}")
            asked = getattr(model, "_postprocess_params", {}).get("function_to_apply")
            model, processor = model.model, model.image_processor
        else:
            processor = _processor_of(_checked(model))
        self.model: Any = _checked(model)
        config = model.config
        sees = getattr(config, "vision_config", config)  # of a model of text and images
        channels = getattr(sees, "num_channels", 3)
        self.channels: int = channels if isinstance(channels, int) else 3
        frame = _probed(processor, sees, self.channels, given)
        self.size, self.crop, self._flips = frame.size, frame.crop, frame.flips
        like = next(model.parameters(), torch.zeros(()))
        for name, values in (("mean", frame.mean), ("std", frame.std)):
            buffer = torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
            self.register_buffer(name, buffer, persistent=False)
        self.mean: Tensor
        self.std: Tensor
        n_outputs = self._shown_black(given)
        self.scale, self._activation = _activation(config, n_outputs, probability, asked)
        self.class_names = _names(config.id2label, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, K) of images (B, C, H, W) in [0, 1], RGB or gray."""
        logits = self._logits(images)
        if self._activation == "softmax":
            return logits.softmax(-1)
        return logits.sigmoid() if self._activation == "sigmoid" else logits

    def _logits(self, images: Tensor) -> Tensor:
        images = images.flip(1) if self._flips else images
        outputs = self.model(pixel_values=(images - self.mean) / self.std)
        logits: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs.logits
        return logits

    def _shown_black(self, given: Any) -> int:
        """Number of outputs. A model that is not one of images is found out here."""
        black = self.mean.new_zeros((1, self.channels, *self.size))
        kind = type(self.model).__name__
        try:
            with BatchModel(self.model).running():
                shape = tuple(self._logits(black).shape)
        except Exception as error:  # each model fails in a way of its own
            came = f"a {kind} that fails on images {tuple(black.shape)}"
            raise _refused(given, came, error) from error
        if len(shape) != 2 or shape[0] != 1:
            raise _refused(given, f"a {kind} with logits {shape} of one image")
        return shape[1]


def is_transformers(model: object) -> bool:
    """Whether ``model`` is a model or a pipeline of transformers, without importing it."""
    return _descends(model, "PreTrainedModel") or _descends(model, "Pipeline")


def pipeline_of(model: Any) -> Any:
    """A pipeline of transformers, also inside the wrapper for texts that shap has; or None."""
    if type(model).__module__.startswith("shap.models."):
        model = getattr(model, "inner_model", None)
    return model if _descends(model, "Pipeline") else None


def _descends(model: object, name: str) -> bool:
    return any(
        c.__module__.startswith("transformers.") and c.__name__ == name for c in type(model).__mro__
    )


def sees_images(pipeline: Any) -> bool:
    """Whether a pipeline of transformers has something that reads images."""
    return getattr(pipeline, "image_processor", None) is not None


def taken(model: Any) -> Any:
    """What an explainer makes of a model: an :class:`HFModel` of a pipeline that classifies images.

    Raises
    ------
    PatchShapError
        For another pipeline, or a model of transformers whose first argument is no image.
    """
    pipeline = pipeline_of(model)
    if pipeline is not None:
        return HFModel(pipeline)
    if type(model).__module__.startswith("transformers.") and is_transformers(model):
        kind, more = type(model).__name__, _MORE.intersection(_arguments(model))
        if more or "ForVideo" in kind:
            raise _refused(model, f"a {kind}, which takes {', '.join(more) or 'several frames'}")
    return model


def _checked(model: Any) -> Any:
    """``model``, if it is a classifier of images."""
    if any("ForImageClassification" in c.__name__ for c in type(model).__mro__):
        return model
    raise _refused(model, f"a {type(model).__name__}")


def _refused(given: Any, came: str, cause: Exception | None = None) -> PatchShapError:
    """The error about a model or pipeline that is no function of images, with the way out."""
    reason = "" if cause is None else f"({type(cause).__name__}: {_line(cause)}) "
    return bad(
        "model",
        came,
        "an image-classification pipeline or a ...ForImageClassification of transformers that "
        "takes images (B, C, H, W)",
        reason + _way_out(given),
    )


def _way_out(given: Any) -> str:
    """The line that makes a function of images of a model or a pipeline."""
    is_pipe = hasattr(given, "task")
    model = given.model if is_pipe else given
    it, of = ("pipe.model", "pipe.") if is_pipe else ("model", "processor.")
    kind, arguments = type(model).__name__, _arguments(model)
    if not (sees_images(given) if is_pipe else "pixel_values" in arguments or "ForImage" in kind):
        return "It reads no images. For texts there is shap.Explainer(pipeline), without a masker."
    where = f"to({it}.device, {it}.dtype)"
    images = "images=list(images), do_rescale=False, return_tensors='pt'"
    images = f"**{of}image_processor({images}).{where}"
    scores = next((s for name, s in _SCORES if name in kind), None)
    if "pixel_values" not in arguments or "input_points" in arguments:
        scores = None
    elif hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
        padding = "'max_length'" if "siglip" in kind.lower() else "True"
        words = f"['a cat', 'a dog'], padding={padding}, return_tensors='pt'"
        images, scores = f"**{of}tokenizer({words}).to({it}.device), {images}", ".logits_per_image"
    elif scores is None and kind.endswith("Model"):
        # Convolutional ones pool without a module of that name.
        pooled = getattr(model, "pooler", None) is not None or hasattr(model.config, "depths")
        scores = ".pooler_output" if pooled else ".last_hidden_state.mean(1)"
    if scores is None:
        return (
            "explain_image and load_model take any function of images (B, C, H, W) that returns "
            "scores (B, K)."
        )
    if not is_pipe and "tokenizer" not in images:
        images = images.replace("processor.image_processor", "processor")
    return f"explain_image and load_model take a function: lambda images: {it}({images}){scores}"


def _arguments(model: Any) -> list[str]:
    return list(inspect.signature(model.forward).parameters)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            f"model: got no module {error.name!r}; expected transformers, which loads models of "
            "Hugging Face. Install it with: pip install 'xai-patchshap[hf]'"
        ) from error
    return transformers


def _from_hub(name: str) -> tuple[Any, Any]:
    """The model of that name and its image processor."""
    library = _transformers()
    try:
        model, found = library.AutoModelForImageClassification.from_pretrained(
            name, output_loading_info=True
        )
    except Exception as error:  # of the hub, of the file system, or of an unknown architecture
        reason = _line(error)
        raise bad(
            "model",
            f"'hf:{name}'",
            "an image classifier on the Hugging Face hub, cached or to be downloaded, or a folder",
            f"({type(error).__name__}: {reason})",
        ) from error
    if found["missing_keys"]:
        raise bad(
            "model",
            f"'hf:{name}' without {sorted(found['missing_keys'])[0]}",
            "the weights of a trained classifier",
            "The checkpoint may be of a backbone that is still to be fine-tuned.",
        )
    try:
        return model, library.AutoImageProcessor.from_pretrained(name)
    except Exception as error:
        raise bad(
            "model",
            f"'hf:{name}' without an image processor",
            "its preprocessor_config.json beside it",
            "Make a pipeline of the model and the processor, and give load_model this.",
        ) from error


def _processor_of(model: Any) -> Any:
    """The image processor beside a model's checkpoint; None for a model without one."""
    name = getattr(model.config, "_name_or_path", "")
    if not name:
        return None
    try:
        return _transformers().AutoImageProcessor.from_pretrained(name, local_files_only=True)
    except Exception as error:
        raise bad(
            "model",
            f"a {type(model).__name__} of {name!r} whose image processor is not in the local files",
            "the processor, which says how its images are normalised",
            "Hand over transformers.pipeline('image-classification', model=model, "
            "image_processor=processor).",
        ) from error


def _shown(processor: Any, color: Any, side: tuple[int, int], channels: int) -> Tensor:
    """What a processor makes of an image of one colour: (C, H, W)."""
    image: Any = np.empty((*side, channels), dtype=np.uint8)
    image[:] = color
    if channels == 3:  # not every processor takes arrays, nor gray photographs
        image = Image.fromarray(image)
    pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
    return pixels.float()


def _probed(processor: Any, config: Any, channels: int, given: Any) -> _Frame:
    """What a processor does, found by showing it images: its options differ from class to class."""
    side = getattr(config, "image_size", None) or 224
    size = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
    if processor is None:
        return _Frame(size, 1.0, [0.0], [1.0], flips=False)
    rest = (0,) * (channels - 1)
    colors = [0, 255, 255] if channels == 1 else [(0, *rest), (255,) * channels, (255, *rest)]
    try:
        black, white, red = (_shown(processor, color, size, channels) for color in colors)
    except KeyError as error:
        raise _refused(given, f"an image processor that makes no {error}") from error
    except Exception as error:
        raise bad(
            "image processor",
            f"a {type(processor).__name__} that fails on an image of {channels} channels",
            f"the one of a model of {channels} channels",
            f"({type(error).__name__}: {error})",
        ) from error
    if black.dim() != 3:
        came = f"an image processor that makes {tuple(black.shape)} of an image"
        raise _refused(given, came)
    height, width = black.shape[1:]
    centre = (slice(None), height // 2, width // 2)  # the border may be padded
    low, span = black[centre], white[centre] - black[centre]
    if len(low) != channels or not span.all():
        raise bad(
            "image processor",
            f"a {type(processor).__name__} that gives {len(low)} channels",
            f"the one of a model of {channels} channels",
        )
    flips = channels > 1 and bool(red[centre][0] == low[0])
    crop = _crop(processor, min(height, width))
    return _Frame((height, width), crop, (-low / span).tolist(), (1 / span).tolist(), flips)


def _crop(processor: Any, side: int) -> float:
    """Share of the resized photograph that the processor's centre crop keeps."""

    def edge(key: str) -> int | None:
        sizes = getattr(processor, "size", None)
        return sizes.get(key) if isinstance(sizes, dict) else getattr(sizes, key, None)

    timm = getattr(processor, "data_config", None)
    if timm is not None:
        return float(timm["crop_pct"])
    if getattr(processor, "do_center_crop", False):
        resized = edge("shortest_edge") or min(edge("height") or side, edge("width") or side)
        return min(1.0, side / resized)
    # ConvNeXt's processor crops small images only.
    share = getattr(processor, "crop_pct", None) if side < 384 else None
    return float(share or 1.0)


def _activation(config: Any, n_outputs: int, probability: bool, asked: Any) -> tuple[str, str]:
    """What the outputs are, and the function that makes them of the logits.

    ``asked``: the function that a pipeline was told to apply, if any.
    """
    problem = getattr(config, "problem_type", None)
    asked = getattr(asked, "value", asked)
    if problem == "regression" and asked in (None, "none"):
        return "output", ""
    if not probability or asked == "none":
        return "logit", ""
    several = problem == "multi_label_classification" or n_outputs == 1
    return "probability", asked or ("sigmoid" if several else "softmax")


def _names(given: Any, n_outputs: int) -> tuple[str, ...] | None:
    """The names of the outputs, from a mapping of their indices that may have gaps."""
    if not isinstance(given, Mapping) or not given:
        return None
    names = {}
    for key, name in given.items():
        with suppress(TypeError, ValueError):
            names[int(key)] = str(name)
    if set(names) != set(range(n_outputs)):
        warn(
            f"model: config.id2label names {_shortly(given)}; the model has the outputs 0 to "
            f"{n_outputs - 1}. Outputs without a name are called LABEL_i. Where the names are "
            "shifted, set model.config.id2label = {0: ..., 1: ...}."
        )
    return tuple(names.get(i, f"LABEL_{i}") for i in range(n_outputs))


def _shortly(keys: Mapping[Any, Any]) -> str:
    listed = [repr(key) for key in keys]
    return ", ".join(listed if len(listed) < 6 else [*listed[:3], "...", listed[-1]])
