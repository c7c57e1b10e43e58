"""Runs that are killed, and two at once: nothing is lost, mixed or done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
def test_kills_and_two_at_once(tmp_path):
    n_kills, n_pairs = (int(os.environ.get(f"XAI_PATCHSHAP_{k}", 6)) for k in ("KILLS", "PAIRS"))
    script = Path(__file__).with_name("kills.py")
    command = [sys.executable, "-W", "ignore", script, tmp_path, str(n_kills), str(n_pairs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["wrong"] == []
    assert sum(report["kills"].values()) == n_kills
    assert len(report["pairs"]) == n_pairs
