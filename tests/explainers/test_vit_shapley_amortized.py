"""ViTShapleyAmortized: both faces, exact sums, refinement, and what it refuses."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import shap
import timm
import torch
from captum.attr import Attribution, NoiseTunnel, PerturbationAttribution
from captum.metrics import infidelity

from xai_patchshap import PatchKernelShap, PatchMasker, PatchShapError, ViTShapleyAmortized
from xai_patchshap.amortized import ShapleyViT, shapley_values
from xai_patchshap.samples import (
    CIFAR10_CLASSES,
    cifar10_classifier,
    cifar10_images,
    cifar10_path,
)


@pytest.fixture(scope="module")
def network(cifar10_network):
    return cifar10_network


@pytest.fixture(scope="module")
def photographs():
    return cifar10_images()


@pytest.fixture(scope="module")
def images(photographs):
    return photographs[0][:3]


@pytest.fixture(scope="module")
def truth(network, images):
    """Their Shapley values, nearly."""
    return shapley_values(network, images, 3000, control=True, seed=3)


@pytest.fixture
def explainer(network):
    return ViTShapleyAmortized(network)


class Counted(torch.nn.Module):
    """Counts the images that a module sees."""

    def __init__(self, module):
        super().__init__()
        self.module, self.rows = module, 0

    def forward(self, x):
        self.rows += len(x)
        return self.module(x)


def test_it_is_both(explainer):
    assert isinstance(explainer, PerturbationAttribution)
    assert isinstance(explainer, Attribution)
    assert isinstance(explainer, shap.Explainer)
    assert explainer.get_name() == "ViT Shapley Amortized"


def test_values_are_the_networks_and_add_up(explainer, network, images):
    with torch.no_grad():
        values, full = network(images)
    explanation = explainer.explain_players(images)
    assert np.allclose(explanation.values, values, atol=1e-6)
    gap = full.double().numpy() - network.null.double().numpy()
    assert np.allclose(explanation.values.sum(1), gap, atol=1e-12)
    assert np.allclose(explanation.base_values, network.null)
    assert explainer.last_run.evaluations.tolist() == [1, 1, 1]


def test_both_faces_give_the_same_numbers(explainer, images):
    by_class = explainer(images, silent=True)
    assert by_class.values.shape == (3, 32, 32, 3, 10)
    targets = [0, 4, 9]
    attributions = explainer.attribute(images, target=targets)
    assert attributions.shape == images.shape
    for i, target in enumerate(targets):
        per_patch = by_class.values[i, ..., target].reshape(8, 4, 8, 4, 3).sum((1, 3, 4))
        assert np.allclose(attributions[i, 0, ::4, ::4], per_patch, atol=1e-6)
    values = explainer.shap_values(images)
    assert np.allclose(values, np.moveaxis(by_class.values, 3, 1))


def test_channels_last_arrays_and_chosen_outputs(explainer, images):
    array = images.permute(0, 2, 3, 1).numpy()
    every = explainer(array, silent=True).values
    best = explainer(array, outputs=shap.Explanation.argsort.flip[:2], silent=True)
    one = explainer(array, outputs=[7], silent=True)
    assert best.values.shape == (3, 32, 32, 3, 2)
    assert np.allclose(one.values[..., 0], every[..., 7])
    top = np.argsort(-explainer.last_run.estimates[0].full_values)
    assert len(top) == 1


def test_convergence_deltas_vanish(explainer, images):
    attributions, delta = explainer.attribute(
        images, target=[0, 1, 2], return_convergence_delta=True
    )
    assert delta.abs().max() < 1e-6
    again = explainer.compute_convergence_delta(attributions, None, images, target=[0, 1, 2])
    assert again.shape == (3,)
    assert again.abs().max() < 1e-5
    wrong = explainer.compute_convergence_delta(attributions, None, images, target=5)
    assert wrong.abs().max() > 1e-4
    with pytest.raises(PatchShapError, match="start_point: got some; expected None"):
        explainer.compute_convergence_delta(attributions, 0, images, target=0)


@pytest.mark.parametrize("target", [3, [3, 3, 3], torch.tensor([3, 3, 3]), torch.tensor(3)])
def test_every_form_of_target(explainer, images, target):
    expected = explainer.attribute(images, target=3)
    assert torch.equal(explainer.attribute(images, target=target), expected)


@pytest.mark.slow
def test_batches_do_not_matter(explainer, photographs):
    images = photographs[0][:4]
    together = explainer.explain_players(images, max_evals=40, batch_size=3).values
    alone = [explainer.explain_players(x[None], max_evals=40).values[0] for x in images]
    assert np.allclose(together, np.stack(alone), atol=1e-5)


def test_one_explanation_is_one_pass(network, images, monkeypatch):
    calls = []
    predict = type(network).predict

    def counted(self, x):
        calls.append(len(x))
        return predict(self, x)

    monkeypatch.setattr(type(network), "predict", counted)
    explainer = ViTShapleyAmortized(network)
    explainer.attribute(images, target=0)
    explainer(images, silent=True)
    explainer(images, max_evals=8, silent=True)
    assert calls == [3, 3, 3]


def test_the_model_is_left_alone(network, images):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.train()
    ViTShapleyAmortized(network).attribute(images, target=1, n_samples=30)
    assert network.training
    network.eval()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.slow
def test_refinement_spends_its_budget_and_comes_closer(network, images, truth):
    explainer = ViTShapleyAmortized(network, budget=128)
    refined = explainer.explain_players(images)
    assert explainer.last_run.evaluations.tolist() == [127] * 3  # the empty one is known
    alone = ViTShapleyAmortized(network).explain_players(images)
    kernel = PatchKernelShap(
        _Linked(network), PatchMasker(background="drop")
    ).explain_players(images, max_evals=128)  # fmt: skip

    def error(explanation):
        return np.mean((explanation.values - truth) ** 2)

    assert error(refined) < error(alone)
    assert error(refined) < error(kernel)
    assert np.allclose(refined.values.sum(1), alone.values.sum(1), atol=1e-12)


class _Linked(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.surrogate = network.surrogate.model

    def forward(self, x):
        return self.surrogate(x).softmax(-1)


@pytest.fixture(scope="module")
def gaming(network, images):
    """A network that predicts a game, and the surrogate's game, which it predicts exactly."""
    made = ShapleyViT(network.surrogate.model, n_frozen=7, n_extra=1, predicts="game").eval()
    with torch.no_grad():
        made.head[2].weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
        made.head[2].weight[:10] = 0  # nothing beside the game

    whole = made.surrogate.forward

    def coalition_outputs(x, *_):
        hidden = x.isnan().all(1)[:, ::4, ::4].flatten(1)
        if not hidden.any():
            return whole(x)
        seen = torch.stack([
            (x.nan_to_num() - image).abs().sum(1)[:, ::4, ::4].flatten(1).masked_fill(hidden, 0)
            for image in images
        ]).sum(2)  # fmt: skip
        with torch.no_grad():
            game = made.predict(images[seen.argmin(0)]).game
        return game.values(~hidden[:, None])[:, 0].log()

    made.surrogate.forward = coalition_outputs
    return made


@pytest.mark.slow
def test_a_refinement_starts_from_the_predicted_game(gaming, images):
    with torch.no_grad():
        truth = gaming.predict(images).game.shapley_values(n_orders=500)
    alone = ViTShapleyAmortized(gaming).explain_players(images)
    refined = ViTShapleyAmortized(gaming, budget=256).explain_players(images)

    def error(explanation):
        return np.mean((explanation.values - truth.numpy()) ** 2)

    # A prediction alone is of first order.
    assert error(refined) < 0.2 * error(alone)
    assert np.allclose(refined.values.sum(1), alone.values.sum(1), atol=1e-6)
    assert np.array_equal(refined.base_values, alone.base_values)


@pytest.mark.slow
def test_errors_cover_those_of_the_predicted_games_own_values(gaming, images):
    with torch.no_grad():
        truth = gaming.predict(images).game.shapley_values(n_orders=500).numpy()
    for m in (64, 256):
        refined = ViTShapleyAmortized(gaming, budget=m).explain_players(images)
        inside = np.abs(refined.values - truth) < 1.96 * refined.error_std
        assert inside.mean() > 0.85


@pytest.mark.parametrize("seed", [0, 1])
def test_all_coalitions_give_the_truth_whatever_game_is_predicted(seed):
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=12, patch_size=4, embed_dim=16, depth=2, num_heads=2,
        num_classes=3, class_token=False, global_pool="avg",
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in vit.parameters():
            p.normal_(0, 0.3, generator=generator)
    made = ShapleyViT(vit, predicts="game").eval()
    with torch.no_grad():
        made.head[2].weight.normal_(0, 1, generator=generator)
    x = torch.rand(2, 3, 12, 12, generator=generator)
    truth = shapley_values(made, x, 512)
    explainer = ViTShapleyAmortized(made, budget=512)
    found = explainer.explain_players(x)
    assert np.abs(found.values - truth).max() < 1e-6
    assert np.abs(shapley_values(made, x, 512, control=True) - truth).max() < 1e-6


def test_a_predicted_game_knows_its_patches_in_any_order(gaming, images):
    base = torch.arange(64).reshape(8, 8).repeat_interleave(4, 0).repeat_interleave(4, 1)
    explainer = ViTShapleyAmortized(gaming)
    plain, turned = (
        explainer.attribute(images[:1], target=0, feature_mask=mask, n_samples=64)
        for mask in (base, 63 - base)
    )
    assert torch.allclose(plain, turned, atol=0.02 * float(plain.abs().max()))


@pytest.mark.slow
def test_a_bad_predicted_game_does_no_harm_in_the_end(network, images, truth):
    bad = ShapleyViT(network.surrogate.model, n_frozen=6, predicts="game").eval()
    refined = ViTShapleyAmortized(bad, budget=512).explain_players(images).values
    process = PatchKernelShap(_Linked(network), PatchMasker(background="drop"))
    plain = process.explain_players(images, max_evals=512).values
    assert np.mean((refined - truth) ** 2) < 1.2 * np.mean((plain - truth) ** 2)


def test_a_refinement_spends_its_budget_and_adds_up(network, images):
    alone = ViTShapleyAmortized(network).explain_players(images[:2])
    explainer = ViTShapleyAmortized(network, budget=32)
    refined = explainer.explain_players(images[:2])
    assert explainer.last_run.evaluations.tolist() == [31] * 2  # the empty one is known
    assert np.allclose(refined.values.sum(1), alone.values.sum(1), atol=1e-12)
    assert not np.allclose(refined.values, alone.values, atol=1e-5)


@pytest.mark.parametrize("layout", ["tensor", "array"])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "int32", "bool", "uint16"])
def test_whole_numbers_are_refused(explainer, images, dtype, layout):
    x = (images * 255).numpy().astype(dtype)
    x = torch.from_numpy(x) if layout == "tensor" else x.transpose(0, 2, 3, 1)
    calls = [explainer, explainer.explain_players, explainer.shap_values]
    if layout == "tensor":
        calls += [
            lambda x: explainer.attribute(x, target=0),
            lambda x: explainer.attribute((x,), target=0),
            lambda x: explainer.compute_convergence_delta(images, None, x, target=0),
        ]
    for call in calls:
        with pytest.raises(PatchShapError, match=r"inputs: got whole numbers .* takes x / 255\."):
            call(x)


def test_errors_of_a_prediction_are_those_of_validation(explainer, network, images):
    found = explainer.explain_players(images).error_std
    assert np.allclose(found, np.broadcast_to(network.rmse, found.shape))
    assert np.allclose(explainer.explain_players(images, outputs=[4]).error_std, network.rmse[4])


@pytest.mark.slow
def test_errors_of_a_refinement_are_about_right(network, photographs):
    images = photographs[0][:6]
    halves = [shapley_values(network, images, 1500, control=True, seed=s) for s in (3, 4)]
    truth = np.mean(halves, axis=0)
    # The truth has errors of its own: what its halves differ by, for each image and output.
    own = np.sqrt(np.mean((halves[0] - halves[1]) ** 2, axis=1, keepdims=True)) / 2
    for budget in (64, 200):
        found = ViTShapleyAmortized(network, budget=budget, seed=1).explain_players(images)
        inside = np.abs(found.values - truth) < 1.96 * np.hypot(found.error_std, own)
        assert 0.85 < inside.mean() < 0.99


def test_without_calibration_errors_are_unknown_and_refinement_still_works(network, images):
    ridge, rmse = network.ridge, network.rmse
    network.ridge = network.rmse = None
    try:
        explainer = ViTShapleyAmortized(network)
        assert np.isinf(explainer.explain_players(images).error_std).all()
        refined = explainer.explain_players(images[:1], max_evals=24)
        assert np.isfinite(refined.error_std).all()
    finally:
        network.ridge, network.rmse = ridge, rmse


def test_seeds_hold(network, images):
    def values(seed):
        explainer = ViTShapleyAmortized(network, seed=seed)
        return explainer.explain_players(images[:1], max_evals=16).values

    assert np.array_equal(values(1), values(1))
    assert not np.array_equal(values(1), values(2))
    assert not np.array_equal(values(None), values(None))


def test_the_path_of_a_checkpoint_will_do(network, images):
    explainer = ViTShapleyAmortized(cifar10_path(), output_names=CIFAR10_CLASSES)
    explanation = explainer(images, silent=True)
    assert explanation.output_names == list(CIFAR10_CLASSES)


def test_shaps_save_and_load(network, images):
    explainer = ViTShapleyAmortized(network, budget=20, seed=3)
    stream = io.BytesIO()
    explainer.save(stream, model_saver=_save_network)
    stream.seek(0)
    again = ViTShapleyAmortized.load(stream, model_loader=_load_network)
    assert (again.budget, again.seed) == (20, 3)
    a, b = (e.explain_players(images[:1]).values for e in (explainer, again))
    assert np.array_equal(a, b)


def _save_network(model, file):
    pickle.dump(model, file)


def _load_network(file):
    return pickle.load(file)


def test_captums_noise_tunnel_and_infidelity(explainer, network, images):
    noisy = NoiseTunnel(explainer).attribute(images, nt_samples=2, stdevs=0.01, target=0)
    assert noisy.shape == images.shape
    attributions = explainer.attribute(images, target=0)

    def perturb(x):
        noise = 0.01 * torch.randn_like(x)
        return noise, x - noise

    score = infidelity(_Linked(network), perturb, images, attributions, target=0)
    assert score.shape == (3,)


def test_image_plot_draws_it(explainer, images):
    import matplotlib.pyplot as plt

    shap.image_plot(explainer(images, outputs=[3, 5], silent=True), show=False)
    plt.close("all")


def test_a_mask_of_the_same_patches_in_another_order(explainer, images):
    base = torch.arange(64).reshape(8, 8).repeat_interleave(4, 0).repeat_interleave(4, 1)
    plain = explainer.attribute(images, target=0, feature_mask=base)
    turned = explainer.attribute(images, target=0, feature_mask=63 - base)
    assert torch.allclose(plain, turned)
    table = explainer.attribute(images, target=0, feature_mask=63 - base, return_input_shape=False)
    assert torch.allclose(table.flip(1).reshape(3, 8, 8), plain[:, 0, ::4, ::4])


def test_other_players_are_refused(network, images):
    for players in ((4, 4), (7, 7), "patch:2"):
        masker = PatchMasker(players, background="drop")
        with pytest.raises(PatchShapError, match="the 8x8 patches of 4x4 pixels that the network"):
            ViTShapleyAmortized(network, masker)(images, silent=True)


def test_bad_requests_are_refused(network, explainer, images):
    with pytest.raises(PatchShapError, match="model: got an object of type ScoredImages"):
        ViTShapleyAmortized(cifar10_classifier())
    with pytest.raises(PatchShapError, match="masker: got one with a background; expected Patch"):
        ViTShapleyAmortized(network, PatchMasker(background="blur"))
    with pytest.raises(PatchShapError, match="link: got"):
        ViTShapleyAmortized(network, link=shap.links.logit)
    for budget in (-1, 1, 2.5, True):
        with pytest.raises(PatchShapError, match="budget: got"):
            ViTShapleyAmortized(network, budget=budget)
    with pytest.raises(PatchShapError, match="sampling: got 'best'"):
        ViTShapleyAmortized(network, sampling="best")
    with pytest.raises(PatchShapError, match="baselines: got some; expected None"):
        explainer.attribute(images, baselines=0.5, target=0)
    with pytest.raises(PatchShapError, match="additional_forward_args: got some"):
        explainer.attribute(images, target=0, additional_forward_args=(1,))
    with pytest.raises(PatchShapError, match="n_samples: got 1; expected a whole number of at"):
        explainer.attribute(images, target=0, n_samples=1)
    with pytest.raises(PatchShapError, match="target: got 10 for an output of shape"):
        explainer.attribute(images, target=10)
    with pytest.raises(PatchShapError, match="inputs: got NaN"):
        explainer.attribute(images * torch.nan, target=0)


def test_the_shipped_classifier_knows_its_images(photographs):
    images, labels = photographs
    assert images.shape == (12, 3, 32, 32)
    assert sorted(set(labels.tolist())) == list(range(10))
    with torch.no_grad():
        right = (cifar10_classifier()(images).argmax(1) == labels).float().mean()
    assert right >= 0.5
