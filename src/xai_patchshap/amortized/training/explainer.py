"""The explainer: a network fitted to the Shapley values of the surrogate's game."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..._validation import check_memory, checked, one_of, said, whole
from ...errors import bad
from ..architecture import Architecture
from ..cards import check_card
from ..checkpoints import save_explainer, save_surrogate
from ..losses import fastshap_loss, game_loss, kernel_pairs, unbiased_values
from ..network import ShapleyViT
from .data import alone_in_out, check_takes, images_of
from .digests import code_digest, digests_of, model_digest
from .fit import Fitted, fit
from .kept_tokens import Arguments, Numbers, elsewhere, predicted, with_tokens
from .schedule import LARGEST_SEED, Schedule, as_settings, precision
from .table import Table

__all__ = ["OBJECTIVES", "train_explainer"]

OBJECTIVES = ("fastshap", "regression")

_VALIDATION_PAIRS = 64
_VALIDATION_SEED = 2**31


@alone_in_out
@checked(objective=one_of(*OBJECTIVES), n_pairs=whole(1), seed=whole(0, LARGEST_SEED))
def train_explainer(
    surrogate: nn.Module,
    dataset: Any,
    out: str | Path,
    *,
    validation: Any,
    objective: str = "fastshap",
    n_pairs: int = 16,
    fresh: bool = True,
    n_frozen: int | None = None,
    n_extra: int = 1,
    probability: bool = True,
    predicts: str | None = None,
    taps: Sequence[int] = (),
    evaluate: Callable[[Tensor, Tensor], Tensor] | None = None,
    keep_tokens: bool = False,
    start: ShapleyViT | None = None,
    schedule: Schedule | None = None,
    architecture: Architecture | None = None,
    seed: int = 0,
    card: dict[str, Any] | None = None,
    accelerator: Any = None,
    progress: bool = True,
) -> ShapleyViT:
    r"""Train a network that gives all patches' Shapley values in one forward pass.

    Parameters
    ----------
    surrogate : torch.nn.Module
        What :func:`train_surrogate` returns: from images to logits (B, K).
    dataset, validation : torch.utils.data.Dataset
        Items are images (C, H, W), alone or before a label. The same index must always give
        the same image. Of the validation images, the values of 64 fixed pairs of coalitions
        are predicted, by the Shapley values and by the game, if there is one; the weights that
        do so best are kept, by the sum of what both leave unexplained.
    out : path
        Folder of the run: ``explainer.safetensors``, ``surrogate.safetensors`` and their
        cards in the end; ``state.pt``, ``log.csv`` and tables of values on the way. A run
        that was stopped, however, goes on when it is started again.
    objective : {"fastshap", "regression"}
        ``"fastshap"``: weighted least squares on pairs of coalitions of the Shapley kernel
        (Jethani et al., ICLR 2022; Covert, Kim & Lee, ICLR 2023, equation 7).
        ``"regression"``: squared distance to cheap unbiased KernelSHAP labels (Covert et
        al., NeurIPS 2024), made once from ``n_pairs`` and kept on disk.
    n_pairs : int
        Pairs of a coalition and its complement for each image.
    fresh : bool
        With ``"fastshap"``: draw and evaluate new pairs in every step, as published; or else
        once for each image, with their values kept on disk. Evaluations of the surrogate are
        most of the price of a step: kept, they serve every epoch.
    n_frozen, n_extra, probability, taps
        As in :class:`ShapleyViT`.
    predicts : {"game", "values"}, optional
        As in :class:`ShapleyViT`: by default ``"game"``, which learns more from as many
        coalitions, and ``"values"`` for ``"regression"``, whose labels are no coalitions.
    evaluate : callable, optional
        A faster copy of the surrogate, compiled or quantised: from images (B, C, H, W) and
        coalitions, bool (B, m, n), to logits (B, m, K), up to 128 images at once. For values
        that are kept on disk; validation is by the surrogate itself.
    keep_tokens : bool
        Keep what the frozen blocks make of each image on disk, in half precision, and save
        every epoch that pass: 2 (taps + 1) (tokens) (width) bytes for each image. With
        ``fresh=False`` or ``"regression"``.
    start : ShapleyViT, optional
        A trained network whose weights to begin with; see :meth:`ShapleyViT.begin_from`.
        They are kept if training makes none that are better.
    schedule : Schedule, optional
    architecture : Architecture, optional
        How to build the surrogate, for its card.
    seed : int
    card : dict, optional
        Anything to say on the card.
    accelerator : accelerate.Accelerator, optional
        For several processes, each with a part of every batch.
    progress : bool

    Returns
    -------
    ShapleyViT
        With the best weights of the run.

    Raises
    ------
    PatchShapError
        If the model or the images do not fit, or ``out`` holds another run.

    Examples
    --------
    >>> import tempfile, timm, torch
    >>> vit = timm.create_model("test_vit", img_size=32, num_classes=3)
    >>> images = list(torch.rand(8, 3, 32, 32))
    >>> network = train_explainer(
    ...     vit, images, tempfile.mkdtemp(), validation=images, n_pairs=2, progress=False,
    ...     schedule=Schedule(epochs=1, batch_size=4),
    ... )
    >>> values, full = network(images[0][None])
    >>> values.shape
    torch.Size([1, 4, 3])
    """
    folder, schedule, card = Path(out), schedule or Schedule(), check_card(card)
    if objective == "fastshap" and fresh and (keep_tokens or evaluate is not None):
        name = "keep_tokens" if keep_tokens else "evaluate"
        raise bad(name, "fresh=True beside it", "fresh=False: values kept on disk")
    if predicts is None:
        predicts = "game" if objective == "fastshap" else "values"
    if predicts == "game" and objective != "fastshap":
        raise bad(
            "predicts", f"'game' with objective={objective!r}", "'values', or objective='fastshap'"
        )
    network = ShapleyViT(
        surrogate,
        n_frozen=n_frozen,
        n_extra=n_extra,
        probability=probability,
        seed=seed,
        predicts=predicts,
        taps=taps,
    )
    if start is not None:
        network.begin_from(start)
    device = next(surrogate.parameters()).device if accelerator is None else accelerator.device
    network = network.to(device)
    n_players = network.n_players
    check_memory(
        "n_pairs",
        f"{said(n_pairs)} pairs for each image",
        8 * n_pairs * n_players,
        "Choose fewer pairs.",
    )
    main = accelerator is None or accelerator.is_main_process
    described = {
        "stage": "explainer",
        **digests_of(dataset, validation, schedule, progress and main),
        "weights": model_digest(surrogate),
        "probability": probability,
        "autocast": str(schedule.autocast),
        "seed": seed,
    }
    common = {"accelerator": accelerator, "progress": progress}
    first = images_of(dataset, [0], device)
    check_takes("surrogate", network.surrogate.model, first)
    if architecture is not None:
        architecture.check_builds(network.surrogate.model, first)

    def pairs_of(images: Tensor, halves: Tensor) -> Tensor:
        with torch.no_grad(), precision(device, schedule.autocast):
            return network.odd_values(images.to(device), halves.to(device))

    def computed(indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        images = images_of(dataset, indices, device)
        halves = kernel_pairs(len(images), n_pairs, n_players, _generator(seed, int(indices[0])))
        if evaluate is None:
            odd = pairs_of(images, halves).cpu()
        else:
            both = network.link(elsewhere(evaluate, network, images, halves))
            odd = both[:, :n_pairs] - both[:, n_pairs:]
        if objective == "fastshap":
            return {"halves": np.packbits(halves.numpy(), axis=2), "odd": odd.numpy()}
        with torch.no_grad(), precision(device, schedule.autocast):
            full = torch.cat([network.whole_logits(x) for x in torch.split(images, 128)])
        difference = network.link(full) - network.null
        return {"labels": unbiased_values(halves, odd, difference.cpu()).numpy()}

    key = {**described, "n_pairs": n_pairs, "objective": objective}
    if evaluate is not None:
        key["evaluate"] = code_digest(evaluate)
    loss: nn.Module
    arguments: Arguments
    if objective == "regression":
        labels = Table(
            folder / "labels", len(dataset), computed, ["labels"], key, title="labels", **common
        )
        loss = _Distance(network)

        def labelled(indices: Tensor, images: Tensor, _: torch.Generator) -> tuple[Any, ...]:
            return images, torch.from_numpy(labels.rows(indices.numpy())["labels"])

        arguments = labelled
    elif fresh:
        loss = _LeastSquares(network)

        def drawn(_: Tensor, images: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
            # One size for each pair, shared by the images: rectangular batches.
            sizes = kernel_pairs(1, n_pairs, n_players, generator).sum(-1)[0]
            ranks = torch.rand(len(images), n_pairs, n_players, generator=generator)
            halves = ranks.argsort(-1).argsort(-1) < sizes[:, None]
            return images, halves, None, _seed(generator)

        arguments = drawn
    else:
        pairs = Table(
            folder / "pairs", len(dataset), computed, ["halves", "odd"], key,
            title="pairs", **common,
        )  # fmt: skip
        loss = _LeastSquares(network)

        def kept(indices: Tensor, images: Tensor, generator: torch.Generator) -> tuple[Any, ...]:
            rows = pairs.rows(indices.numpy())
            halves = torch.from_numpy(np.unpackbits(rows["halves"], axis=2, count=n_players))
            return images, halves.bool(), torch.from_numpy(rows["odd"]), _seed(generator)

        arguments = kept

    if keep_tokens:
        arguments = with_tokens(arguments, network, dataset, folder, described, schedule, common)

    held_out = images_of(validation, range(len(validation)))
    held_halves = kernel_pairs(
        len(held_out), _VALIDATION_PAIRS, n_players, torch.Generator().manual_seed(_VALIDATION_SEED)
    )

    def held_values(indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        rows = torch.from_numpy(indices)
        return {"odd": pairs_of(held_out[rows], held_halves[rows]).cpu().numpy()}

    held = Table(
        folder / "validation", len(held_out), held_values, ["odd"], described,
        title="validation", **common,
    )  # fmt: skip
    held_odd = torch.from_numpy(held.rows(np.arange(len(held_out)))["odd"])

    def unexplained() -> dict[str, float]:
        """Shares of the variance of the pairs that values, and a game, do not explain."""
        errors: dict[str, float] = {}
        whole = float(held_odd.square().sum(-1).mean() * len(held_out))
        for rows in torch.split(torch.arange(len(held_out)), 64):
            prediction = network.predict(held_out[rows].to(device))
            halves, odd = held_halves[rows].to(device), held_odd[rows].to(device)
            found = {"unexplained": fastshap_loss(prediction.values(), halves, odd)}
            if (game := prediction.game) is not None:
                left = game.values(halves) - game.values(~halves) - odd
                found["unexplained_by_game"] = left.square().sum(-1).mean()
            for name, error in found.items():
                errors[name] = errors.get(name, 0.0) + error.item() * len(rows) / whole
        return errors

    def validate() -> float:
        return sum(unexplained().values())

    recipe = {
        **as_settings(schedule),
        "objective": objective,
        "n_pairs": n_pairs,
        "fresh": fresh,
        "n_frozen": network.n_frozen,
        "n_extra": n_extra,
        "predicts": predicts,
        "taps": list(network.taps),
        "seed": seed,
    }
    if keep_tokens:
        recipe["keep_tokens"] = True
    if evaluate is not None:
        recipe["evaluate"] = code_digest(evaluate)
    if start is not None:
        recipe["start"] = model_digest(start.trained())
    fitted: Fitted = fit(
        loss,
        network.trained(),
        Numbers(len(dataset)) if keep_tokens else dataset,
        validate,
        folder,
        {**described, **recipe},
        schedule,
        arguments=arguments,
        weights=network.trained_state,
        seed=seed,
        name="explainer",
        trained_before=start is not None,
        **common,
    )
    surrogate_state = {k: v for k, v in network.state_dict().items() if k.startswith("surrogate.")}
    network.load_state_dict({**surrogate_state, **fitted.weights})
    network.eval()
    with torch.no_grad():
        scores = unexplained()
    if main:
        file = folder / "surrogate.safetensors"
        save_surrogate(network.surrogate.model, file, architecture=architecture)
        save_explainer(
            network,
            folder / "explainer.safetensors",
            surrogate=file,
            card={
                "recipe": recipe,
                "training_images": len(dataset),
                "validation": {"images": len(held_out), **scores},
                **card,
            },
        )
    return network.eval()


class _LeastSquares(nn.Module):
    """Regression on pairs; their values come with them or are computed on the spot."""

    def __init__(self, network: ShapleyViT) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Tensor, halves: Tensor, odd: Tensor | None, seed: int, *kept: Tensor
    ) -> Tensor:
        if odd is None:
            with torch.no_grad():
                odd = self.network.odd_values(images, halves)
        prediction = predicted(self.network, images, kept)
        if prediction.game is None:
            return fastshap_loss(prediction.values(), halves, odd)
        return game_loss(prediction, halves, odd, seed)


class _Distance(nn.Module):
    """Squared distance to labels, summed over players and outputs."""

    def __init__(self, network: ShapleyViT) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, labels: Tensor, *kept: Tensor) -> Tensor:
        values = predicted(self.network, images, kept).values()
        return (values - labels).square().sum((1, 2)).mean()


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def _generator(seed: int, place: int) -> torch.Generator:
    mixed = int(np.random.SeedSequence([seed, place, 2]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator().manual_seed(mixed)
