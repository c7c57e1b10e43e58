"""Our estimators and shapiq's KernelSHAP on photographs, against converged Shapley values.

    python benchmarks/photographs.py --photographs DIR --only quail barn --backgrounds mean blur

EfficientNet-Lite0 on patches hidden by a colour or a blurred copy, probability and logit of the
class of the whole photograph. The truth is a long run of KernelSHAP with other coalitions, whose
own error is reported. See ``make_games.py`` for the runtime of the network.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import shapiq
from interactions import head, save
from make_games import PhotographGame, read, runtime
from numpy.typing import NDArray

from xai_patchshap.estimators import GaussianProcessShap, KernelShap

Floats = NDArray[np.float64]
Row = dict[str, Any]

SCALES = ("prob", "logit")
REFERENCE_SEED = 12345
SHAPIQ = "shapiq.KernelSHAP, paired"
OURS = {"GaussianProcessShap": GaussianProcessShap, "KernelShap": KernelShap}


def by_shapiq(game: PhotographGame, budgets: Sequence[int], seed: int) -> dict[int, Row]:
    """Each budget is a run of its own: shapiq's samples are no prefixes of each other."""
    found = {}
    for budget in budgets:
        seen: dict[bytes, Floats] = {}  # the coalitions are the same for both scales
        values = [shapiq_values(game, k, budget, seed, seen) for k in range(len(SCALES))]
        found[budget] = {"values": np.stack(values, axis=1)}
    return found


def shapiq_values(
    game: PhotographGame, k: int, budget: int, seed: int, seen: dict[bytes, Floats]
) -> Floats:
    def play(coalitions: NDArray[np.bool_]) -> Floats:
        rows = np.atleast_2d(coalitions).astype(bool)
        fresh = np.array([row for row in rows if row.tobytes() not in seen], dtype=bool)
        if len(fresh):
            keys = [row.tobytes() for row in fresh]
            seen.update(zip(keys, game.values(fresh), strict=True))
        return np.array([seen[row.tobytes()][k] for row in rows])

    approximator = shapiq.KernelSHAP(game.n_players, pairing_trick=True, random_state=seed)
    found = approximator.approximate(budget, play)
    return np.array([found[(i,)] for i in range(game.n_players)])


def by_us(
    make: Callable[..., Any], game: PhotographGame, budgets: Sequence[int], seed: int
) -> dict[int, Row]:
    """One sample: what smaller budgets take is its beginning."""
    estimator = make(game.n_players, max(budgets), seed)
    values = game.values(estimator.coalitions)
    found = {}
    for budget in budgets:
        start = time.perf_counter()
        estimates = [estimator.estimate(values[:budget, k]) for k in range(len(SCALES))]
        found[budget] = {
            "values": np.concatenate([e.values for e in estimates], axis=1),
            "error_std": np.concatenate([e.error_std for e in estimates], axis=1),
            "seconds": (time.perf_counter() - start) / len(SCALES),
        }
    return found


def measure(a: argparse.Namespace) -> Row:
    rows, columns = map(int, a.grid.split("x"))
    network = runtime()
    summary: list[Row] = []
    references: list[Row] = []
    wanted = [p for p in sorted(a.photographs.iterdir()) if p.suffix in (".jpg", ".png")]
    wanted = [p for p in wanted if not a.only or any(word in p.name for word in a.only)]
    for file in wanted:
        for background in a.backgrounds:
            game = PhotographGame(network, read(file), (rows, columns), background)
            reference = KernelShap(game.n_players, a.reference, REFERENCE_SEED)
            true = reference.estimate(game.values(reference.coalitions))
            name = f"{file.stem}_{background}"
            own = (true.error_std**2).mean(axis=0) / true.values.var(axis=0)
            references.append({"game": name, **dict(zip(SCALES, own, strict=True))})
            print(name, "own error of the truth", own, flush=True)
            for seed in range(a.seeds):
                results = {
                    label: by_us(kind, game, a.budgets, seed) for label, kind in OURS.items()
                }
                results[SHAPIQ] = by_shapiq(game, a.shapiq_budgets, seed)
                for label, found in results.items():
                    for budget, one in found.items():
                        summary += rows_of(name, label, budget, seed, one, true.values)
            show([r for r in summary if r["game"] == name])
    result = head({"shapiq": version("shapiq")}, ("torch", "timm"))
    try:
        engine = f"openvino {version('openvino')}"
    except PackageNotFoundError:
        engine = f"onnxruntime {version('onnxruntime')}"
    result["environment"] |= {"engine": engine, "system": platform.system()}
    result["settings"] = {
        "error": "mean squared error over the patches / variance of the true values",
        "grid": a.grid,
        "reference_evaluations": a.reference,
        "seeds": a.seeds,
        "level": 0.9,
    }
    return result | {"references": references, "summary": summary, "ratios": needed(summary)}


def rows_of(name: str, label: str, budget: int, seed: int, one: Row, true: Floats) -> list[Row]:
    rows = []
    for k, scale in enumerate(SCALES):
        gap = one["values"][:, k] - true[:, k]
        row = {"game": name, "scale": scale, "estimator": label, "budget": budget, "seed": seed}
        row["nmse"] = float(np.mean(gap**2) / true[:, k].var())
        if "error_std" in one:
            row["coverage"] = float(np.mean(np.abs(gap) < 1.645 * one["error_std"][:, k]))
            row["fit_seconds"] = one["seconds"]
        rows.append(row)
    return rows


def means(rows: Sequence[Row], field: str = "nmse") -> dict[tuple[str, str, str], dict[int, float]]:
    """Means over seeds, by game, scale and estimator, then by budget."""
    cells: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for r in rows:
        if field in r:
            key = (r["game"], r["scale"], r["estimator"])
            cells.setdefault(key, {}).setdefault(r["budget"], []).append(r[field])
    return {k: {b: float(np.mean(x)) for b, x in v.items()} for k, v in cells.items()}


def needed(rows: Sequence[Row]) -> list[Row]:
    """Evaluations to reach the error of KernelShap at its largest budget, by log-log lines."""
    found = []
    by = means(rows)
    for (game, scale, label), ours in by.items():
        if label != "GaussianProcessShap":
            continue
        budget, target = max(by[game, scale, "KernelShap"].items())
        budgets = sorted(ours)
        for low, high in itertools.pairwise(budgets):
            if ours[high] <= target:
                if ours[low] <= target:
                    reached = float(low)
                else:
                    share = np.log(ours[low] / target) / np.log(ours[low] / ours[high])
                    reached = float(low * (high / low) ** share)
                break
        else:
            reached = float("nan")
        found.append(
            {"game": game, "scale": scale, "error": target, "of": budget, "evaluations": reached}
        )
    return found


def show(rows: Sequence[Row]) -> None:
    coverage = means(rows, "coverage")
    for key, by_budget in means(rows).items():
        cells = [
            f"{b}: {x:.3f}" + (f" ({coverage[key][b]:.2f})" if key in coverage else "")
            for b, x in by_budget.items()
        ]
        print("  ", *key[1:], *cells, flush=True)
    for row in needed(rows):
        print("  ", row["scale"], f"reaches {row['error']:.3f} with {row['evaluations']:.0f}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--photographs", type=Path, required=True, help="folder of images")
    add("--only", nargs="*", help="words that the files' names contain")
    add("--backgrounds", nargs="+", default=["mean"], help="as PatchMasker takes them")
    add("--grid", default="7x7")
    add("--budgets", type=int, nargs="+", default=[100, 200, 300, 500, 700, 1000, 2048])
    add("--shapiq-budgets", type=int, nargs="*", default=[2048])
    add("--reference", type=int, default=24576, help="evaluations of the truth")
    add("--seeds", type=int, default=3)
    results = Path(__file__).with_name("results")
    add("--out", type=Path, default=results / "photographs.json")
    a = parser.parse_args(arguments)
    result = measure(a)
    save(result, a.out)
    show(result["summary"])


if __name__ == "__main__":
    main()
