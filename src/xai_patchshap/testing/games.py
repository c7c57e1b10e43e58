"""Toy games: models of small images whose Shapley values and interactions are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .._typing import Floats
from ..masking.patch_masker import PatchMasker

__all__ = ["LinearGame", "OnePixelGame", "ProductGame", "ToyGame", "UnanimityGame"]


class ToyGame(nn.Module):
    r"""A sum of products over patches, as a model of images with a known answer.

    With one number :math:`x_i` for each patch, which is 0 where the patch is hidden, output k is
    :math:`\sum_T a_k(T) \prod_{i \in T} x_i`. A product is shared by its patches in equal parts:
    the Shapley value of patch i is :math:`\sum_{T \ni i} a_k(T) \prod_{j \in T} x_j / |T|`.

    Parameters
    ----------
    terms : sequence of (tuple of int, sequence of float)
        Patches of each product, and its factor for each of K outputs.
    grid : (int, int)
        Rows and columns of patches.
    patch_size : int
        Side of a patch in pixels.

    Attributes
    ----------
    masker : PatchMasker
        The patches as players, hidden behind 0.

    Examples
    --------
    >>> game = ToyGame([((0,), [2.0]), ((0, 1), [4.0])], grid=(1, 2))
    >>> game.shapley_values(torch.ones(1, 3, 4, 8))[0, :, 0]
    array([4., 2.])
    """

    terms: list[tuple[tuple[int, ...], Floats]]

    def __init__(
        self,
        terms: Sequence[tuple[Sequence[int], Sequence[float] | Floats]],
        grid: tuple[int, int] = (3, 3),
        patch_size: int = 4,
    ) -> None:
        super().__init__()
        self.grid, self.patch_size = grid, patch_size
        self.terms = [(tuple(t), np.asarray(a, dtype=np.float64)) for t, a in terms]
        self.masker = PatchMasker(players=grid, background=0.0)

    @property
    def n_players(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return len(self.terms[0][1])

    def images(self, n: int = 2, seed: int = 0) -> Tensor:
        """Random images (n, 3, H, W) between 0.1 and 1: no pixel looks hidden."""
        shape = (n, 3, self.grid[0] * self.patch_size, self.grid[1] * self.patch_size)
        return 0.1 + 0.9 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))

    def of_patches(self, images: Tensor) -> Tensor:
        """The number of each patch (N, n_players): its mean."""
        return nn.functional.avg_pool2d(images, self.patch_size).mean(dim=1).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Outputs (N, K)."""
        x = self.of_patches(images)
        products = torch.stack([x[:, list(t)].prod(dim=1) for t, _ in self.terms], dim=1)
        return products @ torch.as_tensor(np.stack([a for _, a in self.terms])).to(products)

    def shapley_values(self, images: Tensor) -> Floats:
        """Shapley values (N, n_players, K) of the patches."""
        values = np.zeros((len(images), self.n_players, self.n_outputs))
        for patches, product in self._products(images):
            values[:, patches] += product[:, None] / len(patches)
        return values

    def interactions(self, images: Tensor) -> Floats:
        """Shapley interactions (N, n_players, n_players, K) of pairs; zeros on the diagonal."""
        values = np.zeros((len(images), self.n_players, self.n_players, self.n_outputs))
        for patches, product in self._products(images):
            for i in patches:
                for j in patches:
                    if i != j:
                        values[:, i, j] += product / (len(patches) - 1)
        return values

    def _products(self, images: Tensor) -> list[tuple[list[int], Floats]]:
        """Patches of each term, and its worth (N, K)."""
        x = self.of_patches(images.double()).numpy()
        return [(list(t), x[:, list(t)].prod(axis=1)[:, None] * a) for t, a in self.terms]


class LinearGame(ToyGame):
    """Every patch counts for itself: its value is its mean times its weight.

    Examples
    --------
    >>> game = LinearGame(n_outputs=2)
    >>> images = game.images()
    >>> bool(np.allclose(game.shapley_values(images).sum(axis=1), game(images)))
    True
    """

    def __init__(
        self, n_outputs: int = 4, grid: tuple[int, int] = (3, 3), patch_size: int = 4
    ) -> None:
        weights = np.random.default_rng(0).normal(size=(grid[0] * grid[1], n_outputs))
        super().__init__([((i,), w) for i, w in enumerate(weights)], grid, patch_size)


class UnanimityGame(ToyGame):
    """1 where all of some patches are seen, else 0: they share 1 in equal parts.

    Examples
    --------
    >>> game = UnanimityGame((0, 4))
    >>> game.shapley_values(game.images(1))[0, :5, 0]
    array([0.5, 0. , 0. , 0. , 0.5])
    """

    def __init__(
        self,
        patches: Sequence[int] = (0, 4, 8),
        grid: tuple[int, int] = (3, 3),
        patch_size: int = 4,
    ) -> None:
        super().__init__([(patches, [1.0])], grid, patch_size)

    def of_patches(self, images: Tensor) -> Tensor:
        """Whether each patch is seen (N, n_players): its mean is not 0."""
        return (super().of_patches(images) != 0).to(images)


class OnePixelGame(ToyGame):
    """The red value of one pixel, all of which is the value of its patch.

    Examples
    --------
    >>> game = OnePixelGame(5, 1)
    >>> images = game.images(1)
    >>> bool(game.shapley_values(images)[0, 3, 0] == images[0, 0, 5, 1])
    True
    """

    def __init__(
        self, row: int = 5, column: int = 6, grid: tuple[int, int] = (3, 3), patch_size: int = 4
    ) -> None:
        self.row, self.column = row, column
        patch = row // patch_size * grid[1] + column // patch_size
        super().__init__([((patch,), [1.0])], grid, patch_size)

    def of_patches(self, images: Tensor) -> Tensor:
        """The value of the pixel (N, n_players), the same for every patch."""
        return images[:, 0, self.row, self.column, None].expand(-1, self.n_players)


class ProductGame(ToyGame):
    """Random products of two patches beside a linear part: patches that work in pairs.

    Examples
    --------
    >>> game = ProductGame(n_outputs=1)
    >>> game.interactions(game.images(1)).shape
    (1, 9, 9, 1)
    """

    def __init__(
        self, n_outputs: int = 4, grid: tuple[int, int] = (3, 3), patch_size: int = 4
    ) -> None:
        rng, n = np.random.default_rng(0), grid[0] * grid[1]
        terms = [((i,), rng.normal(size=n_outputs)) for i in range(n)]
        pairs = [((i, (i + 1) % n), 2 * rng.normal(size=n_outputs)) for i in range(n) if n > 1]
        super().__init__([*terms, *pairs], grid, patch_size)
