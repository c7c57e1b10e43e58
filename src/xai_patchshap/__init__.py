"""Shapley-based attribution of image models, as Captum Attributions and shap Explainers."""

from __future__ import annotations

from ._versions import show_versions
from .dispatch import Explainer, register, unregister
from .errors import PatchShapError
from .estimators import Interactions
from .explainers import (
    InteractionShap,
    OwenBPT,
    PatchExplainer,
    PatchKernelShap,
    Run,
    ViTShapleyAmortized,
)
from .masking import PatchMasker
from .named_models import load_model
from .one_line import explain_image
from .onnx_models import OnnxModel
from .players import Players, grid_players, mask_players
from .superpixels import slic
from .tokens import TokenDropping

__version__ = "0.1.0"

__all__ = [
    "Explainer",
    "InteractionShap",
    "Interactions",
    "OnnxModel",
    "OwenBPT",
    "PatchExplainer",
    "PatchKernelShap",
    "PatchMasker",
    "PatchShapError",
    "Players",
    "Run",
    "TokenDropping",
    "ViTShapleyAmortized",
    "__version__",
    "explain_image",
    "grid_players",
    "load_model",
    "mask_players",
    "register",
    "show_versions",
    "slic",
    "unregister",
]
