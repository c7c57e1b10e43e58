"""NamedModel: a model with what is needed to show it a photograph and to read its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import bad
from .onnx import OnnxModel
from .photographs import Crop

__all__ = ["NamedModel", "ScoredImages"]


@dataclass(frozen=True)
class NamedModel:
    """A model that was loaded, with what is needed to show it a photograph.

    Attributes
    ----------
    model : callable
        Maps images (B, channels, height, width), RGB or gray in [0, 1], to scores (B, K).
    name : str
        As it was asked for; the class of a model that came without a name.
    size : (int, int)
        Height and width of its images, in pixels.
    crop : float
        Share of the resized image that the centre crop keeps.
    class_names : tuple of str or None
        One name for each output, if known.
    scale : {"probability", "logit", "output"}
        What the scores are.
    channels : {3, 1, 4}
        Channels of its images: RGB, gray or RGBA.
    """

    model: Callable[..., Any]
    name: str
    size: tuple[int, int]
    crop: float = 1.0
    class_names: tuple[str, ...] | None = None
    scale: str = "output"
    channels: int = 3

    def __repr__(self) -> str:
        names = list(self.class_names or ())
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        classes = f", {len(names):,} classes: {some}" if names else ""
        (height, width), kind = self.size, type(self.model).__name__
        return f"NamedModel({self.name or kind}, {height}x{width} pixels, {self.scale}{classes})"

    def prepare(self, image: Image.Image, zoom: int = 1) -> Tensor:
        """A photograph as the model takes it; see :class:`~xai_patchshap.models.photographs.Crop`.

        Raises
        ------
        PatchShapError
            If the model does not take photographs, having other channels than 1, 3 or 4 or
            taking whole numbers; or if the photograph has more than 16 bits.
        """
        if isinstance(self.model, OnnxModel) and self.model.rounds_photographs:
            raise bad(
                "image",
                f"a photograph, which is scaled to [0, 1], for {self.model!r} of whole numbers",
                "an array in its own units",
                "OnnxModel(..., std=1 / 255) takes photographs, and then arrays in [0, 1].",
            )
        return Crop(self.size, self.crop, self.channels)(image, zoom)


class ScoredImages(nn.Module):
    """A classifier with its normalisation in front and, if asked for, a softmax behind."""

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        probability: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.probability = probability
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @property
    def scale(self) -> str:
        """What the scores are."""
        return "probability" if self.probability else "logit"

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, K) of images (B, 3, H, W), RGB in [0, 1]."""
        scores: Tensor = self.model((images - self.mean) / self.std)
        return scores.softmax(-1) if self.probability else scores
