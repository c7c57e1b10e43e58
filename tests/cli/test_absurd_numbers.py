"""Numbers of the command line that make no sense are refused in words, before any long work."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.amortized.conftest import tiny_vit

from xai_patchshap.amortized import Architecture, save_surrogate
from xai_patchshap.amortized.training.data import batches
from xai_patchshap.cli import main
from xai_patchshap.models.named_model import ScoredImages

ARGS = {
    "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
    "num_classes": 3, "class_token": False, "global_pool": "avg",
}  # fmt: skip
HUGE, BEYOND = "1000000000000", "9" * 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("absurd")
    for i in range(4):
        file = root / "images" / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(file)
    model = ScoredImages(tiny_vit(), probability=False)
    kind = Architecture("vit_tiny_patch16_224", ARGS)
    save_surrogate(model, root / "surrogate.safetensors", architecture=kind)
    return root


@pytest.mark.parametrize("stage", ["surrogate", "explainer"])
@pytest.mark.parametrize(
    ("option", "numbers"),
    [
        ("--seed", ["-1", BEYOND]),
        ("--epochs", [HUGE, BEYOND]),
        ("--workers", ["-1", "100000"]),
        ("--learning-rate", ["inf"]),
        ("--weight-decay", ["nan", "-1", "inf"]),
        ("--pairs", ["0", HUGE, BEYOND]),
    ],
)
def test_training_refuses_them_by_name(folder, tmp_path, capsys, stage, option, numbers):
    given = ["--model", "timm:vit_tiny_patch16_224", "--model-args", json.dumps(ARGS)]
    given += ["--weights", "random"]
    if stage == "explainer":
        given = ["--surrogate", str(folder / "surrogate.safetensors"), "--calibrate", "0"]
    elif option == "--pairs":
        option = "--sizes"
        numbers = ["0", "-1"]
    for number in numbers:
        command = ["train", stage, str(folder / "images"), *given, "--silent", "--device", "cpu"]
        assert main([*command, "--epochs", "1", option, number, "--out", str(tmp_path / "o")]) == 2
        assert f"xai-patchshap: {option}: got " in capsys.readouterr().err


def test_the_order_of_images_is_made_as_it_is_needed():
    images = torch.zeros(4, 3, 2, 2)
    first, _ = next(batches(images, 2, 0, 0, 10**12, 0))
    assert len(first) == 2


def mean(x):
    return x.mean((2, 3))


@pytest.mark.parametrize("method", ["rise", "captum-kernel-shap", "patch-kernel-shap"])
@pytest.mark.parametrize("budget", [HUGE, BEYOND])
def test_budgets_beyond_memory_are_refused_for_every_method(
    folder, tmp_path, capsys, method, budget
):
    given = ["--model", f"{__name__}:mean", "--size", "16", "--players", "8x8", "--samples", "0"]
    command = ["evaluate", str(folder / "images" / "0.png"), *given, "--methods", method]
    assert main([*command, "--budget", budget, "--out", str(tmp_path / "out")]) == 2
    assert "xai-patchshap: --budget: got " in capsys.readouterr().err
