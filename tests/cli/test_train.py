"""The command line of training, and explanations by what it trained."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.helpers import tiny_vit

from xai_patchshap import PatchShapError
from xai_patchshap.amortized import load_card, load_explainer, load_surrogate
from xai_patchshap.cli import main
from xai_patchshap.cli.train import ImageFiles

ARGS = {
    "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
    "num_classes": 3, "class_token": False, "global_pool": "avg",
}  # fmt: skip
QUICK = ["--epochs", "1", "--batch-size", "8", "--silent", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs in class folders, the weights of a classifier, and what was trained."""
    root = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)
    for i in range(40):
        file = root / "images" / f"class{i % 3}" / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(file)
    save_file(dict(tiny_vit().state_dict()), root / "classifier.safetensors")
    return root


@pytest.fixture(scope="module")
def trained(folder):
    status = main([
        "train", "surrogate", str(folder / "images"), "--model", "timm:vit_tiny_patch16_224",
        "--model-args", json.dumps(ARGS), "--weights", str(folder / "classifier.safetensors"),
        "--out", str(folder / "surrogate"), "--sizes", "4", *QUICK,
    ])  # fmt: skip
    assert status == 0
    status = main([
        "train", "explainer", str(folder / "images"), "--keep-pairs", "--pairs", "2",
        "--surrogate", str(folder / "surrogate" / "surrogate.safetensors"),
        "--out", str(folder / "explainer"), "--calibrate", "2", "--frozen", "2",
        "--taps", "1", "--keep-tokens", *QUICK,
    ])  # fmt: skip
    assert status == 0
    return folder


def test_both_stages_leave_checkpoints_that_load(trained):
    surrogate = load_surrogate(trained / "surrogate" / "surrogate.safetensors")
    assert surrogate(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    # timm's own normalisation for this transformer
    assert surrogate.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    file = trained / "explainer" / "explainer.safetensors"
    network = load_explainer(file)
    assert (network.n_frozen, network.taps, network.predicts) == (2, (1,), "game")
    assert network.ridge > 0
    card = load_card(file)
    assert card["recipe"]["n_pairs"] == 2
    assert card["training_images"] == 38  # every 20th of 40 is held out
    assert card["calibration"]["ridge"] == network.ridge
    assert len(card["rmse"]) == 3


def test_an_explainer_is_trained_further(trained, tmp_path):
    file = trained / "explainer" / "explainer.safetensors"
    options = [
        "train", "explainer", trained / "images", "--start", file, "--pairs", "2", "--frozen", "2",
        "--surrogate", trained / "surrogate" / "surrogate.safetensors", "--calibrate", "0",
        "--taps", "1", "--learning-rate", "1e-9", *QUICK,
    ]  # fmt: skip
    assert main([str(o) for o in [*options, "--out", tmp_path / "more"]]) == 0
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        before = load_explainer(file)(x)[0]
        after = load_explainer(tmp_path / "more" / "explainer.safetensors")(x)[0]
    assert torch.allclose(before, after, atol=1e-5)


def test_the_trained_explainer_explains(trained, tmp_path, capsys):
    image = next((trained / "images" / "class0").iterdir())
    file = trained / "explainer" / "explainer.safetensors"
    common = ["explain", str(image), "--method", "vit-shapley-amortized", "--explainer", str(file)]
    assert main([*common, "--out", str(tmp_path / "a")]) == 0
    assert "16 players, 1 model evaluations" in capsys.readouterr().out
    assert main([*common, "--out", str(tmp_path / "b"), "--budget", "30"]) == 0
    assert "16 players, 29 model evaluations" in capsys.readouterr().out
    with np.load(tmp_path / "b" / f"{image.stem}.npz") as stored:
        gap = stored["full_values"] - stored["base_values"]
        assert np.allclose(stored["values"].sum(0), gap)


def test_a_demo_of_what_is_shipped(tmp_path, capsys):
    assert main(["demo", "--method", "vit-shapley-amortized", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "64 players, 1 model evaluations" in out
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_training_goes_on_and_does_not_repeat_itself(trained):
    log = trained / "surrogate" / "log.csv"
    before = log.stat().st_mtime_ns
    status = main([
        "train", "surrogate", str(trained / "images"), "--model", "timm:vit_tiny_patch16_224",
        "--model-args", json.dumps(ARGS), "--weights", str(trained / "classifier.safetensors"),
        "--out", str(trained / "surrogate"), "--sizes", "4", *QUICK,
    ])  # fmt: skip
    assert status == 0
    assert log.stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_that_are_started_at_once_leave_what_one_leaves(trained, tmp_path):
    command = [
        sys.executable, "-m", "xai_patchshap", "train", "surrogate", trained / "images",
        "--model", "timm:vit_tiny_patch16_224", "--model-args", json.dumps(ARGS),
        "--weights", trained / "classifier.safetensors", "--sizes", "4", "--out", tmp_path, *QUICK,
    ]  # fmt: skip
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([str(c) for c in command], **options) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    for process, error in zip(both, said, strict=True):
        assert process.returncode == 0 or "is at work; expected a folder that no" in error
    assert 0 in [process.returncode for process in both]
    name = "surrogate.safetensors"
    one, two = (
        load_surrogate(folder / name).state_dict() for folder in (trained / "surrogate", tmp_path)
    )
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_errors_speak_of_what_was_typed(trained, tmp_path, capsys):
    again = [
        "train", "explainer", trained / "images", "--pairs", "2", "--calibrate", "0", *QUICK,
        "--surrogate", trained / "surrogate" / "surrogate.safetensors",
    ]  # fmt: skip
    kept = ["--out", trained / "explainer", "--keep-pairs", "--keep-tokens", "--frozen", "2"]
    assert "--out: got" in failing(capsys, *again, *kept, "--seed", "3")
    err = failing(capsys, *again, "--out", tmp_path / "a", "--frozen", "9")
    assert "--frozen: got 9; expected 0 to 2" in err
    (tmp_path / "file").write_text("")
    assert "--out: got" in failing(capsys, *again, "--out", tmp_path / "file")
    err = failing(capsys, *again, "--out", tmp_path / "a", "--epochs", "0")
    assert "--epochs: got 0; expected a whole number" in err


def failing(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 2
    return capsys.readouterr().err


def test_bad_requests_are_refused(folder, tmp_path, capsys):
    images, out = folder / "images", ["--out", tmp_path / "out", *QUICK]
    surrogate = ["train", "surrogate", images, *out, "--model"]
    assert "timm:NAME with the name of a Vis" in failing(capsys, *surrogate, "resnet18")
    assert "timm:NAME with the name of a Vis" in failing(capsys, *surrogate, "timm:no_such")
    name = "timm:vit_tiny_patch16_224"
    wrong = [*surrogate, name, "--weights", "random", "--model-args"]
    assert "--model-args: got '[1]'; expected a JSON object" in failing(capsys, *wrong, "[1]")
    assert "expected a JSON object" in failing(capsys, *wrong, "{")
    assert "--model-args: got an option 'bogus'" in failing(capsys, *wrong, '{"bogus": 1}')
    assert "arguments that it takes" in failing(capsys, *wrong, '{"num_heads": 7}')
    small = json.dumps(ARGS)
    assert "--device: got 'x'; expected a dev" in failing(capsys, *wrong, small, "--device", "x")
    missing = [*wrong, small, "--validation", tmp_path / "nothing"]
    assert "expected a folder with images, at any depth" in failing(capsys, *missing)
    for strange in ("timm:resnet18", "timm:hf-hub:timm/vit_tiny_patch16_224", "timm:local-dir:/"):
        assert "timm:NAME with the name of a Vis" in failing(capsys, *surrogate, strange)
    err = failing(capsys, "train", "explainer", images, *out, "--surrogate", tmp_path / "none")
    assert "which is no file" in err
    err = failing(capsys, "train", "explainer", images, *out, "--surrogate", tmp_path / "none",
                  "--calibrate", "-1")  # fmt: skip
    assert "--calibrate: got -1; expected a whole number of at least 0" in err
    err = failing(capsys, "train", "explainer", images, *out, "--surrogate", tmp_path / "none",
                  "--taps", "1,x")  # fmt: skip
    assert "--taps: got '1,x'; expected numbers of blocks with commas between" in err
    err = failing(capsys, "explain", "cat.jpg", "--method", "vit-shapley-amortized")
    assert "image" in err


def test_the_explainer_is_for_its_own_method(trained, tmp_path, capsys):
    image = next((trained / "images" / "class0").iterdir())
    file = trained / "explainer" / "explainer.safetensors"
    own = ["explain", image, "--out", tmp_path, "--method", "vit-shapley-amortized"]
    assert "--explainer: got none" in failing(capsys, *own)
    err = failing(capsys, *own, "--explainer", file, "--players", "3x3")
    assert "--players: got 3x3; expected none for --method vit-shapley-amortized" in err
    err = failing(capsys, *own, "--explainer", file, "--trees", "3")
    assert "--trees: got 3; expected none" in err
    for option, value in [("--model", "timm:x"), ("--background", "blur"), ("--scale", "logit")]:
        err = failing(capsys, *own, "--explainer", file, option, value)
        assert f"{option}: got {value}; expected none for --method vit-shapley-amortized" in err
    err = failing(capsys, "explain", image, "--out", tmp_path, "--explainer", file)
    assert "expected it with --method vit-shapley-amortized only" in err


def test_a_missing_accelerate_names_its_extra(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    err = failing(
        capsys, "train", "surrogate", folder / "images", "--out", tmp_path, *QUICK, "--model",
        "timm:vit_tiny_patch16_224", "--model-args", json.dumps(ARGS), "--weights", "random",
        "--accelerate",
    )  # fmt: skip
    assert "pip install 'xai-patchshap[train]'" in err


@pytest.mark.parametrize("workers", [0, 2])
def test_one_broken_image_is_named_before_any_work(folder, tmp_path, capsys, workers):
    shutil.copytree(folder / "images", tmp_path / "images")
    (tmp_path / "images" / "class1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    err = failing(
        capsys, "train", "surrogate", tmp_path / "images", "--out", tmp_path / "out", *QUICK,
        "--model", "timm:vit_tiny_patch16_224", "--model-args", json.dumps(ARGS),
        "--weights", "random", "--workers", workers,
    )  # fmt: skip
    assert "broken.png'; expected a readable image file" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_image_files_are_cropped_in_the_middle_and_in_order(folder):
    files = ImageFiles(folder / "images", (16, 16))
    assert len(files) == 40
    assert files.files == sorted(files.files)
    assert files[0].shape == (3, 16, 16)
    assert 0 <= files[0].min() < files[0].max() <= 1


def test_a_broken_image_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(PatchShapError, match=r"broken.png'; expected a readable image file"):
        ImageFiles(tmp_path, (8, 8))[0]
