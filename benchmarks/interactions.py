"""Our estimators of pairwise interactions beside every approximator of the newest shapiq.

Complete tables of real patch games give the truth. shapiq 1.8 needs Python 3.12, so that its
side runs in an interpreter of its own (``--peer-python``). See README.md beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import xai_patchshap
from xai_patchshap import estimators

HERE = Path(__file__).parent
INDICES = ("k-SII", "FSII")
TIMED = ("SII", "k-SII", "FSII", "FBII")
OURS = ("auto", "gaussian-process", "regression")  # "auto" is the second
ZEROS = "all zeros"
SMALL = 10  # players up to which a game gets --small-budgets
TOLERANCE = 1e-6  # of shapiq's ExactComputer, whose FSII puts weights of 1e8 on two rows

Floats = NDArray[np.float64]
Row = dict[str, Any]
Values = Mapping[str, Callable[[Floats], Floats]]


# ----- games and their true interactions --------------------------------------------------


def discrete_derivatives(table: Floats, i: int, j: int) -> tuple[Floats, NDArray[np.int64]]:
    """Joint effect of two players on every coalition without them, and its size."""
    masks = np.arange(len(table))
    a, b = 1 << i, 1 << j
    without = masks[(masks & (a | b)) == 0]
    effects = table[without | a | b] - table[without | a] - table[without | b] + table[without]
    return effects, np.bitwise_count(without).astype(np.int64)


def true_sii(table: Floats) -> Floats:
    """SII of all pairs, which is their k-SII of order 2 as well."""
    n = len(table).bit_length() - 1
    weight = np.array([1 / ((n - 1) * math.comb(n - 2, t)) for t in range(n - 1)])
    found = [discrete_derivatives(table, *pair) for pair in itertools.combinations(range(n), 2)]
    return np.array([effects @ weight[sizes] for effects, sizes in found])


def true_fsii(table: Floats) -> Floats:
    """FSII of order 2 of all pairs, from the Moebius transform (Faith-Shap, top order)."""
    n = len(table).bit_length() - 1
    moebius = table.copy()
    for i in range(n):
        halves = moebius.reshape(-1, 2, 1 << i)
        halves[:, 1] -= halves[:, 0]
    above = [math.comb(t - 1, 2) / math.comb(t + 1, 4) / 2 for t in range(3, n + 1)]
    masks = np.arange(len(table))
    weighted = moebius * np.array([0, 0, 1, *above])[np.bitwise_count(masks)]
    pairs = ((1 << i) | (1 << j) for i, j in itertools.combinations(range(n), 2))
    return np.array([weighted[(masks & pair) == pair].sum() for pair in pairs])


TRUE = {"k-SII": true_sii, "FSII": true_fsii}


def brute_sii(table: Floats) -> Floats:
    """The definition, one coalition after the other."""
    n = len(table).bit_length() - 1
    result = []
    for i, j in itertools.combinations(range(n), 2):
        others = [p for p in range(n) if p not in (i, j)]
        total = 0.0
        for size in range(n - 1):
            weight = math.factorial(size) * math.factorial(n - size - 2) / math.factorial(n - 1)
            for members in itertools.combinations(others, size):
                mask, a, b = sum(1 << p for p in members), 1 << i, 1 << j
                effect = table[mask | a | b] - table[mask | a] - table[mask | b] + table[mask]
                total += weight * effect
        result.append(total)
    return np.array(result)


def brute_fsii(table: Floats) -> Floats:
    """The definition: a least-squares fit of order 2, exact on the empty and full coalition."""
    n = len(table).bit_length() - 1
    members = (np.arange(len(table))[:, None] >> np.arange(n)) & 1
    terms = [s for size in range(3) for s in itertools.combinations(range(n), size)]
    design = np.stack([members[:, list(s)].all(axis=1) for s in terms], axis=1).astype(float)
    size = members.sum(axis=1)
    inner = (size > 0) & (size < n)
    weight = np.array([1 / (math.comb(n, t) * t * (n - t)) for t in size[inner]])
    gram = design[inner].T @ (weight[:, None] * design[inner])
    borders = design[[0, -1]]
    system = np.block([[gram, borders.T], [borders, np.zeros((2, 2))]])
    target = np.concatenate([design[inner].T @ (weight * table[inner]), table[[0, -1]]])
    return np.linalg.solve(system, target)[1 + n : len(terms)]


BRUTE = {"k-SII": brute_sii, "FSII": brute_fsii}


@dataclass(frozen=True)
class Game:
    """A complete table of values and its true interactions."""

    name: str
    scale: str
    table: Floats

    @property
    def n(self) -> int:
        return len(self.table).bit_length() - 1

    @cached_property
    def truth(self) -> dict[str, Floats]:
        return {index: TRUE[index](self.table) for index in INDICES}

    def nmse(self, index: str, values: Floats) -> float:
        """Mean squared error of an index, divided by the variance of its true values."""
        truth = self.truth[index]
        return float(np.mean((values - truth) ** 2) / truth.var())


def tables_of(path: Path) -> Iterator[tuple[str, str, Floats]]:
    """Name, scale and table of every game in a file."""
    file = np.load(path)
    for scale in ("prob", "logit"):
        tables = np.atleast_2d(file[scale]).astype(np.float64)
        names = [path.stem, *(f"{path.stem}_{k}" for k in range(len(tables)))]
        for name, table in zip(names[len(tables) > 1 :], tables, strict=False):
            yield name, scale, table


def games_of(folder: Path) -> list[Game]:
    return [Game(*found) for path in sorted(folder.glob("games*.npz")) for found in tables_of(path)]


# ----- our side: the one place that knows our interface -----------------------------------


def our_run(
    name: str, index: str, n: int, budget: int, seed: int, value: Callable[[Any], Floats]
) -> tuple[Floats, Floats, int]:
    """Pairwise values, their standard errors and the number of evaluations of one run."""
    estimator = estimators.interaction_estimator(
        n, budget, index=index, order=2, estimator=name, seed=seed
    )
    coalitions = estimator.coalitions
    result = estimator.estimate(value(coalitions))
    return result.values[1][:, 0], result.error_std[1][:, 0], len(coalitions)


def ours(game: Game, name: str, index: str, budget: int, seed: int) -> Row:
    asked: list[NDArray[np.int64]] = []

    def value(coalitions: NDArray[np.bool_]) -> Floats:
        asked.append(coalitions @ (1 << np.arange(game.n)))
        return game.table[asked[-1]]

    row: Row = {"estimator": name, "index": index, "budget": budget, "seed": seed}
    start = time.perf_counter()
    try:
        pairs, std, row["evaluations"] = our_run(name, index, game.n, budget, seed, value)
    except Exception as error:  # recorded like a peer's
        return row | {"error": f"{type(error).__name__}: {error}"[:300], "evaluations": 0}
    row["seconds"] = time.perf_counter() - start
    row["distinct"] = len(np.unique(np.concatenate(asked)))
    if row["evaluations"] > budget or not np.isfinite(pairs).all():
        return row | {"error": "more evaluations than the budget, or values that are not finite"}
    error = pairs - game.truth[index]
    if np.isfinite(std).all() and std.any():
        row["error_over_std"] = float(np.sqrt(np.mean(error**2) / np.mean(std**2)))
    return row | {"nmse": game.nmse(index, pairs)}


# ----- their side -------------------------------------------------------------------------


def peers(args: argparse.Namespace, what: str, out: Path, *options: Any) -> None:
    """Run _shapiq_peers.py with the other interpreter; it writes ``out``."""
    command = [args.peer_python, HERE / "_shapiq_peers.py", what, "--out", out, *options]
    # LightGBM writes a line for every tree.
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


def describe_peers(args: argparse.Namespace, indices: Iterable[str] = INDICES) -> Row:
    """Versions and options of shapiq's approximators, and what each supports."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "describe.json")
        peers(args, "describe", out, "--indices", *indices)
        described: Row = json.loads(out.read_text())
    return described


def check_truth(
    args: argparse.Namespace, games: Sequence[Game], true: Values = TRUE, brute: Values = BRUTE
) -> Row:
    """Compare our truth with the definitions and with shapiq's ExactComputer; raise if it differs.

    On three random games of 6 players and on the small ones of the benchmark.
    """
    rng = np.random.default_rng(0)
    checked = {f"random_{k}": rng.normal(size=64) for k in range(3)}
    checked |= {f"{g.name}_{g.scale}": g.table for g in games if g.n <= SMALL}
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder, "tables.npz"), Path(folder, "exact.json")
        np.savez(table, **checked)
        peers(args, "exact", out, "--table", table, "--indices", *true)
        exact = json.loads(out.read_text())
    worst = {"definition": 0.0, "shapiq.ExactComputer": 0.0}
    for name, index in itertools.product(checked, true):
        truth = true[index](checked[name])
        others = {"definition": brute[index](checked[name])}
        others["shapiq.ExactComputer"] = np.array(exact[name][index])
        for kind, other in others.items():
            difference = float(np.abs(other - truth).max() / truth.std())
            worst[kind] = max(worst[kind], difference)
            if difference > TOLERANCE:
                raise AssertionError(f"{index} of {name}: {kind} differs by {difference:.2g}")
    return {"largest_difference_over_std": worst, "games": list(checked)}


def peer_rows(
    args: argparse.Namespace,
    game: Game,
    budgets: list[int],
    known: dict[str, Row],
    indices: Iterable[str] = INDICES,
) -> list[Row]:
    """Every run of every approximator on one game; those of an earlier start are kept."""
    args.cache.mkdir(parents=True, exist_ok=True)
    if args.cache.is_relative_to(HERE):
        (args.cache / ".gitignore").write_text("*\n")
    table = args.cache / f"{game.name}_{game.scale}.npz"
    out = table.with_suffix(".jsonl")
    np.savez(table, table=game.table)
    options = ["--table", table, "--seeds", args.seeds, "--slow-seeds", args.slow_seeds]
    options += ["--budgets", *budgets, "--indices", *indices]
    options += ["--peers", *args.peers] if args.peers is not None else []
    peers(args, "accuracy", out, *options)
    rows = [json.loads(line) for line in out.read_text().splitlines()[1:]]
    seeds = {name: args.slow_seeds if peer["slow"] else args.seeds for name, peer in known.items()}
    wanted = args.peers or list(known)
    rows = [r for r in rows if r["estimator"] in wanted and r["budget"] in budgets]
    rows = [r for r in rows if r["seed"] < min(args.seeds, seeds[r["estimator"]])]
    for row in rows:
        for field in row.keys() & {"pairs", "players"}:
            row["nmse"] = game.nmse(row["index"], np.array(row.pop(field)))
    return rows


# ----- accuracy ---------------------------------------------------------------------------


def accuracy(args: argparse.Namespace) -> Row:
    games = games_of(args.games)
    if not games:
        raise SystemExit(f"no games*.npz in {args.games}")
    described = describe_peers(args)
    result = head(described.pop("versions"))
    result["settings"] = {
        "error": "mean squared error over the pairs / variance of the true values, order 2",
        "games": sorted({game.name for game in games}),
        "seeds": args.seeds,
        "slow_seeds": args.slow_seeds,
    }
    result["shapiq"] = described
    result["truth_check"] = check_truth(args, games)
    kinds = {name: peer["kind"] for name, peer in described["peers"].items()}
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for game in games:
        budgets = args.small_budgets if game.n <= SMALL else args.budgets
        rows = peer_rows(args, game, budgets, described["peers"])
        plan = itertools.product(INDICES, budgets, range(args.seeds))
        for index, budget, seed in plan:
            rows += [ours(game, name, index, budget, seed) for name in args.estimators]
        for index, budget in itertools.product(INDICES, budgets):
            zero = game.nmse(index, np.zeros_like(game.truth[index]))
            rows.append({"estimator": ZEROS, "index": index, "budget": budget, "nmse": zero})
        for row in rows:
            key = (game.n, game.scale, row["index"], row["budget"], row["estimator"])
            cells.setdefault(key, []).append(row | {"game": game.name})
        print(f"{game.name}, {game.scale}: done", flush=True)
    result["summary"] = [summary(key, rows, kinds) for key, rows in sorted(cells.items())]
    result["ratios"] = ratios(result["summary"])
    return result


def summary(key: tuple[Any, ...], rows: list[Row], kinds: dict[str, str]) -> Row:
    row: Row = dict(zip(("players", "scale", "index", "budget", "estimator"), key, strict=True))
    row["kind"] = kinds.get(row["estimator"], "none" if row["estimator"] == ZEROS else "ours")
    good = [r for r in rows if "nmse" in r]
    row |= {"runs": len(rows), "failed": len(rows) - len(good)}
    if errors := sorted({r["error"] for r in rows if "error" in r}):
        row["errors"] = errors
    if good:
        nmse = np.array([r["nmse"] for r in good])
        names = sorted({r["game"] for r in good})
        row |= {"nmse": nmse.mean(), "nmse_median": np.median(nmse)}
        row["nmse_of_games"] = {g: nmse[[r["game"] == g for r in good]].mean() for g in names}
    for name in ("evaluations", "distinct", "seconds", "error_over_std"):
        if found := [r[name] for r in good if name in r]:
            row[name] = float(np.median(found))
    if "evaluations" in row:
        row["evaluations_max"] = max(r["evaluations"] for r in good)
    return row


def ratios(rows: list[Row]) -> list[Row]:
    """Mean error of our default over that of the best peer; peers that failed do not compete."""

    def setting(row: Row) -> tuple[Any, ...]:
        return tuple(row[k] for k in ("players", "scale", "index", "budget"))

    result = []
    for row in rows:
        if row["estimator"] != "auto" or "nmse" not in row:
            continue
        entry = {k: row[k] for k in ("players", "scale", "index", "budget")}
        rivals = [r for r in rows if setting(r) == setting(row) and not r["failed"]]
        for title, of in (("classical", {"classical"}), ("all", {"classical", "newer"})):
            for statistic in ("nmse", "nmse_median"):
                found = [r for r in rivals if r["kind"] in of]
                if found:
                    best = min(found, key=lambda r: r[statistic])
                    name = f"{statistic}_over_best_{title}"
                    entry[name] = row[statistic] / best[statistic]
                    entry[f"{name}_of"] = best["estimator"]
        result.append(entry)
    return result


def show_accuracy(result: Row) -> None:
    rows = result["summary"]
    order = [*OURS, *result["shapiq"]["peers"], ZEROS]
    for group in sorted({(r["players"], r["scale"], r["index"]) for r in rows}):
        here = [r for r in rows if (r["players"], r["scale"], r["index"]) == group]
        budgets = sorted({r["budget"] for r in here})
        cells = {(r["estimator"], r["budget"]): r for r in here}
        print(f"\n{group[0]} players, {group[1]}, {group[2]}: nMSE of the pairs, mean (median)")
        table = [["", "", *map(str, budgets)]]
        for name in order:
            found = [cells.get((name, budget)) for budget in budgets]
            if any(found):
                kind = next(r["kind"] for r in found if r)
                table.append([name, kind, *(cell(r) for r in found)])
        for title in ("classical", "all"):
            key = f"nmse_over_best_{title}"
            line = [f"auto / best of {title}", "ratio"]
            for budget in budgets:
                setting = dict(zip(("players", "scale", "index"), group, strict=True))
                wanted = (setting | {"budget": budget}).items()
                entry = next((e for e in result["ratios"] if wanted <= e.items()), {})
                line.append(f"{entry[key]:.2f}" if key in entry else "-")
            table.append(line)
        show(table)


def cell(row: Row | None) -> str:
    if row is None:
        return "-"
    failed = f" [{row['failed']}/{row['runs']} failed]" if row["failed"] else ""
    if "nmse" not in row:
        return "failed"
    return f"{row['nmse']:.3g} ({row['nmse_median']:.3g}){failed}"


# ----- speed ------------------------------------------------------------------------------


class Synthetic:
    """A cheap smooth game, tanh of a quadratic form; counts its own seconds."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(0)
        self.linear = rng.normal(size=n) / math.sqrt(n)
        self.quadratic = np.triu(rng.normal(size=(n, n)), 1) / n
        self.seconds = 0.0

    def __call__(self, coalitions: NDArray[np.bool_]) -> Floats:
        start = time.perf_counter()
        x = coalitions.astype(np.float64)
        values = np.tanh(x @ self.linear + ((x @ self.quadratic) * x).sum(axis=1))
        self.seconds += time.perf_counter() - start
        return values


def our_seconds(name: str, index: str, n: int, budget: int, repeats: int) -> Row:
    """Seconds outside the game, from the construction to the estimate."""
    our_run(name, index, 8, 64, 0, Synthetic(8))  # warms up
    row: Row = {"estimator": name, "index": index, "budget": budget}
    row |= {"seconds": [], "cpu_seconds": []}
    for repeat in range(repeats):
        game = Synthetic(n)
        wall, cpu = time.perf_counter(), time.process_time()
        our_run(name, index, n, budget, repeat, game)
        row["seconds"].append(time.perf_counter() - wall - game.seconds)
        row["cpu_seconds"].append(time.process_time() - cpu - game.seconds)
    return row


def our_speed(args: argparse.Namespace) -> Iterator[Row]:
    plan = itertools.product((args.budget, args.budget // 2), TIMED, args.estimators)
    for budget, index, name in plan:
        yield our_seconds(name, index, args.players, budget, args.repeats)


def speed(args: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder, "game.npz"), Path(folder, "speed.json")
        game = Synthetic(args.players)
        np.savez(table, linear=game.linear, quadratic=game.quadratic)
        peers(
            args, "speed", out, "--table", table, "--budgets", args.budget, "--seeds", args.repeats
        )
        found = json.loads(out.read_text())
    result = head(found["versions"])
    result["settings"] = {
        "players": args.players,
        "repeats": args.repeats,
        "seconds": "outside the game, median; the game is a tanh of a quadratic form",
    }
    theirs = [row | {"kind": "shapiq"} for row in found["rows"]]
    rows = [row | {"kind": "ours"} for row in our_speed(args)] + theirs
    for row in rows:
        row |= {f"{k}_of_repeats": row[k] for k in ("seconds", "cpu_seconds")}
        row |= {k: float(np.median(row[k])) for k in ("seconds", "cpu_seconds")}
    for row, peer in itertools.product(rows, theirs):
        same = row["index"] == peer["index"] and row["budget"] == peer["budget"]
        if row["kind"] == "ours" and same:
            row["over"] = peer["estimator"]
            row["ratio"] = row["seconds"] / peer["seconds"]
            row["cpu_ratio"] = row["cpu_seconds"] / peer["cpu_seconds"]
    return result | {"summary": rows}


def show_speed(result: Row) -> None:
    table = [["", "index", "budget", "seconds", "cpu seconds", "ratio", "cpu ratio", "to"]]
    for row in result["summary"]:
        columns = ("seconds", "cpu_seconds", "ratio", "cpu_ratio")
        numbers = [f"{row[k]:.3g}" if k in row else "" for k in columns]
        name = row["estimator"] if row["kind"] == "ours" else f"shapiq.{row['estimator']}"
        table.append([name, row["index"], str(row["budget"]), *numbers, row.get("over", "")])
    show(table)


# ----- results and command line -----------------------------------------------------------


def head(peer_versions: dict[str, str], others: Sequence[str] = ()) -> Row:
    versions = {name: version(name) for name in ("numpy", "scipy", *others)}
    versions |= {"python": platform.python_version(), "xai_patchshap": xai_patchshap.__version__}
    return {
        "environment": {
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
            "peer_versions": peer_versions,
            "versions": versions,
        },
    }


def rounded(value: Any) -> Any:
    """Keep four significant digits, so that the files of two runs compare well."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def save(result: Row, path: Path) -> None:
    """Write sorted JSON, a line for each entry of the long lists."""
    lists = [name for name in ("ratios", "summary") if name in result]
    text = json.dumps(rounded(result | dict.fromkeys(lists, "")), indent=2, sort_keys=True)
    for name in lists:
        rows = [json.dumps(rounded(r), sort_keys=True) for r in result[name]]
        text = text.replace(f'"{name}": ""', f'"{name}": [\n' + ",\n".join(rows) + "\n]")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(text + "\n")
    partial.replace(path)


def show(table: list[list[str]]) -> None:
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    for line in table:
        cells = [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells]))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    results = HERE / "results"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("accuracy", "speed"):
        sub = commands.add_parser(name)
        sub.add_argument("--peer-python", required=True, help="interpreter that has shapiq 1.8")
        default = ["auto", "regression"]
        sub.add_argument("--estimators", nargs="*", default=default, choices=OURS, help="of ours")
        sub.add_argument("--out", type=Path, default=results / f"interactions_{name}.json")
    sub = commands.choices["accuracy"]
    sub.add_argument("--games", type=Path, required=True, help="folder of games*.npz")
    sub.add_argument("--budgets", type=int, nargs="+", default=[128, 256, 512, 1024, 2048])
    sub.add_argument("--small-budgets", type=int, nargs="+", default=[50, 128, 256])
    sub.add_argument("--seeds", type=int, default=10, help="seeds 0, 1, ... of every estimator")
    sub.add_argument("--slow-seeds", type=int, default=2, help="of the slow peers")
    sub.add_argument("--peers", nargs="+", help="only these; see PEERS in _shapiq_peers.py")
    sub.add_argument("--cache", type=Path, default=HERE / "cache" / "interactions", help="of peers")
    sub = commands.choices["speed"]
    sub.add_argument("--players", type=int, default=49)
    sub.add_argument("--budget", type=int, default=2000, help="half of it for slow peers")
    sub.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    if args.command == "accuracy":
        result = accuracy(args)
        save(result, args.out)
        show_accuracy(result)
    else:
        result = speed(args)
        save(result, args.out)
        show_speed(result)


if __name__ == "__main__":
    main()
