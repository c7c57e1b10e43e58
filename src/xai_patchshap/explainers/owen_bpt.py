"""OwenBPT: Owen values to the pixel over binary partition trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import shap
import torch
from numpy.typing import NDArray

from .._validation import check_memory, checked, finite, said, whole
from ..errors import PatchShapError, bad
from ..estimators import Estimate, OwenForest
from ..estimators.base import Estimator
from ..game import Game
from ..masking.coalition_inputs import CoalitionInputs
from ..players.trees import MOST_COMPACT, PartitionTree, axis_tree, bpt_tree, linkage_tree
from ..targets.outputs import leading_outputs
from .base import PatchExplainer

__all__ = ["OwenBPT"]

_KINDS = ("bpt", "axis")
# How the later trees see the values so far: as a channel that counts as much as so many
# channels of colour, and in which this quantile of all magnitudes is the end of the scale.
_SEEN, _TYPICAL = 3.0, 0.99
Grower: TypeAlias = Callable[[NDArray[np.float64] | None], PartitionTree]
# Trees begin at 3**k times as many evaluations: more than so many are never reached.
_MOST_TREES = 32
_WHEN_TREES_BEGIN = (
    "The second tree begins after 100 evaluations, each further one after three times as many."
)
_BYTES_OF_AN_EVALUATION = 800  # of the branches that it opens, whatever the outputs


class OwenBPT(PatchExplainer):
    r"""Owen values over a data-aware binary partition tree, down to the pixel.

    The players are grouped by a tree: regions of the image that look alike, split again and
    again where the model reacts (ShapBPT, Rashid et al., AAAI 2026, arXiv 2602.07047).
    Best-first refinement of the Owen formula spends the budget on the branches that can
    change the map; the values add up to f(x) - f(background) at every budget and are the
    exact Owen values once every branch is open.

    It is a :class:`captum.attr.PerturbationAttribution` (:meth:`attribute`) and a
    :class:`shap.Explainer` (:meth:`__call__`, :meth:`shap_values`).

    Parameters
    ----------
    model : torch.nn.Module or callable
        Maps a batch to outputs (B, K) or (B,). A module runs in evaluation mode and
        without gradients, on its own device, and is left as it was.
    masker : PatchMasker or background, optional
        Background and players. By default hidden elements are 0, and pixels play.
    link : callable
        shap's link function, applied to the values of the game.
    output_names : sequence of str, optional
        One name for each output.
    feature_names : sequence of str, optional
        Names of the players, for :meth:`explain_players`.
    seed : int or None
        Accepted for a common interface: nothing here is drawn at random.
    autocast : torch.dtype, optional
        Run a model that is a module under ``torch.autocast``, as in ``torch.bfloat16``.
    hierarchy : {"bpt", "axis"}, scipy linkage, PartitionTree, or a list of these
        The tree of the players: data-aware, or axis-aligned halves, or any linkage
        (n - 1, 4) over the players. Values are averaged over the trees of a list. The
        ``clustering`` of a masker serves shap's own explainers and is not used here.
    n_trees : int
        Trees of each kind, which share the budget. The later ones also look at the values
        so far: attributions count as a channel of the image ("bpt"), or the cuts are made
        where they change ("axis"), so that a region that matters becomes a branch early.
        The second tree is begun after 100 evaluations, further ones after 3 and 9 times as
        many; each is refined until the next one begins, and values are averaged with the
        evaluations as weights. Standard errors compare the trees: they show where the map
        hangs on the tree, no more, and they are infinite until a second tree joins. 1 gives
        the Owen values of a single tree, which depends on the image alone; 32 is the most.
    compactness : float
        How much the data-aware trees prefer round regions; see
        :func:`~xai_patchshap.players.trees.bpt_tree`. With ``n_trees=1``, 0 gives the published
        method.
    n_guides : int
        The outputs that decide what is refined: this many that are largest on the whole
        input, whatever outputs are explained. The r-th largest has weight 1/r^2. To explain
        an output that is not among the largest, raise it.
    warm_start : bool
        Keep what was computed: a call with the same input and a larger budget continues
        where the last one stopped, with the result that the larger budget would have had;
        a smaller budget returns what is known already.

    Attributes
    ----------
    last_run : Run or None
        Evaluations, times and estimates of the last explanation.
    trees : list of list of PartitionTree
        The trees of each example of the last explanation.
    expected_value : ndarray (K,) or float, or None before the first call
        Value of the empty coalition for the outputs that were explained last.

    Raises
    ------
    PatchShapError
        If an argument does not fit.

    Examples
    --------
    >>> import torch
    >>> from xai_patchshap import OwenBPT, PatchMasker
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    >>> images = torch.rand(2, 3, 32, 32)

    As a Captum attribution:

    >>> OwenBPT(model).attribute(images, target=3, n_samples=100).shape
    torch.Size([2, 3, 32, 32])

    As a shap explainer, with one tree of each kind:

    >>> masker = PatchMasker(background="mean")
    >>> explainer = OwenBPT(model, masker, hierarchy=["bpt", "axis"], n_trees=1)
    >>> explanation = explainer(images, max_evals=100, outputs=[3, 7], silent=True)
    >>> explanation.values.shape  # channels last, ready for shap.image_plot
    (2, 32, 32, 3, 2)
    >>> [tree.n for tree in explainer.trees[0]]
    [1024, 1024]
    """

    @checked(
        n_trees=whole(1, _MOST_TREES, mend=_WHEN_TREES_BEGIN),
        compactness=finite(least=0, below=MOST_COMPACT),
        n_guides=whole(1),
    )
    def __init__(
        self,
        model: Callable[..., Any],
        masker: Any = None,
        *,
        link: Callable[..., Any] = shap.links.identity,
        output_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        seed: int | None = 0,
        autocast: torch.dtype | None = None,
        hierarchy: Any = "bpt",
        n_trees: int = 4,
        compactness: float = 1.0,
        n_guides: int = 5,
        warm_start: bool = False,
    ) -> None:
        _kinds(hierarchy)
        super().__init__(
            model,
            masker,
            link=link,
            output_names=output_names,
            feature_names=feature_names,
            seed=seed,
            autocast=autocast,
        )
        self.hierarchy, self.n_trees, self.compactness = hierarchy, n_trees, compactness
        self.n_guides, self.warm_start = n_guides, warm_start
        self._kept: dict[int, tuple[tuple[Any, ...], OwenForest]] = {}

    @classmethod
    def get_name(cls) -> str:
        """Name in Captum's progress bars."""
        return "Owen BPT"

    @property
    def model_patch_size(self) -> tuple[int, int] | None:
        """Pixels play by default, patches where tokens are dropped."""
        return super().model_patch_size if self.masker.drops_tokens else (1, 1)

    def _auto_budget(self, n_players: int) -> int:
        return 500

    @property
    def trees(self) -> list[list[PartitionTree]]:
        """The trees of each example of the last explanation."""
        return [] if self.last_run is None else self.last_run.trees

    def _options(self) -> dict[str, Any]:
        names = ("hierarchy", "n_trees", "compactness", "n_guides", "warm_start")
        return {**super()._options(), **{name: getattr(self, name) for name in names}}

    def _guide_columns(self, full: NDArray[np.float64]) -> NDArray[np.int64]:
        return leading_outputs(full, self.n_guides)

    def _estimators(
        self, game: Game, budgets: Mapping[int, int], prediction: Any
    ) -> dict[int, Estimator]:
        estimators: dict[int, _Growing] = {}
        for i, budget in budgets.items():
            key = self._key(game, i) if self.warm_start else ()
            kept = self._kept.get(i) if self.warm_start else None
            if kept is not None and _same(kept[0], key):
                # A copy: what was kept stays whole, whatever becomes of this call.
                estimators[i] = _Growing(game, i, budget, key, kept[1].copy())
            else:
                trees, growers = self._plant(game.request.inputs, i)
                estimators[i] = _Growing(game, i, budget, key, None, trees, growers)
        self._check_memory_of_branches(estimators, budgets, game.n_outputs)
        return dict(estimators)

    def _report(self, estimators: Sequence[_Growing]) -> dict[str, list[Any]]:
        return {
            "estimates": [e.estimate() for e in estimators],
            "trees": [e.trees for e in estimators],
        }

    def _put_away(self, game: Game, estimators: Mapping[int, _Growing]) -> None:
        if not self.warm_start:
            return
        n = len(game.n_players)
        kept = {i: (e.key, e.forest) for i, e in estimators.items() if e.forest is not None}
        self._kept = {i: k for i, k in {**self._kept, **kept}.items() if i < n}

    def _key(self, game: Game, i: int) -> tuple[Any, ...]:
        """What the values of an example depend on: the same key, the same game."""
        request = game.request
        columns = None if request.columns is None else request.columns[i].tolist()
        # Further arguments of the model make every call a new question.
        question = None if request.repeatable else object()
        names = ("model", "link", "seed", "hierarchy", "n_trees", "compactness", "n_guides")
        settings = (columns, question, *(getattr(self, name) for name in names))
        assert game.full_values is not None
        parts = [t.clone() for t in _parts(request.inputs, i)]
        return parts, game.full_values[i], settings

    def _check_memory_of_branches(
        self, estimators: Mapping[int, _Growing], budgets: Mapping[int, int], n_outputs: int
    ) -> None:
        """Raise unless all branches that the budget can open fit into memory."""
        each = 16 * n_outputs + _BYTES_OF_AN_EVALUATION
        most = 0
        for i, budget in budgets.items():
            if each * budget <= 2**27:  # a small budget fits any tree: counting takes time
                most += budget
            else:
                of_trees = self.n_trees * sum(t.n_coalitions for t in estimators[i].trees)
                most += int(min(budget, of_trees))
        check_memory(
            "budget",
            f"{said(most)} evaluations of {n_outputs:,} outputs",
            each * most,
            "Lower it (n_samples= or max_evals=), choose some outputs with outputs=, or fewer "
            "players.",
        )

    def _plant(self, bound: CoalitionInputs, i: int) -> tuple[list[PartitionTree], list[Grower]]:
        """The first trees of one example, and what grows the later ones."""
        n = bound.n_players[i]
        trees: list[PartitionTree] = []
        growers: list[Grower] = []
        for kind in _kinds(self.hierarchy):
            if isinstance(kind, PartitionTree):
                if kind.n != n:
                    raise bad("hierarchy", f"a linkage of {kind.n} leaves", f"{n}, the players")
                trees.append(kind)
                continue
            image, labels = _image_and_labels(bound, i, kind)
            grow = partial(_tree, kind, image, labels, self.compactness)
            trees.append(grow(None))
            growers.append(grow)
        # On few players, the kinds may give the same tree: once is enough.
        distinct: dict[bytes, PartitionTree] = {}
        for tree in trees:
            distinct.setdefault(tree.children.tobytes(), tree)
        return list(distinct.values()), growers * (self.n_trees - 1)


class _Growing:
    """The Owen values of one example: the empty coalition first, then what its forest asks."""

    def __init__(
        self,
        game: Game,
        i: int,
        budget: int,
        key: tuple[Any, ...],
        forest: OwenForest | None,
        trees: Sequence[PartitionTree] = (),
        growers: Sequence[Grower] = (),
    ) -> None:
        assert game.full_values is not None
        self.key, self.forest = key, forest
        self._n_players, self._budget = game.n_players[i], budget
        self._full, self._n_guides = game.full_values[i], game.request.n_guides
        self._trees, self._growers = list(trees), growers

    @property
    def trees(self) -> list[PartitionTree]:
        return self._trees if self.forest is None else [r.tree for r in self.forest.refiners]

    def ask(self, most: int) -> NDArray[np.bool_]:
        if self.forest is None:
            return np.zeros((1, self._n_players), dtype=bool)
        # What was spent on it in earlier calls counts.
        return self.forest.ask(min(most, self._budget - self.forest.n_coalitions))

    def tell(self, values: NDArray[np.float64]) -> None:
        if self.forest is not None:
            self.forest.tell(values)
        elif len(values):
            n_outputs = len(self._full)
            guides = range(n_outputs - self._n_guides, n_outputs) if self._n_guides else None
            weights = [1 / rank**2 for rank in range(1, self._n_guides + 1)] or None
            self.forest = OwenForest(
                self._trees, values[0], self._full, guides, weights, self._growers
            )

    def estimate(self) -> Estimate:
        if self.forest is None:
            raise bad("values", "none", "that of the empty coalition at least")
        return self.forest.estimate(len(self._full) - self._n_guides)


def _tree(
    kind: str,
    image: NDArray[Any],
    labels: NDArray[np.int64],
    compactness: float,
    values: NDArray[np.float64] | None,
) -> PartitionTree:
    """The tree of an image, which also looks at the players' values so far if there are any."""
    shown = None
    if values is not None:
        density = np.abs(values / np.bincount(labels.ravel()))[labels]
        typical = np.quantile(density, _TYPICAL) or density.max()
        if typical > 0:
            sign = np.sign(values)[labels]
            shown = sign * np.minimum(density / typical, 1)
            # In steps: rounding in the model, which depends on the batch, must not show.
            shown = np.round(255 * _SEEN * shown)
    if kind == "axis":
        return axis_tree(labels, values=shown)
    pixels = np.array_equal(labels.ravel(), np.arange(labels.size))
    return bpt_tree(image, None if pixels else labels, compactness=compactness, extra=shown)


def _kinds(hierarchy: Any) -> list[str | PartitionTree]:
    """The kinds of trees that a ``hierarchy`` stands for."""
    given = hierarchy if isinstance(hierarchy, list | tuple) else [hierarchy]
    if given and not isinstance(given[0], str | PartitionTree) and np.ndim(given[0]) == 1:
        given = [hierarchy]  # a linkage as a list of rows
    if not given:
        raise bad("hierarchy", "an empty list", "at least one tree")
    for kind in given:
        if isinstance(kind, str) and kind not in _KINDS:
            raise bad(
                "hierarchy", repr(kind), f"one of {_KINDS}, a linkage, a PartitionTree, or a list"
            )
    return [k if isinstance(k, str | PartitionTree) else linkage_tree(k) for k in given]


def _parts(bound: CoalitionInputs, i: int) -> list[torch.Tensor]:
    """What an example's values depend on, apart from the model."""
    parts = [x[i] for x in bound.inputs]
    parts += [b[:, i if b.shape[1] > 1 else 0] for b in bound.backgrounds]
    return parts + [m[i if len(m) > 1 else 0] for m in bound.labels]


def _same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    (tensors, full, settings), (others, other_full, other_settings) = one, other
    return bool(
        settings[:2] == other_settings[:2]
        and all(a is b for a, b in zip(settings[2:], other_settings[2:], strict=True))
        and len(tensors) == len(others)
        and all(
            a.shape == b.shape and torch.equal(a, b) for a, b in zip(tensors, others, strict=True)
        )
        and np.array_equal(full, other_full)
    )


def _image_and_labels(
    bound: CoalitionInputs, i: int, kind: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The image (H, W, C) of an example and its players (H, W)."""
    x = bound.inputs[0][i]
    labels = bound.labels[0][i if len(bound.labels[0]) > 1 else 0]
    if len(bound.inputs) == 1 and x.dim() == labels.dim() == 3:
        if len(labels) == 1 and labels.shape[1:] == x.shape[1:]:
            channel = 0
        elif labels.shape[2] == 1 and labels.shape[:2] == x.shape[:2]:
            channel = 2
        elif labels.shape == x.shape and bool((labels == labels[:1]).all()):
            channel = 0
        else:
            channel = -1
        if channel >= 0:
            image = x.movedim(channel, 2).detach().cpu()
            image = image.float() if image.dtype in (torch.bfloat16, torch.float16) else image
            return image.numpy(), labels.select(channel, 0).cpu().numpy()
    raise PatchShapError(
        f"hierarchy: got {kind!r} for inputs or players that are not one image (N, C, H, W) with a "
        "mask that all channels share; expected images. Give a scipy linkage over the players."
    )
