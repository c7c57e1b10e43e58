"""One training loop for all stages: it can be killed at any moment and goes on where it was.

Whatever is random in a step depends on the seed and the number of the step alone, and one
file, replaced in one piece, holds all that a step leaves behind: a run that was stopped and
started again ends with the same weights as one that was not.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..._files import write_atomically
from ...errors import PatchShapError, bad
from .data import batches
from .schedule import Schedule
from .table import check_same

__all__ = ["Fitted", "fit"]


@dataclass(frozen=True)
class Fitted:
    """What a finished run leaves: the best weights, their score, and the log."""

    weights: dict[str, Tensor]
    score: float
    history: list[dict[str, float]]


class _Alone:
    """What the loop asks of Accelerate, for a single process."""

    is_main_process = True
    num_processes, process_index = 1, 0

    def __init__(self, device: torch.device, autocast: torch.dtype | None) -> None:
        self.device, self._dtype = device, autocast
        # Half precision underflows without a scale; bfloat16 has the range of float32.
        scaled = autocast == torch.float16 and device.type == "cuda"
        self.scaler = torch.amp.GradScaler(enabled=scaled)

    def prepare(self, *parts: Any) -> tuple[Any, ...]:
        return parts

    def autocast(self) -> AbstractContextManager[Any]:
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self._dtype)

    def no_sync(self, _: nn.Module) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        scaled: Any = self.scaler.scale(loss)
        scaled.backward()

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], clip: float
    ) -> None:
        self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, clip)
        self.scaler.step(optimizer)
        self.scaler.update()

    def wait_for_everyone(self) -> None:
        pass


def fit(
    objective: nn.Module,
    trained: nn.Module,
    dataset: Any,
    validate: Callable[[], float],
    folder: Path,
    settings: dict[str, Any],
    schedule: Schedule,
    *,
    arguments: Callable[[Tensor, Tensor, torch.Generator], tuple[Any, ...]],
    weights: Callable[[], dict[str, Tensor]],
    seed: int,
    name: str,
    trained_before: bool = False,
    accelerator: Any = None,
    progress: bool = True,
) -> Fitted:
    """Train ``trained`` and keep its best weights.

    Parameters
    ----------
    objective : torch.nn.Module
        Its forward gives the loss of ``arguments(indices, images, generator)``; it holds
        ``trained``.
    validate : callable
        A score, the lower the better.
    settings : dict
        All that the result depends on; a folder with the state of other settings is refused.
    weights : callable
        The weights to keep, of the trained module as it is.
    trained_before : bool
        Whether the weights it comes with may be the best ones.
    """
    n = len(dataset)
    batch = min(schedule.batch_size, n)
    steps_per_epoch = n // batch
    steps = schedule.epochs * steps_per_epoch
    every = max(1, steps // schedule.validations)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for p in parameters if p.ndim > 1],
                "weight_decay": schedule.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=schedule.learning_rate,
    )
    run = accelerator or _Alone(parameters[0].device, schedule.autocast)
    scaler = run.scaler  # of gradients in half precision
    state_file = folder / "state.pt"
    state = _load_state(state_file, settings)
    if state is not None:
        trained.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        if scaler is not None and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
    history: list[dict[str, float]] = [] if state is None else state["history"]
    best: dict[str, Any] = {"score": math.inf, "weights": {}} if state is None else state["best"]
    step = 0 if state is None else int(state["step"])
    total = 0.0 if state is None else float(state["total"])
    wrapped, prepared = run.prepare(objective, optimizer)
    bar = tqdm(
        total=steps,
        initial=step,
        desc=name,
        disable=not (progress and run.is_main_process),
        mininterval=1.0,
    )
    plain = _plain_attention(trained)

    def better(than: float) -> tuple[float, dict[str, Any]]:
        """The score now, and score and weights if it is the best."""
        trained.eval()
        with torch.no_grad():
            score = validate()
        trained.train()
        kept = {k: v.detach().clone() for k, v in weights().items()} if score < than else {}
        return score, {"score": score, "weights": kept} if score < than else {}

    if trained_before and state is None:
        best = better(math.inf)[1] or best
    trained.train()
    for indices, images in batches(dataset, batch, seed, step, steps, schedule.workers):
        for group in prepared.param_groups:
            group["lr"] = schedule.rate(step, steps)
        generator = torch.Generator().manual_seed(_mixed(seed, step))
        parts = _parts(arguments(indices, images, generator), schedule.accumulate, run)
        # Layers with randomness of their own (dropout) draw from the step's seed as well.
        with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
            torch.random.manual_seed(_mixed(seed, step) + run.process_index)
            for i, part in enumerate(parts):
                last = i == len(parts) - 1
                with nullcontext() if last else run.no_sync(wrapped):
                    with run.autocast():
                        loss = wrapped(*part) / len(parts)
                    run.backward(loss)
                total += float(loss.detach())
        if not math.isfinite(total):
            raise PatchShapError(
                f"{name}: the loss at step {step} is not finite; expected a finite one. Lower the "
                "learning rate, or train without autocast."
            )
        _step(run, prepared, parameters, schedule.clip)
        optimizer.zero_grad()
        step += 1
        bar.update()
        if step % every == 0 or step == steps:
            score, found = better(best["score"])
            best = found or best
            history.append(
                {
                    "step": step,
                    "epoch": step / steps_per_epoch,
                    "loss": total / (step - (history[-1]["step"] if history else 0)),
                    "score": score,
                }
            )
            total = 0.0
            bar.set_postfix(loss=f"{history[-1]['loss']:.4g}", score=f"{score:.4g}")
        if (step % schedule.save_every == 0 or step == steps) and run.is_main_process:
            _save_state(
                state_file,
                {
                    "step": step,
                    "weights": dict(trained.state_dict()),
                    "optimizer": optimizer.state_dict(),
                    "best": best,
                    "history": history,
                    "total": total,
                    "scaler": {} if scaler is None else scaler.state_dict(),
                    "settings": settings,
                },
            )
            _save_log(folder / "log.csv", history)
    bar.close()
    for module in plain:
        module.fused_attn = True
    run.wait_for_everyone()
    if not best["weights"]:
        raise PatchShapError(
            f"{name}: the validation scores are not finite; expected finite ones. Lower the "
            "learning rate, or train without autocast."
        )
    return Fitted(best["weights"], best["score"], history)


def _plain_attention(module: nn.Module) -> list[Any]:
    """Let timm's attention compute its matrices on a CPU; returns the modules that changed.

    The fused kernel's backward pass takes twice the time there (torch 2.15, 64 tokens).
    """
    on_cpu = next(module.parameters()).device.type == "cpu"
    changed: list[Any] = [m for m in module.modules() if on_cpu and getattr(m, "fused_attn", False)]
    for m in changed:
        m.fused_attn = False
    return changed


def _step(run: Any, optimizer: Any, parameters: Sequence[Tensor], clip: float) -> None:
    if isinstance(run, _Alone):
        run.step(optimizer, parameters, clip)
        return
    run.clip_grad_norm_(parameters, clip)
    optimizer.step()


def _mixed(seed: int, step: int) -> int:
    """A seed for one step, far from those of other seeds and steps."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def _parts(arguments: tuple[Any, ...], n_parts: int, run: Any) -> list[tuple[Any, ...]]:
    """The share of this process in a batch, split for accumulation; all on the device."""
    size = len(arguments[0])
    pieces = run.num_processes * n_parts
    if size % pieces:
        raise bad(
            "batch_size",
            f"{size} images for {run.num_processes} processes of {n_parts} parts each",
            f"a multiple of {pieces}",
        )
    length = size // pieces
    starts = [(run.process_index * n_parts + i) * length for i in range(n_parts)]
    return [
        tuple(
            a[s : s + length].to(run.device) if isinstance(a, Tensor) and len(a) == size else a
            for a in arguments
        )
        for s in starts
    ]


def _load_state(file: Path, settings: dict[str, Any]) -> Any:
    """The state that a file holds, if it is there: a digest, and what torch saved."""
    if not file.exists():
        return None
    try:
        stored = file.read_bytes()
        digest, content = stored[:32], stored[32:]
        if digest != _sha256(content):
            raise ValueError("its contents are not those that were written")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        known = dict(state["settings"])
    except Exception as error:
        raise bad(
            "out", f"'{file}'", "the state of a run of this stage", f"Remove it. ({error})"
        ) from error
    check_same(file.parent, known, settings)
    return state


def _save_state(file: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(file, _sha256(buffer.getvalue()) + buffer.getvalue())


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _save_log(file: Path, history: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["step", "epoch", "loss", "score"])
    writer.writeheader()
    writer.writerows(history)
    write_atomically(file, text.getvalue().encode())
