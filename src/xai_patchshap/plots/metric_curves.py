"""Insertion and deletion curves of several methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike, NDArray

from ..errors import bad
from .canvas import new_figure

__all__ = ["CurveLike", "metric_curves"]

# Colours of Okabe and Ito, which the colour-blind tell apart too, without their yellow.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
_STYLES = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
_BETTER = {"insertion": "higher", "deletion": "lower"}


class CurveLike(Protocol):
    """What is drawn: a curve of an insertion or deletion game."""

    @property
    def fractions(self) -> ArrayLike: ...
    @property
    def values(self) -> ArrayLike: ...
    @property
    def kind(self) -> str: ...
    @property
    def base_value(self) -> float: ...
    @property
    def full_value(self) -> float: ...
    @property
    def auc(self) -> Callable[..., float]: ...


def metric_curves(
    curves: Mapping[str, Sequence[CurveLike]],
    *,
    title: str = "",
    label: str = "model output $v$",
    rescaled: bool = False,
    form: str = "clipped",
) -> Figure:
    r"""Insertion and deletion curves of several methods, with their areas.

    Parameters
    ----------
    curves : mapping of str to sequence of curves
        By name of the method, its insertion curve, its deletion curve, or both. A curve has
        the attributes ``fractions`` and ``values``, both (S,), ``kind``, ``base_value`` and
        ``full_value``, and the method ``auc(form=..., rescaled=True)``.
    title : str
        Title of the picture.
    label : str
        What the curves show, unless they are rescaled.
    rescaled : bool
        Draw :math:`(v - v(\emptyset)) / (v(N) - v(\emptyset))` in place of :math:`v`. The
        areas in the legends are those of rescaled curves either way.
    form : str
        Form of the area, as the curves' ``auc`` takes it; the legends name it.

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each kind of curve there is, insertion first.

    Raises
    ------
    PatchShapError
        If there is no curve, a kind is unknown or there twice, lengths differ, or values of
        the empty and the full photograph differ between curves that are not rescaled. What
        ``auc`` raises, for example where these two values are equal, is passed on.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> curve = SimpleNamespace(
    ...     kind="insertion", fractions=[0, 0.5, 1], values=[0.1, 0.8, 0.9],
    ...     base_value=0.1, full_value=0.9, auc=lambda form, rescaled: 0.69,
    ... )
    >>> figure = metric_curves({"mine": [curve]})
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['mine: 0.690']
    """
    by_kind = _by_kind(curves)
    drawn = [c for of_kind in by_kind.values() for c in of_kind.values()]
    if rescaled:
        low, high = 0.0, 1.0
    else:
        low, high = _common_ends(drawn)
    figure = new_figure(4.2 * len(by_kind) + 0.6, 3.5 + 0.22 * len(curves) + 0.3 * bool(title))
    panels: list[Any] = list(figure.subplots(1, len(by_kind), squeeze=False, sharey=True)[0])
    below = ScaledTranslation(0, -0.5, figure.dpi_scale_trans)  # past the label of the axis
    for panel, (kind, of_kind) in zip(panels, by_kind.items(), strict=True):
        _marks(panel, low, high)
        for place, name in enumerate(curves):  # one look for a method in all panels
            if name not in of_kind:
                continue
            curve = of_kind[name]
            x, y = _points(name, curve, rescaled)
            panel.plot(
                x,
                y,
                color=_COLORS[place % len(_COLORS)],
                linestyle=_STYLES[place % len(_STYLES)],
                linewidth=1.8,
                label=f"{name}: {float(curve.auc(form=form, rescaled=True)):.3f}",
            )
        panel.set_title(kind.capitalize(), fontsize=12)
        done = "inserted" if kind == "insertion" else "deleted"
        panel.set_xlabel(f"fraction {done}", fontsize=11)
        panel.set_xlim(0, 1)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(  # below: there it hides no curve
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            bbox_transform=panel.transAxes + below,
            frameon=False,
            fontsize=10,
            handlelength=3.6,
            # Of the rescaled area this holds also where the full photograph has the lower value.
            title=f"AUC ({form}, rescaled), {_BETTER[kind]} is better",
            title_fontsize=10,
        )
    panels[0].set_ylabel(
        r"$(v - v(\emptyset))\;/\;(v(N) - v(\emptyset))$" if rescaled else label, fontsize=11
    )
    if title:
        figure.suptitle(title, fontsize=13)
    return figure


def _by_kind(curves: Mapping[str, Sequence[CurveLike]]) -> dict[str, dict[str, CurveLike]]:
    """Curves by kind and method; kinds without a curve are left out."""
    found: dict[str, dict[str, CurveLike]] = {kind: {} for kind in _BETTER}
    for name, of_method in curves.items():
        for curve in of_method:
            if curve.kind not in found:
                raise bad(f"curves[{name!r}]", f"kind {curve.kind!r}", "'insertion' or 'deletion'")
            if name in found[curve.kind]:
                raise bad(f"curves[{name!r}]", f"two curves of {curve.kind}", "one of each kind")
            found[curve.kind][name] = curve
        if not of_method:
            raise bad(f"curves[{name!r}]", "no curve", "an insertion or a deletion curve")
    if not curves:
        raise bad("curves", "none", "curves for at least one method")
    return {kind: of_kind for kind, of_kind in found.items() if of_kind}


def _common_ends(curves: Sequence[CurveLike]) -> tuple[float, float]:
    """Values of the empty and the full photograph, where all curves agree on them."""
    ends = np.array([(c.base_value, c.full_value) for c in curves], dtype=float)
    # One model in batches of two sizes may differ in the last digits.
    if (np.ptp(ends, axis=0) > 1e-3 * np.abs(ends).max()).any():
        raise bad(
            "curves",
            f"values from {ends[:, 0].min():g} to {ends[:, 0].max():g} without any pixel and from "
            f"{ends[:, 1].min():g} to {ends[:, 1].max():g} with all",
            "curves of one game",
            "rescaled=True brings curves of several games to one scale.",
        )
    return float(ends[0, 0]), float(ends[0, 1])


def _points(
    name: str, curve: CurveLike, rescaled: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is drawn of a curve."""
    x, y = np.asarray(curve.fractions, dtype=float), np.asarray(curve.values, dtype=float)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise bad(
            f"curves[{name!r}]",
            f"fractions of shape {x.shape} and values of shape {y.shape}",
            "the same number of both, at least 2",
        )
    if rescaled:
        if curve.base_value == curve.full_value:
            raise bad(
                f"curves[{name!r}]",
                f"the value {curve.base_value:g} without any pixel and with all",
                "two different values",
                "Such a curve cannot be rescaled.",
            )
        y = (y - curve.base_value) / (curve.full_value - curve.base_value)
    return x, y


def _marks(panel: Any, low: float, high: float) -> None:
    """Thin lines at the values of the empty and the full photograph, named at the right."""
    for value, text in ((low, r"$v(\emptyset)$"), (high, "$v(N)$")):
        panel.axhline(value, color="0.6", linewidth=0.8, zorder=0)
        upper = value == max(low, high)
        panel.text(
            1.015,
            value,
            text,
            transform=panel.get_yaxis_transform(),
            fontsize=10,
            color="0.35",
            va="bottom" if upper else "top",
        )
