"""PatchKernelShap beside DIANNA's KernelSHAP on ONNX models: seconds, memory, deletion.

Binary MNIST with 200 superpixels and 1,000 evaluations, and a random network of 100 outputs on
224x224 pixels with 50 superpixels and 500 evaluations; two labels, the same superpixels for
both. DIANNA runs in an interpreter of its own (``pip install dianna==1.8.1``). See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
OURS, THEIRS = "PatchKernelShap", "DIANNA KernelSHAP"
LABELS = (0, 1)
DIGITS_TASK = {"segments": 200, "evaluations": 1000}
LARGE_TASK = {"segments": 50, "evaluations": 500}
LARGE_SIDE, LARGE_OUTPUTS = 224, 100
N_DELETED = 10
PACKAGES = {
    OURS: ("xai-patchshap", "numpy", "onnxruntime", "scikit-image", "shap", "torch"),
    THEIRS: ("dianna", "numpy", "onnxruntime", "scikit-image", "shap"),
}

Floats = NDArray[np.float64]
Row = dict[str, Any]


# ----- the workers: one process each, one line of JSON for each explanation ---------------


def superpixels(image: Any, n_segments: int) -> NDArray[np.int64]:
    """DIANNA's superpixels, numbered from 0 and not from 1."""
    from skimage.segmentation import slic

    labels = slic(np.asarray(image), n_segments, compactness=10.0, sigma=0, start_label=0)
    return np.asarray(labels, dtype=np.int64)


class OurWorker:
    """Explains by this package."""

    def __init__(self) -> None:
        from xai_patchshap import OnnxModel, PatchKernelShap, PatchMasker

        self.explainer, self.masker, self.load = PatchKernelShap, PatchMasker, OnnxModel

    def explain(self, path: str, image: Floats, segments: int, evaluations: int) -> Row:
        # The session is made anew and the image cut anew each time, as in DIANNA.
        masker = self.masker(lambda x: superpixels(x, segments), 0.0, "NHWC")
        explainer = self.explainer(self.load(path), masker, estimator="kernel-shap")
        explanation = explainer.explain_players(
            image[None], max_evals=evaluations, outputs=list(LABELS), silent=True
        )
        run = explainer.last_run
        return {"values": explanation.values[0], "evaluations": int(np.sum(run.evaluations))}


class TheirWorker:
    """Explains by DIANNA."""

    def __init__(self) -> None:
        import dianna
        import onnxruntime
        from dianna.methods.kernelshap_image import KERNELSHAPImage

        self.module, self.rows = dianna, 0
        runner = KERNELSHAPImage._runner

        def counted(explainer: Any, features: Any) -> Any:
            self.rows += len(features)
            return runner(explainer, features)

        KERNELSHAPImage._runner = counted
        # As many threads as the other side has.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
        session = onnxruntime.InferenceSession
        onnxruntime.InferenceSession = lambda model: session(model, options)

    def explain(self, path: str, image: Floats, segments: int, evaluations: int) -> Row:
        np.random.seed(0)  # noqa: NPY002  (shap draws from the global generator)
        self.rows = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maps = self.module.explain_image(
                path,
                image,
                "KernelSHAP",
                LABELS,
                nsamples=evaluations,
                background=0,
                n_segments=segments,
            )
        return {"maps": maps, "evaluations": self.rows}


def peak_mib(field: str) -> float:
    """Memory of this process. Not ``ru_maxrss``, which a process inherits from its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def serve(method: str) -> None:
    """Answer requests from standard input until it ends (hidden option)."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    worker = OurWorker() if method == OURS else TheirWorker()
    versions = {name: version(name) for name in PACKAGES[method]}
    print(json.dumps({**versions, "python": platform.python_version()}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        image = np.load(task["image"])
        before = peak_mib("VmRSS")
        start = time.perf_counter()
        answer = worker.explain(task["model"], image, task["segments"], task["evaluations"])
        seconds = time.perf_counter() - start
        answer |= {"seconds": seconds, "peak_mib": peak_mib("VmHWM"), "loaded_mib": before}
        labels = superpixels(image, task["segments"])
        if "maps" in answer:  # one value for each superpixel, as painted
            first = np.unique(labels, return_index=True)[1]
            answer["values"] = answer.pop("maps").reshape(len(LABELS), -1)[:, first].T
        answer |= {"values": np.asarray(answer["values"]).tolist(), "labels": labels.tolist()}
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """A process that explains."""

    def __init__(self, method: str, interpreter: str, folder: Path) -> None:
        self.folder, self.method = folder, method
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        self.process = subprocess.Popen(
            [interpreter, __file__, "--serve", method],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.versions = self._answer()

    def _answer(self) -> Row:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.method}: its process ended; run the script with --serve to see why")
        answer: Row = json.loads(line)
        return answer

    def explain(self, model: Path, image: NDArray[Any], task: Row) -> Row:
        path = self.folder / f"{os.getpid()}.npy"
        np.save(path, image)
        request = {"model": str(model), "image": str(path), **task}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        return answer | {k: np.asarray(answer[k]) for k in ("values", "labels")}

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def workers(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Worker]]:
    found = {}
    try:
        found[OURS] = Worker(OURS, sys.executable, folder)
        found[THEIRS] = Worker(THEIRS, args.dianna, folder)
        yield found
    finally:
        for worker in found.values():
            worker.close()


# ----- digits -----------------------------------------------------------------------------


def unshifted(values: Floats) -> Floats:
    """DIANNA's values on the superpixels that they belong to.

    Its superpixels are numbered from 1, its players from 0: player j hides superpixel j, and
    its value is painted on superpixel j + 1. The last superpixel is never hidden.
    """
    return np.concatenate([values[1:], np.zeros_like(values[:1])])


def drop(model: Any, image: Floats, labels: NDArray[Any], values: Floats, label: int) -> float:
    """By how much the probability falls without the ten superpixels of the largest values.

    Equal values, as DIANNA's many zeros, come in a random order.
    """
    rng = np.random.default_rng(0)
    order = np.lexsort([rng.random(len(values)), -values])[:N_DELETED]
    without = np.where(np.isin(labels, order)[..., None], 0, image).astype(np.float32)
    before, after = model(np.stack([image, without]))[:, label]
    return float(before - after)


def digits(args: argparse.Namespace, pair: dict[str, Worker]) -> Row:
    from xai_patchshap import OnnxModel

    model = OnnxModel(args.model)
    data = np.load(args.digits)
    each = args.n_digits // 2
    chosen = np.concatenate([np.flatnonzero(data["y_test"] == d)[:each] for d in (0, 1)])
    images = (data["X_test"][chosen].reshape(-1, 28, 28, 1) / 255).astype(np.float32)
    predicted = model(images).argmax(axis=1)
    for worker in pair.values():
        worker.explain(args.model, images[0], DIGITS_TASK)  # warms up
    runs: list[Row] = []
    for i, (image, label) in enumerate(zip(images, predicted, strict=True)):
        turn = list(pair)[:: 1 if i % 2 else -1]
        found = {name: pair[name].explain(args.model, image, DIGITS_TASK) for name in turn}
        ours, theirs = found[OURS], found[THEIRS]
        labels = ours["labels"]
        if not np.array_equal(labels, theirs["labels"]):
            sys.exit("the two interpreters cut superpixels differently")
        painted = theirs["values"][:, label]
        maps = {
            OURS: ours["values"][:, label],
            f"{THEIRS}, as painted": painted,
            f"{THEIRS}, shift corrected": unshifted(painted),
            "random superpixels": np.random.default_rng(i).random(len(painted)),
        }
        runs.append(
            {
                "digit": int(data["y_test"][chosen[i]]),
                "index": int(chosen[i]),
                "superpixels": len(painted),
                "drop": {n: drop(model, image, labels, v, label) for n, v in maps.items()},
                "nonzero": {n: int(np.count_nonzero(found[n]["values"][:, label])) for n in pair},
                "seconds": {n: found[n]["seconds"] for n in pair},
                "evaluations": {n: found[n]["evaluations"] for n in pair},
            }
        )
    return {"summary": digits_summary(runs), "runs": runs}


def digits_summary(runs: list[Row]) -> Row:
    drops = {n: np.array([r["drop"][n] for r in runs]) for n in runs[0]["drop"]}
    seconds = {n: np.array([r["seconds"][n] for r in runs]) for n in (OURS, THEIRS)}

    def error(sample: Floats) -> float:
        return float(sample.std(ddof=1) / np.sqrt(len(sample)))

    return {
        "digits": len(runs),
        "superpixels": float(np.median([r["superpixels"] for r in runs])),
        "evaluations": {n: int(np.median([r["evaluations"][n] for r in runs])) for n in seconds},
        "nonzero": {n: float(np.median([r["nonzero"][n] for r in runs])) for n in seconds},
        "seconds": {n: float(np.median(s)) for n, s in seconds.items()},
        "seconds_ratio": float(np.median(seconds[THEIRS]) / np.median(seconds[OURS])),
        "seconds_paired_ratio": float(np.median(seconds[THEIRS] / seconds[OURS])),
        "drop": {n: float(d.mean()) for n, d in drops.items()},
        "drop_error": {n: error(d) for n, d in drops.items()},
        "drop_below_ours": {n: float((drops[OURS] - d).mean()) for n, d in drops.items()},
        "drop_below_ours_error": {n: error(drops[OURS] - d) for n, d in drops.items()},
    }


# ----- a larger image and many outputs ----------------------------------------------------


def large_model(path: Path) -> None:
    """One convolution, pooled, and 100 probabilities, with random weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "filters": rng.normal(0, 0.2, (16, 3, 8, 8)),
        "matrix": rng.normal(0, 0.5, (16 * 7 * 7, LARGE_OUTPUTS)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["maps"], strides=[8, 8]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node(
            "AveragePool", ["positive"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]
        ),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
    ]
    shape = ["N", 3, LARGE_SIDE, LARGE_SIDE]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", LARGE_OUTPUTS])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def large(args: argparse.Namespace, folder: Path) -> Row:
    """Each repeat in a process of its own, the two methods in turn."""
    import skimage.data
    from skimage.transform import resize

    path = folder / "large.onnx"
    large_model(path)
    photo = resize(skimage.data.astronaut(), (LARGE_SIDE, LARGE_SIDE), anti_aliasing=True)
    image = photo.astype(np.float32)
    runs: list[Row] = []
    for repeat in range(args.repeats):
        # DIANNA takes images in the layout of its model, ours in any.
        for name, x in {OURS: image, THEIRS: image.transpose(2, 0, 1)}.items():
            if name == THEIRS and repeat >= args.dianna_repeats:
                continue
            interpreter = sys.executable if name == OURS else args.dianna
            worker = Worker(name, interpreter, folder)
            try:
                found = worker.explain(path, x, LARGE_TASK)
            finally:
                worker.close()
            keys = ("seconds", "peak_mib", "loaded_mib", "evaluations")
            runs.append({"method": name, **{k: found[k] for k in keys}})
            print(runs[-1], flush=True)

    def median(key: str) -> Row:
        return {
            n: float(np.median([r[key] for r in runs if r["method"] == n])) for n in (OURS, THEIRS)
        }

    summary = {k: median(k) for k in ("seconds", "peak_mib", "loaded_mib", "evaluations")}
    summary["above_loaded_mib"] = {
        n: summary["peak_mib"][n] - summary["loaded_mib"][n] for n in (OURS, THEIRS)
    }
    for key in ("seconds", "peak_mib", "above_loaded_mib"):
        summary[f"{key}_ratio"] = summary[key][THEIRS] / summary[key][OURS]
    return {"summary": summary, "runs": runs}


# ----- results ----------------------------------------------------------------------------


def rounded(value: Any) -> Any:
    """Keep four significant digits, so that the files of two runs compare well."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def save(result: Row, path: Path) -> None:
    """Write sorted JSON, a line for each run."""
    plain = {k: v | {"runs": k} if "runs" in v else v for k, v in result.items()}
    text = json.dumps(rounded(plain), indent=2, sort_keys=True)
    for key, part in result.items():
        rows = [json.dumps(rounded(r), sort_keys=True) for r in part.get("runs", ())]
        text = text.replace(f'"runs": "{key}"', '"runs": [\n' + ",\n".join(rows) + "\n]")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(text + "\n")
    partial.replace(path)


def show(result: Row) -> None:
    if "digits" in result:
        s = result["digits"]["summary"]
        print(f"\n{s['digits']} digits, {s['superpixels']:.0f} superpixels, two labels")
        print(f"{'':<36}{'seconds':>9}{'evaluations':>13}{'not zero':>10}")
        for n in (OURS, THEIRS):
            print(f"{n:<36}{s['seconds'][n]:9.3f}{s['evaluations'][n]:13}{s['nonzero'][n]:10.0f}")
        print(f"ratio {s['seconds_ratio']:.1f}, of pairs {s['seconds_paired_ratio']:.1f}")
        print(f"\nwithout its ten strongest:{'':<10}{'fall of p':>10}{'+-':>7}", end="")
        print(f"{'ours - it':>11}{'+-':>7}")
        for n, value in s["drop"].items():
            print(f"{n:<36}{value:10.3f}{s['drop_error'][n]:7.3f}", end="")
            print(f"{s['drop_below_ours'][n]:11.3f}{s['drop_below_ours_error'][n]:7.3f}")
    if "large" in result:
        s = result["large"]["summary"]
        print(f"\n{LARGE_SIDE}x{LARGE_SIDE}, {LARGE_OUTPUTS} outputs, two labels explained")
        print(f"{'':<20}{'seconds':>9}{'evaluations':>13}{'peak MiB':>10}{'above loaded':>14}")
        for n in (OURS, THEIRS):
            print(f"{n:<20}{s['seconds'][n]:9.2f}{s['evaluations'][n]:13.0f}", end="")
            print(f"{s['peak_mib'][n]:10.0f}{s['above_loaded_mib'][n]:14.0f}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="images (N, 28, 28, 1) in [0, 1] to p (N, 2)")
    parser.add_argument("--digits", type=Path, help="npz of X_test (n, 784) uint8 and y_test")
    parser.add_argument("--dianna", help="a Python interpreter that has dianna")
    parser.add_argument("--n-digits", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5, help="of the large image")
    parser.add_argument("--dianna-repeats", type=int, default=2, help="of the large image")
    parser.add_argument("--only", choices=("digits", "large"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "onnx_kernelshap.json")
    parser.add_argument("--serve", choices=(OURS, THEIRS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.serve and not (args.dianna and (args.only == "large" or args.model)):
        parser.error("--dianna is needed, and --model and --digits for the digits")
    if args.model and not args.digits:
        args.digits = args.model.with_name("binary-mnist.npz")
    return args


def main() -> None:
    args = arguments()
    if args.serve:
        serve(args.serve)
        return
    result: Row = json.loads(args.out.read_text()) if args.only and args.out.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with workers(args, folder) as pair:
            result["environment"] = {
                "cpus": os.cpu_count(),
                "machine": platform.machine(),
                "threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
                "versions": {n: w.versions for n, w in pair.items()},
            }
            result["settings"] = {
                "background": 0,
                "digits": DIGITS_TASK,
                "labels": LABELS,
                "large": LARGE_TASK | {"outputs": LARGE_OUTPUTS, "side": LARGE_SIDE},
                "deleted": N_DELETED,
            }
            if args.only != "large":
                result["digits"] = digits(args, pair)
                save(result, args.out)
                show(result)
        if args.only != "digits":
            result["large"] = large(args, folder)
            save(result, args.out)
            show({"large": result["large"]})


if __name__ == "__main__":
    main()
