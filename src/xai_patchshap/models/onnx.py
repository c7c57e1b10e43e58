"""ONNX models as functions of a batch, through one onnxruntime session."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._arrays import Layout, as_array
from ..errors import MissingExtraError, bad, file_error, warn

__all__ = ["OnnxModel"]

_CHANNELS = (1, 3, 4)
_DTYPES = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
# Outputs that may be scores: of scikit-learn's classifiers, dicts.
_SCORES = (
    "tensor(float16)",
    "tensor(float)",
    "tensor(double)",
    "seq(map(int64,tensor(float)))",
    "seq(map(string,tensor(float)))",
)


class OnnxModel:
    """Run an ONNX model on batches of images or rows.

    The onnxruntime session is made once; its threads are ``torch.get_num_threads()``. The
    object can be pickled: it keeps the bytes of the file and makes the session anew. (Weights
    in files of their own, beside the model, must still be there.) Needs onnxruntime:
    ``pip install 'xai-patchshap[onnx]'``.

    Parameters
    ----------
    model : str, path, bytes or onnx.ModelProto
        The file, its content, or the model that ``onnx`` has read.
    layout : {"auto", "NCHW", "NHWC"}
        Axes of the model's images. By default they are found from where its input has 1, 3
        or 4 entries. Images come in either layout and are transposed for the model.
    output : str or int, optional
        Name or index of the output to use. By default the first one, or the first one of
        floating-point numbers, with a warning, where the first is the label of a class. The
        probabilities of scikit-learn's classifiers may be dicts, sorted by class.
    mean, std : float or sequence of float
        The model sees ``(images - mean) / std``, with one number or one per channel: its
        normalisation where it has none inside, or ``std=1 / 255`` for images in [0, 1] and a
        model that takes 0 to 255.
    providers : sequence
        Execution providers of onnxruntime, best first.

    Attributes
    ----------
    content : bytes
        The file, without weights that lie beside it.
    input_shape : tuple
        Shape of the model's input, with a name or None where a side is free.
    layout : {"NCHW", "NHWC"} or None
        Axes of the model's images; None if its input has not four axes.
    channels : int or None
        Channels of its images, if fixed.
    size : (int, int) or None
        Height and width of its images in pixels, if fixed.
    n_outputs : int or None
        Number of its outputs, if fixed.
    rounds_photographs : bool
        Whether it takes whole numbers and has no ``std`` below 1, so that images in [0, 1]
        would be rounded to 0 and 1.

    Raises
    ------
    PatchShapError
        If there is no such file, it holds no ONNX model that onnxruntime can run, the model
        has several inputs, the layout is ambiguous, or onnxruntime is missing.

    Warns
    -----
    UserWarning
        If the output to use, or the first one, looks like the label of a class: one whole
        number or text for each image, or each of its pixels. Differences of labels mean nothing.

    Examples
    --------
    A network that returns one pixel, made here; yours is a path.

    >>> import numpy as np, onnx
    >>> from onnx.helper import make_graph, make_model, make_node, make_opsetid
    >>> from onnx.helper import make_tensor_value_info as info
    >>> from onnx.numpy_helper import from_array
    >>> flat = make_node("Flatten", ["x"], ["flat"])
    >>> chosen = make_node("Gather", ["flat", "i"], ["y"], axis=1)
    >>> graph = make_graph(
    ...     [flat, chosen], "pixel", [info("x", 1, ["N", 8, 8, 1])], [info("y", 1, ["N", 1])],
    ...     [from_array(np.array([9]), "i")],
    ... )
    >>> file = make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=9)
    >>> model = OnnxModel(file.SerializeToString())
    >>> model.layout, model.size
    ('NHWC', (8, 8))

    >>> from xai_patchshap import PatchKernelShap, PatchMasker
    >>> image = np.ones((1, 8, 8, 1), dtype=np.float32)
    >>> explanation = PatchKernelShap(model, PatchMasker((2, 2)))(image, silent=True)
    >>> float(explanation.values[0, :4, :4].sum().round(6))  # the patch that holds the pixel
    1.0
    """

    def __init__(
        self,
        model: Any,
        *,
        layout: Layout | Literal["auto"] = "auto",
        output: str | int | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        providers: Sequence[Any] = ("CPUExecutionProvider",),
    ) -> None:
        self.content, self._folder, self._source = _content(model)
        self._providers = list(providers)
        self._session = self._new_session()
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise bad(
                "ONNX model",
                f"the inputs {', '.join(i.name for i in inputs) or 'none'} in {self._source}",
                "a single input, the images",
                "Fix the others in a function of the images alone.",
            )
        self._input, self.input_shape = inputs[0].name, tuple(inputs[0].shape)
        if inputs[0].type not in _DTYPES:
            raise bad("ONNX model", f"an input of type {inputs[0].type}", f"one of {list(_DTYPES)}")
        self._dtype: np.dtype[Any] = np.dtype(_DTYPES[inputs[0].type])
        self.layout = self._layout(layout)
        at = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}.get(self.layout or "", ())
        sides = [_fixed(self.input_shape[axis]) for axis in at] or [None] * 3
        self.channels = sides[0]
        self.size = None if sides[1] is None or sides[2] is None else (sides[1], sides[2])
        chosen = self._chosen(output)
        self._output = chosen.name
        shape = _shape(chosen)
        self.n_outputs = _fixed(shape[1]) if len(shape) == 2 else None
        self._mean, self._std = (self._per_channel(n, v) for n, v in (("mean", mean), ("std", std)))
        if not self._std.all():
            raise bad("std", std, "numbers other than 0")
        self.rounds_photographs = self._dtype.kind in "iu" and bool((np.abs(self._std) >= 1).all())

    def __repr__(self) -> str:
        axes = f", {self.layout}" if self.layout else ""
        return f"OnnxModel({self._source}: {self._input} {_shown(self.input_shape)}{axes})"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = self._new_session()

    def __call__(self, images: NDArray[Any] | Tensor) -> Any:
        """Outputs of a batch.

        Parameters
        ----------
        images : ndarray or Tensor
            (B, C, H, W) or (B, H, W, C), whatever the model's own layout. Where both fit,
            tensors have channels first and arrays have them last. For a model whose input
            has not four axes, its own shape.

        Returns
        -------
        ndarray or Tensor, as ``images``, of the shape of the model's output, usually (B, K)

        Raises
        ------
        PatchShapError
            If the images have another size or number of channels than the model's, are in
            [0, 1] for a model of whole numbers without ``std``, or onnxruntime fails.
        """
        x = as_array(images)
        if self.rounds_photographs and _would_be_rounded(x, self._dtype):
            raise bad(
                "images",
                f"fractions from {x.min():.3g} to {x.max():.3g}, for {self!r} of whole numbers",
                "images in its own units, mostly 0 to 255",
                "Give 255 * images, or make it OnnxModel(..., std=1 / 255).",
            )
        is_tensor = isinstance(images, Tensor)
        outputs = self._outputs(self._arranged(x, channels_first=is_tensor))
        return torch.from_numpy(outputs).to(images.device) if is_tensor else outputs

    # ----- the session -------------------------------------------------------------------

    def _new_session(self) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError(
                f"ONNX model: got no module {error.name!r}; expected onnxruntime, which runs "
                f"{self._source}. Install it with: pip install 'xai-patchshap[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised, not printed as well
        if self._folder is not None:
            # Weights may lie in files beside the model, which bytes alone do not say.
            key = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(key, self._folder)
        try:
            return onnxruntime.InferenceSession(self.content, options, providers=self._providers)
        except Exception as error:  # onnxruntime's errors share no base but this
            raise bad(
                "ONNX model", self._source, "a model that onnxruntime can read", f"({error})"
            ) from error

    def _outputs(self, x: NDArray[Any]) -> NDArray[Any]:
        if self._mean.any() or (self._std != 1).any():
            x = (x - self._mean) / self._std
        if self._dtype.kind in "iu" and x.dtype.kind == "f":
            limits = np.iinfo(self._dtype)
            x = np.clip(np.rint(x), limits.min, limits.max)
        x = np.ascontiguousarray(x, dtype=self._dtype)
        # A model of a fixed batch size sees that many at a time, the last ones repeated.
        step = _fixed(self.input_shape[0]) or len(x)
        parts = []
        for start in range(0, len(x), step):
            part = x[start : start + step]
            n = len(part)
            if n < step:
                part = np.concatenate([part, np.repeat(part[-1:], step - n, axis=0)])
            out = self._run(part)
            if not isinstance(out, np.ndarray) or out.shape[:1] != (step,):
                raise bad(
                    "ONNX model",
                    f"an output {self._output!r} of shape {np.shape(out)} for a batch of {step}",
                    "one row for each image",
                )
            parts.append(out[:n])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, x: NDArray[Any]) -> Any:
        try:
            found = self._session.run([self._output], {self._input: x})[0]
            # The probabilities of scikit-learn's classifiers come as dicts, from class to number.
            return np.array([list(row.values()) for row in found]) if _is_table(found) else found
        except Exception as error:
            raise bad(
                "ONNX model",
                f"a failure of onnxruntime on a batch of shape {x.shape}",
                "outputs",
                f"Where its batch size is fixed inside, pass batch_size=1. ({error})",
            ) from error

    # ----- shapes ------------------------------------------------------------------------

    def _layout(self, layout: str) -> Layout | None:
        if layout not in ("auto", "NCHW", "NHWC"):
            raise bad("layout", repr(layout), "'auto', 'NCHW' or 'NHWC'")
        shape = self.input_shape
        if len(shape) != 4:
            if layout != "auto":
                raise bad("layout", f"{layout!r} for an input {_shown(shape)}", "four axes")
            return None
        if layout == "auto":
            first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
            if first == last:
                raise bad(
                    "ONNX model",
                    f"an input {self._input!r} of shape {_shown(shape)}",
                    "1, 3 or 4 channels in either its second or its last axis",
                    "Say which it is with OnnxModel(..., layout='NCHW') or 'NHWC'.",
                )
            return "NCHW" if first else "NHWC"
        return "NCHW" if layout == "NCHW" else "NHWC"

    def _chosen(self, output: str | int | None) -> Any:
        outputs = self._session.get_outputs()
        names = [o.name for o in outputs]
        if not names:
            raise bad("ONNX model", f"no outputs in {self._source}", "at least one")
        if isinstance(output, str):
            index = names.index(output) if output in names else len(names)
        else:
            index = 0 if output is None else output
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(names):
            raise bad("output", repr(output), f"one of {names}, or its index")
        chosen = outputs[index]
        if _may_be_label(chosen):
            scores = [o for o in outputs if o.type in _SCORES]
            what = f"output: {chosen.name!r} of type {chosen.type} looks like the label of a class"
            if scores and output is None:
                chosen = scores[0]
                warn(
                    f"{what}; {chosen.name!r} is used instead. Say which it is with "
                    f"OnnxModel(..., output={chosen.name!r}); the outputs are {names}."
                )
            elif chosen.type in _DTYPES:
                mend = f"output={scores[0].name!r}" if scores else "a model that gives its scores"
                warn(f"{what}, and differences between labels mean nothing. Use {mend}.")
        if chosen.type not in _DTYPES and chosen.type not in _SCORES:
            raise bad(
                "output",
                f"{chosen.name!r} of type {chosen.type}",
                "a tensor of numbers",
                f"The outputs are {names}; choose with output=." if len(names) > 1 else "",
            )
        return chosen

    def _per_channel(self, what: str, given: float | Sequence[float]) -> NDArray[np.float64]:
        """``given``, shaped to broadcast against the model's images."""
        values = np.asarray(given, dtype=np.float64)
        fits = values.ndim == 0 or (
            values.ndim == 1 and self.layout is not None and self.channels in (None, len(values))
        )
        if not fits or not np.isfinite(values).all():
            of = "" if self.channels is None else f" of {self.channels}"
            raise bad(what, given, f"one number, or one for each channel{of}")
        return values[:, None, None] if values.ndim and self.layout == "NCHW" else values

    def _arranged(self, x: NDArray[Any], *, channels_first: bool) -> NDArray[Any]:
        """``x`` in the model's layout."""
        own = self.input_shape[1:]
        if x.ndim == len(self.input_shape) and len(x):
            if self.layout is None:
                if _fits(x.shape[1:], own):
                    return x
            else:
                c, h, w = own if self.layout == "NCHW" else (own[2], own[0], own[1])
                fitting: list[Layout] = []
                if _fits(x.shape[1:], (c, h, w)):
                    fitting.append("NCHW")
                if _fits(x.shape[1:], (h, w, c)):
                    fitting.append("NHWC")
                if fitting:
                    # Where both fit, tensors follow torch and arrays follow shap.
                    came = fitting[0] if channels_first else fitting[-1]
                    if came == self.layout:
                        return x
                    return x.transpose((0, 3, 1, 2) if came == "NHWC" else (0, 2, 3, 1))
        either = "" if self.layout is None else ", or the same with its channels on the other side"
        raise bad(
            "images",
            f"shape {x.shape}",
            f"{_shown(('B', *own))}{either}, for {self._source}",
            "Resize the images, and give a batch even of one." if self.layout else "",
        )


def _content(model: Any) -> tuple[bytes, str | None, str]:
    """The bytes of a model, the folder they come from if any, and what to call it."""
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        try:
            return path.read_bytes(), str(path.resolve().parent), f"'{path}'"
        except OSError as error:
            raise bad(
                "ONNX model",
                f"'{path}'",
                "a file that can be read",
                f"({error.strerror})",
                file_error(error),
            ) from error
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model), None, "the given bytes"
    if hasattr(model, "SerializeToString"):
        return model.SerializeToString(), None, "the given model"
    raise bad(
        "ONNX model",
        f"an object of type {type(model).__name__}",
        "the path of an .onnx file, its bytes, or an onnx.ModelProto",
    )


def _shape(output: Any) -> Sequence[Any]:
    """Of an output that is no tensor, nothing is known."""
    return output.shape if isinstance(output.shape, list | tuple) else ()


def _may_be_label(output: Any) -> bool:
    """Whether an output holds labels: whole numbers or texts, but for rows of quantized scores."""
    is_label = re.fullmatch(r"tensor\((u?int\d+|string|bool)\)", output.type) is not None
    shape = _shape(output)
    return is_label and not (len(shape) == 2 and _fixed(shape[1]) != 1)


def _is_table(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(row, dict) for row in found)


def _would_be_rounded(x: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether images for a model of whole numbers are scaled to [0, 1], or normalised.

    Not those of one value, which are backgrounds, nor of whole numbers, which are dark.
    """
    if x.dtype.kind != "f" or not x.size or (x == x.flat[0]).all() or (x == np.rint(x)).all():
        return False
    low, high = x.min(), x.max()
    return bool((low >= 0 and high <= 1) or (dtype.kind == "u" and -4 <= low < 0 and high <= 4))


def _fixed(side: Any) -> int | None:
    """A side of a shape, None where it is free: onnxruntime gives a name or None there."""
    return side if isinstance(side, int) and side > 0 else None


def _fits(shape: tuple[int, ...], own: tuple[Any, ...]) -> bool:
    return all(_fixed(side) in (None, n) for n, side in zip(shape, own, strict=True))


def _shown(shape: tuple[Any, ...]) -> str:
    inner = ", ".join("?" if side is None else str(side) for side in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
