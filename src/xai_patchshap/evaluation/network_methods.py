"""What a trained network says of images, and other methods beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from .._typing import Floats
from ..amortized import ShapleyViT, shapley_values
from ..errors import bad
from ..estimators import KernelShap
from ..masking.patch_masker import PatchMasker
from ..masking.token_dropping import TokenDropping
from .compare import attributed
from .image_games import ImageGames

__all__ = ["METHODS", "Explanations", "Linked", "estimated_reference", "known_reference"]

# Those of other methods last; the first four are of the network.
METHODS = (
    "reference",
    "vit_shapley_amortized",
    "refined",
    "kernel_shap",
    "leave_one_out",
    "rise",
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "attention_rollout",
    "last_attention",
    "random",
)
_MOST_NUMBERS = 2**25  # outputs of coalitions held at once


class Linked(nn.Module):
    """Outputs in the units of the network's game, of whole images and of coalitions."""

    def __init__(self, network: ShapleyViT, dropping: TokenDropping) -> None:
        super().__init__()
        self.dropping, self._link = dropping, network.link

    def forward(self, images: Tensor) -> Tensor:
        return self._link(self.dropping(images).float())


@dataclass(frozen=True)
class Explanations:
    """Attributions of the images' patches for their classes, by all methods."""

    network: ShapleyViT
    games: ImageGames
    reference: Floats
    reference_budget: int | None
    budgets: tuple[int, ...]
    seed: int

    def of(self, method: str) -> Iterator[tuple[str, int | None, Floats]]:
        """Name, evaluations and attributions (N, patches, k), at each of a method's budgets."""
        if method == "reference":
            yield method, self.reference_budget, self.reference
        elif method == "vit_shapley_amortized":
            yield method, 1, self._predicted
        elif method in ("kernel_shap", "refined"):
            yield from self._estimates(method, refine=method == "refined")
        else:
            masks = max(self.budgets)
            is_rise = method == "rise"
            games = self.games if method in ("rise", "leave_one_out") else self._in_small_batches
            # RISE is not given the coalitions that score it.
            seed = self.seed + 3 * is_rise
            made = attributed(method, games, budget=masks, seed=seed)
            yield f"{method} at {masks}" if is_rise else method, made.evaluations, made.values

    @cached_property
    def _in_small_batches(self) -> ImageGames:
        """The same games; gradients and attention take more memory than outputs do."""
        games = self.games
        size = max(1, games.batch_size // 8)
        return ImageGames(
            games.model, PatchMasker(background="drop"), games.images, games.outputs,
            batch_size=size,
        )  # fmt: skip

    @cached_property
    def _predicted(self) -> Floats:
        picks, images = self.games.outputs[:, None], self.games.images
        with torch.no_grad():
            parts = [
                self.network(x)[0].double().cpu()
                for x in torch.split(images, self.games.batch_size)
            ]
        return np.take_along_axis(np.asarray(torch.cat(parts)), picks, axis=2)

    @cached_property
    def _kernel(self) -> tuple[KernelShap, Floats]:
        # Other coalitions than the reference's, whose errors would agree.
        kernel = KernelShap(self.network.n_players, max(self.budgets), self.seed + 2)
        return kernel, self.games(kernel.coalitions)

    def _estimates(self, name: str, refine: bool) -> Iterator[tuple[str, int, Floats]]:
        kernel, values = self._kernel
        for budget in self.budgets:
            found = [
                kernel.estimate(v[:budget], self._predicted[i], self.network.ridge).values
                if refine
                else kernel.estimate(v[:budget]).values
                for i, v in enumerate(values)
            ]
            cost = min(budget, len(kernel.coalitions)) + refine
            yield f"{name} at {budget}", cost, np.stack(found)


def known_reference(reference: ArrayLike, network: ShapleyViT, images: Tensor) -> Floats:
    """Shapley values that were given, or an error."""
    known = np.asarray(reference, dtype=np.float64)
    shape = (len(images), network.n_players, network.n_outputs)
    if known.shape != shape or not np.isfinite(known).all():
        raise bad("reference", f"shape {known.shape}", f"finite numbers of shape {shape}")
    return known


def estimated_reference(
    network: ShapleyViT,
    images: Tensor,
    budget: int,
    seed: int,
    batch_size: int,
    autocast: torch.dtype | None,
) -> Floats:
    """Shapley values (N, patches, K) of the surrogate by KernelSHAP."""
    # In groups of images, since all outputs of all coalitions are held at once.
    group = max(1, _MOST_NUMBERS // (budget * network.n_outputs))
    parts = [
        shapley_values(network, x, budget, seed=seed + 1, batch_size=batch_size, autocast=autocast)
        for x in torch.split(images, group)
    ]
    return np.concatenate(parts)
