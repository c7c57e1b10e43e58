"""How an explainer network is validated: what it leaves unexplained of held-out images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..losses import fastshap_loss, kernel_pairs
from ..network import ShapleyViT
from .cached_values import odd_values
from .run import TrainingRun

__all__ = ["HeldOutPairs"]

_PAIRS = 64
_SEED = 2**31


class HeldOutPairs:
    """Fixed pairs of coalitions of the validation images, and their values, kept on disk."""

    def __init__(self, network: ShapleyViT, run: TrainingRun) -> None:
        self._network, self._device, self._images = network, run.device, run.held_out()
        n, generator = len(self._images), torch.Generator().manual_seed(_SEED)
        self._halves = kernel_pairs(n, _PAIRS, network.n_players, generator)

        def computed(indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
            rows = torch.from_numpy(indices)
            odd = odd_values(network, run, self._images[rows], self._halves[rows])
            return {"odd": odd.numpy()}

        table = run.table("validation", n, computed, ["odd"])
        self._odd = table.tensors(torch.arange(n))["odd"]

    def score(self) -> float:
        """The sum of what values, and a game, leave unexplained; the lower the better."""
        return sum(self.unexplained().values())

    def unexplained(self) -> dict[str, float]:
        """Shares of the variance of the pairs that values, and a game, do not explain."""
        errors: dict[str, float] = {}
        whole = float(self._odd.square().sum(-1).mean() * len(self._odd))
        for rows in torch.split(torch.arange(len(self._odd)), 64):
            images, halves, odd = (
                t[rows].to(self._device) for t in (self._images, self._halves, self._odd)
            )
            prediction = self._network.predict(images)
            found = {"unexplained": fastshap_loss(prediction.values(), halves, odd)}
            if (game := prediction.game) is not None:
                left = game.values(halves) - game.values(~halves) - odd
                found["unexplained_by_game"] = left.square().sum(-1).mean()
            for name, error in found.items():
                errors[name] = errors.get(name, 0.0) + error.item() * len(rows) / whole
        return errors
