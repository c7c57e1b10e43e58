"""Outputs of any magnitude, constant outputs, and sizes beyond memory."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_patchshap import PatchShapError, _validation
from xai_patchshap.estimators import (
    ExactShapley,
    GaussianProcessInteractions,
    GaussianProcessShap,
    KernelShap,
    OwenForest,
    PairSampler,
    RegressionInteractions,
    interaction_estimator,
)
from xai_patchshap.players.trees import axis_tree, linkage_tree

N = 6
SAMPLED = {
    "kernel-shap": partial(KernelShap, N),
    "gaussian-process": partial(GaussianProcessShap, N),
    "interactions": partial(GaussianProcessInteractions, N, index="k-SII"),
    "faith-shap": partial(RegressionInteractions, N, index="FSII"),
    "faith-banzhaf": partial(RegressionInteractions, N, index="FBII"),
    "kernel-shap-iq": partial(RegressionInteractions, N, index="k-SII"),
}
# Outputs of unlike units share what the process learns, in proportion to how much they vary.
EACH_FOR_ITSELF = ("kernel-shap", "faith-shap", "faith-banzhaf", "kernel-shap-iq", "owen")


def game(coalitions):
    """Two outputs (m, 2) with main effects and interactions."""
    rng = np.random.default_rng(0)
    z = np.asarray(coalitions, dtype=float)
    return np.tanh(z @ rng.normal(size=(N, 2))) + 0.2 * z @ rng.normal(size=(N, 2))


def owen(values, budget):
    """Owen values over two trees, from a function of coalitions."""
    ends = np.array([[False] * N, [True] * N])
    labels = np.arange(N).reshape(2, 3)
    order = [[0, 5], [1, 4], [2, 3], [6, 7], [8, 9]]
    trees = [axis_tree(labels), linkage_tree(order)]
    forest = OwenForest(trees, *values(ends), head_start=6)
    while len(asked := forest.ask(budget - forest.n_coalitions)):
        forest.tell(values(asked))
    return forest.estimate()


def explained(kind, budget, values):
    """Values and errors (f, K) of a function of coalitions."""
    if kind == "owen":
        found = owen(values, budget)
    else:
        estimator = ExactShapley(N) if kind == "exact" else SAMPLED[kind](budget)
        found = estimator.estimate(values(estimator.coalitions))
    parts = [found.values, found.error_std]
    return [np.concatenate(p) if isinstance(p, tuple) else p for p in parts]


def same(found, expected, scale, rtol=1e-7):
    size = np.abs(expected[0]).max(axis=0)
    for one, other in zip(found, expected, strict=True):
        known = np.isfinite(other)
        assert np.array_equal(known, np.isfinite(one))
        gap = np.where(known, one, 0) / scale - np.where(known, other, 0)
        assert (np.abs(gap) <= rtol * size).all()


KINDS = [*SAMPLED, "exact", "owen"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None)
@given(st.sampled_from([10, 20, 30, 64]), st.floats(-300, 300), st.booleans())
def test_values_and_errors_scale_with_the_outputs(kind, budget, exponent, negative):
    scale = 10.0**exponent * (-1 if negative else 1)
    expected = explained(kind, budget, game)
    found = explained(kind, budget, lambda z: scale * game(z))
    same([found[0], np.sign(scale) * found[1]], expected, scale, rtol=1e-5)


@pytest.mark.parametrize("kind", EACH_FOR_ITSELF)
@pytest.mark.parametrize("scale", [[1e300, 1e-300], [1e155, 1e-155], [4e307, 1.0]])
def test_outputs_of_unlike_magnitudes_do_not_disturb_each_other(kind, scale):
    for k in range(2):
        expected = explained(kind, 30, lambda z, k=k: game(z)[:, [k]])
        alone = explained(kind, 30, lambda z, k=k: game(z)[:, [k]] * scale[k])
        same(alone, expected, scale[k])
        if kind != "owen":  # whose branches are opened by what is at stake for all outputs
            found = explained(kind, 30, lambda z: game(z) * scale)
            same([f[:, [k]] for f in found], expected, scale[k])


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_numbers_and_small_games_beside_a_large_constant(kind):
    expected = explained(kind, 30, game)
    found = explained(kind, 30, lambda z: 1e-315 * game(z))
    same([np.nan_to_num(f, posinf=np.inf) for f in found], expected, 1e-315, rtol=1e-3)
    found = explained(kind, 30, lambda z: 1e12 + game(z))
    same(found[:1], expected[:1], 1.0, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [0.1, 1 / 3, 0.0, -1e300, 1e-310])
def test_a_constant_output_has_no_values_and_no_errors(kind, constant):
    def values(z):
        return np.column_stack([np.full(len(z), constant), game(z)[:, 0]])

    for budget in (20, 30):
        found = explained(kind, budget, values)
        assert not found[0][:, 0].any()
        assert not found[1][:, 0].any()
        assert found[0][:, 1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_is_constant_up_to_rounding(kind):
    def values(z):
        return np.where(np.asarray(z)[:, [0]], 0.1, np.nextafter(0.1, 1.0))

    found = explained(kind, 30, values)
    assert np.abs(found[0]).max() <= 2e-17
    assert not found[1].any()


@pytest.mark.parametrize("kind", ["kernel-shap", "gaussian-process"])
def test_a_constant_game_is_explained_in_spite_of_a_guess(kind):
    estimator = SAMPLED[kind](30)
    found = estimator.estimate(np.full(30, 0.1), prior=np.arange(6.0))
    assert not found.values.any()
    assert not found.error_std.any()


def test_too_few_coalitions_do_not_tell_that_a_game_is_constant():
    assert np.isinf(KernelShap(N, 6).estimate(np.full(6, 0.1)).error_std).all()


def test_differences_beyond_the_range_of_numbers_are_refused():
    estimator = KernelShap(N, 20)
    values = np.where(estimator.coalitions[:, 0], 1.7e308, -1.7e308)
    with pytest.raises(PatchShapError, match="beyond the range of float64"):
        estimator.estimate(values)


# ----- sizes -------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [10**12, 2**63, 2**70, np.int64(10**12), np.uint64(2**63)])
@pytest.mark.parametrize("kind", [KernelShap, GaussianProcessShap, RegressionInteractions])
def test_a_budget_beyond_memory_is_refused_at_once_unless_players_are_few(kind, budget):
    with pytest.raises(PatchShapError, match=r"budget: got .* evaluations of 60 players, .* GiB"):
        kind(60, budget)
    assert len(kind(4, budget).coalitions) == 16


def test_what_solving_takes_counts_too(monkeypatch):
    monkeypatch.setattr(_validation, "free_memory", lambda: 2**30)
    KernelShap(30, 20_000)
    with pytest.raises(PatchShapError, match=r"at most the 1\.0 GiB of memory that are free"):
        GaussianProcessShap(30, 20_000)
    with pytest.raises(PatchShapError, match="20,000 evaluations of 30 players"):
        RegressionInteractions(30, 20_000, "FSII", 3)


@pytest.mark.parametrize(("n", "order"), [(30, 10**9), (200, 4), (10_000, 2), (10_000, 9000)])
def test_too_many_interactions_are_refused_at_once(n, order):
    with pytest.raises(PatchShapError, match=r"order: got|interactions"):
        interaction_estimator(n, 50, order=order)


def test_budgets_that_are_no_whole_numbers():
    for budget in (1e3, True, "100", -(10**12)):
        with pytest.raises(PatchShapError, match="budget: got"):
            KernelShap(N, budget)
    with pytest.raises(PatchShapError, match=r"expected between 0 and about 2\*\*"):
        PairSampler(20_000).take(-1)


def test_rows_of_many_players_are_the_same_however_many_are_drawn_at_once(monkeypatch):
    from xai_patchshap.estimators.coalitions import sampled_pairs as sampling

    expected = PairSampler(40, 3).take(300)[0]
    monkeypatch.setattr(sampling, "_ENTRIES", 40)
    sampler = PairSampler(40, 3)
    sampler.take(17)
    np.testing.assert_array_equal(sampler.take(300)[0], expected)


def test_a_large_design_is_solved_as_a_small_one(monkeypatch):
    from xai_patchshap.estimators.shapley import pair_regression

    z = KernelShap(30, 400).coalitions
    weights = np.random.default_rng(0).normal(size=(30, 3))
    values = np.column_stack([np.tanh(z @ weights[:, :2] / 3), z @ weights[:, 2]])
    for budget in (20, 50, 70, 400):  # fewer pairs than players, hardly more, many more
        expected = KernelShap(30, budget).estimate(values[:budget])
        with monkeypatch.context() as m:
            m.setattr(pair_regression, "_SMALL", 0)
            m.setattr(pair_regression, "_CHUNK_ENTRIES", 100)
            found = KernelShap(30, budget).estimate(values[:budget])
        np.testing.assert_allclose(found.values, expected.values, atol=1e-10)
        np.testing.assert_allclose(found.error_std, expected.error_std, atol=1e-7)
