"""Values of the surrogate that are kept on disk: of pairs of coalitions, and labels of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import bad
from ..losses import kernel_pairs, unbiased_values
from ..network import ShapleyViT
from .digests import code_digest
from .recipe import Recipe
from .run import TrainingRun
from .table import Table

__all__ = ["labels_table", "odd_values", "pairs_table"]

_AT_ONCE = 128


def pairs_table(network: ShapleyViT, recipe: Recipe, run: TrainingRun) -> Table:
    """Random pairs of coalitions of each image, and their values."""

    def computed(indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        halves, odd = _evaluated_pairs(network, recipe, run, indices)
        return {"halves": np.packbits(halves.numpy(), axis=2), "odd": odd.numpy()}

    return _table("pairs", ["halves", "odd"], computed, recipe, run)


def labels_table(network: ShapleyViT, recipe: Recipe, run: TrainingRun) -> Table:
    """Unbiased Shapley values of each image, from a few pairs."""

    def computed(indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        halves, odd = _evaluated_pairs(network, recipe, run, indices)
        images = torch.split(run.images(indices), _AT_ONCE)
        with torch.no_grad(), run.precision():
            full = torch.cat([network.whole_logits(x) for x in images])
        difference = network.link(full) - network.null
        return {"labels": unbiased_values(halves, odd, difference.cpu()).numpy()}

    return _table("labels", ["labels"], computed, recipe, run)


def odd_values(network: ShapleyViT, run: TrainingRun, images: Tensor, halves: Tensor) -> Tensor:
    """:meth:`ShapleyViT.odd_values` in the precision of a run, on the CPU."""
    with torch.no_grad(), run.precision():
        return network.odd_values(images.to(run.device), halves.to(run.device)).cpu()


def _table(name: str, columns: list[str], computed: Any, recipe: Recipe, run: TrainingRun) -> Table:
    settings: dict[str, Any] = {"n_pairs": recipe.n_pairs, "objective": recipe.objective}
    if recipe.evaluate is not None:
        settings["evaluate"] = code_digest(recipe.evaluate)
    return run.table(name, len(run.dataset), computed, columns, **settings)


def _evaluated_pairs(
    network: ShapleyViT, recipe: Recipe, run: TrainingRun, indices: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """One half of each pair (B, m, n), and its value minus its complement's (B, m, K)."""
    images, m = run.images(indices), recipe.n_pairs
    entropy = np.random.SeedSequence([run.schedule.seed, int(indices[0]), 2])
    mixed = int(entropy.generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(mixed)
    halves = kernel_pairs(len(images), m, network.n_players, generator)
    if recipe.evaluate is None:
        return halves, odd_values(network, run, images, halves)
    both = network.link(_logits_by(recipe.evaluate, network, images, halves))
    return halves, both[:, :m] - both[:, m:]


def _logits_by(
    evaluate: Callable[[Tensor, Tensor], Tensor],
    network: ShapleyViT,
    images: Tensor,
    halves: Tensor,
) -> Tensor:
    """Logits (B, 2 m, K) of pairs of coalitions (B, m, n) by another function."""
    both = torch.cat([halves, ~halves], 1).to(images.device)
    parts = []
    for some, coalitions in zip(
        torch.split(images, _AT_ONCE), torch.split(both, _AT_ONCE), strict=True
    ):
        with torch.no_grad():
            found = torch.as_tensor(evaluate(some.clone(), coalitions)).detach().cpu().float()
        wanted = (*coalitions.shape[:2], network.n_outputs)
        if found.shape != wanted or not bool(found.isfinite().all()):
            what = "" if found.shape != wanted else ", some not finite"
            raise bad(
                "evaluate",
                f"a function that gives {tuple(found.shape)}{what}",
                f"one that gives finite logits {wanted} for images {tuple(some.shape)} and "
                f"coalitions {tuple(coalitions.shape)}",
            )
        parts.append(found)
    return torch.cat(parts)
