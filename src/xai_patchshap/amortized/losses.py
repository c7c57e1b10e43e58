r"""Training objectives: what a network that predicts Shapley values is fitted to.

With a coalition :math:`S` enters its complement. The sum of their two residuals does not
depend on an efficient phi; what is left of the weighted least squares whose minimum the
Shapley values are (Charnes et al., 1988) is the regression of the odd part
:math:`v(S) - v(N \setminus S)` on the signs :math:`z_i = \pm 1`, with :math:`z_i = 1` for
:math:`i \in S`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..estimators.coalitions.shapley_kernel import shapley_kernel_sizes
from .predicted_game import Prediction

__all__ = [
    "fastshap_loss",
    "game_loss",
    "kernel_pairs",
    "unbiased_values",
]


_SIZES = 16  # of coalitions, to estimate a predicted game's Shapley values in training


def kernel_pairs(n_games: int, n_pairs: int, n_players: int, generator: torch.Generator) -> Tensor:
    """Coalitions of the true Shapley kernel; each stands for itself and its complement.

    The sizes of a game's coalitions are stratified: one falls into each of ``n_pairs``
    equal shares of the distribution. None is empty or full.

    Parameters
    ----------
    n_games, n_pairs, n_players : int
    generator : torch.Generator
        On the CPU; the same state gives the same coalitions.

    Returns
    -------
    Tensor of bool, shape (n_games, n_pairs, n_players)
    """
    below = torch.from_numpy(shapley_kernel_sizes(n_players).cumsum())
    share = torch.rand(n_games, n_pairs, generator=generator, dtype=torch.float64)
    share = (torch.arange(n_pairs) + share) / n_pairs
    size = 1 + torch.searchsorted(below[:-1].contiguous(), share)
    order = torch.rand(n_games, n_pairs, n_players, generator=generator).argsort(dim=-1)
    # The ranks of random numbers are a random permutation: the first ``size`` are in.
    return order.argsort(dim=-1) < size[..., None]


def fastshap_loss(values: Tensor, halves: Tensor, odd: Tensor) -> Tensor:
    r"""FastSHAP's loss (Jethani et al., ICLR 2022, equation 6) on pairs of coalitions.

    Its expectation over pairs of the Shapley kernel is
    :math:`\kappa\, \lVert\phi - \phi^*\rVert^2` and a constant, with
    :math:`\kappa = 2 / (1 + 1/2 + \dots + 1/(n-1))`, per game and output.

    Parameters
    ----------
    values : Tensor (B, n, K)
        Predicted values, which sum to ``v(N) - v(empty)``.
    halves : Tensor of bool, shape (B, m, n)
        One coalition of each pair.
    odd : Tensor (B, m, K)
        Its value minus that of its complement.

    Returns
    -------
    Tensor of no axes
        Mean over games and pairs, sum over outputs.
    """
    # In full precision, under autocast too: the difference is small beside its terms.
    with torch.autocast(values.device.type, enabled=False):
        signs = 2 * halves.to(values.dtype) - 1
        predicted = torch.einsum("bmn,bnk->bmk", signs, values)
        return (predicted - odd).square().sum(-1).mean()


def game_loss(prediction: Prediction, halves: Tensor, odd: Tensor, seed: int) -> Tensor:
    r"""Least squares for a predicted game, and :func:`fastshap_loss` with less noise.

    The game is fitted to the pairs themselves. Its own part of their values is then replaced by
    its Shapley values, unbiased from a few random coalitions, before the predicted values are
    fitted: a control variate, which leaves the minimiser of FastSHAP's loss (Jethani et al., ICLR
    2022, equation 6) where it is, and less noise the better the game is.

    Parameters
    ----------
    prediction : Prediction
        With a game.
    halves, odd
        As for :func:`fastshap_loss`.
    seed : int
        Of the random coalitions; another one in each step.

    Returns
    -------
    Tensor of no axes
        Sum of both losses.
    """
    game = prediction.game
    assert game is not None
    own = game.values(halves) - game.values(~halves)
    misfit: Tensor = (own - odd).square().sum(-1).mean()
    shapley = game.shapley_values(_SIZES, 1, torch.Generator().manual_seed(seed))
    signs = 2 * halves.to(own.dtype) - 1
    less_noisy = odd - own.detach() + torch.einsum("bmn,bnk->bmk", signs, shapley)
    return misfit + fastshap_loss(prediction.values(), halves, less_noisy)


def unbiased_values(halves: Tensor, odd: Tensor, difference: Tensor) -> Tensor:
    r"""KernelSHAP estimates that are unbiased from however few pairs.

    .. math:: \phi = \frac{\Delta}{n} + \frac{1}{\kappa m} \sum_j c_j (o_j - \bar z_j \Delta)

    with :math:`c_j = z_j - \bar z_j`, odd values :math:`o_j` and
    :math:`\Delta = v(N) - v(\emptyset)`: the normal equations with their matrix at its
    expectation (Covert & Lee, AISTATS 2021, section 3.2). Noise does not move what a
    network learns from such labels (Covert et al., NeurIPS 2024, arXiv 2401.15866).

    Parameters
    ----------
    halves : Tensor of bool, shape (B, m, n)
        Coalitions of :func:`kernel_pairs`.
    odd : Tensor (B, m, K)
        Their values minus those of their complements.
    difference : Tensor (B, K)
        ``v(N) - v(empty)``.

    Returns
    -------
    Tensor (B, n, K)
        Sums to ``difference``.
    """
    n = halves.shape[2]
    kappa = 2 / float((1 / torch.arange(1, n, dtype=torch.float64)).sum())
    signs = 2 * halves.to(odd.dtype) - 1
    mean = signs.mean(-1, keepdim=True)
    rest = odd - mean * difference[:, None]
    slope = torch.einsum("bmn,bmk->bnk", signs - mean, rest) / (kappa * halves.shape[1])
    return slope + difference[:, None] / n
