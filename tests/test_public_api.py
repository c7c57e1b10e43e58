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

# The house: what stands in a list imports from what stands below it, never from above.
ORDER = {
    "": [
        "__main__",
        "cli",
        "testing",
        "explain_image",
        "evaluation",
        "plots",
        "explainers",
        "samples",
        "amortized",
        "estimators",
        "game",
        "masking",
        "players",
        "targets",
        "models",
        "_files",
        "_arrays",
        "_compat",
        "_lazy",
        "_validation",
        "errors",
        "_typing",
    ],
    "amortized": [
        "training",
        "losses",
        "refinement",
        "checkpoints",
        "cards",
        "architecture",
        "network",
        "predicted_game",
    ],
    "amortized.training": [
        "explainer",
        "surrogate",
        "calibration",
        "validation",
        "cached_values",
        "cached_tokens",
        "recipe",
        "loop",
        "objectives",
        "run",
        "single_process",
        "table",
        "digests",
        "data",
        "schedule",
    ],
    "estimators": [
        "choose",
        "shapley",
        "interactions",
        "owen_forest",
        "owen",
        "coalitions",
        "process",
        "averaged_ridge",
        "base",
        "indices",
        "units",
    ],
    "estimators.shapley": ["gaussian_process", "kernel_shap", "pair_regression", "exact"],
    "estimators.interactions": ["gaussian_process", "regression", "exact", "interactions"],
    "estimators.coalitions": [
        "designed_pairs",
        "sampled_pairs",
        "shapley_kernel",
        "all_coalitions",
    ],
    "estimators.process": ["posterior", "prior", "evidence", "kernel"],
    "evaluation": [
        "report",
        "network_methods",
        "compare",
        "other_methods",
        "attention",
        "image_games",
        "masker_game",
        "localisation",
        "correlations",
        "curves",
        "checks",
    ],
    "testing": ["checks", "promises", "subject", "games"],
    "plots": [
        "attribution_maps",
        "compare_maps",
        "region_outlines",
        "interaction_network",
        "interaction_matrix",
        "interaction_partners",
        "metric_curves",
        "side_by_side",
        "as_explanation",
        "read_attributions",
        "effects",
        "canvas",
        "scale",
    ],
    "models": [
        "load",
        "image_arrays",
        "named_model",
        "photographs",
        "huggingface",
        "onnx",
        "batch",
        "vit_anatomy",
        "outputs",
    ],
    "masking": [
        "patch_masker",
        "token_dropping",
        "token_hooks",
        "call_guards",
        "coalition_inputs",
        "backgrounds",
    ],
    "players": ["trees", "feature_masks", "grids", "superpixels"],
    "players.trees": ["bpt", "partition_tree", "merging", "compiled"],
    "targets": ["captum", "outputs"],
    "cli": [
        "explain",
        "train",
        "evaluate",
        "arguments",
        "folder",
        "result_files",
        "results",
        "model",
        "provenance",
        "index_page",
        "resume",
        "failures",
        "settings",
        "images",
        "words",
    ],
    "explainers": [
        "registry",
        "vit_shapley_amortized",
        "interaction_shap",
        "owen_bpt",
        "patch_kernel_shap",
        "base",
        "shap_face",
        "explanations",
        "captum_face",
        "core",
        "solve",
        "methods",
    ],
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_the_public_names_are_those_on_record():
    names = {name: sorted(importlib.import_module(name).__all__) for name in EXPECTED}
    assert names == EXPECTED


def test_every_package_is_on_record():
    packages = {p.parent.relative_to(SOURCE.parent) for p in SOURCE.glob("*/__init__.py")}
    assert {".".join(p.parts) for p in packages} - {"xai_patchshap.cli"} <= set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_public_name_exists_and_is_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for public in EXPECTED[name]:
        item = getattr(module, public)
        if callable(item) and getattr(item, "__module__", "").startswith("xai_patchshap"):
            assert item.__doc__, public


def imported(path: Path) -> set[tuple[str, ...]]:
    """What a file imports of the package, as dotted names in parts."""
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
        found |= {tuple(n[1:]) for n in names if n[0] == "xai_patchshap" and len(n) > 1}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_the_list_only(path):
    own = path.relative_to(SOURCE).with_suffix("").parts
    for package, order in ORDER.items():
        inside = tuple(package.split(".")) if package else ()
        if own[: len(inside)] != inside or own[len(inside)] == "__init__":
            continue
        place = own[len(inside)]
        assert place in order, "a new module needs its place in ORDER"
        above = set(order[: order.index(place)])
        wrong = {
            ".".join(name)
            for name in imported(path)
            if name[: len(inside)] == inside and set(name[len(inside) : len(inside) + 1]) & above
        }
        assert not wrong, f"{'.'.join(own)} imports from above: {wrong}"


def test_estimators_know_no_torch():
    for path in (SOURCE / "estimators").rglob("*.py"):
        text = path.read_text()
        assert "import torch" not in text, path
        assert "from torch" not in text, path


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
