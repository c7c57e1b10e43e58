"""Hostile cases: a case that hangs ends the run with the stack of every thread."""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path

import pytest

# Modules of this folder share strategies.py and oracle.py.
sys.path.insert(0, str(Path(__file__).parent))

_LONGEST = 900  # seconds of one test, which tries many cases


@pytest.fixture(autouse=True)
def no_hang():
    faulthandler.dump_traceback_later(_LONGEST, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
