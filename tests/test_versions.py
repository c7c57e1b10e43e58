"""What show_versions prints, and that it knows every package that pyproject.toml names."""

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
from xai_patchshap import _versions

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
    assert set(_versions._REQUIRED) == names(PROJECT["dependencies"])
    assert set(_versions._OPTIONAL) == names(users) | {"onnxruntime-gpu"}


def test_what_is_missing_is_said(printed, monkeypatch):
    def without_timm(name):
        if name == "timm":
            raise PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(_versions, "version", without_timm)
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


def test_the_module_itself_imports_nothing_heavy():
    tree = ast.parse(Path(_versions.__file__).read_text())
    found = [n.module for n in tree.body if isinstance(n, ast.ImportFrom)]
    found += [a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names]
    assert {f.split(".")[0] for f in found} <= sys.stdlib_module_names
