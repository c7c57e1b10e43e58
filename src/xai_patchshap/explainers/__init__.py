"""The explainers: Captum Attributions and shap Explainers in one."""

from __future__ import annotations

from .base import PatchExplainer
from .interaction_shap import InteractionShap
from .owen_bpt import OwenBPT
from .patch_kernel_shap import PatchKernelShap
from .run import Run
from .vit_shapley_amortized import ViTShapleyAmortized

__all__ = [
    "InteractionShap",
    "OwenBPT",
    "PatchExplainer",
    "PatchKernelShap",
    "Run",
    "ViTShapleyAmortized",
]
