"""Partition trees against greedy merging by counting pixels, and their invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import is_valid_linkage
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.ndimage import label

from xai_patchshap import PatchMasker, PatchShapError
from xai_patchshap.players.trees import PartitionTree, axis_tree, bpt_tree, linkage_tree

EIGHT = np.ones((3, 3))


def assert_is_a_tree(tree, n):
    """n leaves; every node is a slice of the order and holds what its children hold."""
    assert tree.n == n
    assert tree.root == 2 * n - 2
    assert tree.children.shape == (n - 1, 2)
    assert np.array_equal(np.sort(tree.order), np.arange(n))
    held = [{i} for i in range(n)]
    for k, (a, b) in enumerate(tree.children.tolist()):
        assert 0 <= a < n + k
        assert 0 <= b < n + k
        assert not held[a] & held[b]
        held.append(held[a] | held[b])
    assert held[-1] == set(range(n))
    for node, members in enumerate(held):
        assert set(tree.members(node).tolist()) == members
        assert tree.stop[node] - tree.start[node] == len(members)
    return held


def sets(tree):
    return {frozenset(tree.members(node).tolist()) for node in range(2 * tree.n - 1)}


# ----- an oracle that counts pixels ------------------------------------------------------


def srgb_to_lab(rgb):
    """CIE 1976 L*a*b* of sRGB, white point (1, 1, 1) in sRGB; L 0..100, a and b signed."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
    xyz = np.einsum("ij,hwj->hwi", matrix, linear) / np.sum(matrix, axis=1)
    root = np.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def colours(unit):
    """An image in [0, 1] as the published cost sees it: every channel from 0 to 255."""
    if unit.ndim == 3 and unit.shape[2] == 3:
        return (srgb_to_lab(unit) + np.array([0, 128, 128])) / [100, 256, 256] * 255
    return 255 * unit.reshape(*unit.shape[:2], -1)


def cost(colour, region):
    """Eq. 7 for the union of two regions, (H, W) bool: its outline is P1 + P2 - 2 L12."""
    inside = colour[region]
    padded = np.pad(region, 1)
    outline = sum((padded != np.roll(padded, 1, axis)).sum() for axis in (0, 1))
    spread = ((np.ptp(inside, axis=0) + 1) ** 2).sum()
    return spread * region.sum() * np.sqrt(outline)


def touch(one, other):
    """Whether two regions are neighbours, diagonals included."""
    height, width = one.shape
    padded = np.pad(one, 1)
    near = [padded[r : r + height, c : c + width] for r in range(3) for c in range(3)]
    return bool((np.any(near, axis=0) & other).any())


def neighbours(labels):
    """Pairs of players that touch, diagonals included."""
    height, width = labels.shape
    found = set()
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one = labels[: height - down, max(0, -right) : width - max(0, right)]
        other = labels[down:, max(0, right) : width - max(0, -right)]
        found |= set(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
    return {(min(p), max(p)) for p in found if p[0] != p[1]}


def assert_greedy(tree, colour, labels):
    """Every merge is a cheapest one; returns whether each was the only cheapest one."""
    alive = {i: labels == i for i in range(tree.n)}
    costs = {(i, j): cost(colour, alive[i] | alive[j]) for i, j in neighbours(labels)}
    unique = True
    for k, (a, b) in enumerate(tree.children.tolist()):
        least, *others = sorted(costs.values())[:2]
        # The compiled code works in float32.
        assert costs[min(a, b), max(a, b)] <= least * (1 + 1e-5)
        unique &= not others or others[0] > least * (1 + 1e-5)
        new, region = tree.n + k, alive.pop(a) | alive.pop(b)
        gone = [pair for pair in costs if {a, b} & set(pair)]
        for pair in gone:
            del costs[pair]
        for i in {i for pair in gone for i in pair} - {a, b}:
            costs[i, new] = cost(colour, alive[i] | region)
        alive[new] = region
    return unique


def greedy(colour, labels):
    """Member sets of all nodes when the cheapest neighbours are merged again and again."""
    regions = [(frozenset([i]), labels == i) for i in range(labels.max() + 1)]
    found = {members for members, _ in regions}
    while len(regions) > 1:
        pairs = [
            (cost(colour, a | b), i, j)
            for i, (_, a) in enumerate(regions)
            for j, (_, b) in enumerate(regions[:i])
            if touch(a, b)
        ]
        _, i, j = min(pairs)
        (one, a), (other, b) = regions.pop(i), regions.pop(j)
        regions.append((one | other, a | b))
        found.add(one | other)
    return found


def pixels(height, width):
    return np.arange(height * width).reshape(height, width)


def superpixels(height, width, n, rng):
    """About n players of random form, some of several parts that touch in several places."""
    seeds = rng.permutation(height * width)[:n]
    where = np.indices((height, width)).reshape(2, -1).T
    nearest = np.abs(where[:, None] - where[seeds]).sum(-1).argmin(1)
    scattered = rng.random(len(nearest)) < 0.1
    nearest[scattered] = rng.integers(0, n, scattered.sum())
    return np.unique(nearest, return_inverse=True)[1].reshape(height, width)


SIZES = st.integers(1, 12)


@st.composite
def images(draw, largest=12):
    """An image as users have them, and the same in [0, 1]."""
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    channels = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 6]))
    shape = (height, width, channels) if channels else (height, width)
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(["uint8", "bool", "unit", "bytes", "normalised", "constant"]))
    if kind == "uint8":
        image = rng.integers(0, 256, shape).astype(np.uint8)
        return image, image / 255
    if kind == "bool":
        image = rng.random(shape) < 0.5
        return image, image.astype(float)
    if kind == "unit":
        image = rng.random(shape).astype(draw(st.sampled_from([np.float32, np.float64])))
        return image, image.astype(float)
    if kind == "bytes":
        image = rng.uniform(0, 250, shape)
        image.flat[0] = 255.0
        return image, image / 255
    if kind == "normalised":
        image = rng.normal(size=shape) * draw(st.sampled_from([1e-3, 1.0, 1e6])) - 3
        low, high = image.min(), image.max()
        return image, (image - low) / ((high - low) or 1.0)
    value = draw(st.sampled_from([0.0, 0.5, 1.0, -1.5, 300.0, -1e30]))
    return np.full(shape, value), np.full(shape, 0.0)


# ----- binary partition trees ------------------------------------------------------------


@given(images(), st.sampled_from([0.0, 0.0, 0.5, 3.0]), st.sampled_from([0.0, 0.1]))
def test_every_node_of_a_tree_of_pixels_is_a_connected_slice(pair, compactness, noise):
    image, _ = pair
    height, width = image.shape[:2]
    tree = bpt_tree(image, compactness=compactness, noise=noise)
    assert_is_a_tree(tree, height * width)
    for node in range(2 * tree.n - 1):
        region = np.zeros(height * width, dtype=bool)
        region[tree.members(node)] = True
        assert label(region.reshape(height, width), EIGHT)[1] == 1


@given(images(largest=5))
def test_every_merge_of_pixels_is_a_cheapest_one(pair):
    image, unit = pair
    labels = pixels(*image.shape[:2])
    colour = colours(unit)
    if assert_greedy(bpt_tree(image), colour, labels):
        assert sets(bpt_tree(image)) == greedy(colour, labels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(6, 6), (1, 12), (9, 1), (4, 7)])
def test_without_ties_there_is_only_one_tree(size, channels):
    rng = np.random.default_rng(channels)
    image = rng.random((*size, channels))
    tree, colour = bpt_tree(image), colours(image)
    assert assert_greedy(tree, colour, pixels(*size))
    assert sets(tree) == greedy(colour, pixels(*size))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(0, 10**6))
def test_every_merge_of_superpixels_is_a_cheapest_one(height, width, n, seed):
    rng = np.random.default_rng(seed)
    image = rng.random((height, width, 3))
    labels = superpixels(height, width, min(n, height * width), rng)
    tree = bpt_tree(image, labels)
    assert_is_a_tree(tree, labels.max() + 1)
    colour = colours(image)
    if assert_greedy(tree, colour, labels):
        assert sets(tree) == greedy(colour, labels)


def test_players_that_touch_in_several_places():
    # 0 and 1 are combs that interlock, 2 lies in two parts that both touch 1.
    labels = np.array([[0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [2, 1, 2, 1]])
    image = np.random.default_rng(0).random((4, 4, 3))
    tree = bpt_tree(image, labels)
    assert sets(tree) == greedy(colours(image), labels)
    assert assert_greedy(tree, colours(image), labels)


def test_pixels_as_players_are_the_pixels():
    image = np.random.default_rng(0).random((7, 9, 3))
    one, other = bpt_tree(image), bpt_tree(image, pixels(7, 9))
    np.testing.assert_array_equal(one.children, other.children)


@pytest.mark.parametrize("kind", ["noise", "shapes"])
def test_larger_images_whose_lists_of_neighbours_are_moved(kind):
    rng = np.random.default_rng(0)
    image = rng.random((28, 28))
    if kind == "shapes":
        image[:, 14:] += 5
        image[8:20, 8:20] += 9
        image /= 16
    tree = bpt_tree(image)
    assert_is_a_tree(tree, 28 * 28)
    assert_greedy(tree, colours(image), pixels(28, 28))


def test_lab_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    from xai_patchshap.players.trees.bpt import _lab

    rgb = np.random.default_rng(0).random((9, 9, 3)) ** 3
    expected = color.rgb2lab(rgb) / [100, 256, 256] * 255
    np.testing.assert_allclose(_lab(rgb), expected, atol=0.05)


def test_the_range_of_the_values_does_not_matter():
    unit = np.random.default_rng(0).integers(0, 256, (8, 8, 3)) / 255
    unit.flat[:2] = 0, 1
    expected = bpt_tree(unit)
    for image in (
        (unit * 255).round().astype(np.uint8),
        (unit * 255).round().astype(np.int64),
        unit * 255,
        unit.astype(np.float32),
        unit * 4 - 2,
        unit * 1e4,
    ):
        assert sets(bpt_tree(image)) == sets(expected)


def test_compactness_makes_rounder_regions():
    image = np.random.default_rng(0).random((12, 12, 3))

    def extent(compactness):
        regions = bpt_tree(image, compactness=compactness).regions(4).reshape(12, 12)
        return np.mean(
            [np.ptp(np.argwhere(regions == r), axis=0).sum() for r in np.unique(regions)]
        )

    assert extent(0) > extent(1) > extent(30)
    # With colours out of play, only places count, here as two channels of their own.
    tree = bpt_tree(np.zeros((6, 5)), compactness=2.0)
    places = np.moveaxis(np.indices((6, 5)), 0, -1) * 2.0 * 255 / 5
    assert_greedy(tree, np.concatenate([np.zeros((6, 5, 1)), places], axis=2), pixels(6, 5))


def test_noise_and_seeds():
    image = np.random.default_rng(0).random((8, 9, 3))
    plain = sets(bpt_tree(image))
    assert sets(bpt_tree(image, seed=5)) == plain
    noisy = sets(bpt_tree(image, noise=0.1, seed=5))
    assert sets(bpt_tree(image, noise=0.1, seed=5)) == noisy != plain
    assert sets(bpt_tree(image, noise=0.1, seed=6)) != noisy
    # A little noise changes less than a lot.
    shared = [len(plain & sets(bpt_tree(image, noise=e))) for e in (1e-9, 0.02, 0.5)]
    assert shared[0] == 2 * 72 - 1
    assert shared[0] > shared[1] > shared[2]


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        (np.zeros((0, 3)), None, r"image: got shape \(0, 3\); expected a nonempty image"),
        (np.zeros(5), None, r"image: got shape \(5,\); expected a nonempty image"),
        (np.zeros((1, 2, 3, 4)), None, r"image: got shape \(1, 2, 3, 4\)"),
        (np.full((2, 2), np.nan), None, "image: got .*expected finite numbers"),
        (np.full((2, 2), np.inf), None, "image: got .*expected finite numbers"),
        (np.array([["a"]]), None, "image: got dtype <U1"),
        (np.zeros((2, 2), dtype=complex), None, "image: got dtype complex128"),
        (np.zeros((2, 2)), [[0, 1]], r"labels: got shape \(1, 2\); expected \(2, 2\)"),
        (np.zeros((2, 2)), [[0, 1], [3, 3]], r"labels: got .* expected whole numbers 0\.\.n-1"),
    ],
)
def test_images_and_labels_that_do_not_fit(image, labels, message):
    with pytest.raises(PatchShapError, match=message):
        bpt_tree(image, labels)


# ----- axis-aligned trees ----------------------------------------------------------------


def box(members, width):
    rows, cols = np.divmod(members, width)
    return rows.min(), rows.max() + 1, cols.min(), cols.max() + 1


@given(SIZES, SIZES)
def test_an_axis_tree_halves_the_longer_side(height, width):
    tree = axis_tree(pixels(height, width))
    assert_is_a_tree(tree, height * width)
    for node in range(tree.n, 2 * tree.n - 1):
        top, bottom, left, right = box(tree.members(node), width)
        assert (bottom - top) * (right - left) == len(tree.members(node))
        boxes = [box(tree.members(c), width) for c in tree.children[node - tree.n]]
        rows, cols = ([b[1] - b[0] for b in boxes], [b[3] - b[2] for b in boxes])
        if right - left > bottom - top:
            assert abs(cols[0] - cols[1]) <= 1
            assert rows == [bottom - top] * 2
        else:
            assert abs(rows[0] - rows[1]) <= 1
            assert cols == [right - left] * 2


@given(SIZES, SIZES, st.integers(1, 20), st.integers(0, 10**6), st.booleans())
def test_axis_trees_of_any_players(height, width, n, seed, with_values):
    rng = np.random.default_rng(seed)
    labels = superpixels(height, width, min(n, height * width), rng)
    values = rng.integers(0, 3, (height, width)) if with_values else None
    tree = axis_tree(labels, values)
    assert_is_a_tree(tree, labels.max() + 1)
    np.testing.assert_array_equal(tree.children, axis_tree(labels, values).children)


def test_players_with_the_same_centre():
    rings = np.minimum.reduce([np.indices((9, 9)).min(0), 8 - np.indices((9, 9)).max(0)])
    assert_is_a_tree(axis_tree(rings), 5)


def best_cut_by_hand(box_of_values):
    """Axis and place of the cut with the largest sum of squares between, times both areas."""
    best, cut = 0.0, None
    for axis in (0, 1):
        for place in range(1, box_of_values.shape[axis]):
            sides = np.split(box_of_values, [place], axis=axis)
            between = sum(s.size * (s.mean() - box_of_values.mean()) ** 2 for s in sides)
            between *= sides[0].size * sides[1].size
            if between > best * (1 + 1e-9):
                best, cut = between, (axis, place)
    return cut


@given(SIZES, SIZES, st.integers(0, 10**6))
def test_axis_trees_cut_where_the_values_differ_most(height, width, seed):
    values = np.random.default_rng(seed).normal(size=(height, width))
    tree = axis_tree(pixels(height, width), values)
    for node in range(tree.n, 2 * tree.n - 1):
        top, bottom, left, right = box(tree.members(node), width)
        assert (bottom - top) * (right - left) == len(tree.members(node))
        axis, place = best_cut_by_hand(values[top:bottom, left:right])
        corner = box(tree.members(tree.children[node - tree.n, 0]), width)
        assert corner[0] == top
        assert corner[2] == left
        assert (corner[1] - top, corner[3] - left)[axis] == place


def test_axis_trees_halve_where_the_values_are_constant():
    plain = axis_tree(pixels(9, 6))
    np.testing.assert_array_equal(axis_tree(pixels(9, 6), np.ones((9, 6))).children, plain.children)
    step = np.zeros((9, 6))
    step[7:] = 5
    tree = axis_tree(pixels(9, 6), step)
    one, other = tree.children[-1]
    assert box(tree.members(one), 6) == (0, 7, 0, 6)
    for node in tree.children[one - tree.n]:
        assert box(tree.members(node), 6)[1] - box(tree.members(node), 6)[0] in (3, 4)
    assert box(tree.members(other), 6) == (7, 9, 0, 6)


def test_values_of_large_players_are_averages():
    # The middle player is high on the whole, though less so than a part of the last one.
    labels = np.repeat([0, 1, 2], [2, 3, 5])[None]
    values = np.array([[0, 0, 4, 4, 4, 0, 0, 0, 0, 9.0]])
    np.testing.assert_array_equal(axis_tree(labels, values).regions(1), [0, 1, 1])


def test_values_that_do_not_fit():
    for values in (np.zeros((2, 3)), np.full((2, 2), np.nan)):
        with pytest.raises(
            PatchShapError, match=r"values: got shape \(2, \d\); expected finite numbers, \(2, 2\)"
        ):
            axis_tree(pixels(2, 2), values)
    for extra in (np.zeros((2, 3)), np.zeros(4), np.full((2, 2, 1), np.inf)):
        with pytest.raises(PatchShapError, match=r"extra: got shape .*; expected finite numbers"):
            bpt_tree(np.zeros((2, 2)), extra=extra)


def test_an_extra_channel_counts_like_a_colour():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 7, 4)).astype(np.uint8)
    whole = bpt_tree(image)
    parts = bpt_tree(image[:, :, :2], extra=image[:, :, 2:])
    assert sets(parts) == sets(whole)
    one = bpt_tree(image[:, :, :1], extra=image[:, :, 1])
    assert sets(one) == sets(bpt_tree(image[:, :, :2]))
    assert sets(one) != sets(bpt_tree(image[:, :, :1]))
    players = superpixels(9, 7, 12, rng)
    assert sets(bpt_tree(image[:, :, :2], players, extra=image[:, :, 2:])) == sets(
        bpt_tree(image, players)
    )


# ----- linkages --------------------------------------------------------------------------


@given(st.integers(2, 40), st.integers(0, 10**6))
def test_a_linkage_goes_there_and_back(n, seed):
    rng = np.random.default_rng(seed)
    z = scipy_linkage(rng.normal(size=(n, 2)), rng.choice(["single", "ward", "average"]))
    tree = linkage_tree(z)
    assert_is_a_tree(tree, n)
    np.testing.assert_array_equal(tree.linkage[:, [0, 1, 3]], z[:, [0, 1, 3]])
    assert is_valid_linkage(tree.linkage)
    again = linkage_tree(tree.linkage)
    assert sets(again) == sets(tree)
    np.testing.assert_array_equal(again.children, tree.children)


@pytest.mark.parametrize("size", [(1, 2), (1, 9), (9, 1), (5, 6)])
def test_linkages_of_trees_are_valid(size):
    image = np.random.default_rng(0).random((*size, 3))
    for tree in (
        bpt_tree(image),
        axis_tree(pixels(*size)),
        axis_tree(pixels(*size), pixels(*size) % 4),
    ):
        assert is_valid_linkage(tree.linkage)
        assert tree.linkage[-1, 2:].tolist() == [1.0, tree.n]
        assert (np.diff(tree.linkage[:, 2]) > 0).all()
        assert sets(linkage_tree(tree.linkage)) == sets(tree)
        assert sets(PartitionTree.from_children(tree.children)) == sets(tree)


def test_a_single_player():
    for tree in (bpt_tree([[0.5]]), axis_tree([[0]]), bpt_tree(np.ones((2, 2)), [[0] * 2] * 2)):
        assert_is_a_tree(tree, 1)
        assert tree.linkage.shape == (0, 4)
        assert_is_a_tree(linkage_tree(tree.linkage), 1)
        assert tree.regions(3).tolist() == [0]


@pytest.mark.parametrize(
    ("z", "message"),
    [
        ("ward", r"hierarchy: got 'ward'; expected 'bpt', 'axis' or a scipy linkage"),
        ([[0, 1], [0]], "hierarchy: got .*; expected 'bpt', 'axis' or a scipy linkage"),
        ([0, 1], r"hierarchy: got a linkage of shape \(2,\); expected shape \(n - 1, 4\)"),
        (np.zeros((2, 3)), r"hierarchy: got a linkage of shape \(2, 3\)"),
        ([[0, 1], [1, 2]], "hierarchy: got a linkage that joins node 1 twice; expected once"),
        ([[0, 0], [1, 2]], "hierarchy: got a linkage that joins node 0 twice"),
        ([[0, 3], [1, 2]], "hierarchy: got a linkage that joins unknown nodes"),
        ([[0, 1], [2, 4]], "hierarchy: got a linkage that joins unknown nodes"),
        ([[0, -1], [1, 2]], "hierarchy: got a linkage that joins unknown nodes"),
        ([[0, 0.5], [1, 2]], "hierarchy: got a linkage that joins unknown nodes"),
        ([[0, np.nan], [1, 2]], "hierarchy: got a linkage that joins unknown nodes"),
        ([[0, np.inf], [1, 2]], "hierarchy: got a linkage that joins unknown nodes"),
    ],
)
def test_linkages_that_do_not_fit(z, message):
    with pytest.raises(PatchShapError, match=message):
        linkage_tree(z)


# ----- regions ---------------------------------------------------------------------------


def test_regions_open_the_tree_level_by_level():
    tree = axis_tree(pixels(8, 8))
    assert not tree.regions(0).any()
    quadrants = np.kron([[0, 1], [2, 3]], np.ones((4, 4), int)).ravel()
    assert {frozenset(np.flatnonzero(tree.regions(2) == r)) for r in range(4)} == {
        frozenset(np.flatnonzero(quadrants == r)) for r in range(4)
    }
    for depth in range(8):
        assert len(np.unique(tree.regions(depth))) == min(2**depth, 64)


@given(images(largest=8), st.integers(0, 9))
def test_regions_are_nodes_numbered_from_left_to_right(pair, depth):
    tree = bpt_tree(pair[0])
    regions = tree.regions(depth)
    known = sets(tree)
    assert all(frozenset(np.flatnonzero(regions == r).tolist()) in known for r in set(regions))
    assert (np.diff(regions[tree.order]) >= 0).all()
    assert set(regions) == set(range(regions.max() + 1))
    # Each level refines the one before.
    finer = tree.regions(depth + 1)
    assert len(np.unique(np.stack([regions, finer]), axis=1).T) == finer.max() + 1


def test_a_negative_depth():
    with pytest.raises(PatchShapError, match="depth: got -1; expected a whole number of at least"):
        axis_tree([[0, 1]]).regions(-1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: axis_tree([0, 1]), "labels: got shape \\(2,\\); expected an image's players"),
        (lambda: axis_tree([[0, 2]]), "labels: got ids up to 2 without 1"),
        (lambda: axis_tree([[0, -1]]), "labels: got the negative id -1"),
        (lambda: axis_tree([[0.5, 1.0]]), "labels: got a mask of dtype float64"),
        (lambda: bpt_tree(np.zeros((1, 2)), [[0, 2]]), "labels: got ids up to 2 without 1"),
        (lambda: bpt_tree(np.zeros((1, 2)), compactness=-1), "compactness: got -1; expected"),
        (lambda: bpt_tree(np.zeros((1, 2)), compactness=np.nan), "compactness: got nan; expected"),
        (lambda: bpt_tree(np.zeros((1, 2)), noise="a"), "noise: got 'a'; expected a finite number"),
        (lambda: axis_tree([[0, 1]]).regions(1.5), "depth: got 1.5; expected a whole number"),
    ],
)
def test_what_makes_no_tree_is_refused(call, message):
    with pytest.raises(PatchShapError, match=message):
        call()


def test_the_layout_says_which_axis_of_a_small_cube_is_the_channel():
    image = np.random.default_rng(0).random((3, 3, 3))
    masker = PatchMasker(players=1, layout="NCHW", clustering="bpt")
    expected = bpt_tree(np.moveaxis(image, 0, -1)).linkage
    np.testing.assert_array_equal(masker.clustering(image), expected)
