"""The run of one stage: its folder, its images, its processes, and what tells it from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..architecture import Architecture
from .data import check_takes, images_of
from .digests import digests_of, model_digest
from .schedule import Schedule, precision
from .single_process import SingleProcess
from .table import Compute, Table

__all__ = ["TrainingRun"]


@dataclass(frozen=True)
class TrainingRun:
    """Where a stage is trained, on what and by whom.

    Attributes
    ----------
    folder : Path
    dataset, validation : torch.utils.data.Dataset
    schedule : Schedule
    key : dict
        Digests of images and weights, and the settings that what is kept on disk depends on.
    processes : accelerate.Accelerator or SingleProcess
    progress : bool
        Whether this process shows bars.
    """

    folder: Path
    dataset: Any
    validation: Any
    schedule: Schedule
    key: dict[str, Any]
    processes: Any
    progress: bool

    @classmethod
    def of(
        cls,
        model: nn.Module,
        dataset: Any,
        validation: Any,
        out: str | Path,
        schedule: Schedule,
        accelerator: Any,
        progress: bool,
        **settings: Any,
    ) -> TrainingRun:
        """The run of a stage that begins from a model; all images are looked at once."""
        device = next(model.parameters()).device
        processes = accelerator or SingleProcess(device, schedule.autocast)
        progress = progress and processes.is_main_process
        key = {
            **settings,
            **digests_of(dataset, validation, schedule, progress),
            "weights": model_digest(model),
            "autocast": str(schedule.autocast),
        }
        return cls(Path(out), dataset, validation, schedule, key, processes, progress)

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        device: torch.device = self.processes.device
        return device

    def images(self, indices: Any) -> Tensor:
        """Training images (B, C, H, W) on the device."""
        return images_of(self.dataset, indices, self.device)

    def held_out(self) -> Tensor:
        """All validation images (B, C, H, W), on the CPU."""
        return images_of(self.validation, range(len(self.validation)))

    def precision(self) -> Any:
        """Context of the precision that the schedule asks for."""
        return precision(self.device, self.schedule.autocast)

    def table(
        self,
        name: str,
        n_rows: int,
        compute: Compute,
        columns: Sequence[str],
        title: str | None = None,
        **settings: Any,
    ) -> Table:
        """Numbers that are computed once for each image; what else they depend on by name."""
        return Table(
            self.folder / name,
            n_rows,
            compute,
            columns,
            {**self.key, **settings},
            title=title or name,
            accelerator=self.processes,
            progress=self.progress,
        )

    def check_model(self, what: str, model: nn.Module, architecture: Architecture | None) -> Tensor:
        """Raise unless a model takes the images and is of an architecture; the first image."""
        first = self.images([0])
        check_takes(what, model, first)
        if architecture is not None:
            architecture.check_builds(model, first)
        return first
