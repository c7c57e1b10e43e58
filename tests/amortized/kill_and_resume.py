"""Kill training runs at random moments, start them again, and compare the weights.

    python kill_and_resume.py STAGE FOLDER SEED

STAGE is surrogate, fastshap, pairs or labels. Prints the number of kills and whether the
weights are those of the run that was let alone.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

from xai_patchshap.amortized import Recipe, Schedule, train_explainer, train_surrogate

SCHEDULE = Schedule(epochs=4, batch_size=8, learning_rate=1e-2, save_every=3, validations=7)
KILLS = 3


def train(stage, out):
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2,
        num_classes=3, proj_drop_rate=0.1,
    )  # fmt: skip
    images = list(torch.rand(100, 3, 16, 16))
    common = {"validation": images[:8], "progress": False}
    if stage == "surrogate":
        train_surrogate(vit, images, out, SCHEDULE, n_sizes=2, **common)
        return
    kind = {
        "fastshap": {},
        "pairs": {"fresh": False, "keep_tokens": True},
        "labels": {"objective": "labels"},
    }[stage]
    recipe = Recipe(n_pairs=2, n_frozen=1, **kind)
    train_explainer(vit, images, out, recipe, SCHEDULE, **common)


def forked(stage, out):
    child = os.fork()
    if child == 0:
        train(stage, out)
        os._exit(0)
    return child


def main():
    stage, folder, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    started = time.perf_counter()
    assert os.waitpid(forked(stage, folder / "alone"), 0)[1] == 0
    whole = time.perf_counter() - started
    rng, kills = random.Random(seed), 0
    while True:
        child = forked(stage, folder / "killed")
        if kills < KILLS:
            time.sleep(rng.uniform(0.03, 0.3) * whole)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert status == 0, status
            break
        kills += 1
    name = f"{'surrogate' if stage == 'surrogate' else 'explainer'}.safetensors"
    alone, killed = (load_file(folder / f / name) for f in ("alone", "killed"))
    same = alone.keys() == killed.keys() and all(torch.equal(alone[k], killed[k]) for k in alone)
    logs = [(folder / f / "log.csv").read_text() for f in ("alone", "killed")]
    print(f"kills={kills} same_weights={same} same_log={logs[0] == logs[1]}")


if __name__ == "__main__":
    main()
