"""The explainers: Captum Attributions and shap Explainers in one."""

from __future__ import annotations

from ._base import PatchExplainer
from ._runner import Run
from .interaction_shap import InteractionShap
from .owen_bpt import OwenBPT
from .patch_kernel_shap import PatchKernelShap
from .vit_shapley_amortized import ViTShapleyAmortized

__all__ = [
    "InteractionShap",
    "OwenBPT",
    "PatchExplainer",
    "PatchKernelShap",
    "Run",
    "ViTShapleyAmortized",
]
