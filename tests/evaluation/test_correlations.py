from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from xai_patchshap import PatchShapError
from xai_patchshap.evaluation.correlations import (
    faithfulness,
    random_coalitions,
    rank_correlation,
    sensitivity_n,
)


def sensitivity_3(game, attribution, **options):
    return sensitivity_n(game, attribution, 3, **options)


BOTH = pytest.mark.parametrize("metric", [sensitivity_3, faithfulness])
W = np.random.default_rng(0).normal(size=8)


def additive(weights, base: float = 0.0):
    return lambda shown: base + shown @ np.asarray(weights, dtype=float)


class Recorder:
    """A game that keeps the coalitions it was asked for."""

    def __init__(self, game):
        self.game, self.asked = game, []

    def __call__(self, shown):
        self.asked.append(shown.copy())
        return self.game(shown)

    @property
    def coalitions(self):
        return np.concatenate(self.asked)


@BOTH
def test_an_additive_game_is_ranked_without_error(metric):
    assert metric(additive(W), W) == 1.0
    assert metric(additive(W), -W) == -1.0
    # Any increasing scale of the values has the same ranks.
    assert metric(lambda shown: np.exp(3 + shown @ W), 10 * W) == 1.0


@BOTH
@pytest.mark.parametrize("base", [0.0, 1e3])
def test_equal_sums_are_ties_in_spite_of_rounding(metric, base):
    w = np.array([0.1, 0.2, 0.3, 0.3, 0.2, 0.1, 0.4])
    assert metric(additive(w[::-1], base), w[::-1]) == 1.0
    assert metric(lambda shown: base + np.cumsum(shown * w, axis=1)[:, -1], w) == 1.0


@BOTH
def test_the_correlation_is_spearmans(metric):
    rng = np.random.default_rng(1)
    table = rng.normal(size=256)
    game = Recorder(lambda shown: table[shown @ (1 << np.arange(8))])
    found = metric(game, W, n_coalitions=200)
    shown = game.coalitions
    assert found == pytest.approx(spearmanr(shown @ W, game.game(shown)).statistic, abs=1e-12)


def test_two_players_by_hand():
    # The two coalitions of one player: 5 beside an attribution of 1, and 3 beside 2.
    def game(shown):
        return shown @ [5.0, 3.0]

    assert sensitivity_n(game, [1.0, 2.0], 1) == -1.0
    assert sensitivity_n(game, [2.0, 1.0], 1) == 1.0


def test_rank_correlation_by_hand():
    # Ranks 1 3 2 4 against 1 2 3 4: 1 - 6 * (1 + 1) / (4 * 15) = 0.8.
    x, y = np.arange(4.0), np.array([0.0, 9.0, 2.0, 10.0])
    assert rank_correlation(x, y) == pytest.approx(0.8, abs=1e-15)
    # The ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert rank_correlation(np.array([0.0, 1, 1, 2]), x) == pytest.approx(np.sqrt(0.9))


def test_rank_correlation_takes_many_at_once():
    x, y = np.random.default_rng(2).integers(0, 5, (2, 3, 4, 20)).astype(float)
    found = rank_correlation(x, y)
    assert found.shape == (3, 4)
    for i in np.ndindex(3, 4):
        assert found[i] == pytest.approx(spearmanr(x[i], y[i]).statistic, abs=1e-12)


@BOTH
def test_constant_sides(metric):
    def constant(shown):
        return np.full(len(shown), 0.3)

    assert metric(additive(W), np.zeros(8)) == 0.0
    assert np.isnan(metric(constant, W))
    assert np.isnan(metric(constant, np.zeros(8)))


def test_equal_attributions_tell_sizes_apart_and_no_more():
    equal = np.full(8, 0.1)
    assert sensitivity_n(additive(W), equal, 4) == 0.0
    assert faithfulness(lambda shown: shown.sum(1), equal) == 1.0


@pytest.mark.parametrize("n", [1, 3, 7])
def test_sizes_of_sensitivity_n(n):
    game = Recorder(additive(W))
    sensitivity_n(game, W, n, n_coalitions=400)
    assert game.coalitions.shape == (400, 8)
    assert (game.coalitions.sum(1) == n).all()
    # Each player is in a share n / 8 of them, give or take four standard errors.
    assert np.allclose(game.coalitions.mean(0), n / 8, atol=4 * 0.5 / 20)


def test_sizes_of_faithfulness_are_uniform():
    game = Recorder(additive(W))
    faithfulness(game, W, n_coalitions=9000)
    counts = np.bincount(game.coalitions.sum(1), minlength=9)
    assert len(counts) == 9
    assert np.allclose(counts, 1000, atol=4 * np.sqrt(1000))


def test_random_coalitions_have_the_sizes_asked_for():
    found = random_coalitions(5, 2, 100, 0)
    assert found.dtype == bool
    assert found.shape == (100, 5)
    assert (found.sum(1) == 2).all()
    assert set(random_coalitions(5, None, 100, 0).sum(1)) == set(range(6))


@BOTH
def test_the_seed_decides(metric):
    def game(shown):
        return np.sin(5 * (shown @ W))

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    found = [metric(game, W, n_coalitions=30, seed=s) for s in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@BOTH
def test_batches_change_nothing(metric):
    def game(shown):
        return np.sin(np.cumsum(shown * W, axis=1)[:, -1:])

    found = set()
    for size in (1, 7, 100, 1000):
        recorder = Recorder(game)
        found.add(metric(recorder, W, n_coalitions=100, batch_size=size))
        assert max(map(len, recorder.asked)) == min(size, 100)
    assert len(found) == 1


@BOTH
def test_a_game_may_write_into_its_coalitions(metric):
    def game(shown):
        values = shown @ W
        shown[:] = False
        return values

    assert metric(game, W) == 1.0


@BOTH
def test_attributions_of_any_shape(metric):
    assert metric(additive(W), W.reshape(2, 4)) == 1.0
    assert metric(additive(W), W.tolist()) == 1.0


@given(st.integers(2, 12), st.integers(0, 2**31), st.booleans())
def test_the_complement_gives_the_published_form(n_players, seed, normal):
    # Loss by removing R against the sum over R, with S the players that stay.
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=n_players) if normal else rng.integers(-2, 3, n_players).astype(float)
    table = rng.normal(size=2**n_players)
    size = int(rng.integers(1, n_players))
    shown = random_coalitions(n_players, size, 50, seed)
    values = table[shown @ (1 << np.arange(n_players))]
    here = rank_correlation(shown @ phi, values)
    published = rank_correlation(~shown @ phi, table[-1] - values)
    np.testing.assert_allclose(here, published, atol=1e-12)


@pytest.mark.parametrize(
    ("attribution", "options", "message"),
    [
        ([1.0], {}, r"attribution: got shape \(1,\); expected at least two players"),
        ([1.0, np.nan], {}, "attribution: got NaN or infinite numbers; expected finite numbers"),
        (W, {"n_coalitions": 1}, "n_coalitions: got 1; expected a whole number of at least 2"),
        (W, {"n_coalitions": 2.5}, "n_coalitions: got 2.5; expected a whole number of at least 2"),
        (W, {"batch_size": 0}, "batch_size: got 0; expected a whole number of at least 1"),
    ],
)
@BOTH
def test_bad_arguments(metric, attribution, options, message):
    with pytest.raises(PatchShapError, match=message):
        metric(additive(W), attribution, **options)


@pytest.mark.parametrize("n", [0, 8, -1, 1.5, True, "4"])
def test_sizes_without_a_choice_are_refused(n):
    message = f"n: got {n!r}; expected a whole number of at least 1 and at most 7, of 8 players. T"
    with pytest.raises(PatchShapError, match=message):
        sensitivity_n(additive(W), W, n)


@BOTH
def test_bad_games(metric):
    with pytest.raises(PatchShapError, match=r"game: got an output of shape \(64, 2\) for a batch"):
        metric(lambda shown: np.zeros((len(shown), 2)), W)
    with pytest.raises(PatchShapError, match="output of game: got NaN or infinite numbers"):
        metric(lambda shown: np.full(len(shown), np.nan), W)
