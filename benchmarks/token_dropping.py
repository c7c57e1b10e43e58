"""Token dropping beside attention masks and masked pixels: evaluations per second of one ViT."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from captum.attr import KernelShap

from xai_patchshap import PatchKernelShap, PatchMasker, TokenDropping
from xai_patchshap.estimators import PairSampler

HERE = Path(__file__).parent


def coalitions(n_players: int, count: int) -> torch.Tensor:
    """Paired coalitions of the Shapley kernel, (count, n_players)."""
    halves, _ = PairSampler(n_players, 0, "kernel").take(count // 2)
    return torch.from_numpy(np.stack([halves, ~halves], axis=1).reshape(-1, n_players))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--coalitions", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "token_dropping.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    vit: Any = timm.create_model(arguments.model).eval()
    dropping = TokenDropping(vit)
    n = vit.patch_embed.num_patches
    grid, patch = vit.patch_embed.grid_size, vit.patch_embed.patch_size[0]
    x = torch.rand(1, 3, grid[0] * patch, grid[1] * patch)
    every = coalitions(n, arguments.coalitions)
    by_size = every[every.sum(1).argsort(stable=True)]

    def pixels(shown: torch.Tensor, background: float) -> torch.Tensor:
        keep = shown.reshape(-1, 1, *grid).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        return torch.where(keep, x, background)

    def attention_mask(shown: torch.Tensor) -> torch.Tensor:
        prefix = torch.ones(len(shown), vit.num_prefix_tokens, dtype=torch.bool)
        keys = torch.cat([prefix, shown], dim=1)[:, None, None]
        return vit(x.expand(len(shown), -1, -1, -1), attn_mask=keys)

    def mask_token(shown: torch.Tensor) -> torch.Tensor:
        """Shapiq's way: a zero token in place of each hidden patch, one coalition at a time."""
        rows = []
        for row in shown:
            keep = row.float()[None, :, None]
            handle = vit.patch_embed.register_forward_hook(lambda _, __, t, k=keep: t * k)
            rows.append(vit(x))
            handle.remove()
        return torch.cat(rows)

    labels = torch.arange(n).reshape(1, 1, *grid)
    labels = labels.repeat_interleave(patch, 2).repeat_interleave(patch, 3)

    def captum(_: torch.Tensor) -> torch.Tensor:
        """Captum's KernelShap as a whole, on coalitions of its own."""
        attributions = KernelShap(vit).attribute(
            x, 0.5, 0, feature_mask=labels, n_samples=len(every),
            perturbations_per_eval=arguments.batch,
        )  # fmt: skip
        return attributions.mean().reshape(1)

    explainer = PatchKernelShap(
        vit, PatchMasker(background="drop"), sampling="kernel", estimator="kernel-shap"
    )

    def ours(_: torch.Tensor) -> torch.Tensor:
        """PatchKernelShap as a whole."""
        attributions = explainer.attribute(
            x, target=0, n_samples=len(every), perturbations_per_eval=arguments.batch
        )
        return attributions.mean().reshape(1)

    # Dropping gets the coalitions sorted by size, then as they come.
    methods = {
        "dropped, sorted by size": (by_size, lambda z: dropping(pixels(z, float("nan")))),
        "dropped, as drawn": (every, lambda z: dropping(pixels(z, float("nan")))),
        "attention mask": (every, attention_mask),
        "masked pixels": (every, lambda z: vit(pixels(z, 0.5))),
        "shapiq: mask token, one at a time": (every, mask_token),
        "PatchKernelShap, tokens dropped": (every, ours),
        "captum: KernelShap": (every, captum),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    outputs = {}
    with torch.no_grad():
        for _ in range(arguments.repeats):
            for name, (table, value) in methods.items():
                start = time.perf_counter()
                size = len(table) if "KernelShap" in name else arguments.batch
                parts = [value(z) for z in table.split(size)]
                seconds[name].append(time.perf_counter() - start)
                outputs[name] = torch.cat(parts)
    gap = (outputs["dropped, as drawn"] - outputs["attention mask"]).abs().max()
    first = seconds["dropped, sorted by size"]
    report = {
        "model": f"{arguments.model}, random weights",
        "players": n,
        "coalitions": len(every),
        "batch": arguments.batch,
        "mean share of shown patches": float(every.float().mean()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "timm", "captum", "xai-patchshap")},
        "evaluations per second": {k: len(every) / median(v) for k, v in seconds.items()},
        "seconds": seconds,
        "times as fast as": {
            name: median(b / a for a, b in zip(first, theirs, strict=True))
            for name, theirs in seconds.items()
        },
        "largest difference to the attention mask": float(gap),
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k != "seconds"}, indent=1))


if __name__ == "__main__":
    main()
