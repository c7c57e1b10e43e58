"""What networks are fitted to: one class for each objective, with its batches and its loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...masking.token_dropping import TokenDropping
from ..losses import fastshap_loss, game_loss, kernel_pairs
from ..network import ShapleyViT
from ..predicted_game import Prediction
from .table import Table

__all__ = [
    "Divergence",
    "FreshPairs",
    "KeptPairs",
    "LabelDistance",
    "Objective",
    "log_probabilities",
    "uniform_sizes",
]


class Objective(nn.Module):
    """A loss: :meth:`forward` takes what :meth:`arguments` gives for a batch."""

    needs_images = True

    def arguments(
        self, indices: Tensor, images: Tensor, generator: torch.Generator
    ) -> tuple[Any, ...]:
        """Arguments of the loss; of tensors as long as the batch, each process gets a part."""
        raise NotImplementedError


class Divergence(Objective):
    """Mean divergence of the targets from what a student makes of coalitions.

    Parameters
    ----------
    student : TokenDropping
    targets : Table
        Logarithms of the probabilities of whole images.
    n_players : int
    n_sizes : int
        Different coalition sizes in one batch.
    """

    def __init__(
        self, student: TokenDropping, targets: Table, n_players: int, n_sizes: int
    ) -> None:
        super().__init__()
        self.student, self._targets = student, targets
        self._n_players, self._n_sizes = n_players, n_sizes

    def arguments(
        self, indices: Tensor, images: Tensor, generator: torch.Generator
    ) -> tuple[Any, ...]:
        coalitions = uniform_sizes(len(images), self._n_players, self._n_sizes, generator)
        return images, self._targets.tensors(indices)["targets"], coalitions

    def forward(self, images: Tensor, targets: Tensor, coalitions: Tensor) -> Tensor:
        rows = torch.arange(len(images), device=images.device)
        outputs = self.student.coalition_outputs(images, rows, coalitions)
        return nn.functional.kl_div(
            log_probabilities(outputs.float()), targets, reduction="batchmean", log_target=True
        )


class FreshPairs(Objective):
    """Least squares on new pairs of coalitions in every step, whose values are computed there."""

    def __init__(self, network: ShapleyViT, n_pairs: int) -> None:
        super().__init__()
        self.network, self._n_pairs = network, n_pairs

    def arguments(
        self, indices: Tensor, images: Tensor, generator: torch.Generator
    ) -> tuple[Any, ...]:
        n = self.network.n_players
        # One size for each pair, shared by the images: rectangular batches.
        sizes = kernel_pairs(1, self._n_pairs, n, generator).sum(-1)[0]
        ranks = torch.rand(len(images), self._n_pairs, n, generator=generator)
        halves = ranks.argsort(-1).argsort(-1) < sizes[:, None]
        return images, halves, _seed(generator)

    def forward(self, images: Tensor, halves: Tensor, seed: int) -> Tensor:
        with torch.no_grad():
            odd = self.network.odd_values(images, halves)
        return _least_squares(self.network.predict(images), halves, odd, seed)


class _OnDisk(Objective):
    """What an image is fitted to comes from a table; its tokens may, too.

    Parameters
    ----------
    network : ShapleyViT
    table : Table
        What the objective keeps of each image.
    tokens : Table, optional
        What the frozen blocks make of each image.
    """

    def __init__(self, network: ShapleyViT, table: Table, tokens: Table | None = None) -> None:
        super().__init__()
        self.network, self._table, self._tokens = network, table, tokens
        self.needs_images = tokens is None

    def kept_tokens(self, indices: Tensor) -> tuple[Tensor, ...]:
        return () if self._tokens is None else tuple(self._tokens.tensors(indices).values())

    def predicted(self, images: Tensor, kept: tuple[Tensor, ...]) -> Prediction:
        """The prediction for images, of which tokens and logits may be known already."""
        if not kept:
            return self.network.predict(images)
        tokens, logits = kept
        return self.network.predict_from(tokens.float().unbind(1), logits)


class KeptPairs(_OnDisk):
    """Least squares on pairs of coalitions that were evaluated once."""

    def arguments(
        self, indices: Tensor, images: Tensor, generator: torch.Generator
    ) -> tuple[Any, ...]:
        rows = self._table.rows(indices.numpy())
        halves = np.unpackbits(rows["halves"], axis=2, count=self.network.n_players)
        odd, kept = torch.from_numpy(rows["odd"]), self.kept_tokens(indices)
        return images, torch.from_numpy(halves).bool(), odd, _seed(generator), *kept

    def forward(
        self, images: Tensor, halves: Tensor, odd: Tensor, seed: int, *kept: Tensor
    ) -> Tensor:
        return _least_squares(self.predicted(images, kept), halves, odd, seed)


class LabelDistance(_OnDisk):
    """Squared distance to labels, summed over players and outputs."""

    def arguments(
        self, indices: Tensor, images: Tensor, generator: torch.Generator
    ) -> tuple[Any, ...]:
        labels = self._table.tensors(indices)["labels"]
        return images, labels, *self.kept_tokens(indices)

    def forward(self, images: Tensor, labels: Tensor, *kept: Tensor) -> Tensor:
        values = self.predicted(images, kept).values()
        return (values - labels).square().sum((1, 2)).mean()


def _least_squares(prediction: Prediction, halves: Tensor, odd: Tensor, seed: int) -> Tensor:
    if prediction.game is None:
        return fastshap_loss(prediction.values(), halves, odd)
    return game_loss(prediction, halves, odd, seed)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def log_probabilities(logits: Tensor) -> Tensor:
    """Of each class; a single logit has a class of its own and the other."""
    if logits.shape[-1] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], dim=-1)
    return logits.log_softmax(-1)


def uniform_sizes(n_games: int, n_players: int, n_sizes: int, generator: torch.Generator) -> Tensor:
    """Coalitions (n_games, n_players), sizes uniform on 0..n_players, ``n_sizes`` of them."""
    n_sizes = min(n_sizes, n_games)
    share = (torch.arange(n_sizes) + torch.rand(n_sizes, generator=generator)) / n_sizes
    sizes = (share * (n_players + 1)).long().clamp(max=n_players)
    # In any order: the last sizes of a batch that n_sizes does not divide are no smaller ones.
    sizes = sizes[torch.randperm(n_sizes, generator=generator)]
    size = sizes[torch.arange(n_games) % n_sizes]
    ranks = torch.rand(n_games, n_players, generator=generator).argsort(1).argsort(1)
    return ranks < size[:, None]
