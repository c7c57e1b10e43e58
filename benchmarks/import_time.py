"""CPU seconds until a user can begin: imports, and the command line's help.

Every command is a process of its own, in turns; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
PACKAGES = ("captum", "numpy", "shap", "torch", "xai-patchshap")
SCRIPT = "import sys; from xai_patchshap.cli import main; sys.exit(main())"  # as pip installs it
# What is timed, and what it stands beside.
COMMANDS = {
    "nothing": ("-c", "pass"),
    "torch, shap, captum.attr": ("-c", "import torch, shap, captum.attr"),
    "xai_patchshap": ("-c", "import xai_patchshap"),
    "xai_patchshap.PatchKernelShap": ("-c", "from xai_patchshap import PatchKernelShap"),
    "--help": ("-c", SCRIPT, "--help"),
    "a wrong argument": ("-c", SCRIPT, "explain", "cat.jpg", "--budget", "few"),
}
BESIDE = {
    "xai_patchshap": "torch, shap, captum.attr",
    "xai_patchshap.PatchKernelShap": "torch, shap, captum.attr",
    "--help": "nothing",
    "a wrong argument": "nothing",
}
STATUS = {"a wrong argument": 2}  # the others end with 0


def cpu_seconds(name: str) -> float:
    """User and system time of a new process that runs a command."""
    # Bytecode is kept between turns, as it is for a user.
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.Popen(
        [sys.executable, "-W", "ignore", *COMMANDS[name]],
        env=kept,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(done.pid, 0)
    done.returncode = os.waitstatus_to_exitcode(status)
    if done.returncode != STATUS.get(name, 0):
        raise RuntimeError(f"{name} ended with {done.returncode}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "import_time.json")
    a = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(1 + a.repeats):
        for name, found in seconds.items():
            found.append(cpu_seconds(name))
    # The first turn fills the caches of files and of bytecode.
    medians = {name: median(found[1:]) for name, found in seconds.items()}
    result: dict[str, Any] = {
        "command": "python benchmarks/import_time.py",
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
        "repeats": a.repeats,
        "cpu_seconds": {name: round(found, 4) for name, found in medians.items()},
        "over": {
            name: {other: round(medians[name] / medians[other], 3)}
            for name, other in BESIDE.items()
        },
    }
    a.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
