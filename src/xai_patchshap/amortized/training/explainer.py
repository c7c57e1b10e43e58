"""The explainer: a network fitted to the Shapley values of the surrogate's game."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..architecture import Architecture
from ..cards import check_card
from ..checkpoints import save_explainer, save_surrogate
from ..network import ShapleyViT
from .cached_tokens import tokens_table
from .cached_values import labels_table, pairs_table
from .data import alone_in_out
from .loop import Stage, fit
from .objectives import FreshPairs, KeptPairs, LabelDistance, Objective
from .recipe import Recipe
from .run import TrainingRun
from .schedule import Schedule, as_settings
from .validation import HeldOutPairs

__all__ = ["train_explainer"]


@alone_in_out
def train_explainer(
    surrogate: nn.Module,
    dataset: Any,
    out: str | Path,
    recipe: Recipe | None = None,
    schedule: Schedule | None = None,
    *,
    validation: Any,
    architecture: Architecture | None = None,
    card: dict[str, Any] | None = None,
    accelerator: Any = None,
    progress: bool = True,
) -> ShapleyViT:
    r"""Train a network that gives all patches' Shapley values in one forward pass.

    Parameters
    ----------
    surrogate : torch.nn.Module
        What :func:`train_surrogate` returns: from images to logits (B, K).
    dataset, validation : torch.utils.data.Dataset
        Items are images (C, H, W), alone or before a label. The same index must always give
        the same image. Of the validation images, the values of 64 fixed pairs of coalitions
        are predicted, by the Shapley values and by the game, if there is one; the weights that
        do so best are kept, by the sum of what both leave unexplained.
    out : path
        Folder of the run: ``explainer.safetensors``, ``surrogate.safetensors`` and their
        cards in the end; ``state.pt``, ``log.csv`` and tables of values on the way. A run
        that was stopped, however, goes on when it is started again.
    recipe : Recipe, optional
        Which network, and what it is fitted to.
    schedule : Schedule, optional
        How long and how fast, and the seed.
    architecture : Architecture, optional
        How to build the surrogate, for its card.
    card : dict, optional
        Anything to say on the card.
    accelerator : accelerate.Accelerator, optional
        For several processes, each with a part of every batch.
    progress : bool

    Returns
    -------
    ShapleyViT
        With the best weights of the run.

    Raises
    ------
    PatchShapError
        If the model or the images do not fit, or ``out`` holds another run.

    Examples
    --------
    >>> import tempfile, timm, torch
    >>> vit = timm.create_model("test_vit", img_size=32, num_classes=3)
    >>> images = list(torch.rand(8, 3, 32, 32))
    >>> network = train_explainer(
    ...     vit, images, tempfile.mkdtemp(), Recipe(n_pairs=2), Schedule(epochs=1, batch_size=4),
    ...     validation=images, progress=False,
    ... )
    >>> values, full = network(images[0][None])
    >>> values.shape
    torch.Size([1, 4, 3])
    """
    recipe, schedule, card = recipe or Recipe(), schedule or Schedule(), check_card(card)
    network = recipe.network(surrogate, schedule.seed)
    run = TrainingRun.of(
        surrogate, dataset, validation, out, schedule, accelerator, progress,
        stage="explainer", probability=recipe.probability, seed=schedule.seed,
    )  # fmt: skip
    network = network.to(run.device)
    run.check_model("surrogate", network.surrogate.model, architecture)
    objective = _objective(network, recipe, run)
    held_out = HeldOutPairs(network, run)
    settings = {**as_settings(schedule), **recipe.settings(network)}
    stage = Stage(
        name="explainer",
        objective=objective,
        trained=network.trained(),
        validate=held_out.score,
        weights=network.trained_state,
        settings={**run.key, **settings},
        is_trained=recipe.start is not None,
    )
    best = fit(stage, run).weights
    network.load_state_dict({**network.state_dict(), **best})
    network.eval()
    with torch.no_grad():
        scores = held_out.unexplained()
    if run.processes.is_main_process:
        file = run.folder / "surrogate.safetensors"
        save_surrogate(network.surrogate.model, file, architecture=architecture)
        said = {
            "recipe": settings,
            "training_images": len(dataset),
            "validation": {"images": len(validation), **scores},
        }
        file_of_network = run.folder / "explainer.safetensors"
        save_explainer(network, file_of_network, surrogate=file, card={**said, **card})
    return network


def _objective(network: ShapleyViT, recipe: Recipe, run: TrainingRun) -> Objective:
    """What a recipe fits the network to; what it keeps on disk is computed now."""
    if recipe.objective == "fastshap" and recipe.fresh:
        return FreshPairs(network, recipe.n_pairs)
    labels = recipe.objective == "labels"
    table = (labels_table if labels else pairs_table)(network, recipe, run)
    tokens = tokens_table(network, run) if recipe.keep_tokens else None
    return (LabelDistance if labels else KeptPairs)(network, table, tokens)
