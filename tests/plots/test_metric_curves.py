"""Insertion and deletion curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from xai_patchshap import PatchShapError, grid_players
from xai_patchshap.plots import metric_curves

LABELS = grid_players(20, 30, grid=(2, 3)).labels
PHOTO = np.random.default_rng(0).random((40, 60, 3))


@dataclass(frozen=True)
class StandIn:
    """What :func:`metric_curves` needs of a curve."""

    kind: str
    values: Any = (0.2, 0.5, 0.6)
    fractions: Any = (0.0, 0.25, 1.0)
    base_value: float = 0.2
    full_value: float = 0.6
    area: float = 0.5

    @property
    def auc(self) -> Callable[..., float]:
        forms = {"clipped": 0.0, "raw": 0.25}

        def auc(form: str = "none", rescaled: bool = False) -> float:
            assert rescaled
            return self.area + forms[form]

        return auc


CURVES = {
    "ours": (StandIn("insertion", area=0.125), StandIn("deletion", (0.6, 0.3, 0.2), area=0.25)),
    "theirs": (StandIn("deletion", (0.6, 0.5, 0.2), area=0.375),),
    "third": (StandIn("deletion", (0.6, 0.1, 0.2)), StandIn("insertion", (0.2, 0.4, 0.6))),
}


def lines_of(panel):
    """The curves of a panel by the first word of their label, without the marks."""
    return {
        line.get_label().split(":")[0]: line
        for line in panel.lines
        if not line.get_label().startswith("_")
    }


def test_a_panel_for_each_kind_with_the_curves_of_the_methods():
    figure = metric_curves(CURVES, title="t", label="probability")
    left, right = figure.axes
    assert figure.get_suptitle() == "t"
    assert [a.get_title() for a in figure.axes] == ["Insertion", "Deletion"]
    assert [a.get_xlabel() for a in figure.axes] == ["fraction inserted", "fraction deleted"]
    assert left.get_ylabel() == "probability"
    assert list(lines_of(left)) == ["ours", "third"]
    assert list(lines_of(right)) == ["ours", "theirs", "third"]
    np.testing.assert_array_equal(
        lines_of(right)["theirs"].get_xydata(), [(0, 0.6), (0.25, 0.5), (1, 0.2)]
    )
    assert left.get_ylim() == right.get_ylim()


@pytest.mark.parametrize("kind", ["insertion", "deletion"])
def test_a_kind_without_a_curve_has_no_panel(kind):
    curves = {"one": [StandIn(kind)]}
    (panel,) = metric_curves(curves).axes
    assert panel.get_title() == kind.capitalize()


def test_legends_give_the_area_and_its_form():
    left, right = (a.get_legend() for a in metric_curves(CURVES).axes)
    assert [t.get_text() for t in left.get_texts()] == ["ours: 0.125", "third: 0.500"]
    assert [t.get_text() for t in right.get_texts()][:2] == ["ours: 0.250", "theirs: 0.375"]
    assert left.get_title().get_text() == "AUC (clipped, rescaled), higher is better"
    assert right.get_title().get_text() == "AUC (clipped, rescaled), lower is better"
    left = metric_curves(CURVES, form="raw").axes[0].get_legend()
    assert left.get_texts()[0].get_text() == "ours: 0.375"
    assert "raw, rescaled" in left.get_title().get_text()


def test_methods_differ_in_colour_and_style_and_look_alike_in_both_panels():
    many = {str(i): (StandIn("insertion"), StandIn("deletion")) for i in range(30)}
    looks = [
        [(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines_of(a).values()]
        for a in metric_curves(many).axes
    ]
    assert looks[0] == looks[1]
    assert len(set(looks[0])) == 30
    colors, styles = zip(*looks[0][:5], strict=True)
    assert len(set(colors)) == len(set(styles)) == 5
    # A method that lacks one kind does not shift the looks of those after it.
    left, right = metric_curves(CURVES).axes
    assert lines_of(left)["third"].get_color() == lines_of(right)["third"].get_color()


def marks_of(panel):
    """Height of each marked value by its name."""
    heights = [line.get_ydata()[0] for line in panel.lines if line.get_label().startswith("_child")]
    named = {t.get_text(): t.get_position()[1] for t in panel.texts}
    assert sorted(heights) == sorted(named.values())
    return named


def test_values_of_the_empty_and_the_full_photograph_are_marked():
    for panel in metric_curves(CURVES).axes:
        assert marks_of(panel) == {r"$v(\emptyset)$": 0.2, "$v(N)$": 0.6}
    for panel in metric_curves(CURVES, rescaled=True).axes:
        assert marks_of(panel) == {r"$v(\emptyset)$": 0, "$v(N)$": 1}


def test_names_of_close_or_swapped_values_do_not_overlap():
    curve = StandIn("insertion", (0.2, 0.9, 0.19), full_value=0.19)
    figure = metric_curves({"one": [curve]})
    figure.canvas.draw()
    first, second = (t.get_window_extent() for t in figure.axes[0].texts)
    assert not first.overlaps(second)


def test_curves_of_several_games_are_drawn_rescaled_only():
    other = StandIn("insertion", (1, 5.5, 11.0), base_value=1, full_value=11)
    curves = {**CURVES, "other": [other]}
    with pytest.raises(PatchShapError, match=r"from 0\.2 to 1 without .* 0\.6 to 11 with all"):
        metric_curves(curves)
    left, _ = metric_curves(curves, rescaled=True).axes
    np.testing.assert_allclose(lines_of(left)["other"].get_ydata(), [0, 0.45, 1])
    np.testing.assert_allclose(lines_of(left)["ours"].get_ydata(), [0, 0.75, 1])
    assert left.get_ylabel() != "model output $v$"
    nearly = {**CURVES, "other": [StandIn("insertion", full_value=0.6 + 1e-6)]}
    assert len(metric_curves(nearly).axes) == 2


def test_nothing_of_a_figure_of_curves_overlaps_or_is_cut():
    names = [f"a method with quite a long name, number {i}" for i in range(6)]
    figure = metric_curves({n: (StandIn("insertion"), StandIn("deletion")) for n in names})
    figure.canvas.draw()
    boxes = [a.get_legend().get_window_extent() for a in figure.axes]
    for panel, box in zip(figure.axes, boxes, strict=True):
        assert not box.overlaps(panel.get_window_extent())
        assert not box.overlaps(panel.xaxis.label.get_window_extent())
        assert box.y0 >= 0
    assert not boxes[0].overlaps(boxes[1])


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "curves: got none"),
        ({"m": []}, r"curves\['m'\]: got no curve"),
        ({"m": [StandIn("mufidelity")]}, r"curves\['m'\]: got kind 'mufidelity'"),
        ({"m": [StandIn("deletion")] * 2}, r"curves\['m'\]: got two curves of deletion"),
        (
            {"m": [StandIn("deletion", (1.0, 0.0))]},
            r"curves\['m'\]: got fractions of shape \(3,\) and values of shape \(2,\)",
        ),
        ({"m": [StandIn("deletion", [[0.1]], [[0.2]])]}, r"values of shape \(1, 1\)"),
        ({"m": [StandIn("deletion", [0.1], [0.2])]}, "expected the same number of both"),
    ],
)
def test_curves_that_do_not_fit(curves, message):
    with pytest.raises(PatchShapError, match=message):
        metric_curves(curves)


def test_a_flat_game_cannot_be_rescaled():
    with pytest.raises(PatchShapError, match=r"got the value 0\.2 without any pixel and with all"):
        metric_curves({"m": [StandIn("insertion", full_value=0.2)]}, rescaled=True)
