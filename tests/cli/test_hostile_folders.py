"""Folders that are not clean: entries, names, and what lies where results go."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from xai_patchshap.cli import images as _images
from xai_patchshap.cli import main
from xai_patchshap.cli import result_files as _files
from xai_patchshap.cli.images import images_of, read_subject, result_name
from xai_patchshap.cli.provenance import weights_of
from xai_patchshap.cli.results import plain

MODEL = """
import torch
import hostile_helper_for_test
def mean(x):
    return torch.stack([x.mean((1, 2, 3)), x[:, 0].mean((1, 2))], dim=1) * FACTOR
FACTOR = 1
"""


@pytest.fixture(autouse=True)
def _quick_files(monkeypatch):
    monkeypatch.setattr(_files, "redraw", lambda _: Figure((1, 1)))
    monkeypatch.setattr(_files, "interaction_network", lambda *_, **__: Figure((1, 1)))


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile_model_for_test.py").write_text(MODEL)
    (tmp_path / "hostile_helper_for_test.py").write_text("VALUE = 1")
    forget(monkeypatch)
    (tmp_path / "images").mkdir()


def forget(monkeypatch):
    for name in ("hostile_model_for_test", "hostile_helper_for_test"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    shutil.rmtree("__pycache__", ignore_errors=True)


def save(path, color="red", size=(16, 16)):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    Image.new("RGB", size, color).save(path)


GAME = ["--model", "hostile_model_for_test:mean", "--size", "16", "--players", "2x2"]


def explain(*images, out="out", options=()):
    return main(["explain", *images, *GAME, "--budget", "16", "--out", out, *options])


def sources(out="out"):
    """Which file each result is of."""
    found = {}
    for path, _, files in os.walk(out):
        for name in files:
            file = Path(path, name)
            record = _files.read_record(file) if name.endswith(".npz") else None
            if record is not None:
                found[os.path.relpath(file, out).removesuffix(".npz")] = os.path.relpath(
                    record.source, os.getcwd()
                )
    return found


def special(kind, path):
    """An entry called as an image that is none; False where the system has no such entries."""
    if kind == "fifo" and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    elif kind == "socket" and hasattr(socket, "AF_UNIX"):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path)
    elif kind == "loop":
        os.symlink(os.path.basename(path), path)
    elif kind == "dangling":
        os.symlink("gone.png", path)
    elif kind == "zero":
        open(path, "wb").close()
    elif kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        os.truncate(path, 5000)
    elif kind == "text":
        with open(path, "w") as stream:
            stream.write("no image")
    elif kind == "device" and os.path.exists("/dev/zero"):
        os.symlink("/dev/zero", path)
    else:
        return False
    return True


BAD = ["fifo", "socket", "loop", "dangling", "zero", "truncated", "text", "device"]


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("command", ["explain", "evaluate"])
def test_one_bad_entry_does_not_stop_a_folder(kind, command, capsys):
    save("images/b.png")
    save("images/a.png", "blue")
    os.makedirs("images/directory.png")
    if not special(kind, "images/0bad.png"):
        pytest.skip("needs another system")
    options = ["--methods", "random", "--steps", "2", "--samples", "2"]
    if command == "explain":
        assert explain("images") == 1
        assert sources() == {"a": "images/a.png", "b": "images/b.png"}
    else:
        assert main(["evaluate", "images", *GAME, "--out", "out", *options]) == 1
        assert (
            len(json.loads(Path("out/evaluation.json").read_text(encoding="utf-8"))["images"]) == 2
        )
    err = capsys.readouterr().err
    assert err.count("xai-patchshap: ") == 1
    assert "0bad.png" in err


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_file_does_not_stop_the_others(kind, capsys):
    save("a.png")
    if not special(kind, "bad.png"):
        pytest.skip("needs another system")
    assert explain("bad.png", "a.png") == 1
    assert sources() == {"a": "a.png"}
    assert "bad.png" in capsys.readouterr().err
    assert explain("bad.png", out="other") == 2
    assert not os.path.exists("other")


def test_a_file_that_goes_while_it_is_read(monkeypatch, capsys):
    save("images/a.png")
    save("images/b.png", "blue")
    digest_of = _images.digest_of

    def and_remove(path):
        digest = digest_of(path)
        if path.name == "a.png":
            path.unlink()
        return digest

    monkeypatch.setattr(_images, "digest_of", and_remove)
    assert explain("images") == 1
    assert sources() == {"b": "images/b.png"}
    assert "a.png" in capsys.readouterr().err


def test_files_and_folders_that_may_not_be_read(monkeypatch, capsys):
    save("images/a.png")
    save("images/b.png", "blue")
    save("images/locked/c.png", "green")
    opened, scanned = open, os.scandir

    def locked(path, function, *rest):
        if str(path).endswith(("a.png", "locked")):
            raise PermissionError(13, "Permission denied", str(path))
        return function(path, *rest)

    monkeypatch.setattr("builtins.open", lambda path, *rest, **_: locked(path, opened, *rest))
    monkeypatch.setattr(os, "scandir", lambda path=".": locked(path, scanned))
    assert explain("images") == 1
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert "a.png" in err
    assert "locked'; expected a folder that can be read" in err


def test_names_that_are_no_text(capsys):
    name = os.fsdecode(b"images/b\xff\xfe.png")
    try:
        save(name)
    except OSError:
        pytest.skip("needs a file system that takes any bytes")
    save("images/$\\frac$\n.png")
    for _ in range(2):
        assert explain("images") == 0
    assert explain(name, out="single") == 0
    assert len(sources()) == 2
    page = Path("out/index.html").read_text(encoding="utf-8")
    assert "b\\udcff\\udcfe.png" in page


def test_names_that_are_formulas_or_have_letters_that_no_font_has(tmp_path):
    figure = Figure((1, 1))
    figure.subplots().set_title(plain("$\\frac$ 日本") + "\t")
    _files.save_figure(figure, tmp_path / "x.png")
    assert (tmp_path / "x.png").exists()


def test_names_that_are_too_long():
    for color, end in (("red", "a"), ("blue", "b")):
        save(f"images/{'x' * 240}{end}.png", color)
        save(f"images/{'ü' * 100}/{'ü' * 120}{end}.png", color)
    assert explain("images") == 0
    assert explain("images") == 0
    assert len(sources()) == 4


ALIKE = ["a.png", "a.jpg", "A.png", "a.b.png", "a-2.png", "a-interactions.png", "a-0-class-0.png",
         "a.pairs/interactions.png", "a.pairs/0-class-0.png", "a.npz/x.png", "a.png.png",
         "index.png", "index.html/x.png", "a.npz.png", "x.png/y.png", "x.jpg", "b/a.png",
         "a.json/x.png", "images/a.png"]  # fmt: skip


@pytest.mark.slow
@given(st.permutations(ALIKE), st.integers(1, len(ALIKE)))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_results_of_any_images_lie_where_no_others_do(names, n):
    check_places(names, n)


def test_results_of_an_image_lie_where_no_others_do():
    check_places(ALIKE, len(ALIKE))


def check_places(names, n):
    for folder in ("images", "out", "evaluated"):
        shutil.rmtree(folder, ignore_errors=True)
    os.makedirs("images")
    for i, name in enumerate(names[:n]):
        try:
            save(f"images/{name}", (i * 10, 0, 255))
        except OSError:  # capitals do not count here, or a file is in the way of a folder
            continue
    files = {f"images/{n}" for n in names[:n] if os.path.isfile(f"images/{n}")}
    options = ["--method", "interaction-shap", "--classes", "0,1"]
    assert explain("images", options=options) == 0
    found = sources()
    assert sorted(found.values()) == sorted(files)
    assert len({name.casefold() for name in found}) == len(files)
    for name in found:
        assert os.path.getsize(f"out/{name}.png")
        beside = {"interactions.npz", "0-class-0.png", "1-class-1.png"}
        assert set(os.listdir(f"out/{name}.pairs")) == beside
    before = {name: os.stat(f"out/{name}.npz").st_mtime_ns for name in found}
    assert explain("images", options=options) == 0
    assert {name: os.stat(f"out/{name}.npz").st_mtime_ns for name in sources()} == before
    quick = ["--methods", "random", "--steps", "1", "--samples", "0"]
    assert main(["evaluate", "images", *GAME, "--out", "evaluated", *quick]) == 0
    rows = json.loads(Path("evaluated/evaluation.json").read_text(encoding="utf-8"))["images"]
    assert {os.path.relpath(row["file"], os.getcwd()) for row in rows} == files


def test_single_files_never_replace_what_is_not_theirs(capsys):
    save("one/a.png")
    save("two/a.png", "blue")
    assert explain("one") == 0
    assert explain("two/a.png") == 0
    assert explain("two/a.png", options=["--seed", "1"]) == 0
    assert "'a' is another image's, or of other settings; here 'a-3'" in capsys.readouterr().out
    assert explain("two/a.png", options=["--seed", "1"]) == 0
    assert sources() == {"a": "one/a.png", "a-2": "two/a.png", "a-3": "two/a.png"}
    open("user.png", "w").close()
    save("user.jpg")
    assert explain("user.jpg", out=".") == 0
    assert os.path.getsize("user.png") == 0
    assert os.path.exists("user-2.png")


def test_a_link_beside_its_target_is_one_image():
    save("images/m.png")
    for link in ("a.png", "z.png"):
        os.symlink("m.png", f"images/{link}")
    save("elsewhere.png", "blue")
    os.symlink("../elsewhere.png", "images/e.png")
    assert explain("images", "images/a.png") == 0
    assert sources() == {"m": "images/m.png", "e": "elsewhere.png"}
    page = Path("out/index.html").read_text(encoding="utf-8")
    assert f"<p class='dim file'>{os.path.abspath('images/m.png')}</p>" in page


def test_pages_of_somebody_else_are_left_alone(capsys):
    save("images/a.png")
    os.makedirs("out")
    with open("out/index.html", "w") as page:
        page.write("<title>mine</title>")
    os.makedirs("out/xai-patchshap.html")
    for _ in range(2):
        assert explain("images") == 0
        assert "wrote out/xai-patchshap-2.html" in capsys.readouterr().out
    assert Path("out/index.html").read_text(encoding="utf-8") == "<title>mine</title>"
    assert not os.path.exists("out/xai-patchshap-3.html")


def test_a_file_where_a_folder_of_results_would_be(capsys):
    save("images/sub/a.png")
    os.makedirs("out")
    open("out/sub", "w").close()
    assert explain("images") == 0
    assert sources() == {"sub-a": "images/sub/a.png"}


@pytest.mark.parametrize("changed", ["hostile_model_for_test", "hostile_helper_for_test"])
@pytest.mark.parametrize("command", ["explain", "evaluate"])
def test_code_that_was_changed_is_another_setting(changed, command, monkeypatch, capsys):
    save("images/a.png")
    quick = ["--methods", "random", "--steps", "1", "--samples", "0"] * (command == "evaluate")

    def run(*more):
        forget(monkeypatch)
        return main([command, "images", *GAME, "--out", "out", "--budget", "16", *quick, *more])

    assert run() == 0
    assert run() == 0
    with open(f"{changed}.py", "a") as stream:
        stream.write("\nFACTOR = 2\n")
    capsys.readouterr()
    assert run() == 2
    assert "the digest of the model's source is '" in capsys.readouterr().err


def test_the_weights_of_a_network_that_a_function_uses_are_seen():
    nn = pytest.importorskip("torch").nn
    network = nn.Linear(2, 2)

    def uses(x):
        return network(x)

    first = weights_of(uses)
    network.weight.data += 1
    assert weights_of(uses) != first


def test_a_folder_that_goes_while_it_is_written_to(monkeypatch, capsys):
    save("images/a.png")
    read = read_subject

    def and_remove(*rest):
        shutil.rmtree("out", ignore_errors=True)
        return read(*rest)

    monkeypatch.setattr("xai_patchshap.cli.folder.read_subject", and_remove)
    assert explain("images") == 2
    assert "--out: got 'out', which is gone; expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["savez_compressed", "savefig"])
def test_a_disk_that_fills_up_ends_with_a_message(monkeypatch, capsys, name):
    save("images/a.png")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    where = np if name == "savez_compressed" else Figure
    monkeypatch.setattr(where, name, full)
    assert explain("images") == 2
    err = capsys.readouterr().err
    assert "--out: got 'out'; expected a folder that can be made and written to" in err
    assert "(No space left on device)" in err
    monkeypatch.undo()


def test_names_of_results():
    assert result_name(Path("A.PNG/b.PAIRS/c.d.png")) == "A-PNG/b-PAIRS/c.d"
    assert len(result_name(Path("x" * 250 + ".png"))) < 200
    files = images_of([Path("images")], Path("out")) if os.listdir("images") else []
    assert files == []
