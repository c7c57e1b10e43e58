"""ViTShapleyAmortized: all patches' Shapley values in one forward pass of a trained network."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shap
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._arrays import plain_array
from .._compat import unlogged
from .._validation import checked, whole
from ..amortized import ShapleyViT, load_explainer
from ..amortized.predicted_game import PredictedGame, Prediction
from ..errors import bad
from ..estimators import (
    Estimate,
    GaussianProcessShap,
    KernelShap,
    Plan,
    check_sampling,
    shapley_estimator,
)
from ..game import Game
from ..masking.patch_masker import PatchMasker
from . import captum_conventions as _captum
from . import shap_conventions as _shap
from .base import PatchExplainer
from .sampled import leading_outputs

__all__ = ["ViTShapleyAmortized"]

# Fewer evaluations tell a Gaussian process nothing of its own errors.
_FEWEST_FOR_A_PROCESS = 10


class ViTShapleyAmortized(PatchExplainer):
    r"""Shapley values of all patches and classes in one forward pass of a trained network.

    ViT-Shapley (Covert, Kim & Lee, Learning to estimate Shapley values with vision
    transformers, ICLR 2023): a network was trained, once, to predict the Shapley values of a
    *surrogate*, a vision transformer that is at home with missing patches
    (:mod:`xai_patchshap.amortized`). The values add up to ``v(all) - v(none)`` of the
    surrogate exactly. With ``refine=m``, ``m`` evaluations of the surrogate correct the
    prediction where it is wrong: what it leaves of the game is explained as
    :class:`PatchKernelShap` explains games.

    It is a :class:`captum.attr.PerturbationAttribution` and a :class:`shap.Explainer`, as
    :class:`PatchKernelShap`.

    Parameters
    ----------
    model : ShapleyViT or path
        The network, or its checkpoint ``explainer.safetensors`` with the surrogate's beside it.
    masker : PatchMasker, optional
        Must drop tokens and have the network's own patches as players, as it does by default.
    link : callable
        The identity, and nothing else: the network was trained on one scale.
    output_names : sequence of str, optional
        One name for each output.
    seed : int or None
        Chooses the coalitions of a refinement.
    refine : int
        Evaluations of the game for each image, the full and the empty coalition included; 0
        for the prediction alone. Calls override it with ``n_samples`` or ``max_evals``.
    sampling : {"a-optimal", "modified_l2", "leverage", "kernel"}, optional
        How coalitions of a refinement are chosen, as in :class:`PatchKernelShap`;
        ``"a-optimal"``, the default, is made for what a prediction leaves to find.
    autocast : torch.dtype, optional
        Run the network under ``torch.autocast``.
    feature_names : sequence of str, optional
        Names of the patches, for :meth:`explain_players`.
    linearize_link, algorithm
        Accepted because ``shap.Explainer`` passes them; without effect.

    Raises
    ------
    PatchShapError
        If an argument does not fit, or the checkpoint is damaged or foreign.

    Notes
    -----
    Standard errors of a prediction alone are its root mean squared errors on validation
    images, one number for each output (infinite if they were never measured); those of a
    refinement are posterior deviations.

    A refinement models what the prediction leaves of the game (the game that the network
    predicts, if it does, or else that of its values), as :class:`PatchKernelShap` models
    games: by a Gaussian process, or, below 10 evaluations, beyond 8,192 and above 256
    patches, by a ridge whose strength was calibrated on validation images.

    Examples
    --------
    >>> import torch
    >>> from xai_patchshap import ViTShapleyAmortized
    >>> from xai_patchshap.samples import cifar10_explainer
    >>> explainer = ViTShapleyAmortized(cifar10_explainer())
    >>> images = torch.rand(2, 3, 32, 32)
    >>> explainer.attribute(images, target=3).shape
    torch.Size([2, 3, 32, 32])
    >>> explainer(images, silent=True).values.shape  # ten classes for the price of one
    (2, 32, 32, 3, 10)
    >>> explainer.explain_players(images, max_evals=128).error_std.shape  # refined
    (2, 64, 10)
    """

    @checked(refine=whole(2, also=0, unit=" evaluations"))
    def __init__(
        self,
        model: ShapleyViT | str | Path,
        masker: Any = None,
        link: Callable[..., Any] = shap.links.identity,
        output_names: Sequence[str] | None = None,
        seed: int | None = 0,
        refine: int = 0,
        sampling: str | None = None,
        autocast: torch.dtype | None = None,
        feature_names: Sequence[str] | None = None,
        linearize_link: bool = True,
        algorithm: str = "auto",
    ) -> None:
        model = self._taken(model)
        if link is not shap.links.identity:
            raise bad("link", repr(link), "shap.links.identity: the network knows its own scale")
        check_sampling(sampling, "auto")
        masker = PatchMasker(background="drop") if masker is None else masker
        super().__init__(
            model,
            masker,
            link,
            output_names,
            seed,
            autocast,
            feature_names,
            linearize_link,
            algorithm,
        )
        self.refine, self.sampling = refine, sampling
        self._pass = _OnePass(model)

    @staticmethod
    def _taken(model: Any) -> ShapleyViT:
        if isinstance(model, str | Path):
            model = load_explainer(model)
        if not isinstance(model, ShapleyViT):
            raise bad(
                "model",
                f"an object of type {type(model).__name__}",
                "a ShapleyViT or the path of its checkpoint",
                "xai_patchshap.amortized.train_explainer makes one for your own transformer; "
                "explain_image explains any other model.",
            )
        return model

    def _checked_masker(self, masker: Any) -> PatchMasker:
        checked = super()._checked_masker(masker)
        given = checked.background
        each = given if isinstance(given, list) else [given]
        if not all(isinstance(b, str) and b == "drop" for b in each):
            raise bad(
                "masker",
                "one with a background",
                "PatchMasker(background='drop'): the surrogate does without hidden patches",
            )
        return checked

    @classmethod
    def get_name(cls) -> str:
        """Name in Captum's progress bars."""
        return "ViT Shapley Amortized"

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "refine": self.refine, "sampling": self.sampling}

    @unlogged
    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int | None = None,
        perturbations_per_eval: int = 64,
        return_input_shape: bool = True,
        show_progress: bool = False,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Attributions as Captum's ``KernelShap.attribute`` returns them.

        Takes the arguments of :meth:`PatchKernelShap.attribute`, with these differences.

        Parameters
        ----------
        baselines : None
            There are none: hidden patches are not seen at all.
        n_samples : int, optional
            Evaluations of a refinement, the empty and the full coalition included; by default
            those of ``refine``. With 2 the prediction stays as it is.
        """
        _check_floats(inputs)
        if baselines is not None:
            raise bad("baselines", "some", "None: the surrogate does without hidden patches")
        if additional_forward_args is not None:
            raise bad("additional_forward_args", "some", "None: the network takes images alone")
        return super().attribute(
            inputs,
            None,
            target,
            None,
            feature_mask,
            self._auto_budget(0) if n_samples is None else n_samples,
            perturbations_per_eval,
            return_input_shape,
            show_progress,
            return_convergence_delta,
        )

    def compute_convergence_delta(
        self,
        attributions: Any,
        start_point: None,
        end_point: Any,
        target: Any = None,
        additional_forward_args: None = None,
        feature_mask: Any = None,
    ) -> Tensor:
        """Sum of the patches' values minus ``v(all) - v(none)`` of the surrogate.

        Takes the arguments of :meth:`PatchKernelShap.compute_convergence_delta`; there are no
        baselines, so that ``start_point`` is None.

        Returns
        -------
        Tensor of shape (N,)
        """
        if start_point is not None:
            raise bad("start_point", "some", "None: the surrogate does without hidden patches")
        _check_floats(end_point)
        (end, *others) = _captum.check_inputs(end_point)
        if others:
            raise bad("end_point", f"{1 + len(others)} tensors", "a single tensor of images")
        given = _captum.check_inputs(attributions, "attributions")
        _captum.check_attributions(given, (end,))
        masks, _ = self._players_and_backgrounds((end,), None, feature_mask)
        full = self.model.whole_images(end)
        gap = _captum.select_target(full - self.model.null, target, None)
        total = _captum.sum_over_players(given, masks)
        difference = _captum.one_each(gap, target, len(end))
        return total - difference.to(total.device)

    def _explain(self, args: tuple[Any, ...], *options: Any, **more: Any) -> _shap.Result:
        for x in args:
            _check_floats(x)
        return super()._explain(args, *options, **more)

    @property
    def _game_model(self) -> nn.Module:
        """The surrogate, which keeps what the network says of whole images on the way."""
        self._pass = _OnePass(self.model)
        return self._pass

    @property
    def model_patch_size(self) -> tuple[int, int] | None:
        """Patch size of the surrogate in pixels."""
        height, width = self.model.surrogate.patch_size
        return height, width

    _keeps_state = True

    def _auto_budget(self, n_players: int) -> int:
        return max(2, self.refine)

    def _solve(
        self,
        game: Game,
        examples: Sequence[int],
        full: NDArray[np.float64],
        budgets: Sequence[int],
    ) -> list[Estimate]:
        network: ShapleyViT = self.model
        predicted, games = self._pass.predicted()
        null = network.null.double().cpu().numpy()
        seed = secrets.randbits(64) if self.seed is None else self.seed
        estimators = {
            b: self._estimator(network.n_players, b, seed) for b in dict.fromkeys(budgets)
        }
        order = {i: self._patches_of_players(game, i) for i in examples}
        n_outputs = full.shape[1] - game.n_guides
        everything = np.broadcast_to(np.arange(predicted.shape[2]), predicted[:, 0].shape)
        columns = everything if game.explained is None else game.explained
        if game.n_guides:
            columns = np.concatenate([columns, self._guiding], axis=1)
        # The values of the empty and the full coalition are known.
        wanted = {
            i: estimators[b].coalitions[2:]
            for i, b in zip(examples, budgets, strict=True)
            if len(estimators[b].coalitions) > 2
        }
        sampled = game.evaluate(wanted) if wanted else {}
        estimates = []
        for i, budget in zip(examples, budgets, strict=True):
            known = np.stack([null[columns[i]], full[i]])
            values = np.concatenate([known, sampled[i]]) if i in sampled else known
            prior = predicted[i][order[i]][:, columns[i]]
            start = _Start(games[i], estimators[budget], order[i], columns[i])
            estimate = self._refined(estimators[budget], values, prior, n_outputs, start)
            estimates.append(self._with_known_error(estimate, columns[i][:n_outputs]))
        return estimates

    def _estimator(self, n_players: int, budget: int, seed: int) -> Plan:
        kind = "auto" if budget >= _FEWEST_FOR_A_PROCESS else "kernel-shap"
        # The design, which is the default of the process, is for the process alone.
        sampling = None if self.sampling == "a-optimal" else self.sampling
        return shapley_estimator(n_players, budget, seed, sampling, kind, residual=True)

    def _guide_columns(self, full: NDArray[np.float64]) -> NDArray[np.int64] | None:
        if full.shape[1] == 1:
            return None
        self._guiding = leading_outputs(full)
        return self._guiding

    def _refined(
        self,
        estimator: Plan,
        values: NDArray[np.float64],
        prior: NDArray[np.float64],
        n_outputs: int,
        start: _Start,
    ) -> Estimate:
        """Of the first outputs; the others guide a process."""
        if isinstance(estimator, GaussianProcessShap):
            n_guides = values.shape[1] - n_outputs
            everything = len(values) == 2 ** len(prior)
            if start.game is None or len(values) <= 2 or everything:
                return estimator.estimate(values, prior, n_guides)
            played, (shapley, error) = start.played(len(values)), start.estimate(len(values))
            shapley += (played[1] - played[0] - shapley.sum(axis=0)) / len(shapley)
            left = estimator.estimate(values - played, prior - shapley, n_guides)
            return replace(
                left,
                values=left.values + shapley[:, :n_outputs],
                error_std=np.hypot(left.error_std, error[:, :n_outputs]),
                base_values=values[0, :n_outputs],
                full_values=values[1, :n_outputs],
            )
        values, prior = values[:, :n_outputs], prior[:, :n_outputs]
        if isinstance(estimator, KernelShap):
            return estimator.estimate(values, prior, self.model.ridge)
        estimate: Estimate = estimator.estimate(values)
        return estimate

    def _with_known_error(self, estimate: Estimate, outputs: Any) -> Estimate:
        """The validation error as the standard error of a prediction alone."""
        if estimate.n_coalitions > 2 or self.model.rmse is None:
            return estimate
        rmse = np.asarray(self.model.rmse)[outputs]
        std = np.broadcast_to(rmse, estimate.values.shape).copy()
        return Estimate(
            estimate.values, std, estimate.base_values, estimate.full_values, 2, exact=False
        )

    def _patches_of_players(self, game: Game, i: int) -> NDArray[np.int64]:
        """The network's patch behind each player, or an error."""
        labels = game.bound.labels[0]
        mask = labels[min(i, len(labels) - 1)].cpu().numpy()
        height, width = self.model.surrogate.patch_size
        rows, columns = self.model.grid
        if mask.shape[-2:] == (rows * height, columns * width):
            patches = mask.reshape(-1, rows, height, columns, width).swapaxes(2, 3)
            patches = patches.reshape(-1, rows * columns, height * width)
            players = patches[0, :, 0]
            one_each = len(np.unique(players)) == len(players)
            if one_each and (patches == players[:, None]).all():
                return np.argsort(players)
        raise bad(
            "players",
            f"{game.bound.n_players[i]} players on a mask of shape {mask.shape}",
            f"the {rows}x{columns} patches of {height}x{width} pixels that the network was "
            "trained for",
            "PatchKernelShap(model.surrogate, PatchMasker(players, 'drop')) takes any groups of "
            "patches.",
        )


def _check_floats(x: Any) -> None:
    """Raise for whole numbers: of bytes, the network would see images 255 times too bright."""
    x = x[0] if isinstance(x, tuple) and x else x
    if isinstance(x, Tensor):
        is_whole = not x.is_floating_point() and not x.is_complex()
    else:
        x = plain_array(x, "images")
        is_whole = x.dtype.kind in "iub"
    if is_whole:
        raise bad(
            "inputs",
            f"whole numbers ({x.dtype})",
            "floating-point images in the units that the network was trained on",
            "A network of images in [0, 1] takes x / 255.",
        )


class _OnePass(nn.Module):
    """The surrogate as the game's model; whole images go through the network, once."""

    def __init__(self, network: ShapleyViT) -> None:
        super().__init__()
        self.network = network
        self._kept: list[Prediction] = []

    def forward(self, images: Tensor) -> Tensor:
        if bool(images.isnan().any()):
            return self.network.link(self.network.surrogate(images).float())
        prediction = self.network.predict(images)
        self._kept.append(prediction)
        return prediction.full

    def predicted(self) -> tuple[NDArray[np.float64], list[PredictedGame | None]]:
        """Values (N, patches, K), and the games, of the images that came first."""
        values = torch.cat([p.values() for p in self._kept]).double().cpu().numpy()
        games: list[PredictedGame | None] = []
        for p in self._kept:
            games += [p.game and p.game[i : i + 1] for i in range(len(p.full))]
        return values, games


@dataclass(frozen=True)
class _Start:
    """Where a refinement starts from: the game that the network predicts for an image, if any."""

    game: PredictedGame | None
    estimator: Plan
    patches: NDArray[np.int64]  # of the players
    outputs: NDArray[np.int64]

    def played(self, m: int) -> NDArray[np.float64]:
        """Its values (m, K) of the estimator's first coalitions."""
        assert self.game is not None
        shown = np.empty((1, m, len(self.patches)), dtype=bool)
        shown[0][:, self.patches] = self.estimator.coalitions[:m]
        values = self.game.values(torch.from_numpy(shown).to(self.game.mass.device))
        return self._numbers(values)

    def estimate(self, m: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Its Shapley values (players, K) and their errors, the smaller the more values."""
        assert self.game is not None
        found = self.game.estimate(n_orders=max(8, m // 64))
        values, error = (self._numbers(part)[self.patches] for part in found)
        return values, error

    def _numbers(self, of_one: Tensor) -> NDArray[np.float64]:
        return np.asarray(of_one[0].double().cpu())[:, self.outputs]
