"""The files around the code: what they name exists, and the check of notebooks finds faults."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "docs/stability.md"]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_pages_name_exist(page):
    text = (ROOT / page).read_text()
    linked = [(ROOT / page).parent / path for path in re.findall(r"\]\(([\w./]+)\)", text)]
    named = re.findall(r"`((?:src|tests|docs|benchmarks|\.ci)/[\w./]+)`", text)
    inside = re.findall(r"`([a-z_]+/(?:[\w]+\.py)?|_?[a-z_]+\.py)`", text)
    source = ROOT / "src" / "xai_patchshap"
    known = [*linked, *(ROOT / path for path in named)]
    assert not [path for path in known if not path.exists()]
    places = (source, source / "amortized", ROOT)
    assert not [path for path in inside if not any((p / path).exists() for p in places)]


def test_a_bug_form_asks_for_the_versions():
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()
    assert "xai_patchshap.show_versions()" in form


def cell(count, **output):
    outputs = [{"output_type": "stream", **output}] if output else []
    return {"cell_type": "code", "source": "1", "execution_count": count, "outputs": outputs}


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([cell(1), {"cell_type": "markdown", "source": "text"}, cell(2, text="fine")], ""),
        ([cell(2), cell(1)], "were not run once each"),
        ([cell(None)], "were not run once each"),
        ([cell(1, output_type="error", ename="ValueError")], "an output is an error"),
        ([cell(1, text="/home/" + "somebody/model.onnx")], "somebody's home"),
    ],
)
def test_the_check_of_notebooks(cells, said, tmp_path):
    file = tmp_path / "one.ipynb"
    file.write_text(json.dumps({"cells": cells}))
    command = [sys.executable, str(ROOT / ".ci" / "notebooks"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == bool(said)
    assert said in done.stdout
