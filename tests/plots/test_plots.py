from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgba

from xai_patchshap import PatchShapError, grid_players
from xai_patchshap.plots import (
    attribution_maps,
    compare_maps,
    metric_curves,
    redraw,
    region_outlines,
)
from xai_patchshap.plots.canvas import label_position, outline

LABELS = grid_players(20, 30, grid=(2, 3)).labels
PHOTO = np.random.default_rng(0).random((40, 60, 3))


def test_one_symmetric_scale_for_all_maps():
    values = np.array([[0.5, 0.0], [0, 0], [0, -2.0], [0, 0], [0, 0], [0, 0]])
    figure = attribution_maps(PHOTO, LABELS, values, ["a", "b"], photo_title="p", label="units")
    photo, first, second, bar = figure.axes
    assert [a.get_title() for a in (photo, first, second)] == ["p", "a", "b"]
    assert bar.get_ylim() == (-2.0, 2.0)
    assert bar.get_ylabel() == "units"
    # Red where positive, blue where negative, transparent where zero.
    red, blue = (np.asarray(a.images[1].get_array()) for a in (first, second))
    assert red[0, 0, 0] > red[0, 0, 2]
    assert blue[5, 25, 2] > blue[5, 25, 0]
    assert red[15, 15, 3] == 0
    # The stronger value is the more opaque one.
    assert blue[5, 25, 3] > red[0, 0, 3] > 0


def test_only_players_with_a_value_are_marked_in_order():
    figure = attribution_maps(PHOTO, LABELS, [[0.0], [3], [0], [-4], [1], [0]], ["a"])
    panel = figure.axes[1]
    assert [t.get_text() for t in panel.texts] == ["1", "2", "3"]
    x, y = panel.texts[0].get_position()
    assert LABELS[int(y), int(x)] == 3


def test_a_number_stands_inside_its_region_whatever_the_shape():
    ring = np.zeros((21, 21), dtype=bool)
    ring[2:19, 2:19] = True
    ring[5:16, 5:16] = False
    for region in (ring, LABELS == 4, np.eye(9, dtype=bool)):
        x, y = label_position(region)
        assert region[int(y), int(x)]


def test_borders_are_the_outline_of_the_region():
    segments = outline(LABELS == 4)
    corners = np.unique(segments.reshape(-1, 2), axis=0)
    assert corners.min(0).tolist() == [10, 10]
    assert corners.max(0).tolist() == [20, 20]
    assert len(segments) == 40


def test_gray_photographs_bytes_and_zero_values():
    for photo in (PHOTO[..., 0], (PHOTO * 255).astype(np.uint8)):
        attribution_maps(photo, LABELS, np.zeros(6), ["nothing"]).canvas.draw()


def test_a_saved_picture_is_redrawn(tmp_path):
    values = np.arange(6.0)[:, None]
    picture = {
        "photo": PHOTO,
        "labels": LABELS,
        "values": values,
        "titles": ["a"],
        "photo_title": "p",
        "label": "units",
    }
    np.savez(tmp_path / "x.npz", **picture)
    first, again = attribution_maps(**picture), redraw(tmp_path / "x.npz")
    for figure in (first, again):
        figure.canvas.draw()
    np.testing.assert_array_equal(first.canvas.buffer_rgba(), again.canvas.buffer_rgba())


def test_errors():
    with pytest.raises(PatchShapError, match=r"values: got shape \(5,\) for labels \(20, 30\)"):
        attribution_maps(PHOTO, LABELS, np.zeros(5), ["a"])
    with pytest.raises(PatchShapError, match="titles: got 2 of them; expected 1"):
        attribution_maps(PHOTO, LABELS, np.zeros(6), ["a", "b"])


# ----- maps of several methods --------------------------------------------------------------

RNG = np.random.default_rng(1)
MAPS = {"first": RNG.normal(size=(20, 30, 2)), "second": 3 * RNG.normal(size=(20, 30, 2))}
EYE = np.eye(30)[:20, :, None]


def scale_of(figure):
    """The colour limits of every map of a figure of :func:`compare_maps`, and of its bar."""
    *panels, bar = figure.axes
    return [panel.images[1].get_clim() for panel in panels[1:]] + [bar.get_ylim()]


def test_maps_stand_in_a_row_for_each_method_and_a_column_for_each_output():
    figure = compare_maps(
        PHOTO, MAPS, ["cat", "dog"], photo_title="p", label="gradient", unit="per area"
    )
    figure.canvas.draw()
    photo, *panels, bar = figure.axes
    assert [a.get_title() for a in (photo, *panels)] == ["p", "cat", "dog", "", ""]
    assert [a.get_ylabel() for a in panels] == ["first", "", "second", ""]
    shown = [panel.images[1].get_array() for panel in panels]
    for k, (name, column) in enumerate([("first", 0), ("first", 1), ("second", 0), ("second", 1)]):
        np.testing.assert_array_equal(shown[k], MAPS[name][..., column])
    assert bar.get_ylabel() == "gradient per area\n(saturated beyond percentile 99.5)"
    boxes = [panel.get_position() for panel in panels]
    assert boxes[0].x0 == pytest.approx(boxes[2].x0)
    assert boxes[0].y0 == pytest.approx(boxes[1].y0)
    assert boxes[0].y0 > boxes[2].y1
    assert boxes[0].x1 < boxes[1].x0
    assert photo.get_position().y0 == pytest.approx(boxes[0].y0)


def test_all_maps_and_the_bar_share_one_scale_from_all_values_together():
    limit = np.percentile(np.abs([*MAPS.values()]), 90)
    scales = scale_of(compare_maps(PHOTO, MAPS, ["cat", "dog"], percentile=90))
    assert len(scales) == 5
    np.testing.assert_allclose(scales, [(-limit, limit)] * 5)
    # Neither method alone would give it.
    assert all(abs(np.percentile(np.abs(m), 90) / limit - 1) > 0.1 for m in MAPS.values())


def test_an_outlier_does_not_wash_the_maps_out():
    wild = MAPS["first"].copy()
    wild[3, 4, 0] = -1e6
    tame, figure = (compare_maps(PHOTO, {"one": m}, ["cat", "dog"]) for m in (MAPS["first"], wild))
    (_, before), (_, after) = scale_of(tame)[0], scale_of(figure)[0]
    assert before <= after < 1.1 * before
    image = figure.axes[1].images[1]
    colors = image.to_rgba(image.get_array())
    np.testing.assert_array_equal(colors[3, 4], image.cmap(0.0))  # the end of the scale
    assert np.median(colors[..., 3]) > 0.3  # other pixels are seen as well


def test_the_bar_tells_whether_something_is_saturated():
    def extend_and_label(percentile):
        figure = compare_maps(PHOTO, MAPS, ["cat", "dog"], percentile=percentile)
        bar = figure.axes[-1]
        return bar._colorbar.extend, bar.get_ylabel()

    extend, label = extend_and_label(99)
    assert extend == "both"
    assert label.endswith("(saturated beyond percentile 99)")
    assert extend_and_label(100) == ("neither", "attribution per pixel")


def test_few_or_no_nonzero_pixels():
    sparse = np.zeros((20, 30))
    assert set(scale_of(compare_maps(PHOTO, {"m": sparse}, ["cat"]))) == {(-1.0, 1.0)}
    sparse[0, 0] = -0.25  # one in 600, above the percentile
    assert set(scale_of(compare_maps(PHOTO, {"m": sparse}, ["cat"]))) == {(-0.25, 0.25)}


def test_a_plain_map_is_that_of_one_output():
    one, same = (compare_maps(PHOTO, {"m": m}, ["cat"]) for m in (EYE[..., 0], EYE))
    for figure in (one, same):
        figure.canvas.draw()
    np.testing.assert_array_equal(one.canvas.buffer_rgba(), same.canvas.buffer_rgba())


def test_long_titles_are_wrapped_and_own_line_breaks_kept():
    figure = compare_maps(PHOTO, {"m": EYE}, ["one\n" + "wide " * 20])
    lines = figure.axes[1].get_title().split("\n")
    assert lines[0] == "one"
    assert len(lines) > 2
    assert max(map(len, lines)) < 50


def test_photographs_of_bytes_without_colour_and_with_alpha():
    colour = (PHOTO * 255).astype(np.uint8)
    alpha = np.dstack([colour, np.full((40, 60), 255, np.uint8)])
    pale = [
        compare_maps(photo, {"m": EYE}, ["cat"]).axes[1].images[0].get_array()
        for photo in (colour, alpha, np.full((40, 60), 255, np.uint8))
    ]
    np.testing.assert_array_equal(pale[0], pale[1])
    assert pale[0].min() >= 0.45  # gray and pale: what is over it can be read
    np.testing.assert_allclose(pale[2], 1)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({}, "maps: got none; expected a map for each"),
        ({"m": np.zeros((20, 30))}, r"maps\['m'\]: got shape \(20, 30\); expected \(H, W, 2\)"),
        ({"m": np.zeros((20, 30, 3))}, r"maps\['m'\]: got shape \(20, 30, 3\)"),
        ({"m": np.zeros((1, 20, 30, 2))}, r"maps\['m'\]: got shape \(1, 20, 30, 2\)"),
        ({"m": np.zeros((0, 30, 2))}, r"maps\['m'\]: got shape \(0, 30, 2\)"),
        ({**MAPS, "m": np.zeros((10, 15, 2))}, r"maps\['m'\]: got 10 by 15.*expected 20 by 30"),
        ({"m": np.full((20, 30, 2), np.nan)}, r"maps\['m'\]: got NaN"),
        ({"m": np.zeros((30, 20, 2))}, "photo: got 40 by 60 pixels for maps of 30 by 20"),
    ],
)
def test_maps_that_do_not_fit(maps, message):
    with pytest.raises(PatchShapError, match=message):
        compare_maps(PHOTO, maps, ["cat", "dog"])


@pytest.mark.parametrize("percentile", [0, -1, 100.1, float("nan")])
def test_percentiles_that_are_none(percentile):
    with pytest.raises(PatchShapError, match=r"percentile: got .* expected a number above 0"):
        compare_maps(PHOTO, MAPS, ["cat", "dog"], percentile=percentile)


@pytest.mark.parametrize("shape", [(3, 40, 60), (40,), (1, 40, 60, 3), (0, 60)])
def test_photographs_of_another_shape(shape):
    for draw in (
        lambda photo: compare_maps(photo, MAPS, ["cat", "dog"]),
        lambda photo: region_outlines(photo, LABELS),
    ):
        with pytest.raises(PatchShapError, match=r"photo: got shape .* expected \(H, W\) or"):
            draw(np.zeros(shape))


# ----- outlines of regions ------------------------------------------------------------------


def drawn_borders(panel):
    """Sets of segments, one for each collection of lines."""
    return [
        [frozenset(map(tuple, s.tolist())) for s in lines.get_segments()]
        for lines in panel.collections
    ]


def test_outlines_are_exactly_the_borders_between_regions():
    regions = np.array([[0, 0, 1], [0, 2, 1]])
    halo, line = drawn_borders(region_outlines(np.zeros((2, 3)), regions).axes[0])
    expected = {
        frozenset({(2, 0), (2, 1)}),
        frozenset({(1, 1), (1, 2)}),
        frozenset({(2, 1), (2, 2)}),
        frozenset({(1, 1), (2, 1)}),
    }
    assert set(line) == set(halo) == expected
    assert len(line) == len(halo) == 4  # each once


def test_outlines_lie_on_the_pixels_of_a_finer_photograph():
    panel = region_outlines(PHOTO, LABELS).axes[0]
    assert panel.images[0].get_extent() == [0, 30, 20, 0]
    assert len(drawn_borders(panel)[1]) == 30 + 2 * 20
    assert (panel.get_xlim(), panel.get_ylim()) == ((0, 30), (20, 0))


def test_a_line_lies_over_a_wider_halo():
    halo, line = region_outlines(PHOTO, LABELS, color="navy", halo="gold").axes[0].collections
    assert [tuple(c.get_colors()[0]) for c in (halo, line)] == [to_rgba("gold"), to_rgba("navy")]
    assert halo.get_linewidth()[0] > line.get_linewidth()[0]


@pytest.mark.parametrize("shade", [0.0, 1.0])
def test_an_outline_is_seen_on_dark_and_on_bright(shade):
    figure = region_outlines(np.full((20, 30), shade), LABELS)
    figure.canvas.draw()
    box = figure.axes[0].get_window_extent()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., 0] / 255
    row = pixels[round(len(pixels) - box.y0 - box.height / 4), int(box.x0) + 2 : int(box.x1) - 2]
    assert np.isclose(row, shade).mean() > 0.9
    assert np.abs(row - shade).max() > 0.6


def test_many_regions_are_finer_lines_in_as_few_artists():
    few, many = (
        region_outlines(np.zeros((64, 64)), grid_players(64, 64, grid=(n, n)).labels).axes[0]
        for n in (2, 32)
    )
    assert len(few.collections) == len(many.collections) == 2
    assert many.collections[0].get_linewidth()[0] < few.collections[0].get_linewidth()[0]


def test_several_maps_of_regions_stand_side_by_side():
    whole = np.zeros((20, 30), dtype=int)
    named = region_outlines(PHOTO, {"fine": LABELS, "coarse": whole}, title="tree")
    assert [a.get_title() for a in named.axes] == ["fine", "coarse"]
    assert named.get_suptitle() == "tree"
    assert [len(drawn_borders(a)[1]) for a in named.axes] == [70, 0]
    counted = region_outlines(PHOTO, [whole, LABELS])
    assert [a.get_title() for a in counted.axes] == ["1 region", "6 regions"]
    stacked = region_outlines(PHOTO, np.stack([whole, LABELS]))
    assert [a.get_title() for a in stacked.axes] == ["1 region", "6 regions"]
    plain = region_outlines(PHOTO, LABELS.tolist(), title="one")
    assert (plain.get_suptitle(), len(plain.axes)) == ("one", 1)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({}, "regions: got no map"),
        ([], "regions: got no map"),
        (LABELS.ravel(), r"regions: got shape \(600,\)"),
        (LABELS + 0.5, r"regions: got shape \(20, 30\) of float64"),
        ([LABELS, LABELS.ravel()], r"regions: got shape \(600,\)"),
        (np.zeros((0, 3), dtype=int), r"regions: got shape \(0, 3\)"),
        (LABELS.T, "photo: got 40 by 60 pixels for regions of 30 by 20"),
        ({"fits": LABELS, "does not": LABELS.T}, "photo: got 40 by 60 .* of 30 by 20"),
    ],
)
def test_regions_that_do_not_fit(regions, message):
    with pytest.raises(PatchShapError, match=message):
        region_outlines(PHOTO, regions)


# ----- curves -------------------------------------------------------------------------------


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


def test_no_figure_is_left_open():
    before = pyplot.get_fignums()
    figures = (
        attribution_maps(PHOTO, LABELS, np.zeros(6), ["a"]),
        compare_maps(PHOTO, MAPS, ["cat", "dog"]),
        region_outlines(PHOTO, LABELS),
        metric_curves(CURVES),
    )
    assert pyplot.get_fignums() == before
    assert all(type(figure.canvas).__name__ == "FigureCanvasAgg" for figure in figures)
