"""The surrogate: a copy of the classifier, fine-tuned to cope with missing patches."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..._validation import checked, whole
from ...masking.token_dropping import TokenDropping
from ..architecture import Architecture
from ..cards import check_card
from ..checkpoints import save_surrogate
from .data import alone_in_out
from .loop import Stage, fit
from .objectives import Divergence, log_probabilities, uniform_sizes
from .run import TrainingRun
from .schedule import Schedule, as_settings
from .table import Table

__all__ = ["train_surrogate"]

_VALIDATION_SIZES = 16


@alone_in_out
@checked(n_sizes=whole(1))
def train_surrogate(
    classifier: nn.Module,
    dataset: Any,
    out: str | Path,
    schedule: Schedule | None = None,
    *,
    validation: Any,
    n_sizes: int = 8,
    architecture: Architecture | None = None,
    card: dict[str, Any] | None = None,
    accelerator: Any = None,
    progress: bool = True,
) -> nn.Module:
    r"""Fine-tune a classifier on random coalitions towards its own output for whole images.

    Minimises the Kullback-Leibler divergence of the surrogate's output for the patches of a
    random coalition from the classifier's for the whole image, over sizes that are uniform on
    0..n: at its minimum the surrogate is the conditional expectation of the classifier given
    the patches seen (Covert, Kim & Lee, ICLR 2023, equation 4). The tokens of hidden patches
    are dropped, not masked.

    Parameters
    ----------
    classifier : torch.nn.Module
        A ``VisionTransformer`` of timm or torchvision, or a module that holds exactly one,
        from images to logits (B, K). It is not modified.
    dataset, validation : torch.utils.data.Dataset
        Items are images (C, H, W), alone or before a label, as the classifier takes them.
        The same index must always give the same image.
    out : path
        Folder of the run: ``surrogate.safetensors`` and its card ``surrogate.json`` in the
        end; ``state.pt`` and ``log.csv`` on the way. A run that was stopped, however, goes on
        when it is started again and ends as if nothing had happened.
    schedule : Schedule, optional
        How long and how fast, and the seed.
    n_sizes : int
        Different coalition sizes in one batch. Images of a size make one rectangular batch.
    architecture : Architecture, optional
        How to build the classifier; with it on the card, the checkpoint loads by itself.
    card : dict, optional
        Anything to say on the card.
    accelerator : accelerate.Accelerator, optional
        For several processes, each with a part of every batch.
    progress : bool

    Returns
    -------
    torch.nn.Module
        The surrogate with the best weights of the run: a module like ``classifier``.

    Raises
    ------
    PatchShapError
        If the model or the images do not fit, or ``out`` holds another run.

    Examples
    --------
    >>> import tempfile, timm, torch
    >>> vit = timm.create_model("test_vit", img_size=32, num_classes=3)
    >>> images = list(torch.rand(8, 3, 32, 32))
    >>> surrogate = train_surrogate(
    ...     vit, images, tempfile.mkdtemp(), Schedule(epochs=1, batch_size=4),
    ...     validation=images, progress=False,
    ... )
    >>> surrogate(images[0][None]).shape
    torch.Size([1, 3])
    """
    card, schedule = check_card(card), schedule or Schedule()
    run = TrainingRun.of(
        classifier, dataset, validation, out, schedule, accelerator, progress, stage="surrogate"
    )
    teacher = copy.deepcopy(classifier).to(run.device).eval().requires_grad_(False)
    student = TokenDropping(copy.deepcopy(classifier).requires_grad_(True)).to(run.device)
    first = run.check_model("classifier", teacher, architecture)
    n_players = math.prod(student.grid_of(first))
    # Where tokens cannot be dropped, this says so before any work.
    with torch.no_grad():
        student.coalition_outputs(first, torch.zeros(1).long(), torch.arange(n_players)[None] > 0)
    objective = Divergence(student, _targets_table(teacher, run), n_players, n_sizes)
    settings = {**as_settings(schedule), "n_sizes": n_sizes}
    stage = Stage(
        name="surrogate",
        objective=objective,
        trained=student,
        validate=_HeldOutDivergence(objective, teacher, n_players, run),
        weights=lambda: student.model.state_dict(),
        settings={**run.key, **settings},
    )
    fitted = fit(stage, run)
    student.model.load_state_dict(fitted.weights)
    surrogate = student.model.eval()
    if run.processes.is_main_process:
        said = {
            "recipe": settings,
            "training_images": len(dataset),
            "validation": {"images": len(validation), "divergence": fitted.score},
        }
        file = run.folder / "surrogate.safetensors"
        save_surrogate(surrogate, file, architecture=architecture, card={**said, **card})
    return surrogate


def _targets(teacher: nn.Module, run: TrainingRun, images: Tensor) -> Tensor:
    """Logarithms of the classifier's probabilities for whole images (B, C, H, W)."""
    parts = torch.split(images.to(run.device), 128)
    with torch.no_grad(), run.precision():
        return torch.cat([log_probabilities(teacher(x.clone()).float()) for x in parts])


def _targets_table(teacher: nn.Module, run: TrainingRun) -> Table:
    def computed(indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {"targets": _targets(teacher, run, run.images(indices)).cpu().numpy()}

    return run.table("targets", len(run.dataset), computed, ["targets"], title="classifier")


class _HeldOutDivergence:
    """The score of a surrogate: its divergence on fixed coalitions of the validation images."""

    def __init__(
        self, objective: Divergence, teacher: nn.Module, n_players: int, run: TrainingRun
    ) -> None:
        self._objective, self._device = objective, run.device
        self._images = images = run.held_out()
        self._targets = _targets(teacher, run, images)
        generator = torch.Generator().manual_seed(run.schedule.seed)
        n_draws = max(2, -(-2 * _VALIDATION_SIZES // len(images)))
        self._draws = [
            uniform_sizes(len(images), n_players, _VALIDATION_SIZES, generator)
            for _ in range(n_draws)
        ]

    def __call__(self) -> float:
        total, n = 0.0, len(self._images)
        for coalitions in self._draws:
            for rows in torch.split(torch.arange(n), 256):
                batch = (
                    t[rows].to(self._device) for t in (self._images, self._targets, coalitions)
                )
                total += float(self._objective(*batch)) * len(rows)
        return total / (len(self._draws) * n)
