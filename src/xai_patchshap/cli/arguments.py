"""What can be typed after ``xai-patchshap``, and the settings that it becomes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import __version__
from ..explainers.methods import COMPARED, METHODS, dashed
from . import settings
from .settings import DEMO_MODEL, INDICES, OBJECTIVES, PREDICTS, SCALES

__all__ = ["parser"]

_DEFAULT_METHODS = (
    "patch-kernel-shap,owen-bpt,captum-kernel-shap,integrated-gradients,saliency,random"
)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Its result has ``read``, which makes settings of the arguments, and ``run``, the module and
    the function that take the settings.
    """
    made = argparse.ArgumentParser(
        prog="xai-patchshap", description="Shapley-based attribution of image models."
    )
    made.add_argument("--version", action="version", version=__version__)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_explain(commands)
    _add_evaluate(commands)
    _add_train(commands)
    return made


def _auto_or_int(text: str) -> int | str:
    """The type of ``--budget`` and ``--batch-size``."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        expected = "expected a whole number or 'auto'"
        raise argparse.ArgumentTypeError(f"got {text!r}; {expected}") from None


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="explain a real photograph, offline")
    demo.set_defaults(read=settings.demo_settings, run=("explain", "demo"))
    _add_method(demo, "xai-patchshap-demo")


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser("explain", help="explain your images and your model")
    explain.set_defaults(read=settings.explain_settings, run=("explain", "explain"))
    explain.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="images, or folders: every image below them gets its .npz and .png, those that have "
        "them are left out, and index.html shows them all",
    )
    _add_model(explain)
    explain.add_argument(
        "--classes", default="top3", help="topN, or indices or names with commas (%(default)s)"
    )
    _add_method(explain, "xai-patchshap-out")
    explain.add_argument(
        "--tolerance",
        type=float,
        help="patch-kernel-shap: stop when the largest standard error is this small",
    )
    explain.add_argument("--hierarchy", help="owen-bpt: bpt, axis or bpt,axis (bpt)")
    explain.add_argument(
        "--trees", dest="n_trees", type=int, help="owen-bpt: trees of each kind (4)"
    )
    explain.add_argument("--index", choices=INDICES, help="interaction-shap: which index (SII)")
    explain.add_argument(
        "--order",
        type=int,
        help="interaction-shap: highest order, at most the number of players (2)",
    )


def _add_method(command: argparse.ArgumentParser, out: str) -> None:
    """Options of ``explain`` that ``demo`` has too."""
    command.add_argument(
        "--method",
        default="patch-kernel-shap",
        help=f"{', '.join(map(dashed, METHODS))} (%(default)s)",
    )
    command.add_argument(
        "--budget",
        type=_auto_or_int,
        help="model evaluations per image (1000; vit-shapley-amortized: none beyond its one pass)",
    )
    _add_seed_and_out(command, out)


def _add_seed_and_out(command: argparse.ArgumentParser, out: str) -> None:
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, default=Path(out), metavar="DIR")


def _add_model(command: argparse.ArgumentParser) -> None:
    """Options that say which model is explained, and what its game is."""
    command.add_argument(
        "--model",
        default=DEMO_MODEL,
        help="timm:NAME, torchvision:NAME, hf:NAME, onnx:FILE or module:function (%(default)s)",
    )
    command.add_argument("--weights", help="a checkpoint file, or 'random'")
    command.add_argument(
        "--explainer",
        type=Path,
        metavar="FILE",
        help="vit-shapley-amortized: explainer.safetensors of a training (in place of --model)",
    )
    command.add_argument(
        "--players",
        help="ROWSxCOLUMNS, patch:PIXELS or slic:NUMBER for superpixels (owen-bpt: pixels; else a "
        "ViT's own patches, or 7x7)",
    )
    command.add_argument(
        "--background",
        default="mean",
        help="mean, blur[:SIGMA], noise, drop (tokens of a ViT), a number, R,G,B in 0..1, "
        "or an image file (%(default)s)",
    )
    command.add_argument("--scale", choices=SCALES, default=SCALES[0])
    command.add_argument("--device", help="cpu, cuda, ... (where the model is)")
    command.add_argument("--batch-size", default="auto", type=_auto_or_int)
    command.add_argument("--size", type=int, help="side of the image for a model of your own (224)")


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="compare methods on your images and your model",
        description="Insertion and deletion areas, sensitivity-n and faithfulness of several "
        "methods: means over images, for the predicted class. All methods attribute to the same "
        "players and are scored by the same game; gradients are summed over each player.",
    )
    evaluate.set_defaults(read=settings.evaluate_settings, run=("evaluate", "evaluate"))
    evaluate.add_argument("images", nargs="+", type=Path, metavar="DIR", help="folders or images")
    evaluate.add_argument(
        "--methods",
        default=_DEFAULT_METHODS,
        help=f"with commas, of {', '.join(map(dashed, COMPARED))} (%(default)s)",
    )
    _add_model(evaluate)
    evaluate.add_argument(
        "--budget", type=int, default=500, help="model evaluations per image and method (500)"
    )
    evaluate.add_argument(
        "--steps", type=int, default=100, help="points of a curve beyond the first (100)"
    )
    evaluate.add_argument(
        "--samples", type=int, default=100,
        help="coalitions for sensitivity-n, of half the players, and as many for faithfulness; "
        "0 for neither (100)",
    )  # fmt: skip
    _add_seed_and_out(evaluate, "xai-patchshap-evaluation")


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train an amortized explainer of your transformer")
    stages = train.add_subparsers(required=True, metavar="STAGE")
    surrogate = stages.add_parser(
        "surrogate", help="fine-tune the classifier to be at home with missing patches"
    )
    surrogate.set_defaults(read=settings.surrogate_settings, run=("train", "surrogate"))
    _add_surrogate(surrogate)
    explainer = stages.add_parser(
        "explainer", help="fit the network that predicts the surrogate's Shapley values"
    )
    explainer.set_defaults(read=settings.explainer_settings, run=("train", "explainer"))
    _add_explainer(explainer)
    for stage in (surrogate, explainer):
        _add_schedule(stage)


def _add_surrogate(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("images", type=Path, metavar="DIR", help="training images, at any depth")
    stage.add_argument("--model", required=True, help="timm:NAME, a VisionTransformer")
    stage.add_argument(
        "--model-args", default="{}", metavar="JSON", help="arguments of timm.create_model"
    )
    stage.add_argument("--weights", help="a checkpoint file, or 'random' (the hub's weights)")
    stage.add_argument("--sizes", type=int, default=8, help="coalition sizes in one batch (8)")


def _add_explainer(stage: argparse.ArgumentParser) -> None:
    stage.add_argument("images", type=Path, metavar="DIR", help="training images, at any depth")
    stage.add_argument(
        "--surrogate", type=Path, required=True, metavar="FILE", help="surrogate.safetensors"
    )
    stage.add_argument("--objective", choices=OBJECTIVES, default=OBJECTIVES[0])
    stage.add_argument("--pairs", type=int, default=16, help="pairs per image (16)")
    stage.add_argument(
        "--keep-pairs",
        action="store_true",
        help="fastshap: evaluate the pairs once and keep their values, instead of in every step",
    )
    stage.add_argument(
        "--keep-tokens",
        action="store_true",
        help="keep what the frozen blocks make of every image, beside kept pairs or labels",
    )
    stage.add_argument(
        "--start", type=Path, metavar="FILE", help="an explainer.safetensors to begin with"
    )
    stage.add_argument(
        "--frozen", type=int, help="blocks shared with the surrogate, 0 to all (all)"
    )
    stage.add_argument(
        "--taps", default="", metavar="K,K", help="earlier blocks that it reads too, as 2,4 (none)"
    )
    stage.add_argument(
        "--predicts",
        choices=PREDICTS,
        help="the values alone, or a game and what it leaves (game, where the objective allows)",
    )
    stage.add_argument("--scale", choices=SCALES, default=SCALES[0])
    stage.add_argument(
        "--calibrate", type=int, default=100, metavar="N",
        help="held-out images that say how far a refinement is to be trusted; 0 for none (100)",
    )  # fmt: skip


def _add_schedule(stage: argparse.ArgumentParser) -> None:
    """Options that both stages of a training have."""
    stage.add_argument("--out", type=Path, required=True, metavar="DIR")
    stage.add_argument(
        "--validation", type=Path, metavar="DIR", help="held-out images (every 20th of DIR)"
    )
    stage.add_argument("--epochs", type=int, default=10)
    stage.add_argument("--batch-size", type=int, default=128)
    stage.add_argument("--learning-rate", type=float, default=1e-4)
    stage.add_argument("--weight-decay", type=float, default=0.01)
    stage.add_argument("--accumulate", type=int, default=1, help="parts of a batch, in turn")
    stage.add_argument("--validations", type=int, default=10)
    stage.add_argument("--save-every", type=int, default=200, help="steps between states")
    stage.add_argument("--workers", type=int, default=0)
    stage.add_argument("--autocast", choices=["bfloat16", "float16"])
    stage.add_argument("--seed", type=int, default=0)
    stage.add_argument("--device", help="cpu, cuda, ... (cuda where there is one)")
    stage.add_argument("--accelerate", action="store_true", help="run under 'accelerate launch'")
    stage.add_argument("--silent", action="store_true", help="no progress bars")
