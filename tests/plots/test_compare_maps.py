"""Maps of several methods on one scale."""

from __future__ import annotations

import numpy as np
import pytest

from xai_patchshap import PatchShapError, grid_players
from xai_patchshap.plots import compare_maps, region_outlines

LABELS = grid_players(20, 30, grid=(2, 3)).labels
PHOTO = np.random.default_rng(0).random((40, 60, 3))


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
