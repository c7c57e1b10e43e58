"""What both faces share: from a request and a budget to estimates and what they cost."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import shap
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._validation import check_memory, said, whole
from ..errors import PatchShapError, warn
from ..estimators.base import Estimator, Plan, Planned
from ..game import Forward, Game, Request
from ..masking.coalition_inputs import CoalitionInputs
from ..masking.patch_masker import PatchMasker
from ..masking.token_dropping import TokenDropping
from ..models.batch import BatchModel
from ..models.vit_anatomy import vit_patch_size
from .solve import Run, solve

__all__ = ["Core", "warn_of_scale"]

_GROUP_BYTES = 2**28  # of values that are held at once, but for those of a single example


class Core:
    """The part of an explainer that the two faces share.

    A subclass supplies :meth:`_plan`, or :meth:`_estimators` where its coalitions depend on
    values.
    """

    model: Any
    masker: PatchMasker
    link: Callable[..., Any]
    seed: int | None
    autocast: torch.dtype | None
    output_names: list[str] | None
    feature_names: Any
    last_run: Run | None
    expected_value: Any

    # Stop before the budget is spent once the largest standard error is at most this.
    tolerance: float | None = None

    # Evaluations for each player below which values are too noisy; None: any budget will do.
    _few_per_player: int | None = None

    # Whether the user chose the masker, which then serves the Captum face as well.
    _own_masker: bool

    # ----- what a subclass says ----------------------------------------------------------

    def _plan(self, n_players: int, budget: int, seed: int) -> Plan:
        """What names the coalitions of a game and estimates from their values."""
        raise NotImplementedError(f"{type(self).__name__} has no estimator of its own")

    def _estimators(
        self, game: Game, budgets: Mapping[int, int], prediction: Any
    ) -> dict[int, Estimator]:
        """An estimator for each example of the game that has a budget of coalitions.

        ``prediction`` is what :meth:`_first_look` said besides the outputs.
        """
        sizes = {i: (game.n_players[i], budget) for i, budget in budgets.items()}
        self._check_memory(game, list(sizes.values()))
        seed = secrets.randbits(64) if self.seed is None else self.seed
        # One sample of coalitions serves all examples with as many players.
        plans = {size: self._plan(*size, seed) for size in dict.fromkeys(sizes.values())}
        n_guides = game.request.n_guides
        return {i: Planned(plans[size], n_guides, self.tolerance) for i, size in sizes.items()}

    def _report(self, estimators: Sequence[Any]) -> dict[str, list[Any]]:
        """Fields of :class:`Run` that hold something for each example."""
        return {"estimates": [e.estimate() for e in estimators]}

    def _put_away(self, game: Game, estimators: Mapping[int, Any]) -> None:
        """Called with estimators that have answered."""

    def _guide_columns(self, full: NDArray[np.float64]) -> NDArray[np.int64] | None:
        """Outputs (N, g) that guide an estimator; ``full`` (N, K) holds them all."""
        return None

    def _auto_budget(self, n_players: int) -> int:
        """Coalitions that ``max_evals="auto"`` stands for."""
        return int(min(2 ** min(n_players, 60), max(500, 10 * n_players)))

    def _numbers_per_output(self, n_players: int) -> int:
        """Numbers that the results hold for each output."""
        return 2 * n_players

    # ----- the model ---------------------------------------------------------------------

    @property
    def model_patch_size(self) -> tuple[int, int] | None:
        """Patch size in pixels if the model is a vision transformer."""
        return vit_patch_size(self.model)

    @property
    def _game_model(self) -> Any:
        """The model, which drops the tokens of hidden patches if the masker says so."""
        if not self._drops_tokens:
            return self.model
        parts = self.model.modules() if isinstance(self.model, nn.Module) else ()
        already = any(isinstance(m, TokenDropping) for m in parts)
        return self.model if already else TokenDropping(self.model)

    @property
    def _drops_tokens(self) -> bool:
        return self._own_masker and self.masker.drops_tokens

    @property
    def _game_link(self) -> Callable[..., Any] | None:
        """None for the identity, so that the game need not call it."""
        return None if self.link is shap.links.identity else self.link

    def _first_look(
        self, model: BatchModel, inputs: tuple[Tensor, ...], extra: tuple[Any, ...]
    ) -> tuple[Tensor, Any]:
        """What the model says of whole inputs, and what more is predicted of them."""
        return model(inputs, extra), None

    # ----- a run -------------------------------------------------------------------------

    def _run(
        self,
        forward: Forward,
        request: Request,
        prediction: Any,
        max_evals: int | None,
        bar: Callable[..., Any] | None,
    ) -> dict[str, Any]:
        """Play the game of a request within a budget of evaluations; fields of :class:`Run`."""
        budgets = self._budgets(request.inputs, max_evals)
        progress = self._progress(bar, request.inputs, budgets)
        found: dict[str, Any] = {}
        try:
            game = Game(forward, request, progress)
            # The values of a whole group are held at once.
            group = max(1, _GROUP_BYTES // (8 * max(budgets) * game.n_outputs))
            for start in range(0, len(budgets), group):
                some = {i: budgets[i] for i in range(len(budgets))[start : start + group]}
                for field, values in self._solved(game, some, prediction).items():
                    found.setdefault(field, []).extend(values)
            if progress is not None:
                # Where fewer evaluations than planned were needed, the bar ends at 100% too.
                progress.total = progress.n
        finally:
            if progress is not None:
                progress.close()
        if game.interrupted:
            warn(
                f"Interrupted after {game.evaluations.min()} evaluations of each input; the "
                "result rests on these.",
                RuntimeWarning,
            )
        return found | {
            "evaluations": game.evaluations,
            "model_seconds": game.model_seconds,
            "interrupted": game.interrupted,
            "outputs": request.explained,
        }

    def _solved(
        self, game: Game, budgets: Mapping[int, int], prediction: Any
    ) -> dict[str, list[Any]]:
        """What a run reports of some examples."""
        if game.interrupted:
            raise KeyboardInterrupt  # nothing is known yet of these
        estimators = self._estimators(game, budgets, prediction)
        try:
            solve(game, estimators, budgets)
            found = self._report(list(estimators.values()))
        except PatchShapError:
            if game.interrupted:  # too early for any answer
                raise KeyboardInterrupt from None
            raise
        self._put_away(game, estimators)
        return found

    def _budgets(self, inputs: CoalitionInputs, max_evals: int | None) -> list[int]:
        """Coalitions of each example, the full one included."""
        if max_evals is None:
            return [self._auto_budget(n) for n in inputs.n_players]
        return [1 + (max_evals - 1) // inputs.n_backgrounds] * inputs.n_examples

    def _progress(
        self, bar: Callable[..., Any] | None, inputs: CoalitionInputs, budgets: Sequence[int]
    ) -> Any:
        """A bar of the evaluations to come, where there are any."""
        if bar is None or max(budgets) <= 2:
            return None
        most = (min(b, 2 ** min(n, 60)) for b, n in zip(budgets, inputs.n_players, strict=True))
        return bar(total=sum(m - 1 for m in most) * inputs.n_backgrounds, unit=" evaluations")

    def _check_memory(self, game: Game, sizes: Sequence[tuple[int, int]]) -> None:
        """Raise unless values and results of some examples, (players, budget) each, fit."""
        n_outputs, most = game.n_outputs, max(n for n, _ in sizes)
        asked = said(max(budget for _, budget in sizes))
        came = f"{asked} evaluations for {most:,} players and {n_outputs:,} outputs"
        n_rows = sum(min(budget, 2 ** min(n, 62)) for n, budget in sizes)
        mend = "Lower it (n_samples= or max_evals=), or choose some outputs with outputs=."
        check_memory("budget", came, 8 * n_rows * n_outputs, mend)
        numbers = len(game.n_players) * n_outputs
        numbers *= max(self._numbers_per_output(n) for n, _ in sizes)
        came = f"{n_outputs:,} outputs of {most:,} players"
        mend = "Choose some with outputs=, as in outputs=[0, 1], or fewer players."
        check_memory("outputs", came, 8 * numbers, mend)

    def _check_budget(self, name: str, budget: Any, n_backgrounds: int) -> int | None:
        """The budget as a number, or an error; None for "auto", which Captum does not know."""
        if isinstance(budget, str) and budget == "auto" and name != "n_samples":
            return None
        mend = "The full image and the empty one (once for each background) are always needed."
        least = whole(1 + n_backgrounds, mend=mend, unit=" evaluations")
        return int(least(name, budget))

    def _warn_of_doubts(
        self, name: str, budget: int | None, inputs: CoalitionInputs, by_default: bool
    ) -> None:
        """One warning for budgets and players that are likely a mistake.

        ``name`` is that of the budget's argument, ``by_default`` says that nobody chose the
        players.
        """
        if self._few_per_player is None or (by_default and _warn_of_many_players(inputs)):
            return
        if budget is not None:
            _warn_of_budget(name, budget, inputs, self._few_per_player)


_MANY_PLAYERS = 10_000


def _warn_of_many_players(inputs: CoalitionInputs) -> bool:
    """Whether players that nobody chose are that many that a warning was due."""
    n = max(inputs.n_players)
    if n > _MANY_PLAYERS:
        warn(
            f"{n:,} players, one for each element: evaluations and memory grow with their "
            "number. Group them with feature_mask= or PatchMasker(players=...)."
        )
    return n > _MANY_PLAYERS


def _warn_of_budget(name: str, budget: int, inputs: CoalitionInputs, few_per_player: int) -> None:
    """One warning for a budget, given as ``name``, that is too small for good values."""
    n, s = max(inputs.n_players), inputs.n_backgrounds
    coalitions = 1 + (budget - 1) // s
    if coalitions < min(few_per_player * n, 2 ** min(n, 60)):
        warn(
            f"{name}={budget} is few for {n} players: the values will be noisy. Give "
            f"{name}={8 * n * s} or more, eight for each player, or choose fewer players."
        )


def warn_of_scale(model: Any, inputs: tuple[Tensor, ...]) -> None:
    """One warning for images of whole numbers 0..255 that go into a module of floats."""
    for x in inputs if isinstance(model, nn.Module) else ():
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
