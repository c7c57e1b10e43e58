"""Image classifiers of Hugging Face transformers as functions of images in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .errors import PatchShapError, bad

__all__ = ["HFModel", "is_transformers"]

_WRAP = "Any other model can be wrapped: load_model(lambda images: model(images).logits)."


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
        that was made from a configuration gets its images in [0, 1] as they are.
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
    class_names : tuple of str
        One name for each output.
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
        if isinstance(model, str):
            model, processor = _from_hub(model)
        elif hasattr(model, "task"):
            if model.task != "image-classification":
                raise bad(
                    "model", f"a pipeline for {model.task!r}", "'image-classification'", _WRAP
                )
            model, processor = model.model, model.image_processor
        else:
            processor = _processor_of(_checked(model))
        self.model: Any = _checked(model)
        config = model.config
        sees = getattr(config, "vision_config", config)  # of a model of text and images
        channels = getattr(sees, "num_channels", 3)
        self.channels: int = channels if isinstance(channels, int) else 3
        names = config.id2label
        self.class_names: tuple[str, ...] = tuple(str(names[i]) for i in range(len(names)))
        frame = _probed(processor, sees, self.channels)
        self.size, self.crop, self._flips = frame.size, frame.crop, frame.flips
        self.scale, self._activation = _activation(config, probability)
        like = next(model.parameters(), torch.zeros(()))
        for name, values in (("mean", frame.mean), ("std", frame.std)):
            buffer = torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
            self.register_buffer(name, buffer, persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, K) of images (B, C, H, W) in [0, 1], RGB or gray."""
        images = images.flip(1) if self._flips else images
        logits: Tensor = self.model(pixel_values=(images - self.mean) / self.std).logits
        if self._activation == "softmax":
            return logits.softmax(-1)
        return logits.sigmoid() if self._activation == "sigmoid" else logits


def is_transformers(model: object) -> bool:
    """Whether ``model`` is a model or a pipeline of transformers, without importing it."""
    return any(
        c.__module__.startswith("transformers.") and c.__name__ in ("PreTrainedModel", "Pipeline")
        for c in type(model).__mro__
    )


def _checked(model: Any) -> Any:
    """``model``, if it is a classifier of images."""
    if any("ForImageClassification" in c.__name__ for c in type(model).__mro__):
        return model
    raise bad(
        "model",
        f"a {type(model).__name__}",
        "a ...ForImageClassification of transformers",
        _WRAP,
    )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise PatchShapError(
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
        reason = str(error).strip().partition("\n")[0]
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


def _probed(processor: Any, config: Any, channels: int) -> _Frame:
    """What a processor does, found by showing it images: its options differ from class to class."""
    side = getattr(config, "image_size", None) or 224
    size = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
    if processor is None:
        return _Frame(size, 1.0, [0.0], [1.0], flips=False)
    rest = (0,) * (channels - 1)
    colors = [0, 255, 255] if channels == 1 else [(0, *rest), (255,) * channels, (255, *rest)]
    try:
        black, white, red = (_shown(processor, color, size, channels) for color in colors)
    except Exception as error:
        raise bad(
            "image processor",
            f"a {type(processor).__name__} that fails on an image of {channels} channels",
            f"the one of a model of {channels} channels",
            f"({type(error).__name__}: {error})",
        ) from error
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


def _activation(config: Any, probability: bool) -> tuple[str, str]:
    """What the outputs are, and the function that makes them of the logits."""
    if config.problem_type == "regression":
        return "output", ""
    if not probability:
        return "logit", ""
    several = config.problem_type == "multi_label_classification" or len(config.id2label) == 1
    return "probability", "sigmoid" if several else "softmax"
