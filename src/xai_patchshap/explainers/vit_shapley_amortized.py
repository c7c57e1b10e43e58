"""ViTShapleyAmortized: all patches' Shapley values in one forward pass of a trained network."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
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
from ..amortized.predicted_game import Prediction
from ..amortized.refinement import PatchPrediction, RefinedPrediction
from ..errors import bad
from ..estimators import Plan, shapley_estimator
from ..estimators.base import Estimator
from ..estimators.coalitions.sampled_pairs import check_sampling
from ..game import Game
from ..masking.patch_masker import PatchMasker
from ..models.batch import BatchModel
from ..players.feature_masks import sum_over_players
from ..targets.captum import one_each, plain_target, select_target
from ..targets.outputs import guides_of_a_process
from .base import PatchExplainer
from .captum_face import Asked, check_attributions, check_inputs
from .explanations import Result

__all__ = ["ViTShapleyAmortized"]

# Fewer evaluations tell a Gaussian process nothing of its own errors.
_FEWEST_FOR_A_PROCESS = 10


class ViTShapleyAmortized(PatchExplainer):
    r"""Shapley values of all patches and classes in one forward pass of a trained network.

    ViT-Shapley (Covert, Kim & Lee, Learning to estimate Shapley values with vision
    transformers, ICLR 2023): a network was trained, once, to predict the Shapley values of a
    *surrogate*, a vision transformer that is at home with missing patches
    (:mod:`xai_patchshap.amortized`). The values add up to ``v(all) - v(none)`` of the
    surrogate exactly. With ``budget=m``, ``m`` evaluations of the surrogate correct the
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
    feature_names : sequence of str, optional
        Names of the patches, for :meth:`explain_players`.
    seed : int or None
        Chooses the coalitions of a refinement.
    autocast : torch.dtype, optional
        Run the network under ``torch.autocast``.
    budget : int
        Evaluations of the game for each image, the full and the empty coalition included; 0
        for the prediction alone. Calls override it with ``n_samples`` or ``max_evals``.
    sampling : {"a-optimal", "modified_l2", "leverage", "kernel"}, optional
        How coalitions of a refinement are chosen, as in :class:`PatchKernelShap`;
        ``"a-optimal"``, the default, is made for what a prediction leaves to find.

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

    @checked(budget=whole(2, also=0, unit=" evaluations"))
    def __init__(
        self,
        model: ShapleyViT | str | Path,
        masker: Any = None,
        *,
        link: Callable[..., Any] = shap.links.identity,
        output_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        seed: int | None = 0,
        autocast: torch.dtype | None = None,
        budget: int = 0,
        sampling: str | None = None,
    ) -> None:
        if link is not shap.links.identity:
            raise bad("link", repr(link), "shap.links.identity: the network knows its own scale")
        check_sampling(sampling, "auto")
        super().__init__(
            self._taken(model),
            PatchMasker(background="drop") if masker is None else masker,
            link=link,
            output_names=output_names,
            feature_names=feature_names,
            seed=seed,
            autocast=autocast,
        )
        self.budget, self.sampling = budget, sampling

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
        return {**super()._options(), "budget": self.budget, "sampling": self.sampling}

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
            those of ``budget``. With 2 the prediction stays as it is.
        """
        return super().attribute(
            inputs,
            baselines,
            target,
            additional_forward_args,
            feature_mask,
            self._auto_budget(0) if n_samples is None else n_samples,
            perturbations_per_eval,
            return_input_shape,
            show_progress,
            return_convergence_delta,
        )

    def _asked(
        self, inputs: Any, baselines: Any, additional_forward_args: Any, *rest: Any
    ) -> Asked:
        _check_floats(inputs)
        if baselines is not None:
            raise bad("baselines", "some", "None: the surrogate does without hidden patches")
        if additional_forward_args is not None:
            raise bad("additional_forward_args", "some", "None: the network takes images alone")
        return super()._asked(inputs, None, None, *rest)

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
        (end, *others) = check_inputs(end_point)
        if others:
            raise bad("end_point", f"{1 + len(others)} tensors", "a single tensor of images")
        given = check_inputs(attributions, "attributions")
        check_attributions(given, (end,))
        masks, _ = self._players_and_backgrounds((end,), None, feature_mask)
        full = self.model.whole_images(end)
        target = plain_target(target)
        gap = select_target(full - self.model.null, target)
        total = sum_over_players(given, masks)
        difference = one_each(gap, target, len(end))
        return total - difference.to(total.device)

    def _explain(self, args: tuple[Any, ...], *options: Any, **more: Any) -> Result:
        for x in args:
            _check_floats(x)
        return super()._explain(args, *options, **more)

    @property
    def _game_model(self) -> nn.Module:
        """The surrogate, on the network's scale."""
        return _Surrogate(self.model)

    def _first_look(
        self, model: BatchModel, inputs: tuple[Tensor, ...], extra: tuple[Any, ...]
    ) -> tuple[Tensor, Prediction]:
        """Values of whole images, and the prediction, by one pass of the network."""
        if len(inputs) != 1:
            raise bad("inputs", f"{len(inputs)} tensors", "a single tensor of images")
        # A copy: a model may write into its input.
        images = inputs[0].to(device=model.device, dtype=model.dtype, copy=True)
        prediction = self.model.predict(images)
        return prediction.full, prediction

    @property
    def model_patch_size(self) -> tuple[int, int] | None:
        """Patch size of the surrogate in pixels."""
        height, width = self.model.surrogate.patch_size
        return height, width

    def _auto_budget(self, n_players: int) -> int:
        return max(2, self.budget)

    def _estimators(
        self, game: Game, budgets: Mapping[int, int], prediction: Sequence[Prediction]
    ) -> dict[int, Estimator]:
        network: ShapleyViT = self.model
        values = torch.cat([p.values() for p in prediction]).double().cpu().numpy()
        games = [
            None if p.game is None else p.game[i : i + 1]
            for p in prediction
            for i in range(len(p.full))
        ]
        null = network.null.double().cpu().numpy()
        seed = secrets.randbits(64) if self.seed is None else self.seed
        plans = {
            budget: self._plan(network.n_players, budget, seed)
            for budget in dict.fromkeys(budgets.values())
        }
        columns = game.request.columns
        if columns is None:
            columns = np.broadcast_to(np.arange(values.shape[2]), values[:, 0].shape)
        assert game.full_values is not None
        return {
            i: RefinedPrediction(
                plans[budget],
                PatchPrediction(
                    values[i],
                    null,
                    games[i],
                    self._patches_of_players(game, i),
                    columns[i],
                    network.ridge,
                    network.rmse,
                ),
                game.full_values[i],
                game.request.n_guides,
            )
            for i, budget in budgets.items()
        }

    def _plan(self, n_players: int, budget: int, seed: int) -> Plan:
        kind = "auto" if budget >= _FEWEST_FOR_A_PROCESS else "kernel-shap"
        # The design, which is the default of the process, is for the process alone.
        sampling = None if self.sampling == "a-optimal" else self.sampling
        return shapley_estimator(n_players, budget, seed, sampling, kind, residual=True)

    def _guide_columns(self, full: NDArray[np.float64]) -> NDArray[np.int64] | None:
        return guides_of_a_process(full, "auto")

    def _patches_of_players(self, game: Game, i: int) -> NDArray[np.int64]:
        """The network's patch behind each player, or an error."""
        labels = game.request.inputs.labels[0]
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
            f"{game.n_players[i]} players on a mask of shape {mask.shape}",
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


class _Surrogate(nn.Module):
    """The surrogate as the game's model, on the network's scale."""

    def __init__(self, network: ShapleyViT) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.link(self.network.surrogate(images).float())
