"""``xai-patchshap train surrogate`` and ``xai-patchshap train explainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..amortized import (
    Architecture,
    Recipe,
    Schedule,
    ShapleyViT,
    calibrate,
    load_card,
    load_explainer,
    load_surrogate,
    save_explainer,
    train_explainer,
    train_surrogate,
)
from ..amortized.architecture import is_plain_transformer
from ..amortized.training.data import alone_in
from ..errors import MissingExtraError, bad
from ..models.load import fetched, load_weights
from ..models.named_model import ScoredImages
from ..models.photographs import Crop, open_image
from .images import images_below
from .model import check_device
from .settings import ExplainerSettings, SurrogateSettings, TrainSettings

__all__ = ["ImageFiles"]

_OF_THE_SCHEDULE = (
    "epochs", "batch_size", "learning_rate", "weight_decay", "accumulate", "validations",
    "save_every", "workers", "seed",
)  # fmt: skip


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
        self._crop = Crop(size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self._crop(open_image(self.files[index]))


def surrogate(settings: SurrogateSettings) -> None:
    """Fine-tune a transformer of timm to cope with missing patches."""
    device, common = _device(settings), _common(settings)
    name, architecture = _architecture(settings)
    options = settings.model_args

    def create() -> Any:
        return timm.create_model(name, pretrained=settings.weights is None, **options)

    vit: Any = create() if settings.weights else fetched(settings.model, create)
    load_weights(vit, settings.weights)
    config = timm.data.resolve_model_data_config(vit)
    size = tuple(vit.patch_embed.img_size or config["input_size"][1:])
    built = {"img_size": list(size), "num_classes": vit.num_classes, **options}
    architecture = Architecture(architecture.name, built, config["mean"], config["std"])
    classifier = ScoredImages(vit, config["mean"], config["std"], probability=False)
    training, validation = _images(settings, size)
    train_surrogate(
        classifier.to(device),
        training,
        settings.out,
        architecture=architecture,
        n_sizes=settings.sizes,
        validation=validation,
        **common,
    )
    _say_written(common["accelerator"], settings.out / "surrogate.safetensors")


def explainer(settings: ExplainerSettings) -> None:
    """Fit the network that predicts a surrogate's Shapley values, and calibrate it."""
    device, common = _device(settings), _common(settings)
    model = load_surrogate(settings.surrogate).to(device)
    vit: Any = model.model
    training, validation = _images(settings, tuple(vit.patch_embed.img_size))
    network = train_explainer(
        model,
        training,
        settings.out,
        Recipe(
            objective=settings.objective,
            n_pairs=settings.pairs,
            fresh=not settings.keep_pairs,
            n_frozen=settings.frozen,
            probability=settings.scale == "probability",
            predicts=settings.predicts,
            taps=settings.taps,
            keep_tokens=settings.keep_tokens,
            start=None if settings.start is None else load_explainer(settings.start),
        ),
        architecture=Architecture(**load_card(settings.surrogate)["architecture"]),
        validation=validation,
        **common,
    )
    accelerator = common["accelerator"]
    if settings.calibrate and (accelerator is None or accelerator.is_main_process):
        _calibrate(settings, network, validation)
    _say_written(accelerator, settings.out / "explainer.safetensors")


def _calibrate(settings: ExplainerSettings, network: ShapleyViT, held: Any) -> None:
    """Say on the explainer's card how far a refinement is to be trusted."""
    n, file = min(settings.calibrate, len(held)), settings.out / "explainer.safetensors"
    chosen = np.linspace(0, len(held) - 1, n).round().astype(int)
    images = torch.stack([held[int(i)] for i in chosen]).to(network.null.device)
    kept = settings.out / "calibration"
    with alone_in(settings.out):
        found = calibrate(network, images, keep=kept, progress=not settings.silent)
        card = {**load_card(file), "calibration": found}
        save_explainer(network, file, surrogate=settings.out / "surrogate.safetensors", card=card)


def _common(settings: TrainSettings) -> dict[str, Any]:
    """The arguments that both stages share, but for the images; made before any model."""
    return {
        "schedule": Schedule(
            **{name: getattr(settings, name) for name in _OF_THE_SCHEDULE},
            autocast=None if settings.autocast is None else getattr(torch, settings.autocast),
        ),
        "accelerator": _accelerator(settings),
        "progress": not settings.silent,
        "card": {"data": str(settings.images)},
    }


def _device(settings: TrainSettings) -> str:
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    return device


def _accelerator(settings: TrainSettings) -> Any:
    if not settings.accelerate:
        return None
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingExtraError(
            "--accelerate: got no module 'accelerate'; expected the 'train' extra. Install it "
            "with: pip install 'xai-patchshap[train]'"
        ) from error
    precision = {None: "no", "bfloat16": "bf16", "float16": "fp16"}[settings.autocast]
    return Accelerator(mixed_precision=precision, cpu=_device(settings) == "cpu")


def _architecture(settings: SurrogateSettings) -> tuple[str, Architecture]:
    """What timm calls the model that was named, and its architecture."""
    prefix, _, name = settings.model.partition(":")
    plain = name.partition(".")[0]  # without a tag of pretrained weights
    if prefix != "timm" or not timm.is_model(name) or not is_plain_transformer(plain):
        expected = "timm:NAME with the name of a VisionTransformer of timm"
        raise bad("--model", repr(settings.model), expected)
    architecture = Architecture(plain, settings.model_args)
    architecture.build("meta")
    return name, architecture


def _images(settings: TrainSettings, size: tuple[int, int]) -> tuple[Any, Any]:
    """Training images, and held-out images."""
    training = ImageFiles(settings.images, size)
    if settings.validation is not None:
        return training, ImageFiles(settings.validation, size)
    if len(training) < 2:
        raise bad("images", f"'{settings.images}' with a single image", "at least two images")
    held = range(0, len(training), 20)
    others = [i for i in range(len(training)) if i not in held]
    return Subset(training, others), Subset(training, list(held))


def _say_written(accelerator: Any, file: Path) -> None:
    if accelerator is None or accelerator.is_main_process:
        print(f"wrote {file} and {file.with_suffix('.json').name}")
