"""The command line of training: ``xai-patchshap train surrogate`` and ``train explainer``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .._validation import whole
from ..amortized import (
    Architecture,
    Schedule,
    calibrate,
    load_card,
    load_explainer,
    load_surrogate,
    save_explainer,
    train_explainer,
    train_surrogate,
)
from ..amortized.network import PREDICTS, is_plain_transformer
from ..amortized.training.data import alone_in
from ..amortized.training.explainer import OBJECTIVES
from ..errors import PatchShapError, bad, rename
from ..models.load import NamedModel, ScoredImages, fetched, load_weights, open_image
from .images import images_below
from .model import placed

__all__ = ["ImageFiles", "add_train"]


class ImageFiles(Dataset[Tensor]):
    """All images below a folder, in the order of their paths: (3, H, W), RGB in [0, 1].

    Parameters
    ----------
    folder : path
        As torchvision's ``ImageFolder`` wants it, or with images at any depth.
    size : (int, int)
        Height and width; images are resized and cropped in the middle.

    Raises
    ------
    PatchShapError
        If there are none, or one cannot be read.
    """

    def __init__(self, folder: str | Path, size: tuple[int, int]) -> None:
        if not Path(folder).is_dir():
            raise bad("images", f"'{folder}'", "a folder with images, at any depth")
        self.files = images_below(folder)
        self._frame = NamedModel(None, "", size)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self._frame.prepare(open_image(self.files[index]))


def add_train(commands: Any) -> None:
    """Add the ``train`` command to those of the command line."""
    train = commands.add_parser("train", help="train an amortized explainer of your transformer")
    stages = train.add_subparsers(required=True, metavar="STAGE")
    surrogate = stages.add_parser(
        "surrogate", help="fine-tune the classifier to be at home with missing patches"
    )
    surrogate.set_defaults(run=partial(_in_words_of_the_command, _surrogate))
    explainer = stages.add_parser(
        "explainer", help="fit the network that predicts the surrogate's Shapley values"
    )
    explainer.set_defaults(run=partial(_in_words_of_the_command, _explainer))

    surrogate.add_argument("images", type=Path, metavar="DIR", help="training images, at any depth")
    surrogate.add_argument("--model", required=True, help="timm:NAME, a VisionTransformer")
    surrogate.add_argument(
        "--model-args", default="{}", metavar="JSON", help="arguments of timm.create_model"
    )
    surrogate.add_argument("--weights", help="a checkpoint file, or 'random' (the hub's weights)")
    surrogate.add_argument("--sizes", type=int, default=8, help="coalition sizes in one batch (8)")

    explainer.add_argument("images", type=Path, metavar="DIR", help="training images, at any depth")
    explainer.add_argument(
        "--surrogate", type=Path, required=True, metavar="FILE", help="surrogate.safetensors"
    )
    explainer.add_argument("--objective", choices=OBJECTIVES, default="fastshap")
    explainer.add_argument("--pairs", type=int, default=16, help="pairs per image (16)")
    explainer.add_argument(
        "--keep-pairs",
        action="store_true",
        help="fastshap: evaluate the pairs once and keep their values, instead of in every step",
    )
    explainer.add_argument(
        "--keep-tokens",
        action="store_true",
        help="keep what the frozen blocks make of every image, beside kept pairs or labels",
    )
    explainer.add_argument(
        "--start", type=Path, metavar="FILE", help="an explainer.safetensors to begin with"
    )
    explainer.add_argument(
        "--frozen", type=int, help="blocks shared with the surrogate, 0 to all (all)"
    )
    explainer.add_argument(
        "--taps", default="", metavar="K,K", help="earlier blocks that it reads too, as 2,4 (none)"
    )
    explainer.add_argument(
        "--predicts",
        choices=PREDICTS,
        help="the values alone, or a game and what it leaves (game, where the objective allows)",
    )
    explainer.add_argument("--scale", choices=["probability", "logit"], default="probability")
    explainer.add_argument(
        "--calibrate", type=int, default=100, metavar="N",
        help="held-out images that say how far a refinement is to be trusted; 0 for none (100)",
    )  # fmt: skip
    for stage in (surrogate, explainer):
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
        stage.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        stage.add_argument(
            "--accelerate", action="store_true", help="run under 'accelerate launch'"
        )
        stage.add_argument("--silent", action="store_true", help="no progress bars")


# Arguments of the library by their names on the command line.
_FLAGS = {
    "out": "--out", "folder": "--out", "dataset": "images", "validation": "--validation",
    "n_frozen": "--frozen", "n_pairs": "--pairs", "n_sizes": "--sizes", "start": "--start",
    "taps": "--taps", "predicts": "--predicts", "keep_tokens": "--keep-tokens",
    **{n: f"--{n.replace('_', '-')}" for n in (
        "epochs", "batch_size", "learning_rate", "weight_decay", "accumulate", "validations",
        "save_every", "workers", "seed",
    )},
}  # fmt: skip


def _in_words_of_the_command(stage: Callable[[argparse.Namespace], None], a: Any) -> None:
    try:
        stage(a)
    except PatchShapError as error:
        rename(error, _FLAGS)
        raise


def _schedule(a: argparse.Namespace) -> Schedule:
    return Schedule(
        epochs=a.epochs,
        batch_size=a.batch_size,
        learning_rate=a.learning_rate,
        weight_decay=a.weight_decay,
        accumulate=a.accumulate,
        validations=a.validations,
        save_every=a.save_every,
        workers=a.workers,
        autocast=None if a.autocast is None else getattr(torch, a.autocast),
    )


def _common(a: argparse.Namespace, size: tuple[int, int]) -> tuple[Any, dict[str, Any]]:
    """Training images, and the arguments that both stages share."""
    training: Any = ImageFiles(a.images, size)
    if a.validation is not None:
        validation: Any = ImageFiles(a.validation, size)
    else:
        held = set(range(0, len(training), 20))
        validation = torch.utils.data.Subset(training, sorted(held))
        training = torch.utils.data.Subset(
            training, [i for i in range(len(training)) if i not in held]
        )
        if not len(training):
            raise bad("images", f"'{a.images}' with a single image", "at least two images")
    return training, {
        "validation": validation,
        "schedule": _schedule(a),
        "seed": a.seed,
        "accelerator": _accelerator(a),
        "progress": not a.silent,
    }


def _accelerator(a: argparse.Namespace) -> Any:
    if not a.accelerate:
        return None
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise PatchShapError(
            "--accelerate: got no module 'accelerate'; expected the 'train' extra. Install it "
            "with: pip install 'xai-patchshap[train]'"
        ) from error
    precision = {None: "no", "bfloat16": "bf16", "float16": "fp16"}[a.autocast]
    return Accelerator(mixed_precision=precision, cpu=a.device == "cpu")


def _surrogate(a: argparse.Namespace) -> None:
    prefix, _, name = a.model.partition(":")
    plain = name.partition(".")[0]  # without a tag of pretrained weights
    if prefix != "timm" or not timm.is_model(name) or not is_plain_transformer(plain):
        raise bad(
            "--model", repr(a.model), "timm:NAME with the name of a VisionTransformer of timm"
        )
    try:
        options = json.loads(a.model_args)
        if not isinstance(options, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise bad(
            "--model-args",
            repr(a.model_args),
            "a JSON object, as '{\"num_classes\": 10}'",
            f"({error})",
        ) from error
    try:
        Architecture(plain, options).build("meta")
    except PatchShapError as error:
        rename(error, {"architecture": "--model-args"})
        raise

    def create() -> Any:
        return timm.create_model(name, pretrained=a.weights is None, **options)

    vit: Any = create() if a.weights else fetched(a.model, create)
    load_weights(vit, a.weights)
    config = timm.data.resolve_model_data_config(vit)
    size = list(vit.patch_embed.img_size or config["input_size"][1:])
    built = {"img_size": size, "num_classes": vit.num_classes, **options}
    architecture = Architecture(plain, built, config["mean"], config["std"])
    classifier = ScoredImages(vit, config["mean"], config["std"], probability=False)
    training, common = _common(a, (size[0], size[1]))
    train_surrogate(
        placed(classifier, a.device),
        training,
        a.out,
        architecture=architecture,
        n_sizes=a.sizes,
        card={"data": str(a.images)},
        **common,
    )
    _say(common, a.out / "surrogate.safetensors")


def _explainer(a: argparse.Namespace) -> None:
    whole(0)("--calibrate", a.calibrate)
    taps = _blocks(a.taps)
    surrogate = placed(load_surrogate(a.surrogate), a.device)
    architecture = Architecture(**load_card(a.surrogate)["architecture"])
    vit: Any = surrogate.model
    training, common = _common(a, tuple(vit.patch_embed.img_size))
    network = train_explainer(
        surrogate,
        training,
        a.out,
        objective=a.objective,
        n_pairs=a.pairs,
        fresh=not a.keep_pairs,
        n_frozen=a.frozen,
        probability=a.scale == "probability",
        predicts=a.predicts,
        taps=taps,
        keep_tokens=a.keep_tokens,
        start=None if a.start is None else load_explainer(a.start),
        architecture=architecture,
        card={"data": str(a.images)},
        **common,
    )
    accelerator = common["accelerator"]
    file = a.out / "explainer.safetensors"
    if a.calibrate and (accelerator is None or accelerator.is_main_process):
        held = common["validation"]
        chosen = np.linspace(0, len(held) - 1, min(a.calibrate, len(held))).round().astype(int)
        images = torch.stack([held[int(i)] for i in chosen]).to(network.null.device)
        with alone_in(a.out):
            found = calibrate(network, images, keep=a.out / "calibration", progress=not a.silent)
            card = {**load_card(file), "calibration": found}
            save_explainer(network, file, surrogate=a.out / "surrogate.safetensors", card=card)
    _say(common, file)


def _blocks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(k) for k in text.split(",") if text)
    except ValueError as error:
        raise bad("--taps", repr(text), "numbers of blocks with commas between, as 2,4") from error


def _say(common: dict[str, Any], file: Path) -> None:
    if common["accelerator"] is None or common["accelerator"].is_main_process:
        print(f"wrote {file} and {file.with_suffix('.json').name}")
