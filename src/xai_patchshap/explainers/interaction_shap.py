"""InteractionShap: which patches work together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import shap
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._compat import unlogged
from ..errors import bad
from ..estimators import Interactions, Plan, interaction_estimator
from ..estimators.choose import INTERACTION_ESTIMATORS, count_interactions
from ..estimators.coalitions.sampled_pairs import check_sampling
from ..estimators.indices import EFFICIENT, check_index
from ..estimators.interactions.regression import check_regression
from ..targets.captum import plain_target
from ..targets.outputs import guides_of_a_process
from .base import PatchExplainer
from .captum_face import Attributed
from .explanations import MAX_BYTES, player_explanation

__all__ = ["InteractionShap"]


class InteractionShap(PatchExplainer):
    r"""Interactions between patches, superpixels or any groups of input elements.

    How much more two players (or three) are worth together than alone: positive where the
    model needs both, negative where one can stand in for the other. Exact when the budget
    reaches :math:`2^n` coalitions; otherwise by the posterior of a Gaussian process over
    coalitions, with standard deviations, or by regression as published. All outputs of the
    model are explained by the same evaluations.

    It is a :class:`captum.attr.PerturbationAttribution`, whose :meth:`attribute` gives the
    values of order 1, and a :class:`shap.Explainer`, which gives pairs as ``TreeExplainer``
    does. :meth:`explain_interactions` gives every order.

    Parameters
    ----------
    model : torch.nn.Module or callable
        As for :class:`PatchKernelShap`.
    masker : PatchMasker or background, optional
        As for :class:`PatchKernelShap`.
    link : callable
        shap's link function, applied to the values of the game.
    output_names : sequence of str, optional
        One name for each output.
    feature_names : sequence of str, optional
        Names of the players.
    seed : int or None
        Chooses the coalitions.
    autocast : torch.dtype, optional
        Run a model that is a module under ``torch.autocast``.
    index : {"SII", "k-SII", "STII", "FSII", "FBII", "BII", "SV", "BV"}
        The interaction index; :mod:`xai_patchshap.estimators.indices` has the
        definitions. SII, the default: order 1 are the Shapley values, order 2 their
        interactions. k-SII: the same pairs, with order 1 the main effects that remain when
        pairs are taken out, so that all values add up. STII, FSII: other ways to add up;
        the values of FSII are the polynomial that fits the game best. FBII, BII, BV: with
        equal weights of all coalitions, without adding up.
    order : int
        Highest order, 1 or more; sampled, 2 or 3 is what budgets reach.
    estimator : {"auto", "gaussian-process", "regression"}
        For budgets below :math:`2^n`; see :func:`~xai_patchshap.estimators.interaction_estimator`.
    sampling : {"a-optimal", "modified_l2", "leverage", "kernel"}, optional
        How coalitions are chosen; by default as suits the estimator. ``"a-optimal"`` is for
        the Gaussian process; see :class:`~xai_patchshap.estimators.DesignedPairs`.

    Raises
    ------
    PatchShapError
        If an argument does not fit.

    Notes
    -----
    What the Gaussian process learns comes from the 16 outputs of highest score, whichever are
    explained, in proportion to how much they vary: outputs of unlike units, as of several
    heads, are better explained by themselves, as models of one head. Of a thousand classes,
    choose some with ``outputs=``: pairs take memory.

    Pairs are interaction indices as published, as TreeExplainer's are; those of
    ``shap.ExactExplainer(...)(x, interactions=2)`` are weighted otherwise.

    Examples
    --------
    >>> import torch
    >>> from xai_patchshap import InteractionShap, PatchMasker
    >>> def model(x):  # needs the two upper corners together
    ...     return x[:, 0, 0, 0] * x[:, 0, 0, -1] + x[:, 0, -1, 0]
    >>> images = torch.ones(1, 3, 8, 8)
    >>> explainer = InteractionShap(model, PatchMasker(players=(3, 3)))
    >>> explanation = explainer(images, silent=True)
    >>> explanation.values.shape
    (1, 9, 9)
    >>> interactions = explainer.explain_interactions(images, silent=True)[0]
    >>> interactions.top(1, order=2)[0][0]  # the players
    (0, 2)
    """

    _few_per_player = 4

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
        index: str = "SII",
        order: int = 2,
        estimator: str = "auto",
        sampling: str | None = None,
    ) -> None:
        check_index(index, order)
        if estimator != "auto" and estimator not in INTERACTION_ESTIMATORS:
            raise bad("estimator", repr(estimator), f"'auto' or one of {INTERACTION_ESTIMATORS}")
        if estimator == "regression":
            check_regression(index, order)
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
        self.index, self.order = index, int(order)
        self.estimator, self.sampling = estimator, sampling

    @classmethod
    def get_name(cls) -> str:
        """Name in Captum's progress bars."""
        return "Interaction Shap"

    def _options(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("index", "order", "estimator", "sampling")}
        return {**super()._options(), **own}

    def _auto_budget(self, n_players: int) -> int:
        return int(min(2 ** min(n_players, 60), max(1000, 20 * n_players)))

    def _plan(self, n_players: int, budget: int, seed: int) -> Plan:
        return interaction_estimator(
            n_players, budget, self.index, self.order, self.estimator, seed, self.sampling
        )

    def _guide_columns(self, full: NDArray[np.float64]) -> NDArray[np.int64] | None:
        return guides_of_a_process(full, self.estimator)

    def _report(self, estimators: Sequence[Any]) -> dict[str, list[Any]]:
        found: list[Interactions] = [e.estimate() for e in estimators]
        return {"estimates": [f.of_order_1() for f in found], "interactions": found}

    def _numbers_per_output(self, n_players: int) -> int:
        # Values and errors; the faces make matrices of the pairs, and may return their errors.
        return 4 * count_interactions(n_players, self.order) + 2 * n_players**2

    # ----- Captum ------------------------------------------------------------------------

    @unlogged
    def attribute(
        self,
        inputs: Any,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
        return_convergence_delta: bool = False,
        return_interactions: bool = False,
    ) -> Any:
        """Values of order 1, as Captum's ``KernelShap.attribute`` returns attributions.

        Takes the arguments of :meth:`PatchKernelShap.attribute` and one more. With the
        default index the attributions are the Shapley values of the players.

        Parameters
        ----------
        return_convergence_delta : bool
            Whether to return the sum of what adds up, minus
            ``f(inputs) - f(baselines)``, too: with SII the values of order 1, otherwise
            those of all orders. Zero up to rounding but for BII, FBII and BV.
        return_interactions : bool
            Whether to return the pairs too.

        Returns
        -------
        attributions : Tensor or tuple of Tensor
        delta : Tensor of shape (N,)
            Only if asked for.
        interactions : Tensor of shape (N, M, M), float64
            Only if asked for; see :meth:`Interactions.matrix`. Zeros for ids of the feature
            mask that an example lacks.
        """
        asked = self._asked(
            inputs,
            baselines,
            additional_forward_args,
            feature_mask,
            n_samples,
            perturbations_per_eval,
        )
        found = self._attributed(replace(asked, target=plain_target(target)), show_progress)
        self.last_run = found.run
        results = [found.attributions(isinstance(inputs, tuple), return_input_shape)]
        if return_convergence_delta:
            gaps = [_total(f) - (f.full_values - f.base_values)[0] for f in found.run.interactions]
            results.append(torch.tensor(gaps, dtype=torch.float32, device=found.inputs[0].device))
        if return_interactions:
            results.append(_matrices(found))
        return tuple(results) if len(results) > 1 else results[0]

    def compute_convergence_delta(
        self,
        attributions: Any,
        start_point: Any,
        end_point: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
    ) -> Tensor:
        """Of an index whose values of order 1 add up by themselves.

        Takes the arguments of :meth:`PatchKernelShap.compute_convergence_delta`.
        """
        if not (self.index in ("SII", "SV") or (self.index in EFFICIENT and self.order == 1)):
            raise bad(
                "compute_convergence_delta",
                f"index {self.index!r} of order {self.order}",
                "SII, SV or order 1: other attributions do not add up without their interactions",
                "attribute(..., return_convergence_delta=True) takes them into account.",
            )
        return super().compute_convergence_delta(
            attributions, start_point, end_point, target, additional_forward_args, feature_mask
        )

    # ----- shap --------------------------------------------------------------------------

    def __call__(
        self,
        *args: Any,
        max_evals: int | str = "auto",
        main_effects: bool = False,
        error_bounds: bool = False,
        batch_size: int | str = "auto",
        outputs: Any = None,
        silent: bool = False,
        **kwargs: Any,
    ) -> shap.Explanation:
        """Pairs of players, shaped as ``TreeExplainer``'s interaction values.

        Takes the arguments of :meth:`PatchKernelShap.__call__`.

        Returns
        -------
        shap.Explanation
            ``values`` (N, P, P, K) for P players and K outputs (no K for a model with a
            single output): half of each pair's interaction in each of its two places, main
            effects on the diagonal; see :meth:`Interactions.matrix` for what the rows add up
            to. ``data`` (N, P) is the mean intensity of each player. ``error_std``, if asked
            for, is that of the pairs, and on the diagonal that of the values of order 1.
        """
        if main_effects or kwargs:
            name = next(iter(kwargs), "main_effects")
            raise bad(
                "arguments",
                name,
                "only max_evals, error_bounds, batch_size, outputs and silent",
                "Main effects are on the diagonal of the values.",
            )
        result = self._explain(args, max_evals, batch_size, outputs, silent, per_player=True)
        self._remember(result)
        found = result.run.interactions
        matrices = [f.matrix() for f in found]
        stds = [f.matrix_std() for f in found] if error_bounds else None
        return player_explanation(result, self.feature_names, matrices, stds)

    def shap_interaction_values(
        self,
        x: Any,
        *,
        max_evals: int | str = "auto",
        batch_size: int | str = "auto",
        outputs: Any = None,
        silent: bool = True,
    ) -> NDArray[Any]:
        """The values of :meth:`__call__`, as ``TreeExplainer.shap_interaction_values``."""
        explanation = self(
            x, max_evals=max_evals, batch_size=batch_size, outputs=outputs, silent=silent
        )
        return np.asarray(explanation.values)

    def explain_interactions(
        self,
        x: Any,
        *,
        max_evals: int | str = "auto",
        batch_size: int | str = "auto",
        outputs: Any = None,
        silent: bool = False,
    ) -> list[Interactions]:
        """Interactions of every order and output, one object for each example.

        Takes the arguments of :meth:`__call__`.
        """
        result = self._explain((x,), max_evals, batch_size, outputs, silent, per_player=True)
        self._remember(result)
        return result.run.interactions


def _matrices(found: Attributed) -> Tensor:
    """Pairs (N, M, M) of the ids of a feature mask, for the first output."""
    n, m = len(found.ids), 1 + max(int(ids.max()) for ids in found.ids)
    if n * m**2 * 8 > MAX_BYTES:
        raise bad(
            "feature_mask",
            f"ids up to {m - 1}, whose pairs take {n * m**2 / 2**27:.1f} GiB",
            f"at most {MAX_BYTES / 2**30:g} GiB",
            "last_run.interactions has the interactions of the players that occur.",
        )
    table = np.zeros((n, m, m))
    for row, ids, interactions in zip(table, found.ids, found.run.interactions, strict=True):
        row[np.ix_(ids, ids)] = interactions.matrix()[:, :, 0]
    return torch.from_numpy(table).to(found.inputs[0].device)


def _total(found: Interactions) -> float:
    """Sum of what adds up, for the first output."""
    orders = found.values[:1] if found.index in ("SII", "BII") else found.values
    return float(sum(values[:, 0].sum() for values in orders))
