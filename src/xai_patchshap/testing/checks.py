"""The promises of an explainer, as checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from .promises import OF_TOYS, PROMISES, knows_games_of_all_coalitions
from .subject import Subject

__all__ = ["Check", "check_explainer", "explainer_checks"]


@dataclass(frozen=True)
class Check:
    """One promise; call it to have it checked, ``str`` names it.

    Attributes
    ----------
    name : str
        Such as ``"adds_up"``.
    promise : str
        What is promised.
    run : callable
        Raises an ``AssertionError`` that says how the promise is broken.
    """

    name: str
    promise: str
    run: Callable[[], None]

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        self.run()


def explainer_checks(
    explainer: Callable[..., Any],
    *,
    model: nn.Module | None = None,
    background: Any = 0.5,
    played: Callable[[Any], nn.Module] = lambda model: model,
    budget: int = 40,
    linear_budget: int = 40,
    shapley: bool = True,
) -> list[Check]:
    """The checks of :func:`check_explainer`, one by one, for a test of each.

    Parameters
    ----------
    explainer, model, background, played, budget, linear_budget, shapley
        As in :func:`check_explainer`.

    Examples
    --------
    With pytest::

        @pytest.mark.parametrize("check", explainer_checks(MyExplainer), ids=str)
        def test_promises(check):
            check()

    >>> from xai_patchshap import PatchKernelShap
    >>> print(*explainer_checks(PatchKernelShap)[:3], sep=", ")
    is_of_both_families, has_a_repr_to_read, saves_and_loads
    """
    s = Subject(explainer, model, background, played, budget, linear_budget, shapley)
    return [
        Check(check.__name__, inspect.getdoc(check) or "", partial(check, s))
        for check in PROMISES
        if not (check in OF_TOYS and model is not None)
        and (shapley or check is not knows_games_of_all_coalitions)
    ]


def check_explainer(explainer: Callable[..., Any], **options: Any) -> None:
    """Check that an explainer keeps the promises of Captum's face and of shap's.

    Parameters
    ----------
    explainer : class or callable
        A subclass of :class:`~xai_patchshap.PatchExplainer`, or what makes one, called as
        ``explainer(model, masker, **options)`` with the options that all explainers share.
    model : torch.nn.Module, optional
        For an explainer that needs a model of its own kind: one for images (N, 3, 12, 12) with 4
        outputs. By default small networks, and games with known answers besides.
    background : optional
        Of the masker; by default 0.5.
    played : callable
        Takes the model to the module whose evaluations count; by default the model itself.
    budget : int
        Evaluations of most checks, for 9 players.
    linear_budget : int
        Evaluations from which games without interactions are exact, for 9 players.
    shapley : bool
        Whether values are Shapley values, exact after all 512 coalitions.

    Raises
    ------
    AssertionError
        If a promise is broken. The message names every broken promise.

    Examples
    --------
    >>> from functools import partial
    >>> from xai_patchshap import PatchKernelShap
    >>> check_explainer(partial(PatchKernelShap, estimator="kernel-shap"))
    """
    broken: list[str] = []
    first: Exception | None = None
    for check in explainer_checks(explainer, **options):
        try:
            check()
        except Exception as error:
            said = str(error) if isinstance(error, AssertionError) else repr(error)
            broken.append(f"{check.name}: {said}")
            first = first or error
    if broken:
        raise AssertionError("broken promises:\n- " + "\n- ".join(broken)) from first
