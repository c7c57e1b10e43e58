"""Hostile models: what writes, remembers, raises, or returns what is no row of scores."""

from __future__ import annotations

import collections
import functools
import types

import hypothesis.strategies as st
import numpy as np
import pytest
import strategies as hostile
import torch
from oracle import (
    FACES,
    OUTPUT,
    K,
    Net,
    ask,
    equal_to,
    function,
    judged,
    linear,
    make,
    tried,
    truth,
)
from strategies import ANY, REFUSED, RIGHT, Named, named
from torch import nn

from xai_patchshap import InteractionShap, OwenBPT, PatchKernelShap

X = hostile.BASE.float()
TRUTH = truth(PatchKernelShap, X.double())[..., OUTPUT]
SAMPLED = (PatchKernelShap, OwenBPT, InteractionShap)


# ----- models that are right, however they do it -------------------------------------------


class Around(nn.Module):
    """The linear game with something done before and after."""

    def __init__(self, before=lambda x: x, after=lambda y: y):
        super().__init__()
        self.net, self.before, self.after = Net(), before, after

    def forward(self, x, *more, **named_):
        return self.after(self.net(self.before(x)))


class Buffered(Net):
    """Returns the same memory again and again."""

    def forward(self, x):
        y = super().forward(x)
        if getattr(self, "kept", None) is None or len(self.kept) < len(y):
            self.kept = torch.zeros(max(64, len(y)), K)
        self.kept[: len(y)] = y
        return self.kept[: len(y)]


class Remembers(Net):
    """Writes into its last input when it is called again."""

    last = None

    def forward(self, x):
        y = super().forward(x).clone()
        if self.last is not None:
            self.last.fill_(7.0)
        self.last = x
        return y


class Modal(Net):
    """Wrong in training mode; switches to it by itself."""

    def forward(self, x):
        y = super().forward(x) * (100 if self.training else 1)
        self.train()
        self.eval()
        return y


class Callable:
    def __call__(self, x):
        return function(x)


class ArrayBuffer:
    """A function of arrays that writes into its input and reuses its output."""

    def __init__(self):
        self.kept = np.zeros((64, K))

    def __call__(self, x):
        y = function(x).numpy()
        x = np.asarray(x) if isinstance(x, np.ndarray) else x.numpy()
        x.fill(3)
        self.kept[: len(y)] = y
        return self.kept[: len(y)]


def _written(x):
    y = x.clone()
    x.zero_()
    return y


def _of(module, **attributes):
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def _hooked():
    net = Net()
    net.register_forward_pre_hook(lambda m, args: (args[0] + 0,))
    net.register_forward_hook(lambda m, args, out: out + 0)
    return net


def _compiled(net):
    return torch.compile(net, backend="eager", dynamic=True)


def _with_batchnorm():
    net = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.Dropout(0.9), Net())
    net[0].running_var.fill_(1 - net[0].eps)
    return net.train()


def _lazy():
    lazy = nn.LazyLinear(K)
    net = nn.Sequential(nn.Flatten(), lazy)
    with torch.random.fork_rng():
        net(X)
    with torch.no_grad():
        lazy.weight.copy_(Net().head.weight)
        lazy.bias.fill_(0.25)
    return net


RIGHT_MODELS = {
    "a module": Net,
    "in double precision": lambda: Net().double(),
    "frozen parameters": lambda: Net().requires_grad_(False),
    "in train mode": lambda: Net().train(),
    "batch norm and dropout in train mode": _with_batchnorm,
    "writes into its input": lambda: Around(_written),
    "normalises in place": lambda: Around(lambda x: x.sub_(1).add_(1)),
    "sets single pixels": lambda: Around(lambda x: (x.clone(), x[:, :, 0, 0].zero_())[0]),
    "resizes its input": lambda: Around(lambda x: (x.clone(), x.resize_(1))[0]),
    "one buffer": Buffered,
    "remembers its input": Remembers,
    "changes its mode": Modal,
    "hooks": _hooked,
    "compiled": lambda: _compiled(Net()),
    "a compiled function": lambda: _compiled(function),
    "scripted": lambda: torch.jit.script(Net().eval()),
    "traced": lambda: torch.jit.trace(Net().eval(), X),
    "frozen script": lambda: torch.jit.freeze(torch.jit.script(Net().eval())),
    "built lazily": _lazy,
    "data parallel": lambda: nn.DataParallel(Net()),
    "a function": lambda: function,
    "a lambda": lambda: lambda x: function(x),
    "a partial": lambda: functools.partial(function),
    "a method": lambda: Callable().__call__,
    "an object": Callable,
    "a partial of a module": lambda: functools.partial(Net().eval().forward),
    "an array buffer": ArrayBuffer,
    "with gradient": lambda: Around(after=lambda y: y.clone().requires_grad_()),
    "enables gradients": lambda: Around(after=lambda y: torch.enable_grad().__call__(lambda: y)()),
    "double output": lambda: Around(after=lambda y: y.double()),
    "arrays": lambda: Around(after=lambda y: y.numpy()),
    "big-endian arrays": lambda: Around(after=lambda y: y.numpy().astype(">f8")),
    "lists": lambda: Around(after=lambda y: y.tolist()),
    "not contiguous": lambda: Around(after=lambda y: y.t().contiguous().t()),
    "every second": lambda: Around(after=lambda y: y.repeat_interleave(2, 1)[:, ::2]),
    "a subclass": lambda: Around(after=lambda y: y.as_subclass(hostile.Subclass)),
    "a Parameter": lambda: Around(after=lambda y: nn.Parameter(y)),
    "negative view": lambda: Around(after=lambda y: torch._neg_view(-y)),
    "shares memory with its input": lambda: Around(after=lambda y: y),
    "changes the global seed": lambda: Around(),
}
WRONG_OUTPUTS = {
    "None": lambda y: None,
    "text": lambda y: "cat",
    "a dict": lambda y: {"logits": y},
    "an ordered dict": lambda y: collections.OrderedDict(out=y),
    "an empty dict": lambda y: {},
    "a tuple": lambda y: (y,),
    "a tuple of two": lambda y: (y, y),
    "a list of heads": lambda y: list(y.unbind(1)),
    "a list of dicts": lambda y: [{"scores": row} for row in y],
    "a namedtuple": lambda y: collections.namedtuple("Out", "logits aux")(y, y),
    "a namespace": lambda y: types.SimpleNamespace(logits=y),
    "a set": lambda y: {1.0},
    "a generator": lambda y: (row for row in y),
    "sparse": lambda y: y.to_sparse(),
    "complex": lambda y: y * 1j,
    "complex array": lambda y: (y * 1j).numpy(),
    "nested": lambda y: hostile.nested(list(y)),
    "quantized": lambda y: hostile.quantized(y),
    "meta": lambda y: y.to("meta"),
    "masked": lambda y: np.ma.masked_array(y.numpy(), y.numpy() > 0),
    "objects": lambda y: np.array([None] * len(y)),
    "dates": lambda y: np.zeros(len(y), "datetime64[s]"),
    "texts": lambda y: ["cat"] * len(y),
    "a record": lambda y: np.zeros(len(y), [("p", "f4")]),
    "ragged": lambda y: [[1.0], [1.0, 2.0]] * len(y),
    "a row too few": lambda y: y[:-1],
    "no rows": lambda y: y[:0],
    "twice the rows": lambda y: torch.cat([y, y]),
    "no columns": lambda y: y[:, :0],
    "columns by rows": lambda y: y.repeat(1, max(1, len(y) % 7)),
    "turned": lambda y: y.t()[: max(1, K - 1)],
    "maps": lambda y: y[:, :, None, None].expand(-1, -1, 3, 3),
    "flat": lambda y: y.flatten(),
    "NaN": lambda y: y * torch.nan,
    "inf": lambda y: y + torch.inf,
    "-inf": lambda y: y - torch.inf,
    "float8": lambda y: y.to(torch.float8_e5m2),
    "a type": lambda y: type(y),
    "an exception": lambda y: ValueError("cat"),
    "a bound method": lambda y: y.numpy,
    "bytes": lambda y: b"cat",
    "a memoryview": lambda y: memoryview(b"cat"),
    "an iterator": lambda y: iter(y),
}


class Raises(Net):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class Stubborn(Net):
    """Takes a single batch size."""

    def forward(self, x):
        if len(x) != 2:
            raise RuntimeError("a batch of 2, please")
        return super().forward(x)


RAISING = {
    "a ValueError": lambda: Raises(ValueError("no")),
    "a StopIteration": lambda: Raises(StopIteration()),
    "a KeyError": lambda: Raises(KeyError("x")),
    "an IndexError": lambda: Raises(IndexError("x")),
    "a RuntimeError on strides": lambda: Raises(RuntimeError("view size: stride")),
    "an AssertionError": lambda: Raises(AssertionError()),
    "a MemoryError": lambda: Raises(MemoryError()),
    "a RecursionError": lambda: Raises(RecursionError()),
    "a batch size of its own": Stubborn,
    "a class": lambda: Net,
    "no argument": lambda: lambda: 1,
    "two arguments": lambda: lambda x, y: x,
    "an empty Sequential": nn.Sequential,
    "an Identity": nn.Identity,
    "a convolution": lambda: nn.Conv2d(4, 4, 3),
    "half precision": lambda: Net().half(),
    "on meta": lambda: Net().to("meta"),
    "without forward": nn.Module,
    "a lazy one": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(K)),
    "a ModuleList": lambda: nn.ModuleList([Net()]),
    "an optimiser": lambda: torch.optim.SGD(Net().parameters(), 0.1),
    "a state dict": lambda: Net().state_dict(),
    "a path": lambda: "model.pt",
    "a tensor": lambda: X,
    "a number": lambda: 3,
}

_all = (
    [Named(name, make_, RIGHT) for name, make_ in RIGHT_MODELS.items()]
    + [
        Named(f"returns {name}", lambda after=after: Around(after=after), REFUSED)
        for name, after in WRONG_OUTPUTS.items()
    ]
    + [Named(f"raises {name}", make_, ("refused", "raised")) for name, make_ in RAISING.items()]
)
models = st.tuples(st.sampled_from(SAMPLED), st.sampled_from(FACES), st.sampled_from(_all))
MAY = {
    "a batch size of its own": ANY,
    "half precision": ANY,
    "an Identity": ANY,
    "float8": ANY,
    "flat": ANY,
    "turned": ANY,
    "columns by rows": ANY,
    "memoryview": ANY,
    "maps": ANY,
}


def models_are_explained_or_refused(case):
    kind, face, given = case
    model = given.value()
    may = next((may for name, may in MAY.items() if given.name.endswith(name)), given.may)
    in_train_mode = isinstance(model, nn.Module) and given.name.endswith("train mode")

    def question():
        return ask(make(kind, model), face, X)

    def check(found):
        if may is ANY and "half" not in given.name and "batch size" not in given.name:
            return
        expected = TRUTH[:1] if face == "explain_row" else TRUTH
        equal_to(expected, 2e-2 if "half" in given.name else 5e-4)(found)
        assert not in_train_mode or model.training

    # A lazy or a buffered model changes by itself when it runs.
    changes = any(word in given.name for word in ("lazy", "buffer", "compiled", "mode"))
    return judged(question, check, X, None if changes else model, may)


# ----- further arguments -------------------------------------------------------------------

_ONE = torch.ones(2)
extras = named(
    {
        "None": None,
        "()": (),
        "a number": 1.0,
        "a tensor": _ONE,
        "in a tuple": (_ONE,),
        "0-d": torch.tensor(1.0),
        "of one": torch.ones(1),
        "of three": torch.ones(3),
        "uint16": _ONE.to(torch.uint16),
        "bfloat16": _ONE.bfloat16(),
        "bool": _ONE.bool(),
        "complex": _ONE * 1j,
        "sparse": _ONE.to_sparse(),
        "nested": hostile.nested([_ONE, _ONE]),
        "meta": _ONE.to("meta"),
        "quantized": hostile.quantized(_ONE),
        "with gradient": _ONE.clone().requires_grad_(),
        "not a leaf": _ONE.clone().requires_grad_() * 1,
        "expanded": torch.ones(1).expand(2),
        "an array": np.ones(2),
        "read-only array": hostile._read_only(np.ones(2)),
        "objects": np.array([None, None]),
        "text": "a",
        "a list": [1, 1],
        "a list of tensors": [_ONE, _ONE],
        "a dict": {"a": _ONE},
        "a generator": (i for i in [1]),
        "an object": object(),
        "a module": nn.Identity(),
        "many": (1, "a", None, _ONE, {"b": [_ONE]}),
        "nested tuples": ((_ONE, (_ONE,)),),
        "a namedtuple": (collections.namedtuple("P", "a b")(_ONE, 1),),
        "empty tensor": torch.ones(0),
        "a set": {1},
    }
)
further = st.tuples(st.sampled_from(SAMPLED), st.sampled_from(("attribute", "table")), extras)


def further_arguments_reach_the_model(case):
    kind, face, extra = case
    seen = []

    def model(x, *more):
        for m in more:
            seen.append(type(m))
            of_rows = isinstance(m, torch.Tensor) and not m.is_nested and not m.is_quantized
            if of_rows and m.layout is torch.strided and not m.is_meta and not m.requires_grad:
                m.zero_()  # it is the model's own
        return linear(x.double()) + 0.25

    explainer = make(kind, model)
    given = extra.value
    n = 0 if given is None else len(given) if isinstance(given, tuple) else 1

    def check(found):
        equal_to(TRUTH)(found)
        assert (not n and not seen) or (seen and len(seen) % n == 0)

    return judged(
        lambda: ask(explainer, face, X, additional_forward_args=given), check, (X, given), may=ANY
    )


CASES = {
    "models": (models, models_are_explained_or_refused),
    "further arguments": (further, further_arguments_reach_the_model),
}


@pytest.mark.parametrize("name", CASES)
def test_some_of_each(name):
    assert sum(tried(*CASES[name], 25).values()) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_of_each(name):
    assert sum(tried(*CASES[name], 400).values()) >= 150
