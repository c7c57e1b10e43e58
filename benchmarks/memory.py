"""Memory and time of KernelSHAP of many players beside Captum's, and of games of many outputs.

Every measurement is a process of its own, the methods in turn. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
PACKAGES = ("captum", "numpy", "torch", "xai-patchshap")
OURS, CAPTUM = "xai_patchshap", "captum"
Row = dict[str, Any]

# Players, evaluations, outputs, and who is asked.
TASKS: dict[str, tuple[int, int, int, tuple[str, ...]]] = {
    "volume": (131_072, 25, 1, (OURS, CAPTUM)),
    "image": (12_288, 1024, 1, (OURS, CAPTUM)),
    "outputs": (49, 5000, 10_000, (OURS,)),
    "players": (4096, 9000, 1, (OURS,)),
}


def mebibytes(key: str) -> float:
    """What the system says of this process; a child's VmHWM begins anew."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def measure(task: str, method: str) -> Row:
    import torch
    from captum.attr import KernelShap

    from xai_patchshap import PatchKernelShap

    warnings.simplefilter("ignore")
    n_players, evaluations, n_outputs, _ = TASKS[task]
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(n_players, n_outputs, generator=generator) / n_players
    x = torch.rand(1, n_players, generator=generator)

    def model(rows: torch.Tensor) -> torch.Tensor:
        return torch.tanh(rows @ weights)

    explainer = (
        KernelShap(model) if method == CAPTUM else PatchKernelShap(model, estimator="kernel-shap")
    )
    before, start, cpu = mebibytes("VmRSS"), time.perf_counter(), time.process_time()
    if n_outputs > 1:
        explainer.explain_players(x, max_evals=evaluations, batch_size=64, silent=True)
    else:
        explainer.attribute(x, target=0, n_samples=evaluations, perturbations_per_eval=16)
    return {
        "task": task,
        "method": method,
        "above_start_mib": mebibytes("VmHWM") - before,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
    }


def summary(runs: list[Row]) -> Row:
    found: Row = {}
    for task, (n_players, evaluations, n_outputs, methods) in TASKS.items():
        part: Row = {"players": n_players, "evaluations": evaluations, "outputs": n_outputs}
        for method in methods:
            mine = [r for r in runs if (r["task"], r["method"]) == (task, method)]
            if mine:
                keys = ("above_start_mib", "seconds", "cpu_seconds")
                part[method] = {k: median(r[k] for r in mine) for k in keys}
        if OURS in part and CAPTUM in part:
            for key in ("above_start_mib", "cpu_seconds"):
                part[f"{key}_over_captum"] = part[OURS][key] / part[CAPTUM][key]
        if OURS in part and n_outputs > 1:
            table = 8 * evaluations * n_outputs / 2**20
            part["above_start_over_table"] = part[OURS]["above_start_mib"] / table
        found[task] = part
    return found


def rounded(value: Any) -> Any:
    """Keep four significant digits, so that the files of two runs compare well."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "memory.json")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    runs: list[Row] = []
    for _ in range(args.repeats):
        for task in args.tasks:
            for method in TASKS[task][3]:
                command = [sys.executable, __file__, "--measure", task, method]
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                runs.append(json.loads(answer.stdout.splitlines()[-1]))
                print(rounded(runs[-1]), flush=True)
    result = {
        "environment": {
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
            "versions": {name: version(name) for name in PACKAGES},
        },
        "summary": summary(runs),
        "runs": runs,
    }
    args.out.write_text(json.dumps(rounded(result), indent=2, sort_keys=True) + "\n")
    print(json.dumps(rounded(result["summary"]), indent=2))


if __name__ == "__main__":
    main()
