"""The promises, for our four classes and for classes of others; the games with known answers."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import timm
import torch
from torch import nn

from xai_patchshap import InteractionShap, OwenBPT, PatchExplainer, PatchKernelShap, grid_players
from xai_patchshap import ViTShapleyAmortized as Amortized
from xai_patchshap.amortized import ShapleyViT
from xai_patchshap.estimators import Estimate, ExactShapley
from xai_patchshap.estimators.interactions.exact import ExactInteractions
from xai_patchshap.testing import (
    LinearGame,
    OnePixelGame,
    ProductGame,
    ToyGame,
    UnanimityGame,
    check_explainer,
    explainer_checks,
)


def tiny_network():
    """An explainer network of nine patches with random predictions."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        vit = timm.create_model(
            "vit_tiny_patch16_224", img_size=12, patch_size=4, class_token=False,
            global_pool="avg", embed_dim=16, depth=2, num_heads=2, num_classes=4,
        ).eval()  # fmt: skip
        for p in vit.parameters():
            nn.init.normal_(p, std=0.3)
        network = ShapleyViT(vit, n_frozen=1)
        nn.init.normal_(network.head[2].weight, std=0.05)
        return network.eval()


OURS = {
    "PatchKernelShap": explainer_checks(PatchKernelShap),
    "kernel-shap": explainer_checks(partial(PatchKernelShap, estimator="kernel-shap")),
    # Owen values are Shapley values of games without interactions, once the tree is open.
    "OwenBPT": explainer_checks(OwenBPT, linear_budget=512, shapley=False),
    "InteractionShap": explainer_checks(InteractionShap),
    # The surrogate plays the game, and does without hidden patches.
    "ViTShapleyAmortized": explainer_checks(
        Amortized, model=tiny_network(), background="drop", played=lambda m: m.surrogate
    ),
}


@pytest.mark.parametrize(
    "check", [pytest.param(c, id=f"{kind}-{c}") for kind, checks in OURS.items() for c in checks]
)
def test_our_classes_keep_their_promises(check):
    check()


# ----- classes of others -------------------------------------------------------------------


class BothEnds:
    """A player's mean contribution to nobody and to everybody, and its share of what is left."""

    min_coalitions = 2

    def __init__(self, n_players, budget):
        alone = np.eye(n_players, dtype=bool)
        ends = np.array([[False] * n_players, [True] * n_players])
        pairs = np.stack([alone, ~alone], axis=1).reshape(-1, n_players)
        self.coalitions = np.concatenate([ends, pairs])[:budget]

    def estimate(self, values, *, n_guides=0):
        v = values[:, : values.shape[1] - n_guides]
        n, known = self.coalitions.shape[1], (len(v) - 2) // 2
        found = np.tile((v[1] - v[0]) / n, (n, 1))
        inside, outside = v[2 : 2 + 2 * known : 2], v[3 : 3 + 2 * known : 2]
        found[:known] = (inside - v[0] + v[1] - outside) / 2
        found += (v[1] - v[0] - found.sum(axis=0)) / n
        error = np.full_like(found, np.inf)
        return Estimate(found, error, v[0].copy(), v[1].copy(), len(v), exact=False)


class BothEndsShap(PatchExplainer):
    """Somebody's explainer, on what this package offers to subclasses."""

    def _plan(self, n_players, budget, seed):
        return BothEnds(n_players, budget)


class Forgetful(BothEndsShap):
    """Draws from a global generator, and whatever the seed."""

    def _plan(self, n_players, budget, seed):
        plan = BothEnds(n_players, budget)
        exact = plan.estimate
        noise = np.random.normal(size=(n_players, 1))  # noqa: NPY002

        def estimate(values, *, n_guides=0):
            found = exact(values, n_guides=n_guides)
            found.values[:] += noise - noise.mean()
            return found

        plan.estimate = estimate
        return plan


class Spendthrift(BothEndsShap):
    """Asks the model once more than it may."""

    def _run(self, forward, request, *args):
        forward(tuple(x[:1] for x in request.inputs.inputs), torch.zeros(1, dtype=torch.long))
        return super()._run(forward, request, *args)


class Greedy(BothEndsShap):
    """Its values are twice what they are."""

    def _plan(self, n_players, budget, seed):
        plan = BothEnds(n_players, budget)
        exact = plan.estimate

        def estimate(values, *, n_guides=0):
            found = exact(values, n_guides=n_guides)
            found.values[:] *= 2
            return found

        plan.estimate = estimate
        return plan


def test_a_class_of_somebody_else_passes():
    check_explainer(BothEndsShap, shapley=False)


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Forgetful, "repeats_with_a_seed: the same seed gives other values: they differ by up to"),
        (Forgetful, "leaves_random_states_alone: a global random state has changed, with seed=0"),
        (Spendthrift, r"keeps_the_budget: \d+ evaluations, of which it says \["),
        (Greedy, "adds_up: the convergence delta is not 0"),
        (Greedy, "knows_linear_games: the values of a LinearGame are wrong after 40 evaluations"),
    ],
)
def test_a_broken_class_is_told_what_it_broke(kind, broken):
    with pytest.raises(AssertionError, match=broken) as caught:
        check_explainer(kind, shapley=False)
    kept = "takes_every_kind_of_target" if kind is not Forgetful else "keeps_the_budget"
    assert kept not in str(caught.value)


def test_values_that_are_none_of_shapleys_are_found():
    with pytest.raises(AssertionError, match="knows_games_of_all_coalitions: the values of a Unan"):
        check_explainer(BothEndsShap)


def test_what_raises_is_named_too():
    with pytest.raises(AssertionError, match="adds_up: NotImplementedError") as caught:
        check_explainer(PatchExplainer)  # without a plan
    assert isinstance(caught.value.__cause__, NotImplementedError)


def test_a_check_says_what_is_promised():
    first = explainer_checks(PatchKernelShap)[0]
    assert str(first) == first.name == "is_of_both_families"
    assert first.promise.startswith("A Captum attribution that is a shap explainer")


# ----- games -------------------------------------------------------------------------------

GAMES = [
    LinearGame(),
    LinearGame(2, (2, 3), 2),
    UnanimityGame(),
    UnanimityGame((1,)),
    OnePixelGame(),
    OnePixelGame(0, 11),
    ProductGame(),
    ToyGame([((0, 1, 2), [1.0, -2.0]), ((1, 2, 3), [0.5, 3.0]), ((2,), [1.0, 1.0])], (2, 2), 3),
]


@pytest.mark.parametrize("game", GAMES, ids=lambda g: type(g).__name__)
def test_the_answers_are_those_of_full_enumeration(game):
    images = game.images(2, seed=3)
    coalitions = ExactShapley(game.n_players).coalitions
    cells = torch.as_tensor(grid_players(*images.shape[-2:], grid=game.grid).labels)
    for i in range(2):
        seen = torch.as_tensor(coalitions)[:, cells][:, None]
        v = game((images[i] * seen).double()).numpy()
        assert v.shape[1] == game.n_outputs
        exact = ExactShapley(game.n_players).estimate(v)
        np.testing.assert_allclose(game.shapley_values(images)[i], exact.values, atol=1e-6)
        pairs = ExactInteractions(game.n_players, "SII", 2).estimate(v)
        table = game.interactions(images)[i]
        diagonal = np.arange(game.n_players)
        expected = 2 * pairs.matrix()
        expected[diagonal, diagonal] = 0
        np.testing.assert_allclose(table, expected, atol=1e-6)


def test_interaction_shap_finds_the_interactions():
    game = ProductGame()
    images = game.images()
    found = InteractionShap(game, game.masker)(images, max_evals=512, silent=True).values
    off = ~np.eye(9, dtype=bool)
    np.testing.assert_allclose(2 * found[:, off], game.interactions(images)[:, off], atol=1e-5)


def test_images_are_reproducible_and_nowhere_hidden():
    game = LinearGame()
    assert torch.equal(game.images(3, 1), game.images(3, 1))
    assert game.images().min() >= 0.1
