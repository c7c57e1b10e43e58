"""The explainer network: what it shares, what it trains, and that its sums are exact."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchvision
from tests.helpers import random_images, tiny_vit
from torch import nn

from xai_patchshap import PatchShapError, TokenDropping
from xai_patchshap.amortized import Architecture, ShapleyViT

ARCHITECTURES = {
    "average": {},
    "class token": {"class_token": True, "global_pool": "token"},
    "registers": {"class_token": True, "global_pool": "token", "reg_tokens": 2},
    "norm before the blocks": {"pre_norm": True},
    "one output": {"num_classes": 1},
}


def with_predictions(network, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nn.init.normal_(network.head[2].weight, std=0.1)
    return network.eval()


@pytest.mark.parametrize("n_frozen", [0, 1, 2])
@pytest.mark.parametrize("options", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_values_add_up_to_the_surrogates_own_difference(options, n_frozen):
    model = tiny_vit(**options)
    network = with_predictions(ShapleyViT(model, n_frozen=n_frozen))
    x = random_images()
    values, full = network(x)
    k = model.num_classes
    assert values.shape == (4, 16, k)
    link = torch.sigmoid if k == 1 else lambda t: t.softmax(-1)
    assert torch.allclose(full, link(model(x)), atol=1e-6)
    empty = TokenDropping(model)(torch.full_like(x[:1], torch.nan))
    assert torch.allclose(network.null, link(empty)[0], atol=1e-6)
    assert torch.allclose(values.sum(1), full - network.null, atol=1e-5)


def test_the_first_prediction_is_the_equal_split(vit, images):
    values, full = ShapleyViT(vit).eval()(images)
    assert torch.allclose(values, ((full - _null(vit)) / 16)[:, None].expand_as(values), atol=1e-6)


def _null(vit):
    return TokenDropping(vit)(torch.full((1, 3, 16, 16), torch.nan)).softmax(-1)


def test_logits_are_played_for_if_asked(vit, images):
    network = with_predictions(ShapleyViT(vit, probability=False))
    values, full = network(images)
    assert torch.allclose(full, vit(images), atol=1e-6)
    assert torch.allclose(values.sum(1), full - network.null, atol=1e-5)


def test_values_of_coalitions_are_those_of_dropped_tokens(network, vit, images):
    shown = torch.rand(10, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    shown[0], shown[1] = False, True
    examples = torch.arange(10) % 4
    found = network.coalition_values(images, examples, shown, batch_size=3)
    keep = shown.reshape(10, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    hidden = torch.where(keep, images[examples], torch.nan)
    assert torch.allclose(found, TokenDropping(vit)(hidden).softmax(-1), atol=1e-6)


def test_odd_values_are_differences_of_complements(network, images):
    halves = torch.rand(4, 3, 16, generator=torch.Generator().manual_seed(2)) < 0.5
    found = network.odd_values(images, halves)
    for i, j in np.ndindex(4, 3):
        pair = torch.stack([halves[i, j], ~halves[i, j]])
        inside, outside = network.coalition_values(images, torch.tensor([i, i]), pair)
        assert torch.allclose(found[i, j], inside - outside, atol=1e-6)


@pytest.mark.parametrize(("n_frozen", "n_blocks"), [(None, 1), (1, 2), (0, 3)])
def test_only_what_is_not_shared_is_trained(vit, n_frozen, n_blocks):
    network = ShapleyViT(vit, n_frozen=n_frozen)
    assert len(network.blocks) == n_blocks
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert {n.split(".")[0] for n in trained} == {"blocks", "norm", "head"}
    assert not any(k.startswith("surrogate") for k in network.trained_state())


def test_copied_blocks_begin_as_the_surrogates(vit):
    network = ShapleyViT(vit, n_frozen=1)
    assert torch.equal(network.blocks[0].mlp.fc1.weight, vit.blocks[1].mlp.fc1.weight)
    assert not torch.equal(network.blocks[1].mlp.fc1.weight, vit.blocks[1].mlp.fc1.weight)


def test_the_users_model_stays_as_it_was(vit, images):
    vit.train()
    before = {k: v.clone() for k, v in vit.state_dict().items()}
    network = ShapleyViT(vit, n_frozen=0).train()
    values, _ = network(images)
    values.square().sum().backward()
    assert vit.training
    assert all(p.grad is None and p.requires_grad for p in vit.parameters())
    assert all(torch.equal(v, before[k]) for k, v in vit.state_dict().items())
    assert not vit.blocks[0]._forward_hooks
    assert not network.surrogate.training


def test_the_seed_makes_the_new_weights_and_nothing_else_is_drawn(vit):
    before = torch.get_rng_state()
    a, b, c = (ShapleyViT(vit, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.head[0].weight, b.head[0].weight)
    assert not torch.equal(a.head[0].weight, c.head[0].weight)


def test_bad_requests_are_refused(vit):
    with pytest.raises(PatchShapError, match="n_frozen: got 3; expected 0 to 2"):
        ShapleyViT(vit, n_frozen=3)
    with pytest.raises(PatchShapError, match="n_extra: got 0; expected at least 1 new block"):
        ShapleyViT(vit, n_extra=0)
    with pytest.raises(PatchShapError, match="torchvision's VisionTransformer; expected one of"):
        ShapleyViT(
            torchvision.models.VisionTransformer(
                image_size=16, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8
            )
        )
    with pytest.raises(PatchShapError, match="0 vision transformers"):
        ShapleyViT(timm.create_model("resnet18", num_classes=2))


def test_an_architecture_that_timm_refuses_is_an_error():
    with pytest.raises(PatchShapError, match="architecture: got 'vit_none'; expected the name"):
        Architecture("vit_none").build()
    with pytest.raises(PatchShapError, match="an option 'no_such_option'; expected those"):
        Architecture("test_vit", {"no_such_option": 1})
    with pytest.raises(PatchShapError, match="arguments that it takes"):
        Architecture("test_vit", {"num_heads": 7}).build()


def test_what_is_predicted_and_tapped_is_checked(vit):
    with pytest.raises(PatchShapError, match=r"predicts: got 'all'; expected one of \('values'"):
        ShapleyViT(vit, predicts="all")
    for taps in [(0,), (2,), (1, 1)]:
        with pytest.raises(
            PatchShapError, match=r"taps: got .* expected different blocks from 1 to 1"
        ):
            ShapleyViT(vit, n_frozen=2, taps=taps)
