"""Our estimators of Shapley values beside those of the newest shapiq and of shap.

Complete tables of games give the truth. shapiq 1.8 needs Python 3.12, so that its side runs in an
interpreter of its own (``--peer-python``). See README.md beside this file.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import shap
from interactions import (
    HERE,
    Floats,
    Game,
    Row,
    check_truth,
    describe_peers,
    head,
    peer_rows,
    save,
    show,
    summary,
    tables_of,
)
from numpy.typing import NDArray

from xai_patchshap.estimators import Estimator, GaussianProcessShap, KernelShap

INDEX = "SV"
LEVEL = 0.9
QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)
SHAP = "shap.KernelExplainer"
SETTING = ("players", "scale", "budget")

# The one place that knows our interface.
OURS: dict[str, Callable[[int, int, int], Estimator]] = {
    "GaussianProcessShap": GaussianProcessShap,
    "GaussianProcessShap, leverage": lambda n, budget, seed: GaussianProcessShap(
        n, budget, seed, sampling="leverage"
    ),
    "KernelShap": KernelShap,
}


# ----- games and their true values --------------------------------------------------------


def true_sv(table: Floats) -> Floats:
    """Weighted sums of every player's contributions."""
    n = len(table).bit_length() - 1
    weight = np.array([1 / (n * math.comb(n - 1, size)) for size in range(n)])
    masks = np.arange(len(table))
    result = []
    for i in range(n):
        without = masks[(masks >> i & 1) == 0]
        gains = table[without | 1 << i] - table[without]
        result.append(gains @ weight[np.bitwise_count(without)])
    return np.array(result)


def brute_sv(table: Floats) -> Floats:
    """The mean contribution over all orders of the players; few players only."""
    n = len(table).bit_length() - 1
    if n > 6:  # too many orders: the definition, one coalition after the other
        return np.array([_by_coalitions(table, n, i) for i in range(n)])
    total = np.zeros(n)
    for order in itertools.permutations(range(n)):
        masks = list(itertools.accumulate((1 << i for i in order), initial=0))
        total[list(order)] += np.diff(table[masks])
    return total / math.factorial(n)


def _by_coalitions(table: Floats, n: int, i: int) -> float:
    others, total = [p for p in range(n) if p != i], 0.0
    for size in range(n):
        weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
        for members in itertools.combinations(others, size):
            mask = sum(1 << p for p in members)
            total += weight * (table[mask | 1 << i] - table[mask])
    return total


class ShapleyGame(Game):
    """A complete table of values and its Shapley values."""

    @cached_property
    def truth(self) -> dict[str, Floats]:
        return {INDEX: true_sv(self.table)}


def games_of(patterns: list[str]) -> list[ShapleyGame]:
    """The games of all files; what names them in the cache and the results must be unique."""
    paths = sorted({path for pattern in patterns for path in glob.glob(pattern)})
    games = [ShapleyGame(*found) for path in paths for found in tables_of(Path(path))]
    names = [(game.name, game.scale) for game in games]
    if not games or len(set(names)) < len(names):
        raise SystemExit(f"no games, or two of one name, in {' '.join(patterns)}")
    return games


# ----- our side, and shap's ---------------------------------------------------------------


def ours(game: ShapleyGame, name: str, budget: int, seed: int, design: dict[Any, float]) -> Row:
    """One run; the choice of coalitions is timed at the first game, later ones may find it done."""
    row: Row = {"estimator": name, "index": INDEX, "budget": budget, "seed": seed}
    start = time.perf_counter()
    try:
        estimator = OURS[name](game.n, budget, seed)
        coalitions = estimator.coalitions
        chosen = design.setdefault((name, game.n, budget, seed), time.perf_counter() - start)
        masks = coalitions @ (1 << np.arange(game.n))
        values = game.table[masks]
        start = time.perf_counter()
        found = estimator.estimate(values)
        row |= {"fit_seconds": time.perf_counter() - start, "design_seconds": chosen}
    except Exception as error:  # recorded like a peer's
        return row | {"error": f"{type(error).__name__}: {error}"[:300], "evaluations": 0}
    row["seconds"] = row["fit_seconds"] + chosen
    row |= {"evaluations": len(masks), "distinct": len(np.unique(masks))}
    phi, std = found.values[:, 0], found.error_std[:, 0]
    if len(masks) > budget or not np.isfinite(phi).all():
        return row | {"error": "more evaluations than the budget, or values that are not finite"}
    error = phi - game.truth[INDEX]
    # What is exact has an error of rounding.
    rounding = 1e-9 * np.abs(game.table).max()
    row["coverage"] = float(np.mean(np.abs(error) <= QUANTILE * std + rounding))
    if np.isfinite(std).all() and std.any():
        row["error_over_std"] = float(np.sqrt(np.mean(error**2) / np.mean(std**2)))
    return row | {"nmse": game.nmse(INDEX, phi)}


def shap_row(game: ShapleyGame, budget: int, seed: int) -> Row:
    """A run of KernelExplainer, whose nsamples leave out the empty and the full coalition."""
    asked: list[NDArray[np.int64]] = []

    def value(coalitions: Floats) -> Floats:
        asked.append((coalitions > 0) @ (1 << np.arange(game.n)))
        return game.table[asked[-1]]

    row: Row = {"estimator": SHAP, "index": INDEX, "budget": budget, "seed": seed}
    np.random.seed(seed)  # noqa: NPY002  (KernelExplainer draws from the global generator)
    start = time.perf_counter()
    try:
        explainer = shap.KernelExplainer(value, np.zeros((1, game.n)))
        phi = explainer.shap_values(np.ones(game.n), nsamples=budget - 2, l1_reg=False, silent=True)
    except Exception as error:
        return row | {"error": f"{type(error).__name__}: {error}"[:300]}
    row["seconds"] = time.perf_counter() - start
    # It may ask for the empty and the full coalition more than once, which costs it nothing here.
    masks = np.concatenate(asked)
    inner = (masks > 0) & (masks < len(game.table) - 1)
    row |= {"evaluations": int(inner.sum()) + 2, "distinct": len(np.unique(masks))}
    if row["evaluations"] > budget or not np.isfinite(phi).all():
        return row | {"error": "more evaluations than the budget, or values that are not finite"}
    return row | {"nmse": game.nmse(INDEX, np.asarray(phi, dtype=np.float64))}


def local_rows(
    args: argparse.Namespace, games: list[ShapleyGame]
) -> Iterator[tuple[ShapleyGame, Row]]:
    """Games in the innermost loop: those of a size share their coalitions."""
    design: dict[Any, float] = {}
    for name in args.estimators:
        OURS[name](8, 32, 0).estimate(np.arange(32.0) ** 2)  # warms up
    for budget, seed in itertools.product(args.budgets, range(args.seeds)):
        for name, game in itertools.product(args.estimators, games):
            if budget < len(game.table):
                yield game, ours(game, name, budget, seed, design)
        for game in games if args.shap else []:
            if budget < len(game.table):
                yield game, shap_row(game, budget, seed)
        print(f"budget {budget}, seed {seed}: done", flush=True)


# ----- accuracy ---------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> Row:
    games = games_of(args.games)
    described = describe_peers(args, [INDEX]) if args.peer_python else {"versions": {}, "peers": {}}
    result = head(described.pop("versions"), ["numba", "shap"])
    if hasattr(os, "sched_getaffinity"):
        result["environment"]["cpus_allowed"] = len(os.sched_getaffinity(0))
    result["settings"] = {
        "coverage": f"share of true values within their {LEVEL:.0%} interval",
        "error": "mean squared error over the players / variance of the true values",
        "games": sorted({game.name for game in games}),
        "seconds": "median; of ours, choosing the coalitions (design) included",
        "seeds": args.seeds,
        "slow_seeds": args.slow_seeds,
    }
    if args.peer_python:
        result["shapiq"] = described
        result["truth_check"] = check_truth(args, games, {INDEX: true_sv}, {INDEX: brute_sv})
    kinds = {name: peer["kind"] for name, peer in described["peers"].items()} | {SHAP: "shap"}
    cells: dict[tuple[Any, ...], list[Row]] = {}

    def record(game: ShapleyGame, row: Row) -> None:
        key = (game.n, game.scale, INDEX, row["budget"], row["estimator"])
        cells.setdefault(key, []).append(row | {"game": game.name})

    for game, row in local_rows(args, games):
        record(game, row)
    for game in games if args.peer_python else []:
        budgets = [budget for budget in args.budgets if budget < len(game.table)]
        for row in peer_rows(args, game, budgets, described["peers"], [INDEX]):
            record(game, row)
        print(f"{game.name}, {game.scale}: peers done", flush=True)
    result["summary"] = []
    for key, rows in sorted(cells.items()):
        row = summary(key, rows, kinds)
        good = [r for r in rows if "nmse" in r]
        if found := [r["coverage"] for r in good if "coverage" in r]:
            row["coverage"] = float(np.mean(found))
        for name in ("design_seconds", "fit_seconds"):
            if found := [r[name] for r in good if name in r]:
                row[name] = float(np.median(found))
        result["summary"].append(row)
    result["ratios"] = ratios(result["summary"])
    return result


def ratios(rows: list[Row]) -> list[Row]:
    """Errors of ours over those of the best peer; peers with failed runs do not compete.

    The ratio of games is the median of each game's own: over the peer that is best on that game.
    """
    result = []
    for row in rows:
        if row["kind"] != "ours" or "nmse" not in row:
            continue
        entry = {k: row[k] for k in ("estimator", *SETTING)}
        rivals = [
            r
            for r in rows
            if r["kind"] != "ours" and not r["failed"] and all(r[k] == row[k] for k in SETTING)
        ]
        for title, of in (("classical", {"classical", "shap"}), ("all", set())):
            found = [r for r in rivals if not of or r["kind"] in of]
            if not found:
                continue
            for statistic in ("nmse", "nmse_median"):
                best = min(found, key=lambda r: r[statistic])
                entry[f"{statistic}_over_best_{title}"] = row[statistic] / best[statistic]
                entry[f"{statistic}_over_best_{title}_of"] = best["estimator"]
            of_games = [
                error / min(r["nmse_of_games"][game] for r in found)
                for game, error in row["nmse_of_games"].items()
            ]
            entry[f"games_over_best_{title}"] = float(np.median(of_games))
        result.append(entry)
    return result


# ----- tables -----------------------------------------------------------------------------


def show_all(result: Row) -> None:
    rows = result["summary"]
    for players, scale in sorted({(r["players"], r["scale"]) for r in rows}):
        here = [r for r in rows if (r["players"], r["scale"]) == (players, scale)]
        quotients = [r for r in result["ratios"] if (r["players"], r["scale"]) == (players, scale)]
        budgets = sorted({r["budget"] for r in here})
        title = f"{players} players, {scale}"
        print(f"\n{title}: nMSE, mean (median) over games and seeds")
        grid(here, budgets, lambda r: f"{r['nmse']:.3g} ({r['nmse_median']:.3g})")
        for of in ("classical", "all"):
            for name, what in (
                (f"nmse_over_best_{of}", "mean"),
                (f"nmse_median_over_best_{of}", "median"),
                (f"games_over_best_{of}", "median of the games' own ratios"),
            ):
                if found := [r for r in quotients if name in r]:
                    print(f"\n{title}: ours / best of {of}, {what}")
                    grid(found, budgets, lambda r, name=name: f"{r[name]:.2f}")
        print(f"\n{title}: coverage of {LEVEL:.0%} intervals")
        grid([r for r in here if "coverage" in r], budgets, lambda r: f"{r['coverage']:.3f}")
        print(f"\n{title}: seconds of a run")
        grid([r for r in here if "seconds" in r], budgets, lambda r: f"{r['seconds']:.3g}")


def grid(rows: list[Row], budgets: list[int], text: Callable[[Row], str]) -> None:
    """Print a line for each estimator, a column for each budget."""
    cells = {(r["estimator"], r["budget"]): r for r in rows}
    names = dict.fromkeys([*OURS, SHAP, *sorted(r["estimator"] for r in rows)])
    table = [["", *map(str, budgets)]]
    for name in names:
        found = [cells.get((name, budget)) for budget in budgets]
        if any(found):
            table.append([name, *(_cell(r, text) for r in found)])
    show(table)


def _cell(row: Row | None, text: Callable[[Row], str]) -> str:
    if row is None:
        return "-"
    if row.get("failed") and "nmse" not in row:
        return "failed"
    failed = f" [{row['failed']}/{row['runs']} failed]" if row.get("failed") else ""
    return text(row) + failed


# ----- command line -----------------------------------------------------------------------


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--games", nargs="+", required=True, metavar="GLOB", help="npz files of complete tables")
    add("--budgets", type=int, nargs="+", default=[2**k for k in range(5, 12)])
    add("--seeds", type=int, default=3, help="seeds 0, 1, ... of every estimator")
    add("--estimators", nargs="*", default=list(OURS), choices=list(OURS), help="of ours")
    add("--shap", action=argparse.BooleanOptionalAction, default=True, help="run KernelExplainer")
    add("--peer-python", help="interpreter that has shapiq 1.8; without it, no peers of shapiq")
    add("--peers", nargs="+", help="only these; see SV_PEERS in _shapiq_peers.py")
    add("--slow-seeds", type=int, default=0, help="of the slow peers: none of them by default")
    add("--cache", type=Path, default=HERE / "cache" / "shapley_values", help="of peers")
    add("--out", type=Path, default=HERE / "results" / "shapley_values.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    result = measure(args)
    save(result, args.out)
    show_all(result)


if __name__ == "__main__":
    main()
