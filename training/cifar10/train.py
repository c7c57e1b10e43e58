"""Train the shipped example from scratch: classifier, surrogate, explainer, cards.

    python training/cifar10/train.py --data DIR --out RUN

DIR holds ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``. A run that was stopped goes on
when it is started again. In the end ``RUN/samples`` holds what the package ships: weights in
half precision, their cards, and twelve test images.
"""

from __future__ import annotations

import argparse
import csv
import json
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
    Schedule,
    ShapleyViT,
    calibrate,
    explained_variance,
    load_explainer,
    per_image_correlation,
    save_explainer,
    save_surrogate,
    shapley_values,
    train_explainer,
    train_surrogate,
)

N_VALIDATION = 1000  # of the training images, kept apart from all training but the classifier's
N_HELD_OUT = 100  # test images that the card's scores come from

VIT = Architecture(
    "vit_tiny_patch16_224", ARCHITECTURE, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
)


class Photographs(Dataset):
    """Images in [0, 1] of a tensor of bytes, and further copies, shifted and mirrored."""

    def __init__(self, images: Tensor, copies: int = 1) -> None:
        self.images, self.copies = images, copies

    def __len__(self) -> int:
        return len(self.images) * self.copies

    def __getitem__(self, index: int) -> Tensor:
        copy, place = divmod(index, len(self.images))
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
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--copies", type=int, default=8, help="of each image, for the surrogate")
    parser.add_argument("--explainer-copies", type=int, default=4)
    parser.add_argument(
        "--predicts", choices=["values", "game"], default="values", help="values: what is shipped"
    )
    parser.add_argument("--taps", type=int, nargs="*", default=[], help="as 2 4; shipped: none")
    parser.add_argument("--stop-after", choices=["classifier", "surrogate", "explainer"])
    a = parser.parse_args()
    if not (a.out / "classifier.safetensors").exists():
        here = Path(__file__).with_name("classifier.py")
        subprocess.run([sys.executable, here, "--data", a.data, "--out", a.out], check=True)
    if a.stop_after == "classifier":
        return
    images, _, classes = images_of(a.data / "train", a.out)
    test_images, test_labels, _ = images_of(a.data / "test", a.out)
    validation, training = Photographs(images[:N_VALIDATION]), images[N_VALIDATION:]
    classifier = build(a.out / "classifier.safetensors")

    common = {"validation": validation, "architecture": VIT}
    surrogate = train_surrogate(
        classifier,
        Photographs(training, a.copies),
        a.out / "surrogate",
        schedule=Schedule(
            epochs=a.surrogate_epochs,
            batch_size=256,
            learning_rate=5e-4,
            autocast=torch.bfloat16,
        ),
        **common,
    )
    if a.stop_after == "surrogate":
        return
    network = train_explainer(
        surrogate,
        Photographs(training, a.explainer_copies),
        a.out / "explainer",
        n_pairs=a.pairs,
        fresh=False,
        n_frozen=ARCHITECTURE["depth"] - 1,
        predicts=a.predicts,
        taps=a.taps,
        schedule=Schedule(
            epochs=a.explainer_epochs,
            batch_size=256,
            learning_rate=1e-3,
            weight_decay=0.05,
            validations=a.explainer_epochs,
            autocast=torch.bfloat16,
        ),
        **common,
    )
    if a.stop_after == "explainer":
        return
    ship(a, classifier, network, validation, test_images, test_labels, classes)


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
    half = {"architecture": VIT, "dtype": torch.float16}
    score = accuracy(classifier.model, test_images, test_labels)
    save_surrogate(
        classifier,
        folder / "classifier.safetensors",
        kind="classifier",
        card={**about, "test_accuracy": score, "seed": 0,
              "recipe": "24 epochs, Muon and AdamW, crops and mirroring, random patches dropped "
              "in the first 20 epochs; see training/cifar10/classifier.py"},
        **half,
    )  # fmt: skip
    recipes = {
        s: json.loads((a.out / s / f"{s}.json").read_text()) for s in ("surrogate", "explainer")
    }
    surrogate = network.surrogate.model
    kept = {k: recipes["surrogate"][k] for k in ("recipe", "training_images", "validation")}
    score = accuracy(surrogate.model, test_images, test_labels)
    save_surrogate(
        surrogate,
        folder / "surrogate.safetensors",
        card={**about, "test_accuracy": score, **kept},
        **half,
    )
    file = folder / "surrogate.safetensors"
    with (a.out / "explainer" / "log.csv").open() as log:
        curve = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(log)]
    kept = {k: recipes["explainer"][k] for k in ("recipe", "training_images", "validation")}
    save_explainer(network, folder / "explainer.safetensors", surrogate=file, dtype=torch.float16)
    network = load_explainer(folder / "explainer.safetensors")  # what users will have
    some = torch.stack([validation[i] for i in range(100)])
    calibrated = calibrate(network, some, n_reference=2048, autocast=torch.bfloat16)
    held_out = test_images[:N_HELD_OUT].float() / 255
    scores = score_of(network, held_out)
    print(json.dumps({"calibration": calibrated, "scores": scores}, indent=1))
    save_explainer(
        network,
        folder / "explainer.safetensors",
        surrogate=file,
        card={**about, **kept, "calibration": calibrated, "scores": scores, "curve": curve},
        dtype=torch.float16,
    )
    chosen = [int((test_labels == c).nonzero()[0]) for c in range(10)]
    chosen += [int((test_labels == c).nonzero()[1]) for c in (3, 5)]
    np.savez_compressed(
        folder / "images.npz",
        images=test_images[chosen].permute(0, 2, 3, 1).numpy(),
        labels=test_labels[chosen].numpy(),
    )
    print("shipped:", sum(f.stat().st_size for f in folder.iterdir()) / 1e6, "MB")


def score_of(network: ShapleyViT, images: Tensor) -> dict:
    """Scores for the predicted class against 4,096 evaluations of KernelSHAP."""
    budgets = [64, 128, 256, 512]
    reference = shapley_values(network, images, 4096, seed=10, autocast=torch.bfloat16)
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

    kernel = shapley_values(network, images, budgets, seed=20, autocast=torch.bfloat16)
    return {
        "images": f"the first {len(images)} test images",
        "reference": "KernelSHAP, 4096 evaluations",
        "alone": both(values.double().numpy()),
        "KernelSHAP": {str(m): both(k) for m, k in zip(budgets, kernel, strict=True)},
    }


if __name__ == "__main__":
    main()
