"""The Captum face: ``attribute``, to the letter of Captum's KernelShap."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._arrays import layout_of, plain_tensor
from .._compat import format_forward_args, progress, unlogged
from .._validation import whole as whole_number
from ..errors import bad
from ..game import Forward, Request
from ..masking.backgrounds import baseline_tensors
from ..masking.coalition_inputs import CoalitionInputs
from ..models.batch import BatchModel
from ..models.outputs import check_rows
from ..players.feature_masks import as_labels, mask_tensors, spread_coefficients, sum_over_players
from ..players.grids import grid_players
from ..targets.captum import (
    is_one_value_per_batch,
    one_each,
    plain_target,
    select_target,
    target_columns,
)
from ..targets.outputs import check_outputs, choose_outputs
from .core import Core, warn_of_scale
from .solve import Run

__all__ = [
    "Asked",
    "Attributed",
    "CaptumFace",
    "check_attributions",
    "check_inputs",
]


@dataclass(frozen=True)
class Asked:
    """Captum's arguments, checked: the inputs, who plays, and what is explained."""

    inputs: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    backgrounds: tuple[Tensor, ...]
    extra: tuple[Any, ...]
    target: Any = None
    outputs: Any = None  # in place of a target
    budget: int | None = None  # of model evaluations; None for one of our choice
    budget_name: str = "n_samples"
    rows: int = 1  # of each example in one call of the model
    by_default: bool = False  # nobody chose the players


@dataclass(frozen=True)
class Attributed:
    """The players' values, as whatever Captum's arguments ask for."""

    inputs: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    ids: list[NDArray[np.int64]]  # of the feature mask, behind the players of each example
    run: Run

    def per_id(self, k: int = 0) -> Tensor:
        """Values (N, M) of an explained output, zero for ids that an example lacks; float64."""
        m = 1 + max(int(mask.max()) for mask in self.masks if mask.numel())
        table = np.zeros((len(self.run.estimates), m))
        for row, ids, estimate in zip(table, self.ids, self.run.estimates, strict=True):
            row[ids] = estimate.values[:, k]
        return torch.from_numpy(table)

    def attributions(self, as_tuple: bool, per_element: bool = True, k: int = 0) -> Any:
        """Values of an output on the inputs' elements, or per id."""
        table = self.per_id(k)
        if per_element:
            spread = spread_coefficients(table, self.masks, self.inputs)
            return spread if as_tuple else spread[0]
        is_double = self.inputs[0].dtype == torch.float64
        return table.to(self.inputs[0].device, torch.float64 if is_double else torch.float32)

    def delta(self) -> Tensor:
        """Sum of the players' values minus ``f(inputs) - f(baselines)``, (N,)."""
        gap = [e.values.sum() - (e.full_values - e.base_values)[0] for e in self.run.estimates]
        return torch.tensor(gap, dtype=torch.float32, device=self.inputs[0].device)


class CaptumFace(Core):
    """What makes an explainer a Captum attribution."""

    forward_func: Any
    get_name: Callable[[], str]

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
        asked = self._asked(
            inputs,
            baselines,
            additional_forward_args,
            feature_mask,
            n_samples,
            perturbations_per_eval,
        )
        found = self._attributed(replace(asked, target=plain_target(target)), show_progress)
        self.last_run = found.run
        attributions = found.attributions(isinstance(inputs, tuple), return_input_shape)
        return (attributions, found.delta()) if return_convergence_delta else attributions

    def attribute_outputs(
        self,
        inputs: Any,
        outputs: Any = None,
        *,
        baselines: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        budget: int | str = "auto",
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
    ) -> Any:
        """Attributions of several outputs for the evaluations of one.

        ``attribute(x, target=[...])`` keeps Captum's meaning, one target for each example.

        Parameters
        ----------
        outputs : int, str, list of these, or ndarray of int (N, k), optional
            Outputs of a model (N, K): indices, ``"top3"`` and the like for the largest of each
            example, or names; all by default. :attr:`Run.outputs` of ``last_run`` has their
            indices.
        budget : int or "auto"
            Model evaluations for each example, as ``max_evals`` of :meth:`__call__`.
        inputs, baselines, additional_forward_args, feature_mask, perturbations_per_eval,
        return_input_shape, show_progress
            As in :meth:`attribute`.

        Returns
        -------
        list of Tensor, or list of tuple of Tensor
            For each output, what :meth:`attribute` returns.

        Examples
        --------
        >>> import torch
        >>> from xai_patchshap import PatchKernelShap
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> explainer = PatchKernelShap(model)
        >>> images = torch.rand(2, 3, 32, 32)
        >>> first, second = explainer.attribute_outputs(images, "top2", budget=400)
        >>> first.shape
        torch.Size([2, 3, 32, 32])
        >>> bool((explainer.last_run.outputs[:, 0] == model(images).argmax(1).numpy()).all())
        True
        """
        asked = self._asked(
            inputs,
            baselines,
            additional_forward_args,
            feature_mask,
            budget,
            perturbations_per_eval,
            "budget",
        )
        outputs = check_outputs(outputs, self.output_names)
        outputs = slice(None) if outputs is None else outputs
        found = self._attributed(replace(asked, outputs=outputs), show_progress)
        self.last_run = found.run
        return [
            found.attributions(isinstance(inputs, tuple), return_input_shape, k)
            for k in range(found.run.estimates[0].values.shape[1])
        ]

    def _asked(
        self,
        inputs: Any,
        baselines: Any,
        additional_forward_args: Any,
        feature_mask: Any,
        n_samples: Any,
        perturbations_per_eval: Any,
        budget_name: str = "n_samples",
    ) -> Asked:
        """Captum's arguments, checked; ``n_samples="auto"`` is a budget of our choice."""
        tensors = check_inputs(inputs)
        rows = whole_number(1)("perturbations_per_eval", perturbations_per_eval)
        masks, backgrounds = self._players_and_backgrounds(tensors, baselines, feature_mask)
        chosen = self._own_masker and self.masker.players is not None
        by_default = feature_mask is None and not chosen
        return Asked(
            tensors,
            masks,
            backgrounds,
            format_forward_args(additional_forward_args) or (),
            budget=self._check_budget(budget_name, n_samples, len(backgrounds[0])),
            budget_name=budget_name,
            rows=rows,
            by_default=by_default,
        )

    def _attributed(self, asked: Asked, show_progress: bool) -> Attributed:
        """Everything that :meth:`attribute` does but choose what is returned."""
        started = time.perf_counter()
        model = BatchModel(self._game_model, autocast=self.autocast)
        bar = partial(progress, desc=f"{self.get_name()} attribution") if show_progress else None
        with model.running():
            warn_of_scale(self.model, asked.inputs)
            begun = time.perf_counter()
            whole, prediction = self._first_look(model, asked.inputs, asked.extra)
            looked = time.perf_counter() - begun
            request, forward, ids = self._request(model, asked, whole)
            run = self._run(forward, request, [prediction], asked.budget, bar)
        run["model_seconds"] += looked
        run["seconds"] = time.perf_counter() - started
        return Attributed(asked.inputs, asked.masks, ids, Run(**run))

    def _request(
        self, model: BatchModel, asked: Asked, whole: Tensor
    ) -> tuple[Request, Forward, list[NDArray[np.int64]]]:
        """The game that Captum's arguments ask for, and the ids of its players."""
        inputs, backgrounds, masks = asked.inputs, asked.backgrounds, asked.masks
        n = len(inputs[0])
        if asked.outputs is None:
            selected = select_target(whole, asked.target)
            shared = is_one_value_per_batch(selected, asked.target, n, asked.rows, whole.dim())
            columns = target_columns(whole, asked.target)
        else:
            shared, columns = False, self._columns_of(whole, asked.outputs, n)
        if shared:  # the whole batch is the one example
            inputs = tuple(x[None] for x in inputs)
            backgrounds = tuple(b[:, None] for b in backgrounds)
            masks = tuple(m[None] for m in masks)
        labels, ids = as_labels(masks, len(inputs[0]))
        bound = CoalitionInputs(inputs, backgrounds, labels, tuple(map(len, ids)))
        self._warn_of_doubts(asked.budget_name, asked.budget, bound, asked.by_default)
        guides = None
        if whole.dim() > 1 and not shared:
            guides = self._guide_columns(whole.detach().flatten(1).double().cpu().numpy())
        request = Request(
            bound.to(model.device, model.memory_format),
            whole[None] if shared else whole,
            columns if guides is None else np.concatenate([columns, guides], axis=1),
            0 if guides is None else guides.shape[1],
            every_output=whole.dim() < 2,
            link=self._game_link,
            batch_size=asked.rows * (1 if shared else n),
            by_size=self._drops_tokens,
            repeatable=not asked.extra,
        )

        def of_rows(xs: tuple[Tensor, ...], examples: Tensor) -> Any:
            return model(xs, _matched(asked.extra, examples, n))

        def of_the_batch(xs: tuple[Tensor, ...], examples: Tensor) -> Any:
            return model(tuple(x[0] for x in xs), asked.extra)[None]

        return request, of_the_batch if shared else of_rows, ids

    def _columns_of(self, whole: Tensor, outputs: Any, n: int) -> NDArray[np.int64]:
        """Indices (N, k) of the outputs of a model (N, K) or (N,)."""
        check_rows(whole, n)
        scores = whole.detach().double().cpu().numpy().reshape(n, -1)
        every = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        if isinstance(outputs, slice):
            return every
        chosen = choose_outputs(outputs, scores, whole.dim() == 1)
        return every if chosen is None else chosen

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
        end = check_inputs(end_point)
        target = plain_target(target)
        given = check_inputs(attributions, "attributions")
        check_attributions(given, end)
        masks, _ = self._players_and_backgrounds(end, start_point, feature_mask)
        start = tuple(
            b[0].expand_as(x) for b, x in zip(baseline_tensors(start_point, end), end, strict=True)
        )
        extra = format_forward_args(additional_forward_args) or ()
        model = BatchModel(self.forward_func, autocast=self.autocast)
        with model.running():
            values = [
                one_each(select_target(model(x, extra), target), target, len(end[0]))
                for x in (end, start)
            ]
        total = sum_over_players(given, masks)
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
            masks = mask_tensors(feature_mask, inputs)
        elif from_masker is not None:
            masks = from_masker.labels
        else:
            masks = self._default_masks(inputs)
        if baselines is None and from_masker is not None:
            return masks, from_masker.backgrounds
        return masks, baseline_tensors(baselines, inputs)

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


def check_inputs(inputs: Any, name: str = "inputs") -> tuple[Tensor, ...]:
    """The inputs as a tuple of tensors that share a batch size, or an error."""
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    tensors: list[Tensor] = []
    for i, x in enumerate(given):
        what = f"{name}[{i}]" if len(given) > 1 else name
        if not isinstance(x, Tensor):
            mend = "torch.as_tensor(x) makes one of an array."
            if isinstance(x, list):
                mend = "Give several inputs as a tuple, and a batch as torch.stack(x)."
            came = f"an object of type {type(x).__name__}"
            raise bad(what, came, "a torch.Tensor, or a tuple of them", mend)
        x = plain_tensor(x, what)
        if x.dim() < 1:
            raise bad(what, "a tensor without axes", "a batch (N, ...)", "Use x[None].")
        if len(x) == 0:
            raise bad(what, f"an empty batch of shape {tuple(x.shape)}", "at least one example")
        if tensors and len(x) != len(tensors[0]):
            raise bad(what, f"{len(x)} examples", f"{len(tensors[0])} like {name}[0]")
        if x.is_floating_point() and torch.isnan(x).any():
            raise bad(what, "NaN", "numbers", "torch.nan_to_num(x) replaces NaN.")
        tensors.append(x)
    if not sum(x.numel() for x in tensors):
        raise bad(name, "no elements", "at least one element to explain")
    return tuple(tensors)


def check_attributions(given: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> None:
    """Raise unless attributions have the inputs' shapes, or those of one example."""
    shapes, expected = [tuple(a.shape) for a in given], [tuple(x.shape) for x in inputs]
    fit = len(shapes) == len(expected) and all(
        a[1:] == x[1:] and a[0] in (1, x[0]) for a, x in zip(shapes, expected, strict=True)
    )
    if not fit:
        raise bad("attributions", f"shapes {shapes}", f"those of the inputs, {expected}")


def _matched(extra: tuple[Any, ...], examples: Tensor, n: int) -> tuple[Any, ...]:
    """Additional forward arguments for rows that stem from ``examples`` of a batch of n."""
    return tuple(_rows(a, examples, n) if isinstance(a, Tensor) else a for a in extra)


def _rows(a: Tensor, examples: Tensor, n: int) -> Tensor:
    try:
        return a.index_select(0, examples.to(a.device)) if a.dim() and a.size(0) == n else a
    except (RuntimeError, NotImplementedError) as error:
        came = "a nested tensor" if a.is_nested else f"a tensor of {a.dtype} and {a.layout}"
        expected = "tensors whose rows can be matched to the examples"
        raise bad("additional_forward_args", came, expected, f"({error!s:.100})") from None
