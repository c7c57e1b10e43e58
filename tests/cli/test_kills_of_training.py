"""Training by the command line that is killed, and goes on as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

ARGS = {
    "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
    "num_classes": 3, "class_token": False, "global_pool": "avg",
}  # fmt: skip
# A fork for each run, of a process that has imported all that takes long to import.
RUNS = """
import json, os, signal, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from xai_patchshap.cli import main

def run(arguments, seconds=None):
    process = os.fork()
    if not process:
        status = 70
        try:
            torch.manual_seed(0)  # of the random weights to begin with
            status = main(arguments)
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

draw = np.random.default_rng(0)
for stage, whole, stopped in json.loads(sys.argv[1]):
    begun = time.monotonic()
    assert run(whole) == 0
    took = time.monotonic() - begun
    kills = [run(stopped, draw.uniform(0, 0.6 * took)) for _ in range(4)]
    assert set(kills) <= {0, -signal.SIGKILL}, kills
    assert run(stopped) == 0
    print("kills", stage, kills.count(-signal.SIGKILL))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
def test_killed_training_ends_with_the_weights_of_a_run_that_was_not(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(24):
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02d}.png")
    quick = ["--epochs", "3", "--batch-size", "4", "--save-every", "3", "--silent"]
    quick += ["--device", "cpu"]
    surrogate = ["--model", "timm:vit_tiny_patch16_224", "--model-args", json.dumps(ARGS)]
    explainer = ["--surrogate", "surrogate-whole/surrogate.safetensors", "--calibrate", "2"]
    runs = []
    for stage, options in {
        "surrogate": [*surrogate, "--weights", "random"],
        "explainer": [*explainer, "--pairs", "2", "--keep-pairs", "--keep-tokens"],
    }.items():
        command = ["train", stage, "images", *options, *quick, "--out"]
        runs.append([stage, [*command, f"{stage}-whole"], [*command, f"{stage}-killed"]])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNS, json.dumps(runs)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("surrogate", "explainer"):
        name = f"{stage}.safetensors"
        whole, killed = (load_file(tmp_path / f"{stage}-{k}" / name) for k in ("whole", "killed"))
        assert whole.keys() == killed.keys()
        assert all(torch.equal(whole[k], killed[k]) for k in whole)
        killed_runs = [
            line for line in done.stdout.splitlines() if line.startswith(f"kills {stage}")
        ]
        assert int(killed_runs[0].split()[-1]) > 0
