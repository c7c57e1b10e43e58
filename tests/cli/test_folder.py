"""``xai-patchshap explain`` on folders, and the page it writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from xai_patchshap._files import draft_of
from xai_patchshap.cli import folder as _folder
from xai_patchshap.cli import index_page as _page
from xai_patchshap.cli import main
from xai_patchshap.cli import result_files as _files
from xai_patchshap.cli import settings as _settings
from xai_patchshap.cli.folder import group_size
from xai_patchshap.cli.images import digest_of, images_below, images_of, read_subject
from xai_patchshap.cli.provenance import provenance
from xai_patchshap.models.load import load_model
from xai_patchshap.models.named_model import NamedModel
from xai_patchshap.samples import cifar10_explainer, cifar10_images, cifar10_path

MODEL = """
import torch
calls, stop_after = 0, None
def half(x):
    global calls
    calls += 1
    if calls == stop_after:
        raise KeyboardInterrupt
    left, right = x[..., :, :16].mean((1, 2, 3)), x[..., :, 16:].mean((1, 2, 3))
    return torch.stack([left, right, (left - right) ** 3], dim=1)
def no_batch(x):
    return half(x)[0]
def number(x):
    return x.mean()
def no_white(x):
    return torch.where(x.mean((1, 2, 3)) > 0.99, torch.nan, 1.0)[:, None] * half(x)
def no_white_half(x):
    out = half(x)
    return torch.where((out[:, :1] > 0.99) & (out[:, 1:2] < 0.5), torch.nan, out)
"""
ORDINARY = ["a", "sub/b", "sub/c", "sub/deep/d"]


@pytest.fixture(autouse=True)
def _quick_files(monkeypatch):
    """Pictures are drawn in test_cli.py; here they would take most of the time."""

    def picture(path):
        with np.load(path) as saved:
            assert saved["photo"].dtype == np.uint8
        return Figure((1, 1))

    monkeypatch.setattr(_files, "redraw", picture)
    monkeypatch.setattr(_files, "interaction_network", lambda *_, **__: Figure((1, 1)))


@pytest.fixture
def model(tmp_path, monkeypatch):
    (tmp_path / "folder_model_for_test.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "folder_model_for_test", raising=False)
    return __import__("folder_model_for_test")


@pytest.fixture
def folder(tmp_path):
    """Four images at three depths, and what is none."""
    root = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name in ORDINARY:
        file = root / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(file)
    (root / "notes.txt").write_text("no image")
    (root / "sub" / "._b.png").write_bytes(b"what macOS leaves behind")
    return root


def explain(folder, *arguments, out="out", model="half"):
    defaults = ["--model", f"folder_model_for_test:{model}", "--size", "32", "--background", "0"]
    defaults += ["--players", "2x2", "--budget", "10", "--out", str(folder.parent / out)]
    return main(["explain", *defaults, *map(str, arguments), "--", str(folder)])


def values(out):
    """What is saved of each image, by name."""
    found = {}
    for file in sorted(out.rglob("*.npz")):
        if _files.read_record(file) is not None:
            with np.load(file) as saved:
                found[file.relative_to(out).with_suffix("").as_posix()] = saved["values"]
    return found


def group_sizes(monkeypatch):
    """How many images are explained together, call by call."""
    sizes, together = [], _folder.explain_together

    def watched(task, subjects, *rest, **kwargs):
        sizes.append(len(subjects))
        return together(task, subjects, *rest, **kwargs)

    monkeypatch.setattr(_folder, "explain_together", watched)
    return sizes


def test_every_image_gets_its_files_and_a_place_on_the_page(model, folder, capsys):
    (folder / "sub" / "broken.jpg").write_bytes(b"\xff\xd8 not really")
    Image.new("F", (8, 8)).save(folder / "sub" / "floats.tiff")
    assert explain(folder, "--classes", "0,2") == 1
    printed, err = capsys.readouterr()
    assert "4 of 6 images explained, 0 were explained already, 2 could not be" in printed
    assert re.search(r"\nxai-patchshap: image '.*floats.tiff': got a photograph of PIL's", err)
    assert re.search(r"\nxai-patchshap: image: got '.*broken.jpg'; expected a readable", err)
    assert "6/6" in err
    assert "images/s" in err
    out = folder.parent / "out"
    assert list(values(out)) == ORDINARY
    assert not list(out.rglob(".*draft*"))
    page = (out / "index.html").read_text()
    assert "4 images explained by patch-kernel-shap" in page
    assert "2 could not be explained" in page
    assert "broken.jpg" in page
    for name in ORDINARY:
        assert (out / f"{name}.png").exists()
        assert f"<h2><a href='{name}.png'>{name}</a></h2>" in page
    assert page.count("src='data:image/jpeg;base64,") == 8
    # Nothing comes from elsewhere.
    assert not re.search(r"https?:|src='(?!data:)|<link|@import", page)
    with np.load(out / "sub" / "b.npz") as saved:
        gap = saved["full_values"] - saved["base_values"]
        assert f"<td>class 2<td>{saved['scores'][1]:.3f}<td>{gap[1]:+.4f}<td>{gap[1]:+.4f}" in page
        assert saved["classes"].tolist() == [0, 2]
        assert int(saved["predicted"]) == np.argmax([saved["scores"][0], 1 - saved["scores"][0]])
        settings = json.loads(str(saved["settings"]))
        assert (settings["method"], settings["budget"]) == ("patch-kernel-shap", 10)
        assert str(saved["source"]) == str(folder / "sub" / "b.png")


def test_what_is_done_is_left_out_and_what_changed_is_done_again(model, folder, capsys):
    out = folder.parent / "out"
    assert explain(folder) == 0
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*.npz")}
    (out / "a.png").unlink()
    Image.new("RGB", (32, 32), "red").save(folder / "sub" / "c.png")
    Image.new("RGB", (32, 32), "blue").save(folder / "e.png")
    capsys.readouterr()
    assert explain(folder) == 0
    assert "2 of 5 images explained, 3 were explained already" in capsys.readouterr().out
    assert (out / "a.png").exists()
    after = {f: f.stat().st_mtime_ns for f in out.rglob("*.npz")}
    assert {f.stem for f in after if after[f] != before.get(f)} == {"c", "e"}
    assert "5 images" in (out / "index.html").read_text()
    n_calls = model.calls
    assert explain(folder) == 0
    assert model.calls == n_calls
    # A folder that was moved finds its results.
    moved = folder.rename(folder.parent / "moved")
    assert explain(moved) == 0
    assert model.calls == n_calls
    # Two images with one name, of folders that share their results, have their own.
    other = folder.parent / "other"
    other.mkdir()
    Image.new("RGB", (32, 32), "green").save(other / "a.png")
    assert explain(other) == 0
    assert (out / "a-2.npz").exists()
    assert explain(other) == 0
    assert not (out / "a-3.npz").exists()


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        (["--budget", "12"], "where budget is 10 for 'a.npz'; .* here 12"),
        (["--seed", "1"], "where seed is 0"),
        (["--method", "owen-bpt"], "where method is 'patch-kernel-shap'"),
        (["--background", "mean"], "where background is '0'"),
    ],
)
def test_results_of_other_settings_are_not_mixed(model, folder, capsys, option, shown):
    for name in ORDINARY[1:]:
        (folder / f"{name}.png").unlink()
    assert explain(folder) == 0
    before = (folder.parent / "out" / "index.html").read_text()
    assert explain(folder, *option) == 2
    assert re.search(f"--out: got '.*out', {shown}", capsys.readouterr().err)
    assert (folder.parent / "out" / "index.html").read_text() == before
    assert explain(folder, "--batch-size", "3") == 0  # changes no more than the last digits


def test_other_weights_are_other_settings(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("xai_patchshap.cli.folder.explain_together", lambda *_, **__: [])
    common = ["explain", str(folder), "--model", "timm:test_vit", "--weights", "random"]
    settings = []
    monkeypatch.setattr(_folder, "write_index", lambda out, given, _: settings.append(given) or out)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        assert main([*common, "--out", str(tmp_path / "out")]) == 0
    assert settings[0] == settings[1]
    assert settings[0]["weights"] != settings[2]["weights"]


def test_weights_are_told_by_the_model_and_not_by_a_file_of_its_name(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    asked = _settings.ExplainSettings(
        method=_settings.AMORTIZED, background="drop", budget="auto", out=tmp_path
    )
    network = cifar10_explainer()
    named = NamedModel(network.whole_images, "explainer.safetensors", (32, 32))
    settings = provenance(asked, named, network)
    (tmp_path / "explainer.safetensors").write_bytes(b"of another training")
    assert provenance(asked, named, network) == settings

    found = []
    for op in ("Flatten", "GlobalAveragePool"):
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node(op, ["x"], ["y"])],
            "graph",
            [onnx.helper.make_tensor_value_info("x", 1, ["b", 3, 8, 8])],
            [onnx.helper.make_tensor_value_info("y", 1, None)],
        )
        opset = [onnx.helper.make_opsetid("", 17)]
        file = tmp_path / "model.onnx"
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), file)
        named = load_model(str(file))
        found.append(provenance(asked, named, named.model)["weights"])
        assert found[-1] == digest_of(file)
    assert found[0] != found[1]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--method", "owen-bpt", "--players", "patch:4", "--budget", "40"],
        ["--method", "interaction-shap", "--players", "3x3", "--budget", "60"],
        ["--players", "4x4", "--budget", "400", "--tolerance", "0.01", "--background", "noise"],
    ],
    ids=["kernel", "owen", "interactions", "tolerance"],
)
def test_results_do_not_depend_on_the_group(model, folder, monkeypatch, options):
    sizes, found = group_sizes(monkeypatch), []
    for size in (1, 3, 4):
        monkeypatch.setattr(_folder, "group_size", lambda *_, size=size: size)
        assert explain(folder, *options, out=str(size)) == 0
        found.append(values(folder.parent / str(size)))
    assert sizes == [1, 1, 1, 1, 3, 1, 4]
    # One image alone, as it is explained without a folder.
    single = ["--out", folder.parent / "single"]
    assert explain(folder / "sub" / "c.png", *options, *single) == 0
    alone = values(folder.parent / "single")["c"]
    for name, one in found[0].items():
        for other in found[1:]:
            np.testing.assert_allclose(other[name], one, rtol=0, atol=1e-7)
    np.testing.assert_allclose(alone, found[0]["sub/c"], rtol=0, atol=1e-7)


def test_groups_fill_batches_but_are_no_larger():
    assert group_size(1000, 16, "patch_kernel_shap") == 1
    assert group_size("auto", 128, "patch_kernel_shap") == 9
    assert group_size(10, 16, "patch_kernel_shap") == 16
    assert group_size("auto", 128, "vit_shapley_amortized") == 128
    assert group_size(1, 1, "owen_bpt") == 1


@pytest.mark.parametrize("where", ["scores", "game"])
def test_ctrl_c_keeps_what_is_finished(model, folder, capsys, monkeypatch, where):
    monkeypatch.setattr(_folder, "group_size", lambda *_: 2)
    assert explain(folder, out="whole") == 0
    per_group = model.calls // 2
    model.calls, model.stop_after = 0, per_group + (1 if where == "scores" else per_group)
    capsys.readouterr()
    assert explain(folder) == 130
    assert "xai-patchshap: interrupted" in capsys.readouterr().err
    out = folder.parent / "out"
    assert list(values(out)) == ORDINARY[:2]
    assert "2 images" in (out / "index.html").read_text()
    model.stop_after = None
    assert explain(folder) == 0
    assert "2 of 4 images explained, 2 were explained already" in capsys.readouterr().out
    for name, whole in values(folder.parent / "whole").items():
        assert np.array_equal(values(out)[name], whole)


def test_a_result_that_was_cut_off_is_made_again(model, folder):
    out = folder.parent / "out"
    assert explain(folder) == 0
    (out / "a.npz").rename(draft_of(out / "a.npz"))  # killed before it took its place
    (out / "a.png").unlink()
    (out / "sub" / "b.png").rename(draft_of(out / "sub" / "b.png"))  # between the two
    assert explain(folder) == 0
    assert list(values(out)) == ORDINARY
    assert (out / "sub" / "b.png").exists()
    assert not list(out.rglob(".*draft*"))


def test_nothing_of_somebody_else_is_overwritten(model, folder):
    out = folder.parent / "out"
    (out / "sub").mkdir(parents=True)
    (out / "a.png").write_bytes(b"mine")
    (out / "sub" / "b.npz").write_bytes(b"mine too")
    assert explain(folder) == 0
    assert (out / "a.png").read_bytes() == b"mine"
    assert (out / "sub" / "b.npz").read_bytes() == b"mine too"
    assert list(values(out)) == ["a-2", "sub/b-2", "sub/c", "sub/deep/d"]


def test_files_and_folders_may_be_mixed(model, folder, capsys):
    single = folder.parent / "sub.png"
    Image.new("RGB", (32, 32), "red").save(single)
    shutil.copy(folder / "a.png", folder / "a.webp")
    files = [single, folder / "sub" / "b.png", folder / "sub", folder]
    out = folder.parent / "out"
    found = images_of(files, out)
    assert [name for name, _ in found] == ["sub", "b", "c", "deep/d", "a", "a"]
    common = ["--model", "folder_model_for_test:half", "--size", "32", "--players", "1x2"]
    assert main(["explain", *map(str, files), "--out", str(out), *common]) == 0
    assert list(values(out)) == ["a-2", "a", "b", "c", "deep/d", "sub"]


def test_results_inside_the_folder_are_not_explained(model, folder):
    for _ in range(2):
        assert explain(folder, "--out", folder / "results") == 0
        assert list(values(folder / "results")) == ORDINARY
    assert len(images_below(folder)) == 8
    assert len(images_below(folder, folder / "results")) == 4


def test_one_image_that_the_model_cannot_take_does_not_stop_the_others(model, folder, capsys):
    Image.new("RGB", (32, 32), "white").save(folder / "sub" / "white.png")
    assert explain(folder, model="no_white") == 1
    assert re.search(
        r"'.*white.png': model: got NaN or infinite outputs; expected finite numbers",
        capsys.readouterr().err,
    )
    assert list(values(folder.parent / "out")) == ORDINARY


def test_an_image_that_fails_in_its_group_fails_alone(model, folder, capsys, monkeypatch):
    Image.new("RGB", (32, 32), "white").save(folder / "sub" / "white.png")
    sizes = group_sizes(monkeypatch)
    assert explain(folder, "--players", "1x2", model="no_white_half") == 1
    assert re.search("'.*white.png': model: got NaN or infinite outputs", capsys.readouterr().err)
    assert sizes == [5, 1, 1, 1, 1, 1]
    assert list(values(folder.parent / "out")) == ORDINARY


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "1"], "--budget: got 1; expected a whole number of at least 2"),
        (["--classes", "7"], "--classes: got '7'; expected topN, or indices 0 to 2"),
        (["--players", "none"], "--players: got 'none'"),
        (["--model", "folder_model_for_test:no_batch"], "model: got an output of shape (3,) for a"),
        (["--model", "folder_model_for_test:number"], "model: got an output of shape () for a"),
    ],
)
def test_what_is_wrong_with_all_images_ends_with_status_2(model, folder, capsys, options, message):
    assert explain(folder, *options) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "readable" not in err
    assert not (folder.parent / "out").exists()


def test_paths_that_make_no_sense_are_refused(model, folder, tmp_path, capsys):
    def failing(*arguments):
        assert main(["explain", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    (tmp_path / "empty").mkdir()
    assert "expected a folder with images, at any depth" in failing(tmp_path / "empty")
    err = failing(folder, tmp_path / "gone.png")
    assert "gone.png'; expected a file or a folder that exists" in err
    assert "the folder of the images; expected another folder" in failing(folder, "--out", folder)
    err = failing(folder / "a.png", "--out", folder)
    assert "where 'a.png' lies; expected another folder" in err


def test_pairs_are_linked_from_the_page(model, folder):
    options = ["--method", "interaction-shap", "--classes", "2,1", "--order", "2"]
    assert explain(folder / "sub", *options) == 0
    page = (folder / "out" / "index.html").read_text()
    assert "<a href='deep/d.pairs/2-class-2.png'>pairs: class 2</a>" in page
    assert "<a href='b.pairs/1-class-1.png'>pairs: class 1</a>" in page
    assert (folder / "out" / "deep" / "d.pairs" / "interactions.npz").exists()


def test_the_amortized_explainer_takes_a_folder(tmp_path, capsys):
    images, _ = cifar10_images()
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images[:3]):
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    common = ["explain", str(tmp_path / "images"), "--method", "vit-shapley-amortized", "--out"]
    explainer = ["--explainer", str(cifar10_path())]
    assert main([*common, str(tmp_path / "out"), *explainer]) == 0
    found = values(tmp_path / "out")
    assert [v.shape for v in found.values()] == [(64, 3)] * 3
    with np.load(tmp_path / "out" / "1.npz") as saved:
        gap = saved["full_values"] - saved["base_values"]
        np.testing.assert_allclose(saved["values"].sum(0), gap, atol=1e-6)
        assert str(saved["background"]) == "drop"
    assert main([*common, str(tmp_path / "single"), *explainer, "--batch-size", "1"]) == 0
    for name, alone in values(tmp_path / "single").items():
        np.testing.assert_allclose(alone, found[name], atol=1e-5)


@pytest.mark.parametrize(("channels", "shape"), [(1, (448, 448)), (4, (448, 448, 3))])
def test_images_that_are_not_rgb_can_be_shown(folder, channels, shape):
    named = NamedModel(lambda x: x, "mine", (32, 32), channels=channels)
    subject = read_subject(named, "a", folder / "a.png")
    assert subject.x.shape == (channels, 32, 32)
    assert subject.photo.shape == shape
    labels = np.arange(4).repeat(256).reshape(32, 32)
    heat = _page._heat(subject.photo, labels, np.array([0.0, 1.0, -1.0, 0.5]))
    assert heat.shape == (32, 32, 3)
    for pixels in (subject.photo, heat):
        assert _page._data_uri(pixels).startswith("data:image/jpeg;base64,")
    red, blue = heat[12].mean(0), heat[20].mean(0)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert (_page._heat(subject.photo, labels, np.zeros(4)) > 100).all()


def entry(**changes):
    given = {
        "name": "<b>'&", "picture": "x.png", "pairs": [], "photo": "data:,", "map": "data:,",
        "predicted": "cat", "score": 0.5, "scale": "probability",
        "classes": [("cat", 0.5, 0.25, 0.25)], "players": 4, "evaluations": 10, "seconds": 1.0,
        "exact": True,
    }  # fmt: skip
    return _page.Entry(**(given | changes))


def test_the_page_escapes_what_it_is_given():
    page = _page.index_page([entry()], {"method": "m", "size": [4, 4]}, ["<i>"])
    assert "1 image explained by m" in page
    assert "size 4 x 4" in page
    assert "&lt;b&gt;&#x27;&amp;" in page
    assert "&lt;i&gt;" in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_damaged_results_have_no_place_on_the_page(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut off")
    np.savez(tmp_path / "other.npz", x=1)
    page = _page.write_index(tmp_path, {"method": "m"}, []).read_text()
    assert "0 images explained" in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_shows_the_page(tmp_path):
    entries = [entry(name="first", score=0.1), entry(name="second", score=0.9)]
    html = _page.index_page(entries, {"method": "m"}, [])
    # What a reader would do: sort by score, look for a name.
    act = """<script>sort.value = 'score'; sort.onchange(); find.value = 'SECOND'; find.oninput();
    </script></html>"""
    (tmp_path / "index.html").write_text(html.replace("</html>", act))
    dom = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=1000", "--dump-dom",
         (tmp_path / "index.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert '<div id="tools">' in dom  # was hidden: the script ran
    first, second = dom.split("<article ")[2], dom.split("<article ")[1]
    assert "second" in second.split(">")[0]
    assert "hidden" not in second.split(">")[0]
    assert "hidden" in first.split(">")[0]
