"""PatchKernelShap: Shapley values of patches by regression sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shap
import torch
from numpy.typing import NDArray

from .._validation import checked, finite, maybe, one_of
from ..estimators import Plan, shapley_estimator
from ..estimators.choose import SHAPLEY_ESTIMATORS
from ..estimators.coalitions.sampled_pairs import check_sampling
from ..targets.outputs import guides_of_a_process
from .base import PatchExplainer

__all__ = ["PatchKernelShap"]


class PatchKernelShap(PatchExplainer):
    r"""Shapley values of patches, superpixels or any groups of input elements.

    Exact when the budget reaches :math:`2^n` coalitions; otherwise a regression on pairs of
    coalitions, with standard errors: on a Gaussian process over coalitions, or linear, which is
    KernelSHAP (Lundberg & Lee, NeurIPS 2017, theorem 2); see ``estimator``. All outputs of the
    model are explained for the evaluations of one.

    It is a :class:`captum.attr.PerturbationAttribution` (:meth:`attribute`) and a
    :class:`shap.Explainer` (:meth:`__call__`, :meth:`shap_values`,
    :meth:`explain_players`).

    Parameters
    ----------
    model : torch.nn.Module or callable
        Maps a batch to outputs (B, K) or (B,). A module runs in evaluation mode and
        without gradients, on its own device, and is left as it was; a function around a
        module sees to its mode itself.
    masker : PatchMasker or background, optional
        Players and background. By default hidden elements are 0; see
        :class:`PatchMasker` for the default players.
    link : callable
        shap's link function, applied to the values of the game.
    output_names : sequence of str, optional
        One name for each output.
    feature_names : sequence of str, optional
        Names of the players, for :meth:`explain_players`.
    seed : int or None
        Chooses the coalitions; the same seed gives the same numbers whatever the batch
        size. ``None`` draws fresh ones every time.
    autocast : torch.dtype, optional
        Run a model that is a module under ``torch.autocast``, as in ``torch.bfloat16``.
    estimator : {"auto", "gaussian-process", "kernel-shap"}
        How values are read from the sample. The Gaussian process
        (:class:`~xai_patchshap.estimators.GaussianProcessShap`) needs far fewer evaluations for
        the same error, and a fraction of a second for all outputs; it learns what they depend on
        from the 16 of highest score, whichever are explained, in proportion to how much they
        vary (heads of unlike units are better explained as models of their own).
        :class:`~xai_patchshap.estimators.KernelShap` takes no time at all for hundreds of players,
        which pays for models that are faster still. ``"auto"`` is the former up to 256 players
        and 8,192 evaluations, and the latter beyond.
    sampling : {"a-optimal", "modified_l2", "leverage", "kernel"}, optional
        How coalitions are chosen; by default as suits the estimator. ``"a-optimal"``
        (:class:`~xai_patchshap.estimators.DesignedPairs`) is for the Gaussian process, the others
        (:class:`~xai_patchshap.estimators.PairSampler`) for both.
    tolerance : float, optional
        Stop before the budget is spent once the largest standard error of an example's
        explained outputs is at most this. As one standard error it is no bound: about one
        value in three is further off.

    Attributes
    ----------
    last_run : Run or None
        Evaluations, times and :class:`~xai_patchshap.estimators.Estimate` objects, with
        standard errors, of the last explanation.
    expected_value : ndarray (K,) or float, or None before the first call
        Value of the empty coalition for the outputs that were explained last, averaged
        over the examples.

    Raises
    ------
    PatchShapError
        If an argument does not fit.

    Examples
    --------
    >>> import torch
    >>> from xai_patchshap import PatchKernelShap, PatchMasker
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    >>> images = torch.rand(2, 3, 32, 32)

    As a Captum attribution:

    >>> attributions = PatchKernelShap(model).attribute(images, target=3, n_samples=200)
    >>> attributions.shape
    torch.Size([2, 3, 32, 32])

    As a shap explainer:

    >>> explainer = PatchKernelShap(model, PatchMasker(players=(4, 4), background="blur"))
    >>> explanation = explainer(images, max_evals=200, silent=True)
    >>> explanation.values.shape  # channels last, ready for shap.image_plot
    (2, 32, 32, 3, 10)
    >>> explainer.explain_players(images, max_evals=200, silent=True).error_std.shape
    (2, 16, 10)
    """

    _few_per_player = 4

    @checked(estimator=one_of(*SHAPLEY_ESTIMATORS), tolerance=maybe(finite(above=0)))
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
        estimator: str = "auto",
        sampling: str | None = None,
        tolerance: float | None = None,
    ) -> None:
        check_sampling(sampling, estimator)
        super().__init__(
            model,
            masker,
            link=link,
            output_names=output_names,
            feature_names=feature_names,
            seed=seed,
            autocast=autocast,
        )
        self.sampling, self.tolerance, self.estimator = sampling, tolerance, estimator

    @classmethod
    def get_name(cls) -> str:
        """Name in Captum's progress bars."""
        return "Patch Kernel Shap"

    def _options(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("estimator", "sampling", "tolerance")}
        return {**super()._options(), **own}

    def _plan(self, n_players: int, budget: int, seed: int) -> Plan:
        return shapley_estimator(n_players, budget, seed, self.sampling, self.estimator)

    def _guide_columns(self, full: NDArray[np.float64]) -> NDArray[np.int64] | None:
        return guides_of_a_process(full, self.estimator)
