"""The shap face: calls, ``shap_values``, ``explain_row`` and per-player explanations."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import shap
from torch import nn
from tqdm.auto import tqdm

from .._validation import whole
from ..errors import bad
from ..game import Game
from ..models.batch import BatchModel
from . import shap_conventions as _shap
from .run import Runner

__all__ = ["ShapFace"]


class ShapFace(Runner):
    """What makes an explainer a shap explainer."""

    # Seconds before a progress bar appears, as in shap.
    _bar_delay = 10.0

    def __call__(
        self,
        *args: Any,
        max_evals: int | str = "auto",
        main_effects: bool = False,
        error_bounds: bool = False,
        batch_size: int | str = "auto",
        outputs: Any = None,
        silent: bool = False,
        **kwargs: Any,
    ) -> shap.Explanation:
        """Explain a batch, element by element, as shap's explainers do.

        Parameters
        ----------
        *args : one ndarray or Tensor
            Images, (N, H, W, C) as an array or (N, C, H, W) as a tensor, or rows (N, F).
            A module gets them channels first; any other callable gets what came.
        max_evals : int or "auto"
            Model evaluations for each example, the empty and the full coalition included;
            never exceeded. ``"auto"``: ten coalitions for each player, at least 500
            (``OwenBPT``: 500), each evaluated once for each background.
        error_bounds : bool
            Whether to give the standard errors of the values as ``error_std``.
        batch_size : int or "auto"
            Rows in one call of the model.
        outputs : int, list, ndarray or OpChain, optional
            The outputs to explain, for example ``shap.Explanation.argsort.flip[:3]`` for
            the three largest of each image. All by default. More outputs cost no more
            evaluations.
        silent : bool
            Whether to hide the progress bar, which appears after ten seconds.

        Returns
        -------
        shap.Explanation
            ``values`` (N, H, W, C, K) for images, whatever their layout, (N, F, K) for
            rows; no K for a model with a single output. ``shap.image_plot`` draws it.

        Raises
        ------
        PatchShapError
            For inputs, outputs or budgets that do not fit.
        """
        if main_effects or kwargs:
            name = next(iter(kwargs), "main_effects")
            raise bad(
                "arguments",
                name,
                "only max_evals, error_bounds, batch_size, outputs and silent",
                "Leave it out, or use shap's own explainers with the masker.",
            )
        result = self._explain(args, max_evals, batch_size, outputs, silent)
        return _shap.element_explanation(result, error_bounds, self.feature_names)

    def explain_players(
        self,
        x: Any,
        *,
        max_evals: int | str = "auto",
        batch_size: int | str = "auto",
        outputs: Any = None,
        silent: bool = False,
    ) -> shap.Explanation:
        """Explain a batch player by player, with standard errors.

        Takes the arguments of :meth:`__call__`. ``shap.plots.waterfall`` and ``force``
        draw ``explanation[i, :, k]``, ``bar`` and ``beeswarm`` ``explanation[..., k]``.

        Returns
        -------
        shap.Explanation
            ``values`` and ``error_std`` (N, n_players, K), ``data`` (N, n_players) the
            mean intensity of each player, ``feature_names`` the players.
        """
        result = self._explain((x,), max_evals, batch_size, outputs, silent, per_player=True)
        return _shap.player_explanation(result, self.feature_names)

    def shap_values(
        self,
        x: Any,
        ranked_outputs: int | None = None,
        output_rank_order: str = "max",
        check_additivity: bool = True,
        *,
        max_evals: int | str = "auto",
        batch_size: int | str = "auto",
        outputs: Any = None,
        silent: bool = True,
    ) -> Any:
        """Values in the layout of the input, as ``shap.DeepExplainer.shap_values`` gives them.

        Parameters
        ----------
        x : ndarray or Tensor (N, ...)
        ranked_outputs : int, optional
            Explain only this many outputs of each example, and return their indices too.
        output_rank_order : {"max", "min", "max_abs"}
            How outputs are ranked.
        check_additivity : bool
            Accepted for DeepExplainer's sake; the values always add up.

        Returns
        -------
        ndarray (N, ..., K), or a tuple of it and indices (N, ranked_outputs)
        """
        if ranked_outputs is not None:
            if outputs is not None:
                raise bad("outputs", "both outputs and ranked_outputs", "one of them")
            outputs = _shap.Ranked(ranked_outputs, output_rank_order)
        result = self._explain((x,), max_evals, batch_size, outputs, silent)
        values = _shap.spread_values(result, result.images.given_layout)
        return values if ranked_outputs is None else (values, result.outputs)

    def explain_row(
        self,
        *row_args: Any,
        max_evals: int | str = "auto",
        main_effects: bool = False,
        error_bounds: bool = False,
        outputs: Any = None,
        silent: bool = True,
        batch_size: int | str = "auto",
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One row, in the dictionary that ``shap.Explainer.__call__`` assembles."""
        rows = tuple(a[None] if isinstance(a, np.ndarray) else [a] for a in row_args)
        result = self._explain(rows, max_evals, batch_size, outputs, silent)
        explanation = _shap.element_explanation(result, error_bounds)
        shape = result.images.data.shape[1:]
        values = explanation.values[0]
        values = values.reshape(int(np.prod(shape)), *values.shape[len(shape) :])
        return {
            "values": values,
            "expected_values": np.asarray(explanation.base_values)[0],
            "mask_shapes": [shape],
            "output_indices": result.output_indices(0),
            "output_names": result.names,
            # shap reshapes values by mask_shapes, but not their errors.
            "error_std": explanation.error_std[0] if error_bounds else None,
        }

    def _explain(
        self,
        args: tuple[Any, ...],
        max_evals: Any,
        batch_size: Any,
        outputs: Any,
        silent: bool,
        per_player: bool = False,
    ) -> _shap.Result:
        """The shap face up to the point where values get a shape."""
        with self._alone():
            return self._result(args, max_evals, batch_size, outputs, silent, per_player)

    def _result(
        self,
        args: tuple[Any, ...],
        max_evals: Any,
        batch_size: Any,
        outputs: Any,
        silent: bool,
        per_player: bool,
    ) -> _shap.Result:
        started = time.perf_counter()
        if len(args) != 1:
            raise bad(
                "arguments",
                f"{len(args)} of them",
                "one batch of inputs",
                "For a model of several inputs use attribute((x1, x2)).",
            )
        played = self._game_model
        is_module = isinstance(played, nn.Module)
        images = _shap.as_images(args[0], self.masker.layout, for_module=is_module)
        model = BatchModel(played, hands=images.dtype, autocast=self.autocast)
        bound, players = self.masker.prepare(
            images.x, images.layout, self.model_patch_size, images.data
        )
        limit = None
        self._warn_of_scale(images.x)
        if max_evals != "auto":
            self._check_budget("max_evals", max_evals, bound.n_backgrounds)
            limit = int(max_evals)
        if batch_size == "auto":
            batch_size = 16 if model.device is None or model.device.type == "cpu" else 128
        else:
            whole(1)("batch_size", batch_size)
        bar = None
        if not silent:
            bar = partial(tqdm, desc=f"{type(self).__name__} explainer", delay=self._bar_delay)
        game = Game(
            lambda inputs, _: model(inputs),
            bound.to(model.device, model.memory_format),
            int(batch_size),
            link=self._game_link,
        )
        game.by_size = self._drops_tokens
        with model.running():
            raw = game.full_values(linked=False)
            chosen = _shap.choose_outputs(outputs, raw, game.is_scalar)
            guides = None if game.is_scalar else self._guide_columns(raw)
            n_explained = raw.shape[1] if chosen is None else chosen.shape[1]
            kept = chosen
            if guides is not None:
                if chosen is None:
                    kept = np.broadcast_to(np.arange(n_explained), raw.shape)
                kept = np.concatenate([kept, guides], axis=1)
            if kept is not None:
                game.select(kept, 0 if guides is None else guides.shape[1])
                raw = np.take_along_axis(raw, kept, axis=1)
            game.explained = chosen
            full = game.linked(raw)  # outputs that nobody asked for need no link
            # What can still be wrong is found now, not after the budget is spent.
            names = _shap.choose_names(self.output_names, chosen, game.n_outputs, game.is_scalar)
            if not per_player:
                _shap.check_size(images.data, n_explained)
            if per_player or images.layout is None:
                _shap.check_feature_names(self.feature_names, bound.n_players)
            self._warn_of_doubts("max_evals", limit, bound, self.masker.players is None)
            estimates = self._run(game, full, limit, started, bar)
        result = _shap.Result(
            images, players, estimates, chosen, game.is_scalar, names, time.perf_counter() - started
        )
        # An average over examples makes sense only where all explain the same outputs.
        same = chosen is None or bool((chosen == chosen[0]).all())
        self.expected_value = result.base_values.mean(axis=0) if same else None
        return result
