"""The blocks of Python in the pages of docs run in their order, as a reader would paste them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_as_written(page, monkeypatch):
    pasted = ModuleType("pasted")  # a module: what is pickled looks its class up
    monkeypatch.setitem(sys.modules, "pasted", pasted)
    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    exec(compile(code, page.name, "exec"), vars(pasted))
