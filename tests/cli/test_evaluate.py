"""``xai-patchshap evaluate``: methods compared on a folder of images."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import t as student

from xai_patchshap.cli import evaluate as _evaluate
from xai_patchshap.cli import main
from xai_patchshap.evaluation import deletion_curve, insertion_curve
from xai_patchshap.evaluation.compare import mean_of
from xai_patchshap.explainers.methods import COMPARED, dashed
from xai_patchshap.samples import cifar10_images, cifar10_path

MODEL = """
import torch
from torch import nn
calls, stop_after = 0, None
class Linear(nn.Module):
    # Three outputs; the first is additive over the pixels, and the largest.
    def __init__(self):
        super().__init__()
        weights = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
        self.weights = nn.Parameter(weights ** 4)
    def forward(self, x):
        first = (x * self.weights).sum((1, 2, 3)) / 10
        return torch.stack([first, -first, -first ** 2], dim=1)
linear = Linear
def function(x):
    global calls
    calls += 1
    if calls == stop_after:
        raise KeyboardInterrupt
    return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], dim=1)
def frozen(x):
    return function(x).detach()
def single(x):
    return x.mean((1, 2, 3))
def no_white(x):
    return torch.where(x.mean((1, 2, 3)) > 0.99, torch.nan, 1.0)[:, None] * function(x)
"""
# The model is no transformer, and no explainer was trained.
OTHERS = ("vit_shapley_amortized", "attention_rollout", "last_attention")
METHODS = [dashed(m) for m in COMPARED if m not in OTHERS]
ADDITIVE = ["patch-kernel-shap", "owen-bpt", "interaction-shap", "leave-one-out"]
ADDITIVE += ["integrated-gradients", "input-x-gradient"]


@pytest.fixture
def model(tmp_path, monkeypatch):
    (tmp_path / "evaluated_model_for_test.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "evaluated_model_for_test", raising=False)
    return __import__("evaluated_model_for_test")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a", "b", "sub/c"):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
    return root


def evaluate(folder, *arguments, model="linear"):
    defaults = ["--model", f"evaluated_model_for_test:{model}", "--size", "16"]
    defaults += ["--background", "0", "--players", "2x3", "--budget", "40"]
    defaults += ["--out", str(folder.parent / "out")]
    return main(["evaluate", *defaults, *map(str, arguments), "--", str(folder)])


def saved(folder):
    return json.loads((folder.parent / "out" / "evaluation.json").read_text())


def test_on_an_additive_game_all_that_should_agree_do(model, folder, capsys):
    state = torch.random.get_rng_state()
    assert evaluate(folder, "--methods", ",".join(METHODS)) == 0
    assert torch.equal(torch.random.get_rng_state(), state)
    found = saved(folder)
    assert [line["method"] for line in found["methods"]] == METHODS
    lines = {line["method"]: line for line in found["methods"]}
    for method in ADDITIVE:
        line = lines[method]
        assert line["sensitivity_n"] == pytest.approx(1, abs=0.01)
        assert line["faithfulness"] == pytest.approx(1, abs=0.01)
        assert line["insertion"] == pytest.approx(lines["leave-one-out"]["insertion"], rel=1e-5)
    for method, line in lines.items():
        assert line["images"] == 3
        assert line["insertion"] <= lines["leave-one-out"]["insertion"] + 1e-6
        assert line["deletion"] >= lines["leave-one-out"]["deletion"] - 1e-6
        assert line["evaluations"] <= 40 + 10 * (method == "smoothgrad"), method
    assert lines["random"]["insertion"] < lines["leave-one-out"]["insertion"] - 0.01
    evaluations = {m: line["evaluations"] for m, line in lines.items()}
    assert evaluations["leave-one-out"] == 7
    assert evaluations["rise"] == evaluations["captum-kernel-shap"] == 40
    assert evaluations["integrated-gradients"] == evaluations["smoothgrad"] == 40
    assert (evaluations["saliency"], evaluations["random"]) == (1, 0)


def test_the_areas_are_those_of_the_metrics(model, folder):
    for name in ("b", "sub/c"):
        (folder / f"{name}.png").unlink()
    options = ["--methods", "leave-one-out", "--players", "4x4", "--steps", "7"]
    assert evaluate(folder, *options) == 0
    pixels = torch.tensor(np.array(Image.open(folder / "a.png"))) / 255
    parts = (pixels.permute(2, 0, 1) * model.Linear().weights.detach()).double().sum(0) / 10
    phi = parts.reshape(4, 4, 4, 4).sum((1, 3)).numpy().ravel()
    (row,) = saved(folder)["images"]
    insertion = insertion_curve(lambda shown: shown @ phi, phi, steps=7).auc()
    deletion = deletion_curve(lambda shown: shown @ phi, phi, steps=7).auc()
    assert row["insertion"] == pytest.approx(insertion, rel=1e-5)
    assert row["deletion"] == pytest.approx(deletion, rel=1e-5)
    assert (row["image"], row["class"]) == ("a", "class 0")
    assert row["score"] == pytest.approx(phi.sum(), rel=1e-5)
    (line,) = saved(folder)["methods"]
    assert line["insertion_half_width"] is None  # of a single image


def test_table_csv_and_json_say_the_same(model, folder, capsys):
    assert evaluate(folder, "--methods", "random, saliency,random") == 0
    out, err = capsys.readouterr()
    assert "3 of 3 images, evaluated_model_for_test:linear, output of the predicted class" in out
    assert "evaluate: 100%" in err
    found = saved(folder)
    numbers = [row["insertion"] for row in found["images"] if row["method"] == "random"]
    mean = np.mean(numbers)
    half = student.ppf(0.975, 2) * np.std(numbers, ddof=1) / np.sqrt(3)
    line = found["methods"][0]
    assert (line["insertion"], line["insertion_half_width"]) == pytest.approx((mean, half))
    assert re.search(rf"\nrandom +0 +0.00 +{mean:.3f} \+- {half:.3f} ", out)
    assert re.search(r"\nmethod +evaluations +seconds +insertion +deletion +sensitivity-n ", out)
    with (folder.parent / "out" / "evaluation.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [r["method"] for r in table] == ["random", "saliency"]
    assert float(table[0]["insertion_half_width"]) == pytest.approx(half)
    assert found["settings"]["budget"] == 40
    assert found["failed"] == []


def test_seeds_repeat_and_batches_do_not_matter(model, folder):
    def scores(*options):
        shutil.rmtree(folder.parent / "out", ignore_errors=True)
        methods = "patch-kernel-shap,smoothgrad,captum-kernel-shap,rise,random"
        assert evaluate(folder, "--players", "5x5", "--methods", methods, *options) == 0
        return np.array([row["insertion"] for row in saved(folder)["images"]])

    first = scores()
    np.testing.assert_allclose(scores("--batch-size", "3"), first, rtol=1e-5)
    assert not np.allclose(scores("--seed", "1"), first, rtol=1e-3)


def test_a_corrupt_image_does_not_end_it(model, folder, capsys):
    (folder / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (16, 16), "white").save(folder / "sub" / "white.png")
    assert evaluate(folder, "--methods", "random", "--samples", "0", model="no_white") == 1
    out, err = capsys.readouterr()
    assert "3 of 5 images" in out
    assert "sensitivity" not in out
    assert re.search(r"xai-patchshap: image: got '.*broken.png'; expected a readable", err)
    assert re.search(r"xai-patchshap: '.*white.png': model: got NaN or infinite outputs", err)
    assert "5/5" in err
    found = saved(folder)
    assert len(found["failed"]) == 2
    assert found["methods"][0]["faithfulness"] is None


def test_nothing_is_written_where_no_image_can_be_read(model, folder, capsys):
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no image")
    assert evaluate(folder) == 1
    assert capsys.readouterr().err.count("expected a readable image") == 3
    assert not (folder.parent / "out").exists()


def test_ctrl_c_reports_the_images_that_are_finished(model, folder, capsys):
    options = ["--methods", "random,patch-kernel-shap", "--batch-size", "1"]
    assert evaluate(folder, *options, model="function") == 0
    per_image = model.calls // 3
    for stop_after in (int(1.1 * per_image), int(1.9 * per_image), 2 * per_image - 3):
        model.calls, model.stop_after = 0, stop_after
        shutil.rmtree(folder.parent / "out")
        capsys.readouterr()
        assert evaluate(folder, *options, model="function") == 130
        out, err = capsys.readouterr()
        assert "1 of 3 images" in out
        assert "interrupted" in err
        assert len(saved(folder)["images"]) == 2
    shutil.rmtree(folder.parent / "out")
    # In the middle of an explanation, which ends early instead.
    model.calls, model.stop_after = 0, per_image + 1 + 200 + 8
    assert evaluate(folder, *options, model="function") == 130


def test_a_model_of_one_output(model, folder):
    methods = "patch-kernel-shap,captum-kernel-shap,saliency,leave-one-out"
    assert evaluate(folder, "--methods", methods, model="single") == 0
    assert {row["class"] for row in saved(folder)["images"]} == {"class 0"}


def test_the_amortized_explainer_beside_others(tmp_path):
    images, _ = cifar10_images()
    for i, image in enumerate(images[:2]):
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    methods = "vit-shapley-amortized,patch-kernel-shap,integrated-gradients,random"
    common = ["evaluate", *map(str, tmp_path.glob("*.png")), "--methods", methods, "--budget", "8"]
    common += ["--explainer", str(cifar10_path()), "--steps", "6", "--samples", "8"]
    assert main([*common, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    lines = {line["method"]: line for line in found["methods"]}
    assert lines["vit-shapley-amortized"]["evaluations"] == 1
    assert lines["vit-shapley-amortized"]["insertion"] > lines["random"]["insertion"]
    assert found["settings"]["background"] == "drop"
    assert {row["class"] for row in found["images"]} == {"airplane", "automobile"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "random,lime"], "--methods: got 'lime'; expected one of patch-kernel-shap"),
        (["--methods", ""], "--methods: got ''; expected one of"),
        (
            ["--methods", "vit-shapley-amortized"],
            "--methods: got vit-shapley-amortized without --explainer",
        ),
        (["--budget", "1"], "--budget: got 1; expected a whole number of at least 2"),
        (["--seed", "-1"], "--seed: got -1; expected a whole number of at least 0"),
        (["--steps", "0"], "--steps: got 0; expected a whole number of at least 1"),
        (["--samples", "1"], "--samples: got 1; expected 0, or a whole number of at least 2"),
        (["--batch-size", "0"], "--batch-size: got 0; expected a whole number of at least 1"),
        (["--players", "1x1"], "--players: got a single player; expected at least two"),
        (["--explainer", "x"], "--players: got 2x3; expected none"),
    ],
)
def test_bad_requests_are_refused(model, folder, capsys, options, message):
    assert evaluate(folder, *options) == 2
    assert message in capsys.readouterr().err


def test_methods_that_do_not_go_with_the_model_say_so(model, folder, capsys, tmp_path):
    assert evaluate(folder, "--methods", "random,saliency", model="frozen") == 2
    err = capsys.readouterr().err
    assert "--methods: got saliency for a model without gradients; expected" in err
    vit = ["--model", "timm:test_vit", "--weights", "random", "--background", "drop"]
    common = ["evaluate", str(folder / "a.png"), *vit, "--out", str(tmp_path), "--steps", "2"]
    assert main([*common, "--samples", "2", "--methods", "captum-kernel-shap"]) == 2
    assert "captum-kernel-shap with --background drop" in capsys.readouterr().err
    methods = "random,integrated-gradients,patch-kernel-shap"
    assert main([*common, "--samples", "2", "--methods", methods, "--budget", "8"]) == 0


def test_other_errors_of_a_model_are_not_taken_for_missing_gradients(
    model, folder, monkeypatch, capsys
):
    def fails(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("xai_patchshap.evaluation.other_methods.Saliency.attribute", fails)
    assert evaluate(folder, "--methods", "saliency") == 2
    message = "model: got RuntimeError: out of memory; expected scores of every image"
    assert message in capsys.readouterr().err


def test_it_goes_on_where_it_stopped(model, folder, capsys):
    options = ["--methods", "random,patch-kernel-shap", "--batch-size", "1"]
    assert evaluate(folder, *options, "--out", folder.parent / "whole", model="function") == 0
    per_image = model.calls // 3
    model.calls, model.stop_after = 0, int(2.5 * per_image)
    assert evaluate(folder, *options, model="function") == 130
    model.calls, model.stop_after = 0, None
    (folder.parent / "out" / "evaluation.json").unlink()  # killed before it could be written
    capsys.readouterr()
    assert evaluate(folder, *options, model="function") == 0
    assert "3 of 3 images, 2 of them scored already" in capsys.readouterr().out
    assert model.calls == per_image
    whole = json.loads((folder.parent / "whole" / "evaluation.json").read_text())

    def timeless(rows):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    assert timeless(saved(folder)["images"]) == timeless(whole["images"])
    # An image that was changed is scored again, and it alone.
    Image.new("RGB", (16, 16), "red").save(folder / "b.png")
    model.calls = 0
    assert evaluate(folder, *options, model="function") == 0
    assert model.calls == per_image
    assert evaluate(folder, *options, model="function") == 0
    assert model.calls == per_image


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--seed", "1"], "seed is 0"),
        (["--methods", "saliency"], "methods is ['random']"),
        (["--background", "0.5"], "background is '0'"),
    ],
)
@pytest.mark.parametrize("left", ["images", "evaluation.json"])
def test_scores_of_other_settings_are_not_mixed(model, folder, capsys, options, shown, left):
    assert evaluate(folder, "--methods", "random") == 0
    out = folder.parent / "out"
    for path in (out / "images", out / "evaluation.json"):
        if path.name != left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert evaluate(folder, "--methods", "random", *options) == 2
    assert f"where {shown}" in capsys.readouterr().err


def test_a_report_of_somebody_else_is_left_alone(model, folder, capsys):
    report = folder.parent / "out" / "evaluation.json"
    report.parent.mkdir()
    report.write_text("mine")
    assert evaluate(folder, "--methods", "random") == 2
    assert report.read_text() == "mine"


def test_the_first_images_may_fail(model, folder, capsys):
    for i in range(12):
        Image.new("RGB", (16, 16), "white").save(folder / f"a{i}.png")
    assert evaluate(folder, "--methods", "random", model="no_white") == 1
    assert "3 of 15 images" in capsys.readouterr().out


def test_constant_values_have_no_rank_correlation():
    assert mean_of(np.array([np.nan])) is None
    line = _evaluate._means("m", [{"method": "m", "evaluations": 1, "seconds": 1.0}])
    assert line["insertion"] is None
    assert "-" in _evaluate._table([line | {"deletion": 0.5}, line])
