"""The methods that ``xai-patchshap evaluate`` compares, each a map from an image to players."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import (
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Saliency,
)
from torch import Tensor, nn

from .._typing import Bools, Floats
from .._validation import check_memory, said
from ..amortized import ShapleyViT
from ..errors import bad
from ..evaluation.other_methods import leave_one_out, rise
from ..explainers import PatchExplainer
from ..explainers.methods import COMPARED as _COMPARED
from ..explainers.methods import METHODS, dashed, underscored
from ..explainers.registry import method_class
from ..game import Game, Request
from ..masking.patch_masker import PatchMasker
from ..masking.token_dropping import TokenDropping
from ..models.batch import BatchModel
from .model import explained

__all__: list[str] = []  # parts of the command line, for no one else

GRADIENTS = ("integrated-gradients", "saliency", "input-x-gradient", "smoothgrad")
OURS = tuple(map(dashed, METHODS))
COMPARED = tuple(map(dashed, _COMPARED))
# Passes of integrated gradients and SmoothGrad, if the budget has as many.
_PASSES = 50
_NOISE = 0.15  # standard deviation over the range of the pixels, as Smilkov et al. advise


@dataclass(frozen=True)
class Attribution:
    """Values (n,) of the players, and what they cost."""

    values: Floats
    evaluations: int
    seconds: float


class SurrogateScores(nn.Module):
    """The surrogate of a trained explainer as any transformer: its scores of whole images."""

    def __init__(self, network: ShapleyViT) -> None:
        super().__init__()
        self.vit = network.surrogate.model
        self._network = (network,)  # in a tuple: not a part of this module

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, K), in the units of the network's game."""
        return self._network[0].link(self.vit(images).float())


@dataclass
class ImageGame:
    """One image, its players, and the game of one output, which all methods share.

    ``masker`` has the players as a mask; ``x`` (1, C, H, W) is on the model's device.
    """

    model: Any
    masker: PatchMasker
    x: Tensor
    target: int
    is_single: bool
    rows: int
    budget: int
    seed: int
    explainer: PatchExplainer | None = None

    def __post_init__(self) -> None:
        dropping = self.masker.drops_tokens
        self.played = BatchModel(TokenDropping(self.model) if dropping else self.model)
        bound, _ = self.masker.prepare(self.x, "NCHW")
        self.labels = bound.labels[0][0, 0]
        self.n = bound.n_players[0]
        request = Request(
            bound.to(self.played.device, self.played.memory_format),
            columns=np.array([[self.target]]),
            batch_size=self.rows,
            by_size=dropping,
        )
        self.game = Game(lambda inputs, _: self.played(inputs), request)

    def __call__(self, coalitions: Bools) -> Floats:
        """Values (m,) of coalitions (m, n)."""
        with self.played.running():
            values = self.game.evaluate({0: coalitions})[0]
        if self.game.interrupted:
            raise KeyboardInterrupt
        return values[:, 0]

    def per_player(self, pixels: Tensor) -> Floats:
        """Sums (n,) of a map (1, C, H, W) over the pixels of each player, signs kept."""
        flat = pixels.detach().double().cpu().sum(dim=(0, 1)).numpy().ravel()
        sums = np.bincount(self.labels.cpu().numpy().ravel(), weights=flat, minlength=self.n)
        return np.asarray(sums, dtype=np.float64)

    @property
    def baseline(self) -> Tensor:
        """The background as an image; black where tokens are dropped, which has none."""
        if self.masker.drops_tokens:
            return torch.zeros_like(self.x)
        return self.masker.baselines(self.x)


def attributed(method: str, game: ImageGame) -> Attribution:
    """Attributions to the players of one game by one of the methods.

    Parameters
    ----------
    method : str
        Of :data:`COMPARED`.
    game : ImageGame

    Raises
    ------
    PatchShapError
        If the method does not go with the model or the background.
    """
    started = time.perf_counter()
    if method in OURS:
        values, evaluations = _ours(method, game)
    elif method in GRADIENTS:
        values, evaluations = _gradients(method, game)
    elif method == "captum-kernel-shap":
        values, evaluations = _captum_kernel_shap(game)
    elif method == "random":
        values, evaluations = np.random.default_rng([game.seed, 1]).random(game.n), 0
    else:
        values, evaluations = _masks(method, game)
    return Attribution(values, evaluations, time.perf_counter() - started)


def _ours(method: str, game: ImageGame) -> tuple[Floats, int]:
    if method == "vit-shapley-amortized":
        explainer, budget = game.explainer, 2  # the prediction alone
        assert explainer is not None
    else:
        kind, budget = method_class(underscored(method)), game.budget
        explainer = kind(game.model, game.masker, seed=game.seed)
    run = explained(
        explainer,
        game.x,
        partly=False,
        max_evals=budget,
        batch_size=game.rows,
        outputs=None if game.is_single else [game.target],
        silent=True,
    )
    return run.estimates[0].values[:, 0], int(run.evaluations[0])


def _masks(method: str, game: ImageGame) -> tuple[Floats, int]:
    """Leave-one-out and RISE, of :mod:`xai_patchshap.evaluation.other_methods`."""

    def games(coalitions: Bools) -> Floats:
        return game(coalitions)[None, :, None]

    before = int(game.game.evaluations[0])
    if method == "rise":
        _check_budget(game)
        values = rise(games, game.n, game.budget, game.seed)
    else:
        values = leave_one_out(games, game.n)
    return values[0, :, 0], int(game.game.evaluations[0]) - before


def _captum_kernel_shap(game: ImageGame) -> tuple[Floats, int]:
    if game.masker.drops_tokens:
        raise bad(
            "--methods", "captum-kernel-shap with --background drop", "a background it can show"
        )
    _check_budget(game)
    forward = _Counted(game)
    on_cuda = [game.x.device] if game.x.device.type == "cuda" else []
    # Captum draws from the global state, which is put back.
    with torch.random.fork_rng(on_cuda), game.played.running():
        torch.random.manual_seed(game.seed)
        found = KernelShap(forward).attribute(
            game.x,
            game.baseline,
            feature_mask=game.labels[None, None].to(game.x.device),
            n_samples=game.budget,
            perturbations_per_eval=game.rows,
            return_input_shape=False,
        )
    return found.detach().double().cpu().numpy().ravel(), forward.n_images


def _gradients(method: str, game: ImageGame) -> tuple[Floats, int]:
    """Captum's gradients with its own defaults, summed over the pixels of each player."""
    forward, x = _Counted(game), game.x.detach().clone().requires_grad_()
    passes = max(1, min(_PASSES, game.budget))
    with game.played.running(), torch.enable_grad():
        try:
            if method == "integrated-gradients":
                found = IntegratedGradients(forward).attribute(
                    x, game.baseline, n_steps=passes, internal_batch_size=game.rows
                )
            elif method == "saliency":
                found = Saliency(forward).attribute(x)
            elif method == "input-x-gradient":
                found = InputXGradient(forward).attribute(x)
            else:
                found = _smoothgrad(forward, game, passes)
        except RuntimeError as error:
            if "grad" not in str(error):
                raise
            raise bad(
                "--methods", f"{method} for a model without gradients", "a model that has them",
                f"({error})",
            ) from error  # fmt: skip
    return game.per_player(found), forward.n_images


def _smoothgrad(forward: Any, game: ImageGame, passes: int) -> Tensor:
    """Saliency of the image with noise, averaged (Smilkov et al., 2017)."""
    x, draw = game.x.detach(), torch.Generator().manual_seed(game.seed)
    deviation = _NOISE * float(x.max() - x.min())
    total = torch.zeros_like(x)
    for some in torch.split(torch.arange(passes), game.rows):
        # One by one: the noise does not depend on the size of a batch.
        noise = torch.stack([torch.randn(x.shape[1:], generator=draw) for _ in some]).to(x)
        noisy = (x + deviation * noise).requires_grad_()
        total += Saliency(forward).attribute(noisy).sum(0, keepdim=True)
    return total / passes


def _check_budget(game: ImageGame) -> None:
    """Raise unless there is memory for the coalitions of a method that keeps all of them."""
    came = f"{said(game.budget)} evaluations for {game.n} players"
    check_memory("budget", came, 8 * game.budget * game.n, "Lower it.")


class _Counted:
    """The output that is explained, for Captum; counts the images that the model sees."""

    def __init__(self, game: ImageGame) -> None:
        self.game, self.n_images = game, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.n_images += len(x)
        scores = torch.as_tensor(self.game.played((x,)))
        return scores.reshape(len(x), -1)[:, self.game.target]
