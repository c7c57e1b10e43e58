from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_patchshap import PatchShapError
from xai_patchshap.evaluation import (
    Curve,
    IoU,
    deletion_curve,
    insertion_curve,
    masker_game,
    max_iou,
)

BOTH = pytest.mark.parametrize("make", [insertion_curve, deletion_curve])


def additive(weights, base: float = 0.0):
    return lambda shown: base + shown @ np.asarray(weights, dtype=float)


def unanimity(carriers):
    return lambda shown: shown[:, carriers].all(axis=1).astype(float)


def by_count(f):
    """A game of the share of the players that are shown."""
    return lambda shown: f(shown.mean(axis=1))


def hand_curve(values, base, full, predicted=None, rule="trapezoid", fractions=None):
    values = np.asarray(values, dtype=float)
    fractions = np.linspace(0, 1, len(values)) if fractions is None else np.asarray(fractions)
    predicted = np.zeros(len(values)) if predicted is None else np.asarray(predicted, dtype=float)
    return Curve(fractions, values, predicted, base, full, "insertion", rule)


# Curves of games with a closed form.


@pytest.mark.parametrize("rule", ["trapezoid", "midpoint"])
@BOTH
def test_an_additive_game_is_predicted_without_error(make, rule):
    w = np.random.default_rng(0).normal(size=37)
    curve = make(additive(w, 2.5), w, steps=11, rule=rule)
    np.testing.assert_allclose(curve.predicted, curve.values, atol=1e-12)
    assert curve.mae() < 1e-12
    assert curve.mse() < 1e-24
    assert curve.base_value == 2.5
    assert curve.full_value == pytest.approx(2.5 + w.sum())
    assert np.ptp(curve.values) > 1


def test_area_of_an_additive_game():
    # Player i of 4, 3, 2, 1 enters at step i and counts for the rest of the way, and for
    # half of its own step: 4 * 3.5 + 3 * 2.5 + 2 * 1.5 + 1 * 0.5 = 25, over 4 steps.
    w = [2.0, 4.0, 1.0, 3.0]
    insertion, deletion = (f(additive(w, 1.0), w) for f in (insertion_curve, deletion_curve))
    np.testing.assert_array_equal(insertion.values, [1, 5, 8, 10, 11])
    np.testing.assert_array_equal(deletion.values, [11, 7, 4, 2, 1])
    assert insertion.auc() == pytest.approx(1 + 25 / 4)
    assert deletion.auc() == pytest.approx(11 - 25 / 4)
    assert insertion.auc("clipped") == pytest.approx(25 / 4)
    assert insertion.auc(rescaled=True) == pytest.approx(25 / 40)
    assert deletion.auc("clipped", rescaled=True) == pytest.approx(15 / 40)
    assert (insertion.kind, deletion.kind) == ("insertion", "deletion")
    assert insertion.rule == "trapezoid"


def test_a_unanimity_game_is_a_step():
    # All of 3 carriers among 12; the map ranks them 1st, 2nd and 6th.
    order = np.array([4, 7, 0, 1, 2, 11, 3, 5, 6, 8, 9, 10])
    attribution = np.empty(12)
    attribution[order] = np.arange(12.0)[::-1]
    game = unanimity([4, 7, 11])
    curve = insertion_curve(game, attribution)
    np.testing.assert_array_equal(curve.fractions, np.arange(13) / 12)
    np.testing.assert_array_equal(curve.values, np.arange(13) >= 6)
    assert curve.auc() == pytest.approx(6.5 / 12)  # 6 whole steps and the ramp
    gone = deletion_curve(game, attribution)
    np.testing.assert_array_equal(gone.values, np.arange(13) < 1)
    assert gone.auc() == pytest.approx(0.5 / 12)


def test_the_true_share_is_reported_where_steps_do_not_divide_the_elements():
    # Shares 0, 1/3, 2/3, 1 of 7 elements are reached by 0, 3, 5 and 7 of them.
    a = np.arange(7.0)
    curve = insertion_curve(by_count(lambda s: s), a, steps=3)
    np.testing.assert_allclose(curve.fractions, np.array([0, 3, 5, 7]) / 7)
    np.testing.assert_allclose(curve.values, curve.fractions)
    assert curve.auc() == pytest.approx(0.5)


def test_more_steps_than_elements_leave_no_duplicates():
    seen = []

    def game(shown):
        seen.extend(map(tuple, shown))
        return shown.sum(axis=1)

    curve = insertion_curve(game, [3.0, 1.0, 2.0], steps=100)
    np.testing.assert_allclose(curve.fractions, [0, 1 / 3, 2 / 3, 1])
    assert len(seen) == len(set(seen)) == 4
    assert seen[1] == (True, False, False)
    assert seen[2] == (True, False, True)


def test_steps_that_divide_the_elements_are_met_exactly():
    # 3 / 100 * 100 and the like must not spill over to the next element.
    curve = insertion_curve(by_count(lambda s: s), np.arange(300.0), steps=100)
    np.testing.assert_array_equal(curve.fractions, np.arange(101) * 3 / 300)


def test_a_map_is_read_in_c_order():
    a = np.array([[1.0, 4.0], [3.0, 2.0]])
    curve = insertion_curve(additive([1.0, 10.0, 100.0, 1000.0]), a)
    np.testing.assert_array_equal(curve.values, [0, 10, 110, 1110, 1111])
    np.testing.assert_array_equal(curve.predicted, [0, 4, 7, 9, 10])


def test_the_prediction_of_a_deletion_counts_what_is_left():
    curve = deletion_curve(by_count(lambda s: 5 + s), [1.0, 2.0, -4.0])
    np.testing.assert_allclose(curve.predicted, [4, 2, 1, 5])
    assert curve.base_value == 5


def test_integer_and_boolean_attributions_are_ordered_as_numbers():
    curve = insertion_curve(additive([1.0, 2.0, 4.0]), np.array([0, 255, 7], dtype=np.uint8))
    np.testing.assert_array_equal(curve.values, [0, 2, 6, 7])
    curve = insertion_curve(additive([1.0, 2.0, 4.0]), np.array([False, True, False]))
    np.testing.assert_array_equal(curve.values, [0, 2, 7])


def test_a_column_of_values_will_do():
    w = np.array([1.0, 2.0])
    curve = insertion_curve(lambda shown: (shown @ w)[:, None], w)
    np.testing.assert_array_equal(curve.values, [0, 2, 3])


# Areas.


def test_clipped_and_adjusted_areas_of_an_overshoot():
    curve = hand_curve([0, 1.5, -0.25, 0.5, 1], base=0.0, full=1.0)
    assert curve.auc() == pytest.approx((1.5 - 0.25 + 0.5 + 0.5) / 4)
    assert curve.auc("clipped") == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert curve.auc("adjusted") == pytest.approx((0.5 + 0.25 + 0.5 + 0.5) / 4)
    # A range of [0, 1] leaves nothing to rescale.
    for form in ("plain", "clipped", "adjusted"):
        assert curve.auc(form, rescaled=True) == pytest.approx(curve.auc(form))


def test_the_same_areas_on_another_range():
    curve = hand_curve([2, 7, 1, 4, 6], base=2.0, full=6.0)  # rescaled: 0, 1.25, -0.25, 0.5, 1
    assert curve.auc() == pytest.approx((7 + 1 + 4 + 4) / 4)
    assert curve.auc(rescaled=True) == pytest.approx((1.25 - 0.25 + 0.5 + 0.5) / 4)
    assert curve.auc("clipped") == pytest.approx(4 * (1 + 0 + 0.5 + 0.5) / 4)
    assert curve.auc("clipped", rescaled=True) == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert curve.auc("adjusted") == pytest.approx(4 * (0.75 + 0.25 + 0.5 + 0.5) / 4)
    assert curve.auc("adjusted", rescaled=True) == pytest.approx((0.75 + 0.25 + 0.5 + 0.5) / 4)


def test_a_mirrored_overshoot_stops_at_the_other_end():
    assert hand_curve([0, 3.5, 1], 0.0, 1.0).auc("adjusted") == pytest.approx(0.25)
    assert hand_curve([0, -3.5, 1], 0.0, 1.0).auc("adjusted") == pytest.approx(0.75)


def test_a_flipped_game_has_the_areas_of_its_mirror_image():
    up = hand_curve([2, 7, 1, 4, 6], base=2.0, full=6.0)
    down = hand_curve([-2, -7, -1, -4, -6], base=-2.0, full=-6.0)
    assert down.auc() == pytest.approx(-up.auc())
    assert down.auc(rescaled=True) == pytest.approx(up.auc(rescaled=True))
    for form in ("clipped", "adjusted"):
        for rescaled in (False, True):
            assert down.auc(form, rescaled) == pytest.approx(up.auc(form, rescaled))
            assert down.auc(form, rescaled) > 0


def test_curves_of_a_game_that_falls():
    # Every player lowers the value; the one that lowers it least enters first.
    curve = insertion_curve(additive([-1.0, -3.0], 5.0), [-1.0, -3.0])
    np.testing.assert_array_equal(curve.values, [5, 4, 1])
    assert curve.auc("clipped") == pytest.approx((0.5 + 2.5) / 2)
    assert curve.auc(rescaled=True) == pytest.approx((0.125 + 0.625) / 2)


def test_errors_at_both_ends_of_an_interval_add_up():
    # Errors 0, 1, -1, 0: their difference or signed sum would cancel in the middle.
    curve = hand_curve([0, 2, 1, 3], 0.0, 3.0, predicted=[0, 1, 2, 3])
    assert curve.mae() == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert curve.mse() == pytest.approx((0.5 + 1 + 0.5) / 3)
    curve = hand_curve([0, 0, 0], 0.0, 0.0, [0, 2, -4], fractions=[0, 0.25, 1])
    assert curve.mae() == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert curve.mse() == pytest.approx(0.25 * 2 + 0.75 * 10)


def test_errors_by_the_midpoint_rule():
    curve = hand_curve([1, 2, 3, 4], 0.0, 5.0, [1, 4, 2, 4], rule="midpoint")
    assert curve.mae() == pytest.approx(3 / 4)
    assert curve.mse() == pytest.approx(5 / 4)
    assert curve.auc() == pytest.approx(10 / 4)


# Ties.


def test_ties_enter_together():
    a = [1.0, 5.0, 1.0, 5.0, 1.0]
    curve = insertion_curve(additive([1, 2, 4, 8, 16]), a)
    np.testing.assert_allclose(curve.fractions, [0, 0.4, 1])
    np.testing.assert_array_equal(curve.values, [0, 10, 31])
    # The share 1/2 falls among the three ties, and so all of them enter.
    curve = insertion_curve(additive([1, 2, 4, 8, 16]), a, steps=2)
    np.testing.assert_allclose(curve.fractions, [0, 1])


def test_a_constant_map_together_is_one_straight_line():
    curve = insertion_curve(by_count(lambda s: s**2), np.zeros(6))
    np.testing.assert_array_equal(curve.fractions, [0, 1])
    assert curve.auc() == 0.5


@BOTH
def test_ties_in_random_order(make):
    w = 2.0 ** np.arange(12)
    a = np.repeat([1.0, 3.0, 2.0], 4)
    runs = [make(additive(w), a, ties="random", seed=s) for s in range(8)]
    again = make(additive(w), a, ties="random", seed=3)
    np.testing.assert_array_equal(again.values, runs[3].values)
    assert len({tuple(r.values) for r in runs}) == 8
    # The order inside a group is free, that of the groups is not.
    ends = np.cumsum([0, w[4:8].sum(), w[8:].sum(), w[:4].sum()])
    ends = ends if make is insertion_curve else ends[-1] - ends
    for r in runs:
        np.testing.assert_array_equal(r.fractions, np.arange(13) / 12)
        np.testing.assert_array_equal(r.values[::4], ends)


def test_together_does_not_depend_on_the_seed():
    a = np.repeat([1.0, 3.0, 2.0], 4)
    runs = [insertion_curve(additive(2.0 ** np.arange(12)), a, seed=s) for s in (0, 1)]
    np.testing.assert_array_equal(runs[0].values, runs[1].values)


def test_without_ties_both_rules_agree():
    a = np.random.default_rng(1).permutation(50) / 7.0
    game = by_count(np.sin)
    one, other = (insertion_curve(game, a, steps=9, ties=t) for t in ("together", "random"))
    np.testing.assert_array_equal(one.fractions, other.fractions)
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.predicted, other.predicted)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=15), st.integers(1, 20))
def test_together_is_the_threshold_form(numbers, steps):
    a = np.array(numbers, dtype=float)
    n = len(a)
    ranked = np.sort(a)[::-1]
    expected = {0.0: (False,) * n}
    for k in range(1, steps + 1):
        top = a >= ranked[-(-k * n // steps) - 1]
        expected[top.mean()] = tuple(top)
    seen = []

    def game(shown):
        seen.extend(map(tuple, shown))
        return shown.sum(axis=1)

    curve = insertion_curve(game, a, steps=steps)
    np.testing.assert_allclose(curve.fractions, sorted(expected))
    assert seen == [expected[f] for f in sorted(expected)]


# Weights.


@BOTH
def test_weights_are_areas(make):
    # Players of 1, 5, 2 and 2 pixels, by descending attribution 1, 3, 0, 2.
    areas = [1, 5, 2, 2]
    curve = make(by_count(lambda s: s), [2.0, 4.0, 1.0, 3.0], weights=areas, steps=10)
    np.testing.assert_allclose(curve.fractions, [0, 0.5, 0.7, 0.8, 1])
    shown = np.arange(5) / 4
    np.testing.assert_allclose(curve.values, shown if make is insertion_curve else 1 - shown)


def test_thresholds_are_by_cumulative_weight():
    # A third of the area needs player 1 (half of it); two thirds need player 3 as well.
    curve = insertion_curve(
        additive([1, 2, 4, 8]), [2.0, 4.0, 1.0, 3.0], weights=[1, 5, 2, 2], steps=3
    )
    np.testing.assert_allclose(curve.fractions, [0, 0.5, 0.7, 1])
    np.testing.assert_array_equal(curve.values, [0, 2, 10, 15])


@pytest.mark.parametrize("rule", ["trapezoid", "midpoint"])
def test_players_with_areas_are_pixels_that_move_together(rule):
    rng = np.random.default_rng(2)
    areas = rng.integers(1, 9, size=12)
    a = rng.normal(size=12)
    owner = np.repeat(np.arange(12), areas)
    w = rng.normal(size=12)
    steps = int(areas.sum())

    def pixel_game(shown):
        return (shown * (w / areas)[owner]).sum(axis=1)

    few = insertion_curve(additive(w), a, weights=areas, steps=steps, rule=rule)
    if rule == "trapezoid":
        many = insertion_curve(pixel_game, a[owner], steps=steps)
        np.testing.assert_allclose(few.values, many.values, atol=1e-12)
    else:
        # Of an additive game pixels interpolate; players are a staircase, off by cells.
        many = insertion_curve(pixel_game, a[owner], steps=steps, rule=rule)
        assert abs(few.auc() - many.auc()) < np.abs(w).max() * areas.max() / steps
    np.testing.assert_allclose(few.fractions, many.fractions)


@pytest.mark.parametrize("rule", ["trapezoid", "midpoint"])
@pytest.mark.parametrize("weight", [1.0, 0.1, 1e-200, 1e300])
def test_equal_weights_are_no_weights(weight, rule):
    a = np.arange(49.0)
    game = by_count(np.sqrt)
    one = insertion_curve(game, a, weights=np.full(49, weight), steps=49, rule=rule)
    other = insertion_curve(game, a, steps=49, rule=rule)
    np.testing.assert_array_equal(one.fractions, other.fractions)
    np.testing.assert_array_equal(one.values, other.values)


def test_a_curve_ends_with_every_element_however_light():
    curve = insertion_curve(additive([1.0, 2.0]), [2.0, 1.0], weights=[1.0, 1e-13])
    assert (curve.fractions[-1], curve.values[-1], curve.full_value) == (1.0, 3.0, 3.0)


def test_weights_may_have_the_shape_of_the_map():
    curve = insertion_curve(by_count(lambda s: s), [[4, 3], [2, 1]], weights=[[1, 2], [3, 4]])
    np.testing.assert_allclose(curve.fractions, [0, 0.1, 0.3, 0.6, 1])


# The midpoint rule.


@BOTH
def test_the_midpoint_rule_is_exact_for_a_line_and_close_for_a_cubic(make):
    a = np.random.default_rng(3).normal(size=2000)
    curve = make(by_count(lambda s: 2 + 3 * s), a, steps=10, rule="midpoint")
    np.testing.assert_allclose(curve.fractions, (np.arange(10) + 0.5) / 10)
    assert curve.auc() == pytest.approx(3.5, abs=1e-12)
    # With cells of width h the midpoint rule misses h^2 / 24 * (f'(1) - f'(0)), and for a
    # cubic no more; f = s^3: 1/4 - h^2 / 8.
    curve = make(by_count(lambda s: s**3), a, steps=10, rule="midpoint")
    assert curve.auc() == pytest.approx(0.25 - 0.01 / 8, abs=1e-12)
    assert (curve.base_value, curve.full_value) == (0.0, 1.0)
    assert curve.auc("clipped") == pytest.approx(curve.auc(), abs=1e-12)


def test_the_midpoint_rule_spends_two_evaluations_on_the_ends():
    seen = []

    def game(shown):
        seen.extend(shown.sum(axis=1))
        return shown.mean(axis=1)

    insertion_curve(game, np.arange(100.0), steps=5, rule="midpoint")
    assert sorted(seen) == [0, 10, 30, 50, 70, 90, 100]


@pytest.mark.parametrize("n", [2, 4, 10, 196])
def test_centres_halfway_between_two_elements_round_without_a_bias(n):
    curve = insertion_curve(by_count(lambda s: s), np.arange(n), steps=n, rule="midpoint")
    assert curve.auc() == pytest.approx(0.5, abs=1e-12)
    np.testing.assert_allclose(curve.values * n, np.round(np.arange(n) + 0.5), atol=1e-9)


def test_more_cells_than_elements_repeat_values_but_not_evaluations():
    seen = []

    def game(shown):
        seen.extend(shown.sum(axis=1))
        return shown.sum(axis=1)

    curve = insertion_curve(game, [2.0, 1.0], steps=8, rule="midpoint")
    np.testing.assert_array_equal(curve.values, [0, 0, 1, 1, 1, 1, 2, 2])
    assert seen == [0, 1, 2]
    assert curve.auc() == 1.0


def test_the_midpoint_rule_breaks_ties_at_random_by_default():
    w = 2.0 ** np.arange(20)
    runs = [
        insertion_curve(additive(w), np.zeros(20), steps=20, rule="midpoint", seed=s).values
        for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


def test_the_midpoint_rule_takes_the_nearest_weight():
    # Cumulative shares 0, .1, .7, 1; centres .125, .375, .625, .875 (.875 is nearer to 1).
    curve = insertion_curve(
        additive([1, 1, 1]), [3.0, 2.0, 1.0], weights=[1, 6, 3], steps=4, rule="midpoint"
    )
    np.testing.assert_array_equal(curve.values, [1, 1, 2, 3])


# Batches.


@given(
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(1, 50),
    st.sampled_from(["trapezoid", "midpoint"]),
    st.sampled_from([insertion_curve, deletion_curve]),
    st.integers(0, 100),
)
def test_batches_do_not_matter(n, steps, batch_size, rule, make, seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(-3, 4, size=n).astype(float)
    code = rng.integers(-1000, 1000, size=n)
    sizes = []

    def game(shown):
        sizes.append(len(shown))
        return (shown @ code) ** 2 % 997  # whole numbers: exact in any batch

    def options(batch):
        return {"steps": steps, "rule": rule, "seed": seed, "batch_size": batch}

    whole = make(game, a, **options(10**6))
    assert len(sizes) == 1
    sizes.clear()
    parts = make(game, a, **options(batch_size))
    assert max(sizes) <= batch_size
    assert all(s == batch_size for s in sizes[:-1])
    for name in ("fractions", "values", "predicted", "base_value", "full_value"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_batches_hold_64_coalitions_by_default():
    sizes = []

    def game(shown):
        sizes.append(len(shown))
        return shown.sum(axis=1)

    insertion_curve(game, np.arange(150.0), steps=150)
    assert sizes == [64, 64, 23]


# IoU.


def test_iou_by_hand():
    found = max_iou([0.9, 0.8, 0.7, 0.1], [True, False, True, False])
    assert isinstance(found, IoU)
    assert found == (2 / 3, 0.7)
    assert max_iou([[1, 2], [3, 4]], [[0, 0], [1, 1]]) == (1.0, 3.0)


def test_equal_attributions_share_a_threshold():
    assert max_iou([1.0, 1.0, 0.0], [True, False, False]) == (0.5, 1.0)


def test_of_equal_ious_the_higher_threshold_wins():
    # From the top: 1/2, 1/3, 1/4, and 2/4 once all are in.
    assert max_iou([4.0, 3.0, 2.0, 1.0], [1, 0, 0, 1]) == (0.5, 4.0)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, float])
@pytest.mark.parametrize("true", [1, 255])
def test_truth_of_any_numbers(dtype, true):
    truth = (np.array([[0, 1], [1, 0]]) * true).astype(dtype)
    assert max_iou([[1.0, 4.0], [3.0, 2.0]], truth) == (1.0, 3.0)


@given(
    st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=30).filter(
        lambda pairs: any(t for _, t in pairs)
    )
)
def test_iou_is_that_of_brute_force(pairs):
    a, truth = (np.array(x) for x in zip(*pairs, strict=True))
    tried = {float(t): (truth & (a >= t)).sum() / (truth | (a >= t)).sum() for t in np.unique(a)}
    best = max(tried.values())
    assert max_iou(a, truth) == (best, max(t for t, iou in tried.items() if iou == best))


# The game over pixels.


def mean_of(images):
    return images.reshape(len(images), -1).mean(axis=1)


def test_pixels_are_replaced_by_the_background():
    image = np.arange(1.0, 25.0).reshape(3, 4, 2)
    background = -np.arange(1.0, 25.0).reshape(3, 4, 2)
    got = []

    def predict(x):
        got.append(x)
        return mean_of(x)

    shown = np.zeros((2, 12), dtype=bool)
    shown[1, 5] = True  # row 1, column 1
    values = masker_game(predict, image, background)(shown)
    expected = np.stack([background, background])
    expected[1, 1, 1] = image[1, 1]
    np.testing.assert_array_equal(got[0], expected)
    np.testing.assert_allclose(values, mean_of(expected))


@pytest.mark.parametrize("axes", [(1, 2), (-2, -1)])
def test_channels_first_is_the_same_game(axes):
    rng = np.random.default_rng(4)
    image, background = rng.normal(size=(2, 3, 4, 2))
    shown = rng.random((6, 12)) < 0.5
    last = masker_game(lambda x: x[:, 1, 2, 0] + x[:, 2, 0, 1], image, background)
    first = masker_game(
        lambda x: x[:, 0, 1, 2] + x[:, 1, 2, 0],
        image.transpose(2, 0, 1),
        background.transpose(2, 0, 1),
        pixel_axes=axes,
    )
    np.testing.assert_array_equal(first(shown), last(shown))
    assert len(set(last(shown))) > 1


def test_values_are_averaged_over_a_set_of_backgrounds():
    rng = np.random.default_rng(5)
    image, sets = rng.normal(size=(2, 2)), rng.normal(size=(3, 2, 2))
    shown = rng.random((5, 4)) < 0.5
    game = masker_game(lambda x: np.exp(x.sum(axis=(1, 2))), image, sets)
    each = [masker_game(lambda x: np.exp(x.sum(axis=(1, 2))), image, b)(shown) for b in sets]
    np.testing.assert_allclose(game(shown), np.mean(each, axis=0))


@pytest.mark.parametrize("background", [0.25, [0.1, 0.2, 0.3], np.zeros((4, 1, 1, 3))])
def test_backgrounds_are_broadcast_and_keep_the_dtype_of_the_image(background):
    image = np.ones((2, 2, 3), dtype=np.float32)
    dtypes = set()

    def predict(x):
        dtypes.add(x.dtype)
        return x[:, 0, 0, 2].astype(float)

    value = masker_game(predict, image, background)(np.zeros((1, 4), dtype=bool))
    assert value == pytest.approx(np.ravel(background)[-1], abs=1e-7)
    assert dtypes == {np.dtype(np.float32)}


def test_an_integer_image_keeps_its_dtype():
    image = np.full((2, 2), 200, dtype=np.uint8)
    seen = []
    game = masker_game(lambda x: seen.append(x) or np.zeros(len(x)), image, 128)
    game(np.array([[True, False, False, False]]))
    assert seen[0].dtype == np.uint8
    np.testing.assert_array_equal(seen[0], [[[200, 128], [128, 128]]])


def test_a_curve_over_the_pixels_of_an_image():
    image = np.array([[1.0, 2.0], [3.0, 4.0]])[..., None]
    game = masker_game(lambda x: x.sum(axis=(1, 2, 3)), image, 0.0)
    curve = deletion_curve(game, image[..., 0], batch_size=2)
    np.testing.assert_array_equal(curve.values, [10, 6, 3, 1, 0])
    assert curve.mae() == 0.0


# Errors.


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attribution": []}, r"attribution: got shape \(0,\); expected at least one element"),
        ({"attribution": [1.0, np.nan]}, "attribution: got NaN or infinite numbers; expected fin"),
        ({"attribution": [1.0, -np.inf]}, "attribution: got NaN or infinite numbers"),
        ({"steps": 0}, "steps: got 0; expected a whole number of at least 1"),
        ({"steps": 2.5}, "steps: got 2.5; expected a whole number"),
        ({"steps": True}, "steps: got True; expected a whole number"),
        ({"steps": "many"}, "steps: got 'many'; expected a whole number"),
        ({"rule": "simpson"}, "rule: got 'simpson'; expected one of 'trapezoid' or 'midpoint'"),
        ({"ties": "first"}, "ties: got 'first'; expected one of 'together' or 'random'"),
        (
            {"rule": "midpoint", "ties": "together"},
            "ties: got 'together' with the midpoint rule; expected 'random'.*Use rule='trapezoid'",
        ),
        ({"batch_size": 0}, "batch_size: got 0; expected a whole number of at least 1"),
        ({"weights": [1.0]}, r"weights: got shape \(1,\); expected one for each of the 2 elements"),
        ({"weights": [1.0, 0.0]}, "weights: got the weight 0; expected numbers above 0"),
        ({"weights": [1.0, -2.0]}, "weights: got the weight -2"),
        ({"weights": [1.0, np.inf]}, "weights: got NaN or infinite numbers"),
        (
            {"game": lambda shown: shown.astype(float)},
            r"game: got an output of shape \(3, 2\) for a batch of 3; "
            r"expected \(3,\) or \(3, 1\), one value for each row. Select one output",
        ),
        ({"game": lambda _: 1.0}, r"game: got an output of shape \(\) for a batch of 3"),
        (
            {"game": lambda shown: np.full(len(shown), np.nan)},
            "output of game: got NaN or infinite numbers",
        ),
    ],
)
def test_curves_refuse_what_they_cannot_use(make, options, message):
    options = {"game": additive([1.0, 2.0]), "attribution": [1.0, 2.0], **options}
    with pytest.raises(PatchShapError, match=message):
        make(options.pop("game"), options.pop("attribution"), **options)


def test_an_unknown_form_is_refused():
    with pytest.raises(PatchShapError, match="form: got 'raw'; expected one of 'plain', 'cl"):
        hand_curve([0, 1], 0.0, 1.0).auc("raw")


@pytest.mark.parametrize(
    ("form", "rescaled", "what"),
    [
        ("plain", True, "rescaled"),
        ("clipped", True, "rescaled"),
        ("clipped", False, "clipped"),
        ("adjusted", False, "adjusted"),
    ],
)
def test_a_curve_without_a_range_has_only_a_plain_area(form, rescaled, what):
    curve = hand_curve([0.5, 1.5, 0.5], 0.5, 0.5)
    message = (
        f"{what} curve: got 0.5 for both the empty and the full coalition; expected two "
        r"different values; without a range the rescaled curve is undefined. Use auc\('plain'\)"
    )
    with pytest.raises(PatchShapError, match=message):
        curve.auc(form, rescaled)
    assert curve.auc() == 1.0


@pytest.mark.parametrize(
    ("attribution", "truth", "message"),
    [
        ([1.0, 2.0], [[True, False]], r"truth: got shape \(1, 2\); expected \(2,\), that of the"),
        ([1.0, np.nan], [True, False], "attribution: got NaN or infinite numbers"),
        ([1.0, 2.0], [1.0, np.nan], "truth: got NaN or infinite numbers"),
        ([1.0, 2.0], [False, False], "truth: got no true element; expected at least one"),
        ([], [], "truth: got no true element"),
    ],
)
def test_iou_refuses_what_it_cannot_use(attribution, truth, message):
    with pytest.raises(PatchShapError, match=message):
        max_iou(attribution, truth)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": np.full((2, 2, 3), np.nan)}, "image: got NaN or infinite numbers"),
        ({"image": np.zeros((0, 2, 3))}, r"image: got shape \(0, 2, 3\); expected at least one"),
        ({"background": np.inf}, "background: got NaN or infinite numbers"),
        (
            {"background": np.zeros((3, 3))},
            r"background: got shape \(3, 3\); expected one that broadcasts to \(2, 2, 3\), or a "
            r"set \(S, \*\(2, 2, 3\)\)",
        ),
        ({"background": np.zeros((0, 2, 2, 3))}, r"background: got shape \(0, 2, 2, 3\)"),
        ({"background": np.zeros((1, 1, 2, 2, 3))}, r"background: got shape \(1, 1, 2, 2, 3\)"),
        (
            {"image": np.zeros((2, 2, 3), np.uint8), "background": 127.5},
            "background: got numbers that uint8 cannot hold; expected .* convert the image",
        ),
        ({"image": np.zeros((2, 2, 3), np.uint8), "background": 1e300}, "that uint8 cannot hold"),
        ({"image": np.zeros((2, 2, 3), np.uint8), "background": -1.0}, "that uint8 cannot hold"),
        (
            {"pixel_axes": (1, 0)},
            r"pixel_axes: got \(1, 0\) for an image of shape \(2, 2, 3\); expected two ascending "
            r"axes of the image. Use \(0, 1\) for channels last",
        ),
        ({"pixel_axes": (1, 3)}, r"pixel_axes: got \(1, 3\)"),
        ({"pixel_axes": (-4, 1)}, r"pixel_axes: got \(-4, 1\)"),
        ({"pixel_axes": (0,)}, r"pixel_axes: got \(0,\)"),
        ({"predict": lambda x: x}, r"predict: got an output of shape \(2, 2, 2, 3\) for a batch"),
        ({"predict": lambda x: mean_of(x) + np.nan}, "output of predict: got NaN"),
        ({"shown": np.ones((2, 3), bool)}, r"coalitions: got shape \(2, 3\); expected \(m, 4\)"),
        ({"shown": np.ones(4, bool)}, r"coalitions: got shape \(4,\); expected \(m, 4\)"),
    ],
)
def test_the_game_over_pixels_refuses_what_it_cannot_use(options, message):
    options = {"predict": mean_of, "image": np.zeros((2, 2, 3)), "background": 0.0, **options}
    shown = options.pop("shown", np.ones((2, 4), bool))
    with pytest.raises(PatchShapError, match=message):
        masker_game(**options)(shown)
