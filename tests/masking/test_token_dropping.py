"""Token dropping against attention masks, and through every explainer."""

from __future__ import annotations

import numpy as np
import pytest
import shap
import timm
import torch
import torchvision
from torch import nn

from xai_patchshap import OwenBPT, PatchKernelShap, PatchMasker, PatchShapError, TokenDropping

NAN = float("nan")


def vit(name="test_vit", seed=0, **options):
    torch.manual_seed(seed)
    options = {"img_size": 64, "num_classes": 5, **options}
    model = timm.create_model(name, **options).eval()
    for p in model.parameters():  # random heads and positions, for outputs that differ
        nn.init.normal_(p, std=0.1) if p.dim() == 1 or p.shape[0] == 1 else None
    nn.init.normal_(model.head.weight, std=0.5)
    return model


def images(n=2, size=64, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def hide(x, shown, patch):
    """NaN in the hidden patches; ``shown`` (B, patches)."""
    grid = x.shape[2] // patch, x.shape[3] // patch
    keep = shown.reshape(len(shown), 1, *grid)
    keep = keep.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return torch.where(keep, x, NAN)


def masked_attention(model, x, shown):
    """The same with all tokens in place, hidden keys masked, and hidden tokens not pooled."""
    prefix = torch.ones(len(x), model.num_prefix_tokens, dtype=torch.bool)
    keys = torch.cat([prefix, shown], 1)
    tokens = model.forward_features(x, attn_mask=keys[:, None, None])
    rows = []
    for row, key in zip(tokens, keys, strict=True):
        rows.append(model.forward_head(row[key][None]))
    return torch.cat(rows)


ARCHITECTURES = {
    "class token": ("test_vit", {}),
    "two class tokens": ("deit_tiny_distilled_patch16_224", {}),
    "registers and layer scale": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "average": ("test_vit", {"global_pool": "avg", "class_token": False}),
    "average beside a class token": ("test_vit", {"global_pool": "avg"}),
    "positions for patches alone": ("deit3_small_patch16_224", {}),
    "norm before the blocks": ("vit_tiny_patch16_224", {"pre_norm": True}),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_values_are_those_of_an_attention_mask(name):
    architecture, options = ARCHITECTURES[name]
    if "distilled" in architecture:
        torch.manual_seed(0)
        model = timm.create_model(architecture, img_size=64, num_classes=5).eval()
    else:
        model = vit(architecture, **options)
    size, patch = model.patch_embed.img_size[0], model.patch_embed.patch_size[0]
    n = (size // patch) ** 2
    x = images(7, size)
    shares = torch.tensor([0.1, 0.3, 0.5, 0.5, 0.7, 0.9, 1.0])[:, None]
    shown = torch.rand(7, n, generator=torch.Generator().manual_seed(1)) < shares
    shown[:, 3] = True
    with torch.no_grad():
        dropped = TokenDropping(model)(hide(x, shown, patch))
        expected = masked_attention(model, x, shown)
        whole = model(x)
    torch.testing.assert_close(dropped, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dropped[6], whole[6], atol=1e-5, rtol=1e-5)
    assert (dropped[:3] - whole[:3]).abs().max() > 1e-3
    assert not model.blocks._forward_pre_hooks
    assert not model.norm._forward_hooks


def test_torchvision():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=5).eval()
    nn.init.normal_(model.heads.head.weight)
    shown = torch.rand(3, 16) < 0.5
    x = images(3)
    with torch.no_grad():
        dropped = TokenDropping(model)(hide(x, shown, 16))
        for i in range(3):
            tokens = model._process_input(x[i : i + 1])
            tokens = torch.cat([model.class_token, tokens], 1) + model.encoder.pos_embedding
            kept = tokens[:, torch.cat([torch.tensor([True]), shown[i]])]
            expected = model.heads(model.encoder.ln(model.encoder.layers(kept))[:, 0])
            torch.testing.assert_close(dropped[i : i + 1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nothing_shown_is_finite_and_blind(name):
    architecture, options = ARCHITECTURES[name]
    model = timm.create_model(architecture, **{"img_size": 64, "num_classes": 5, **options}).eval()
    size = model.patch_embed.img_size[0]
    empty = torch.full((2, 3, size, size), NAN)
    with torch.no_grad():
        out = TokenDropping(model)(empty)
    assert out.isfinite().all()
    torch.testing.assert_close(out[0], out[1])


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.vit = model

    def forward(self, x, shift=0.0):
        return (self.vit((x - 0.5) / 0.25) + shift).softmax(-1)


def test_inside_another_module_with_further_arguments():
    model = Wrapped(vit())
    x, shown = images(4), torch.rand(4, 16) < 0.6
    shift = torch.linspace(0, 1, 4)[:, None] * torch.eye(5)[0]
    dropping = TokenDropping(model)
    assert dropping.patch_size == (16, 16)
    with torch.no_grad():
        together = dropping(hide(x, shown, 16), shift)
        for i in range(4):
            alone = dropping(hide(x[i : i + 1], shown[i : i + 1], 16), shift[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=1e-5)
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in dropping.named_parameters()] == [f"model.{n}" for n in names]


@pytest.mark.parametrize("method", [PatchKernelShap, OwenBPT])
def test_both_faces_explain_the_game_of_dropped_tokens(method):
    model, x = vit(), images(2)
    labels = np.arange(64)[:, None] // 16 // 2 * 4 + np.arange(64) // 16
    masker = PatchMasker(labels, background="drop")
    explainer = method(model, masker)
    explanation = explainer(x, max_evals=3000, silent=True)
    with torch.no_grad():
        full = model(x).double().numpy()
        empty = TokenDropping(model)(torch.full_like(x, NAN)).double().numpy()
    sums = explanation.values.sum((1, 2, 3))
    np.testing.assert_allclose(sums, full - empty, atol=1e-6)
    np.testing.assert_allclose(explanation.base_values, empty, atol=1e-6)
    attributions = explainer.attribute(x, target=3, n_samples=3000)
    # Captum repeats a player's value on its pixels, shap shares it among them.
    per_player = explanation.values[..., 3].sum(3) * np.bincount(labels.ravel())[labels]
    np.testing.assert_allclose(attributions[:, 0], per_player, atol=1e-6)
    wrapped = method(TokenDropping(model), masker)(x, max_evals=3000, silent=True)
    np.testing.assert_allclose(wrapped.values, explanation.values, atol=1e-7)


def test_exact_values_are_those_of_the_game_by_hand():
    model, x = vit(), images(1)
    labels = np.arange(64)[:, None] // 32 * 2 + np.arange(64) // 32
    explainer = PatchKernelShap(model, PatchMasker(labels, background="drop"))
    values = explainer.explain_players(x, max_evals=16, silent=True).values[0]
    coalitions = (np.arange(16)[:, None] >> np.arange(4) & 1).astype(bool)
    patches = torch.from_numpy(coalitions[:, labels[8::16, 8::16].ravel()])
    with torch.no_grad():
        table = masked_attention(model, x.expand(16, -1, -1, -1), patches).double().numpy()
    game = dict(zip(map(tuple, coalitions.tolist()), table, strict=True))
    for i in range(4):
        phi = 0.0
        for s, v in game.items():
            if not s[i]:
                weight = [1 / 4, 1 / 12, 1 / 12, 1 / 4][sum(s)]
                phi = phi + weight * (game[(*s[:i], True, *s[i + 1 :])] - v)
        np.testing.assert_allclose(values[i], phi, atol=1e-6)


def test_patches_play_by_default():
    for method in (PatchKernelShap, OwenBPT):
        explainer = method(vit(), PatchMasker(background="drop"))
        players = explainer.explain_players(images(1), max_evals=40, silent=True)
        assert players.values.shape == (1, 16, 5)


def test_shaps_own_explainers_take_the_wrapper():
    model, x = vit(), images(1)
    dropping, image = TokenDropping(model), x[0].permute(1, 2, 0).numpy()
    masker = PatchMasker((2, 2), background="drop")

    def f(batch):
        with torch.no_grad():
            return dropping(torch.from_numpy(batch).permute(0, 3, 1, 2)).numpy()

    exact = shap.explainers.Exact(f, masker)(image[None]).values[0]
    ours = PatchKernelShap(model, masker).explain_players(x, max_evals=16, silent=True).values[0]
    np.testing.assert_allclose(exact, ours, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2), "model: got Linear with 0 vision transformers; expected a timm or torch"),
        (lambda x: x, "model: got function with 0 vision transformers"),
        (
            nn.Sequential(vit(), vit()),
            "model: got Sequential with 2 vision transformers; .* Others .Swin",
        ),
    ],
)
def test_other_models_are_refused(model, message):
    with pytest.raises(PatchShapError, match=message):
        TokenDropping(model)
    with pytest.raises(PatchShapError, match=message):
        PatchKernelShap(model, PatchMasker(background="drop")).attribute(images(1), target=0)


def test_swin_is_refused():
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=2)
    with pytest.raises(PatchShapError, match=r"SwinTransformer with 0 .* need the places of all"):
        TokenDropping(swin)


def test_bad_images():
    model = TokenDropping(vit())
    x = images(1)
    x[0, :, :3] = NAN
    with pytest.raises(
        PatchShapError, match=r"patches that are hidden in part; .* Players must be made of whole"
    ):
        model(x)
    x = images(1)
    x[0, 0, :16, :16] = NAN
    with pytest.raises(PatchShapError, match="hidden in part"):
        model(x)
    with pytest.raises(PatchShapError, match=r"images: got shape \(1, 3, 60, 64\); expected"):
        model(images(1)[:, :, :60])
    with pytest.raises(PatchShapError, match=r"'drop' for images of torch.int64; expected float"):
        PatchMasker(background="drop").prepare(images(1).long(), "NCHW")
    with pytest.raises(PatchShapError, match="hidden in part"):
        PatchKernelShap(vit(), PatchMasker((3, 3), "drop")).attribute(images(1), target=0)


def test_hooks_are_gone_after_an_error():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = vit()

        def forward(self, x):
            self.vit(x)
            raise RuntimeError("broken")

    model = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        TokenDropping(model)(torch.full((1, 3, 64, 64), NAN))
    assert not model.vit.blocks._forward_pre_hooks
    assert not model.vit.norm._forward_hooks
