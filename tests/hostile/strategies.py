"""Hypothesis strategies of hostile cases: named, so that a failure can be read.

Each case knows what may come of it: "right", "refused", or either.
"""

from __future__ import annotations

import array
import decimal
import fractions
import functools
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from oracle import BACKGROUND, CLASSES, FACES, SIDE
from torch import nn

EITHER, RIGHT, REFUSED = ("right", "refused"), ("right",), ("refused",)
ANY = ("right", "refused", "raised")


def quietly(make):
    """A function without the warnings of torch's and numpy's own experiments."""

    @functools.wraps(make)
    def call(*args, **kwargs):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return make(*args, **kwargs)

    return call


nested = quietly(torch.nested.nested_tensor)
quantized = quietly(lambda x: torch.quantize_per_tensor(x.float(), 1.0, 0, torch.qint8))


@dataclass
class Named:
    """A value with a name and what may come of it."""

    name: str
    value: Any
    may: tuple[str, ...] = EITHER
    plain: Any = None  # what it stands for, as float64
    more: dict[str, Any] = field(default_factory=dict)

    def __repr__(self):
        return self.name


def named(choices, may=EITHER):
    """A strategy over a dict of values by name."""
    return st.sampled_from([Named(name, value, may) for name, value in choices.items()])


kinds = st.sampled_from(CLASSES)
faces = st.sampled_from(FACES)


# ----- images ------------------------------------------------------------------------------

BASE = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7)).double()

_CONTENTS = {
    "numbers": lambda x: x,
    "negative numbers": lambda x: x - 2,
    "0..255": lambda x: (255 * x).round(),
    "zeros": lambda x: x * 0,
    "one colour": lambda x: x * 0 + 0.5,
    "the background": lambda x: x * 0 + BACKGROUND,
    "large": lambda x: x * 1e4,
    "1e30": lambda x: x * 1e30,
    "1e300": lambda x: x * 1e300,
    "denormal": lambda x: x * 1e-40,
    "NaN": lambda x: torch.where(x == x[0, 0, 0, 0], torch.nan, x),
    "all NaN": lambda x: x * torch.nan,
    "inf": lambda x: torch.where(x == x[0, 0, 0, 0], torch.inf, x),
    "-inf": lambda x: torch.where(x == x[0, 0, 0, 0], -torch.inf, x),
}


def _torch_types():
    names = [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint16",
        "uint32",
        "uint64",
        "bool",
        "complex32",
        "complex64",
        "complex128",
    ]
    return [n for n in names if hasattr(torch, n)]


_ARRAY_TYPES = [
    "float64",
    "float32",
    "float16",
    "longdouble",
    ">f4",
    ">f8",
    "<f4",
    ">f2",
    "uint8",
    "int8",
    "int16",
    ">i2",
    "int32",
    ">u4",
    "int64",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
    "clongdouble",
    "object",
    "U8",
    "S8",
    "datetime64[s]",
    "timedelta64[s]",
]

# Each keeps the numbers where they are, or moves them in what is given and in what it stands for.
_TENSOR_MEMORY = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3),
    "expanded batch": lambda x: x[:1].expand_as(x),
    "expanded channels": lambda x: x[:, :1].expand_as(x),
    "every second": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "flipped": lambda x: x.flip(3),
    "a view with an offset": lambda x: torch.cat([x, x])[1:3],
    "one image": lambda x: x[:1],
}
_ARRAY_MEMORY = {
    "contiguous": lambda x: x,
    "Fortran order": np.asfortranarray,
    "flipped columns": lambda x: x[:, :, ::-1],
    "flipped channels": lambda x: x[..., ::-1],
    "rot90": lambda x: np.rot90(x, axes=(1, 2)),
    "broadcast batch": lambda x: np.broadcast_to(x[:1], x.shape),
    "broadcast channels": lambda x: np.broadcast_to(x[..., :1], x.shape),
    "every second": lambda x: np.repeat(x, 2, 2)[:, :, ::2],
    "transposed": lambda x: x.transpose(0, 2, 1, 3),
    "one image": lambda x: x[:1],
}


class Subclass(torch.Tensor):
    """A tensor of a user's own class."""


_TENSOR_KINDS = {
    "": lambda x: x,
    "Parameter": lambda x: nn.Parameter(x, requires_grad=x.is_floating_point()),
    "with gradient": lambda x: x.clone().requires_grad_() if x.is_floating_point() else x,
    "not a leaf": lambda x: x.clone().requires_grad_() * 1 if x.is_floating_point() else x,
    "a subclass": lambda x: x.as_subclass(Subclass),
    "negative view": lambda x: (
        torch._neg_view(-x) if x.is_floating_point() and x.element_size() > 1 else x
    ),
    "sparse": lambda x: x.to_sparse(),
    "nested": lambda x: nested(list(x)),
    "meta": lambda x: x.to("meta"),
    "quantized": lambda x: torch.quantize_per_tensor(x.float(), 0.01, 0, torch.qint8),
    "mkldnn": lambda x: x.float().to_mkldnn(),
    "in a tuple": lambda x: (x,),
    "in a list": lambda x: [x],
    "a list of images": lambda x: list(x),
    "a tuple of images": lambda x: tuple(x),
    "nested lists": lambda x: x.float().tolist(),
    "of inference mode": lambda x: _inferred(x),
}
_SURE_TENSORS = ("", "Parameter", "with gradient", "not a leaf", "a subclass", "negative view")


def _inferred(x):
    with torch.inference_mode():
        return x.clone()


class Arraylike:
    """Has an array inside, as data frames and images of other libraries have."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return np.array(self.x, dtype=dtype)


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


_ARRAY_KINDS = {
    "": lambda x: x,
    "read-only": _read_only,
    "a list of images": list,
    "a tuple of images": tuple,
    "nested lists": lambda x: x.tolist(),
    "array-like": Arraylike,
    "masked, nothing hidden": np.ma.masked_array,
    "masked": lambda x: np.ma.masked_array(x, np.arange(x.size).reshape(x.shape) % 5 == 0),
    "a record": lambda x: np.zeros(x.shape, [("r", "f4")]),
    "bytes": lambda x: x.tobytes(),
    "a memoryview": lambda x: memoryview(np.ascontiguousarray(x).astype(np.float32)),
    "a data frame": lambda x: pd.DataFrame(x.reshape(len(x), -1)[:, :4]),
    "None": lambda x: None,
    "a path": lambda x: "image.png",
    "a dict": lambda x: {"x": x},
    "a generator": lambda x: (image for image in x),
    "a set": lambda x: {1, 2},
    "array.array": lambda x: array.array("d", x.astype(float).ravel()[:8].tolist()),
}


def _finite_within(plain, content):
    return bool(torch.isfinite(plain).all()) and content not in ("1e300",)


@st.composite
@quietly
def tensors(draw):
    """Images as tensors: content, type, memory and kind."""
    content, dtype = draw(st.sampled_from(list(_CONTENTS))), draw(st.sampled_from(_torch_types()))
    memory = draw(st.sampled_from(list(_TENSOR_MEMORY)))
    kind = draw(st.sampled_from(list(_TENSOR_KINDS)))
    x = _CONTENTS[content](BASE)
    if dtype.startswith(("uint", "int")):
        x = torch.nan_to_num(x, posinf=0, neginf=0).clamp(-100, 255).round()
        x = x.clamp(-100 if dtype.startswith("int") else 0, 127 if dtype == "int8" else 255)
    cast = _TENSOR_MEMORY["contiguous"](x).to(getattr(torch, dtype))
    plain = cast.to(torch.complex128).real if cast.is_complex() else cast.double()
    name = " ".join(filter(None, (content, dtype, memory, kind)))
    try:
        given = _TENSOR_KINDS[kind](_TENSOR_MEMORY[memory](cast))
        plain = _TENSOR_MEMORY[memory](plain)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        given, plain, name = cast, cast.double() if not cast.is_complex() else plain, name + " (no)"
    if isinstance(given, torch.Tensor) and given.is_quantized:
        plain = given.dequantize().double()
    ordinary = ("float64", "float32", "float16", "bfloat16", "uint8", "int64", "bool", "int32")
    may = EITHER
    if not torch.isfinite(plain).all():
        may = REFUSED
    elif dtype in ordinary and kind in _SURE_TENSORS and abs(plain).max() < 1e5:
        may = RIGHT
    return Named(name, given, may, plain)


@st.composite
@quietly
def arrays(draw):
    """Images as arrays (N, H, W, C) for the shap face: content, type, memory and kind."""
    content, dtype = draw(st.sampled_from(list(_CONTENTS))), draw(st.sampled_from(_ARRAY_TYPES))
    memory = draw(st.sampled_from(list(_ARRAY_MEMORY)))
    kind = draw(st.sampled_from(list(_ARRAY_KINDS)))
    x = _CONTENTS[content](BASE).permute(0, 2, 3, 1).numpy()
    type_ = np.dtype(dtype)
    if type_.kind in "iuM":
        x = np.nan_to_num(x, posinf=0, neginf=0).clip(0 if type_.kind == "u" else -100, 100).round()
    with np.errstate(all="ignore"):
        if type_.kind in "Mm":
            cast = x.clip(0, 100).astype("int64").astype(type_)
            plain = None
        elif type_.kind in "OUSc":
            cast, plain = x.astype(type_), x
        else:
            cast = x.astype(type_)
            plain = cast.astype(np.float64)
    given = _ARRAY_KINDS[kind](_ARRAY_MEMORY[memory](cast))
    moved = None if plain is None else _ARRAY_MEMORY[memory](plain)
    may = EITHER
    if plain is None or (plain.dtype.kind == "f" and not np.isfinite(moved).all()):
        may = REFUSED
    if type_.kind in "MmOUSc" and kind not in ("", "read-only"):
        given = _ARRAY_MEMORY[memory](cast)
    elif kind in ("masked", "a record", "None", "a path", "a dict", "bytes", "a set"):
        may = REFUSED
    elif (
        type_.kind not in "MmOUSc"
        and kind in ("", "read-only", "a list of images", "nested lists", "masked, nothing hidden")
        and abs(moved).max() < 1e5
    ):
        may = RIGHT
    if kind in ("a data frame", "a memoryview", "array.array"):
        may = ANY
    if dtype in ("U8", "S8") and kind in ("", "read-only"):
        may = REFUSED
    plain = torch.zeros(2, 3, 8, 8)
    if moved is not None:
        plain = torch.from_numpy(moved.copy()).permute(0, 3, 1, 2)
    name = " ".join(filter(None, (content, dtype, memory, kind)))
    return Named(name, given, may, plain.double())


# ----- numbers -----------------------------------------------------------------------------


class Index:
    """An object that stands for a whole number."""

    def __index__(self):
        return 16


numbers = named(
    {
        "16": 16,
        "17": 17,
        "np.int64": np.int64(16),
        "np.uint8": np.uint8(16),
        "2": 2,
        "3": 3,
        "7": 7,
        "-1": -1,
        "0": 0,
        "1": 1,
        "-10**30": -(10**30),
        "10**6": 10**6,
        "10**12": 10**12,
        "10**30": 10**30,
        "True": True,
        "np.True_": np.True_,
        "16.0": 16.0,
        "16.5": 16.5,
        "nan": float("nan"),
        "inf": float("inf"),
        "-inf": -float("inf"),
        "1e300": 1e300,
        "np.float32": np.float32(16),
        "text": "16",
        "auto": "auto",
        "empty text": "",
        "bytes": b"16",
        "None": None,
        "tensor": torch.tensor(16),
        "1-d tensor": torch.tensor([16]),
        "0-d array": np.array(16),
        "1-d array": np.array([16]),
        "list": [16],
        "tuple": (16,),
        "dict": {},
        "Fraction": fractions.Fraction(16),
        "Decimal": decimal.Decimal(16),
        "complex": 16j,
        "Index": Index(),
        "object": object(),
        "class": int,
        "slice": slice(16),
        "Ellipsis": ...,
        "function": len,
        "2**63": 2**63,
        "2**64": 2**64,
        "np.uint64": np.uint64(16),
        "datetime": np.datetime64("2026-01-01"),
        "NaT": np.datetime64("NaT"),
        "set": {16},
    }
)
"""Whole numbers of every type and size, and what is none."""


# ----- players -----------------------------------------------------------------------------

_QUARTERS = (np.arange(SIDE) // 4)[:, None] * 2 + np.arange(SIDE) // 4
_MASKS = {
    "int64": lambda m: m,
    "int32": lambda m: m.astype(np.int32),
    "uint8": lambda m: m.astype(np.uint8),
    "uint16": lambda m: m.astype(np.uint16),
    "uint64": lambda m: m.astype(np.uint64),
    "big-endian": lambda m: m.astype(">i4"),
    "float": lambda m: m.astype(np.float32),
    "longdouble": lambda m: m.astype(np.longdouble),
    "half": lambda m: m.astype(np.float16),
    "Fortran order": np.asfortranarray,
    "read-only": _read_only,
    "a view": lambda m: np.repeat(m, 2, -1)[..., ::2],
    "gaps": lambda m: m * 5,
    "large gaps": lambda m: m * 1000,
    "from 1": lambda m: m + 1,
}
_BAD_MASKS = {
    "negative": lambda m: m - 1,
    "NaN": lambda m: np.where(m == 0, np.nan, m),
    "inf": lambda m: np.where(m == 0, np.inf, m),
    "halves": lambda m: m + 0.5,
    "10**12": lambda m: m + 10**12,
    "2**63": lambda m: m.astype(np.uint64) + 2**63,
    "1e300": lambda m: m * 1e300,
    "complex": lambda m: m * 1j,
    "objects": lambda m: m.astype(object),
    "text": lambda m: m.astype(str),
    "dates": lambda m: m.astype("datetime64[s]"),
    "too small": lambda m: m[:7],
    "turned": lambda m: m.reshape(4, 16),
    "empty": lambda m: m[:0],
    "flat": lambda m: m.ravel(),
    "a number": lambda m: 2.5,
    "a dict": lambda m: {0: m},
    "a set": lambda m: {0, 1},
    "ragged": lambda m: [[0, 1], [2]],
    "a generator": lambda m: (row for row in m),
    "a path": lambda m: "mask.png",
    "empty text": lambda m: "",
    "7-d": lambda m: m.reshape(1, 1, 1, 1, 1, 8, 8),
}
_MASK_KINDS = {
    "array": lambda m: m,
    "list": lambda m: m.tolist() if isinstance(m, np.ndarray) else m,
    "tensor": lambda m: _as_tensor(m),
    "in a tuple": lambda m: (_as_tensor(m),),
    "array in a tuple": lambda m: (m,),
    "in a list": lambda m: [m],
    "expanded tensor": lambda m: _as_tensor(m)[None, None].expand(1, 3, *np.shape(m)),
    "a mask each": lambda m: np.stack([m, m])[:, None],
    "three masks": lambda m: np.stack([m, m, m])[:, None],
    "masked array": np.ma.masked_array,
    "array-like": Arraylike,
    "data frame": pd.DataFrame,
}


def _as_tensor(m):
    return torch.tensor(m.astype(m.dtype.newbyteorder("="))) if isinstance(m, np.ndarray) else m


@st.composite
@quietly
def masks(draw):
    """Masks of the four quarters, or what looks like one; for ``feature_mask`` and players."""
    good = draw(st.booleans())
    choices = _MASKS if good else _BAD_MASKS
    numbers_, kind = draw(st.sampled_from(list(choices))), draw(st.sampled_from(list(_MASK_KINDS)))
    with np.errstate(all="ignore"):
        m = choices[numbers_](_QUARTERS)
    name = f"{numbers_}, {kind}"
    try:
        given = _MASK_KINDS[kind](m)
    except Exception:
        given, name = m, f"{numbers_}"
    sure = kind in ("array", "tensor", "expanded tensor", "a mask each") and numbers_ != "half"
    may = RIGHT if good and sure and numbers_ != "longdouble" else EITHER if good else REFUSED
    if (numbers_, kind) in (("objects", "list"), ("a generator", "data frame")):
        may = EITHER
    return Named(name, given, may)


players = named(
    {
        "none": None,
        "2x2": "2x2",
        "a pair": (2, 2),
        "4": 4,
        "patch:4": "patch:4",
        "np.int64": np.int64(4),
        "np pair": (np.int64(2), np.int64(2)),
        "0x0": "0x0",
        "2x": "2x",
        "x2": "x2",
        "2 x 2": "2 x 2",
        "2X2": "2X2",
        "2x2x2": "2x2x2",
        "patch": "patch",
        "patch:": "patch:",
        "patch:0": "patch:0",
        "patch:-4": "patch:-4",
        "patch:4.0": "patch:4.0",
        "patches:4": "patches:4",
        "slic": "slic",
        "slic:": "slic:",
        "slic:4": "slic:4",
        "slic:0": "slic:0",
        "slic:-1": "slic:-1",
        "slic:10**12": f"slic:{10**12}",
        "slick:4": "slick:4",
        "grid": "grid",
        "9x9": "9x9",
        "(9, 9)": (9, 9),
        "(0, 2)": (0, 2),
        "(2.0, 2.0)": (2.0, 2.0),
        "(2,)": (2,),
        "(2, 2, 2)": (2, 2, 2),
        "(True, True)": (True, True),
        "(-2, 2)": (-2, 2),
        "('2', '2')": ("2", "2"),
        "[2, 2]": [2, 2],
        "0": 0,
        "-4": -4,
        "10**12": 10**12,
        "10**30": 10**30,
        "10**12 in text": f"patch:{10**12}",
        "big grid": f"{10**12}x{10**12}",
        "True": True,
        "4.0": 4.0,
        "nan": float("nan"),
        "bytes": b"2x2",
        "empty": [],
        "empty tuple": (),
        "dict": {},
        "object": object(),
        "a function": lambda image: _QUARTERS,
        "a function of tensors": lambda image: torch.from_numpy(_QUARTERS),
        "a function of lists": lambda image: _QUARTERS.tolist(),
        "a function that writes": lambda image: (image.fill(0), _QUARTERS)[1],
        "a function of none": lambda image: None,
        "a function of text": lambda image: "2x2",
        "a function of pairs": lambda image: (2, 2),
        "a function of floats": lambda image: _QUARTERS + 0.5,
        "a function of one row": lambda image: _QUARTERS[0],
        "a function of negatives": lambda image: _QUARTERS - 1,
        "a function that raises": lambda image: 1 / 0,
        "a function of two": lambda image, other: _QUARTERS,
        "a class": int,
        "a module": nn.Identity(),
        "Arabic digits": "٢x٢",
        "newline": "2x2\n",
        "zero width": "2x2\u200b",
        "very long": "2x2" * 10**5,
        "superscript": "patch:²",
        "many digits": "patch:" + "9" * 5000,
    }
)
"""What may be given as players of a masker."""


# ----- backgrounds -------------------------------------------------------------------------

_ONES = np.ones((8, 8, 3), dtype=np.float32)
backgrounds = named(
    {
        "1": 1,
        "1.0": 1.0,
        "np.float16": np.float16(1),
        "True": True,
        "a tuple": (1, 1, 1),
        "a tensor": torch.ones(()),
        "tensor of colours": torch.ones(3, 1, 1),
        "an array": np.ones((8, 8, 3)),
        "channels first": np.ones((3, 8, 8)),
        "a batch": np.ones((2, 8, 8, 3)),
        "tensor batch": torch.ones(2, 3, 8, 8),
        "three of a batch": np.ones((3, 8, 8, 3)),
        "bfloat16": torch.ones((), dtype=torch.bfloat16),
        "half array": np.ones((8, 8, 3), np.float16),
        "big-endian": np.ones((8, 8, 3), ">f4"),
        "longdouble": np.ones((8, 8, 3), np.longdouble),
        "flipped": _ONES[..., ::-1],
        "uint16": torch.ones(3, 8, 8).to(torch.uint16),
        "uint64": np.ones((8, 8, 3), np.uint64),
        "bool": np.ones((8, 8, 3), bool),
        "float8": torch.ones(3, 8, 8).to(torch.float8_e5m2),
        "a list": [1, 1],
        "a list of one": [1],
        "two images": [_ONES, _ONES],
        "mixed": [1, (1, 1, 1), _ONES],
        "three numbers": [1, 1, 1],
        "empty": [],
        "empty tuple": (),
        "list in list": [[1, 1, 1]],
        "negative zero": -0.0,
        "nan": float("nan"),
        "inf": float("inf"),
        "1e300": 1e300,
        "10**400": 10**400,
        "an array with NaN": _ONES * np.nan,
        "complex": 1j,
        "complex tensor": torch.ones(3, 8, 8) * 1j,
        "sparse": torch.ones(8, 8).to_sparse(),
        "meta": torch.ones(3, 8, 8, device="meta"),
        "nested": nested([torch.ones(3)]),
        "None": None,
        "text": "black",
        "blurr": "blurr",
        "Mean": "Mean",
        "mean:3": "mean:3",
        "blur:": "blur:",
        "blur:-1": "blur:-1",
        "blur:0": "blur:0",
        "blur:nan": "blur:nan",
        "blur:inf": "blur:inf",
        "blur:1e9": "blur:1e9",
        "blur:1_0": "blur:1_0",
        "noise:1": "noise:1",
        "drop:1": "drop:1",
        "drop": "drop",
        "drop in a list": ["drop", 1],
        "empty text": "",
        "bytes": b"mean",
        "text in an array": np.array(["mean"]),
        "objects": np.array([1, None]),
        "dates": np.array(["2026-01-01"], "datetime64[D]"),
        "dict": {"r": 1},
        "set": {1},
        "a function": lambda x: x,
        "a class": int,
        "object": object(),
        "two numbers": (1, 1),
        "four numbers": (1, 1, 1, 1),
        "wrong size": np.ones((7, 8, 3)),
        "5-d": np.ones((1, 1, 8, 8, 3)),
        "a masked array": np.ma.masked_array(_ONES, _ONES > 0),
        "data frame": pd.DataFrame([[1, 1]]),
        "a series": pd.Series([1.0, 1.0, 1.0]),
        "a generator": (i for i in [1]),
        "text list": ["mean", "blurr"],
        "a path": "black.png",
        "no pixels": np.ones((0, 8, 8, 3)),
        "a module": nn.Identity(),
        "with gradient": torch.ones(3, 1, 1, requires_grad=True),
    }
)
"""What may be given as a background; what is taken stands for 1 where it has one value."""
ONE = {
    "1",
    "1.0",
    "np.float16",
    "True",
    "a tuple",
    "a tensor",
    "tensor of colours",
    "an array",
    "channels first",
    "a batch",
    "tensor batch",
    "three of a batch",
    "bfloat16",
    "half array",
    "big-endian",
    "longdouble",
    "flipped",
    "uint16",
    "uint64",
    "bool",
    "float8",
    "a list",
    "a list of one",
    "two images",
    "mixed",
    "three numbers",
    "with gradient",
    "list in list",
    "a series",
    "empty tuple",
    "data frame",
}
"""Backgrounds that can only mean 1, if they mean anything."""

_B = torch.ones(2, 3, 8, 8)
baselines = named(
    {
        "None": None,
        "1": 1,
        "1.0": 1.0,
        "True": True,
        "np.float64": np.float64(1),
        "0-d tensor": torch.ones(()),
        "one image": _B[:1],
        "a batch": _B,
        "double": _B.double(),
        "half": _B.half(),
        "bfloat16": _B.bfloat16(),
        "uint8": _B.to(torch.uint8),
        "uint16": _B.to(torch.uint16),
        "bool": _B.bool(),
        "float8": _B.to(torch.float8_e5m2),
        "array": _B.numpy(),
        "flipped array": _B.numpy()[..., ::-1],
        "big-endian": np.ones((2, 3, 8, 8), ">f4"),
        "longdouble": np.ones((2, 3, 8, 8), np.longdouble),
        "list": _B.tolist(),
        "in a tuple": (_B,),
        "number in a tuple": (1,),
        "two numbers": (1, 1),
        "in a list": [_B],
        "[1]": [1],
        "three images": torch.ones(3, 3, 8, 8),
        "no batch": _B[0],
        "colours": torch.ones(1, 3, 1, 1),
        "nan": float("nan"),
        "NaN inside": _B * torch.nan,
        "inf": float("inf"),
        "inf inside": _B * torch.inf,
        "1e300": 1e300,
        "10**400": 10**400,
        "complex": 1j,
        "complex tensor": _B * 1j,
        "sparse": _B.to_sparse(),
        "meta": _B.to("meta"),
        "nested": nested(list(_B)),
        "quantized": quantized(_B),
        "text": "blur",
        "number in text": "1",
        "bytes": b"1",
        "dict": {},
        "set": {1},
        "object": object(),
        "function": len,
        "empty": _B[:0],
        "empty tuple": (),
        "objects": np.array([None, 1]),
        "expanded": _B[:1, :1, :1, :1].expand(2, 3, 8, 8),
        "with gradient": _B.clone().requires_grad_(),
        "Parameter": nn.Parameter(_B.clone()),
        "dates": np.array("2026-01-01", "datetime64[D]"),
        "masked": np.ma.masked_array(_B.numpy(), _B.numpy() > 0),
        "data frame": pd.DataFrame([[1.0]]),
        "5-d": _B[None],
        "the input's own": "x",
    }
)
"""What may be given as Captum's baselines; what is taken stands for 1."""
NOT_ONE = {
    "nan",
    "NaN inside",
    "inf",
    "inf inside",
    "1e300",
    "10**400",
    "complex",
    "complex tensor",
    "text",
    "bytes",
    "dict",
    "set",
    "object",
    "function",
    "empty",
    "empty tuple",
    "objects",
    "dates",
    "masked",
    "meta",
    "three images",
    "two numbers",
    "no batch",
    "5-d",
}
"""Baselines that must be refused."""


# ----- what is asked for -------------------------------------------------------------------

targets = named(
    {
        "1": 1,
        "-3": -3,
        "np.int64": np.int64(1),
        "0-d tensor": torch.tensor(1),
        "[1, 1]": [1, 1],
        "1-d tensor": torch.tensor([1, 1]),
        "tensor of one": torch.tensor([1]),
        "(1,)": (1,),
        "[(1,), (1,)]": [(1,), (1,)],
        "uint8": torch.tensor([1, 1], dtype=torch.uint8),
        "int32": torch.tensor([1, 1], dtype=torch.int32),
        "array": np.array([1, 1]),
        "0-d array": np.array(1),
        "list of arrays": [np.int64(1), np.int64(1)],
        "range": range(1, 3),
        "None": None,
        "True": True,
        "4": 4,
        "-5": -5,
        "10**12": 10**12,
        "10**30": 10**30,
        "-10**30": -(10**30),
        "1.0": 1.0,
        "nan": float("nan"),
        "[1.0, 1.0]": [1.0, 1.0],
        "float tensor": torch.tensor([1.0, 1.0]),
        "bool tensor": torch.tensor([True, False]),
        "complex": torch.tensor([1j, 1j]),
        "[1]": [1],
        "[]": [],
        "()": (),
        "[1, 1, 1]": [1, 1, 1],
        "(1, 1)": (1, 1),
        "[(1, 1), (1, 1)]": [(1, 1), (1, 1)],
        "empty tensor": torch.tensor([], dtype=torch.long),
        "2-d tensor": torch.ones(2, 2, dtype=torch.long),
        "text": "1",
        "list of texts": ["1", "1"],
        "bytes": b"1",
        "dict": {0: 1},
        "set": {1},
        "object": object(),
        "slice": slice(1, 2),
        "Ellipsis": ...,
        "function": len,
        "nested": [[1], [1]],
        "mixed": [1, (1,)],
        "[None, None]": [None, None],
        "sparse": torch.tensor([1, 1]).to_sparse(),
        "meta": torch.tensor([1, 1], device="meta"),
        "(None,)": (None,),
        "(slice,)": (slice(1, 2),),
        "generator": (i for i in [1, 1]),
        "big tensor": torch.tensor([1, 10**12]),
        "[1, 4]": [1, 4],
        "Index": Index(),
        "a series": pd.Series([1, 1]),
        "objects": np.array([1, None]),
    }
)
"""What may be given as Captum's target; what is taken stands for output 1."""

outputs = named(
    {
        "1": 1,
        "-3": -3,
        "[1]": [1],
        "(1,)": (1,),
        "np.int64": np.int64(1),
        "array": np.array([1]),
        "0-d array": np.array(1),
        "one each": np.array([[1], [1]]),
        "tensor": torch.tensor([1]),
        "0-d tensor": torch.tensor(1),
        "uint8": np.array([1], np.uint8),
        "range": range(1, 2),
        "True": True,
        "[True]": [True],
        "mask": [False, True, False, False],
        "[]": [],
        "()": (),
        "4": 4,
        "-5": -5,
        "10**12": 10**12,
        "10**30": 10**30,
        "1.0": 1.0,
        "[1.0]": [1.0],
        "nan": float("nan"),
        "text": "1",
        "[text]": ["1"],
        "bytes": b"1",
        "dict": {1: 1},
        "set": {1},
        "object": object(),
        "function": len,
        "slice": slice(1, 2),
        "Ellipsis": ...,
        "generator": (i for i in [1]),
        "3-d": np.ones((2, 1, 1), int),
        "three rows": np.ones((3, 1), int),
        "no columns": np.ones((2, 0), int),
        "ragged": [[1], [1, 2]],
        "complex": np.array([1j]),
        "objects": np.array([1, None]),
        "[None]": [None],
        "sparse": torch.tensor([1]).to_sparse(),
        "meta": torch.tensor([1], device="meta"),
        "float tensor": torch.tensor([1.0]),
        "2**63": [2**63],
        "dates": np.array(["2026"], "datetime64[Y]"),
        "a series": pd.Series([1]),
        "nested": nested([torch.tensor([1])]),
        "masked": np.ma.masked_array([1], [True]),
    }
)
"""What may be given as outputs of the shap face; what is taken stands for output 1."""


def _identity(v):
    return v


links = named(
    {
        "identity": _identity,
        "plus nothing": lambda v: v + 0,
        "list": lambda v: v.tolist(),
        "tensor": lambda v: torch.from_numpy(v),
        "writes in place": lambda v: v.__imul__(1),
        "float32": lambda v: v.astype(np.float32),
        "None": lambda v: None,
        "a number": lambda v: 1.0,
        "text": lambda v: "a",
        "raises": lambda v: 1 / 0,
        "NaN": lambda v: v * np.nan,
        "inf": lambda v: v + np.inf,
        "complex": lambda v: v * 1j,
        "too few": lambda v: v[:-1],
        "flat": lambda v: v.ravel(),
        "turned": lambda v: v.T,
        "objects": lambda v: v.astype(object),
        "no argument": lambda: 1,
        "no function": 3,
        "text itself": "logit",
        "none itself": None,
        "a class": dict,
        "one axis more": lambda v: v[None],
        "wider": lambda v: np.concatenate([v, v], -1),
        "a dict": lambda v: {"v": v},
        "masked": lambda v: np.ma.masked_array(v, v > 1e9),
    }
)
"""Links; what is taken is the identity."""

names = named(
    {
        "None": None,
        "list": list("abcd"),
        "tuple": tuple("abcd"),
        "array": np.array(list("abcd")),
        "text": "abcd",
        "numbers": [1, 2, 3, 4],
        "too few": ["a"],
        "too many": list("abcde"),
        "empty": [],
        "[None] * 4": [None] * 4,
        "equal": ["a"] * 4,
        "a number": 4,
        "dict": dict.fromkeys("abcd"),
        "set": set("abcd"),
        "generator": (c for c in "abcd"),
        "bytes": b"abcd",
        "a series": pd.Series(list("abcd")),
        "nested": [["a"], ["b"], ["c"], ["d"]],
        "long": ["a" * 10**5] * 4,
        "unicode": ["ä", "\u202e", "\0", "😀"],
        "object": object(),
        "2-d": np.array([["a", "b"], ["c", "d"]]),
        "function": len,
        "range": range(4),
        "mixed": ["a", 1, None, b"c"],
        "ragged": [["a"], "b", "c", "d"],
        "tensor": torch.arange(4),
    }
)
"""Names of four outputs or players."""
