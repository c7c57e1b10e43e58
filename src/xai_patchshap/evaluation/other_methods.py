"""Attributions that are not ours, to compare ours with. One implementation of each.

Gradients are those of Captum, summed with their signs over channels and pixels of each player.
Where a method wants a baseline, it gets the background of the masker. Perturbation:
leave-one-out, random masks (RISE: Petsiuk, Das & Saenko, BMVC 2018), and KernelSHAP of Captum.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, KernelShap, Saliency
from torch import Tensor

from .._typing import Bools, Floats
from .._validation import check_memory, said
from ..errors import bad
from . import attention
from .image_games import ImageGames

__all__ = ["OTHER_METHODS", "attribute_by", "leave_one_out", "rise"]

# From coalitions, bool (m, n), to values (N, m, K) of N games.
ManyGames = Callable[[Bools], Floats]
# Attributions (N, n, k) for all outputs of all games, and evaluations of each for one output.
Found = tuple[Floats, int]

_PASSES = 50  # of integrated gradients and SmoothGrad, if the budget has as many
_NOISE = 0.15  # standard deviation over the range of the pixels, as Smilkov et al. advise


def attribute_by(method: str, games: ImageGames, budget: int, seed: int) -> Found:
    """Attributions (N, n, k) by one of :data:`OTHER_METHODS`, and evaluations of each image.

    ``integrated_gradients`` goes from the background to the image (Sundararajan, Taly & Yan,
    ICML 2017), and ``smoothgrad`` averages the gradients of images with Gaussian noise, whose
    deviation is 0.15 of the range of the image's pixels (Smilkov et al., 2017); both in 50
    passes, or as many as the budget has. ``captum_kernel_shap`` and ``rise`` spend all of it.

    Raises
    ------
    PatchShapError
        If the method does not go with the model or the background.
    """
    return OTHER_METHODS[method](games, budget, seed)


def _gradients(method: str, games: ImageGames, budget: int, seed: int) -> Found:
    passes = max(1, min(_PASSES, budget))
    forward = _Counted(games)
    outputs = []
    with games.running(), torch.enable_grad():
        for target in games.outputs.T:
            forward.target = torch.tensor(target)
            try:
                maps = _GRADIENTS[method](forward, games, passes, seed)
            except RuntimeError as error:
                if "grad" not in str(error):
                    raise
                raise bad(
                    "methods", f"{method} for a model without gradients", "a model that has them",
                    f"({error})",
                ) from error  # fmt: skip
            outputs.append(games.per_player(maps))
    return np.stack(outputs, axis=2), forward.n_images // games.outputs.size


def _integrated(forward: _Counted, games: ImageGames, passes: int, seed: int) -> Tensor:
    baseline = games.baseline.expand_as(games.images)

    def explain(some: Tensor, x: Tensor, target: Tensor) -> Tensor:
        found = IntegratedGradients(forward).attribute(
            x, baseline[some], target, n_steps=passes, internal_batch_size=games.batch_size
        )
        return torch.as_tensor(found)

    return forward.in_groups(explain, max(1, games.batch_size // passes))


def _saliency(forward: _Counted, games: ImageGames, passes: int, seed: int) -> Tensor:
    return forward.in_groups(lambda _, x, t: Saliency(forward).attribute(x, t, abs=False))


def _input_x_gradient(forward: _Counted, games: ImageGames, passes: int, seed: int) -> Tensor:
    return forward.in_groups(lambda _, x, t: InputXGradient(forward).attribute(x, t))


def _smoothgrad(forward: _Counted, games: ImageGames, passes: int, seed: int) -> Tensor:
    return forward.in_groups(
        lambda _, x, t: _of_noisy(forward, x.detach(), t, passes, seed, games.batch_size), 1
    )


def _of_noisy(
    forward: _Counted, x: Tensor, target: Tensor, passes: int, seed: int, rows: int
) -> Tensor:
    """Mean gradient of one image with noise, which depends on the seed alone."""
    draw, deviation = torch.Generator().manual_seed(seed), _NOISE * float(x.max() - x.min())
    total = torch.zeros_like(x)
    for some in torch.split(torch.arange(passes), rows):
        # One by one: the noise does not depend on the size of a batch.
        noise = torch.stack([torch.randn(x.shape[1:], generator=draw) for _ in some]).to(x)
        noisy = (x + deviation * noise).requires_grad_()
        found = Saliency(forward).attribute(noisy, target.expand(len(some)), abs=False)
        total += found.sum(0, keepdim=True)
    return total / passes


_GRADIENTS: dict[str, Callable[[_Counted, ImageGames, int, int], Tensor]] = {
    "integrated_gradients": _integrated,
    "saliency": _saliency,
    "input_x_gradient": _input_x_gradient,
    "smoothgrad": _smoothgrad,
}


class _Counted:
    """The model for Captum: outputs of whole images, with a count of them."""

    def __init__(self, games: ImageGames) -> None:
        self.games, self.n_images = games, 0
        self.target = torch.zeros(len(games.images), dtype=torch.int64)

    def __call__(self, x: Tensor) -> Tensor:
        self.n_images += len(x)
        return self.games.scores(x)

    def in_groups(
        self, explain: Callable[[Tensor, Tensor, Tensor], Tensor], size: int | None = None
    ) -> Tensor:
        """Maps (N, C, H, W) of the images, with gradients taken of a few at a time."""
        images = self.games.images
        parts = []
        for some in torch.split(torch.arange(len(images)), size or self.games.batch_size):
            x = images[some].detach().clone().requires_grad_()
            parts.append(explain(some, x, self.target[some].to(x.device)).detach())
        return torch.cat(parts)


def _captum_kernel_shap(games: ImageGames, budget: int, seed: int) -> Found:
    if games.masker.drops_tokens:
        raise bad(
            "methods", "captum_kernel_shap with background='drop'", "a background it can show"
        )
    came = f"{said(budget)} evaluations for {games.n_players} players"
    check_memory("budget", came, 8 * budget * games.n_players, "Lower it.")
    forward, baseline = _Counted(games), games.baseline.expand_as(games.images)
    on_cuda = [games.images.device] if games.images.device.type == "cuda" else []
    found = np.empty((len(games.images), games.n_players, games.outputs.shape[1]))
    # Captum draws from the global state, which is put back.
    with torch.random.fork_rng(on_cuda), games.running():
        for i, c in np.ndindex(games.outputs.shape):
            torch.random.manual_seed(seed)
            values = KernelShap(forward).attribute(
                games.images[i : i + 1],
                baseline[i : i + 1],
                int(games.outputs[i, c]),
                feature_mask=games.labels[None, None].to(games.images.device),
                n_samples=budget,
                perturbations_per_eval=games.batch_size,
                return_input_shape=False,
            )
            found[i, :, c] = values.detach().double().cpu().numpy().ravel()
    return found, forward.n_images // games.outputs.size


def _leave_one_out(games: ImageGames, budget: int, seed: int) -> Found:
    return leave_one_out(games, games.n_players), games.n_players + 1


def _rise(games: ImageGames, budget: int, seed: int) -> Found:
    return rise(games, games.n_players, budget, seed), budget


def _random(games: ImageGames, budget: int, seed: int) -> Found:
    n, k = games.outputs.shape
    return np.random.default_rng([seed, 1]).random((n, games.n_players, k)), 0


def _attention(method: str, games: ImageGames, budget: int, seed: int) -> Found:
    read: Any = getattr(attention, method)
    parts = [
        read(games.model, x).double().cpu() for x in torch.split(games.images, games.batch_size)
    ]
    found = np.asarray(torch.cat(parts))
    if found.shape[1] != games.n_players or not games.plays_patches:
        came = f"{method} for players that are not the transformer's patches"
        raise bad("methods", came, "a masker without players of its own")
    return np.repeat(found[:, :, None], games.outputs.shape[1], axis=2), 1


def leave_one_out(games: ManyGames, n_players: int) -> Floats:
    """Loss of value as each player leaves all others, v(N) - v(N without i).

    Parameters
    ----------
    games : callable
        Maps coalitions, bool (m, n_players), to values (N, m, K) of N games.
    n_players : int

    Returns
    -------
    ndarray (N, n_players, K)
        From ``n_players + 1`` evaluations of each game.

    Examples
    --------
    >>> games = lambda shown: np.stack([shown @ [1.0, 2.0], shown.all(1)])[:, :, None]
    >>> leave_one_out(games, 2)[:, :, 0]
    array([[1., 2.],
           [1., 1.]])
    """
    values = games(np.concatenate([np.ones((1, n_players), bool), ~np.eye(n_players, dtype=bool)]))
    return np.asarray(values[:, :1] - values[:, 1:])


def rise(games: ManyGames, n_players: int, n_masks: int, seed: int = 0) -> Floats:
    """Mean value of the random coalitions that show a player.

    Each player is in each coalition with probability 1/2. Divided by the number of masks that
    show the player rather than by its expectation, as Petsiuk et al. do: the level of the
    values then adds no noise.

    Parameters
    ----------
    games : callable
        Maps coalitions, bool (m, n_players), to values (N, m, K) of N games.
    n_players, n_masks : int
    seed : int
        Seed of the coalitions.

    Returns
    -------
    ndarray (N, n_players, K)
        From ``n_masks`` evaluations of each game. The mean value for a player that is never
        shown.

    Examples
    --------
    >>> games = lambda shown: (shown @ [0.0, 4.0])[None, :, None]
    >>> rise(games, 2, 1000)[0, :, 0].round()
    array([2., 4.])
    """
    came = f"{said(n_masks)} evaluations for {n_players} players"
    check_memory("budget", came, 8 * n_masks * n_players, "Lower it.")
    masks = np.random.default_rng(seed).random((n_masks, n_players)) < 0.5
    values = games(masks)
    count = masks.sum(0)[:, None]
    mean = masks.T.astype(float) @ values / np.maximum(count, 1)
    return np.asarray(np.where(count > 0, mean, values.mean(1, keepdims=True)))


OTHER_METHODS: dict[str, Callable[[ImageGames, int, int], Found]] = {
    "captum_kernel_shap": _captum_kernel_shap,
    "leave_one_out": _leave_one_out,
    "rise": _rise,
    **{name: partial(_gradients, name) for name in _GRADIENTS},
    "attention_rollout": partial(_attention, "attention_rollout"),
    "last_attention": partial(_attention, "last_attention"),
    "random": _random,
}
