"""Models: whatever the user has, as one function of a batch."""

from __future__ import annotations

from .batch import BatchModel
from .huggingface import HFModel
from .load import DEMO_MODEL, load_model
from .named_model import NamedModel, ScoredImages
from .onnx import OnnxModel

__all__ = [
    "DEMO_MODEL",
    "BatchModel",
    "HFModel",
    "NamedModel",
    "OnnxModel",
    "ScoredImages",
    "load_model",
]
