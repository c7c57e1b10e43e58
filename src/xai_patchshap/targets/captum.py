"""Captum's ``target=``: which output of a model of any shape is explained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._arrays import as_tensor, plain_tensor
from .._compat import select_targets
from ..errors import PatchShapError, TargetError, bad
from ..models.outputs import mean_of_maps

__all__ = ["plain_target", "select_target", "target_columns"]


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


def select_target(output: Any, target: Any) -> Any:
    """What Captum's target selects of the outputs (N, ...) of a whole batch."""
    if target is None:
        return output
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
            TargetError,
        ) from error


def _no_target(output: Tensor) -> str:
    """Advice for outputs that have no axis to choose from."""
    return "The model returns one score already: leave target= out. " if output.dim() < 2 else ""


def target_columns(output: Tensor, target: Any) -> NDArray[np.int64]:
    """The output (N, 1) that the target is, as an index of the flattened outputs."""
    shape = output.shape[1:]
    index = torch.arange(shape.numel()).reshape(shape).expand(output.shape)
    if isinstance(target, Tensor):
        target = target.cpu()
    columns: NDArray[np.int64] = as_vector(select_target(index, target)).numpy()[:, None]
    return columns


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
