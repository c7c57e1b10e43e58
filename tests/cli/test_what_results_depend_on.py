"""What a model computes with belongs to the settings of its results."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from xai_patchshap import _files as _folders
from xai_patchshap._files import only_process_in
from xai_patchshap.cli import main
from xai_patchshap.cli import provenance as _provenance

HELPER = "hostile_imported_for_test"
IMPORTS = {
    "constant": f"from {HELPER} import VALUE\ndef mean(x):\n    return x.mean((2, 3)) * VALUE",
    "late": f"def mean(x):\n    from {HELPER} import VALUE\n    return x.mean((2, 3)) * VALUE",
    "all": f"from {HELPER} import *\ndef mean(x):\n    return x.mean((2, 3)) * VALUE",
    "as": f"import {HELPER} as h\nVALUE = h.VALUE\ndel h\ndef mean(x):\n    return x.mean((2, 3))",
}


def digest(name, monkeypatch):
    monkeypatch.setattr(_provenance.sys, "modules", dict(_provenance.sys.modules))
    named = _result_model(f"{name}:mean")
    return _provenance.code_of(named)


def _result_model(name):
    from xai_patchshap.models.load import load_model

    return load_model(name).name


@pytest.mark.parametrize("kind", IMPORTS)
@pytest.mark.parametrize("is_package", [False, True])
def test_the_code_of_every_import_counts(kind, is_package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, name, home = IMPORTS[kind], "hostile_importing_for_test", tmp_path
    if is_package:
        home = tmp_path / name
        home.mkdir()
        (home / "__init__.py").touch()
        code = code.replace(f"from {HELPER}", f"from .{HELPER}")
        code = code.replace(f"import {HELPER} as h", f"from . import {HELPER} as h")
        name = f"{name}.model"
    (home / f"{name.rpartition('.')[2]}.py").write_text(code)
    found = []
    for value in (1, 1, 22):
        (home / f"{HELPER}.py").write_text(f"VALUE = {value}\n")
        with monkeypatch.context() as context:
            found.append(digest(name, context))
    assert found[0] == found[1] != found[2]


NETWORK = torch.nn.Linear(3, 2)
TENSOR = torch.ones(3, 2)
ARRAY = np.ones((3, 2))
NETWORKS = [NETWORK]


class Model:
    def __init__(self, part):
        self.part = part

    def __call__(self, x):
        return self.part(x)

    def method(self, x):
        return self.part(x)


def of_a_list(x):
    return torch.stack([network(x) for network in NETWORKS])


def of_a_tensor(x):
    return x @ TENSOR


def of_an_array(x):
    return x @ torch.from_numpy(ARRAY)


def of_another(x):
    return of_a_list(x)


def of_a_picture(x):
    return x.mean((2, 3))


def of_a_default(x, network=NETWORK):
    return network(x)


USES = {
    "list": of_a_list,
    "tensor": of_a_tensor,
    "array": of_an_array,
    "function": of_another,
    "default": of_a_default,
    "lambda": lambda x: (lambda y: NETWORK(y))(x),
    "partial": partial(of_a_default, network=NETWORK),
    "object": Model(NETWORK),
    "method": Model(Model(NETWORK)).method,
    "object of a function": Model(of_another),
}


@pytest.mark.parametrize("kind", USES)
def test_the_weights_that_a_function_or_an_object_computes_with_are_seen(kind):
    first = _provenance.weights_of(USES[kind])
    assert _provenance.weights_of(USES[kind]) == first
    NETWORK.weight.data += 1
    TENSOR.add_(1)
    np.add(ARRAY, 1, out=ARRAY)
    assert _provenance.weights_of(USES[kind]) != first


@pytest.mark.parametrize("command", ["explain", "evaluate"])
@pytest.mark.parametrize("size", ["100000", "1000000000", "9" * 30])
def test_sizes_beyond_memory_are_refused_before_any_image(tmp_path, capsys, command, size):
    torch.rand(1)
    image = tmp_path / "a.png"
    Figure((1, 1)).savefig(image)
    given = ["--model", f"{__name__}:of_a_tensor", "--size", size, "--out", str(tmp_path / "out")]
    assert main([command, str(image), *given]) == 2
    assert "--size: got " in (said := capsys.readouterr().err)
    assert "GiB of memory that are free. Choose a smaller size." in said


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("command", ["explain", "evaluate"])
def test_pipes_and_devices_among_the_results_are_not_waited_for(tmp_path, command):
    Figure((1, 1)).savefig(tmp_path / "a.png")
    results = tmp_path / "out" / ("images" if command == "evaluate" else "")
    results.mkdir(parents=True)
    suffix = ".json" if command == "evaluate" else ".npz"
    for name in ("a", "b"):
        os.mkfifo(results / f"{name}{suffix}")
    (results / f"c{suffix}").symlink_to("/dev/zero")
    given = ["--model", f"{__name__}:of_a_picture", "--size", "16", "--players", "2x2"]
    given += ["--methods", "random", "--samples", "0"] * (command == "evaluate")
    assert main([command, str(tmp_path), *given, "--out", str(tmp_path / "out")]) == 0
    assert (results / f"a-2{suffix}").is_file()


@pytest.mark.parametrize("name", ["evaluation.json", "index.html"])
def test_a_pipe_in_the_place_of_a_report_is_left_alone(tmp_path, capsys, name):
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs pipes")
    Figure((1, 1)).savefig(tmp_path / "a.png")
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / name)
    given = ["--model", f"{__name__}:of_a_picture", "--size", "16", "--players", "2x2"]
    command = "explain" if name == "index.html" else "evaluate"
    status = main([command, str(tmp_path), *given, "--out", str(out)])
    assert status == (0 if command == "explain" else 2)
    assert not (out / name).is_file()


@pytest.mark.parametrize("option", ["--samples", "--steps"])
def test_scores_of_more_points_than_make_sense_are_refused(tmp_path, capsys, option):
    for number in ("1000000000000", "9" * 30):
        assert main(["evaluate", str(tmp_path), option, number, "--out", str(tmp_path / "o")]) == 2
        assert "and at most 1000000" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["evaluation.json", "evaluation.csv"])
@pytest.mark.parametrize("is_folder", [False, True])
def test_reports_of_somebody_else_are_found_before_any_work(tmp_path, capsys, name, is_folder):
    Figure((1, 1)).savefig(tmp_path / "a.png")
    file = tmp_path / "out" / name
    (file if is_folder else file.parent).mkdir(parents=True)
    if not is_folder:
        file.write_text("mine")
    given = ["--model", f"{__name__}:of_a_picture", "--size", "16", "--methods", "random"]
    assert main(["evaluate", str(tmp_path), *given, "--out", str(file.parent)]) == 2
    assert f"where '{name}' is no report of this command" in capsys.readouterr().err
    assert file.is_dir() if is_folder else file.read_text() == "mine"


def test_nothing_is_written_or_removed_through_a_link(tmp_path):
    Figure((1, 1)).savefig(tmp_path / "a.png")
    out, mine = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    mine.mkdir()
    (mine / "file").write_text("mine")
    drafts = [".xai-patchshap-draft-1", f".xai-patchshap-draft-{os.getpid()}.npz"]
    for link in (".xai-patchshap.holder", drafts[1], "a.npz"):
        (out / link).symlink_to(mine / "file")
    (out / drafts[0]).symlink_to(mine)
    (out / "a-2.png").symlink_to(mine / "gone")
    given = ["--model", f"{__name__}:of_a_picture", "--size", "16", "--players", "2x2"]
    assert main(["explain", str(tmp_path / "a.png"), *given, "--out", str(out)]) == 0
    assert (mine / "file").read_text() == "mine"
    assert sorted(path.name for path in mine.iterdir()) == ["file"]
    assert sorted(path.name for path in out.glob("[!.]*")) == [
        "a-2.png", "a-3.npz", "a-3.png", "a.npz"
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_in_the_place_of_the_holder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ".xai-patchshap.holder")
    assert "another process" in str(_folders._taken(tmp_path))
    with only_process_in(tmp_path):
        pass
