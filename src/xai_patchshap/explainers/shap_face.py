"""The shap face: calls, ``shap_values``, ``explain_row`` and per-player explanations."""

from __future__ import annotations

import time
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import shap
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .._arrays import as_images
from .._validation import whole as whole_number
from ..errors import bad
from ..game import Request
from ..masking.coalition_inputs import CoalitionInputs
from ..models.batch import BatchModel
from ..models.outputs import check_rows
from ..targets.outputs import Ranked, check_outputs, choose_names, choose_outputs
from .core import Core, warn_of_scale
from .explanations import (
    Result,
    check_feature_names,
    check_size,
    element_explanation,
    player_explanation,
    spread_values,
)
from .solve import Run

__all__ = ["ShapFace", "bar_delay"]

# Seconds before a progress bar appears: those of shap, but for programs that set others.
bar_delay: ContextVar[float] = ContextVar("bar_delay", default=10.0)


class ShapFace(Core):
    """What makes an explainer a shap explainer."""

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
        self._remember(result)
        return element_explanation(result, error_bounds, self.feature_names)

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
        self._remember(result)
        return player_explanation(result, self.feature_names)

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
            outputs = Ranked(ranked_outputs, output_rank_order)
        result = self._explain((x,), max_evals, batch_size, outputs, silent)
        self._remember(result)
        values = spread_values(result, result.images.given_layout)
        return values if ranked_outputs is None else (values, result.run.outputs)

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
        self._remember(result)
        explanation = element_explanation(result, error_bounds)
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
    ) -> Result:
        """The shap face up to the point where values get a shape."""
        started = time.perf_counter()
        outputs = check_outputs(outputs, self.output_names)
        if len(args) != 1:
            raise bad(
                "arguments",
                f"{len(args)} of them",
                "one batch of inputs",
                "For a model of several inputs use attribute((x1, x2)).",
            )
        played = self._game_model
        is_module = isinstance(played, nn.Module)
        images = as_images(args[0], self.masker.layout, for_module=is_module)
        model = BatchModel(played, hands=images.dtype, autocast=self.autocast)
        inputs, players = self.masker.prepare(
            images.x, images.layout, self.model_patch_size, images.data
        )
        warn_of_scale(self.model, (images.x,))
        limit = self._check_budget("max_evals", max_evals, inputs.n_backgrounds)
        inputs = inputs.to(model.device, model.memory_format)
        rows = self._rows(batch_size, model)
        bar = None
        if not silent:
            bar = partial(tqdm, desc=f"{type(self).__name__} explainer", delay=bar_delay.get())
        with model.running():
            begun = time.perf_counter()
            whole, prediction = self._look(model, inputs, rows)
            looked = time.perf_counter() - begun
            request, names = self._request_of(inputs, whole, outputs, rows)
            # What can still be wrong is found now, not after the budget is spent.
            if not per_player:
                check_size(images.data, request.n_explained)
            if per_player or images.layout is None:
                check_feature_names(self.feature_names, inputs.n_players)
            by_default = self.masker.players is None
            self._warn_of_doubts("max_evals", limit, inputs, by_default)
            run = self._run(lambda xs, _: model(xs), request, prediction, limit, bar)
        run["model_seconds"] += looked
        run["seconds"] = time.perf_counter() - started
        return Result(images, players, Run(**run), whole.dim() == 1, names)

    def _rows(self, batch_size: Any, model: BatchModel) -> int:
        """Rows in one call of the model."""
        if batch_size == "auto":
            return 16 if model.device is None or model.device.type == "cpu" else 128
        return int(whole_number(1)("batch_size", batch_size))

    def _look(
        self, model: BatchModel, inputs: CoalitionInputs, rows: int
    ) -> tuple[Tensor, list[Any]]:
        """What the model says of the whole inputs (N, K) or (N,), and what more is predicted."""
        (x,) = inputs.inputs
        parts: list[Tensor] = []
        predictions = []
        for start in range(0, len(x), rows):
            some = x[start : start + rows]
            output, prediction = self._first_look(model, (some,), ())
            known = parts[0].numel() // len(parts[0]) if parts else None
            check_rows(output, len(some), known)
            # A copy: the model may write its next output into the same memory.
            parts.append(output.detach().clone())
            predictions.append(prediction)
        return torch.cat(parts), predictions

    def _request_of(
        self, inputs: CoalitionInputs, whole: Tensor, outputs: Any, rows: int
    ) -> tuple[Request, Any]:
        """The game of the outputs that are chosen, and their names."""
        is_scalar = whole.dim() == 1
        scores = whole.double().cpu().numpy().reshape(len(whole), -1)
        chosen = choose_outputs(outputs, scores, is_scalar)
        names = choose_names(self.output_names, chosen, scores.shape[1], is_scalar)
        guides = None if is_scalar else self._guide_columns(scores)
        columns = chosen
        if guides is not None:
            every = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
            columns = np.concatenate([every if chosen is None else chosen, guides], axis=1)
        request = Request(
            inputs,
            whole,
            columns,
            0 if guides is None else guides.shape[1],
            every_output=chosen is None,
            link=self._game_link,
            batch_size=rows,
            by_size=self._drops_tokens,
        )
        return request, names

    def _remember(self, result: Result) -> None:
        """Keep what a public method found."""
        run = result.run
        # An average over examples makes sense only where all explain the same outputs.
        same = run.outputs is None or bool((run.outputs == run.outputs[0]).all())
        self.last_run = run
        self.expected_value = result.base_values.mean(axis=0) if same else None
