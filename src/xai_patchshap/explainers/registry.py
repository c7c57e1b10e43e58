"""``shap.Explainer(model, masker, algorithm=...)`` with the explainers of this package.

shap has no registry: its ``Explainer`` chooses from a list of its own. There are three ways
around this. :class:`Explainer` is the same call with a longer list; :func:`register` makes
``shap.Explainer`` itself use it, until :func:`unregister`; and a :class:`PatchMasker` with a
``clustering`` needs neither: shap takes it to its Partition explainer by itself.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import shap

from .._compat import InvalidAlgorithmError
from ..errors import PatchShapError, bad
from ..masking.patch_masker import PatchMasker
from ..models.huggingface import pipeline_of, sees_images
from .base import PatchExplainer
from .methods import METHODS, nearest, underscored
from .patch_kernel_shap import PatchKernelShap

__all__ = ["Explainer", "register", "unregister"]

# For the message alone: what shap knows is shap's to say.
_SHAPS = ("permutation", "partition", "exact", "tree", "linear", "additive", "deep")
# Stands for "not given": None is a seed, and shap's default is not ours.
_UNSET: Any = ...


def method_class(name: str) -> type[PatchExplainer]:
    """The class of a method of the table."""
    found: type[PatchExplainer] = getattr(import_module(__package__), METHODS[name])
    return found


def is_network(model: Any) -> bool:
    """Whether a model is a ``ShapleyViT``, whose module is loaded where there is one."""
    module = sys.modules.get("xai_patchshap.amortized.network")
    return module is not None and isinstance(model, module.ShapleyViT)


class UnknownAlgorithmError(PatchShapError, InvalidAlgorithmError):
    """An algorithm that neither shap nor this package has; shap's users catch it as shap's."""


class Explainer(shap.Explainer):
    """``shap.Explainer`` that knows the explainers of this package too.

    Takes what ``shap.Explainer`` takes, in the same order, and gives the explainer that
    ``algorithm`` names: one of this package, or one of shap's, built by shap from the same
    arguments. It is an instance of its own class and of ``shap.Explainer``, not of this one.
    ``"auto"`` gives

    - :class:`ViTShapleyAmortized` for a :class:`ShapleyViT` or the path of its checkpoint
      (``*.safetensors``), whatever the masker;
    - :class:`PatchKernelShap` for other models with a :class:`PatchMasker` without
      ``clustering``, and for an image-classification pipeline of transformers without a masker;
    - what ``shap.Explainer`` gives in all other cases. For a ``PatchMasker`` with a ``clustering``
      this is ``shap.PartitionExplainer``: ``algorithm="owen_bpt"`` grows trees of its own.

    Parameters
    ----------
    model, masker
        As the chosen explainer takes them. This package's take a ``torch.nn.Module`` or a
        function of image batches, (N, C, H, W) or (N, H, W, C); shap's Partition explainer
        calls any model with numpy arrays.
    link : callable
        shap's link function.
    algorithm : str
        ``"auto"``; ``"patch_kernel_shap"``, ``"owen_bpt"``, ``"interaction_shap"``,
        ``"vit_shapley_amortized"``, also as the command line spells them (``"owen-bpt"``); or
        one of shap's.
    output_names, feature_names : list of str, optional
        Names of the outputs, and of the players or features.
    linearize_link : bool
        For shap's explainers.
    seed : int or None
        By default 0 for explainers of this package, None for shap's: anew every time.
    **options
        Options of the chosen explainer, such as ``n_trees=`` of :class:`OwenBPT`.

    Raises
    ------
    PatchShapError
        For an algorithm that does not exist (it is then shap's ``InvalidAlgorithmError`` too),
        an option that the chosen explainer does not have, or an argument that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from xai_patchshap import PatchMasker
    >>> from xai_patchshap.explainers.registry import Explainer
    >>> def model(images):  # (N, 8, 8, 3) to (N, 2)
    ...     return np.stack([images[:, :4].sum((1, 2, 3)), images[:, 4:].max((1, 2, 3))], axis=1)
    >>> images = np.ones((1, 8, 8, 3))
    >>> explainer = Explainer(model, PatchMasker(players=(2, 2)))
    >>> type(explainer).__name__
    'PatchKernelShap'
    >>> explainer(images, silent=True).values.shape
    (1, 8, 8, 3, 2)
    >>> type(Explainer(model, PatchMasker(), algorithm="owen_bpt", n_trees=1)).__name__
    'OwenBPT'
    >>> type(Explainer(model, PatchMasker(players=4, clustering="bpt"))).__name__
    'PartitionExplainer'
    """

    def __init__(
        self,
        model: Any,
        masker: Any = None,
        link: Callable[..., Any] = shap.links.identity,
        algorithm: str = "auto",
        output_names: list[str] | None = None,
        feature_names: list[str] | list[list[str]] | None = None,
        linearize_link: bool = True,
        seed: int | None = _UNSET,
        **options: Any,
    ) -> None:
        given = {
            "model": model,
            "masker": masker,
            "link": link,
            "algorithm": algorithm,
            "output_names": output_names,
            "feature_names": feature_names,
            "linearize_link": linearize_link,
            **({} if seed is _UNSET else {"seed": seed}),
            **options,
        }
        if type(self) is not Explainer:
            super().__init__(**given)  # a subclass is what it is, as with shap's
            return
        if not _dispatch(self, given):
            self.__class__ = shap.Explainer
            with _listing_ours():
                shap.Explainer.__init__(self, **given)

    @classmethod
    def load(cls, in_file: Any, *args: Any, **kwargs: Any) -> Any:
        """Read an explainer, as ``shap.Explainer.load``. Only open files that you trust: pickle."""
        return shap.Explainer.load(in_file, *args, **kwargs)


_OF_SHAP = ("algorithm", "linearize_link")  # without meaning for explainers of this package
_SIGNATURE = inspect.signature(Explainer.__init__)
_SHARED = [name for name in _SIGNATURE.parameters if name not in ("self", "seed", "options")]


def _choose(given: Mapping[str, Any]) -> type[PatchExplainer] | None:
    """Our class for the arguments of a call; None where the choice is shap's."""
    algorithm, model = given.get("algorithm", "auto"), given.get("model")
    if not isinstance(algorithm, str):
        return None
    if algorithm != "auto":
        name = underscored(algorithm)
        return method_class(name) if name in METHODS else None
    checkpoint = isinstance(model, str | Path) and Path(model).suffix == ".safetensors"
    if checkpoint or is_network(model):
        return method_class("vit_shapley_amortized")
    masker = given.get("masker")
    if isinstance(masker, PatchMasker) and not hasattr(masker, "clustering"):
        return PatchKernelShap
    pipeline = pipeline_of(model)
    if masker is None and pipeline is not None and sees_images(pipeline):
        return PatchKernelShap
    return None


def _options(kind: type[PatchExplainer]) -> list[str]:
    """Arguments of one of our classes that go by no name of ``shap.Explainer``, and the seed."""
    return [name for name in inspect.signature(kind).parameters if name not in _SHARED]


def _check_options(kind: type[PatchExplainer] | None, given: Mapping[str, Any]) -> None:
    for name in given:
        if name in _SHARED or name == "seed":
            continue
        owners = [method for method in METHODS if name in _options(method_class(method))]
        mend = f"It is one of algorithm={' and '.join(map(repr, owners))}."
        if kind is not None and name not in _options(kind):
            if not owners:
                mend = "max_evals, batch_size, outputs and silent go into the explainer's calls."
            raise bad(f"option of {kind.__name__}", name, f"one of {_options(kind)}", mend)
        if kind is None and owners and isinstance(given.get("masker"), PatchMasker):
            # shap would ignore it.
            raise bad("option", name, "one of shap's explainer, which was chosen here", mend)


def _check_pipeline(given: Mapping[str, Any]) -> None:
    """Raise for pipelines that read no texts, which shap would wrap as if they did."""
    pipeline, masker = pipeline_of(given.get("model")), given.get("masker")
    if pipeline is None:
        return
    no_texts = masker is None and getattr(pipeline, "tokenizer", None) is None
    if no_texts or sees_images(pipeline) or isinstance(masker, PatchMasker):
        raise bad(
            "model",
            f"a pipeline for {pipeline.task!r} with algorithm={given.get('algorithm', 'auto')!r} "
            f"and a {type(masker).__name__} as masker",
            f"a PatchMasker without clustering and one of {tuple(METHODS)}",
            "explain_image takes image-classification pipelines too, and for other explainers "
            "load_model(pipeline).model is a torch.nn.Module of images in [0, 1].",
        )


def _dispatch(explainer: Any, given: Mapping[str, Any]) -> bool:
    """Turn a new object into an explainer of ours if it is to be one, as shap does with its own."""
    kind = _choose(given)
    _check_options(kind, given)
    if kind is None:
        _check_pipeline(given)
        return False
    explainer.__class__ = kind
    ours = {name: value for name, value in given.items() if name not in _OF_SHAP}
    explainer.__init__(**ours)
    return True


@contextmanager
def _listing_ours() -> Iterator[None]:
    """Let shap's error about an unknown algorithm name those of this package too."""
    try:
        yield
    except PatchShapError:
        raise
    except InvalidAlgorithmError as error:
        name = str(error).rpartition(": ")[2].rstrip("!")
        raise UnknownAlgorithmError(
            f"algorithm: got {name!r}; expected 'auto', one of xai_patchshap's "
            f"{tuple(METHODS)}, or one of shap's {_SHAPS}. {nearest(name)}".rstrip()
        ) from None


# What shap.Explainer.__init__ was replaced by; None where nothing is registered.
_installed: Callable[..., None] | None = None


class _Registration(ExitStack):
    """Undoes, at the end of a ``with`` block, what one call of :func:`register` did."""

    def __repr__(self) -> str:
        return "<shap.Explainer dispatches to xai_patchshap; see unregister()>"


def register() -> _Registration:
    """Make ``shap.Explainer`` choose as :class:`Explainer` does, until :func:`unregister`.

    Subclasses of ``shap.Explainer``, shap's or anyone's, stay as they are, and so does what it
    makes of other models, maskers and algorithms. Explainers made meanwhile stay what they are
    afterwards. Importing the package does not do this.

    Returns
    -------
    context manager
        That undoes this very call: nothing if there had been an earlier one.

    Examples
    --------
    >>> import shap
    >>> from xai_patchshap import PatchMasker
    >>> from xai_patchshap.explainers.registry import register
    >>> def model(images):
    ...     return images.mean(axis=(1, 2, 3))
    >>> with register():
    ...     explainer = shap.Explainer(model, PatchMasker(), algorithm="owen_bpt")
    >>> type(explainer).__name__
    'OwenBPT'

    >>> type(shap.Explainer(model, PatchMasker())).__name__
    'PermutationExplainer'
    """
    global _installed
    registration = _Registration()
    if _installed is not None:
        return registration
    original = shap.Explainer.__init__

    @wraps(original)
    def dispatching(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is not shap.Explainer or _installed is not dispatching:
            original(self, *args, **kwargs)
            return
        try:
            given = dict(_SIGNATURE.bind(self, *args, **kwargs).arguments)
        except TypeError:
            given = {"self": self, "algorithm": None}  # for shap's own constructor to refuse
        given |= given.pop("options", {})
        del given["self"]
        if not _dispatch(self, given):
            with _listing_ours():
                original(self, *args, **kwargs)

    # shap's load asks getfullargspec, which does not look behind wrappers.
    dispatching.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    shap.Explainer.__init__ = _installed = dispatching
    registration.callback(unregister)
    return registration


def unregister() -> None:
    """Give ``shap.Explainer`` back what :func:`register` replaced; without it, do nothing.

    Examples
    --------
    >>> import shap
    >>> from xai_patchshap import PatchMasker
    >>> from xai_patchshap.explainers.registry import register, unregister
    >>> register()
    <shap.Explainer dispatches to xai_patchshap; see unregister()>
    >>> type(shap.Explainer(lambda x: x.sum((1, 2, 3)), PatchMasker())).__name__
    'PatchKernelShap'
    >>> unregister()
    """
    global _installed
    # Where someone has wrapped it again since, ours stays inside, and only passes calls on.
    if _installed is not None and shap.Explainer.__init__ is _installed:
        shap.Explainer.__init__ = _installed.__wrapped__  # type: ignore[attr-defined]
    _installed = None
