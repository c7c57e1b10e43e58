"""The one table of our methods: how they are spelled, and what their classes are called.

:func:`xai_patchshap.explainers.registry.method_class` gives the classes. Reading the names
imports nothing heavy, so that the command line can check them first.
"""

from __future__ import annotations

from difflib import get_close_matches

from .errors import bad

__all__: list[str] = []  # read by the registry, explain_image, the command line and comparisons

# The class's name in small letters; the command line has - for _.
METHODS = {
    "patch_kernel_shap": "PatchKernelShap",
    "owen_bpt": "OwenBPT",
    "interaction_shap": "InteractionShap",
    "vit_shapley_amortized": "ViTShapleyAmortized",
}


def underscored(name: str) -> str:
    """The name of a method, which may come as the command line spells it."""
    return name.replace("-", "_")


def dashed(name: str) -> str:
    """The name of a method, as the command line spells it."""
    return name.replace("_", "-")


def nearest(name: str) -> str:
    """A question whether the method most like a name that none has was meant, or nothing."""
    found = get_close_matches(underscored(name).lower(), METHODS, n=1)
    spell = dashed if "-" in name else str
    return f"Did you mean {spell(found[0])!r}?" if found else ""


def check_method(what: str, name: object) -> str:
    """The name of one of our methods, in either spelling, or an error."""
    if isinstance(name, str) and underscored(name) in METHODS:
        return underscored(name)
    raise bad(what, repr(name), f"one of {tuple(METHODS)}", nearest(str(name)))
