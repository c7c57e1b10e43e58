"""What holds for every process of a test run: tests and docstrings, workers and their children."""

from __future__ import annotations

import os
from pathlib import Path

# The models are tiny: threads would only wait for each other. Workers and children inherit this.
for _library in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"


def pytest_configure():
    """Draw into files."""
    import matplotlib

    matplotlib.use("Agg")


def pytest_xdist_auto_num_workers(config):
    """One worker for each core, at most eight; none for a single file, which one worker gets."""
    if len(config.args) == 1 and Path(config.args[0].split("::")[0]).is_file():
        return 0
    if hasattr(os, "sched_getaffinity"):  # the cores that this process may use
        return min(len(os.sched_getaffinity(0)), 8)
    return min(os.cpu_count() or 1, 8)
