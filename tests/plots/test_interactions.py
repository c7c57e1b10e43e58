from __future__ import annotations

import warnings

import numpy as np
import pytest
from matplotlib import pyplot

from xai_patchshap import PatchShapError, grid_players
from xai_patchshap.plots import interaction_matrix, interaction_network, interaction_partners

LABELS = grid_players(30, 30, grid=(3, 3)).labels
PHOTO = np.random.default_rng(0).random((60, 60, 3))
CENTRES = [(x, y) for y in (5, 15, 25) for x in (5, 15, 25)]


def game(pairs, main=()):
    """A matrix of nine players with these whole interactions."""
    matrix = np.zeros((9, 9))
    np.fill_diagonal(matrix, [*main, *[0.0] * (9 - len(main))])
    for (i, j), value in pairs.items():
        matrix[i, j] = matrix[j, i] = value / 2
    return matrix


PAIRS = {(0, 1): 0.5, (3, 4): -1.0, (7, 8): 0.25, (2, 4): -0.125}
GAME = game(PAIRS, [0.0, 4.0, -1.0])


def drawn(figure, gid):
    """The lines or the nodes of a network."""
    (found,) = figure.axes[0].findobj(lambda artist: artist.get_gid() == gid)
    return found


def ends(figure, centres=CENTRES):
    """The pairs that lines connect, and the lines."""
    lines = drawn(figure, "edges").get_segments()
    return [
        tuple(int(np.argmin(np.linalg.norm(centres - line[at], axis=1))) for at in (0, -1))
        for line in lines
    ], lines


# ----- network ------------------------------------------------------------------------------


def test_a_line_for_each_of_the_strongest_interactions():
    figure = interaction_network(PHOTO, LABELS, GAME)
    pairs, lines = ends(figure)
    assert pairs == [(3, 4), (0, 1), (7, 8), (2, 4)]  # wide ones below thin ones
    for (i, j), line in zip(pairs, lines, strict=True):
        np.testing.assert_allclose(line[[0, -1]], [CENTRES[i], CENTRES[j]])
    assert ends(interaction_network(PHOTO, LABELS, GAME, n_edges=2))[0] == [(3, 4), (0, 1)]
    full = np.random.default_rng(1).normal(size=(9, 9))
    full += full.T
    whole = np.abs(np.triu(2 * full, 1))
    pairs, _ = ends(interaction_network(PHOTO, LABELS, full, n_edges=7))
    assert len(pairs) == 7
    assert {whole[p] for p in pairs} == set(np.sort(whole, axis=None)[-7:])
    assert len(ends(interaction_network(PHOTO, LABELS, full, n_edges=99))[0]) == 36


def test_lines_have_the_colour_of_their_sign_and_the_look_of_their_strength():
    edges = drawn(interaction_network(PHOTO, LABELS, GAME), "edges")
    red, _, blue, opacity = edges.get_colors().T
    assert (red > blue).tolist() == [False, True, True, False]
    assert (np.diff(opacity) < 0).all()
    widths = np.array(edges.get_linewidths())
    np.testing.assert_allclose(widths[:3] / widths[0], [1, 0.5, 0.25])  # proportional
    assert (np.diff(widths) < 0).all()


def test_nodes_stand_at_the_centres_with_the_colour_and_the_area_of_the_main_effects():
    figure = interaction_network(PHOTO, LABELS, GAME)
    nodes = drawn(figure, "nodes")
    boxes = [path.get_extents() for path in nodes.get_paths()]
    np.testing.assert_allclose([(b.x0 + b.width / 2, b.y0 + b.height / 2) for b in boxes], CENTRES)
    width = np.array([b.width for b in boxes])
    assert width[1] / width[2] == pytest.approx(2)  # of areas, 4
    assert 0 < width[0] < width[2]
    assert width.max() < 10  # neighbours do not touch
    colors = nodes.get_facecolors()
    assert colors[1, 0] > colors[1, 2]
    assert colors[2, 2] > colors[2, 0]
    np.testing.assert_allclose(colors[0], 1, atol=0.01)
    bar = figure.axes[1]
    assert bar.get_ylim() == (-4, 4)
    assert "main effect" in bar.get_ylabel()
    assert nodes.get_zorder() > drawn(figure, "edges").get_zorder()


def test_a_line_bends_around_a_node_in_its_way():
    ways = {(0, 2): 1, (0, 6): 3, (0, 8): 4, (2, 6): 4, (3, 5): 4, (1, 2): None, (0, 5): None}
    figure = interaction_network(PHOTO, LABELS, game(dict.fromkeys(ways, 1.0), [1.0] * 9))
    radius = drawn(figure, "nodes").get_paths()[4].get_extents().width / 2
    pairs, lines = ends(figure)
    assert set(pairs) == set(ways)
    for pair, line in zip(pairs, lines, strict=True):
        length = np.linalg.norm(line[-1] - line[0])
        path = np.linalg.norm(np.diff(line, axis=0), axis=1).sum()
        assert path < 1.25 * length  # slightly
        if ways[pair] is None:
            assert path == pytest.approx(length)
        others = [c for i, c in enumerate(CENTRES) if i not in pair]
        gaps = np.linalg.norm(line[:, None] - others, axis=-1)
        assert gaps.min() > radius
        assert line.min() >= 0
        assert line.max() <= 30
    top = lines[pairs.index((0, 2))]
    assert top[:, 1].min() < 5 == top[:, 1].max()  # towards the rim, where there is room


def test_a_node_stands_inside_its_region_whatever_the_shape():
    labels = np.zeros((20, 30), dtype=int)
    labels[4:16, 4:26] = 1  # the centroid of the ring around it lies here
    labels[9:11, 20:24] = 2
    matrix = np.full((3, 3), 0.5)
    figure = interaction_network(np.zeros((20, 30)), labels, matrix)
    nodes = drawn(figure, "nodes").get_paths()
    centres = [n.get_extents().get_points().mean(0) for n in nodes]
    assert [labels[int(y), int(x)] for x, y in centres] == [0, 1, 2]
    assert sorted(ends(figure, centres)[0]) == [(0, 1), (0, 2), (1, 2)]


def test_the_legend_gives_the_strongest_and_the_weakest_line_of_either_sign():
    figure = interaction_network(PHOTO, LABELS, GAME, label="SII", n_edges=4, title="t")
    (legend,) = figure.legends
    texts = [t.get_text() for t in legend.get_texts()]
    assert texts == ["\N{MINUS SIGN}1", "\N{MINUS SIGN}0.125", "+0.25", "+0.5"]
    assert legend.get_title().get_text() == "SII: 4 strongest of 36 pairs"
    assert figure.axes[0].get_title() == "t"
    edges, lines = drawn(figure, "edges"), legend.get_lines()
    for line, at in zip(lines, (0, 3, 2, 1), strict=True):
        assert line.get_linewidth() == edges.get_linewidths()[at]
        np.testing.assert_array_equal(line.get_color(), edges.get_colors()[at])
    one = interaction_network(PHOTO, LABELS, GAME, n_edges=1).legends[0]
    assert [t.get_text() for t in one.get_texts()] == ["\N{MINUS SIGN}1"]


@pytest.mark.parametrize("size", [(30, 60), (60, 30), (40, 40)])
def test_nothing_of_a_network_is_cut(size):
    labels = grid_players(*size, grid=(3, 3)).labels
    figure = interaction_network(np.zeros(size), labels, GAME, title="t")
    figure.canvas.draw()
    boxes = [figure.legends[0].get_window_extent(), figure.axes[1].get_tightbbox()]
    for box in boxes:
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
    assert not boxes[0].overlaps(figure.axes[0].get_window_extent())


def test_names_are_written_below_the_nodes():
    figure = interaction_network(PHOTO, LABELS, GAME, names=list("abcdefghi"))
    texts = figure.axes[0].texts
    assert [t.get_text() for t in texts] == list("abcdefghi")
    for text, (x, y) in zip(texts, CENTRES, strict=True):
        assert text.get_position()[0] == x
        assert y < text.get_position()[1] < y + 5  # the y axis runs down
    assert not interaction_network(PHOTO, LABELS, GAME).axes[0].texts


@pytest.mark.parametrize("side", [1, 4, 7, 14])
def test_networks_and_heat_maps_of_few_and_of_many_players(side):
    rng, n = np.random.default_rng(side), side * side
    matrix = rng.normal(size=(n, n))
    labels = grid_players(56, 56, grid=(side, side)).labels
    figure = interaction_network(np.zeros((56, 56)), labels, matrix + matrix.T)
    figure.canvas.draw()
    assert len(drawn(figure, "edges").get_segments()) == min(20, n * (n - 1) // 2)
    nodes = [p.get_extents().width for p in drawn(figure, "nodes").get_paths()]
    assert max(nodes) < 56 / side
    interaction_matrix(matrix + matrix.T, grid=(side, side)).canvas.draw()
    interaction_partners(np.zeros((56, 56)), labels, matrix + matrix.T, n - 1).canvas.draw()


# ----- matrix -------------------------------------------------------------------------------


def test_the_heat_map_shows_whole_interactions_on_a_scale_without_the_main_effects():
    figure = interaction_matrix(GAME, title="t", label="SII")
    (heat,) = figure.axes
    strip, bar, main_bar = heat.child_axes
    shown = heat.images[0].get_array()
    assert (shown[3, 4], shown[4, 3], shown[0, 1]) == (-1.0, -1.0, 0.5)
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), np.eye(9, dtype=bool))
    assert heat.images[0].get_clim() == bar.get_ylim() == (-1, 1)
    np.testing.assert_array_equal(strip.images[0].get_array()[:, 0], np.diag(GAME))
    assert strip.images[0].get_clim() == main_bar.get_ylim() == (-4, 4)
    assert (bar.get_ylabel(), main_bar.get_ylabel()) == ("SII", "main effect")
    assert heat.get_title() == "t"
    colors = heat.images[0].to_rgba(shown)
    assert colors[0, 1, 0] > colors[0, 1, 2]
    assert colors[3, 4, 2] > colors[3, 4, 0]


def test_the_strip_stays_beside_the_square_heat_map():
    figure = interaction_matrix(GAME, names=["a rather long name"] * 9)
    figure.canvas.draw()
    heat = figure.axes[0]
    box, strip = heat.get_window_extent(), heat.child_axes[0].get_window_extent()
    assert box.width == pytest.approx(box.height)
    assert (strip.y0, strip.y1) == pytest.approx((box.y0, box.y1))
    assert strip.x0 > box.x1
    whole = heat.get_tightbbox()
    assert min(whole.x0, whole.y0) >= 0
    assert whole.x1 <= figure.bbox.x1
    assert whole.y1 <= figure.bbox.y1


def ticks_of(figure):
    heat = figure.axes[0]
    found = [
        [(t.get_text(), float(at)) for t, at in zip(labels, places, strict=True)]
        for labels, places in (
            (heat.get_xticklabels(), heat.get_xticks()),
            (heat.get_yticklabels(), heat.get_yticks()),
        )
    ]
    assert found[0] == found[1]
    return found[0]


def test_ticks_are_players_where_they_are_few_else_rows_of_the_grid():
    assert ticks_of(interaction_matrix(GAME)) == [(str(i), i) for i in range(9)]
    named = ticks_of(interaction_matrix(GAME, names=list("abcdefghi")))
    assert "".join(text for text, _ in named) == "abcdefghi"
    by_row = ticks_of(interaction_matrix(np.zeros((49, 49)), grid=(7, 7), names=["x"] * 49))
    assert by_row == [(f"row {r}", 7 * r + 3) for r in range(7)]
    assert len(ticks_of(interaction_matrix(np.zeros((49, 49))))) < 15
    assert len(ticks_of(interaction_matrix(np.zeros((400, 400)), grid=(200, 2)))) <= 40


def test_lines_separate_the_rows_of_the_grid():
    heat = interaction_matrix(np.zeros((12, 12)), grid=(3, 4)).axes[0]
    upright, flat = (np.array(c.get_segments()) for c in heat.collections)
    np.testing.assert_array_equal(upright[:, :, 0], [[3.5, 3.5], [7.5, 7.5]])
    np.testing.assert_array_equal(flat[:, :, 1], [[3.5, 3.5], [7.5, 7.5]])
    assert not interaction_matrix(np.zeros((12, 12))).axes[0].collections


# ----- partners -----------------------------------------------------------------------------


def test_the_whole_interactions_of_one_player_are_painted_on_its_partners():
    figure = interaction_partners(PHOTO, LABELS, GAME, 4, title="t", label="SII")
    panel, bar = figure.axes
    colors = panel.images[1].get_array()
    assert colors[15, 5, 2] > colors[15, 5, 0]  # 3, blue
    assert colors[15, 5, 3] > colors[5, 25, 3] > 0  # 2, weaker
    others = ~np.isin(LABELS, [2, 3])
    assert (colors[others, 3] == 0).all()
    assert bar.get_ylim() == (-1, 1)
    assert bar.get_ylabel() == "SII with player 4"
    assert panel.get_title() == "t"
    red = interaction_partners(PHOTO, LABELS, GAME, 1).axes[0].images[1].get_array()
    assert red[5, 5, 0] > red[5, 5, 2]


def test_partners_are_numbered_by_strength_and_the_player_is_outlined_boldly():
    panel = interaction_partners(PHOTO, LABELS, GAME, 4).axes[0]
    at = [
        (t.get_text(), LABELS[int(y), int(x)]) for t in panel.texts for x, y in [t.get_position()]
    ]
    assert at == [("1", 3), ("2", 2)]
    assert len(interaction_partners(PHOTO, LABELS, GAME, 4, n_marked=1).axes[0].texts) == 1
    assert not interaction_partners(PHOTO, LABELS, GAME, 4, n_marked=0).axes[0].texts
    halo, line = panel.collections[-2:]
    for outline in (halo, line):
        corners = np.concatenate(outline.get_segments())
        assert (corners.min(0).tolist(), corners.max(0).tolist()) == ([10, 10], [20, 20])
    widths = [c.get_linewidth()[0] for c in panel.collections]
    assert widths[-2] > widths[-1] > 2 * max(widths[:-2])


@pytest.mark.parametrize(
    "photo", [PHOTO, PHOTO[..., 0], (PHOTO * 255).astype(np.uint8), PHOTO[::2, ::2]]
)
def test_the_player_shows_the_photograph_as_it_is(photo):
    own = interaction_partners(photo, LABELS, GAME, 4).axes[0].images[2].get_array()
    third = len(photo) // 3
    inside = np.zeros(photo.shape[:2], dtype=bool)
    inside[third : 2 * third, third : 2 * third] = True
    np.testing.assert_array_equal(own[..., 3] == 1, inside)
    np.testing.assert_array_equal(own[..., 3] == 0, ~inside)
    shown = photo / 255 if photo.dtype == np.uint8 else photo
    expected = shown[..., None] if photo.ndim == 2 else shown
    assert np.abs(own[..., :3] - expected)[inside].max() < 1 / 128  # of the gray scale


# ----- all ----------------------------------------------------------------------------------


def all_three(matrix, labels=LABELS, photo=PHOTO):
    return (
        interaction_network(photo, labels, matrix),
        interaction_matrix(matrix),
        interaction_partners(photo, labels, matrix, 0),
    )


def test_a_game_of_zeros_is_drawn_without_warnings_or_open_figures():
    before = pyplot.get_fignums()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = all_three(np.zeros((9, 9)))
        for figure in figures:
            figure.canvas.draw()
    assert not drawn(figures[0], "edges").get_segments()
    assert figures[0].legends[0].get_title().get_text() == "interaction: zero for all pairs"
    assert figures[1].axes[0].images[0].get_clim() == (-1, 1)
    assert not figures[2].axes[0].texts
    assert pyplot.get_fignums() == before
    assert all(type(figure.canvas).__name__ == "FigureCanvasAgg" for figure in figures)


def test_rounding_is_no_asymmetry():
    rounded = GAME.astype(np.float32)
    rounded[3, 4] *= 1 + 1e-6
    assert len(ends(all_three(rounded)[0])[0]) == 4


ODD = GAME.copy()
ODD[0, 1] += 0.5


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((9, 8)), r"matrix: got shape \(9, 8\); expected \(P, P\)"),
        (np.zeros(9), r"matrix: got shape \(9,\)"),
        (np.zeros((0, 0)), r"matrix: got shape \(0, 0\)"),
        (np.full((9, 9), np.nan), "matrix: got NaN or infinity"),
        (np.full((9, 9), np.inf), "matrix: got NaN or infinity"),
        (ODD, r"matrix: got entries that differ by up to 0\.5 .* \(m \+ m\.T\) / 2"),
    ],
)
def test_matrices_that_are_none(matrix, message):
    for draw in (
        lambda: interaction_network(PHOTO, LABELS, matrix),
        lambda: interaction_matrix(matrix),
        lambda: interaction_partners(PHOTO, LABELS, matrix, 0),
    ):
        with pytest.raises(PatchShapError, match=message):
            draw()


@pytest.mark.parametrize(
    ("photo", "labels", "message"),
    [
        (PHOTO, LABELS.repeat(2, 1), "photo: got 60 by 60 pixels for labels of 30 by 60"),
        (PHOTO.T, LABELS, r"photo: got shape \(3, 60, 60\)"),
        (PHOTO, LABELS.ravel(), r"labels: got shape \(900,\)"),
        (PHOTO, LABELS // 2, r"labels: got ids 0\.\.4; expected 0\.\.8, as the matrix has 9 rows"),
        (PHOTO, np.where(LABELS == 8, 9, LABELS), "labels: got ids up to 9 without 8"),
        (PHOTO, LABELS - 1, "labels: got the negative id -1"),
        (PHOTO, LABELS + 0.5, "labels: got a mask of dtype float64; expected whole numbers"),
    ],
)
def test_photographs_and_labels_that_do_not_fit(photo, labels, message):
    for draw in (
        lambda: interaction_network(photo, labels, GAME),
        lambda: interaction_partners(photo, labels, GAME, 0),
    ):
        with pytest.raises(PatchShapError, match=message):
            draw()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: interaction_network(PHOTO, LABELS, GAME, n_edges=0),
            "n_edges: got 0; expected a whole number of at least 1",
        ),
        (lambda: interaction_network(PHOTO, LABELS, GAME, n_edges=2.5), r"n_edges: got 2\.5"),
        (
            lambda: interaction_network(PHOTO, LABELS, GAME, names=["a"]),
            "names: got 1 of them; expected 9",
        ),
        (lambda: interaction_matrix(GAME, names=["a"]), "names: got 1 of them; expected 9"),
        (
            lambda: interaction_matrix(GAME, grid=(2, 4)),
            r"grid: got \(2, 4\); expected rows and columns of 9 players",
        ),
        (lambda: interaction_matrix(GAME, grid=(-3, -3)), r"grid: got \(-3, -3\)"),
        (
            lambda: interaction_partners(PHOTO, LABELS, GAME, 9),
            "player: got 9; expected a whole number of at least 0 and at most 8",
        ),
        (lambda: interaction_partners(PHOTO, LABELS, GAME, -1), "player: got -1"),
        (lambda: interaction_partners(PHOTO, LABELS, GAME, "0"), "player: got '0'"),
        (lambda: interaction_partners(PHOTO, LABELS, GAME, 0, n_marked=-1), "n_marked: got -1"),
    ],
)
def test_errors(draw, message):
    with pytest.raises(PatchShapError, match=message):
        draw()


def test_doubtful_interactions_are_dotted():
    labels = np.kron(np.arange(4).reshape(2, 2), np.ones((4, 4), dtype=int))
    matrix = np.zeros((4, 4))
    matrix[0, 1] = matrix[1, 0] = 0.5
    matrix[2, 3] = matrix[3, 2] = 0.2
    std = np.full((4, 4), 0.15)
    figure = interaction_network(np.zeros((8, 8)), labels, matrix, std=std)
    edges = next(c for c in figure.axes[0].collections if c.get_gid() == "edges")
    solid = [dashes is None for _, dashes in edges.get_linestyle()]
    assert solid == [True, False]
    assert "dotted below two standard errors" in figure.legends[0].get_title().get_text()
    with pytest.raises(PatchShapError, match=r"std: got shape \(2, 2\); expected that of the"):
        interaction_network(np.zeros((8, 8)), labels, matrix, std=std[:2, :2])


def test_what_is_no_matrix_is_refused():
    with pytest.raises(PatchShapError, match="matrix: got an object of type dict; expected numb"):
        interaction_matrix({"a": [1, 2]})
