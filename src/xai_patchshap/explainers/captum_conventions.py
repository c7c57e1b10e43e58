"""Captum's conventions for inputs, baselines, masks and targets, as arrays of the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._arrays import as_array, as_tensor, plain_tensor
from .._compat import select_targets
from .._validation import ids
from ..errors import PatchShapError, bad, warn
from ..models.outputs import mean_of_maps

__all__ = ["as_labels", "baseline_tensors", "check_inputs", "mask_tensors", "select_target"]


# Ids of a feature mask may be this large, or four times the number of elements.
_LARGEST_ID = 10**7


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


def baseline_tensors(baselines: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Captum's ``baselines`` (None, number, tensor or tuple) as (1, N or 1, ...) tensors."""
    if baselines is None:
        baselines = tuple(0 for _ in inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(given) != len(inputs):
        raise bad("baselines", f"{len(given)} of them", f"{len(inputs)}, one for each input")
    out = []
    for i, (b, x) in enumerate(zip(given, inputs, strict=True)):
        what = f"baselines[{i}]" if len(inputs) > 1 else "baselines"
        b = as_tensor(b, what)
        if not b.dim():
            b = b.to(x.device).reshape([1] * x.dim())
        elif b.shape[1:] != x.shape[1:] or b.dim() != x.dim() or len(b) not in (1, len(x)):
            raise bad(
                what,
                f"shape {tuple(b.shape)}",
                f"{tuple(x.shape)}, or the same with 1 as first size",
            )
        if b.is_floating_point() and torch.isnan(b).any():
            raise bad(what, "NaN", "numbers")
        b = b.to(x.device)
        out.append((b.to(x.dtype) if x.is_floating_point() else b)[None])
    return tuple(out)


def mask_tensors(feature_mask: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Captum's ``feature_mask`` as int64 tensors (N or 1, ...) that broadcast to the inputs.

    As in Captum, ids that start above 0 are shifted down with a warning.
    """
    given = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
    if len(given) != len(inputs):
        raise bad("feature_mask", f"{len(given)} masks", f"{len(inputs)}, one for each input")
    masks = []
    for i, (m, x) in enumerate(zip(given, inputs, strict=True)):
        what = f"feature_mask[{i}]" if len(inputs) > 1 else "feature_mask"
        m = as_tensor(m, what)
        fits = m.dim() <= x.dim() and all(
            a in (1, b) for a, b in zip(m.shape[::-1], x.shape[::-1], strict=False)
        )
        if not fits:
            raise bad(
                what,
                f"shape {tuple(m.shape)}",
                f"the shape of the input, {tuple(x.shape)}, or one that broadcasts to it",
            )
        m = m.reshape([1] * (x.dim() - m.dim()) + list(m.shape))
        masks.append(torch.from_numpy(ids(empty=True)(what, as_array(m))))
    everyone = torch.cat([m.flatten() for m in masks])
    ids()("feature_mask", everyone.numpy())
    lowest, highest = int(everyone.min()), int(everyone.max())
    if highest > max(_LARGEST_ID, 4 * sum(x.numel() for x in inputs)):
        raise bad(
            "feature_mask",
            f"the id {highest}",
            f"ids of at most {_LARGEST_ID}, since attributions have a place for each id",
            "np.unique(mask, return_inverse=True)[1].reshape(mask.shape) numbers the groups one by "
            "one.",
        )
    if lowest > 0:
        warn(f"feature_mask: the smallest id is {lowest}; ids are shifted to start at 0.")
        masks = [m - lowest for m in masks]
    return tuple(m.to(x.device) for m, x in zip(masks, inputs, strict=True))


def as_labels(
    masks: tuple[Tensor, ...], n_examples: int
) -> tuple[tuple[Tensor, ...], list[NDArray[np.int64]]]:
    """Labels 0..n_i-1 of each example, and the ids of the mask behind them.

    An example plays without the ids that its mask lacks, whether others have them or not.
    """
    everyone: Tensor = torch.cat([m.flatten() for m in masks]).unique()  # type: ignore[no-untyped-call]
    if all(len(m) == 1 for m in masks):
        ids = [everyone] * n_examples
    else:
        masks = tuple(m.expand(n_examples, *m.shape[1:]) for m in masks)
        rows = torch.cat([m.flatten(1) for m in masks], dim=1)
        ids = [row.unique() for row in rows]
    if any(int(present[-1]) != len(present) - 1 for present in ids):
        masks = tuple(
            torch.stack([torch.searchsorted(ids[i], row.contiguous()) for i, row in enumerate(m)])
            for m in masks
        )
    return masks, [present.cpu().numpy() for present in ids]


def plain_target(target: Any) -> Any:
    """A target of numpy's or of small whole numbers in the types that Captum takes."""
    if isinstance(target, np.ndarray):
        target = as_tensor(target, "target")
    if isinstance(target, Tensor):
        target = plain_tensor(target, "target")
        return target.long() if _is_whole(target) else target
    if type(target) in (tuple, list):
        each = (
            int(t) if isinstance(t, Tensor) and not t.dim() and _is_whole(t) else t for t in target
        )
        return type(target)(plain_target(t) for t in each)
    return int(target) if isinstance(target, np.integer) else target


def _is_whole(target: Tensor) -> bool:
    return not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)


def select_target(output: Any, target: Any, examples: Tensor | None) -> Any:
    """Captum's target selection for rows that stem from ``examples``.

    ``examples=None`` is the whole batch in its own order.
    """
    if target is None:
        return output
    if examples is not None:
        if isinstance(target, list):
            target = [target[i] for i in examples.tolist()]
        elif isinstance(target, Tensor) and target.numel() > 1:
            target = target[examples.to(target.device)]
    try:
        if isinstance(target, bool):
            raise TypeError("True and False are no indices")
        if isinstance(target, Tensor):
            if not _is_whole(target):
                raise TypeError(f"indices are whole numbers, and these are {target.dtype}")
            target = target.to(output.device)
        return select_targets(output, target)
    except PatchShapError:
        raise
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise bad(
            "target",
            f"{target!r} for an output of shape {tuple(output.shape)}",
            "indices within the output's axes after the first, one for all examples or one each",
            f"{_no_target(output)}({error})",
        ) from error


def _no_target(output: Tensor) -> str:
    """Advice for outputs that have no axis to choose from."""
    return "The model returns one score already: leave target= out. " if output.dim() < 2 else ""


def target_columns(output: Any, target: Any) -> NDArray[np.int64] | None:
    """Column (N, 1) of an output (N, K) that the target is, for each example."""
    if output.dim() != 2:
        return None
    columns = torch.arange(output.shape[1], device=output.device).expand(output.shape)
    return np.asarray(select_target(columns, target, None).reshape(len(output), -1).cpu())


def one_each(selected: Any, target: Any, n: int) -> Tensor:
    """Selected outputs as one number for each of n examples, or for all; float64."""
    # A copy: the model may write its next output into the same memory.
    vector = as_vector(selected).to(torch.float64, copy=True)
    if vector.dim() != 1 or len(vector) not in (1, n):
        raise bad(
            "target",
            f"{target!r}, which leaves outputs of shape {tuple(selected.shape)}",
            f"a choice of one output for each of the {n} examples",
        )
    if not torch.isfinite(vector).all():
        raise bad("model", "NaN or infinite outputs for the inputs or baselines", "finite numbers")
    return vector


def check_attributions(given: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> None:
    """Raise unless attributions have the inputs' shapes, or those of one example."""
    shapes, expected = [tuple(a.shape) for a in given], [tuple(x.shape) for x in inputs]
    fit = len(shapes) == len(expected) and all(
        a[1:] == x[1:] and a[0] in (1, x[0]) for a, x in zip(shapes, expected, strict=True)
    )
    if not fit:
        raise bad("attributions", f"shapes {shapes}", f"those of the inputs, {expected}")


def with_guides(selected: Any, output: Any, guides: Tensor | None, examples: Tensor | None) -> Any:
    """The selected output (B,) with the guide outputs of each row's example behind it."""
    if guides is None:
        return selected
    columns = guides if examples is None else guides[examples.to(guides.device)]
    steering = output.flatten(1).gather(1, columns.to(output.device))
    # Guides only steer: what is not finite among them must not stop anything.
    steering = torch.nan_to_num(steering, posinf=0.0, neginf=0.0)
    return torch.cat([as_vector(selected)[:, None], steering], 1)


def matched(extra: tuple[Any, ...], examples: Tensor | None, n: int) -> tuple[Any, ...]:
    """Additional forward arguments for rows that stem from ``examples`` of a batch of n."""
    if examples is None:
        return extra
    return tuple(_rows(a, examples, n) if isinstance(a, Tensor) else a for a in extra)


def _rows(a: Tensor, examples: Tensor, n: int) -> Tensor:
    try:
        return a.index_select(0, examples.to(a.device)) if a.dim() and a.size(0) == n else a
    except (RuntimeError, NotImplementedError) as error:
        came = "a nested tensor" if a.is_nested else f"a tensor of {a.dtype} and {a.layout}"
        expected = "tensors whose rows can be matched to the examples"
        raise bad("additional_forward_args", came, expected, f"({error!s:.100})") from None


def spread_coefficients(
    coefficients: Tensor, masks: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Each player's coefficient on all of its elements: (B, M) to the inputs' shapes."""
    out = []
    for m, x in zip(masks, inputs, strict=True):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        rows = coefficients.to(device=x.device, dtype=dtype)
        shape = (len(rows), *x.shape[1:])
        if len(m) == 1:
            spread = rows[:, m[0].reshape(-1)].reshape(len(rows), *m.shape[1:])
        else:
            index = m[: len(rows)]
            spread = rows.gather(1, index.flatten(1)).reshape(index.shape)
        out.append(spread.expand(shape).clone())
    return tuple(out)


def sum_over_players(attributions: tuple[Tensor, ...], masks: tuple[Tensor, ...]) -> Tensor:
    """Sum (B,) that counts each player once, however many elements repeat its value."""
    ids = [m.expand_as(a).flatten(1) for m, a in zip(masks, attributions, strict=True)]
    values = torch.cat([a.double().flatten(1) for a in attributions], dim=1)
    players = torch.cat(ids, dim=1)
    count = torch.zeros(len(players), int(players.max()) + 1, dtype=torch.float64)
    count = count.to(values.device).scatter_add(1, players, torch.ones_like(values))
    return (values / count.gather(1, players)).sum(dim=1)


def one_value_per_example(
    forward: Callable[[tuple[Tensor, ...], Tensor | None], Any], shared: bool
) -> Callable[[tuple[Tensor, ...], Tensor], Any]:
    """Adapt a Captum forward function to the game's (rows,) outputs."""

    def call(inputs: tuple[Tensor, ...], examples: Tensor) -> Any:
        # A shared value has the whole batch for its only example, along a new first axis.
        output = forward(tuple(x[0] for x in inputs), None) if shared else forward(inputs, examples)
        return as_vector(output)

    return call


def as_vector(output: Tensor) -> Tensor:
    """A single number as a tensor (1,); (N, 1, ...) as (N,)."""
    size = len(output) if output.dim() else 1
    return output.reshape(-1) if output.numel() == size else output


def is_one_value_per_batch(
    output: Tensor, target: Any, n_examples: int, per_eval: int, n_axes: int
) -> bool:
    """Whether the model returns one value for the whole batch; an error for other forms.

    ``n_axes`` is that of the model's output, before the target was selected.
    """
    if output.numel() == 1 and n_examples > 1:
        if per_eval != 1:
            raise bad(
                "perturbations_per_eval",
                per_eval,
                "1 for a forward function that returns a single value for the whole batch",
            )
        return True
    if as_vector(output).dim() != 1 or output.numel() != n_examples:
        mend = "Choose one output with target=, as in attribute(x, target=0)."
        if n_axes > 2:
            place = "(class, row, column)" if n_axes == 4 else f"a tuple of {n_axes - 1} indices"
            mend = f"Name one place, target={place}, or score each class by its mean. "
            mend += mean_of_maps(n_axes)
        elif target is not None:
            mend = "Wrap the model in a function that returns one row of scores for each example."
        raise PatchShapError(
            f"forward function: got an output of shape {tuple(output.shape)} for "
            f"{n_examples} examples{'' if target is None else f' and target={target!r}'}; expected "
            f"one value per example or one per batch. {mend}"
        )
    return False
