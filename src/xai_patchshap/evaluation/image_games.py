"""The games of several images, which all methods of a comparison share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .._typing import Bools, Floats
from ..errors import bad
from ..game import Game, Request
from ..masking.patch_masker import PatchMasker
from ..masking.token_dropping import TokenDropping
from ..models.batch import BatchModel
from ..models.vit_anatomy import vit_patch_size

__all__ = ["ImageGames"]


class ImageGames:
    """The games of N images over the same players, for k outputs of each.

    Parameters
    ----------
    model : torch.nn.Module or callable
        Maps images (B, C, H, W) to outputs (B, K) or (B,).
    masker : PatchMasker
        The players, the same for all images, and what the model sees when they are hidden.
    images : Tensor (N, C, H, W)
    outputs : array_like of int, shape (N, k)
        The outputs of each image that are explained.
    batch_size : int
        Most images in one call of the model.
    autocast : torch.dtype, optional
        Precision of the evaluations of coalitions.

    Examples
    --------
    >>> def model(images):
    ...     return images.sum(dim=(1, 2, 3))
    >>> games = ImageGames(model, PatchMasker(players=2), torch.ones(1, 1, 4, 4), [[0]])
    >>> games.n_players
    4
    >>> games(np.array([[True, False, False, False], [True, True, True, True]])).tolist()
    [[[4.0], [16.0]]]
    """

    def __init__(
        self,
        model: Any,
        masker: PatchMasker,
        images: Tensor,
        outputs: ArrayLike,
        *,
        batch_size: int = 64,
        autocast: torch.dtype | None = None,
    ) -> None:
        if images.dim() != 4 or not len(images):
            raise bad("images", f"shape {tuple(images.shape)}", "(N, C, H, W) with N at least 1")
        self.model, self.outputs = model, _outputs(outputs, len(images))
        self.batch_size = batch_size
        self._whole = BatchModel(model)
        device = self._whole.device
        self.images = images if device is None else images.to(device)
        bound, players = masker.prepare(self.images, "NCHW", vit_patch_size(model))
        first = players[0]
        if first.n < 2:
            raise bad("players", "a single player", "at least two")
        if not all(np.array_equal(p.labels, first.labels) for p in players[1:]):
            mend = "Make the games of one image at a time."
            raise bad("masker", "other players for each image", "the same players", mend)
        # What all methods are given: no method makes players of its own.
        self.masker = PatchMasker(first.labels, masker.background, masker.layout, seed=masker.seed)
        self.plays_patches = masker.players is None
        self.n_players, self.labels = first.n, bound.labels[0][0, 0]
        parts = model.modules() if isinstance(model, nn.Module) else ()
        drops = masker.drops_tokens and not any(isinstance(m, TokenDropping) for m in parts)
        self._played = BatchModel(TokenDropping(model) if drops else model, autocast=autocast)
        request = Request(
            bound.to(self._played.device, self._played.memory_format),
            columns=self.outputs,
            batch_size=batch_size,
            by_size=masker.drops_tokens,
        )
        self._game = Game(self._forward, request)

    def __repr__(self) -> str:
        n, k = self.outputs.shape
        return f"ImageGames(images={n}, players={self.n_players}, outputs={k})"

    def _forward(self, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        scores = self._played(inputs)
        known = scores.shape[1] if scores.dim() == 2 else 1
        if self.outputs.max() >= known:
            raise bad("outputs", int(self.outputs.max()), f"0 to {known - 1}, those of the model")
        return scores

    def __call__(self, coalitions: Bools) -> Floats:
        """Values (N, m, k) of coalitions (m, n) of all images."""
        found = self.values(dict.fromkeys(range(len(self.images)), coalitions))
        return np.stack([found[i] for i in range(len(found))])

    def values(self, coalitions: Mapping[int, Bools]) -> dict[int, Floats]:
        """Values (m, k) of the coalitions (m, n) of each image."""
        for shape in {np.shape(shown) for shown in coalitions.values()}:
            if len(shape) != 2 or shape[1] != self.n_players:
                raise bad("coalitions", f"shape {shape}", f"(m, {self.n_players}) for the players")
        with self._played.running():
            found = self._game.evaluate(coalitions)
        if self._game.interrupted:
            raise KeyboardInterrupt
        return found

    def scores(self, images: Tensor) -> Tensor:
        """Outputs (B, K) of whole images, with gradients where they are enabled."""
        return torch.as_tensor(self._whole((images,))).reshape(len(images), -1)

    def running(self) -> AbstractContextManager[None]:
        """The model in evaluation mode, for whole images."""
        return self._whole.running()

    def per_player(self, maps: Tensor) -> Floats:
        """Sums (N, n) of maps (N, C, H, W) over the pixels of each player, signs kept."""
        flat = maps.detach().double().cpu().sum(dim=1).flatten(1).numpy()
        labels, n = self.labels.cpu().numpy().ravel(), self.n_players
        return np.stack([np.bincount(labels, weights=row, minlength=n) for row in flat])

    @property
    def baseline(self) -> Tensor:
        """The background as images (1 or N, C, H, W); black where tokens are dropped."""
        if self.masker.drops_tokens:
            return torch.zeros_like(self.images[:1])
        return self.masker.baselines(self.images)


def _outputs(given: ArrayLike, n_images: int) -> NDArray[np.int64]:
    """Outputs (N, k) of the images, or an error."""
    outputs = np.asarray(given)
    fits = outputs.ndim == 2 and len(outputs) == n_images and outputs.size
    if not fits or outputs.dtype.kind not in "iu" or outputs.min() < 0:
        came = f"{outputs.dtype} of shape {outputs.shape}"
        expected = f"whole numbers of at least 0, of shape ({n_images}, k): some for each image"
        raise bad("outputs", came, expected)
    return outputs.astype(np.int64)
