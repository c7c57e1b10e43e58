"""One call of a hooked model at a time, with code that torch.compile compiled run eagerly."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import bad

__all__ = ["alone", "compiled_code_off", "entered"]

# Hooks are on the module, for all threads: one call at a time.
_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_guard = threading.Lock()
_of_thread = threading.local()


def entered() -> list[Any]:
    """Transformers whose hidden tokens are being dropped in this thread."""
    if not hasattr(_of_thread, "entered"):
        _of_thread.entered = []
    entered: list[Any] = _of_thread.entered
    return entered


@contextmanager
def alone(vit: nn.Module) -> Iterator[None]:
    """One thread at a time in the transformer."""
    with _guard:
        lock = _locks.setdefault(vit, threading.Lock())
    with lock:
        entered().append(vit)
        try:
            yield
        finally:
            entered().pop()


class _Stance:
    """How many calls want compiled code to run eagerly; the stance is of the whole process."""

    n = 0
    context: Any = None


@contextmanager
def compiled_code_off(model: nn.Module) -> Iterator[None]:
    """What torch.compile compiled runs eagerly, so that hooks run; nothing else changes."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled yet
        yield
        return
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None:  # before torch 2.6
        compiled = (
            hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None
            for m in model.modules()
        )
        if any(compiled):
            raise bad(
                "model",
                "a compiled module",
                "the module before torch.compile, where torch is older than 2.6",
                "Pass model._orig_mod, or a copy that compile() was not called on.",
            )
        yield
        return
    with _guard:
        if not _Stance.n:
            _Stance.context = set_stance("force_eager")
        _Stance.n += 1
    try:
        yield
    finally:
        with _guard:
            _Stance.n -= 1
            if not _Stance.n:
                _Stance.context.__exit__(None, None, None)
