"""Kills the command line again and again, and starts it twice at once; prints what it saw.

    python tests/cli/kills.py FOLDER KILLS PAIRS

Each run is a fork of this process, which has imported all that takes long to import.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from xai_patchshap import _files as _folders
from xai_patchshap.cli import main

MODEL = """
import time, torch
def half(x):
    time.sleep(0.002)
    left, right = x[..., :, :16].mean((1, 2, 3)), x[..., :, 16:].mean((1, 2, 3))
    return torch.stack([left, right, (left - right) ** 3], dim=1)
"""
GAME = ["--model", "killed_model:half", "--size", "32", "--background", "0", "--players", "2x3"]
COMMANDS = {
    "explain": ["explain", "images", *GAME, "--budget", "20"],
    "interactions": ["explain", "images", *GAME, "--method", "interaction-shap"],
    "evaluate": ["evaluate", "images", *GAME, "--methods", "patch-kernel-shap,rise,random"],
}
N_IMAGES = 5


def forked(arguments, log):
    """The process of a run, whose output goes to a file."""
    process = os.fork()
    if process:
        return process
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    status = 70
    try:
        status = main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(status)


def ended(process):
    """Exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def results(out):
    """What is finished, by name: the numbers, and what tells whether it was written again."""
    found = {}
    for file in sorted([*out.rglob("[0-9]*.npz"), *out.glob("images/*.json")]):
        if file.suffix == ".json":
            record = json.loads(file.read_text())
            numbers = [[r[k] for k in r if k != "seconds"] for r in record["content"]]
            settings = record["settings"]
        else:
            with np.load(file) as saved:
                numbers = saved["values"].tolist()
                settings = json.loads(str(saved["settings"]))
        stat = file.stat()
        found[file.name] = (numbers, settings, (stat.st_ino, stat.st_mtime_ns))
    return found


def whole(out, command):
    """Whether all that belongs to the results is there, and nothing else."""
    names = [str(i) for i in range(N_IMAGES)]
    wanted = {f"{n}{s}" for n in names for s in (".npz", ".png")} | {"index.html"}
    if command == "evaluate":
        wanted = {f"images/{n}.json" for n in names} | {"evaluation.json", "evaluation.csv"}
    if command == "interactions":
        wanted |= {f"{n}.pairs/interactions.npz" for n in names}
    there = {str(f.relative_to(out)) for f in out.rglob("*") if f.is_file()}
    rest = there - wanted - {".xai-patchshap.lock"}
    return wanted <= there and all(".pairs/" in name for name in rest)


def kill(command, n, reference, seconds, draw):
    """Kill a command ``n`` times; what was wrong, in words."""
    wrong, killed, out = [], 0, Path(f"killed-{command}")
    arguments = [*COMMANDS[command], "--out", str(out)]
    known = {}
    while killed < n:
        process = forked(arguments, "log")
        time.sleep(draw.uniform(0, seconds / 3))
        os.kill(process, signal.SIGKILL)
        status = ended(process)
        killed += status == -signal.SIGKILL
        if status not in (0, -signal.SIGKILL):
            wrong.append(f"status {status}: {Path('log').read_text()[-300:]}")
            break
        now = results(out)
        for name, result in known.items():
            if now.get(name) != result:
                wrong.append(f"{name} was lost or done twice")
        known = now
        if status == 0:  # it was too quick; from the start
            shutil.rmtree(out)
            known = {}
    if ended(forked(arguments, "log")):
        wrong.append(Path("log").read_text()[-300:])
    now = results(out)
    wrong += [f"{name} was done twice" for name in known if now[name] != known[name]]
    wrong += [f"{name} is another" for name in now if now[name][0] != reference[name][0]]
    if now.keys() != reference.keys() or not whole(out, command):
        wrong.append(f"not whole: {sorted(str(f) for f in out.rglob('*'))}")
    return killed, wrong


def start_two(i, command, references, seconds, draw):
    """Start a command twice at once, on every other time with two seeds."""
    out, wrong = Path(f"pair-{command}-{i}"), []
    _folders._PATIENCE = 0.2 if i % 4 < 2 else 60.0
    seeds = (0, i % 2)
    arguments = [*COMMANDS[command], "--out", str(out), "--seed"]
    first, second = (forked([*arguments, str(s)], f"log{k}") for k, s in enumerate(seeds))
    if i % 3 == 0:
        time.sleep(draw.uniform(0, seconds))
        os.kill(first, signal.SIGKILL)
    statuses = [ended(first), ended(second)]
    said = [Path(f"log{k}").read_text() for k in range(2)]
    for status, text in zip(statuses, said, strict=True):
        refused = re.search(
            r"--out: got .*(where process \d+ on|where seed is|another process)", text
        )
        if status not in (0, -signal.SIGKILL) and not (status == 2 and refused):
            wrong.append(f"status {status}: {text[-300:]}")
    found = results(out) if out.exists() else {}
    mixed = {result[1]["seed"] for result in found.values()}
    if len(mixed) > 1:
        wrong.append(f"seeds {mixed} in one folder")
    if 0 in statuses and len(found) != N_IMAGES:
        wrong.append(f"{len(found)} results of a finished run")
    wrong += [
        f"{name} is another"
        for name, result in found.items()
        if result[0] != references[result[1]["seed"]][name][0]
    ]
    counts = [re.search(rf"(\d+) of {N_IMAGES} images explained", text) for text in said]
    if -signal.SIGKILL not in statuses and command != "evaluate":
        total = sum(int(c[1]) for c in counts if c)
        if total != N_IMAGES:
            wrong.append(f"{total} images explained")
    return statuses, wrong


def run(folder, n_kills, n_pairs):
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.path.insert(0, "")
    Path("killed_model.py").write_text(MODEL)
    Path("images").mkdir()
    draw = np.random.default_rng(0)
    for i in range(N_IMAGES):
        pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"images/{i}.png")
    report = {"kills": {}, "pairs": [], "wrong": []}
    references, took = {}, {}
    for command, arguments in COMMANDS.items():
        references[command] = {}
        for seed in (0, 1):
            out = Path(f"reference-{command}-{seed}")
            begun = time.monotonic()
            run = [*arguments, "--seed", str(seed), "--out", str(out)]
            assert ended(forked(run, "log")) == 0, Path("log").read_text()
            took[command] = time.monotonic() - begun
            references[command][seed] = results(out)
    for k, command in enumerate(COMMANDS):
        n = n_kills // 3 + (k < n_kills % 3)
        found, wrong = kill(command, n, references[command][0], took[command], draw)
        print(command, found, wrong, file=sys.stderr, flush=True)
        report["kills"][command] = found
        report["wrong"] += wrong
    for i in range(n_pairs):
        command = list(COMMANDS)[i % 3]
        statuses, wrong = start_two(i, command, references[command], took[command], draw)
        print(command, statuses, wrong, file=sys.stderr, flush=True)
        report["pairs"].append(statuses)
        report["wrong"] += wrong
    return report


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
