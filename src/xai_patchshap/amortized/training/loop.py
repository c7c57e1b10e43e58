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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..._files import write_atomically
from ...errors import PatchShapError, bad
from .data import NoImages, batches
from .objectives import Objective
from .run import TrainingRun
from .schedule import Schedule
from .single_process import SingleProcess
from .table import check_same

__all__ = ["Fitted", "Stage", "fit"]


@dataclass(frozen=True)
class Fitted:
    """What a finished run leaves: the best weights, their score, and the log."""

    weights: dict[str, Tensor]
    score: float
    history: list[dict[str, float]]


@dataclass(frozen=True)
class Stage:
    """What is trained, and how.

    Attributes
    ----------
    name : str
    objective : Objective
        The loss of a batch; it holds ``trained``.
    trained : torch.nn.Module
    validate : callable
        A score, the lower the better.
    weights : callable
        The weights to keep, of the trained module as it is.
    settings : dict
        All that the result depends on; a folder with the state of other settings is refused.
    is_trained : bool
        Whether the weights it begins with may be the best ones.
    """

    name: str
    objective: Objective
    trained: nn.Module
    validate: Callable[[], float]
    weights: Callable[[], dict[str, Tensor]]
    settings: dict[str, Any]
    is_trained: bool = False


def fit(stage: Stage, run: TrainingRun) -> Fitted:
    """Train, from where the folder's state is, and find the best weights."""
    return _Loop(stage, run).run()


class _Loop:
    """The loop, and all that its steps change."""

    def __init__(self, stage: Stage, run: TrainingRun) -> None:
        self._stage, self._run, schedule = stage, run, run.schedule
        self._processes = run.processes
        n = len(run.dataset)
        self._batch = min(schedule.batch_size, n)
        self._steps_per_epoch = n // self._batch
        self._n_steps = schedule.epochs * self._steps_per_epoch
        self._parameters = [p for p in stage.trained.parameters() if p.requires_grad]
        optimizer = _optimizer(self._parameters, schedule)
        self._scaler = self._processes.scaler  # of gradients in half precision
        self._file = run.folder / "state.pt"
        state = _load_state(self._file, stage.settings)
        self._is_new = state is None
        if state is None:
            state = {"step": 0, "total": 0.0, "history": [], "best": {}}
        else:
            stage.trained.load_state_dict(state["weights"])
            optimizer.load_state_dict(state["optimizer"])
            if self._scaler is not None and state.get("scaler"):
                self._scaler.load_state_dict(state["scaler"])
        self._step, self._total = int(state["step"]), float(state["total"])
        self._history: list[dict[str, float]] = state["history"]
        self._best: dict[str, Any] = state["best"] or {"score": math.inf, "weights": {}}
        self._objective, self._optimizer = self._processes.prepare(stage.objective, optimizer)

    def run(self) -> Fitted:
        stage, schedule, dataset = self._stage, self._run.schedule, self._run.dataset
        if not stage.objective.needs_images:
            dataset = NoImages(len(dataset))
        every = max(1, self._n_steps // schedule.validations)
        with _plain_attention(stage.trained), self._bar() as bar:
            if stage.is_trained and self._is_new:
                self._validate()
            stage.trained.train()
            for indices, images in batches(
                dataset, self._batch, schedule.seed, self._step, self._n_steps, schedule.workers
            ):
                self._train(indices, images)
                bar.update()
                is_last = self._step == self._n_steps
                if self._step % every == 0 or is_last:
                    row = self._record()
                    bar.set_postfix(loss=f"{row['loss']:.4g}", score=f"{row['score']:.4g}")
                if self._step % schedule.save_every == 0 or is_last:
                    self._save()
        self._processes.wait_for_everyone()
        if not self._best["weights"]:
            raise self._not_finite("the validation scores are", "finite ones")
        return Fitted(self._best["weights"], self._best["score"], self._history)

    def _bar(self) -> Any:
        return tqdm(
            total=self._n_steps,
            initial=self._step,
            desc=self._stage.name,
            disable=not self._run.progress,
            mininterval=1.0,
        )

    def _train(self, indices: Tensor, images: Tensor) -> None:
        """One step, in which all that is random depends on the seed and the step's number."""
        processes, schedule = self._processes, self._run.schedule
        for group in self._optimizer.param_groups:
            group["lr"] = schedule.rate(self._step, self._n_steps)
        seed = _mixed(schedule.seed, self._step)
        generator = torch.Generator().manual_seed(seed)
        arguments = self._stage.objective.arguments(indices, images, generator)
        parts = _parts(arguments, schedule.accumulate, processes)
        # Layers with randomness of their own (dropout) draw from the step's seed as well.
        device = processes.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.random.manual_seed(seed + processes.process_index)
            for i, part in enumerate(parts):
                last = i == len(parts) - 1
                with nullcontext() if last else processes.no_sync(self._objective):
                    with processes.autocast():
                        loss = self._objective(*part) / len(parts)
                    processes.backward(loss)
                self._total += float(loss.detach())
        if not math.isfinite(self._total):
            raise self._not_finite(f"the loss at step {self._step} is", "a finite one")
        if isinstance(processes, SingleProcess):
            processes.step(self._optimizer, self._parameters, schedule.clip)
        else:
            processes.clip_grad_norm_(self._parameters, schedule.clip)
            self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1

    def _validate(self) -> float:
        """The score now; weights that are the best so far are kept."""
        trained = self._stage.trained
        trained.eval()
        with torch.no_grad():
            score = self._stage.validate()
        trained.train()
        if score < self._best["score"]:
            weights = {k: v.detach().clone() for k, v in self._stage.weights().items()}
            self._best = {"score": score, "weights": weights}
        return score

    def _record(self) -> dict[str, float]:
        """A row of the log: the score now, and the mean loss since the last."""
        score = self._validate()
        since = self._step - (self._history[-1]["step"] if self._history else 0)
        row = {
            "step": self._step,
            "epoch": self._step / self._steps_per_epoch,
            "loss": self._total / since,
            "score": score,
        }
        self._history.append(row)
        self._total = 0.0
        return row

    def _save(self) -> None:
        if not self._processes.is_main_process:
            return
        state = {
            "step": self._step,
            "weights": dict(self._stage.trained.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "history": self._history,
            "total": self._total,
            "scaler": {} if self._scaler is None else self._scaler.state_dict(),
            "settings": self._stage.settings,
        }
        _save_state(self._file, state)
        _save_log(self._file.with_name("log.csv"), self._history)

    def _not_finite(self, what: str, expected: str) -> PatchShapError:
        return PatchShapError(
            f"{self._stage.name}: {what} not finite; expected {expected}. Lower the learning "
            "rate, or train without autocast."
        )


def _optimizer(parameters: Sequence[Tensor], schedule: Schedule) -> torch.optim.Optimizer:
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": schedule.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=schedule.learning_rate,
    )


@contextmanager
def _plain_attention(module: nn.Module) -> Iterator[None]:
    """Let timm's attention compute its matrices on a CPU.

    The fused kernel's backward pass takes twice the time there (torch 2.15, 64 tokens).
    """
    on_cpu = next(module.parameters()).device.type == "cpu"
    changed: list[Any] = [m for m in module.modules() if on_cpu and getattr(m, "fused_attn", False)]
    for m in changed:
        m.fused_attn = False
    try:
        yield
    finally:
        for m in changed:
            m.fused_attn = True


def _mixed(seed: int, step: int) -> int:
    """A seed for one step, far from those of other seeds and steps."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def _parts(arguments: tuple[Any, ...], n_parts: int, processes: Any) -> list[tuple[Any, ...]]:
    """The share of this process in a batch, split for accumulation; all on the device."""
    size = len(arguments[0])
    pieces = processes.num_processes * n_parts
    if size % pieces:
        raise bad(
            "batch_size",
            f"{size} images for {processes.num_processes} processes of {n_parts} parts each",
            f"a multiple of {pieces}",
        )
    length = size // pieces
    starts = [(processes.process_index * n_parts + i) * length for i in range(n_parts)]

    def part(a: Any, start: int) -> Any:
        is_split = isinstance(a, Tensor) and len(a) == size
        return a[start : start + length].to(processes.device) if is_split else a

    return [tuple(part(a, start) for a in arguments) for start in starts]


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
