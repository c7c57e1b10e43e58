"""The one table of our methods: how they are spelled, and what their classes are called.

:func:`xai_patchshap.explainers.registry.method_class` gives the classes. Reading the names
imports nothing heavy, so that the command line can check them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

from ..errors import bad

__all__: list[str] = []  # read by the registry, explain_image, the command line and comparisons

# The class's name in small letters; the command line has - for _.
METHODS = {
    "patch_kernel_shap": "PatchKernelShap",
    "owen_bpt": "OwenBPT",
    "interaction_shap": "InteractionShap",
    "vit_shapley_amortized": "ViTShapleyAmortized",
}
# All that a comparison knows: ours, and those of others.
COMPARED = (
    *METHODS,
    "captum_kernel_shap",
    "leave_one_out",
    "rise",
    "integrated_gradients",
    "saliency",
    "input_x_gradient",
    "smoothgrad",
    "attention_rollout",
    "last_attention",
    "random",
)


def underscored(name: str) -> str:
    """The name of a method, which may come as the command line spells it."""
    return name.replace("-", "_")


def dashed(name: str) -> str:
    """The name of a method, as the command line spells it."""
    return name.replace("_", "-")


def nearest(
    name: str,
    spell: Callable[[str], str] | None = None,
    known: Iterable[str] = METHODS,
) -> str:
    """A question whether the name most like one that nobody has was meant, or nothing."""
    found = get_close_matches(underscored(name).lower(), known, n=1)
    spell = spell or (dashed if "-" in name else str)
    return f"Did you mean {spell(found[0])!r}?" if found else ""


def check_method(
    what: str,
    name: object,
    spell: Callable[[str], str] | None = None,
    known: Sequence[str] = tuple(METHODS),
) -> str:
    """The name of a method, which may come in either spelling, or an error."""
    if isinstance(name, str) and underscored(name) in known:
        return underscored(name)
    expected = f"one of {', '.join(map(spell or str, known))}"
    raise bad(what, repr(name), expected, nearest(str(name), spell, known))
