"""What ``explain`` and ``evaluate`` share: the model, the explainer, the classes."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import _methods
from .._methods import dashed, underscored
from ..amortized import load_card, load_explainer
from ..errors import bad
from ..explainers import PatchExplainer, Run, ViTShapleyAmortized
from ..explainers.registry import method_class
from ..masking.patch_masker import PatchMasker
from ..models.batch import BatchModel
from ..models.load import DEMO_MODEL, NamedModel, load_model, open_image

__all__: list[str] = []  # parts of the command line, for no one else

METHODS = tuple(map(dashed, _methods.METHODS))
# The options of one method only, as they are called in its constructor.
OWN_OPTIONS = {
    "tolerance": "patch-kernel-shap",
    "hierarchy": "owen-bpt",
    "n_trees": "owen-bpt",
    "index": "interaction-shap",
    "order": "interaction-shap",
}
# What a trained explainer has settled, with the values that mean that nothing was given.
_SETTLED: dict[str, tuple[Any, ...]] = {
    "players": (None,),
    "model": (DEMO_MODEL,),
    "weights": (None,),
    "size": (None,),
    "background": ("mean", "drop"),
    "scale": ("probability",),
    **dict.fromkeys(OWN_OPTIONS, (None,)),
}
# Arguments of the library by their names on the command line.
FLAGS = {
    "folder": "--out",
    "max_evals": "--budget",
    "budget": "--budget",
    "grid": "--players",
    "patch": "--players",
    "batch_size": "--batch-size",
    "n_trees": "--trees",
    **{
        name: f"--{name}"
        for name in ("seed", *_SETTLED)
        if name not in ("model", "n_trees")  # what is wrong with a model is not its name
    },
}


def auto_or_int(text: str) -> int | str:
    """The type of ``--budget`` and ``--batch-size``."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        expected = "expected a whole number or 'auto'"
        raise argparse.ArgumentTypeError(f"got {text!r}; {expected}") from None


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which model is explained, and what its game is."""
    parser.add_argument(
        "--model",
        default=DEMO_MODEL,
        help="timm:NAME, torchvision:NAME, hf:NAME, onnx:FILE or module:function (%(default)s)",
    )
    parser.add_argument("--weights", help="a checkpoint file, or 'random'")
    parser.add_argument(
        "--explainer",
        type=Path,
        metavar="FILE",
        help="vit-shapley-amortized: explainer.safetensors of a training (in place of --model)",
    )
    parser.add_argument(
        "--players",
        help="ROWSxCOLUMNS, patch:PIXELS or slic:NUMBER for superpixels (owen-bpt: pixels; else a "
        "ViT's own patches, or 7x7)",
    )
    parser.add_argument(
        "--background",
        default="mean",
        help="mean, blur[:SIGMA], noise, drop (tokens of a ViT), a number, R,G,B in 0..1, "
        "or an image file (%(default)s)",
    )
    parser.add_argument("--scale", choices=["probability", "logit"], default="probability")
    parser.add_argument("--device", help="cpu, cuda, ... (where the model is)")
    parser.add_argument("--batch-size", default="auto", type=auto_or_int)
    parser.add_argument("--size", type=int, help="side of the image for a model of your own (224)")


def named_model(a: argparse.Namespace) -> NamedModel:
    """The model that was named, on its device."""
    named = load_model(
        a.model, weights=a.weights, probability=a.scale == "probability", size=a.size
    )
    if a.device is not None:
        if not isinstance(named.model, nn.Module):
            raise bad("--device", repr(a.device), "none for a model that is a function")
        placed(named.model, a.device)
    return named


def placed(module: nn.Module, device: str) -> nn.Module:
    """The module, moved to the device of that name."""
    try:
        return module.to(device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA
        reason = str(error).partition("\n")[0]
        raise bad("--device", repr(device), "a device that torch can use", f"({reason})") from error


def prepare_masker(a: argparse.Namespace, named: NamedModel) -> PatchMasker:
    """The players and the background that were asked for."""
    return PatchMasker(a.players, _background(a.background, named))


def built(a: argparse.Namespace) -> tuple[NamedModel, PatchExplainer]:
    """The model that was named, and the explainer that was asked for."""
    if a.explainer is not None:
        raise bad("--explainer", a.explainer, "it with --method vit-shapley-amortized only")
    named = named_model(a)
    options: dict[str, Any] = {}
    for option, method in OWN_OPTIONS.items():
        given = getattr(a, option)
        if given is not None:
            if method != a.method:
                raise bad(FLAGS[option], given, f"it with --method {method} only")
            options[option] = given
    masker = prepare_masker(a, named)
    return named, method_class(underscored(a.method))(named.model, masker, seed=a.seed, **options)


def trained(a: argparse.Namespace) -> tuple[NamedModel, ViTShapleyAmortized]:
    """The surrogate of a trained explainer, and the explainer."""
    if a.explainer is None:
        raise bad(
            "--explainer",
            "none for --method vit-shapley-amortized",
            "the explainer.safetensors of a training",
            "Train one: xai-patchshap train surrogate, then xai-patchshap train explainer.",
        )
    for option, defaults in _SETTLED.items():
        given = getattr(a, option, defaults[0])  # evaluate has not all of them
        if given not in defaults:
            raise bad(
                FLAGS.get(option, f"--{option}"), given, "none for --method vit-shapley-amortized",
                "The training has settled the patches and the model.",
            )  # fmt: skip
    network = load_explainer(a.explainer)
    placed(network, a.device or "cpu")
    names = load_card(a.explainer).get("class_names")
    scale = "probability" if network.probability else "logit"
    named = NamedModel(
        network.whole_images,
        str(a.explainer.name),
        network.image_size,
        class_names=None if names is None else tuple(names),
        scale=scale,
    )
    a.background = "drop"
    return named, ViTShapleyAmortized(network, seed=a.seed)


def _background(text: str, named: NamedModel) -> Any:
    """A number, a colour 'R,G,B', an image file, or one of the masker's own words."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        if not Path(text).is_file():
            return text
        return named.prepare(open_image(text))
    return numbers if len(numbers) > 1 else numbers[0]


def batch_rows(batch_size: int | str, model: Any) -> int:
    """Images in one batch of the model."""
    if batch_size != "auto":
        return int(batch_size)
    device = BatchModel(model).device
    return 16 if device is None or device.type == "cpu" else 128


def scores_of(named: NamedModel, x: Tensor, rows: int) -> NDArray[np.float64]:
    """The model's outputs (N, K) for images (N, C, H, W), which need not be finite."""
    model = BatchModel(named.model)
    parts = []
    with model.running():
        for part in torch.split(x, max(1, min(rows, len(x)))):
            out = torch.as_tensor(model((part,))).double().cpu()
            if out.dim() not in (1, 2) or len(out) != len(part):
                came = f"an output of shape {tuple(out.shape)} for a batch of {len(part)}"
                raise bad("model", came, f"({len(part)}, K) or ({len(part)},)")
            parts.append(out.reshape(len(part), -1))
    return torch.cat(parts).numpy()


def explained(explainer: PatchExplainer, x: Tensor, *, partly: bool, **options: Any) -> Run:
    """Explain images (N, C, H, W); of several, results of less than the budget are not kept.

    Raises
    ------
    KeyboardInterrupt
        If Ctrl-C ended the explanation early, unless ``partly``.
    """
    with warnings.catch_warnings():
        if not partly:
            warnings.filterwarnings("ignore", "Interrupted after", RuntimeWarning)
        explainer.explain_players(x, **options)
    run = explainer.last_run
    assert run is not None
    if run.interrupted and not partly:
        raise KeyboardInterrupt
    return run


def class_name(named: NamedModel, index: int) -> str:
    """What an output is called."""
    if named.class_names is None or index >= len(named.class_names):
        return f"class {index}"
    return named.class_names[index].split(", ")[0]
