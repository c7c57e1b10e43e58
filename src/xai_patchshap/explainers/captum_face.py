"""The Captum face: ``attribute``, to the letter of Captum's KernelShap."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._arrays import layout_of
from .._compat import format_forward_args, progress, unlogged
from .._validation import whole
from ..errors import bad
from ..game import Game
from ..masking.coalition_inputs import CoalitionInputs
from ..models.batch import BatchModel
from ..players.grids import grid_players
from . import captum_conventions as _captum
from .run import Runner

__all__ = ["CaptumFace"]


class CaptumFace(Runner):
    """What makes an explainer a Captum attribution."""

    forward_func: Any
    get_name: Callable[[], str]

    # Ids of the feature mask that are each example's players, in the last call.
    _ids: Any = None

    @unlogged
    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Attributions as Captum's ``KernelShap.attribute`` returns them.

        Parameters
        ----------
        inputs : Tensor (N, ...) or tuple of Tensor
            What to explain. Each example gets an explanation of its own, unless the
            forward function returns one value for the whole batch.
        baselines : number, Tensor or tuple of these, optional
            What stands in for hidden elements; a tensor has the input's shape, or 1 as its
            first size. By default the masker's background if the explainer was built with
            a masker, else zero.
        target : int, tuple, Tensor or list, optional
            The output to explain, as everywhere in Captum.
        additional_forward_args : Any or tuple, optional
            Further arguments of the forward function; tensors whose first size is N are
            matched to the examples.
        feature_mask : Tensor, ndarray, or tuple of these, optional
            Ids 0..M-1 of the players, of a shape that broadcasts to the input; first size
            1 or N. Ids may have gaps, and an example may lack ids that others have. By
            default, image-shaped inputs (N, C, H, W) play by the masker's players, or else by
            those of the explainer (``OwenBPT``: pixels; the others: a vision transformer's
            patches, or about 7x7 patches); elements of other inputs play one by one.
        n_samples : int
            Model evaluations for each example, the empty and the full coalition included;
            never exceeded. Captum's default is far too small: eight or more for each patch
            (``PatchKernelShap``), or a few hundred (``OwenBPT``), are a good start. Where
            the budget covers all that is to evaluate, the values are exact.
        perturbations_per_eval : int
            Each call of the forward function gets at most this many times N rows.
        return_input_shape : bool
            Whether attributions have the inputs' shape, a player's value on each of its
            elements, or shape (N, M), zero for ids that an example lacks.
        show_progress : bool
            Whether to show a progress bar.
        return_convergence_delta : bool
            Whether to return the sum of the players' values minus
            ``f(inputs) - f(baselines)`` too, which is zero up to rounding.

        Returns
        -------
        attributions : Tensor or tuple of Tensor
            float32, or float64 for float64 inputs; first size 1 where the forward function
            returns one value per batch.
        delta : Tensor of shape (N,)
            Only if asked for.

        Raises
        ------
        PatchShapError
            For inputs, masks, baselines, targets or budgets that do not fit.
        """
        with self._alone():
            return self._attribute(
                inputs,
                baselines,
                target,
                additional_forward_args,
                feature_mask,
                n_samples,
                perturbations_per_eval,
                return_input_shape,
                show_progress,
                return_convergence_delta,
            )

    def _attribute(
        self,
        inputs: Any,
        baselines: Any,
        target: Any,
        additional_forward_args: Any,
        feature_mask: Any,
        n_samples: int,
        perturbations_per_eval: int,
        return_input_shape: bool,
        show_progress: bool,
        return_convergence_delta: bool,
    ) -> Any:
        started = time.perf_counter()
        tensors = _captum.check_inputs(inputs)
        perturbations_per_eval = whole(1)("perturbations_per_eval", perturbations_per_eval)
        target = _captum.plain_target(target)
        n = len(tensors[0])
        masks, backgrounds = self._players_and_backgrounds(tensors, baselines, feature_mask)
        self._check_budget("n_samples", n_samples, len(backgrounds[0]))
        extra = format_forward_args(additional_forward_args) or ()
        model = BatchModel(self._game_model, autocast=self.autocast)

        guides: Tensor | None = None

        def forward(xs: tuple[Tensor, ...], examples: Tensor | None) -> Any:
            output = model(xs, _captum.matched(extra, examples, n))
            selected = _captum.select_target(output, target, examples)
            return _captum.with_guides(selected, output, guides, examples)

        bar = None
        if show_progress:
            bar = partial(progress, desc=f"{self.get_name()} attribution")
        n_players = 1 + max(int(m.max()) for m in masks if m.numel())
        with model.running():
            self._warn_of_scale(*tensors)
            every_output = model(tensors, extra)
            output = _captum.select_target(every_output, target, None)
            shared = _captum.is_one_value_per_batch(
                output, target, n, perturbations_per_eval, every_output.dim()
            )
            played = tensors
            if shared:  # the whole batch is the one example
                played = tuple(x[None] for x in tensors)
                backgrounds = tuple(b[:, None] for b in backgrounds)
            labels, ids = _captum.as_labels(
                tuple(m[None] for m in masks) if shared else masks, len(played[0])
            )
            bound = CoalitionInputs(played, backgrounds, labels, tuple(map(len, ids)))
            chosen = feature_mask is not None or (
                self._own_masker and self.masker.players is not None
            )
            self._warn_of_doubts("n_samples", n_samples, bound, not chosen)
            game = Game(
                _captum.one_value_per_example(forward, shared),
                bound.to(model.device, model.memory_format),
                perturbations_per_eval * (1 if shared else n),
                link=self._game_link,
            )
            game.by_size = self._drops_tokens
            if not shared:
                guides = self._guides(every_output)
            # A warm start cannot compare further arguments: they make every call a new question.
            known = target.tolist() if isinstance(target, Tensor) else target
            game.question = object() if extra else ("target", known)
            game.explained = _captum.target_columns(every_output, target)
            game.n_guides = 0 if guides is None else guides.shape[1]
            full = game.given_full_values(
                _captum.with_guides(_captum.as_vector(output), every_output, guides, None)
            )
            estimates = self._run(game, full, int(n_samples), started, bar)
        self._ids = ids
        coefficients = np.zeros((len(estimates), n_players))
        for i, e in enumerate(estimates):
            coefficients[i, ids[i]] = e.values[:, 0]
        table = torch.from_numpy(coefficients)
        if return_input_shape:
            spread = _captum.spread_coefficients(table, masks, tensors)
            attributions: Any = spread if isinstance(inputs, tuple) else spread[0]
        else:
            is_double = tensors[0].dtype == torch.float64
            attributions = table.to(
                tensors[0].device, torch.float64 if is_double else torch.float32
            )
        if not return_convergence_delta:
            return attributions
        gap = [e.values.sum() - (e.full_values - e.base_values)[0] for e in estimates]
        return attributions, torch.tensor(gap, dtype=torch.float32, device=tensors[0].device)

    def _guides(self, output: Tensor) -> Tensor | None:
        """Guide outputs (N, g) of an adaptive estimator, as columns of the flat output."""
        if output.dim() < 2:
            return None
        columns = self._guide_columns(output.detach().flatten(1).double().cpu().numpy())
        return None if columns is None else torch.from_numpy(columns)

    def attribute_future(self) -> None:
        """Not implemented, as in Captum's KernelShap."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    def has_convergence_delta(self) -> bool:
        """True: ``attribute`` accepts ``return_convergence_delta``."""
        return True

    def compute_convergence_delta(
        self,
        attributions: Any,
        start_point: Any,
        end_point: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
    ) -> Tensor:
        """Sum of the players' values minus ``f(end_point) - f(start_point)``.

        Parameters
        ----------
        attributions : Tensor or tuple of Tensor
            What :meth:`attribute` returned, in the inputs' shape.
        start_point : number, Tensor or tuple of these
            The baselines.
        end_point : Tensor or tuple of Tensor
            The inputs.
        target, additional_forward_args, feature_mask
            As they were given to :meth:`attribute`.

        Returns
        -------
        Tensor of shape (N,)
        """
        end = _captum.check_inputs(end_point)
        target = _captum.plain_target(target)
        given = _captum.check_inputs(attributions, "attributions")
        _captum.check_attributions(given, end)
        masks, _ = self._players_and_backgrounds(end, start_point, feature_mask)
        start = tuple(
            b[0].expand_as(x)
            for b, x in zip(_captum.baseline_tensors(start_point, end), end, strict=True)
        )
        extra = format_forward_args(additional_forward_args) or ()
        model = BatchModel(self.forward_func, autocast=self.autocast)
        with model.running():
            values = [
                _captum.one_each(
                    _captum.select_target(model(x, extra), target, None), target, len(end[0])
                )
                for x in (end, start)
            ]
        total = _captum.sum_over_players(given, masks)
        difference: Tensor = values[0] - values[1]
        return total - difference.to(total.device)

    def _players_and_backgrounds(
        self, inputs: tuple[Tensor, ...], baselines: Any, feature_mask: Any
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Masks (1 or N, ...) and backgrounds (S, 1 or N, ...) of Captum's arguments."""
        from_masker = None
        if self._own_masker and (baselines is None or feature_mask is None):
            if len(inputs) > 1:
                raise bad(
                    "inputs",
                    f"{len(inputs)} tensors for an explainer built with a masker",
                    "a single tensor",
                    "Give baselines= and feature_mask= for several inputs.",
                )
            x = inputs[0]
            layout = layout_of(x, self.masker.layout) if x.dim() == 4 else None
            from_masker = self.masker.prepare(x, layout, self.model_patch_size)[0]
        if feature_mask is not None:
            masks = _captum.mask_tensors(feature_mask, inputs)
        elif from_masker is not None:
            masks = from_masker.labels
        else:
            masks = self._default_masks(inputs)
        if baselines is None and from_masker is not None:
            return masks, from_masker.backgrounds
        return masks, _captum.baseline_tensors(baselines, inputs)

    def _default_masks(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        masks, start = [], 0
        for x in inputs:
            if x.dim() == 4 and x.numel():
                patch = self.model_patch_size
                labels = grid_players(x.shape[2], x.shape[3], patch=patch).labels[None, None]
            else:
                labels = np.arange(x[0].numel(), dtype=np.int64).reshape(1, *x.shape[1:])
            masks.append(torch.from_numpy(labels).to(x.device) + start)
            start += int(labels.max()) + 1 if labels.size else 0
        return tuple(masks)
