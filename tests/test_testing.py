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


def with_values(change):
    """A plan whose values are changed."""

    class Changed(BothEnds):
        def estimate(self, values, *, n_guides=0):
            found = super().estimate(values, n_guides=n_guides)
            change(found)
            return found

    return lambda self, n_players, budget, seed: Changed(n_players, budget)


def with_noise(found):
    noise = np.random.normal(size=(len(found.values), 1))  # noqa: NPY002
    found.values[:] += noise - noise.mean()


def twice(found):
    found.values[:] *= 2


def negative(found):
    found.error_std[:] = -1


def by_company(self, forward, request, *args):
    """Values that depend on how many inputs there are."""
    found = BothEndsShap._run(self, forward, request, *args)
    for e in found["estimates"]:
        e.values[:] *= len(found["estimates"])
    return found


def by_batch_size(self, forward, request, *args):
    found = BothEndsShap._run(self, forward, request, *args)
    for e in found["estimates"]:
        e.values[:] *= request.batch_size
    return found


def by_outputs(self, forward, request, *args):
    found = BothEndsShap._run(self, forward, request, *args)
    for e in found["estimates"]:
        e.values[:] *= request.n_explained
    return found


def once_more(self, forward, request, *args):
    """Asks the model once more than it may."""
    forward(tuple(x[:1] for x in request.inputs.inputs), torch.zeros(1, dtype=torch.long))
    return BothEndsShap._run(self, forward, request, *args)


def in_training_mode(self, forward, request, *args):
    self.model.train()
    return BothEndsShap._run(self, forward, request, *args)


def drawing(self, *args):
    torch.rand(1)
    return BothEndsShap._run(self, *args)


def writing(self, inputs, *args, **options):
    found = BothEndsShap.attribute(self, inputs, *args, **options)
    (inputs[0] if isinstance(inputs, tuple) else inputs.detach()).add_(1)
    return found


def of_double(self, *args, **options):
    return BothEndsShap.attribute(self, *args, **options).double()


def without_checks(self, inputs, *args, n_samples=40, **options):
    return BothEndsShap.attribute(self, inputs, *args, n_samples=40, **options)


def in_other_order(self, *args, **options):
    found = BothEndsShap.explain_players(self, *args, **options)
    found.values = found.values[:, ::-1]
    return found


BROKEN = [
    ("_plan", with_values(with_noise), "repeats_with_a_seed", "the same seed gives other values"),
    ("_plan", with_values(with_noise), "leaves_random_states_alone", "a global random state has"),
    ("_plan", with_values(twice), "adds_up", "the convergence delta is not 0"),
    ("_plan", with_values(twice), "knows_linear_games", "a LinearGame are wrong after 40 eval"),
    ("_plan", with_values(negative), "has_the_shapes_and_dtypes", "error_std is negative"),
    ("_run", by_company, "ignores_other_inputs", "the other inputs of a batch change values"),
    ("_run", by_batch_size, "ignores_the_batch_size", "batch_size changes values"),
    ("_run", by_outputs, "ignores_other_outputs", "the other outputs that are explained change"),
    ("_run", once_more, "keeps_the_budget", r"\d+ evaluations, of which it says \["),
    (
        "_run",
        in_training_mode,
        "leaves_everything_as_it_was",
        "a model in training mode is not run",
    ),
    ("_run", drawing, "leaves_random_states_alone", "a global random state has changed"),
    ("attribute", writing, "leaves_everything_as_it_was", "the inputs have changed"),
    (
        "attribute",
        of_double,
        "has_the_shapes_and_dtypes",
        "attribute gave torch.float64 for float32",
    ),
    ("attribute", of_double, "is_of_both_families", "attribute begins with"),
    ("attribute", without_checks, "refuses_what_does_not_fit", "no error about n_samples"),
    (
        "explain_players",
        in_other_order,
        "has_one_answer_on_both_faces",
        "shap_values do not add up",
    ),
    ("__repr__", lambda self: "<explainer>", "has_a_repr_to_read", "without Broken and _Net"),
    ("_options", lambda self: {}, "saves_and_loads", "load kept seed=0 and output_names=None"),
]


def test_a_class_of_somebody_else_passes():
    check_explainer(BothEndsShap, shapley=False)


@pytest.mark.parametrize(
    ("method", "change", "check", "message"), BROKEN, ids=[f"{b[0]}-{b[2]}" for b in BROKEN]
)
def test_a_broken_promise_is_told(method, change, check, message, monkeypatch):
    kind = type("Broken", (BothEndsShap,), {method: change, "__module__": __name__})
    monkeypatch.setitem(globals(), "Broken", kind)  # where pickle looks it up
    (chosen,) = (c for c in explainer_checks(kind, shapley=False) if c.name == check)
    with pytest.raises(AssertionError, match=message):
        chosen()


def test_all_broken_promises_are_named_together(monkeypatch):
    kind = type("Broken", (BothEndsShap,), {"_plan": with_values(twice), "__module__": __name__})
    monkeypatch.setitem(globals(), "Broken", kind)
    with pytest.raises(AssertionError, match="broken promises:") as caught:
        check_explainer(kind, shapley=False)
    told = [line.split(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert told == ["- adds_up", "- knows_linear_games"]


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
