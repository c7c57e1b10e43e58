"""The public names, and the direction of imports."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import xai_patchshap

SOURCE = Path(xai_patchshap.__file__).parent
EXPECTED = json.loads((Path(__file__).parent / "public_api.json").read_text())

# A module may import only from those above it.
ORDER = [
    "errors",
    "_memory",
    "_versions",
    "_folders",
    "_arrays",
    "_outputs",
    "superpixels",
    "players",
    "hierarchy",
    "backgrounds",
    "masking",
    "models",
    "tokens",
    "onnx_models",
    "hf_models",
    "named_models",
    "game",
    "estimators",
    "amortized",
    "samples",
    "explainers",
    "dispatch",
    "one_line",
    "metrics",
    "baselines",
    "quality",
    "plots",
    "cli",
]


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_the_public_names_are_those_on_record():
    names = {}
    for path in modules():
        parts = path.relative_to(SOURCE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if any(p.startswith("_") for p in parts):
            continue
        name = ".".join(["xai_patchshap", *parts])
        names[name] = sorted(importlib.import_module(name).__all__)
    assert names == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_public_name_exists_and_is_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for public in EXPECTED[name]:
        item = getattr(module, public)
        if callable(item) and getattr(item, "__module__", "").startswith("xai_patchshap"):
            assert item.__doc__, public


def imported(path: Path) -> set[str]:
    """Top-level modules of the package that a file imports."""
    package = ["xai_patchshap", *path.relative_to(SOURCE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = [*base, *(node.module or "").split(".")] if node.module else base
            names = [[*full, a.name] for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names]
        else:
            continue
        found |= {n[1] for n in names if n[0] == "xai_patchshap" and len(n) > 1}
    return found & set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_the_list_only(path):
    own = path.relative_to(SOURCE).with_suffix("").parts[0]
    if own == "__init__":
        return
    assert own in ORDER, "a new module needs its place in ORDER"
    later = ORDER[ORDER.index(own) + 1 :]
    assert not imported(path) & set(later)


def test_estimators_know_no_torch():
    for path in (SOURCE / "estimators").glob("*.py"):
        text = path.read_text()
        assert "import torch" not in text
        assert "from torch" not in text


@pytest.mark.slow
def test_importing_the_package_changes_nothing_in_shap_and_captum():
    code = (
        "import shap, captum.attr as c\n"
        "def state(): return vars(shap.Explainer).copy(), vars(c.KernelShap).copy()\n"
        "before = state(); import xai_patchshap; assert before == state()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert version("xai-patchshap") == xai_patchshap.__version__
