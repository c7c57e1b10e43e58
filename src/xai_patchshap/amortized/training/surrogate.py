"""The surrogate: the classifier made at home with missing patches."""

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
from .data import alone_in_out, check_takes, images_of
from .digests import digests_of, model_digest
from .fit import Fitted, fit
from .schedule import LARGEST_SEED, Schedule, as_settings, precision
from .table import Table

__all__ = ["train_surrogate"]

_VALIDATION_SIZES = 16


@alone_in_out
@checked(n_sizes=whole(1), seed=whole(0, LARGEST_SEED))
def train_surrogate(
    classifier: nn.Module,
    dataset: Any,
    out: str | Path,
    *,
    validation: Any,
    schedule: Schedule | None = None,
    architecture: Architecture | None = None,
    n_sizes: int = 8,
    seed: int = 0,
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
    architecture : Architecture, optional
        How to build the classifier; with it on the card, the checkpoint loads by itself.
    n_sizes : int
        Different coalition sizes in one batch. Images of a size make one rectangular batch.
    seed : int
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
    ...     vit, images, tempfile.mkdtemp(), validation=images, progress=False,
    ...     schedule=Schedule(epochs=1, batch_size=4),
    ... )
    >>> surrogate(images[0][None]).shape
    torch.Size([1, 3])
    """
    folder, schedule, card = Path(out), schedule or Schedule(), check_card(card)
    teacher = copy.deepcopy(classifier).eval().requires_grad_(False)
    student = TokenDropping(copy.deepcopy(classifier).requires_grad_(True))
    if accelerator is not None:
        teacher, student = teacher.to(accelerator.device), student.to(accelerator.device)
    device = next(student.parameters()).device
    main = accelerator is None or accelerator.is_main_process
    described = {
        "stage": "surrogate",
        **digests_of(dataset, validation, schedule, progress and main),
        "weights": model_digest(classifier),
        "autocast": str(schedule.autocast),
    }
    first = images_of(dataset, [0], device)
    check_takes("classifier", teacher, first)
    if architecture is not None:
        architecture.check_builds(teacher, first)
    n_players = math.prod(student.grid_of(first))
    # Where tokens cannot be dropped, this says so before any work.
    with torch.no_grad():
        student.coalition_outputs(first, torch.zeros(1).long(), torch.arange(n_players)[None] > 0)

    def targets_of(images: Tensor) -> Tensor:
        with torch.no_grad(), precision(device, schedule.autocast):
            return torch.cat(
                [log_probabilities(teacher(x.clone()).float()) for x in torch.split(images, 128)]
            )

    def computed(indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {"targets": targets_of(images_of(dataset, indices, device)).cpu().numpy()}

    table = Table(
        folder / "targets", len(dataset), computed, ["targets"], described,
        title="classifier", accelerator=accelerator, progress=progress,
    )  # fmt: skip
    objective = _Divergence(student)

    def arguments(indices: Tensor, images: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
        coalitions = _uniform_sizes(len(images), n_players, n_sizes, generator)
        return images, torch.from_numpy(table.rows(indices.numpy())["targets"]), coalitions

    held_out = images_of(validation, range(len(validation)))
    held_targets = targets_of(held_out.to(device))
    generator = torch.Generator().manual_seed(seed)
    n_draws = max(2, -(-2 * _VALIDATION_SIZES // len(held_out)))
    fixed = [
        _uniform_sizes(len(held_out), n_players, _VALIDATION_SIZES, generator)
        for _ in range(n_draws)
    ]

    def validate() -> float:
        total = 0.0
        for coalitions in fixed:
            for rows in torch.split(torch.arange(len(held_out)), 256):
                batch = (held_out[rows].to(device), held_targets[rows], coalitions[rows].to(device))
                total += float(objective(*batch)) * len(rows)
        return total / (n_draws * len(held_out))

    fitted: Fitted = fit(
        objective,
        student,
        dataset,
        validate,
        folder,
        {**described, **as_settings(schedule), "n_sizes": n_sizes, "seed": seed},
        schedule,
        arguments=arguments,
        weights=lambda: student.model.state_dict(),
        seed=seed,
        name="surrogate",
        accelerator=accelerator,
        progress=progress,
    )
    student.model.load_state_dict(fitted.weights)
    surrogate = student.model.eval()
    if main:
        save_surrogate(
            surrogate,
            folder / "surrogate.safetensors",
            architecture=architecture,
            card={
                "recipe": {**as_settings(schedule), "n_sizes": n_sizes, "seed": seed},
                "training_images": len(dataset),
                "validation": {"images": len(validation), "divergence": fitted.score},
                **card,
            },
        )
    return surrogate


class _Divergence(nn.Module):
    """Mean divergence of the targets from what the student makes of coalitions."""

    def __init__(self, student: TokenDropping) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor, targets: Tensor, coalitions: Tensor) -> Tensor:
        rows = torch.arange(len(images), device=images.device)
        outputs = self.student.coalition_outputs(images, rows, coalitions)
        return nn.functional.kl_div(
            log_probabilities(outputs.float()), targets, reduction="batchmean", log_target=True
        )


def log_probabilities(logits: Tensor) -> Tensor:
    """Of each class; a single logit has a class of its own and the other."""
    if logits.shape[-1] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], dim=-1)
    return logits.log_softmax(-1)


def _uniform_sizes(
    n_games: int, n_players: int, n_sizes: int, generator: torch.Generator
) -> Tensor:
    """Coalitions (n_games, n_players), sizes uniform on 0..n_players, ``n_sizes`` of them."""
    n_sizes = min(n_sizes, n_games)
    share = (torch.arange(n_sizes) + torch.rand(n_sizes, generator=generator)) / n_sizes
    sizes = (share * (n_players + 1)).long().clamp(max=n_players)
    # In any order: the last sizes of a batch that n_sizes does not divide are no smaller ones.
    sizes = sizes[torch.randperm(n_sizes, generator=generator)]
    size = sizes[torch.arange(n_games) % n_sizes]
    ranks = torch.rand(n_games, n_players, generator=generator).argsort(1).argsort(1)
    return ranks < size[:, None]
