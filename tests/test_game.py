from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xai_patchshap import PatchShapError
from xai_patchshap.game import Game, Request
from xai_patchshap.masking.coalition_inputs import CoalitionInputs

X = torch.arange(1.0, 13.0).reshape(3, 4)


def bound(n_backgrounds=1):
    backgrounds = torch.arange(float(n_backgrounds))[:, None, None].expand(-1, 1, 4)
    return CoalitionInputs((X,), (backgrounds,), (torch.tensor([[0, 0, 1, 2]]),), (3, 3, 3))


def game_of(forward, n_backgrounds=1, batch_size=8, **options):
    return Game(forward, Request(bound(n_backgrounds), batch_size=batch_size, **options))


def forward(inputs, _examples):
    return torch.stack([inputs[0].sum(1), inputs[0].prod(1)], dim=1)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 10**6))
def test_values_are_means_over_backgrounds_whatever_the_batch(batch_size, s, seed):
    rng = np.random.default_rng(seed)
    wanted = {i: rng.random((int(rng.integers(1, 6)), 3)) < 0.5 for i in (2, 0)}
    sizes = []

    def counted(inputs, examples):
        sizes.append(len(inputs[0]))
        return forward(inputs, examples)

    game = game_of(counted, s, batch_size)
    values = game.evaluate(wanted)
    for i, coalitions in wanted.items():
        for z, v in zip(coalitions, values[i], strict=True):
            shown = torch.from_numpy(z)[torch.tensor([0, 0, 1, 2])]
            rows = torch.stack([torch.where(shown, X[i], torch.tensor(float(b))) for b in range(s)])
            np.testing.assert_allclose(v, forward((rows,), None).double().mean(0), rtol=1e-6)
        assert game.evaluations[i] == s * len(coalitions)
    assert game.evaluations[1] == 0
    # Full batches throughout: coalitions of all examples share them.
    assert max(sizes) <= batch_size
    assert all(size == batch_size for size in sizes[:-1])


def test_full_coalitions_whose_values_are_known_are_not_evaluated_again():
    rows = []

    def counted(inputs, examples):
        rows.append(len(examples))
        return forward(inputs, examples)

    game = game_of(counted, 3, 2, whole=forward((X,), None), link=np.sqrt)
    np.testing.assert_allclose(game.full_values, np.sqrt(forward((X,), None)))
    assert game.evaluations.tolist() == [1, 1, 1]
    wanted = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
    values = game.evaluate({1: wanted})[1]
    np.testing.assert_array_equal(values[[0, 2]], game.full_values[[1, 1]])
    assert sum(rows) == 6
    assert game.evaluations.tolist() == [1, 7, 1]
    assert game.n_coalitions(1) == 3
    again = game_of(forward, 3, 2, link=np.sqrt).evaluate({1: wanted})[1]
    np.testing.assert_allclose(values, again, rtol=1e-6)


def test_selected_outputs_differ_between_examples():
    game = game_of(forward, columns=np.array([[0], [1], [0]]))
    values = game.evaluate({i: np.ones((1, 3), dtype=bool) for i in range(3)})
    assert [float(values[i][0, 0]) for i in range(3)] == [10.0, 5 * 6 * 7 * 8, 42.0]


def test_outputs_of_any_shape_are_selected_by_their_place():
    def maps(inputs, _examples):
        return inputs[0].reshape(-1, 2, 2)

    game = game_of(maps, columns=np.array([[3], [0], [2]]))
    values = game.evaluate({i: np.ones((1, 3), dtype=bool) for i in range(3)})
    assert [float(values[i][0, 0]) for i in range(3)] == [4.0, 5.0, 11.0]


def test_guides_that_are_not_finite_stop_nothing():
    def model(inputs, _examples):
        return torch.stack([inputs[0].sum(1), 1 / (inputs[0].sum(1) * 0)], dim=1)

    columns = np.tile([0, 1], (3, 1))
    game = game_of(model, columns=columns, n_guides=1)
    assert game.evaluate({0: np.ones((1, 3), dtype=bool)})[0].tolist() == [[10.0, 0.0]]
    with pytest.raises(PatchShapError, match="NaN or infinite outputs for the whole image"):
        game_of(model, columns=columns).evaluate({0: np.ones((1, 3), dtype=bool)})


def test_the_link_applies_to_the_average():
    game = game_of(forward, 2, link=np.log1p)
    value = game.evaluate({0: np.zeros((1, 3), dtype=bool)})[0]
    np.testing.assert_allclose(value, [np.log1p([2.0, 0.5])])


def test_interruption_keeps_what_is_finished():
    calls = []

    def stubborn(inputs, examples):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(inputs, examples)

    game = game_of(stubborn, 1, 4)
    values = game.evaluate({i: np.ones((5, 3), dtype=bool) for i in range(3)})
    assert game.interrupted
    # Eight of fifteen, and no example is ahead of another by more than one.
    assert sorted(len(v) for v in values.values()) == [2, 3, 3]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            lambda x: x.sum(),
            r"model: got an output of shape \(\) for a batch of 3; expected \(3, K\)",
        ),
        (lambda x: x[:2], r"output of shape \(2, 4\) for a batch of 3"),
        (lambda x: x[:, None], r"output of shape \(3, 1, 4\)"),
        (lambda x: x[:, :0], r"output of shape \(3, 0\)"),
        (
            lambda x: x * float("nan"),
            "model: got NaN or infinite outputs for the whole image; expected finite numbers",
        ),
    ],
)
def test_what_the_model_returns_is_checked_at_once(output, message):
    calls = []

    def model(inputs, _examples):
        calls.append(1)
        return output(inputs[0])

    with pytest.raises(PatchShapError, match=message):
        game_of(model).evaluate({i: np.ones((1, 3), dtype=bool) for i in range(3)})
    assert len(calls) == 1


def test_a_changing_number_of_outputs_and_a_bad_batch_size():
    widths = iter([2, 3])
    game = game_of(lambda x, _: torch.zeros(len(x[0]), next(widths)))
    one = {0: np.ones((1, 3), dtype=bool)}
    game.evaluate(one)
    with pytest.raises(PatchShapError, match="model: got 3 outputs; expected 2 as before"):
        game.evaluate(one)
    with pytest.raises(
        PatchShapError, match="batch size: got 0; expected a whole number of at least 1"
    ):
        game_of(forward, 1, 0)


def test_coalitions_of_a_size_are_evaluated_together_if_asked():
    rng = np.random.default_rng(0)
    wanted = {i: rng.random((50, 3)) < 0.5 for i in (0, 2)}
    sizes = []

    def watched(inputs, examples):
        sizes.append((inputs[0] != 0).sum(1).tolist())
        return forward(inputs, examples)

    plain, sorted_ = (game_of(watched, 1, 10, by_size=by_size) for by_size in (False, True))
    expected = plain.evaluate(wanted)
    sizes.clear()
    found = sorted_.evaluate(wanted)
    for i in wanted:
        np.testing.assert_array_equal(found[i], expected[i])
    assert np.mean([len(set(batch)) for batch in sizes]) < 2.5


def test_what_is_interrupted_in_the_middle_of_sorted_batches_is_lost():
    calls = []

    def stops(inputs, examples):
        calls.append(len(examples))
        if len(calls) == 40:
            raise KeyboardInterrupt
        return forward(inputs, examples)

    rng = np.random.default_rng(0)
    wanted = {i: rng.random((60, 3)) < 0.5 for i in (0, 1)}
    expected = game_of(forward, 1, 2).evaluate(wanted)
    game = game_of(stops, 1, 2, by_size=True)
    found = game.evaluate(wanted)
    assert game.interrupted
    for i in wanted:
        assert len(found[i]) == 32  # 32 batches of 2, an example's half of them
        np.testing.assert_array_equal(found[i], expected[i][:32])


@pytest.mark.parametrize("columns", [None, np.array([[1], [0], [1]])])
def test_every_batch_has_one_row_for_each_input(columns):
    def longer(inputs, examples):
        out = forward(inputs, examples)
        return torch.cat([out, out[:1]]) if len(out) == 2 else out

    whole = forward((X,), None)
    coalitions = {i: np.zeros((1, 3), dtype=bool) for i in range(3)}
    game = game_of(longer, 1, 2, whole=whole, columns=columns)
    with pytest.raises(PatchShapError, match=r"an output of shape \(3, 2\) for a batch of 2"):
        game.evaluate(coalitions)
    turned = game_of(lambda x, e: forward(x, e).T, 1, 3, whole=whole, columns=columns)
    with pytest.raises(PatchShapError, match=r"an output of shape \(2, 3\) for a batch of 3"):
        turned.evaluate(coalitions)
