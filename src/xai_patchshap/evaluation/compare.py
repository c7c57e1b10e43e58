"""The one engine of comparisons: methods and their scores, on the games of images."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._typing import Floats
from .._validation import checked, one_of, whole
from ..explainers import PatchExplainer
from ..explainers.methods import COMPARED, METHODS, check_method
from ..explainers.registry import method_class
from .correlations import random_coalitions, rank_correlation
from .curves import Curve, CurvePlan
from .image_games import ImageGames
from .other_methods import attribute_by

__all__ = [
    "SCORES",
    "Attribution",
    "Protocol",
    "Scorer",
    "attributed",
    "compare_methods",
    "mean_of",
    "table",
]

SCORES = ("insertion", "deletion", "sensitivity_n", "faithfulness")
_ROWS = 2**16  # coalitions of curves that are held at once


@checked(
    steps=whole(1), ties=one_of("together", "random"), n_coalitions=whole(2, also=0), seed=whole(0)
)
@dataclass(frozen=True)
class Protocol:
    """How attributions are scored.

    Attributes
    ----------
    steps : int
        Points of insertion and deletion curves beyond the first.
    ties : {"together", "random"}
        What happens to players of equal attribution; see :func:`insertion_curve`.
    area : callable
        What a :class:`Curve` amounts to; its area by default.
    sizes : sequence of int, optional
        Sizes of the coalitions of sensitivity-n; half the players by default.
    n_coalitions : int
        Coalitions of each size, and of faithfulness; 0 for neither score.
    seed : int
        Seed of the coalitions and of ties.
    """

    steps: int = 100
    ties: str = "together"
    area: Callable[[Curve], float] = Curve.auc
    sizes: Sequence[int] | None = None
    n_coalitions: int = 100
    seed: int = 0


@dataclass(frozen=True)
class Attribution:
    """Values (N, n, k) of the players, and what they cost each image."""

    values: Floats
    evaluations: int
    seconds: float


@checked(budget=whole(2), seed=whole(0))
def attributed(
    method: str,
    games: ImageGames,
    *,
    budget: int = 500,
    seed: int = 0,
    explainer: PatchExplainer | None = None,
) -> Attribution:
    """Attributions to the players of the games by one of the methods.

    Parameters
    ----------
    method : str
        The name of one of our classes, or one of those of others: "captum_kernel_shap",
        "leave_one_out", "rise", "integrated_gradients", "saliency", "input_x_gradient",
        "smoothgrad", "attention_rollout", "last_attention", "random".
    games : ImageGames
    budget : int
        Most model evaluations of each image, at least 2.
    seed : int
    explainer : ViTShapleyAmortized, optional
        The explainer that "vit_shapley_amortized" is; its prediction alone is taken.
    """
    method = check_method("methods", method, known=COMPARED)
    started = time.perf_counter()
    if method not in METHODS:
        values, evaluations = attribute_by(method, games, budget, seed)
    elif method == "vit_shapley_amortized" and explainer is not None:
        values, evaluations = _explained(explainer, games, 2)
    else:
        made: Any = method_class(method)(games.model, games.masker, seed=seed)
        values, evaluations = _explained(made, games, budget)
    return Attribution(values, evaluations, time.perf_counter() - started)


def _explained(explainer: PatchExplainer, games: ImageGames, budget: int) -> tuple[Floats, int]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Interrupted after", RuntimeWarning)
        explainer.explain_players(
            games.images,
            max_evals=budget,
            batch_size=games.batch_size,
            outputs=games.outputs,
            silent=True,
        )
    run = explainer.last_run
    assert run is not None
    if run.interrupted:
        raise KeyboardInterrupt
    return np.stack([e.values for e in run.estimates]), int(run.evaluations.max())


class Scorer:
    """Scores of attributions to the players of some games."""

    def __init__(self, games: ImageGames, protocol: Protocol) -> None:
        self.games, self.protocol = games, protocol
        n, p = games.n_players, protocol
        sizes = (n // 2,) if p.sizes is None else p.sizes
        for size in sizes:
            whole(1, n - 1, unit=f", of {n} players")("sizes", size)
        self._samples = [
            random_coalitions(n, size, p.n_coalitions, p.seed)
            for size in ((*sizes, None) if p.n_coalitions else ())
        ]
        self._values = [games(coalitions) for coalitions in self._samples]

    def __call__(self, phi: Floats) -> dict[str, Floats]:
        """Scores of attributions (N, n, k) by name, (N, k), of sensitivity-n (sizes, N, k)."""
        insertion, deletion = np.stack([self._areas(phi, c) for c in range(phi.shape[2])], axis=2)
        found = {"insertion": insertion, "deletion": deletion}
        if self._samples:
            ranks = np.stack([
                rank_correlation(np.swapaxes(s @ phi, 1, 2), np.swapaxes(v, 1, 2))
                for s, v in zip(self._samples, self._values, strict=True)
            ])  # fmt: skip
            found |= {"sensitivity_n": ranks[:-1], "faithfulness": ranks[-1]}
        return found

    def _areas(self, phi: Floats, c: int) -> Floats:
        """Areas (2, N) of the insertion and the deletion curves of the c-th output."""
        p, n = self.protocol, self.games.n_players
        group = max(1, _ROWS // (2 * min(p.steps, n) + 2))
        areas = []
        for start in range(0, len(phi), group):
            plans = {
                i: CurvePlan.of(phi[i, :, c], p.steps, ties=p.ties, seed=[p.seed, 2, i])
                for i in range(start, min(start + group, len(phi)))
            }
            shown = {i: plan.coalitions() for i, plan in plans.items()}
            values = self.games.values({i: np.concatenate([s, ~s]) for i, s in shown.items()})
            for i, plan in plans.items():
                inside, outside = np.split(values[i][:, c], 2)
                curves = plan.insertion(inside), plan.deletion(outside, phi[i, :, c])
                areas.append([p.area(curve) for curve in curves])
        return np.array(areas).T


def compare_methods(
    games: ImageGames,
    methods: Iterable[str],
    *,
    budget: int = 500,
    protocol: Protocol | None = None,
    seed: int = 0,
    explainer: PatchExplainer | None = None,
) -> list[dict[str, Any]]:
    """Scores of several methods on the same games.

    Parameters
    ----------
    games : ImageGames
    methods : iterable of str
        Names that :func:`attributed` knows.
    budget : int
        Most model evaluations of each image for each method.
    protocol : Protocol, optional
        How attributions are scored.
    seed : int
        Seed of the methods; best another one than the protocol's.
    explainer : ViTShapleyAmortized, optional
        The explainer that "vit_shapley_amortized" is.

    Returns
    -------
    list of dict
        For each method "method", "evaluations" (of each image), "seconds", "insertion" (high is
        good), "deletion" (low is good), "sensitivity_n" and "faithfulness": means over images
        and outputs, None where undefined.

    Examples
    --------
    >>> import torch
    >>> from xai_patchshap import PatchMasker
    >>> def model(images):
    ...     return images.flatten(1) @ torch.arange(16.0)
    >>> games = ImageGames(model, PatchMasker(players=2), torch.ones(1, 1, 4, 4), [[0]])
    >>> for row in compare_methods(games, ["leave_one_out", "random"]):
    ...     print(row["method"], row["evaluations"], row["faithfulness"] > 0.99)
    leave_one_out 5 True
    random 0 False
    """
    score = Scorer(games, protocol or Protocol())
    rows = []
    for method in methods:
        method = check_method("methods", method, known=COMPARED)
        made = attributed(method, games, budget=budget, seed=seed, explainer=explainer)
        found = score(made.values)
        costs = {"method": method, "evaluations": made.evaluations, "seconds": made.seconds}
        rows.append(costs | {name: mean_of(x) for name, x in found.items()})
    return rows


def mean_of(x: Floats) -> float | None:
    """Mean of what is defined, or None."""
    defined = x[np.isfinite(x)]
    return float(defined.mean()) if defined.size else None


def table(lines: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Cells in columns, the first of them flush left; the first line is the heading."""
    width = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def padded() -> Iterator[list[str]]:
        for line in lines:
            cells = zip(line, width, strict=True)
            yield [text.rjust(w) if i else text.ljust(w) for i, (text, w) in enumerate(cells)]

    if not markdown:
        return "\n".join("  ".join(cells) for cells in padded())
    rule = ["-" * width[0], *("-" * (w - 1) + ":" for w in width[1:])]
    heading, *rest = padded()
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heading, rule, *rest))
