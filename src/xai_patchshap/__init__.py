"""Shapley-based attribution of image models, as Captum Attributions and shap Explainers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy_names
from .errors import PatchShapError
from .explain_image import explain_image  # now: its module has the same name

if TYPE_CHECKING:
    from ._compat import show_versions
    from .estimators import Interactions
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
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Explainer": "explainers.registry",
            "InteractionShap": "explainers",
            "Interactions": "estimators",
            "OnnxModel": "models.onnx",
            "OwenBPT": "explainers",
            "PatchExplainer": "explainers",
            "PatchKernelShap": "explainers",
            "PatchMasker": "masking.patch_masker",
            "Players": "players.grids",
            "Run": "explainers",
            "TokenDropping": "masking.token_dropping",
            "ViTShapleyAmortized": "explainers",
            "grid_players": "players.grids",
            "load_model": "models.load",
            "mask_players": "players.grids",
            "register": "explainers.registry",
            "show_versions": "_compat",
            "slic": "players.superpixels",
            "unregister": "explainers.registry",
        },
        packages=(
            "amortized",
            "errors",
            "estimators",
            "evaluation",
            "explainers",
            "masking",
            "models",
            "players",
            "plots",
            "samples",
            "targets",
            "testing",
        ),
    )

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
