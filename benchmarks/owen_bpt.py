"""OwenBPT side by side with its peers: quality of the maps, speed and memory.

``quality`` scores the maps of all methods on a folder of photographs; ``speed`` times the
trees and the explanations beside shap_bpt. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import shap
import shap_bpt.shap_bpt as peer
import torch
from captum.attr import IntegratedGradients, KernelShap, Lime
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from scipy.ndimage import gaussian_filter
from skimage.segmentation import slic

import xai_patchshap
from xai_patchshap import OwenBPT, PatchMasker
from xai_patchshap.evaluation import deletion_curve, insertion_curve
from xai_patchshap.models.load import load_model
from xai_patchshap.players.trees import bpt_tree

HERE = Path(__file__).parent
SIZE, BATCH = 224, 16
BUDGETS = (100, 500, 1000)
BACKGROUNDS = ("mean", "blur")
CURVE_STEPS = 50
GRADIENT_STEPS = 50
SEGMENTS = 100
METRICS = ("AUC+", "AUC-", "MSE")

Floats = NDArray[np.float64]
Maps = list[Floats]  # one for each budget


# ----- the model ------------------------------------------------------------------------------


class Probabilities:
    """EfficientNet-Lite0 with ImageNet weights: images (B, 3, 224, 224) to (B, 1000)."""

    def __init__(self, engine: str) -> None:
        self.module = load_model().model.eval()
        self.engine = engine
        self.rows, self.seconds = 0, 0.0
        if engine == "openvino":  # the same float32 numbers to 1e-6, about four times as fast
            import openvino

            graph = openvino.convert_model(
                self.module, example_input=torch.rand(BATCH, 3, SIZE, SIZE)
            )
            graph.reshape([BATCH, 3, SIZE, SIZE])
            options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
            self._compiled = openvino.Core().compile_model(graph, "CPU", options)

    def __call__(self, images: Any) -> Floats:
        images = np.asarray(images, dtype=np.float32)
        start = time.perf_counter()
        parts = [self._batch(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        self.seconds += time.perf_counter() - start
        self.rows += len(images)
        return np.concatenate(parts)

    def _batch(self, images: NDArray[np.float32]) -> Floats:
        if self.engine == "openvino":
            full = np.zeros((BATCH, *images.shape[1:]), dtype=np.float32)
            full[: len(images)] = images
            out = next(iter(self._compiled(full).values()))[: len(images)]
        else:
            x = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                out = self.module(x).numpy()
        return np.array(out, dtype=np.float64)


class Photograph:
    """One photograph on one background, and the game of its predicted class."""

    def __init__(self, model: Probabilities, path: Path, background: str) -> None:
        self.model, self.name = model, path.name
        with Image.open(path) as image:
            self.rgb = _cropped(image.convert("RGB"))
        self.x = self.rgb.astype(np.float32).transpose(2, 0, 1) / 255
        if background == "mean":
            self.background = np.broadcast_to(self.x.mean((1, 2), keepdims=True), self.x.shape)
        else:
            blurred = [gaussian_filter(c, SIZE / 10, mode="nearest") for c in self.x]
            self.background = np.stack(blurred)
        self.target = int(model(self.x[None])[0].argmax())
        self._known: dict[int, Floats] = {}

    def masked(self, coalitions: Any) -> NDArray[np.float32]:
        shown = np.asarray(coalitions, dtype=bool).reshape(-1, 1, SIZE, SIZE)
        return np.where(shown, self.x, self.background).astype(np.float32)

    def game(self, coalitions: Any) -> Floats:
        """Probability of the predicted class for coalitions of pixels (m, H * W)."""
        return self.model(self.masked(coalitions))[:, self.target]

    def remembered(self, images: Any) -> Floats:
        """The model, which remembers its answers: runs at larger budgets repeat the smaller."""
        images = np.asarray(images, dtype=np.float32)
        keys = [hash(image.tobytes()) for image in images]
        new = {k: i for i, k in enumerate(keys) if k not in self._known}
        if new:
            self._known.update(zip(new, self.model(images[list(new.values())]), strict=True))
        return np.stack([self._known[k] for k in keys])

    def forget(self) -> None:
        self._known.clear()


def _cropped(image: Image.Image) -> NDArray[np.uint8]:
    """Short side to 256 and the centre, unless the photograph has the right size."""
    if image.size != (SIZE, SIZE):
        scale = 256 / min(image.size)
        width, height = (round(scale * side) for side in image.size)
        left, top = (width - SIZE) // 2, (height - SIZE) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + SIZE, top + SIZE))
    return np.array(image)


# ----- the methods: photograph -> one map (H, W) for each budget --------------------------------


def owen(hierarchy: Any, **options: Any) -> Callable[[Photograph], Maps]:
    def maps(p: Photograph) -> Maps:
        masker = PatchMasker(background=p.background.copy())
        explainer = OwenBPT(p.model, masker, hierarchy=hierarchy, warm_start=True, **options)
        out = []
        for budget in BUDGETS:
            explanation = explainer(
                p.x[None], max_evals=budget, batch_size=BATCH, outputs=[p.target], silent=True
            )
            out.append(explanation.values[0, ..., 0].sum(axis=-1))
        return out

    return maps


def shap_bpt_maps(method: str) -> Callable[[Photograph], Maps]:
    def maps(p: Photograph) -> Maps:
        # Small batches keep its queue close to best-first: better maps than its default of 64.
        explainer = peer.Explainer(lambda masks: p.remembered(p.masked(masks)), p.rgb, 1)
        tree = peer.build_bpt_from_image(p.rgb)
        # It counts neither the full nor the empty image.
        return [
            explainer.explain_instance(b - 2, method=method, bpt=tree, batch_size=BATCH)[0]
            for b in BUDGETS
        ]

    return maps


def shap_partition(p: Photograph) -> Maps:
    image, background = (a.transpose(1, 2, 0) for a in (p.x, p.background))
    masker = shap.maskers.Image(np.ascontiguousarray(background), image.shape)

    def predict(images: Any) -> Floats:
        return p.remembered(np.asarray(images).transpose(0, 3, 1, 2))[:, p.target]

    out = []
    for budget in BUDGETS:
        np.random.seed(0)  # noqa: NPY002 - shap breaks ties with the global state
        explainer = shap.explainers.Partition(predict, masker)
        values = explainer(image[None], max_evals=budget, batch_size=BATCH, silent=True).values
        out.append(values[0].reshape(SIZE, SIZE, 3).sum(axis=-1))
    return out


def captum_regression(method: type) -> Callable[[Photograph], Maps]:
    def maps(p: Photograph) -> Maps:
        segments = slic(p.rgb, n_segments=SEGMENTS, start_label=0)
        labels = torch.from_numpy(
            np.unique(segments, return_inverse=True)[1].reshape(1, 1, SIZE, SIZE)
        )
        size = np.bincount(labels.numpy().ravel())

        def forward(images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(p.remembered(images.numpy())[:, p.target])

        out = []
        for budget in BUDGETS:
            torch.manual_seed(0)
            values = method(forward).attribute(
                torch.from_numpy(p.x)[None],
                baselines=torch.from_numpy(p.background.copy())[None],
                feature_mask=labels,
                n_samples=budget,
                perturbations_per_eval=BATCH,
                return_input_shape=False,
            )
            per_pixel = values[0].double().numpy() / size
            out.append(per_pixel[labels[0, 0].numpy()])
        return out

    return maps


def integrated_gradients(p: Photograph) -> Maps:
    x, background = torch.from_numpy(p.x)[None], torch.from_numpy(p.background.copy())[None]
    values = IntegratedGradients(p.model.module).attribute(
        x, background, target=p.target, n_steps=GRADIENT_STEPS, internal_batch_size=BATCH
    )
    return [values[0].detach().sum(dim=0).double().numpy()] * len(BUDGETS)


OURS = {"OwenBPT tree": owen("bpt"), "OwenBPT axis": owen("axis")}
PLAIN = {"OwenBPT tree, published": owen("bpt", n_trees=1, compactness=0.0)}
PEERS = {"shap_bpt BPT": shap_bpt_maps("BPT"), "shap_bpt AA": shap_bpt_maps("AA")}
OTHERS = {
    "shap Partition": shap_partition,
    "captum Lime": captum_regression(Lime),
    "captum KernelShap": captum_regression(KernelShap),
    "captum IntegratedGradients": integrated_gradients,
}


def scores(p: Photograph, attribution: Floats) -> list[float]:
    """Insertion and deletion AUC (clipped, rescaled), and MSE averaged over both curves."""
    up = insertion_curve(p.game, attribution, steps=CURVE_STEPS, batch_size=BATCH)
    down = deletion_curve(p.game, attribution, steps=CURVE_STEPS, batch_size=BATCH)
    error = (up.mse() + down.mse()) / 2
    return [up.auc("clipped", rescaled=True), down.auc("clipped", rescaled=True), error]


def quality(arguments: argparse.Namespace) -> None:
    files = sorted(arguments.photographs.glob("*.jpg"))
    # Trees and scores were chosen on the even photographs; the odd ones are for the report.
    parts = {"held out": files[1::2], "tuning": files[::2]}
    model = Probabilities(arguments.engine)
    if min(map(len, parts.values())) < 2:
        raise SystemExit(f"{arguments.photographs}: {len(files)} JPEG files; four are the least.")
    settings = {
        "model": "tf_efficientnet_lite0, probability of the predicted class",
        "engine": arguments.engine,
        "budgets": list(BUDGETS),
        "backgrounds": list(BACKGROUNDS),
        "curve steps": CURVE_STEPS,
        "segments of captum's methods": SEGMENTS,
        "steps of integrated gradients, at every budget": GRADIENT_STEPS,
        "batch size": BATCH,
    }
    raw_path = arguments.out.with_suffix(".raw.json")
    saved = json.loads(raw_path.read_text()) if raw_path.exists() else {"settings": settings}
    if saved.pop("settings") != settings:
        raise SystemExit(f"{raw_path} has other settings: remove it to start anew.")
    raw: dict[str, Any] = saved
    for part in ("held out", "tuning")[: 2 if arguments.tuning else 1]:
        for n, path in enumerate(parts[part][: arguments.most]):
            methods = {**OURS, **PLAIN, **PEERS}
            if part == "held out" and (arguments.others is None or n < arguments.others):
                methods |= OTHERS
            for background in BACKGROUNDS:
                key = f"{part}/{path.name}/{background}"
                found = raw.setdefault(key, {})
                missing = {name: m for name, m in methods.items() if name not in found}
                if not missing:
                    continue
                start = time.perf_counter()
                p = Photograph(model, path, background)
                for name, method in missing.items():
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        maps = method(p)
                    p.forget()
                    same = maps[0] is maps[-1]
                    each = [scores(p, m) for m in (maps[:1] if same else maps)]
                    found[name] = each * len(BUDGETS) if same else each
                raw_path.write_text(json.dumps({"settings": settings, **raw}))
                print(f"{key}: {time.perf_counter() - start:.0f} s", flush=True)
        report = {
            "settings": settings,
            **_machine(),
            "results": _both_summaries(raw),
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(_table(report))


def _both_summaries(raw: dict[str, Any]) -> dict[str, Any]:
    """All photographs with the methods that all have; and those that have every method."""
    out = {}
    for part in ("held out", "tuning"):
        keys = [k for k in raw if k.startswith(part + "/")]
        names = sorted({k.split("/")[1] for k in keys})
        names = [n for n in names if all(f"{part}/{n}/{b}" in raw for b in BACKGROUNDS)]
        most = max((len(raw[k]) for k in keys), default=0)
        every = [n for n in names if all(len(raw[f"{part}/{n}/{b}"]) == most for b in BACKGROUNDS)]
        if len(names) > 1:
            out[part] = _summary(raw, part, names)
        if 1 < len(every) < len(names):
            out[f"{part}, every method"] = _summary(raw, part, every)
    return out


def _summary(raw: dict[str, Any], part: str, names: list[str]) -> dict[str, Any]:
    """Means per method, and paired differences to shap_bpt with 95 % t-intervals."""
    out: dict[str, Any] = {}
    for background in (*BACKGROUNDS, "both"):
        # (photograph, method, budget, metric); both backgrounds of a photograph are averaged.
        wanted = BACKGROUNDS if background == "both" else (background,)
        methods = [
            m
            for m in raw[f"{part}/{names[0]}/{wanted[0]}"]
            if all(m in raw[f"{part}/{n}/{b}"] for n in names for b in wanted)
        ]
        table = np.mean(
            [[[raw[f"{part}/{n}/{b}"][m] for m in methods] for n in names] for b in wanted], axis=0
        )
        means = {
            m: {
                str(b): dict(zip(METRICS, table[:, i, j].mean(0).round(5).tolist(), strict=True))
                for j, b in enumerate(BUDGETS)
            }
            for i, m in enumerate(methods)
        }
        paired = {}
        for ours, theirs in zip(OURS, PEERS, strict=True):
            gap = table[:, methods.index(ours)] - table[:, methods.index(theirs)]
            half = stats.t.ppf(0.975, len(gap) - 1) * gap.std(0, ddof=1) / np.sqrt(len(gap))
            paired[f"{ours} - {theirs}"] = {
                str(b): {
                    metric: [round(float(v), 5) for v in (gap[:, j, k].mean(), half[j, k])]
                    for k, metric in enumerate(METRICS)
                }
                for j, b in enumerate(BUDGETS)
            }
        out[background] = {
            "photographs": len(names),
            "means": means,
            "difference, half width of its 95 % interval": paired,
        }
    return out


def _table(report: dict[str, Any]) -> str:
    lines = []
    for part, by_background in report["results"].items():
        for background, found in by_background.items():
            lines.append(f"\n{part}, {background}, {found['photographs']} photographs")
            for method, by_budget in found["means"].items():
                cells = [" ".join(f"{v:.4f}" for v in by_budget[str(b)].values()) for b in BUDGETS]
                lines.append(f"{method:<28} " + " | ".join(cells))
            for pair, by_budget in found["difference, half width of its 95 % interval"].items():
                cells = [
                    " ".join(f"{m:+.4f}+-{h:.4f}" for m, h in by_budget[str(b)].values())
                    for b in BUDGETS
                ]
                lines.append(f"{pair:<28} " + " | ".join(cells))
    return "\n".join(lines)


# ----- speed and memory -----------------------------------------------------------------------


def speed(arguments: argparse.Namespace) -> None:
    path = sorted(arguments.photographs.glob("*.jpg"))[1]
    result: dict[str, Any] = {"settings": {"engine": arguments.engine}, **_machine(), "trees": {}}
    with Image.open(path) as image:
        photo = image.convert("RGB")
    for side in (224, 512):
        rgb = np.array(photo.resize((side, side), Image.Resampling.BICUBIC))
        bpt_tree(rgb)  # compile
        times = []
        for _ in range(arguments.repeats):
            pair = []
            for build in (bpt_tree, peer.build_bpt_from_image):
                start = time.perf_counter()
                build(rgb)
                pair.append(time.perf_counter() - start)
            times.append(pair)
        ratios = [a / b for a, b in times]
        ours, theirs = np.median(times, axis=0)
        memory = [_peak(path, side, who) for who in ("ours", "peer")]
        result["trees"][str(side)] = {
            "seconds": [float(ours), float(theirs)],
            "ratio": float(np.median(ratios)),
            "peak MiB above the image": memory,
        }
    model = Probabilities(arguments.engine)
    p = Photograph(model, path, "mean")
    rows = []
    for _ in range(arguments.repeats):
        pair = []
        for method in (_ours_at_most, _peer_at_most):
            model.rows, model.seconds = 0, 0.0
            start = time.perf_counter()
            method(p)
            total = time.perf_counter() - start
            pair.append((total - model.seconds, model.seconds, model.rows))
        rows.append(pair)
    table = np.array(rows)
    result["outside the model at 1000 evaluations"] = {
        "seconds": np.median(table[:, :, 0], axis=0).tolist(),
        "ratio": float(np.median(table[:, 0, 0] / table[:, 1, 0])),
        "model seconds": np.median(table[:, :, 1], axis=0).tolist(),
        "evaluations": np.median(table[:, :, 2], axis=0).tolist(),
    }
    module = model.module
    explainer = OwenBPT(module, PatchMasker(background="mean"))
    outputs = [int(i) for i in np.argsort(-model(p.x[None])[0])[:4]]
    seconds = []
    for _ in range(arguments.repeats):
        explainer(torch.from_numpy(p.x)[None], max_evals=100, outputs=outputs, silent=True)
        assert explainer.last_run is not None
        seconds.append((explainer.last_run.seconds, explainer.last_run.model_seconds))
    result["four classes at 100 evaluations, torch"] = dict(
        zip(("seconds", "model seconds"), np.median(seconds, axis=0).tolist(), strict=True)
    )
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _ours_at_most(p: Photograph) -> None:
    explainer = OwenBPT(p.model, PatchMasker(background=p.background.copy()))
    explainer(p.x[None], max_evals=1000, batch_size=BATCH, outputs=[p.target], silent=True)


def _peer_at_most(p: Photograph) -> None:
    explainer = peer.Explainer(lambda masks: p.model(p.masked(masks)), p.rgb, 1)
    explainer.explain_instance(998, method="BPT", batch_size=BATCH)


_MEMORY = """
import sys, numpy as np
from PIL import Image
import shap_bpt.shap_bpt as peer
from xai_patchshap.players.trees import bpt_tree
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
side = int(sys.argv[2])
build = bpt_tree if sys.argv[3] == "ours" else peer.build_bpt_from_image
photo = Image.open(sys.argv[1]).convert("RGB")
build(np.array(photo.resize((16, 16))))
rgb = np.array(photo.resize((side, side)))
open("/proc/self/clear_refs", "w").write("5")
before = peak()
tree = build(rgb)
print((peak() - before) / 1024)
"""


def _peak(path: Path, side: int, who: str) -> float:
    """Peak memory of one build in a process of its own, MiB."""
    command = [sys.executable, "-W", "ignore", "-c", _MEMORY, str(path), str(side), who]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _machine() -> dict[str, Any]:
    names = ("captum", "shap", "shap_bpt", "torch", "numpy", "numba", "timm")
    return {
        "versions": {"xai-patchshap": xai_patchshap.__version__}
        | {name: version(name) for name in names},
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["quality", "speed"])
    parser.add_argument("--photographs", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--engine", choices=["torch", "openvino"], default="torch")
    parser.add_argument("--most", type=int, help="photographs of each half")
    parser.add_argument("--others", type=int, help="photographs for shap's and Captum's methods")
    parser.add_argument("--tuning", action="store_true", help="the other half of the folder too")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.out is None:
        arguments.out = HERE / "results" / f"owen_bpt_{arguments.what}.json"
    {"quality": quality, "speed": speed}[arguments.what](arguments)


if __name__ == "__main__":
    main()
