from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xai_patchshap import PatchShapError
from xai_patchshap.game import Game
from xai_patchshap.masking.coalition_inputs import CoalitionInputs

X = torch.arange(1.0, 13.0).reshape(3, 4)


def bound(n_backgrounds=1):
    backgrounds = torch.arange(float(n_backgrounds))[:, None, None].expand(-1, 1, 4)
    return CoalitionInputs((X,), (backgrounds,), (torch.tensor([[0, 0, 1, 2]]),), (3, 3, 3))


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

    game = Game(counted, bound(s), batch_size)
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


def test_the_full_coalition_costs_one_evaluation_whatever_the_backgrounds():
    game = Game(forward, bound(3), 2)
    np.testing.assert_allclose(game.full_values(), forward((X,), None))
    assert game.evaluations.tolist() == [1, 1, 1]


def test_selected_outputs_differ_between_examples():
    game = Game(forward, bound(), 8)
    game.select(np.array([[0], [1], [0]]))
    values = game.evaluate({i: np.ones((1, 3), dtype=bool) for i in range(3)})
    assert [float(values[i][0, 0]) for i in range(3)] == [10.0, 5 * 6 * 7 * 8, 42.0]


def test_the_link_applies_to_the_average():
    game = Game(forward, bound(2), 8, link=np.log1p)
    value = game.evaluate({0: np.zeros((1, 3), dtype=bool)})[0]
    np.testing.assert_allclose(value, [np.log1p([2.0, 0.5])])


def test_interruption_keeps_what_is_finished():
    calls = []

    def stubborn(inputs, examples):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(inputs, examples)

    game = Game(stubborn, bound(), 4)
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
        Game(model, bound(), 8).full_values()
    assert len(calls) == 1


def test_a_changing_number_of_outputs_and_a_bad_batch_size():
    widths = iter([2, 3])
    game = Game(lambda x, _: torch.zeros(len(x[0]), next(widths)), bound(), 8)
    game.full_values()
    with pytest.raises(PatchShapError, match="model: got 3 outputs; expected 2 as before"):
        game.full_values()
    with pytest.raises(
        PatchShapError, match="batch size: got 0; expected a whole number of at least 1"
    ):
        Game(forward, bound(), 0)


def test_coalitions_of_a_size_are_evaluated_together_if_asked():
    rng = np.random.default_rng(0)
    wanted = {i: rng.random((50, 3)) < 0.5 for i in (0, 2)}
    sizes = []

    def watched(inputs, examples):
        sizes.append((inputs[0] != 0).sum(1).tolist())
        return forward(inputs, examples)

    plain, sorted_ = (Game(watched, bound(), 10) for _ in range(2))
    expected = plain.evaluate(wanted)
    sizes.clear()
    sorted_.by_size = True
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
    expected = Game(forward, bound(), 2).evaluate(wanted)
    game = Game(stops, bound(), 2)
    game.by_size = True
    found = game.evaluate(wanted)
    assert game.interrupted
    for i in wanted:
        assert len(found[i]) == 32  # 32 batches of 2, an example's half of them
        np.testing.assert_array_equal(found[i], expected[i][:32])
