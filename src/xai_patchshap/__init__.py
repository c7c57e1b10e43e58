"""Shapley-based attribution of image models, as Captum Attributions and shap Explainers."""

from __future__ import annotations

from ._versions import show_versions
from .errors import PatchShapError
from .estimators import Interactions
from .explain_image import explain_image
from .explainers import (
    InteractionShap,
    OwenBPT,
    PatchExplainer,
    PatchKernelShap,
    Run,
    ViTShapleyAmortized,
)
from .explainers.registry import Explainer, register, unregister
from .masking.patch_masker import PatchMasker
from .masking.token_dropping import TokenDropping
from .models.load import load_model
from .models.onnx import OnnxModel
from .players.grids import Players, grid_players, mask_players
from .players.superpixels import slic

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
