"""Train the small vision transformer of the shipped example on CIFAR-10.

    python training/cifar10/classifier.py --data DIR --out RUN

DIR holds ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``.  A run that was
stopped goes on from its last epoch when it is started again.

For most epochs a random part of the patches is left out of every batch
(PatchDropout): an epoch takes half the time, and the network gets used to
missing patches, which the surrogate builds on.  The last epochs see them all.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from data import MEAN, STD, images_of
from safetensors.torch import save_file
from timm.layers import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from tqdm import tqdm

ARCHITECTURE = {
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 160,
    "depth": 7,
    "num_heads": 5,
    "mlp_ratio": 3.0,
    "num_classes": 10,
    "class_token": False,
    "global_pool": "avg",
}


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to four pixels and mirror, each image by its own draw."""
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, (4, 4, 4, 4), mode="reflect")
    top, left = torch.randint(0, 9, (2, n, 1, 1), generator=generator)
    columns = left + torch.arange(width)
    mirrored = torch.rand(n, 1, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(-1), columns)
    rows = top + torch.arange(height)[:, None]
    image = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2)


def optimisers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices = [p for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.0),
    ]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    right = sum(
        int((model((x.float() / 255 - MEAN) / STD).argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    model.train()
    return right / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--full-epochs", type=int, default=4, help="the last ones, all patches")
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    images, labels, _ = images_of(a.data / "train", a.out)
    test_images, test_labels, _ = images_of(a.data / "test", a.out)

    torch.manual_seed(a.seed)
    model = VisionTransformer(**ARCHITECTURE)
    for block in model.blocks:
        block.attn.fused_attn = False  # its backward pass is slow on a CPU
    dropout = model.patch_drop = PatchDropout(0.0, num_prefix_tokens=0)
    optims = optimisers(model, a.rate)
    steps = len(images) // a.batch
    begin, state_file = 0, a.out / "classifier_state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optim, kept in zip(optims, state["optims"], strict=True):
            optim.load_state_dict(kept)
        begin = state["epoch"]
    for epoch in range(begin, a.epochs):
        generator = torch.Generator().manual_seed(1000 * a.seed + epoch)
        order = torch.randperm(len(images), generator=generator)
        bar = tqdm(range(steps), desc=f"epoch {epoch + 1}/{a.epochs}", mininterval=10)
        total = 0.0
        for step in bar:
            share = (epoch * steps + step) / (a.epochs * steps)
            # a short warm-up, then linearly to nothing
            factor = min(1.0, share * 25) * (1 - share)
            for optim in optims:
                for group in optim.param_groups:
                    group["lr"] = a.rate * factor
            kept = int(torch.randint(16, 57, (1,), generator=generator))
            whole = epoch >= a.epochs - a.full_epochs
            dropout.prob = 0.0 if whole else 1 - kept / 64
            rows = order[step * a.batch : (step + 1) * a.batch]
            x = (augmented(images[rows], generator).float() / 255 - MEAN) / STD
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = model(x)
            loss = nn.functional.cross_entropy(output.float(), labels[rows], label_smoothing=0.1)
            if not math.isfinite(float(loss)):
                raise RuntimeError("the loss is not finite: lower --rate")
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optim in optims:
                optim.step()
                optim.zero_grad()
            total += float(loss.detach())
        dropout.prob = 0.0
        score = accuracy(model, test_images[:2000], test_labels[:2000])
        print(f"epoch {epoch + 1} loss {total / steps:.4f} accuracy {score:.4f}", flush=True)
        state = {
            "model": model.state_dict(),
            "optims": [optim.state_dict() for optim in optims],
            "epoch": epoch + 1,
        }
        torch.save(state, state_file.with_suffix(".new"))
        state_file.with_suffix(".new").replace(state_file)
    print(f"test accuracy {accuracy(model, test_images, test_labels):.4f}")
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, a.out / "classifier.safetensors"
    )


if __name__ == "__main__":
    main()
