"""Which explainer network to train, and what it is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..._validation import check_memory, checked, one_of, said, whole
from ...errors import bad
from ..network import ShapleyViT
from .digests import code_digest, model_digest

__all__ = ["OBJECTIVES", "Recipe"]

OBJECTIVES = ("fastshap", "labels")


@checked(objective=one_of(*OBJECTIVES), n_pairs=whole(1))
@dataclass(frozen=True)
class Recipe:
    """Which explainer network to train, and what it is fitted to.

    Attributes
    ----------
    objective : {"fastshap", "labels"}
        ``"fastshap"``: weighted least squares on pairs of coalitions of the Shapley kernel
        (Jethani et al., ICLR 2022; Covert, Kim & Lee, ICLR 2023, equation 7).
        ``"labels"``: squared distance to cheap unbiased KernelSHAP labels (Covert et
        al., NeurIPS 2024), made once from ``n_pairs`` and kept on disk.
    n_pairs : int
        Pairs of a coalition and its complement for each image.
    fresh : bool
        With ``"fastshap"``: draw and evaluate new pairs in every step, as published; or else
        once for each image, with their values kept on disk. Evaluations of the surrogate are
        most of the price of a step: kept, they serve every epoch.
    n_frozen, n_extra, probability, taps
        As in :class:`ShapleyViT`.
    predicts : {"game", "values"}, optional
        As in :class:`ShapleyViT`: by default ``"game"``, which learns more from as many
        coalitions, and ``"values"`` for ``"labels"``, which are of no coalitions.
    evaluate : callable, optional
        A faster copy of the surrogate, compiled or quantised: from images (B, C, H, W) and
        coalitions, bool (B, m, n), to logits (B, m, K), up to 128 images at once. For values
        that are kept on disk; validation is by the surrogate itself.
    keep_tokens : bool
        Keep what the frozen blocks make of each image on disk, in half precision, and save
        every epoch that pass: 2 (taps + 1) (tokens) (width) bytes for each image. With
        ``fresh=False`` or ``"labels"``.
    start : ShapleyViT, optional
        A trained network whose weights to begin with; see :meth:`ShapleyViT.begin_from`.
        They are kept if training makes none that are better.

    Raises
    ------
    PatchShapError
        If two of these do not go together.

    Examples
    --------
    >>> Recipe(n_pairs=8, fresh=False, taps=(2, 4)).objective
    'fastshap'
    """

    objective: str = "fastshap"
    n_pairs: int = 16
    fresh: bool = True
    n_frozen: int | None = None
    n_extra: int = 1
    probability: bool = True
    predicts: str | None = None
    taps: Sequence[int] = ()
    evaluate: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, repr=False)
    keep_tokens: bool = False
    start: ShapleyViT | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.objective == "fastshap" and self.fresh:
            for name in ("keep_tokens", "evaluate"):
                if getattr(self, name):
                    raise bad(name, "fresh=True beside it", "fresh=False: values kept on disk")
        if self.predicts == "game" and self.objective == "labels":
            came = "'game' with objective='labels'"
            raise bad("predicts", came, "'values', or objective='fastshap'")

    def network(self, surrogate: nn.Module, seed: int) -> ShapleyViT:
        """The network to train, as it begins."""
        network = ShapleyViT(
            surrogate,
            n_frozen=self.n_frozen,
            n_extra=self.n_extra,
            probability=self.probability,
            seed=seed,
            predicts=self.predicts or {"fastshap": "game", "labels": "values"}[self.objective],
            taps=self.taps,
        )
        if self.start is not None:
            network.begin_from(self.start)
        check_memory(
            "n_pairs",
            f"{said(self.n_pairs)} pairs for each image",
            8 * self.n_pairs * network.n_players,
            "Choose fewer pairs.",
        )
        return network

    def settings(self, network: ShapleyViT) -> dict[str, Any]:
        """What the result of a run depends on, for its state and its card."""
        found: dict[str, Any] = {
            "objective": self.objective,
            "n_pairs": self.n_pairs,
            "fresh": self.fresh,
            "n_frozen": network.n_frozen,
            "n_extra": network.n_extra,
            "predicts": network.predicts,
            "taps": list(network.taps),
        }
        if self.keep_tokens:
            found["keep_tokens"] = True
        if self.evaluate is not None:
            found["evaluate"] = code_digest(self.evaluate)
        if self.start is not None:
            found["start"] = model_digest(self.start.trained())
        return found
