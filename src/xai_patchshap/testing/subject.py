"""What is checked, and how numbers are compared."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..masking.patch_masker import PatchMasker
from .games import LinearGame

__all__ = [
    "ALL",
    "CELLS",
    "SIDE",
    "K",
    "N",
    "Subject",
    "added_up",
    "hold",
    "random_states",
    "same",
]

SIDE, N, K = 12, 9, 4  # pixels, players, outputs
CELLS = (torch.arange(SIDE) // 4)[:, None] * 3 + torch.arange(SIDE) // 4
ALL = 2**N


@dataclass(frozen=True)
class Subject:
    """An explainer, and what is explained with it; see :func:`explainer_checks`."""

    explainer: Callable[..., Any]
    model: nn.Module | None
    background: Any
    played: Callable[[Any], nn.Module]
    budget: int
    linear_budget: int
    shapley: bool

    @property
    def images(self) -> Tensor:
        return LinearGame().images()

    def fresh_model(self) -> Any:
        return _net() if self.model is None else self.model

    def make(self, model: Any = None, **options: Any) -> Any:
        masker = PatchMasker((3, 3), self.background)
        return self.explainer(self.fresh_model() if model is None else model, masker, **options)

    def attribute(self, explainer: Any = None, images: Any = None, **options: Any) -> Any:
        explainer = self.make() if explainer is None else explainer
        options = {"n_samples": self.budget, "perturbations_per_eval": 16, "target": 1, **options}
        return explainer.attribute(self.images if images is None else images, **options)

    def table(self, *args: Any, **options: Any) -> Any:
        """Values (N, n_players) by Captum's face."""
        return self.attribute(*args, return_input_shape=False, **options)

    def players(self, explainer: Any = None, images: Any = None, **options: Any) -> Any:
        explainer = self.make() if explainer is None else explainer
        options = {"max_evals": self.budget, "silent": True, **options}
        return explainer.explain_players(self.images if images is None else images, **options)

    def call(self, explainer: Any = None, images: Any = None, **options: Any) -> Any:
        explainer = self.make() if explainer is None else explainer
        options = {"max_evals": self.budget, "silent": True, **options}
        return explainer(self.images if images is None else images, **options)

    @contextmanager
    def counting(self, model: Any) -> Iterator[list[int]]:
        """The number of images in each call of what plays the game."""
        rows: list[int] = []
        hook = self.played(model).register_forward_pre_hook(lambda _, x: rows.append(len(x[0])))
        try:
            yield rows
        finally:
            hook.remove()


class _Net(nn.Module):
    """A small network whose patches interact, and which answers otherwise in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * N, K)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(torch.tanh(2 * self.conv(x)), 4)
        return self.head(self.drop(x.flatten(1)))  # type: ignore[no-any-return]


def _net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return _Net().eval()


def hold(promise: bool, broken: str) -> None:
    """Raise an AssertionError unless a promise is kept."""
    if not promise:
        raise AssertionError(broken)


def same(found: Any, expected: Any, broken: str, tolerance: float = 1e-5) -> None:
    """Raise unless two arrays are equal, relative to the largest value expected."""
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    hold(found.shape == expected.shape, f"{broken}: shape {found.shape}, not {expected.shape}")
    # Unknown errors are infinite, on both sides.
    unequal = found != expected
    apart = float(np.abs(found[unequal] - expected[unequal]).max(initial=0.0))
    finite = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
    hold(apart <= tolerance * finite, f"{broken}: they differ by up to {apart:.3g}")


def added_up(explanation: Any) -> Any:
    """Sum (N, K) over all that was explained: elements, pairs or players."""
    values = np.asarray(explanation.values)
    return values.reshape(len(values), -1, values.shape[-1]).sum(axis=1)


def random_states() -> tuple[Any, ...]:
    """Global random states of torch, numpy and Python."""
    legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    numpys = legacy["key"].tobytes(), legacy["pos"]
    return torch.get_rng_state().numpy().tobytes(), numpys, random.getstate()
