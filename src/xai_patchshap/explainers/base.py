"""One class with both faces: a Captum Attribution that is a shap Explainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shap
import torch
from captum.attr import PerturbationAttribution

from .._compat import Deserializer, Serializer
from .._validation import a_function, checked, list_of_names, maybe, whole
from ..errors import bad
from ..masking.patch_masker import PatchMasker
from ..models.batch import BatchModel
from ..models.huggingface import HFModel, taken
from .captum_face import CaptumFace
from .shap_face import ShapFace

__all__ = ["PatchExplainer"]


class _SignatureOfTheClass:
    """How a class is called; its objects are called otherwise."""

    def __init__(self, of_init: inspect.Signature) -> None:
        self._signature = of_init.replace(parameters=list(of_init.parameters.values())[1:])

    def __get__(self, instance: Any, owner: Any) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        return self._signature


class PatchExplainer(CaptumFace, ShapFace, PerturbationAttribution, shap.Explainer):
    """Base of the package's explainers; a subclass supplies ``_plan`` or ``_estimators``.

    One object with two faces. :meth:`attribute` keeps to Captum's ``KernelShap.attribute``:
    tensors in, tensors out, each player's value repeated on its elements. Calling the
    object keeps to shap: arrays or tensors in, a :class:`shap.Explanation` out, whose
    values are spread so that they add up to ``f(x) - f(background)``. The numbers behind
    both are the same.
    """

    @checked(
        link=a_function("shap.links.logit"),
        output_names=maybe(list_of_names()),
        feature_names=maybe(list_of_names()),
        seed=maybe(whole(0, mend="None draws a new seed for each call.")),
    )
    def __init__(
        self,
        model: Callable[..., Any],
        masker: Any = None,
        *,
        link: Callable[..., Any] = shap.links.identity,
        output_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        seed: int | None = 0,
        autocast: torch.dtype | None = None,
    ) -> None:
        own_masker = masker is not None
        masker = self._checked_masker(masker)
        model = self._taken(model)
        PerturbationAttribution.__init__(self, model)
        shap.Explainer.__init__(
            self,
            model,
            masker,
            link=link,
            output_names=output_names,
            feature_names=feature_names,
        )
        self.seed, self.autocast = seed, autocast
        self.last_run = None
        self.expected_value = None
        self._own_masker = own_masker
        BatchModel(self.model)  # what is not callable is refused here, not on first use

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            _take_by_keyword(cls)

    def __repr__(self) -> str:
        model = getattr(self.model, "__name__", type(self.model).__name__)
        shown = [model, *self.masker.described()] if self._own_masker else [model]
        defaults = inspect.signature(type(self)).parameters
        for name, value in self._options().items():
            if name in ("output_names", "feature_names"):
                shown += [f"{name}={len(value)} names"] if value else []
            elif not _equal(value, defaults[name].default):
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def masker(self) -> Any:
        """Players and background; once assigned, it serves both faces."""
        return self._masker

    @masker.setter
    def masker(self, masker: Any) -> None:
        self._masker, self._own_masker = self._checked_masker(masker), masker is not None

    def _checked_masker(self, masker: Any) -> PatchMasker:
        """The masker, or the one that a background or None stands for."""
        if isinstance(masker, PatchMasker):
            return masker
        if isinstance(masker, shap.maskers.Masker):
            raise bad(
                "masker",
                f"shap.maskers.{type(masker).__name__}",
                "a PatchMasker, or a background to build one from",
                "PatchMasker(background='blur') hides patches behind a blurred copy, for example.",
            )
        return PatchMasker() if masker is None else PatchMasker(background=masker)

    @staticmethod
    def _taken(model: Any) -> Any:
        """The model that stands for what the user gave."""
        library = type(model).__module__.partition(".")[0]
        return taken(model) if library in ("transformers", "shap") else model

    @property
    def model(self) -> Any:
        """The model; of an assigned image-classification pipeline, what ``load_model`` makes."""
        return self.__dict__["model"]

    @model.setter
    def model(self, model: Any) -> None:
        self.__dict__["model"] = self._taken(model)

    @property
    def output_names(self) -> Any:
        """Names of the outputs: those that were given, or the classes of a pipeline."""
        given = self.__dict__["output_names"]
        if given is None and isinstance(self.model, HFModel) and self.model.class_names:
            return list(self.model.class_names)
        return given

    @output_names.setter
    def output_names(self, names: Any) -> None:
        self.__dict__["output_names"] = names

    @property
    def forward_func(self) -> Any:
        """Captum's name for :attr:`model`; assigning one assigns the other."""
        return self.model

    @forward_func.setter
    def forward_func(self, model: Any) -> None:
        self.model = model

    # ----- shap's serialization ----------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        """Constructor arguments that shap's own save does not write."""
        return {
            "output_names": self.__dict__["output_names"],
            "feature_names": self.feature_names,
            "seed": self.seed,
            "autocast": self.autocast,
        }

    def save(self, out_file: Any, model_saver: Any = ".save", masker_saver: Any = ".save") -> None:
        """Write the explainer to a binary stream; :meth:`load` reads it back."""
        super().save(out_file, model_saver, masker_saver)
        with Serializer(out_file, "xai_patchshap.PatchExplainer", version=0) as s:
            s.save("options", self._options())
            s.save("own_masker", self._own_masker)

    @classmethod
    def load(
        cls,
        in_file: Any,
        model_loader: Any = None,
        masker_loader: Any = None,
        instantiate: bool = True,
    ) -> Any:
        """Read an explainer from a binary stream. Only open files that you trust: pickle."""
        if instantiate:
            return cls._instantiated_load(
                in_file, model_loader=model_loader, masker_loader=masker_loader
            )
        kwargs = super().load(in_file, model_loader, masker_loader, instantiate=False)
        with Deserializer(in_file, "xai_patchshap.PatchExplainer", 0, 0) as s:
            kwargs |= s.load("options")
            if not s.load("own_masker"):
                kwargs["masker"] = None
        return kwargs


def _equal(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and bool(np.all(value == default)))


def _take_by_keyword(cls: type[PatchExplainer]) -> None:
    """Let shap's load pass on all arguments: it knows what getfullargspec calls positional."""
    own = inspect.signature(cls.__init__)
    cls.__signature__ = _SignatureOfTheClass(own)
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    loose = [
        p.replace(kind=positional) if p.kind is p.KEYWORD_ONLY else p
        for p in own.parameters.values()
    ]
    cls.__init__.__signature__ = own.replace(parameters=loose)  # type: ignore[attr-defined]


_take_by_keyword(PatchExplainer)
