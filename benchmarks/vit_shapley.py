"""The shipped explainer beside KernelSHAP and Captum's methods; the cost of a training step.

python benchmarks/vit_shapley.py quality --data DIR    # DIR/<class>/*.jpg: held-out images
python benchmarks/vit_shapley.py heads --data DIR      # DIR/train and DIR/test
python benchmarks/vit_shapley.py cost
python benchmarks/vit_shapley.py step
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from xai_patchshap import ViTShapleyAmortized
from xai_patchshap.amortized import (
    Architecture,
    Recipe,
    Schedule,
    ShapleyViT,
    calibrate,
    explained_variance,
    load_card,
    per_image_correlation,
    shapley_values,
    train_explainer,
)
from xai_patchshap.amortized.losses import kernel_pairs
from xai_patchshap.estimators import GaussianProcessShap, KernelShap
from xai_patchshap.evaluation import quality_report
from xai_patchshap.samples import (
    cifar10_classifier,
    cifar10_explainer,
    cifar10_path,
    cifar10_surrogate,
)

HERE = Path(__file__).parent
BUDGETS = (32, 64, 128, 192, 256, 512, 1024)


def held_out(folder: Path, n: int) -> Tensor:
    """``n`` images of all classes in turn, (n, 3, 32, 32) in [0, 1]."""
    classes = [sorted(c.iterdir()) for c in sorted(folder.iterdir()) if c.is_dir()]
    files = [c[i] for i in range(-(-n // len(classes))) for c in classes][:n]
    arrays = [np.asarray(Image.open(f).convert("RGB")) for f in files]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def quality(a: argparse.Namespace) -> dict[str, Any]:
    """R2 and correlation with converged Shapley values, alone, refined, and KernelSHAP's."""
    network = cifar10_explainer()
    images = held_out(a.data, a.images)
    precision = torch.bfloat16 if a.bfloat16 else None
    control = network.predicts == "game"
    common = {"autocast": precision, "control": control}
    reference = shapley_values(network, images, a.reference, seed=10, **common)
    half = shapley_values(network, images[:20], a.reference, seed=11, **common)
    with torch.no_grad():
        values, full = network(images)
    predicted, target = values.double().numpy(), full.argmax(1).numpy()
    rows = np.arange(len(images))

    def score(found: np.ndarray, truth: np.ndarray = reference) -> dict[str, float]:
        n = len(found)
        of_target = found[rows[:n], :, target[:n]], truth[rows[:n], :, target[:n]]
        return {
            "r2": explained_variance(*of_target),
            "correlation": float(per_image_correlation(*of_target).mean()),
            "r2_all_classes": explained_variance(
                *(v.transpose(0, 2, 1).reshape(-1, v.shape[1]) for v in (found, truth[:n]))
            ),
        }

    kernel = KernelShap(network.n_players, max(BUDGETS), seed=20)
    game = _values(network, images, kernel, precision)
    process = GaussianProcessShap(network.n_players, max(BUDGETS), seed=20)
    designed = _values(network, images, process, precision)
    ranking = np.argsort(-full.numpy(), axis=1)

    def of_process(m: int) -> dict[str, float]:
        """As the explainers do it: the classes in the order of their scores guide the process."""
        found = [
            process.estimate(np.c_[v[:m], v[:m][:, order]], n_guides=len(order)).values
            for v, order in zip(designed, ranking, strict=True)
        ]
        return score(np.stack(found))

    result: dict[str, Any] = {
        "images": f"{len(images)} CIFAR-10 test images, all classes in turn",
        "reference": f"KernelSHAP, {a.reference} evaluations"
        + control * ", with the predicted game as a control variate",
        "coalitions evaluated in": "bfloat16" if a.bfloat16 else "float32",
        "two references of other seeds": score(half, reference[:20]),
        "alone": score(predicted),
        "KernelSHAP": {
            str(m): score(np.stack([kernel.estimate(v[:m]).values for v in game])) for m in BUDGETS
        },
        "Gaussian process": {str(m): of_process(m) for m in BUDGETS},
        "refined": {str(m): score(refined(network, images, m, precision)) for m in BUDGETS},
        "refined by a ridge": {
            str(m): score(
                np.stack([
                    kernel.estimate(v[:m], p, network.ridge).values
                    for v, p in zip(game, predicted, strict=True)
                ])
            )
            for m in BUDGETS
        },
        "card": {k: load_card(cifar10_path())[k] for k in ("recipe", "calibration", "curve")},
    }  # fmt: skip
    result["evaluations of KernelSHAP for the same R2"] = bought(result)
    if a.report:
        report = quality_report(
            network,
            images[: a.report],
            classifier=cifar10_classifier(),
            reference=reference[: a.report],
            autocast=precision,
        )
        result["report"] = {"images": a.report, "rows": report.rows}
        print(report.as_table())
    return result


def refined(
    network: ShapleyViT, images: Tensor, m: int, precision: torch.dtype | None
) -> np.ndarray:
    """Values of all classes after a refinement, by the class that users have."""
    explainer = ViTShapleyAmortized(network, budget=m, seed=20, autocast=precision)
    return explainer.explain_players(images).values


def heads(a: argparse.Namespace) -> dict[str, Any]:
    """Networks that predict values, or a game, trained on the same pairs of coalitions."""
    training, held = held_out(a.data / "train", a.images + 200), held_out(a.data / "test", a.test)
    validation, training = list(training[:200]), list(training[200:])
    surrogate = cifar10_surrogate()
    with torch.no_grad():
        target = surrogate(held).argmax(1).numpy()[:, None, None]
    found: dict[str, Any] = {}

    def score(values: np.ndarray) -> dict[str, float]:
        of_target = np.take_along_axis(values, target, axis=2)[..., 0]
        correlation = float(per_image_correlation(of_target, reference).mean())
        return {"r2": explained_variance(of_target, reference), "correlation": correlation}

    with tempfile.TemporaryDirectory() as folder:
        for predicts in ("values", "game"):
            out = Path(folder) / predicts
            if predicts == "game":
                for name in ("pairs", "validation"):  # the same, and evaluated once
                    shutil.copytree(Path(folder) / "values" / name, out / name)
            network = train_explainer(
                surrogate,
                training,
                out,
                Recipe(n_pairs=12, fresh=False, n_frozen=6, taps=(2, 4), predicts=predicts),
                Schedule(
                    epochs=a.epochs,
                    batch_size=64,
                    learning_rate=2e-3,
                    weight_decay=0.05,
                    validations=a.epochs,
                ),
                validation=validation,
            )
            calibrate(network, torch.stack(validation[:10]), reference_budget=1024)
            if not found:
                reference = shapley_values(network, held, a.reference, seed=10)
                reference = np.take_along_axis(reference, target, axis=2)[..., 0]
            with torch.no_grad():
                values = network(held)[0]
            found[predicts] = {"alone": score(values.double().numpy())} | {
                f"refined, {m}": score(refined(network, held, m, None)) for m in (32, 64, 128, 256)
            }
    about = {"training images": len(training), "epochs": a.epochs, "test images": len(held)}
    return {**about, "reference": f"KernelSHAP, {a.reference} evaluations", **found}


def bought(result: dict[str, Any]) -> float:
    """Evaluations at which KernelSHAP's R2 reaches that of the prediction alone."""
    unexplained = [1 - result["KernelSHAP"][str(m)]["r2"] for m in BUDGETS]
    wanted = 1 - result["alone"]["r2"]
    # Errors fall with the budget: interpolate between logarithms.
    order = np.argsort(unexplained)
    return float(
        np.exp(np.interp(np.log(wanted), np.log(unexplained)[order], np.log(BUDGETS)[order]))
    )


@torch.no_grad()
def _values(
    network: ShapleyViT,
    images: Tensor,
    kernel: KernelShap | GaussianProcessShap,
    precision: torch.dtype | None,
) -> np.ndarray:
    coalitions = torch.from_numpy(kernel.coalitions)
    parts = []
    for some in torch.arange(len(images)).split(32):
        rows = some.repeat_interleave(len(coalitions))
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            values = network.coalition_values(images, rows, coalitions.repeat(len(some), 1))
        parts.append(values.reshape(len(some), len(coalitions), -1).double())
    return torch.cat(parts).numpy()


def timed(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Medians of paired runs, and ratios to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    first = seconds[next(iter(seconds))]
    return {
        name: {
            "seconds": median(s),
            "ratio": median(x / y for x, y in zip(s, first, strict=True)),
        }
        for name, s in seconds.items()
    }


@torch.no_grad()
def cost(a: argparse.Namespace) -> dict[str, Any]:
    """One explanation of a batch beside one forward pass of the surrogate."""
    network = cifar10_explainer()
    images = torch.rand(a.batch, 3, 32, 32)
    functions = {
        "forward pass of the surrogate": lambda: network.surrogate.model(images),
        "explanation, all classes": lambda: network(images),
    }
    return {"batch": a.batch, **timed(functions, a.repeats)}


class Masked(nn.Module):
    """The published way: hidden keys are cut out of attention, all tokens stay."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor, shown: Tensor) -> Tensor:
        prefix = torch.ones(len(images), self.vit.num_prefix_tokens, dtype=torch.bool)
        keys = torch.cat([prefix, shown], 1)[:, None, None]
        return self.vit(images, attn_mask=keys)


def step(a: argparse.Namespace) -> dict[str, Any]:
    """A training step of the explainer: ours, and the published loss with attention masks.

    The same network, images and number of coalitions. Published: 32 masks for each image in
    16 pairs, all evaluated in every step with masked attention, null and full value again in
    every step, a loss over every coalition.
    """
    options = dict(load_card(cifar10_path("surrogate"))["architecture"])
    options["options"] = {**options["options"], "class_token": True, "global_pool": "token"}
    surrogate = Architecture(**options).build().eval()
    vit = surrogate.model
    network = ShapleyViT(surrogate, n_frozen=a.frozen)
    images = torch.rand(a.batch, 3, 32, 32)
    masked = Masked(vit)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0)
    n = network.n_players
    halves = kernel_pairs(1, 16, n, torch.Generator().manual_seed(0)).sum(-1)[0]
    generator = torch.Generator().manual_seed(1)

    def drawn() -> Tensor:
        ranks = torch.rand(a.batch, 16, n, generator=generator).argsort(-1).argsort(-1)
        return ranks < halves[:, None]

    def ours() -> None:
        from xai_patchshap.amortized.losses import fastshap_loss

        shown = drawn()
        with torch.no_grad():
            odd = network.odd_values(images, shown)
        loss = fastshap_loss(network(images)[0], shown, odd)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def published() -> None:
        half = drawn()
        shown = torch.cat([half, ~half], 1)
        with torch.no_grad():
            many = images.repeat_interleave(32, 0)
            values = torch.cat([
                masked(x, s).softmax(-1)
                for x, s in zip(many.split(512), shown.reshape(-1, n).split(512), strict=True)
            ]).reshape(a.batch, 32, -1)  # fmt: skip
            null = masked(images[:1], torch.zeros(1, n, dtype=torch.bool)).softmax(-1)
            full = masked(images, torch.ones(a.batch, n, dtype=torch.bool)).softmax(-1)
        phi = network.head(network.norm(network.blocks(vit.forward_features(images))[:, 1:]))
        phi = phi + ((full - null) - phi.sum(1))[:, None] / n
        predicted = null[:, None] + torch.einsum("bmn,bnk->bmk", shown.float(), phi)
        loss = n * (predicted - values).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def kept() -> None:
        from xai_patchshap.amortized.losses import fastshap_loss

        loss = fastshap_loss(network(images)[0], kept_halves, kept_odd)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    kept_halves = drawn()
    with torch.no_grad():
        kept_odd = network.odd_values(images, kept_halves)
    both = {
        "ours, fresh coalitions": ours,
        "published, attention masks": published,
        "ours, values kept": kept,
    }
    return {"batch": a.batch, "coalitions": 32, "frozen": a.frozen, **timed(both, a.repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stages = parser.add_subparsers(required=True, dest="what")
    q = stages.add_parser("quality")
    q.add_argument("--data", type=Path, required=True)
    q.add_argument("--images", type=int, default=200)
    q.add_argument("--reference", type=int, default=8192)
    q.add_argument("--report", type=int, default=50, help="images of the report on all methods")
    q.add_argument("--bfloat16", action="store_true", help="evaluate coalitions in bfloat16")
    q.set_defaults(run=quality)
    h = stages.add_parser("heads")
    h.add_argument("--data", type=Path, required=True, help="a folder with train/ and test/")
    h.add_argument("--images", type=int, default=8000)
    h.add_argument("--test", type=int, default=30)
    h.add_argument("--epochs", type=int, default=4)
    h.add_argument("--reference", type=int, default=4096)
    h.set_defaults(run=heads)
    c = stages.add_parser("cost")
    c.add_argument("--batch", type=int, default=64)
    c.add_argument("--repeats", type=int, default=15)
    c.set_defaults(run=cost)
    s = stages.add_parser("step")
    s.add_argument("--batch", type=int, default=32)
    s.add_argument("--frozen", type=int, default=6)
    s.add_argument("--repeats", type=int, default=5)
    s.set_defaults(run=step)
    a = parser.parse_args()
    result = a.run(a)
    result["machine"] = {"cores": os.cpu_count(), "machine": platform.machine()}
    result["versions"] = {n: version(n) for n in ("torch", "timm", "captum", "xai-patchshap")}
    file = HERE / "results" / f"vit_shapley_{a.what}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "report"}, indent=1))


if __name__ == "__main__":
    main()
