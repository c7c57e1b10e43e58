"""Shapley-based attribution of image models, as Captum Attributions and shap Explainers."""

from __future__ import annotations

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
from .players import Players, grid_players, mask_players
from .tokens import TokenDropping

__version__ = "0.1.0"

__all__ = [
    "Explainer",
    "InteractionShap",
    "Interactions",
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
    "grid_players",
    "mask_players",
    "register",
    "unregister",
]
