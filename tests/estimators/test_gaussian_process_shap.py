"""Shapley values from a Gaussian process, as an estimator and in PatchKernelShap."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xai_patchshap import PatchKernelShap, PatchMasker, PatchShapError
from xai_patchshap.estimators import (
    ExactShapley,
    GaussianProcessShap,
    KernelShap,
    shapley_estimator,
)


def table_of(n: int, seed: int) -> np.ndarray:
    """A saturating game in which few players matter; bit i of a row's number is player i."""
    rng = np.random.default_rng(seed)
    z = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(float)
    strength = rng.random(n) ** 3
    pairs = rng.normal(size=(n, n)) * np.outer(strength, strength)
    inside = z @ (3 * strength * rng.normal(size=n)) + np.einsum("ai,ij,aj->a", z, pairs, z)
    return 1 / (1 + np.exp(-inside))


def values_of(table: np.ndarray, coalitions: np.ndarray) -> np.ndarray:
    return table[coalitions @ (1 << np.arange(coalitions.shape[1]))]


def error(estimator, table: np.ndarray, truth: np.ndarray) -> float:
    found = estimator.estimate(values_of(table, estimator.coalitions)).values[:, 0]
    return float(np.mean((found - truth) ** 2) / truth.var())


@pytest.mark.parametrize(("n", "budget"), [(6, 30), (16, 100), (49, 300), (196, 500)])
def test_additive_games_are_recovered(n, budget):
    estimator = GaussianProcessShap(n, budget)
    weights = np.random.default_rng(n).normal(size=n)
    found = estimator.estimate(3.0 + estimator.coalitions @ weights)
    exact = budget > 2 * n  # as many pairs as players
    np.testing.assert_allclose(found.values[:, 0], weights, atol=1e-12 if exact else 1e-5)
    if exact:
        assert found.error_std.max() < 1e-12
    assert found.base_values == pytest.approx(3.0)


@pytest.mark.parametrize("budget", [2, 3, 9, 40, 200])
def test_values_add_up_at_every_budget(budget):
    table = table_of(10, 1)
    estimator = GaussianProcessShap(10, budget)
    found = estimator.estimate(values_of(table, estimator.coalitions))
    np.testing.assert_allclose(found.values.sum(0), found.full_values - found.base_values)
    assert found.n_coalitions <= budget
    assert np.isinf(found.error_std).all() == (budget < 10)


def test_all_coalitions_give_exact_values():
    table = table_of(7, 2)
    exact = ExactShapley(7)
    truth = exact.estimate(values_of(table, exact.coalitions)).values
    found = (estimator := GaussianProcessShap(7, 128)).estimate(
        values_of(table, estimator.coalitions)
    )
    assert found.exact
    np.testing.assert_allclose(found.values, truth, atol=1e-12)


@pytest.mark.parametrize("budget", [64, 256, pytest.param(1024, marks=pytest.mark.slow)])
def test_fewer_evaluations_do_than_for_kernel_shap(budget):
    exact, ratios = ExactShapley(12), []
    for seed in range(4):
        table = table_of(12, seed)
        truth = exact.estimate(values_of(table, exact.coalitions)).values[:, 0]
        ours, theirs = (
            np.mean([error(kind(12, budget, s), table, truth) for s in range(3)])
            for kind in (GaussianProcessShap, KernelShap)
        )
        ratios.append(ours / theirs)
    assert np.median(ratios) < 0.5


def test_patch_kernel_shap_takes_it_by_name():
    def model(x):
        parts = torch.stack([x[:, 0, :4].mean((1, 2)), x[:, 0, 4:].mean((1, 2))], 1)
        return torch.stack([parts.prod(1), parts.sum(1)], 1)

    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    masker = PatchMasker((4, 4))
    explainer = PatchKernelShap(model, masker, estimator="gaussian-process")
    found = explainer.explain_players(images, max_evals=300, silent=True)
    truth = PatchKernelShap(model, masker).explain_players(images, max_evals=2**16, silent=True)
    np.testing.assert_allclose(found.values, truth.values, atol=2e-4)
    one = explainer.explain_players(images, max_evals=300, outputs=[1], silent=True)
    np.testing.assert_allclose(one.values[..., 0], found.values[..., 1], rtol=1e-9, atol=1e-12)


def test_refuses_an_estimator_that_does_not_exist():
    message = "estimator: got 'lime'; expected one of"
    with pytest.raises(PatchShapError, match=message):
        PatchKernelShap(lambda x: x, estimator="lime")
    with pytest.raises(PatchShapError, match=message):
        shapley_estimator(4, 10, estimator="lime")


def test_many_outputs_share_their_parameters():
    """Of one output and its multiples, the shared parameters are its own."""
    z = (estimator := GaussianProcessShap(8, 120)).coalitions
    game = z[:, 0] * z[:, 1] + 0.3 * z[:, 2] * z[:, 3] * z[:, 4] + z @ np.linspace(0, 0.5, 8)
    alone = estimator.estimate(game)
    factors = np.r_[np.linspace(-2, 3, 19), 0.0]
    many = estimator.estimate(np.outer(game, factors) + 5)
    np.testing.assert_allclose(many.values, alone.values * factors, atol=1e-5)
    np.testing.assert_allclose(many.error_std, alone.error_std * np.abs(factors), atol=1e-4)
    # Additive outputs are exact among others that are not.
    mixed = estimator.estimate(np.c_[np.outer(game, factors[:17]), z @ np.arange(8.0)])
    np.testing.assert_allclose(mixed.values[:, -1], np.arange(8.0), atol=1e-9)


def test_refuses_more_players_than_weights_can_count():
    with pytest.raises(PatchShapError, match="players: got 1001; expected at most 1,000"):
        GaussianProcessShap(1001, 20)


def test_rounding_does_not_stop_the_factor():
    from xai_patchshap.estimators.process.kernel import cholesky

    column = np.linspace(1, 2, 5)[:, None]
    singular = column @ column.T - 1e-9 * np.eye(5)
    factor = cholesky(singular.copy)
    np.testing.assert_allclose(np.tril(factor) @ np.tril(factor).T, singular, atol=1e-6)
    with pytest.raises(PatchShapError, match=r"not positive definite.*kernel-shap"):
        cholesky(lambda: -np.eye(3))
