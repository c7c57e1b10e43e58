"""What models return: one dense tensor of real numbers, or an error with the line that mends it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.masked import MaskedTensor

from ..errors import PatchShapError, bad, rename

__all__ = ["as_scores", "check_rows", "mean_of_maps", "one_score_each"]

_EXPECTED = "one tensor or array of numbers, one row of scores for each image"
_LIKELY = ("logits", "logits_per_image", "out", "scores", "pooler_output", "output", "pred")


def as_scores(output: Any) -> Tensor:
    """A model's output as a tensor of real numbers.

    Parameters
    ----------
    output : Tensor, ndarray, number, or nested lists of numbers
        Anything else, as a dict or a tuple of heads, is refused: nothing says which part of it
        is meant, and a list of heads looks like a list of images.

    Returns
    -------
    Tensor
        The tensor itself; arrays and numbers as float64.

    Raises
    ------
    PatchShapError
        Whose message names what came and a line that wraps the model.

    Examples
    --------
    >>> as_scores([[0.25, 0.75]])
    tensor([[0.2500, 0.7500]], dtype=torch.float64)
    >>> as_scores({"logits": torch.zeros(1, 2)})
    Traceback (most recent call last):
        ...
    xai_patchshap.errors.PatchShapError: model: got a dict with the key 'logits'; expected one tensor or array of numbers, one row of scores for each image. Wrap the model: lambda x: model(x)["logits"].
    """  # noqa: E501
    if isinstance(output, Tensor):
        return _dense(output)
    if output is None:
        raise _refused("None", "Does the function end with a return statement?")
    if isinstance(output, str | bytes):
        raise _refused(f"the text {output!r:.40}", "Return the scores, not the names, of classes.")
    if isinstance(output, Mapping):
        raise _refused_mapping(output)
    if _is_sequence(output) and not _only_numbers(output):
        raise _refused_sequence(output)
    if isinstance(output, np.ma.MaskedArray):
        raise _refused("a masked array", "Wrap the model: lambda x: model(x).filled(0).")
    return _from_array(output)


def one_score_each(what: str, output: Any, n_rows: int) -> NDArray[np.float64]:
    """One finite number for each row, of an output (n_rows,) or (n_rows, 1) of ``what``."""
    try:
        values = as_scores(output).detach().double().cpu().numpy()
    except PatchShapError as error:
        rename(error, {"model": what})
        raise
    if values.shape not in ((n_rows,), (n_rows, 1)):
        raise bad(
            what,
            f"an output of shape {values.shape} for a batch of {n_rows}",
            f"({n_rows},) or ({n_rows}, 1), one value for each row",
            "Select one output of the model.",
        )
    if not np.isfinite(values).all():
        raise bad(f"output of {what}", "NaN or infinite numbers", "finite numbers")
    return values.ravel()


def check_rows(scores: Tensor, n_rows: int, n_outputs: int | None = None) -> None:
    """Raise unless scores are (n_rows, K) or (n_rows,), of so many outputs if that is known."""
    shape = tuple(scores.shape)
    if not (len(shape) in (1, 2) and shape[0] == n_rows and scores.numel()):
        raise bad(
            "model",
            f"an output of shape {shape} for a batch of {n_rows}",
            f"({n_rows}, K) or ({n_rows},), one row for each input",
            f"Score each class of maps (N, K, ...) by its mean. {mean_of_maps(len(shape))}"
            if len(shape) > 2 and shape[0] == n_rows
            else "Wrap the model in a function that returns one row of scores per image.",
        )
    if n_outputs not in (None, scores.numel() // n_rows):
        raise bad("model", f"{scores.numel() // n_rows} outputs", f"{n_outputs} as before")


def mean_of_maps(n_axes: int) -> str:
    """The line that makes scores (N, K) of outputs (N, K, ...)."""
    axes = tuple(range(2, n_axes))
    return f"Wrap the model: lambda x: model(x).mean({axes if len(axes) > 1 else 2})."


def _dense(output: Tensor) -> Tensor:
    small = output.is_floating_point() and output.element_size() == 1
    for is_so, what, method in (
        (output.is_nested, "a nested tensor", "to_padded_tensor(0.0)"),
        (isinstance(output, MaskedTensor), "a masked tensor", "to_tensor(0.0)"),
        (output.is_complex(), f"a tensor of {output.dtype}", "abs()"),
        (small, f"a tensor of {output.dtype}", "float()"),
        (output.is_quantized, f"a tensor of {output.dtype}", "dequantize()"),
        (output.layout is not torch.strided, f"a tensor of layout {output.layout}", "to_dense()"),
    ):
        if is_so:
            raise _refused(what, f"Wrap the model: lambda x: model(x).{method}.")
    if output.is_meta:
        raise _refused("a tensor on the meta device", "Give the model weights: model.to_empty(...)")
    return output


def _from_array(output: Any) -> Tensor:
    try:
        array = np.asarray(output)
    except (TypeError, ValueError, RuntimeError):
        array = np.asarray(None)
    if array.dtype.kind == "c":
        raise _refused(f"an array of {array.dtype}", "Wrap the model: lambda x: abs(model(x)).")
    if array.dtype.kind not in "fiub":
        came = f"an object of type {type(output).__name__}"
        if isinstance(output, np.ndarray):
            came = f"an array of dtype {array.dtype}"
        elif _is_sequence(output):
            inside = " of rows of different lengths" if any(map(_is_sequence, output)) else ""
            came = f"a {type(output).__name__}{inside or _of(output)}"
        names = (*_LIKELY, *getattr(output, "__dict__", ()))
        parts = {n: getattr(output, n, None) for n in names}
        parts = {n: v for n, v in parts.items() if isinstance(v, Tensor | np.ndarray)}
        mend = f"Wrap the model: lambda x: model(x).{_best(parts)}." if parts else _GENERAL
        raise _refused(came, mend)
    # A copy: a model may write its next output into the same array.
    return torch.from_numpy(np.array(array, dtype=np.float64))


_GENERAL = "Wrap the model in a function that returns one row of scores for each image."


def _refused(came: str, mend: str) -> PatchShapError:
    return bad("model", came, _EXPECTED, mend)


def _refused_mapping(output: Mapping[Any, Any]) -> PatchShapError:
    kind = type(output).__name__
    if not output:
        return _refused(f"an empty {kind}", _GENERAL)
    keys = list(output)
    listed = ", ".join(map(repr, keys[:5])) + (", ..." if len(keys) > 5 else "")
    came = f"a {kind} with the key{'s' * (len(keys) > 1)} {listed}"
    tensors = {k: v for k, v in output.items() if isinstance(v, Tensor | np.ndarray)}
    if not tensors:
        return _refused(came, _GENERAL)
    key = _best(tensors)
    is_model_output = isinstance(key, str) and type(output) is not dict and hasattr(output, key)
    part = f".{key}" if is_model_output else f'["{key}"]' if isinstance(key, str) else f"[{key!r}]"
    return _refused(came, f"Wrap the model: lambda x: model(x){part}.")


def _refused_sequence(output: Sequence[Any]) -> PatchShapError:
    kind, n = type(output).__name__, len(output)
    of = _of(output)
    tensors = {i: v for i, v in enumerate(output) if isinstance(v, Tensor | np.ndarray)}
    names = getattr(output, "_fields", None)
    if names and tensors:
        fields = {names[i]: v for i, v in tensors.items()}
        return _refused(
            f"a {kind} of {', '.join(names)}",
            f"Wrap the model: lambda x: model(x).{_best(fields)}.",
        )
    if n and all(isinstance(entry, Mapping) for entry in output):
        keys = ", ".join(map(repr, output[0]))
        return _refused(
            f"a {kind} of {n} dicts with the keys {keys}",
            "Wrap the model in a function that returns one row of scores for each image, as "
            'lambda x: torch.stack([found["scores"].sum() for found in model(x)]).',
        )
    shapes = {tuple(v.shape) for v in tensors.values()}
    if len(tensors) == n > 1 and len(shapes) == 1 and len(next(iter(shapes))) < 2:
        return _refused(
            f"a {kind} of {n} tensors or arrays of shape {shapes.pop()}",
            "Wrap the model: lambda x: torch.stack(list(model(x)), 1) if each is a head with one "
            "score for each image, torch.stack(list(model(x))) if each holds one image's scores.",
        )
    if tensors:
        return _refused(
            f"a {kind} of {n}{of}", f"Wrap the model: lambda x: model(x)[{_best(tensors)}]."
        )
    return _refused(f"a {kind} of {n}{of}", _GENERAL)


def _of(output: Iterable[Any]) -> str:
    entries = {type(entry).__name__ for entry in output}
    return f" ({', '.join(sorted(entries))})" if entries else ""


def _best(parts: Mapping[Any, Any]) -> Any:
    """The key of the part that most likely holds the scores."""
    flat = [k for k, v in parts.items() if v.ndim == 2] or list(parts)
    return next((name for name in _LIKELY if name in flat), flat[0])


def _is_sequence(output: Any) -> bool:
    """Whether numpy would take an object entry by entry, as it takes lists."""
    is_array = hasattr(output, "__array__") or isinstance(output, str | bytes | Tensor)
    return not is_array and hasattr(output, "__getitem__") and hasattr(output, "__len__")


def _only_numbers(output: Sequence[Any]) -> bool:
    """Whether lists hold plain numbers alone, as ``tolist()`` gives them."""
    for entry in output:
        if _is_sequence(entry):
            if not _only_numbers(entry):
                return False
        elif isinstance(entry, Tensor | np.ndarray):
            if entry.ndim:
                return False
        elif not np.isscalar(entry) or isinstance(entry, str | bytes):
            return False
    return bool(output)
