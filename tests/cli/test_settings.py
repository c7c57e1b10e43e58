"""What is typed is checked once, before anything heavy is imported, in the words of the command."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from xai_patchshap import __version__
from xai_patchshap.amortized.network import PREDICTS
from xai_patchshap.amortized.training.recipe import OBJECTIVES
from xai_patchshap.cli import main, settings
from xai_patchshap.cli.arguments import parser
from xai_patchshap.cli.words import in_words
from xai_patchshap.errors import warn
from xai_patchshap.estimators.indices import INDICES
from xai_patchshap.models.load import DEMO_MODEL

HEAVY = {"captum", "matplotlib", "numba", "pandas", "scipy", "shap", "timm", "torch", "torchvision"}


STAGE = ["train", "surrogate", "{here}", "--model", "x", "--out", "y"]


def read(*typed):
    arguments = parser().parse_args([str(part) for part in typed])
    return arguments.read(arguments)


def test_what_is_spelled_out_is_what_the_library_takes():
    assert settings.DEMO_MODEL == DEMO_MODEL
    assert settings.INDICES == INDICES
    assert settings.OBJECTIVES == OBJECTIVES
    assert settings.PREDICTS == PREDICTS


@pytest.mark.parametrize(
    ("typed", "status", "said"),
    [
        (["--help"], 0, "evaluate"),
        (["explain", "--help"], 0, "patch-kernel-shap, owen-bpt, interaction-shap, vit-shapley-am"),
        (["evaluate", "--help"], 0, "captum-kernel-shap"),
        (["train", "explainer", "--help"], 0, "--taps"),
        (["--version"], 0, __version__),
        ([], 2, "required"),
        (["explain", "missing.png"], 2, "a file or a folder that exists"),
        (["explain", "{here}", "--budget", "1"], 2, "--budget: got 1; expected a whole number"),
        (["explain", "{here}", "--method", "vit-shapley"], 2, "mean 'vit-shapley-amortized'?"),
        (["evaluate", "{here}", "--methods", "owen-bpt,lime"], 2, "--methods: got 'lime'"),
        (["demo", "--seed", "-1"], 2, "--seed: got -1"),
        (["train", "surrogate", "missing", "--model", "x", "--out", "y"], 2, "a folder with image"),
        (
            ["train", "surrogate", "{here}", "--model", "x", "--out", "y", "--epochs", "0"],
            2,
            "--ep",
        ),
    ],
)
def test_help_and_wrong_arguments_import_nothing_heavy(typed, status, said):
    typed = [part.format(here=Path(__file__).parent) for part in typed]
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['xai-patchshap', *{typed!r}]\n"
        "try:\n    runpy.run_module('xai_patchshap', run_name='__main__')\n"
        "except SystemExit as end:\n    status = end.code\n"
        f"print('heavy:', sorted(set(sys.modules) & {HEAVY!r}), 'status:', status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"heavy: [] status: {status}"
    # Help is broken into lines, also after hyphens.
    assert "".join(said.split()) in "".join((done.stdout + done.stderr).split())


def test_settings_are_frozen_and_complete(tmp_path):
    found = read(
        "explain", tmp_path, "--method", "owen_bpt", "--trees", "2", "--hierarchy", "bpt, axis"
    )
    assert found == settings.ExplainSettings(
        images=(tmp_path,),
        method="owen_bpt",
        options={"n_trees": 2, "hierarchy": ["bpt", "axis"]},
        out=Path("xai-patchshap-out"),
    )
    with pytest.raises(FrozenInstanceError):
        found.budget = 3
    demo = read("demo", "--method", "interaction-shap", "--budget", "60")
    assert (demo.players, demo.budget, demo.method) == ("4x4", 60, "interaction_shap")
    demo = read("demo", "--method", "vit-shapley-amortized")
    assert (demo.players, demo.budget, demo.background) == (None, "auto", "drop")
    found = read("evaluate", tmp_path, "--methods", "rise, leave-one-out,rise")
    assert found.methods == ("rise", "leave_one_out")
    stage = ["train", "surrogate", tmp_path, "--model", "timm:x", "--out", "y"]
    assert read(*stage, "--model-args", '{"depth": 2}').model_args == {"depth": 2}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--tolerance", "-1"], "--tolerance: got -1.0; expected a finite number of at least 0"),
        (["--method", "owen-bpt", "--trees", "0"], "--trees: got 0; expected a whole number of at"),
        (["--method", "interaction-shap", "--order", "0"], "--order: got 0; expected a whole"),
        (["--method", "interaction-shap", "--index", "SV"], "--order: got 2; expected 1 for index"),
        (["--method", "owen-bpt", "--hierarchy", "tree"], "--hierarchy: got 'tree'; expected one"),
        (["--players", "7by7"], "--players: got '7by7'"),
        (["--background", "greyish"], "--background: got 'greyish'"),
        (["--device", "no_such"], "--device: got 'no_such'; expected a device that torch can use"),
        (["--weights", "missing.pt"], "--weights: got 'missing.pt'; expected a checkpoint file th"),
        (["--batch-size", "0"], "--batch-size: got 0; expected a whole number of at least 1"),
        (["--size", "-3"], "--size: got -3; expected a whole number of at least 1 pixels"),
    ],
)
def test_every_argument_is_checked_before_a_model_is_loaded(
    tmp_path, capsys, monkeypatch, typed, message
):
    from PIL import Image

    from xai_patchshap.cli import model

    def load(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(model, "load_model", load)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    for images in (tmp_path / "a.png", tmp_path):
        assert main(["explain", str(images), *typed, "--out", str(out)]) == 2
        assert f"xai-patchshap: {message}" in capsys.readouterr().err
        assert not out.exists()


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("Lower it (n_samples= or max_evals=), or use outputs=.", "Lower it, or use --classes."),
        ("with outputs=, as in outputs=[0, 1].", "with --classes, as in --classes 0,1."),
        ("Use outputs=shap.Explanation.argsort.flip[:5], or less.", "Use --classes top5, or less."),
        ("PatchMasker(background='blur'), or baselines=, or", "--background blur, or"),
        ("Group with feature_mask= or PatchMasker(players=...).", "Group with --players."),
        ("Use PatchMasker(players='patch:14') or so.", "Use --players patch:14 or so."),
        ("Use PatchMasker(players=(7, 7)).", "Use --players 7x7."),
        ("Give a file with weights= (--weights), or", "Give a file with --weights, or"),
        ("A divisor of batch_size=128.", "A divisor of --batch-size 128."),
        ("expected a list.", "expected a list."),
    ],
)
def test_advice_can_be_typed(said, typed):
    error = "max_evals: got '/a/seed=3/b'; expected a number. "
    assert in_words(error + said) == error.replace("max_evals", "--budget") + typed
    assert in_words(in_words(error + said)) == in_words(error + said)
    warning = "max_evals=20 is few. "
    assert in_words(warning + said) == "--budget 20 is few. " + typed


def test_warnings_speak_of_what_was_typed(monkeypatch):
    from xai_patchshap.cli import explain

    monkeypatch.setattr(explain, "demo", lambda _: warn("max_evals=20 is little."))
    with pytest.warns(UserWarning, match="^--budget 20 is little."):
        assert main(["demo"]) == 0
