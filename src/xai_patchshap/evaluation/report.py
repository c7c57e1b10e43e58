"""How good the explanations of a network are, beside those of other methods.

The protocol is that of Covert, Kim & Lee (Learning to estimate Shapley values with vision
transformers, ICLR 2023, section 5): insertion, deletion, sensitivity-n and faithfulness, for
the class that is predicted and for another one; and, since Shapley values can be had at a
price, the agreement with these.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from tqdm.auto import tqdm

from .._files import write_atomically
from .._typing import Bools, Floats
from .._validation import checked, whole
from ..amortized import ShapleyViT, explained_variance, per_image_correlation
from ..errors import bad
from ..explainers.methods import check_method
from ..masking.patch_masker import PatchMasker
from ..masking.token_dropping import TokenDropping
from ..models.outputs import as_scores
from .compare import SCORES, Protocol, Scorer, mean_of, table
from .curves import Curve
from .image_games import ImageGames
from .network_methods import (
    METHODS,
    Explanations,
    Linked,
    estimated_reference,
    known_reference,
)

__all__ = ["QualityReport", "quality_report"]

_CLASSES = ("target", "non-target")
_HEADINGS = ("R2", "Correlation", "Insertion", "Deletion", "Sensitivity-n", "Faithfulness")
_SCORES = ("r2", "correlation", *SCORES)
_ROUNDING = 1e-12  # a spread below this share of the largest number is rounding


@dataclass(frozen=True)
class QualityReport:
    """Scores of explanation methods, means over images.

    Attributes
    ----------
    rows : list of dict
        One for each method, class and scorer: ``method``, ``evaluations`` (passes through a
        model for each image; ``None`` for a reference that was given), ``class`` ("target" or
        "non-target"), ``scorer`` ("surrogate" or "classifier"), and the scores, ``None`` where
        undefined: ``r2`` and ``correlation`` (with the Shapley values of the surrogate, hence
        in its rows only; R2 says something of methods in the units of Shapley values alone),
        ``insertion`` (high is good), ``deletion`` (low is good), ``sensitivity_n`` and
        ``faithfulness``.
    settings : dict
        What the scores depend on.

    Examples
    --------
    >>> scores = dict.fromkeys(("r2", "correlation", "insertion", "deletion"), 0.5)
    >>> row = {"method": "random", "evaluations": 0, "class": "target", "scorer": "surrogate"}
    >>> row |= scores | {"sensitivity_n": 0.1, "faithfulness": None}
    >>> print(QualityReport([row], {}).as_table().replace(" ", ""))
    Targetclass,scoredbythesurrogate
    <BLANKLINE>
    |Method|Evaluations|R2|Correlation|Insertion|Deletion|Sensitivity-n|Faithfulness|
    |------|----------:|----:|----------:|--------:|-------:|------------:|-----------:|
    |random|0|0.500|0.500|0.500|0.500|0.100|-|
    """

    rows: list[dict[str, Any]]
    settings: dict[str, Any]

    def as_table(self) -> str:
        """Markdown tables, one for each class and scorer, that read well as plain text."""
        return "\n\n".join(
            f"{kind.capitalize()} class, scored by the {scorer}\n\n{_table(rows)}"
            for scorer in ("surrogate", "classifier")
            for kind in _CLASSES
            if (rows := [r for r in self.rows if (r["class"], r["scorer"]) == (kind, scorer)])
        )

    def save(self, path: str | Path) -> None:
        """Write ``settings`` and ``rows`` as JSON."""
        content = {"settings": self.settings, "rows": self.rows}
        write_atomically(Path(path), json.dumps(content, indent=1, allow_nan=False).encode())


@checked(reference_budget=whole(2), n_coalitions=whole(2), seed=whole(0), batch_size=whole(1))
def quality_report(
    network: ShapleyViT,
    images: Tensor,
    *,
    classifier: nn.Module | None = None,
    methods: Sequence[str] | None = None,
    reference: ArrayLike | None = None,
    reference_budget: int = 4096,
    budgets: Sequence[int] = (64, 128, 512),
    n_coalitions: int = 1000,
    targets: str | Tensor = "predicted",
    seed: int = 0,
    batch_size: int = 512,
    autocast: torch.dtype | None = None,
    progress: bool = True,
) -> QualityReport:
    """Score the network's explanations and those of other methods.

    Insertion and deletion are means of a class's value with the k patches of the highest
    attribution kept or removed, over k = 0..n; ties are broken at random. Sensitivity-n is
    averaged over the sizes n/4, n/2 and 3n/4; see :mod:`xai_patchshap.evaluation`. An
    image whose values are constant has no part in the means of these two.

    Parameters
    ----------
    network : ShapleyViT
        In evaluation mode. It is not modified.
    images : Tensor (N, C, H, W)
        As the surrogate takes them, best ones that neither training nor calibration saw.
    classifier : torch.nn.Module, optional
        The model behind the surrogate, from images to logits (B, K), a vision transformer with
        the same patches. It scores the same attributions a second time, with tokens dropped;
        hidden patches are strange to it.
    methods : sequence of str, optional
        All of ``xai_patchshap.evaluation.network_methods.METHODS`` by default. ``"reference"``
        are the Shapley values themselves, ``"vit_shapley_amortized"`` the predictions,
        ``"refined"`` the predictions with KernelSHAP's samples and the network's ridge,
        ``"kernel_shap"`` those samples alone. ``"rise"`` gets the largest of the budgets. See
        :func:`xai_patchshap.evaluation.compare_methods` for the others; gradients are those of the
        surrogate on whole images, in units of the game.
    reference : array_like (N, patches, K), optional
        Shapley values of the surrogate's game; by default KernelSHAP's from
        ``reference_budget`` evaluations.
    reference_budget : int
    budgets : sequence of int
        Evaluations for each image of KernelSHAP and of refinements.
    n_coalitions : int
        Coalitions of each size for sensitivity-n, and coalitions for faithfulness.
    targets : "predicted" or Tensor of int64 (N,)
        The target classes: those that the surrogate predicts, or others, such as labels. The
        non-target class of each image is drawn from the others; with one output there is none.
    seed : int
        Of all that is drawn. The global random states stay as they are.
    batch_size : int
        Most images in one pass, an eighth of it where gradients or attention are computed.
    autocast : torch.dtype, optional
        Precision of the evaluations of coalitions.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    QualityReport

    Raises
    ------
    PatchShapError
        If an argument is not as above, or a model is in training mode.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64, num_classes=5)
    >>> network = ShapleyViT(vit).eval()
    >>> report = quality_report(
    ...     network, torch.rand(2, 3, 64, 64), methods=["vit_shapley_amortized", "last_attention"],
    ...     reference_budget=64, n_coalitions=10, progress=False,
    ... )
    >>> [(row["method"], row["class"]) for row in report.rows[1:3]]
    [('vit_shapley_amortized', 'non-target'), ('last_attention', 'target')]
    """
    wanted, budgets = tuple(METHODS if methods is None else methods), tuple(budgets)
    _check(network, images, classifier, wanted, budgets)
    images = images.to(network.null.device)
    known = None if reference is None else known_reference(reference, network, images)
    classes = _classes(network, images, targets, seed, batch_size)
    play = {
        scorer: ImageGames(
            model, PatchMasker(background="drop"), images, classes.cpu().numpy(),
            batch_size=batch_size, autocast=autocast,
        )
        for scorer, model in _scorers(network, classifier, images).items()
    }  # fmt: skip
    n = network.n_players
    sizes = sorted({max(1, n * quarters // 4) for quarters in (1, 2, 3)})
    protocol = Protocol(n, "random", _mean_value, sizes, n_coalitions, seed)
    with tqdm(total=len(wanted) + len(play) + 1, disable=not progress, desc="reference") as bar:
        if known is None:
            known = estimated_reference(
                network, images, reference_budget, seed, batch_size, autocast
            )
        truth = np.take_along_axis(known, classes.cpu().numpy()[:, None], axis=2)
        bar.update()
        scorers = {}
        for scorer, game in play.items():
            bar.set_description(f"coalitions ({scorer})")
            scorers[scorer] = Scorer(game, protocol)
            bar.update()
        cost = reference_budget if reference is None else None
        made = Explanations(network, play["surrogate"], truth, cost, budgets, seed)
        rows = []
        for method in wanted:
            bar.set_description(method)
            for found in made.of(method):
                rows += _rows(*found, truth, scorers)
            bar.update()
    settings = {
        "images": len(images), "patches": n, "outputs": network.n_outputs,
        "probability": network.probability, "ridge": network.ridge,
        "reference": "given" if cost is None else cost,
        "targets": "predicted" if isinstance(targets, str) else "given",
        "sizes": sizes, "coalitions": n_coalitions, "seed": seed,
    }  # fmt: skip
    return QualityReport(rows, settings)


def _scorers(
    network: ShapleyViT, classifier: nn.Module | None, images: Tensor
) -> dict[str, Linked]:
    """The models that score, in the units of the network's game."""
    scorers = {"surrogate": Linked(network, network.surrogate)}
    if classifier is not None:
        scorers["classifier"] = Linked(network, _dropping(network, classifier, images))
    return scorers


def _mean_value(curve: Curve) -> float:
    return float(curve.values.mean())


def _rows(
    label: str,
    evaluations: int | None,
    phi: Floats,
    truth: Floats,
    scorers: dict[str, Scorer],
) -> list[dict[str, Any]]:
    """One row for each scorer and class, of attributions (N, n, k)."""
    rows: list[dict[str, Any]] = []
    for scorer, score in scorers.items():
        found = score(phi)
        for c, kind in enumerate(_CLASSES[: phi.shape[2]]):
            r2, correlation = None, None
            if scorer == "surrogate":
                r2, correlation = _agreement(phi[..., c], truth[..., c])
            rows.append({
                "method": label, "evaluations": evaluations, "class": kind, "scorer": scorer,
                "r2": r2, "correlation": correlation,
                **{name: mean_of(found[name][..., c]) for name in SCORES},
            })  # fmt: skip
    return rows


def _agreement(phi: Floats, truth: Floats) -> tuple[float | None, float | None]:
    """R2 and mean correlation with Shapley values (N, n); equal attributions correlate by 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = explained_variance(phi, truth)
        found = per_image_correlation(phi, truth)
    found = np.where(_constant(phi), 0.0, found)
    return mean_of(np.array(r2)), mean_of(np.where(_constant(truth), np.nan, found))


def _constant(x: Floats) -> Bools:
    return np.asarray(np.ptp(x, axis=1) <= _ROUNDING * np.abs(x).max(axis=1))


def _check(
    network: ShapleyViT,
    images: Tensor,
    classifier: nn.Module | None,
    methods: tuple[str, ...],
    budgets: tuple[int, ...],
) -> None:
    shape = (network.n_channels, *network.image_size)
    if images.dim() != 4 or not len(images) or tuple(images.shape[1:]) != shape:
        raise bad(
            "images",
            f"shape {tuple(images.shape)}",
            f"(N, {', '.join(map(str, shape))}) with at least one image, as the network takes them",
        )
    if not methods:
        raise bad("methods", "none", f"some of {', '.join(METHODS)}")
    for method in methods:
        check_method("methods", method, known=METHODS)
    if not budgets:
        raise bad("budgets", "none", "at least one")
    for budget in budgets:
        whole(2)("budgets", budget)
    for what, model in (("network", network), ("classifier", classifier)):
        if model is not None and any(part.training for part in model.modules()):
            raise bad(what, "a model in training mode", "evaluation mode", f"Call {what}.eval().")


def _classes(
    network: ShapleyViT, images: Tensor, targets: str | Tensor, seed: int, batch_size: int
) -> Tensor:
    """Target and non-target class of each image, (N, 2), or (N, 1) where there is one output."""
    n, k = len(images), network.n_outputs
    if isinstance(targets, str):
        if targets != "predicted":
            raise bad("targets", repr(targets), "'predicted', or a tensor of classes (N,)")
        with torch.no_grad():
            parts = [
                network.surrogate.model(x.clone()).argmax(1)  # a model may write into its input
                for x in torch.split(images, batch_size)
            ]
        target = torch.cat(parts)
    else:
        fits = targets.shape == (n,) and not targets.is_floating_point()
        if not fits or not bool(((targets >= 0) & (targets < k)).all()):
            raise bad(
                "targets",
                f"{targets.dtype} of shape {tuple(targets.shape)}",
                f"whole numbers from 0 to {k - 1}, one for each of the {n} images",
            )
        target = targets.to(images.device, torch.int64)
    if k == 1:
        return target[:, None]
    further = torch.tensor(np.random.default_rng([seed, 3]).integers(1, k, n))
    return torch.stack([target, (target + further.to(target)) % k], dim=1)


def _dropping(network: ShapleyViT, classifier: nn.Module, images: Tensor) -> TokenDropping:
    """The classifier, which drops the tokens of hidden patches."""
    dropping = TokenDropping(classifier)
    if dropping.patch_size != network.surrogate.patch_size:
        size = network.surrogate.patch_size
        raise bad(
            "classifier", f"patches of {dropping.patch_size} pixels", f"{size}, the network's"
        )
    with torch.no_grad():
        shape = tuple(as_scores(classifier(images[:1].clone())).shape)
    if shape != (1, network.n_outputs):
        raise bad("classifier", f"outputs {shape}", f"(1, {network.n_outputs}) for one image")
    return dropping


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [["Method", "Evaluations", *_HEADINGS]]
    lines += [[r["method"], _text(r["evaluations"]), *(_text(r[s]) for s in _SCORES)] for r in rows]
    return table(lines, markdown=True)


def _text(score: float | None) -> str:
    if score is None or isinstance(score, int):
        return "-" if score is None else str(score)
    return f"{score:.3f}" if abs(score) < 1000 else f"{score:.1e}"
