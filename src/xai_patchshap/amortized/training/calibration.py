"""Calibration: how good a network's predictions are, and how to refine them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import bad
from ...estimators import KernelShap
from ...game import Game, Request
from ...masking.patch_masker import PatchMasker
from ..network import ShapleyViT
from .digests import images_digest, model_digest
from .schedule import precision
from .table import Table

__all__ = ["calibrate", "explained_variance", "per_image_correlation", "shapley_values"]

Floats = NDArray[np.float64]

_ORDERS = 64  # of a predicted game, and as many reversed
_RIDGES = np.logspace(0, 4, 33)


def shapley_values(
    network: ShapleyViT,
    images: Tensor,
    budget: int | Sequence[int],
    *,
    control: bool = False,
    seed: int = 0,
    batch_size: int = 512,
    autocast: torch.dtype | None = None,
) -> Any:
    """KernelSHAP estimates of the surrogate's game, from as many evaluations as are asked for.

    Parameters
    ----------
    network : ShapleyViT
    images : Tensor (N, C, H, W)
    budget : int or sequence of int
        Evaluations of each image; the estimates of a sequence share their first coalitions.
    control : bool
        Use the game that the network predicts as a control variate: KernelSHAP is left with
        what that game does not explain, and the game's own Shapley values are added, from 128
        random orders. As unbiased as without, however wrong the game, and less noisy the better
        it is.
    seed : int
    batch_size : int
    autocast : torch.dtype, optional

    Returns
    -------
    ndarray (N, patches, K), or a list of them

    Raises
    ------
    PatchShapError
        If ``control`` is asked of a network that predicts no game.

    Examples
    --------
    >>> import timm, torch
    >>> network = ShapleyViT(timm.create_model("test_vit", img_size=32, num_classes=3)).eval()
    >>> shapley_values(network, torch.rand(2, 3, 32, 32), 16).shape
    (2, 4, 3)
    """
    if control and network.predicts != "game":
        raise bad("control", f"a network that predicts {network.predicts}", "one of a game")
    asked = [budget] if isinstance(budget, int) else list(budget)
    kernel = KernelShap(network.n_players, max(asked), seed)
    values = _game_values(network, images, kernel.coalitions, batch_size, autocast)
    known: Any = 0.0
    if control and len(kernel.coalitions) < 2**network.n_players:
        generator = torch.Generator().manual_seed(seed)
        coalitions = torch.from_numpy(kernel.coalitions).to(images.device)
        parts = []
        for i, image in enumerate(images):
            with torch.no_grad():
                game = network.predict(image[None]).game
                assert game is not None
                values[i] -= game.values(coalitions[None])[0].double().cpu().numpy()
                shapley = game.shapley_values(n_orders=_ORDERS, generator=generator)
                parts.append(shapley.double().cpu().numpy())
        known = np.concatenate(parts)
    found = [known + np.stack([kernel.estimate(v[:m]).values for v in values]) for m in asked]
    return found[0] if isinstance(budget, int) else found


def calibrate(
    network: ShapleyViT,
    images: Tensor,
    *,
    reference: Floats | None = None,
    reference_budget: int = 4096,
    budgets: Sequence[int] = (64, 128, 256),
    seed: int = 1,
    batch_size: int = 512,
    autocast: torch.dtype | None = None,
    keep: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Choose the ridge of refinements, and measure the errors of predictions.

    Sets :attr:`ShapleyViT.ridge` and :attr:`ShapleyViT.rmse`. The ridge is the one whose
    refined values have the least squared error, relative to the predictions' and averaged
    over the budgets.

    Parameters
    ----------
    network : ShapleyViT
    images : Tensor (N, C, H, W)
        Held-out images, as the surrogate takes them.
    reference : ndarray (N, patches, K), optional
        Their Shapley values; by default KernelSHAP's from ``reference_budget``
        evaluations.
    budgets : sequence of int
        Evaluations of refinements.
    keep : path, optional
        Folder for the references, so that a calibration that was stopped goes on.
    progress : bool

    Returns
    -------
    dict
        ``ridge``, ``rmse`` and the squared error of each budget relative to the prediction's.
    """
    if not len(images):
        raise bad("images", "none", "at least one image")

    def computed(rows: NDArray[np.int64]) -> dict[str, Floats]:
        some = images[torch.from_numpy(rows).to(images.device)]
        found = shapley_values(
            network, some, reference_budget, batch_size=batch_size, autocast=autocast
        )
        return {"reference": found}

    everything = np.arange(len(images))
    if reference is None and keep is not None:
        key = {
            "network": model_digest(network),
            "images": images_digest(images, name="images"),
            "evaluations": reference_budget,
            "autocast": str(autocast),
        }
        folder = Path(keep) / hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        kept = Table(
            folder, len(images), computed, ["reference"], key, chunk=4, title="calibration",
            progress=progress,
        )  # fmt: skip
        reference = kept.rows(everything)["reference"]
    elif reference is None:
        reference = computed(everything)["reference"]
    predicted = _predicted(network, images, batch_size)
    kernel = KernelShap(network.n_players, max(budgets), seed)
    values = _game_values(network, images, kernel.coalitions, batch_size, autocast)
    before = float(np.mean((predicted - reference) ** 2))
    errors = np.array([
        [
            np.mean([
                np.mean((kernel.estimate(v[:m], p, ridge).values - r) ** 2)
                for v, p, r in zip(values, predicted, reference, strict=True)
            ])
            for m in budgets
        ]
        for ridge in _RIDGES
    ]) / before  # fmt: skip
    best = int(np.argmin(errors.mean(axis=1)))
    network.ridge = float(_RIDGES[best])
    network.rmse = [float(e) for e in np.sqrt(np.mean((predicted - reference) ** 2, axis=(0, 1)))]
    refined = {str(m): float(e) for m, e in zip(budgets, errors[best], strict=True)}
    return {"ridge": network.ridge, "rmse": network.rmse, "relative_error": refined}


def explained_variance(predicted: Floats, truth: Floats) -> float:
    """R2 of values (N, n) within images: 0 is what the equal split of each image scores.

    Examples
    --------
    >>> truth = np.array([[0.0, 2.0], [1.0, 3.0]])
    >>> explained_variance(truth, truth), explained_variance(0 * truth + [[1.0], [2.0]], truth)
    (1.0, 0.0)
    """
    spread = truth - truth.mean(axis=1, keepdims=True)
    return float(1 - np.sum((predicted - truth) ** 2) / np.sum(spread**2))


def per_image_correlation(predicted: Floats, truth: Floats) -> Floats:
    """Pearson's correlation of values (N, n), for each image, (N,)."""
    a = predicted - predicted.mean(axis=1, keepdims=True)
    b = truth - truth.mean(axis=1, keepdims=True)
    return np.asarray((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1)))


def _predicted(network: ShapleyViT, images: Tensor, batch_size: int) -> Floats:
    with torch.no_grad():
        parts = [network(x)[0].double().cpu() for x in torch.split(images, batch_size)]
    return np.asarray(torch.cat(parts))


def _game_values(
    network: ShapleyViT, images: Tensor, coalitions: NDArray[np.bool_], batch_size: int, dtype: Any
) -> Floats:
    """Values (N, m, K) of the same coalitions (m, patches) of every image."""
    masker = PatchMasker(background="drop")
    inputs, _ = masker.prepare(images, "NCHW", network.surrogate.patch_size)
    inputs = inputs.to(images.device, torch.contiguous_format)

    def forward(shown: tuple[Tensor, ...], _: Tensor) -> Tensor:
        with torch.no_grad(), precision(images.device, dtype):
            return network.link(network.whole_logits(*shown))

    game = Game(forward, Request(inputs, batch_size=batch_size, by_size=True))
    values = game.evaluate(dict.fromkeys(range(len(images)), coalitions))
    if game.interrupted:
        raise KeyboardInterrupt
    return np.stack([*values.values()])
