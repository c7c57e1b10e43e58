"""The report of explanations' quality, and the methods that it compares."""

from __future__ import annotations

import copy
import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchvision
from tests import helpers
from torch import nn

from xai_patchshap import PatchMasker, PatchShapError, TokenDropping
from xai_patchshap.amortized import ShapleyViT, explained_variance, shapley_values
from xai_patchshap.evaluation import (
    attention,
    deletion_curve,
    faithfulness,
    insertion_curve,
    other_methods,
    sensitivity_n,
)
from xai_patchshap.evaluation.compare import Protocol, Scorer, attributed
from xai_patchshap.evaluation.image_games import ImageGames
from xai_patchshap.evaluation.network_methods import METHODS, Explanations, Linked
from xai_patchshap.evaluation.report import QualityReport, _classes, quality_report
from xai_patchshap.models.named_model import ScoredImages

CLASS_TOKEN = {"class_token": True, "global_pool": "token"}
KINDS = {
    "average": {},
    "class token": CLASS_TOKEN,
    "registers": {**CLASS_TOKEN, "reg_tokens": 2},
    "class token, average": {"class_token": True, "global_pool": "avg"},
    "normalised queries and keys": {"qk_norm": True},
}
EVERY_KIND = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
SMALL = {"reference_budget": 400, "budgets": (20, 60), "n_coalitions": 30, "progress": False}
SCORES = ("r2", "correlation", "insertion", "deletion", "sensitivity_n", "faithfulness")


tiny_vit = partial(helpers.tiny_vit, deviation=0.2, head=1.0, embed_dim=32, depth=3)


def tiny_network(model=None, **options):
    """With random predictions, in evaluation mode."""
    network = ShapleyViT(tiny_vit() if model is None else model, n_frozen=1, **options)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        nn.init.normal_(network.head[2].weight, std=0.05)
    return network.eval()


IMAGES = helpers.random_images(3)


@pytest.fixture(scope="module")
def network():
    return tiny_network()


@pytest.fixture(scope="module")
def report(network):
    return quality_report(network, IMAGES, **SMALL)


def only(report, method, kind="target", scorer="surrogate"):
    wanted = (method, kind, scorer)
    (row,) = [r for r in report.rows if (r["method"], r["class"], r["scorer"]) == wanted]
    return row


def scores_of(rows):
    return np.array([[np.nan if r[s] is None else r[s] for s in SCORES] for r in rows])


def game_of(network, i, c):
    """Game of one output of one image, as numpy knows it; hidden patches are NaN."""

    def game(shown):
        keep = torch.tensor(shown).reshape(-1, 1, 4, 4)
        keep = keep.repeat_interleave(4, 2).repeat_interleave(4, 3)
        with torch.no_grad():
            x = torch.where(keep, IMAGES[i], torch.nan)
            return network.link(network.surrogate(x))[:, c].double().numpy()

    return game


def explanations(network, classes=((0, 1), (1, 2), (2, 0)), budgets=(20, 60)):
    games = ImageGames(
        Linked(network, network.surrogate), PatchMasker(background="drop"), IMAGES, classes
    )
    reference = np.zeros((len(IMAGES), 16, len(classes[0])))
    return Explanations(network, games, reference, None, budgets, 0)


# Attention.


@EVERY_KIND
def test_attention_is_that_of_the_model(options):
    vit = tiny_vit(**options)
    with torch.no_grad():
        for name, p in vit.named_parameters():
            if "qkv" in name or "q_norm" in name or "k_norm" in name:
                p.mul_(5)  # attention is otherwise almost uniform
    found = attention.attention_matrices(ScoredImages(vit), IMAGES)
    tokens = 16 + vit.num_prefix_tokens
    assert found.shape == (3, 3, tokens, tokens)
    assert torch.allclose(found.sum(-1), torch.ones(()), atol=1e-6)
    assert found.min() >= 0
    # Without fused attention the softmax itself passes through the dropout of attention.
    open_vit, seen = copy.deepcopy(vit), []
    for block in open_vit.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, x, __: seen.append(x[0].mean(1)))
    with torch.no_grad():
        open_vit(IMAGES)
    assert torch.allclose(found, torch.stack(seen, 1), atol=1e-6)
    assert found.std(-1).mean() > 0.005


@EVERY_KIND
def test_rollout_is_the_product_of_all_layers(options):
    vit = tiny_vit(**options)
    layers = attention.attention_matrices(vit, IMAGES).double().numpy()
    found = attention.attention_rollout(vit, IMAGES)
    last = attention.last_attention(vit, IMAGES)
    prefix = vit.num_prefix_tokens
    one = np.eye(16 + prefix)
    for i in range(3):
        a, b, c = (0.5 * layer + 0.5 * one for layer in layers[i])
        flow = np.linalg.multi_dot([c, b, a])
        queries = slice(0, 1) if vit.global_pool == "token" else slice(prefix, None)
        np.testing.assert_allclose(found[i], flow[queries, prefix:].mean(0), atol=1e-6)
        np.testing.assert_allclose(last[i], layers[i, -1][queries, prefix:].mean(0), atol=1e-6)


def test_attention_leaves_no_hooks():
    vit = tiny_vit()
    attention.attention_rollout(vit, IMAGES)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.modules())
    with pytest.raises(RuntimeError):
        attention.last_attention(vit, IMAGES[:, :1])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.modules())


def test_attention_of_other_models_is_refused():
    torchvisions = torchvision.models.VisionTransformer(16, 4, 1, 2, 8, 8)
    with pytest.raises(PatchShapError, match="model: got torchvision's VisionTransformer"):
        attention.last_attention(torchvisions, IMAGES)
    with pytest.raises(PatchShapError, match="model: got Linear with 0 vision transformers"):
        attention.last_attention(nn.Linear(2, 2), IMAGES)
    parallel = tiny_vit(block_fn=timm.models.vision_transformer.ParallelScalingBlock)
    message = "model: got blocks of type ParallelScalingBlock; expected blocks with timm's Attent"
    with pytest.raises(PatchShapError, match=message):
        attention.attention_rollout(parallel, IMAGES)


# Gradients.


def patch_sums(x):
    return x.reshape(-1, 3, 4, 4, 4, 4).sum((1, 3, 5)).flatten(1)


def gradients(method, forward, seed=0, budget=500, background=0.0, **options):
    masker = PatchMasker(players=4, background=background)
    games = ImageGames(forward, masker, IMAGES, [[1], [0], [1]], **options)
    return torch.tensor(attributed(method, games, budget=budget, seed=seed).values[..., 0]).float()


def test_gradients_of_a_linear_model_keep_their_signs():
    w = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))

    def forward(x):
        value = (x * w).flatten(1).sum(1)
        return torch.stack([value, -2 * value], 1)

    scale = torch.tensor([-2.0, 1.0, -2.0])[:, None]
    slope, product = scale * patch_sums(w), scale * patch_sums(w * IMAGES)
    expected = {
        "saliency": slope, "input_x_gradient": product,
        "integrated_gradients": product, "smoothgrad": slope,
    }  # fmt: skip
    for method, truth in expected.items():
        assert torch.allclose(gradients(method, forward), truth, atol=1e-4), method


def test_gradients_of_a_square():
    def forward(x):
        return (x**2).sum((1, 2, 3))[:, None].expand(-1, 2)

    assert torch.allclose(gradients("saliency", forward), 2 * patch_sums(IMAGES), rtol=1e-5)
    squares = patch_sums(IMAGES**2)
    assert torch.allclose(gradients("input_x_gradient", forward), 2 * squares, rtol=1e-5)
    assert torch.allclose(gradients("integrated_gradients", forward), squares, rtol=1e-4)
    # The mean of 48 pixels and 50 draws of noise, of deviation 0.15 and slope 2.
    noise = gradients("smoothgrad", forward) - 2 * patch_sums(IMAGES)
    assert noise.std() == pytest.approx(2 * 0.15 * np.sqrt(48 / 50), rel=0.3)


def test_noise_depends_on_the_seed_alone(network):
    def forward(x):
        return network.link(network.surrogate.model(x))

    before = torch.get_rng_state()
    found = [gradients("smoothgrad", forward, batch_size=b, seed=s) for b, s in
             ((64, 0), (1, 0), (64, 1))]  # fmt: skip
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-7)
    assert not torch.allclose(found[0], found[2], rtol=1e-2)
    assert torch.equal(torch.get_rng_state(), before)


GRADIENTS = ["integrated_gradients", "saliency", "input_x_gradient", "smoothgrad"]


@pytest.mark.parametrize("method", GRADIENTS)
def test_gradients_come_out_the_same_in_any_batches(method, network):
    def forward(x):
        return network.link(network.surrogate.model(x))

    found = [gradients(method, forward, batch_size=b) for b in (1, 64, 1000)]
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert torch.allclose(found[0], found[2], atol=1e-5)
    assert not IMAGES.requires_grad


def test_integrated_gradients_start_from_the_background():
    def forward(x):
        return (x**2).sum((1, 2, 3))[:, None].expand(-1, 2)

    found = gradients("integrated_gradients", forward, background=0.5)
    assert torch.allclose(found, patch_sums(IMAGES**2 - 0.25), rtol=1e-4, atol=1e-4)


def test_unknown_methods():
    with pytest.raises(PatchShapError, match="methods: got 'LRP'; expected one of"):
        gradients("LRP", lambda x: x.mean((2, 3)))


# Perturbation.


def test_leave_one_out_by_hand(network):
    made = explanations(network)
    ((name, evaluations, found),) = made.of("leave_one_out")
    assert (name, evaluations) == ("leave_one_out", 17)
    for i, c in np.ndindex(3, 2):
        game = game_of(network, i, made.games.outputs[i, c])
        full, without = game(np.ones((1, 16), bool)), game(~np.eye(16, dtype=bool))
        np.testing.assert_allclose(found[i, :, c], full - without, atol=1e-6)


def test_random_masks_by_hand():
    asked = []

    def games(shown):
        asked.append(shown)
        table = np.random.default_rng(0).normal(size=(2, 16, 3))
        return table[:, shown @ (1 << np.arange(4))]

    found = other_methods.rise(games, 4, 25, seed=3)
    (masks,) = asked
    values = games(masks)
    assert masks.shape == (25, 4)
    for n, i, k in np.ndindex(2, 4, 3):
        shown = [v for v, mask in zip(values[n, :, k], masks, strict=True) if mask[i]]
        assert found[n, i, k] == pytest.approx(np.mean(shown))
    # With one mask, players that it hides get the mean.
    assert np.ptp(other_methods.rise(games, 4, 1), axis=1).max() == 0
    # An additive game's own ranks come out of many masks.
    w = np.arange(4.0)
    many = other_methods.rise(lambda s: (s @ w)[None, :, None], 4, 20000)[0, :, 0]
    np.testing.assert_allclose(many, w.sum() / 2 + w / 2, atol=0.05)


def test_random_masks_are_not_the_coalitions_that_score_them(network):
    # With the seed of the metrics the first draws would be the same.
    made = explanations(network)
    ((name, evaluations, found),) = made.of("rise")
    assert (name, evaluations) == ("rise at 60", 60)
    np.testing.assert_array_equal(found, other_methods.rise(made.games, 16, 60, seed=3))
    assert not np.allclose(found, other_methods.rise(made.games, 16, 60, seed=0))


# Shapley values.


def test_estimates_are_those_of_the_package(network):
    made = explanations(network, budgets=(20, 61))
    picks = made.games.outputs[:, None]
    for (name, evaluations, found), m in zip(made.of("kernel_shap"), (20, 61), strict=True):
        # A coalition without its complement is not evaluated.
        assert (name, evaluations) == (f"kernel_shap at {m}", m - m % 2)
        truth = shapley_values(network, IMAGES, m, seed=2)
        np.testing.assert_allclose(found, np.take_along_axis(truth, picks, 2), atol=1e-6)
    ((_, evaluations, predicted),) = made.of("vit_shapley_amortized")
    assert evaluations == 1
    with torch.no_grad():
        truth = network(IMAGES)[0].numpy()
    np.testing.assert_allclose(predicted, np.take_along_axis(truth, picks, 2), atol=1e-6)


def test_refinements_follow_the_ridge(network):
    strict, loose = tiny_network(), tiny_network()
    strict.ridge, loose.ridge = 1e12, 1e-9
    ((_, _, predicted),) = explanations(network).of("vit_shapley_amortized")
    kernel = next(explanations(network, budgets=(400,)).of("kernel_shap"))[2]
    name, evaluations, found = list(explanations(strict).of("refined"))[1]
    assert (name, evaluations) == ("refined at 60", 61)
    np.testing.assert_allclose(found, predicted, atol=1e-6)
    found = next(explanations(loose, budgets=(400,)).of("refined"))[2]
    np.testing.assert_allclose(found, kernel, atol=1e-5)
    assert np.abs(kernel - predicted).max() > 1e-2


# The report.


def test_every_method_is_scored_for_both_classes(report):
    labels = []
    for method in METHODS:
        at = {"refined": (20, 60), "kernel_shap": (20, 60), "rise": (60,)}.get(method, ())
        labels += [f"{method} at {m}" for m in at] or [method]
    pairs = [(label, kind) for label in labels for kind in ("target", "non-target")]
    assert [(r["method"], r["class"]) for r in report.rows] == pairs
    assert {r["scorer"] for r in report.rows} == {"surrogate"}
    assert np.isfinite(scores_of(report.rows)).all()
    evaluations = {r["method"]: r["evaluations"] for r in report.rows}
    assert evaluations == dict(zip(
        labels, [400, 1, 21, 61, 20, 60, 17, 60, 1, 1, 50, 50, 1, 1, 0], strict=True,
    ))  # fmt: skip


def test_the_reference_agrees_with_itself(report):
    for kind in ("target", "non-target"):
        row = only(report, "reference", kind)
        assert row["r2"] == 1.0
        assert row["correlation"] == pytest.approx(1.0, abs=1e-12)
        assert only(report, "random", kind)["correlation"] < 0.6
        # What the estimates are for: more evaluations, closer values.
        few, many = (only(report, f"kernel_shap at {m}", kind)["r2"] for m in (20, 60))
        assert few < many < 1


def test_scores_are_those_of_the_metrics(network):
    reference = np.random.default_rng(0).normal(size=(3, 16, 3))
    found = quality_report(network, IMAGES, reference=reference, methods=["reference"], **SMALL)
    with torch.no_grad():
        target = network.surrogate.model(IMAGES).argmax(1).tolist()
    truth = []
    for i, c in enumerate(target):
        game, phi = game_of(network, i, c), reference[i, :, c]
        truth.append([
            insertion_curve(game, phi, steps=16).values.mean(),
            deletion_curve(game, phi, steps=16).values.mean(),
            np.mean([sensitivity_n(game, phi, n, n_coalitions=30) for n in (4, 8, 12)]),
            faithfulness(game, phi, n_coalitions=30),
        ])  # fmt: skip
    row = only(found, "reference")
    scores, truth = [row[s] for s in SCORES[2:]], np.mean(truth, axis=0)
    np.testing.assert_allclose(scores[:2], truth[:2], atol=1e-6)
    # Rounding, which differs between batches, swaps ranks that are nearly tied.
    np.testing.assert_allclose(scores[2:], truth[2:], atol=1e-3)
    assert (row["evaluations"], found.settings["reference"]) == (None, "given")
    assert found.settings["sizes"] == [4, 8, 12]


def test_agreement_is_that_of_calibration(network, report):
    truth = shapley_values(network, IMAGES, 400, seed=1)
    with torch.no_grad():
        values, full = network(IMAGES)
    target = full.argmax(1).numpy()[:, None, None]
    phi, truth = (np.take_along_axis(x, target, 2)[..., 0] for x in (values.numpy(), truth))
    row = only(report, "vit_shapley_amortized")
    assert row["r2"] == pytest.approx(explained_variance(phi, truth), abs=1e-5)
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(phi, truth, strict=True)]
    assert row["correlation"] == pytest.approx(np.mean(correlations), abs=1e-5)


def test_good_attributions_win(network):
    reference = shapley_values(network, IMAGES, 400)
    best = quality_report(network, IMAGES, reference=reference, methods=["reference"], **SMALL)
    worst = quality_report(network, IMAGES, reference=-reference, methods=["reference"], **SMALL)
    for kind in ("target", "non-target"):
        good, bad = only(best, "reference", kind), only(worst, "reference", kind)
        assert good["insertion"] > bad["insertion"]
        assert good["deletion"] < bad["deletion"]
        assert good["sensitivity_n"] == pytest.approx(-bad["sensitivity_n"])
        assert good["sensitivity_n"] > 0.2


def test_ties_are_broken_differently_for_each_image(network):
    games, asked = explanations(network).games, {}

    class Spying:
        n_players = 16

        def values(self, coalitions):
            asked.update(coalitions)
            return games.values(coalitions)

    Scorer(Spying(), Protocol(16, "random", n_coalitions=0))(np.zeros((3, 16, 2)))
    shown = np.stack([asked[i] for i in range(3)])
    assert (shown[:, :17].sum(2) == np.arange(17)).all()
    assert (shown[:, :17] == ~shown[:, 17:]).all()
    assert not np.array_equal(shown[0], shown[1])


def test_the_classifier_scores_too(network):
    other = tiny_vit(seed=5)
    methods = ["vit_shapley_amortized", "random"]
    found = quality_report(network, IMAGES, classifier=other, methods=methods, **SMALL)
    alone = quality_report(network, IMAGES, methods=methods, **SMALL)
    assert [r for r in found.rows if r["scorer"] == "surrogate"] == alone.rows
    rows = [r for r in found.rows if r["scorer"] == "classifier"]
    assert len(rows) == len(alone.rows)
    assert all(r["r2"] is None and r["correlation"] is None for r in rows)
    # The surrogate as its own classifier scores the same.
    same = quality_report(network, IMAGES, classifier=tiny_vit(), methods=methods, **SMALL)
    rows = [r for r in same.rows if r["scorer"] == "classifier"]
    np.testing.assert_array_equal(scores_of(rows)[:, 2:], scores_of(alone.rows)[:, 2:])


@pytest.mark.slow
def test_the_seed_decides(network, report):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert quality_report(network, IMAGES, **SMALL) == report
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    other = quality_report(network, IMAGES, seed=1, **SMALL)
    assert not np.allclose(scores_of(other.rows), scores_of(report.rows))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_batches_change_nothing_but_rounding(network, report, batch_size, monkeypatch):
    # Images in groups, too.
    monkeypatch.setattr("xai_patchshap.evaluation.compare._ROWS", 100)
    monkeypatch.setattr("xai_patchshap.evaluation.network_methods._MOST_NUMBERS", 2500)
    found = quality_report(network, IMAGES, batch_size=batch_size, **SMALL)
    np.testing.assert_allclose(scores_of(found.rows), scores_of(report.rows), rtol=1e-3, atol=2e-3)


@pytest.mark.slow
def test_the_models_stay_as_they_are(network):
    classifier = tiny_vit(seed=5).requires_grad_(True)
    models = [network, classifier]
    before = copy.deepcopy([m.state_dict() for m in models])
    grads = [p.requires_grad for m in models for p in m.parameters()]
    images = IMAGES.clone()
    quality_report(network, images, classifier=classifier, **SMALL)
    for model, old in zip(models, before, strict=True):
        assert all(torch.equal(v, old[k]) for k, v in model.state_dict().items())
        assert not any(m.training for m in model.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert grads == [p.requires_grad for m in models for p in m.parameters()]
    assert all(p.grad is None for m in models for p in m.parameters())
    assert torch.equal(images, IMAGES)
    assert not images.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("options", [CLASS_TOKEN, {"num_classes": 2}], ids=["class token", "two"])
def test_other_transformers(options):
    network = tiny_network(tiny_vit(**options), probability=False)
    found = quality_report(network, IMAGES, **SMALL)
    assert np.isfinite(scores_of(found.rows)).all()
    assert found.settings["outputs"] == network.n_outputs
    assert found.settings["probability"] is False


def test_one_output_has_no_other_class():
    found = quality_report(tiny_network(tiny_vit(num_classes=1)), IMAGES, **SMALL)
    assert {r["class"] for r in found.rows} == {"target"}
    assert "Non-target" not in found.as_table()


def test_targets_can_be_given(network):
    with torch.no_grad():
        predicted = network.surrogate.model(IMAGES).argmax(1)
    options = {"methods": ["vit_shapley_amortized"], **SMALL}
    found = quality_report(network, IMAGES, targets=predicted, **options)
    assert found.rows == quality_report(network, IMAGES, **options).rows
    assert found.settings["targets"] == "given"
    other = quality_report(network, IMAGES, targets=(predicted + 1) % 3, **options)
    assert only(other, "vit_shapley_amortized") != only(found, "vit_shapley_amortized")


def test_other_classes_are_never_the_target(network):
    images = helpers.random_images(200)
    for targets in ("predicted", torch.arange(200) % 3):
        found = _classes(network, images, targets, 0, 64)
        assert (found[:, 0] != found[:, 1]).all()
    assert set(found[:, 1].tolist()) == {0, 1, 2}


def test_equal_attributions_say_nothing():
    # A new network predicts the equal split.
    network = ShapleyViT(tiny_vit()).eval()
    row = only(
        quality_report(network, IMAGES, methods=["vit_shapley_amortized"], **SMALL),
        "vit_shapley_amortized",
    )
    assert row["correlation"] == 0.0
    assert row["sensitivity_n"] == 0.0
    assert abs(row["r2"]) < 0.2


@pytest.mark.slow
def test_constant_games_have_no_ranks(tmp_path):
    vit = tiny_vit()
    nn.init.zeros_(vit.head.weight)
    found = quality_report(ShapleyViT(vit).eval(), IMAGES, **SMALL)
    for row in found.rows:
        assert row["correlation"] is row["sensitivity_n"] is row["faithfulness"] is None
        assert row["insertion"] == pytest.approx(row["deletion"])
    found.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == found.rows


def test_reports_survive_json(report, tmp_path):
    report.save(str(tmp_path / "report.json"))
    again = json.loads((tmp_path / "report.json").read_text())
    assert QualityReport(**again) == report
    assert again["settings"] == {
        "images": 3, "patches": 16, "outputs": 3, "probability": True, "ridge": None,
        "reference": 400, "targets": "predicted", "sizes": [4, 8, 12], "coalitions": 30, "seed": 0,
    }  # fmt: skip


def test_the_table_holds_all_rows(network):
    methods = ["vit_shapley_amortized", "saliency"]
    found = quality_report(network, IMAGES, classifier=tiny_vit(), methods=methods, **SMALL)
    table = found.as_table()
    titles = [line for line in table.split("\n") if line and not line.startswith("|")]
    assert titles == [
        f"{kind} class, scored by the {scorer}"
        for scorer in ("surrogate", "classifier")
        for kind in ("Target", "Non-target")
    ]
    blocks = [b.split("\n") for b in table.split("\n\n") if b.startswith("|")]
    assert [len(b) for b in blocks] == [4] * 4
    assert all(len({len(line) for line in b}) == 1 for b in blocks)
    cells = [c.strip() for c in blocks[0][2].strip("|").split("|")]
    row = only(found, "vit_shapley_amortized")
    assert cells == ["vit_shapley_amortized", "1", *(f"{row[s]:.3f}" for s in SCORES)]
    assert [c.strip() for c in blocks[2][2].strip("|").split("|")][2:4] == ["-", "-"]


def test_very_large_numbers_stay_short():
    row = {"method": "x", "evaluations": None, "class": "target", "scorer": "surrogate"}
    row |= dict.fromkeys(SCORES, -123456.7)
    assert "| -1.2e+05 |" in QualityReport([row], {}).as_table()


def test_progress_is_shown_if_asked(network, capsys):
    options = {**SMALL, "methods": ["random"]}
    quality_report(network, IMAGES, **options)
    assert capsys.readouterr().err == ""
    quality_report(network, IMAGES, **{**options, "progress": True})
    assert "random" in capsys.readouterr().err


def test_reduced_precision(network, report):
    found = quality_report(network, IMAGES, autocast=torch.bfloat16, methods=["reference"], **SMALL)
    a, b = only(found, "reference"), only(report, "reference")
    assert a["insertion"] != b["insertion"]
    assert a["insertion"] == pytest.approx(b["insertion"], abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": IMAGES[0]}, r"images: got shape \(3, 16, 16\); expected \(N, 3, 16, 16\) with"),
        ({"images": IMAGES[:0]}, r"images: got shape \(0, 3, 16, 16\); expected"),
        ({"images": IMAGES[..., :8]}, r"images: got shape \(3, 3, 16, 8\); expected"),
        ({"methods": ["vit_shapley_amortized", "LRP"]}, "methods: got 'LRP'; expected one of"),
        ({"methods": []}, "methods: got none; expected some of"),
        ({"budgets": ()}, "budgets: got none; expected at least one"),
        ({"budgets": (64, 1)}, "budgets: got 1; expected a whole number of at l"),
        ({"reference_budget": 1}, "reference_budget: got 1; expected a whole number of at least 2"),
        ({"n_coalitions": 1}, "n_coalitions: got 1; expected a whole number of at least 2"),
        ({"batch_size": 0}, "batch_size: got 0; expected a whole number of at least 1"),
        ({"targets": "true"}, "targets: got 'true'; expected 'predicted', or a tensor"),
        ({"targets": torch.zeros(2, dtype=torch.int64)}, r"targets: got torch.int64 of shape \(2,"),
        ({"targets": torch.tensor([0, 1, 3])}, "expected whole numbers from 0 to 2, one for each"),
        (
            {"targets": torch.zeros(3)},
            r"targets: got torch.float32 of shape \(3,\); expected whole",
        ),
        ({"reference": np.zeros((3, 16))}, r"reference: got shape \(3, 16\); expected finite num"),
        (
            {"reference": np.full((3, 16, 3), np.nan)},
            r"expected finite numbers of shape \(3, 16, 3",
        ),
        ({"classifier": tiny_vit(num_classes=5)}, r"classifier: got outputs \(1, 5\); expected"),
        ({"classifier": tiny_vit(patch_size=8)}, r"classifier: got patches of \(8, 8\) pixels; ex"),
        ({"classifier": nn.Linear(2, 2).eval()}, "model: got Linear with 0 vision transformers"),
        ({"classifier": tiny_vit().train()}, "classifier: got a model in training mode; .*Call cl"),
    ],
)
def test_bad_arguments(network, options, message):
    options = {"images": IMAGES, **SMALL, **options}
    with pytest.raises(PatchShapError, match=message):
        quality_report(network, options.pop("images"), **options)


def test_a_network_in_training_is_refused():
    with pytest.raises(PatchShapError, match=r"network: got .*mode; .* Call network\.eval\(\)\."):
        quality_report(tiny_network().train(), IMAGES, **SMALL)


def test_the_surrogate_drops_tokens(network):
    # The games are those of TokenDropping, as everywhere.
    shown = np.random.default_rng(0).random((5, 16)) < 0.5
    found = explanations(network).games(shown)
    for i in range(3):
        game = game_of(network, i, (0, 1, 2)[i])
        np.testing.assert_allclose(found[i, :, 0], game(shown), atol=1e-6)
    assert isinstance(network.surrogate, TokenDropping)
