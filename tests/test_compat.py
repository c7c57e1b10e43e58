"""What is taken from other libraries is there; what show_versions prints."""

from __future__ import annotations

import ast
import platform
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch

import xai_patchshap
from xai_patchshap import _compat

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def names(requirements):
    return {re.match(r"[\w-]+", r)[0] for r in requirements}


@pytest.fixture
def printed(capsys):
    def lines():
        xai_patchshap.show_versions()
        return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())

    return lines


def test_it_says_what_is_installed(printed):
    said = printed()
    assert said["python"] == f"{platform.python_version()} (CPython)"
    assert said["platform"] == platform.platform()
    assert int(said["cpus"]) >= 1
    assert said["xai-patchshap"] == xai_patchshap.__version__
    assert said["numpy"] == np.__version__
    assert said["shap"] == version("shap")
    assert f"{torch.get_num_threads()} threads" in said["device"]


def test_it_knows_all_that_pyproject_names():
    extras = PROJECT["optional-dependencies"]
    users = [r for name in extras if name not in {"test", "dev"} for r in extras[name]]
    assert set(_compat._REQUIRED) == names(PROJECT["dependencies"])
    assert set(_compat._OPTIONAL) == names(users) | {"onnxruntime-gpu"}


def test_what_is_missing_is_said(printed, monkeypatch):
    def without_timm(name):
        if name == "timm":
            raise PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(_compat, "version", without_timm)
    said = printed()
    assert said["timm"] == "not installed"
    assert said["captum"] == said["transformers"] == "1.2.3"


@pytest.mark.parametrize(
    ("cuda", "hip", "found", "expected"),
    [
        (None, None, False, "torch built for the CPU"),
        ("13.0", None, False, "torch built for CUDA 13.0"),
        ("13.0", None, True, "torch built for CUDA 13.0"),
        (None, "6.2", True, "torch built for ROCm 6.2"),
    ],
)
def test_the_device_and_the_build_of_torch(printed, monkeypatch, cuda, hip, found, expected):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    said = printed()["device"]
    assert said.startswith("Some GPU, " if found else "cpu, ")
    assert said.endswith(expected)


@pytest.mark.parametrize("name", sorted(_compat.BORROWED))
def test_what_is_borrowed_is_there(name):
    module, theirs, seen = _compat.BORROWED[name]
    library = module.partition(".")[0]
    found = version(library)
    assert getattr(_compat, name) is getattr(sys.modules[module], theirs), (
        f"{library} {found}; {module}.{theirs} was seen in {seen}"
    )
    assert seen == tuple(sorted(seen, key=lambda v: [int(n) for n in v.split(".")]))


def test_what_is_no_longer_there_is_said(monkeypatch):
    monkeypatch.setitem(
        _compat.BORROWED, "progress", ("captum._utils.progress", "gone", ("0.9.0",))
    )
    with pytest.raises(
        ImportError, match=r"captum [\d.]+ has no captum\._utils\.progress\.gone; it"
    ):
        _ = _compat.progress
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = _compat.nothing


def test_private_names_are_taken_from_one_module_only():
    private = re.compile(r"(from|import) (shap|captum|timm|torchvision|transformers)[\w.]*\._")
    log = re.compile(r"captum\.log|import _[a-z]\w* *(#|$)")
    for path in Path(_compat.__file__).parent.rglob("*.py"):
        if path.name != "_compat.py":
            lines = path.read_text().splitlines()
            assert not [n for n in lines if private.search(n)], path
            assert not [n for n in lines if "captum" in n and log.search(n)], path


def test_methods_without_telemetry_show_what_they_wrap():
    class Kind:
        @_compat.unlogged
        def attribute(self, inputs, n=1):
            """Say."""
            return self, inputs, n

    one = Kind()
    assert one.attribute(2) == Kind.attribute.__wrapped__(one, 2) == (one, 2, 1)
    assert Kind.attribute.__doc__ == "Say."


def test_the_module_itself_imports_nothing_heavy():
    tree = ast.parse(Path(_compat.__file__).read_text())
    found = [n.module for n in tree.body if isinstance(n, ast.ImportFrom)]
    found += [a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names]
    assert {f.split(".")[0] for f in found} <= sys.stdlib_module_names
