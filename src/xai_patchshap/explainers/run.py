"""What both faces share: solving a game and recording what it cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import shap
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._validation import whole
from ..errors import warn
from ..estimators import Estimate
from ..game import Game
from ..masking.coalition_inputs import CoalitionInputs
from ..masking.patch_masker import PatchMasker
from ..masking.token_dropping import TokenDropping
from ..models.vit_anatomy import vit_patch_size

__all__ = ["Run", "Runner"]

_MANY_PLAYERS = 10_000
# By explainer, not in it: locks cannot be copied or pickled.
_locks: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_locks_lock = threading.Lock()


@dataclass(frozen=True)
class Run:
    """What the last explanation cost and how sure it is.

    Attributes
    ----------
    estimates : list of Estimate
        One for each example: values, standard errors, base values per player and output.
    evaluations : ndarray of int, shape (N,)
        Model evaluations spent on each example.
    seconds, model_seconds : float
        Wall time of the whole explanation, and of the model within it.
    interrupted : bool
        Whether Ctrl-C ended it early.
    """

    estimates: list[Estimate]
    evaluations: NDArray[np.int64]
    seconds: float
    model_seconds: float
    interrupted: bool


class Runner:
    """The part of an explainer that the two faces share; a subclass supplies ``_solve``."""

    model: Any
    masker: PatchMasker
    link: Callable[..., Any]
    seed: int | None
    autocast: torch.dtype | None
    output_names: list[str] | None
    feature_names: Any
    last_run: Run | None
    expected_value: Any

    # Evaluations for each player below which values are too noisy; None: any budget will do.
    _few_per_player: int | None = None

    # Whether calls from several threads must wait for each other.
    _keeps_state = False

    # Whether the user chose the masker, which then serves the Captum face as well.
    _own_masker: bool

    @property
    def model_patch_size(self) -> tuple[int, int] | None:
        """Patch size in pixels if the model is a vision transformer."""
        return vit_patch_size(self.model)

    @property
    def _game_model(self) -> Any:
        """The model, which drops the tokens of hidden patches if the masker says so."""
        if self._drops_tokens:
            parts = self.model.modules() if isinstance(self.model, nn.Module) else ()
            already = any(isinstance(m, TokenDropping) for m in parts)
            return self.model if already else TokenDropping(self.model)
        return self.model

    @property
    def _drops_tokens(self) -> bool:
        return self._own_masker and self.masker.drops_tokens

    @property
    def _game_link(self) -> Callable[..., Any] | None:
        """None for the identity, so that the game need not call it."""
        return None if self.link is shap.links.identity else self.link

    def _solve(
        self,
        game: Game,
        examples: Sequence[int],
        full: NDArray[np.float64],
        budgets: Sequence[int],
    ) -> list[Estimate]:
        """Estimates for ``examples`` of the game.

        ``full`` (N, k) holds the values of all full coalitions; ``budgets`` counts the
        coalitions of each of ``examples``, the full one included.
        """
        raise NotImplementedError(f"{type(self).__name__} has no estimator of its own")

    def _guide_columns(self, full: NDArray[np.float64]) -> NDArray[np.int64] | None:
        """Outputs (N, g) that guide an estimator; ``full`` (N, K) holds them all."""
        return None

    def _auto_budget(self, n_players: int) -> int:
        """Coalitions that ``max_evals="auto"`` stands for."""
        return int(min(2 ** min(n_players, 60), max(500, 10 * n_players)))

    def _run(
        self,
        game: Game,
        full: NDArray[np.float64],
        max_evals: int | None,
        started: float,
        bar: Callable[..., Any] | None,
    ) -> list[Estimate]:
        """Solve all examples of a game and record what it cost."""
        s = game.bound.n_backgrounds
        if max_evals is None:
            budgets = [self._auto_budget(n) for n in game.bound.n_players]
        else:
            budgets = [1 + (max_evals - 1) // s] * game.bound.n_examples
        if bar is not None and max(budgets) > 2:
            most = (
                min(b, 2 ** min(n, 60)) for b, n in zip(budgets, game.bound.n_players, strict=True)
            )
            game.progress = bar(total=sum(m - 1 for m in most) * s, unit=" evaluations")
        # The values of a whole group are held at once: 256 MiB at most.
        group = max(1, 2**28 // (8 * max(budgets) * full.shape[1]))
        estimates: list[Estimate] = []
        try:
            for start in range(0, len(full), group):
                part = range(start, min(start + group, len(full)))
                if game.interrupted:
                    raise KeyboardInterrupt  # nothing is known yet of the later groups
                estimates += self._solve(game, part, full, [budgets[i] for i in part])
            if game.progress is not None:
                # Where fewer evaluations than planned were needed, the bar ends at 100% too.
                game.progress.total = game.progress.n
        finally:
            if game.progress is not None:
                game.progress.close()
        if game.interrupted:
            warn(
                f"Interrupted after {game.evaluations.min()} evaluations of each input; the "
                "result rests on these.",
                RuntimeWarning,
            )
        seconds = time.perf_counter() - started
        self.last_run = Run(
            estimates, game.evaluations.copy(), seconds, game.model_seconds, game.interrupted
        )
        return estimates

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread at a time, in explainers that keep something from one step to the next."""
        if not self._keeps_state:
            yield
            return
        with _locks_lock:
            lock = _locks.setdefault(self, threading.RLock())
        with lock:
            yield

    def _warn_of_doubts(
        self, name: str, budget: int | None, bound: CoalitionInputs, by_default: bool
    ) -> None:
        """One warning for budgets and players that are likely a mistake.

        ``name`` is that of the budget's argument, ``by_default`` says that nobody chose the
        players.
        """
        if self._few_per_player is None:
            return
        n = max(bound.n_players)
        if by_default and n > _MANY_PLAYERS:
            warn(
                f"{n:,} players, one for each element: evaluations and memory grow with their "
                "number. Group them with feature_mask= or PatchMasker(players=...)."
            )
        elif budget is not None:
            s = bound.n_backgrounds
            coalitions = 1 + (budget - 1) // s
            if coalitions < min(self._few_per_player * n, 2 ** min(n, 60)):
                warn(
                    f"{name}={budget} is few for {n} players: the values will be noisy. Give "
                    f"{name}={8 * n * s} or more, eight for each player, or choose fewer players."
                )

    def _warn_of_scale(self, *inputs: Tensor) -> None:
        """One warning for images of whole numbers 0..255 that go into a module of floats."""
        for x in inputs if isinstance(self.model, nn.Module) else ():
            if x.dim() != 4 or x.dtype == torch.bool or not x.numel():
                continue
            low, high = float(x.min()), float(x.max())
            if low < 0 or not 1 < high <= 255 or not bool((x == x.round()).all()):
                continue
            warn(
                f"The images hold whole numbers from {low:g} to {high:g}, and modules are mostly "
                "trained on [0, 1] or on normalised images. If this one is, give images / 255."
            )
            return

    def _check_budget(self, name: str, budget: Any, n_backgrounds: int = 1) -> None:
        mend = "The full image and the empty one (once for each background) are always needed."
        whole(1 + n_backgrounds, mend=mend, unit=" evaluations")(name, budget)
