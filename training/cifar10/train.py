"""Train the shipped example from scratch: classifier, surrogate, explainer, cards.

    python training/cifar10/train.py --data DIR --out RUN

DIR holds ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``. A run that was stopped goes on
when it is started again. In the end ``RUN/samples`` holds what the package ships: weights in
half precision, their cards, and twelve test images. ``--from-shipped`` skips the first stages,
of which the package has the results.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from classifier import ARCHITECTURE, accuracy
from data import images_of
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from xai_patchshap.amortized import (
    Architecture,
    Recipe,
    Schedule,
    ShapleyViT,
    calibrate,
    explained_variance,
    load_card,
    load_explainer,
    per_image_correlation,
    save_explainer,
    save_surrogate,
    shapley_values,
    train_explainer,
    train_surrogate,
)
from xai_patchshap.samples import (
    cifar10_classifier,
    cifar10_explainer,
    cifar10_path,
    cifar10_surrogate,
)

N_VALIDATION = 1000  # of the training images, kept apart from all training but the classifier's
N_CALIBRATION = 30  # of the validation images
N_HELD_OUT = 30  # test images that the card's scores come from

VIT = Architecture(
    "vit_tiny_patch16_224", ARCHITECTURE, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
)


class Photographs(Dataset):
    """Images in [0, 1] of a tensor of bytes, and further copies, shifted and mirrored."""

    def __init__(self, images: Tensor, copies: int = 1, first: int = 0) -> None:
        self.images, self.copies, self.first = images, copies, first

    def __len__(self) -> int:
        return len(self.images) * self.copies

    def __getitem__(self, index: int) -> Tensor:
        copy, place = divmod(index, len(self.images))
        copy += self.first
        image = self.images[place].float() / 255
        if copy:
            top, left = np.random.default_rng([copy, place]).integers(0, 9, 2)
            padded = torch.nn.functional.pad(image[None], (4, 4, 4, 4), mode="reflect")[0]
            image = padded[:, top : top + 32, left : left + 32]
        # Odd copies are mirrored.
        return image.flip(-1) if copy % 2 else image


def build(weights: Path) -> torch.nn.Module:
    model = VIT.build()
    model.model.load_state_dict(load_file(weights))
    for block in model.model.blocks:
        block.attn.fused_attn = False
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--surrogate-epochs", type=int, default=2)
    parser.add_argument("--explainer-epochs", type=int, default=4)
    parser.add_argument("--copies", type=int, default=8, help="of each image, for the surrogate")
    parser.add_argument("--second-epochs", type=int, default=3, help="of the second explainer")
    parser.add_argument(
        "--int8", action="store_true", help="pairs of the second explainer by int8.py, as shipped"
    )
    parser.add_argument("--float32", action="store_true", help="no bfloat16: faster on some CPUs")
    parser.add_argument(
        "--from-shipped",
        action="store_true",
        help="only the second explainer, from the shipped classifier, surrogate and explainer",
    )
    parser.add_argument("--first-copy", type=int, default=4, help="of the second explainer's four")
    parser.add_argument("--stop-after", choices=["classifier", "surrogate", "first", "explainer"])
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    images, _, classes = images_of(a.data / "train", a.out)
    test_images, test_labels, _ = images_of(a.data / "test", a.out)
    validation, training = Photographs(images[:N_VALIDATION]), images[N_VALIDATION:]
    common = {"validation": validation, "architecture": VIT}
    if a.from_shipped:
        classifier, first = cifar10_classifier(), cifar10_explainer()
        surrogate = cifar10_surrogate()
    else:
        classifier, surrogate, first = stages(a, training, common)
    if a.stop_after in ("classifier", "surrogate", "first"):
        return
    # Further copies, fewer pairs of each, and a game beside values.
    copies = Photographs(training, 4, a.first_copy)
    evaluate = None
    if a.int8:
        from int8 import Int8

        evaluate = Int8(surrogate, training[:300].float() / 255, a.out)
    network = train_explainer(
        surrogate,
        copies,
        a.out / "more",
        Recipe(
            n_pairs=8,
            fresh=False,
            evaluate=evaluate,
            keep_tokens=True,
            n_frozen=ARCHITECTURE["depth"] - 1,
            taps=(2, 4),
            predicts="game",
            start=first,
        ),
        Schedule(
            epochs=a.second_epochs,
            batch_size=128,
            learning_rate=2e-3,
            weight_decay=0.05,
            validations=4 * a.second_epochs,
            autocast=None if a.float32 else torch.bfloat16,
        ),
        **common,
    )
    if a.stop_after == "explainer":
        return
    ship(a, classifier, network, validation, test_images, test_labels, classes)


def stages(a, training, common):
    """Classifier, surrogate, and an explainer that predicts values."""
    autocast = None if a.float32 else torch.bfloat16
    if not (a.out / "classifier.safetensors").exists():
        here = Path(__file__).with_name("classifier.py")
        subprocess.run([sys.executable, here, "--data", a.data, "--out", a.out], check=True)
    classifier = build(a.out / "classifier.safetensors")
    if a.stop_after == "classifier":
        return classifier, None, None
    surrogate = train_surrogate(
        classifier,
        Photographs(training, a.copies),
        a.out / "surrogate",
        Schedule(epochs=a.surrogate_epochs, batch_size=256, learning_rate=5e-4, autocast=autocast),
        **common,
    )
    if a.stop_after == "surrogate":
        return classifier, surrogate, None
    first = train_explainer(
        surrogate,
        Photographs(training, 4),
        a.out / "explainer",
        Recipe(n_pairs=12, fresh=False, n_frozen=ARCHITECTURE["depth"] - 1, predicts="values"),
        Schedule(
            epochs=a.explainer_epochs,
            batch_size=256,
            learning_rate=1e-3,
            weight_decay=0.05,
            validations=a.explainer_epochs,
            autocast=autocast,
        ),
        **common,
    )
    return classifier, surrogate, first


def ship(a, classifier, network, validation, test_images, test_labels, classes) -> None:
    """Half precision, calibration, scores on test images, cards."""
    folder = a.out / "samples"
    folder.mkdir(exist_ok=True)
    about = {
        "data": "CIFAR-10 (Krizhevsky, 2009), as JPEG files; 50,000 training images, of which "
        f"{N_VALIDATION} choose the weights of surrogate and explainer",
        "class_names": classes,
        "command": "python training/cifar10/train.py --data DIR --out RUN",
    }
    if a.from_shipped:
        about["command"] += " --from-shipped"
        for name in ("classifier", "surrogate"):
            for suffix in (".safetensors", ".json"):
                shutil.copy(cifar10_path(name).with_suffix(suffix), folder)
        start = recipe_of(load_card(cifar10_path()))
    else:
        ship_models(a, classifier, network.surrogate.model, about, test_images, test_labels)
        start = recipe_of(load_card(a.out / "explainer" / "explainer.safetensors"))
        start["curve"] = curve_of(a.out / "explainer")
    about["command"] += f" --second-epochs {a.second_epochs} --first-copy {a.first_copy}"
    about["command"] += a.int8 * " --int8" + a.float32 * " --float32"
    card = {**about, **recipe_of(load_card(a.out / "more" / "explainer.safetensors"))}
    card["started_from"] = start
    kept = {"surrogate": folder / "surrogate.safetensors", "dtype": torch.float16}
    file = folder / "explainer.safetensors"
    save_explainer(network, file, **kept)
    network = load_explainer(file)  # what users will have
    autocast = None if a.float32 else torch.bfloat16
    some = torch.stack([validation[i] for i in range(N_CALIBRATION)])
    reference = shapley_values(network, some, 1024, control=True, autocast=autocast)
    calibrated = calibrate(network, some, reference=reference, autocast=autocast)
    scores = score_of(network, test_images[:N_HELD_OUT].float() / 255, autocast)
    print(json.dumps({"calibration": calibrated, "scores": scores}, indent=1))
    card |= {"calibration": calibrated, "scores": scores, "curve": curve_of(a.out / "more")}
    save_explainer(network, file, card=card, **kept)
    chosen = [int((test_labels == c).nonzero()[0]) for c in range(10)]
    chosen += [int((test_labels == c).nonzero()[1]) for c in (3, 5)]
    np.savez_compressed(
        folder / "images.npz",
        images=test_images[chosen].permute(0, 2, 3, 1).numpy(),
        labels=test_labels[chosen].numpy(),
    )
    print("shipped:", sum(f.stat().st_size for f in folder.iterdir()) / 1e6, "MB")


def ship_models(a, classifier, surrogate, about, test_images, test_labels) -> None:
    """Classifier and surrogate."""
    half = {"architecture": VIT, "dtype": torch.float16}
    score = accuracy(classifier.model, test_images, test_labels)
    save_surrogate(
        classifier,
        a.out / "samples" / "classifier.safetensors",
        kind="classifier",
        card={**about, "test_accuracy": score, "seed": 0,
              "recipe": "24 epochs, Muon and AdamW, crops and mirroring, random patches dropped "
              "in the first 20 epochs; see training/cifar10/classifier.py"},
        **half,
    )  # fmt: skip
    kept = recipe_of(load_card(a.out / "surrogate" / "surrogate.safetensors"))
    score = accuracy(surrogate.model, test_images, test_labels)
    save_surrogate(
        surrogate,
        a.out / "samples" / "surrogate.safetensors",
        card={**about, "test_accuracy": score, **kept},
        **half,
    )


def recipe_of(card: dict) -> dict:
    """How a network was trained."""
    kept = ("recipe", "training_images", "validation", "curve", "started_from")
    return {k: card[k] for k in kept if k in card}


def curve_of(run: Path) -> list[dict[str, float]]:
    """Steps, losses and validation scores of a run."""
    with (run / "log.csv").open() as log:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(log)]


def score_of(network: ShapleyViT, images: Tensor, autocast: torch.dtype | None) -> dict:
    """Scores for the predicted class against 4,096 evaluations of KernelSHAP."""
    budgets = [64, 128, 256, 512]
    reference = shapley_values(network, images, 4096, control=True, seed=10, autocast=autocast)
    with torch.no_grad():
        values, full = network(images)
    target = full.argmax(1).numpy()
    rows = np.arange(len(images))

    def both(of_all: np.ndarray) -> dict[str, float]:
        found, truth = of_all[rows, :, target], reference[rows, :, target]
        return {
            "r2": explained_variance(found, truth),
            "correlation": float(per_image_correlation(found, truth).mean()),
        }

    kernel = shapley_values(network, images, budgets, seed=20, autocast=autocast)
    return {
        "images": f"the first {len(images)} test images",
        "reference": "KernelSHAP, 4096 evaluations, with the predicted game as a control variate",
        "alone": both(values.double().numpy()),
        "KernelSHAP": {str(m): both(k) for m, k in zip(budgets, kernel, strict=True)},
    }


if __name__ == "__main__":
    main()
