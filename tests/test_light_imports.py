"""What is not imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import xai_patchshap

SOURCE = Path(xai_patchshap.__file__).parent
HEAVY = {"captum", "matplotlib", "numba", "pandas", "scipy", "shap", "timm", "torch", "torchvision"}


def loaded_by(code):
    """The modules that a new process has loaded after some lines of code."""
    code += "\nimport sys; sys.stderr.write('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return set(done.stderr.decode().splitlines())


def test_the_package_alone_loads_nothing_heavy():
    loaded = loaded_by("import xai_patchshap; dir(xai_patchshap); xai_patchshap.explain_image")
    assert not loaded & HEAVY
    ours = {name for name in loaded if name.startswith("xai_patchshap.")}
    light = {"_lazy", "_validation", "errors", "explain_image", "explainers", "explainers.methods"}
    assert ours <= {f"xai_patchshap.{name}" for name in light}


def test_explainers_of_patches_load_no_transformers_and_no_training():
    loaded = loaded_by(
        "from xai_patchshap import OwenBPT, PatchKernelShap, PatchMasker, Explainer\n"
        "from xai_patchshap import InteractionShap\n"
        "import numpy as np\n"
        "explainer = Explainer(lambda x: x.mean((1, 2, 3)), PatchMasker(players=(2, 2)))\n"
        "explainer(np.ones((1, 4, 4, 3)), silent=True)"
    )
    assert {"xai_patchshap.explainers.owen_bpt", "torch", "shap"} <= loaded
    assert not loaded & {"timm", "torchvision", "torch._dynamo", "xai_patchshap.amortized"}
    assert not loaded & {"xai_patchshap.players.trees.merging", "xai_patchshap.plots"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("__init__.py")), ids=str)
def test_names_that_are_imported_late_are_those_that_types_are_checked_of(path):
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            checked = {a.name: i.module for i in node.body for a in i.names}
            (made,) = node.orelse
            assert ast.literal_eval(made.value.args[1]) == checked
            assert set(checked) <= set(ast.literal_eval(names_of(tree)))


def names_of(tree):
    (found,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return found


def test_packages_are_attributes_and_nothing_else_is_listed():
    packages = {p.parent.name for p in SOURCE.glob("*/__init__.py")} - {"cli"}
    listed = set(dir(xai_patchshap))
    assert packages <= listed
    assert "np" not in listed
    for name in listed:
        assert getattr(xai_patchshap, name) is not None
    assert callable(xai_patchshap.explain_image)
    with pytest.raises(AttributeError, match="module 'xai_patchshap' has no attribute 'Lime'"):
        _ = xai_patchshap.Lime
