"""shapiq's side of two benchmarks: run by an interpreter that has numpy and shapiq, no more.

interactions.py and shapley_values.py start this file; what goes in is a table of values, what comes
out is JSON.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import platform
import time
import warnings
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import shapiq.approximator
from numpy.typing import NDArray
from shapiq.game_theory.exact import ExactComputer

Row = dict[str, Any]
PACKAGES = ("shapiq", "numpy", "scipy", "scikit-learn", "xgboost", "lightgbm", "sparse-transform")
PAIRED = {"pairing_trick": True}
FITTED: dict[tuple[str, bytes, bytes], Any] = {}  # the last grid search


@dataclass(frozen=True)
class Peer:
    """A class of shapiq.approximator with its options; slow ones may get fewer seeds."""

    approximator: str
    kind: str
    indices: tuple[str, ...]
    options: Row = field(default_factory=dict)
    slow: bool = False


SII, FSII, BOTH = ("k-SII",), ("FSII",), ("k-SII", "FSII")
# classical: sampling and regression, in shapiq since its first releases. newer: since 1.3.
PEERS = {
    "KernelSHAPIQ": Peer("KernelSHAPIQ", "classical", SII),
    "KernelSHAPIQ, paired": Peer("KernelSHAPIQ", "classical", SII, PAIRED),
    "InconsistentKernelSHAPIQ": Peer("InconsistentKernelSHAPIQ", "classical", SII),
    "InconsistentKernelSHAPIQ, paired": Peer("InconsistentKernelSHAPIQ", "classical", SII, PAIRED),
    "RegressionFSII": Peer("RegressionFSII", "classical", FSII),
    "RegressionFSII, paired": Peer("RegressionFSII", "classical", FSII, PAIRED),
    "SHAPIQ": Peer("SHAPIQ", "classical", BOTH),
    "SHAPIQ, paired": Peer("SHAPIQ", "classical", BOTH, PAIRED),
    "SVARMIQ": Peer("SVARMIQ", "classical", BOTH),
    "SVARMIQ, paired": Peer("SVARMIQ", "classical", BOTH, PAIRED),
    "PermutationSamplingSII": Peer("PermutationSamplingSII", "classical", SII),
    "PermutationSamplingSII, pairs only": Peer(
        "PermutationSamplingSII", "classical", SII, {"top_order": True}
    ),
    "SPEX": Peer("SPEX", "newer", BOTH, slow=True),
    "ProxySPEX": Peer("ProxySPEX", "newer", BOTH, slow=True),
    "ProxySPEX, no grid search": Peer("ProxySPEX", "newer", BOTH, {"hpo": False}),
    "ProxySHAP": Peer("ProxySHAP", "newer", BOTH),
    "ProxySHAP, adjusted": Peer("ProxySHAP", "newer", BOTH, {"adjustment": True}),
    "ProxySHAP, adjusted, 5 folds": Peer(
        "ProxySHAP", "newer", BOTH, {"adjustment": True, "k_folds": 5}
    ),
    "ProxySHAP, grid search": Peer("ProxySHAP", "newer", BOTH, {"hpo": True}),
    "ProxySHAP, LightGBM": Peer("ProxySHAP", "newer", BOTH, {"proxy_model": "lightgbm"}),
    "ProxySHAP, linear": Peer("ProxySHAP", "newer", BOTH, {"proxy_model": "linear"}),
    "ProxySHAP, linear, adjusted": Peer(
        "ProxySHAP", "newer", BOTH, {"proxy_model": "linear", "adjustment": True}
    ),
}
# Of the Shapley value. KernelSHAPIQ, RegressionFSII and PolySHAP of order 1 are KernelSHAP; options
# that have an order of their own (of the model that is fitted) name it.
SV = ("SV",)
CUBIC = PAIRED | {"max_order": 3}
SV_PEERS = {
    "KernelSHAP": Peer("KernelSHAP", "classical", SV),
    "KernelSHAP, paired": Peer("KernelSHAP", "classical", SV, PAIRED),
    "UnbiasedKernelSHAP": Peer("UnbiasedKernelSHAP", "classical", SV),
    "UnbiasedKernelSHAP, paired": Peer("UnbiasedKernelSHAP", "classical", SV, PAIRED),
    "kADDSHAP": Peer("kADDSHAP", "classical", SV, {"max_order": 2}),
    "kADDSHAP, paired": Peer("kADDSHAP", "classical", SV, PAIRED | {"max_order": 2}),
    "kADDSHAP, order 3, paired": Peer("kADDSHAP", "classical", SV, CUBIC),
    "PermutationSamplingSV": Peer("PermutationSamplingSV", "classical", SV),
    "StratifiedSamplingSV": Peer("StratifiedSamplingSV", "classical", SV),
    "OwenSamplingSV": Peer("OwenSamplingSV", "classical", SV),
    "SVARM": Peer("SVARM", "classical", SV),
    "SVARM, paired": Peer("SVARM", "classical", SV, PAIRED),
    "SVARMIQ": Peer("SVARMIQ", "classical", SV),
    "SVARMIQ, paired": Peer("SVARMIQ", "classical", SV, PAIRED),
    "SHAPIQ": Peer("SHAPIQ", "classical", SV),
    "SHAPIQ, paired": Peer("SHAPIQ", "classical", SV, PAIRED),
    "LeverageSHAP": Peer("LeverageSHAP", "newer", SV),
    "PolySHAP": Peer("PolySHAP", "newer", SV, {"max_order": 2}),
    "PolySHAP, paired": Peer("PolySHAP", "newer", SV, PAIRED | {"max_order": 2}),
    "PolySHAP, order 3, paired": Peer("PolySHAP", "newer", SV, CUBIC),
    "OddSHAP": Peer("OddSHAP", "newer", SV),
    "RegressionMSR": Peer("RegressionMSR", "newer", SV),
    "RegressionMSR, 5 folds": Peer("RegressionMSR", "newer", SV, {"k_folds": 5}),
    "RegressionMSR, LightGBM": Peer("RegressionMSR", "newer", SV, {"proxy_model": "lightgbm"}),
    "RegressionMSR, linear": Peer("RegressionMSR", "newer", SV, {"proxy_model": "linear"}),
    "ProxySHAP": Peer("ProxySHAP", "newer", SV),
    "ProxySHAP, adjusted": Peer("ProxySHAP", "newer", SV, {"adjustment": True}),
    "ProxySHAP, adjusted, 5 folds": Peer(
        "ProxySHAP", "newer", SV, {"adjustment": True, "k_folds": 5}
    ),
    "ProxySHAP, LightGBM": Peer("ProxySHAP", "newer", SV, {"proxy_model": "lightgbm"}),
    "ProxySPEX, no grid search": Peer("ProxySPEX", "newer", SV, {"hpo": False}),
    "ProxySHAP, grid search, adjusted": Peer(
        "ProxySHAP", "newer", SV, {"hpo": True, "adjustment": True}, slow=True
    ),
    "ProxySPEX": Peer("ProxySPEX", "newer", SV, slow=True),
    "SPEX": Peer("SPEX", "newer", SV, slow=True),
    "ShaplEIG": Peer("ShaplEIG", "newer", SV, {"show_progress": False}, slow=True),
}
# The slow one gets half of the evaluations.
SPEED = (
    ("KernelSHAPIQ", "k-SII", 1),
    ("RegressionFSII", "FSII", 1),
    ("SVARMIQ", "k-SII", 2),
    ("SVARMIQ", "FSII", 2),
)


class Table:
    """A game of known values that counts which coalitions it is asked for."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.values, self.n = values, len(values).bit_length() - 1
        self.asked: list[NDArray[np.int64]] = []

    def __call__(self, coalitions: NDArray[Any]) -> NDArray[np.float64]:
        rows = np.atleast_2d(np.asarray(coalitions)).astype(bool)
        self.asked.append(rows @ (1 << np.arange(self.n)))
        return self.values[self.asked[-1]]

    def evaluations(self) -> Row:
        masks = np.concatenate(self.asked or [np.zeros(0, dtype=np.int64)])
        return {"evaluations": len(masks), "distinct": len(np.unique(masks))}


class Synthetic:
    """A cheap smooth game, tanh of a quadratic form; counts its own seconds."""

    def __init__(self, linear: NDArray[np.float64], quadratic: NDArray[np.float64]) -> None:
        self.linear, self.quadratic, self.seconds = linear, quadratic, 0.0

    def __call__(self, coalitions: NDArray[Any]) -> NDArray[np.float64]:
        start = time.perf_counter()
        x = np.atleast_2d(np.asarray(coalitions)).astype(np.float64)
        values = np.tanh(x @ self.linear + ((x @ self.quadratic) * x).sum(axis=1))
        self.seconds += time.perf_counter() - start
        return values


def peers_of(index: str) -> dict[str, Peer]:
    return SV_PEERS if index == "SV" else PEERS


def order_of(index: str) -> int:
    return 1 if index == "SV" else 2


def approximator(name: str, n: int, index: str, seed: int) -> Any:
    peer = peers_of(index)[name]
    np.random.seed(seed)  # noqa: NPY002  (SPEX draws from the global generator)
    kind = getattr(shapiq.approximator, peer.approximator)
    known = inspect.signature(kind.__init__).parameters
    options = {"index": index, "max_order": order_of(index)}  # not every class has a choice
    options = {k: v for k, v in options.items() if k in known} | peer.options
    return kind(n=n, random_state=seed, **options)


def values_of(result: Any, n: int, order: int) -> list[float]:
    """Values of one order as combinations list them; interactions that are not listed are 0."""
    values = {tuple(sorted(map(int, members))): v for members, v in result.dict_values.items()}
    return [float(values.get(members, 0.0)) for members in itertools.combinations(range(n), order)]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def fitted_once(model: Any) -> None:
    """Let a grid search fit the same coalitions of two indices once only: it takes minutes."""
    search = model.fit

    def fit(x: NDArray[Any], y: NDArray[Any]) -> None:
        key = (repr(model), x.tobytes(), y.tobytes())
        if key not in FITTED:
            FITTED.clear()
            FITTED[key] = search(x, y).best_estimator_
        model.best_estimator_ = FITTED[key]

    model.fit = fit


def run(name: str, index: str, budget: int, seed: int, values: NDArray[np.float64]) -> Row:
    game, order = Table(values), order_of(index)
    field = "players" if order == 1 else "pairs"
    row: Row = {"estimator": name, "index": index, "budget": budget, "seed": seed}
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = approximator(name, game.n, index, seed)
            if hasattr(getattr(peer, "proxy_model", None), "param_grid"):
                fitted_once(peer.proxy_model)
            row[field] = values_of(peer.approximate(budget, game), game.n, order)
    except Exception as error:  # whatever a peer raises is a result about it
        row["error"] = f"{type(error).__name__}: {error}"[:300]
    row |= {"seconds": time.perf_counter() - start} | game.evaluations()
    if field in row and not np.isfinite(row[field]).all():
        del row[field]
        row["error"] = "values that are not finite"
    elif row["evaluations"] > budget:
        row.pop(field, None)
        row["error"] = f"{row['evaluations']} evaluations, more than the budget"
    return row


def supports(kind: type, index: str) -> str:
    """Say "pairs" or "players" if an approximator gives them for an index, otherwise why not."""
    order = order_of(index)
    options: Row = {"n": 6, "random_state": 0, "max_order": order, "index": index}
    known = inspect.signature(kind.__init__).parameters
    if "index" not in known and index not in getattr(kind, "valid_indices", ()):
        return f"no: {' '.join(getattr(kind, 'valid_indices', ()))} only"
    if "max_order" not in known and order > 1:
        return "no: values of single players only"
    try:
        made = kind(**{k: v for k, v in options.items() if k in known})
    except Exception as error:
        return f"no: {type(error).__name__}: {error}"[:120]
    try:
        values = np.random.default_rng(0).normal(size=64)
        found = made.approximate(60, Table(values)).dict_values
    except Exception as error:
        return f"accepted, then {type(error).__name__}: {error}"[:160]
    field = ("players", "pairs")[order - 1]
    some = any(len(i) == order for i in found)
    return field if some else f"accepted, no {field} found in a tiny game"


def describe(indices: list[str]) -> Row:
    """Versions, options and, of every approximator, which of the indices it supports."""
    found = [getattr(shapiq.approximator, name) for name in shapiq.approximator.__all__]
    classes = [kind for kind in found if isinstance(kind, type) and kind.__name__ != "Approximator"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = {kind.__name__: {i: supports(kind, i) for i in indices} for kind in classes}
    known = {name: peer for i in indices for name, peer in peers_of(i).items()}
    used = {(peer.approximator, index) for peer in known.values() for index in peer.indices}
    missing = [
        (name, index)
        for name, row in table.items()
        for index, answer in row.items()
        if not answer.startswith("no") and (name, index) not in used
    ]
    peers = {name: asdict(peer) for name, peer in known.items()}
    return {"versions": versions(), "supports": table, "peers": peers, "not_run": missing}


def accuracy(args: argparse.Namespace) -> None:
    """Append a line to the JSON lines file for every run that it does not hold yet."""
    values = np.load(args.table)["table"]
    # What an earlier run must share with this one, first line of the file.
    head = {"versions": versions(), "checksum": float(np.abs(values).sum())}
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    if not lines or json.loads(lines[0]) != head:
        args.out.write_text(json.dumps(head) + "\n")
        lines = []
    rows = [json.loads(line) for line in lines[1:]]
    done = {(r["estimator"], r["index"], r["budget"], r["seed"]) for r in rows}
    names = args.peers or list(dict.fromkeys(name for i in args.indices for name in peers_of(i)))
    plan = itertools.product(range(args.seeds), args.budgets, names, args.indices)
    with args.out.open("a") as out:
        for seed, budget, name, index in plan:
            peer = peers_of(index).get(name)
            wanted = peer is not None and index in peer.indices
            wanted = wanted and (seed < args.slow_seeds or not peer.slow)
            if wanted and (name, index, budget, seed) not in done:
                out.write(json.dumps(run(name, index, budget, seed, values)) + "\n")
                out.flush()


def exact(args: argparse.Namespace) -> None:
    """Values of shapiq's ExactComputer, to compare our own with."""
    result: Row = {}
    for name, values in np.load(args.table).items():
        n = len(values).bit_length() - 1
        computer = ExactComputer(n_players=n, game=Table(values))
        orders = {i: order_of(i) for i in args.indices}
        result[name] = {i: values_of(computer(i, k), n, k) for i, k in orders.items()}
    args.out.write_text(json.dumps(result))


def speed(args: argparse.Namespace) -> None:
    game = dict(np.load(args.table))
    n = len(game["linear"])
    rows = []
    for name, index, divisor in SPEED:
        few = Synthetic(game["linear"][:8], game["quadratic"][:8, :8])
        approximator(name, 8, index, 0).approximate(64, few)  # warms up
        row: Row = {"estimator": name, "index": index, "budget": args.budgets[0] // divisor}
        row |= {"seconds": [], "cpu_seconds": []}
        for repeat in range(args.seeds):
            synthetic = Synthetic(**game)
            wall, cpu = time.perf_counter(), time.process_time()
            approximator(name, n, index, repeat).approximate(row["budget"], synthetic)
            row["seconds"].append(time.perf_counter() - wall - synthetic.seconds)
            row["cpu_seconds"].append(time.process_time() - cpu - synthetic.seconds)
        rows.append(row)
    args.out.write_text(json.dumps({"versions": versions(), "rows": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["describe", "accuracy", "exact", "speed"])
    parser.add_argument("--table", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", type=int, nargs="+")
    parser.add_argument("--indices", nargs="+", default=list(BOTH))
    parser.add_argument("--seeds", type=int, default=1, help="or repeats, of speed")
    parser.add_argument("--slow-seeds", type=int, default=1)
    parser.add_argument("--peers", nargs="*", choices=[*PEERS, *SV_PEERS])
    args = parser.parse_args()
    if args.what == "describe":
        args.out.write_text(json.dumps(describe(args.indices)))
    else:
        {"accuracy": accuracy, "exact": exact, "speed": speed}[args.what](args)


if __name__ == "__main__":
    main()
