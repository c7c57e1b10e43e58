"""The explainers: Captum Attributions and shap Explainers in one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .base import PatchExplainer
    from .interaction_shap import InteractionShap
    from .owen_bpt import OwenBPT
    from .patch_kernel_shap import PatchKernelShap
    from .solve import Run
    from .vit_shapley_amortized import ViTShapleyAmortized
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "PatchExplainer": "base",
            "InteractionShap": "interaction_shap",
            "OwenBPT": "owen_bpt",
            "PatchKernelShap": "patch_kernel_shap",
            "Run": "solve",
            "ViTShapleyAmortized": "vit_shapley_amortized",
        },
    )

__all__ = [
    "InteractionShap",
    "OwenBPT",
    "PatchExplainer",
    "PatchKernelShap",
    "Run",
    "ViTShapleyAmortized",
]
