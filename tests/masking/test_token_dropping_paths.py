"""Every way around the hooks, and every way to the transformer: right values, or refused."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, pad

from xai_patchshap import OwenBPT, PatchKernelShap, PatchMasker, PatchShapError, TokenDropping
from xai_patchshap.models.batch import BatchModel

NAN = float("nan")


def vit(seed=0, size=64, **options):
    torch.manual_seed(seed)
    options = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, **options}
    model = timm.models.VisionTransformer(img_size=size, num_classes=5, **options).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.2) if p.dim() == 1 or p.shape[0] == 1 else None
    nn.init.normal_(model.head.weight, std=0.5)
    return model


def images(n=4, size=64, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def coalitions(n, patches=16, seed=1):
    """Some patches, in different numbers; the last row shows none, the one before it all."""
    shares = torch.linspace(0.2, 0.8, n - 2)[:, None]
    some = torch.rand(n - 2, patches, generator=torch.Generator().manual_seed(seed)) < shares
    some[:, 5], some[:, 6] = True, False
    return torch.cat([some, torch.ones(1, patches), torch.zeros(1, patches)]).bool()


def pixels(shown, patch, grid):
    keep = shown.reshape(len(shown), 1, *grid)
    return keep.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


def hide(x, shown, patch=16):
    grid = x.shape[2] // patch, x.shape[3] // patch
    return torch.where(pixels(shown, patch, grid), x, NAN)


def features(model, x, shown):
    """Tokens (n, width) of each row with only the shown patches, by hand."""
    rows = []
    for image, row in zip(x, shown, strict=True):
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))
        keep = torch.cat([torch.ones(model.num_prefix_tokens, dtype=torch.bool), row])
        tokens = tokens[:, keep]
        for block in model.blocks:
            tokens = block(tokens)
        rows.append(model.norm(tokens))
    return rows


def by_hand(model, x, shown):
    return torch.cat([model.forward_head(tokens) for tokens in features(model, x, shown)])


class Wrapped(nn.Module):
    """A transformer behind and before functions."""

    def __init__(self, model, before=lambda x: x, behind=lambda x: x):
        super().__init__()
        self.vit, self.before, self.behind = model, before, behind

    def forward(self, x):
        return self.behind(self.vit(self.before(x)))


class Reads(nn.Module):
    """Calls the transformer as a function says."""

    def __init__(self, model, how):
        super().__init__()
        self.vit, self.how = model, how

    def forward(self, x):
        return self.how(self.vit, x)


def checkpointed(model):
    model.set_grad_checkpointing(True)
    return model


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def compiled_blocks(model):
    for i, block in enumerate(model.blocks):
        model.blocks[i] = compiled(block)
    return model


def compiled_container(model):
    model.blocks = compiled(model.blocks)
    return model


def scripted_blocks(model):
    model.blocks = torch.jit.script(model.blocks)
    return model


class CompiledFunction(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.vit, self.features = model, torch.compile(model.forward_features, backend="eager")

    def forward(self, x):
        return self.vit.forward_head(self.features(x))


def loops(model, x):
    tokens = model._pos_embed(model.patch_embed(x))
    for block in model.blocks:
        tokens = block(tokens)
    return model.forward_head(model.norm(tokens))


def loops_in_a_checkpoint(model, x):
    tokens = model._pos_embed(model.patch_embed(x))
    for block in model.blocks:
        tokens = torch.utils.checkpoint.checkpoint(block, tokens, use_reentrant=False)
    return model.forward_head(model.norm(tokens))


def repeats_its_blocks(model, x):
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    return model.forward_head(model.norm(model.blocks(model.blocks(tokens))))


WAYS_AROUND = {
    "gradient checkpointing": checkpointed,
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "compiled in another module": lambda m: nn.Sequential(compiled(m), nn.Identity()),
    "compiled around another module": lambda m: compiled(nn.Sequential(m, nn.Identity())),
    "compiled twice": lambda m: compiled(nn.Sequential(compiled_in_place(m))),
    "compiled blocks": compiled_blocks,
    "compiled container of blocks": compiled_container,
    "a compiled function of it": CompiledFunction,
    "compiled and checkpointed": lambda m: compiled(checkpointed(m)),
    "loops over its blocks": lambda m: Reads(m, loops),
    "loops with checkpoints": lambda m: Reads(m, loops_in_a_checkpoint),
    "intermediate layers": lambda m: Reads(
        m, lambda v, x: v.head(v.get_intermediate_layers(x, n=1, norm=True)[0].mean(1))
    ),
    "several intermediate layers": lambda m: Reads(
        m,
        lambda v, x: sum(
            v.head(prefix[:, 0])
            for _, prefix in v.forward_intermediates(
                x, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
            )
        ),
    ),
    "data parallel": nn.DataParallel,
    "inside a sequence": lambda m: nn.Sequential(nn.Identity(), m, nn.Softmax(-1)),
}


def dropped_plainly(model, x, shown):
    """The same model with nothing hidden, whose transformer is given fewer tokens by hand."""
    rows = []
    for image, row in zip(x, shown, strict=True):
        keep = torch.cat([torch.tensor([True]), row])
        inner = copy.deepcopy(model)
        for part in inner.modules():
            if isinstance(part, timm.models.VisionTransformer):
                part.patch_drop.register_forward_pre_hook(lambda _, t, k=keep: (t[0][:, k],))
                part.norm_pre.register_forward_pre_hook(lambda _, t: None)
        rows.append(inner(image[None]))
    return torch.cat(rows)


@pytest.mark.parametrize("name", WAYS_AROUND)
def test_what_gets_around_a_hook_gives_the_plain_models_values(name):
    plain = vit()
    model = WAYS_AROUND[name](copy.deepcopy(plain))
    x, shown = images(5), coalitions(5)
    with torch.no_grad():
        if "intermediate" in name:
            shown = shown[:4]  # by hand, nothing to average over at the end
            x = x[:4]
            rows = features(plain, x, shown)
            if name == "intermediate layers":
                expected = torch.stack([plain.head(t[0, 1:].mean(0)) for t in rows])
            else:
                expected = dropped_plainly(Reads(plain, model.how), x, shown)
        else:
            expected = by_hand(plain, x, shown)
        if name == "inside a sequence":
            expected = expected.softmax(-1)
        got = TokenDropping(model)(hide(x, shown))
        whole = TokenDropping(model)(x)
        if name == "compiled":  # nothing stays behind in what is compiled now
            torch.testing.assert_close(model(x), plain(x))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (got - whole)[shown.sum(1) < 16].abs().max() > 1e-4


@pytest.mark.parametrize("compile_it", [compiled, compiled_in_place])
def test_the_wrapper_can_be_compiled_itself(compile_it):
    plain = vit()
    x, shown = images(4), coalitions(4)
    model = compile_it(TokenDropping(copy.deepcopy(plain)))
    with torch.no_grad():
        for _ in range(2):
            got = model(hide(x, shown))
            torch.testing.assert_close(got, by_hand(plain, x, shown), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", [PatchKernelShap, OwenBPT])
@pytest.mark.parametrize("change", [checkpointed, compiled, lambda m: Reads(m, loops)])
def test_both_faces_explain_the_plain_models_game(method, change):
    plain = vit()
    labels = np.arange(64)[:, None] // 32 * 2 + np.arange(64) // 32
    masker, x = PatchMasker(labels, background="drop"), images(1)
    right = method(plain, masker)(x, max_evals=400, silent=True).values
    explainer = method(change(copy.deepcopy(plain)), masker)
    np.testing.assert_allclose(explainer(x, max_evals=400, silent=True).values, right, atol=1e-6)
    attributions = explainer.attribute(x, target=2, n_samples=400)
    expected = method(plain, masker).attribute(x, target=2, n_samples=400)
    torch.testing.assert_close(attributions, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("change", [checkpointed, compiled, lambda m: Reads(m, loops)])
def test_training_of_coalitions_has_the_plain_models_gradients(change):
    plain = vit().train()
    model = change(copy.deepcopy(plain))
    x, shown = images(4), coalitions(6)
    rows = torch.tensor([0, 1, 2, 3, 0, 1])
    gradients = []
    for m in (plain, model):
        TokenDropping(m).coalition_outputs(x, rows, shown).square().sum().backward()
        inner = next(v for v in m.modules() if isinstance(v, timm.models.VisionTransformer))
        gradients.append([p.grad for p in inner.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        assert a.isfinite().all()


def test_coalition_outputs_never_see_hidden_pixels():
    model = Wrapped(vit(), lambda x: x.flip(3))
    x, shown = images(4), coalitions(4)
    dropping, rows = TokenDropping(model), torch.arange(4)
    with torch.no_grad():
        got = dropping.coalition_outputs(x, rows, shown, batch_size=1)
        torch.testing.assert_close(got, dropping(hide(x, shown)), atol=1e-6, rtol=1e-5)
        expected = by_hand(model.vit, x.flip(3), shown.reshape(-1, 4, 4).flip(2).flatten(1))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


# What the transformer sees of the image, and of its patches (B, 4, 4).
VIEWS = {
    "flip": (lambda x: x.flip(3), lambda s: s.flip(2), 64),
    "flip upside down": (lambda x: x.flip(2), lambda s: s.flip(1), 64),
    "turn": (lambda x: x.rot90(1, (2, 3)), lambda s: s.rot90(1, (1, 2)), 64),
    "transpose": (lambda x: x.transpose(2, 3), lambda s: s.transpose(1, 2), 64),
    "roll": (lambda x: x.roll(16, 3), lambda s: s.roll(1, 2), 64),
    "crop": (lambda x: x[:, :, 16:48, 16:48], lambda s: s[:, 1:3, 1:3], 32),
    "pad": (
        lambda x: pad(x, (16, 16, 16, 16)),
        lambda s: pad(s, (1, 1, 1, 1), value=True),
        96,
    ),
    "enlarge": (
        lambda x: interpolate(x, scale_factor=2),
        lambda s: s.repeat_interleave(2, 1).repeat_interleave(2, 2),
        128,
    ),
    "shrink": (lambda x: avg_pool2d(x, 4), lambda s: s[:, ::4, ::4], 16),
    "normalise": (lambda x: (x - 0.5) / 0.25, lambda s: s, 64),
    "normalise in place": (lambda x: x.sub_(0.5).div_(0.25), lambda s: s, 64),
    "clamp": (lambda x: x.clamp(0.1, 0.9), lambda s: s, 64),
    "grey": (lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1), lambda s: s, 64),
    "colours the other way": (lambda x: x[:, [2, 1, 0]], lambda s: s, 64),
    "channels last": (lambda x: x.contiguous(memory_format=torch.channels_last), lambda s: s, 64),
}


@pytest.mark.parametrize("name", VIEWS)
def test_the_tokens_that_leave_are_those_that_the_transformer_sees_hidden(name):
    view, of_patches, size = VIEWS[name]
    model = Wrapped(vit(size=size), view)
    x, shown = images(6), coalitions(6)
    if name == "shrink":  # one token for all
        shown[:4] = shown[:4] & False | torch.arange(4)[:, None].eq(0)
    seen = of_patches(shown.reshape(-1, 4, 4)).flatten(1)
    given = hide(x, shown)
    kept = given.clone()
    with torch.no_grad():
        got = TokenDropping(model)(given)
        expected = by_hand(model.vit, view(x.clone()), seen)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(given, kept, equal_nan=True, atol=0, rtol=0)  # the caller's own


def test_images_with_channels_last_axes():
    model = Wrapped(vit(), lambda x: x.permute(0, 3, 1, 2))
    x, shown = images(5), coalitions(5)
    with torch.no_grad():
        got = TokenDropping(model)(hide(x, shown).permute(0, 2, 3, 1))
    torch.testing.assert_close(got, by_hand(model.vit, x, shown), atol=1e-5, rtol=1e-5)


def in_chunks(model, x):
    return torch.cat([model(part) for part in x.split(2)])


TWICE = {
    "with its mirror image": (lambda m, x: m(x) + m(x.flip(3)), lambda v, x, s: by_hand(v, x, s)),
    "in one batch with its mirror image": (
        lambda m, x: sum(m(torch.cat([x, x.flip(3)])).chunk(2)),
        lambda v, x, s: by_hand(v, x, s),
    ),
    "interleaved with its mirror image": (
        lambda m, x: m(torch.stack([x, x.flip(3)], 1).flatten(0, 1)).reshape(len(x), 2, -1).sum(1),
        lambda v, x, s: by_hand(v, x, s),
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_transformer_that_runs_twice(name):
    how, _ = TWICE[name]
    model = Reads(vit(), how)
    x, shown = images(6), coalitions(6)
    mirrored = shown.reshape(-1, 4, 4).flip(2).flatten(1)
    with torch.no_grad():
        got = TokenDropping(model)(hide(x, shown))
        expected = by_hand(model.vit, x, shown) + by_hand(model.vit, x.flip(3), mirrored)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_transformer_that_runs_on_parts_of_a_batch():
    model = Reads(vit(), in_chunks)
    x = images(5)
    shown = torch.zeros(5, 16, dtype=torch.bool)
    for i in range(5):
        shown[i, i : i + 7] = True  # equally many: one batch of five
    with torch.no_grad():
        got = TokenDropping(model)(hide(x, shown))
    torch.testing.assert_close(got, by_hand(model.vit, x, shown), atol=1e-5, rtol=1e-5)


def test_blocks_that_run_twice():
    plain, x, shown = vit(), images(3), coalitions(5)[:3]
    with torch.no_grad():
        got = TokenDropping(Reads(plain, repeats_its_blocks))(hide(x, shown))
        for i in range(3):
            keep = torch.cat([torch.tensor([True]), shown[i]])
            tokens = plain._pos_embed(plain.patch_embed(x[i : i + 1]))[:, keep]
            expected = plain.forward_head(plain.norm(plain.blocks(plain.blocks(tokens))))
            torch.testing.assert_close(got[i : i + 1], expected, atol=1e-5, rtol=1e-5)


def assert_finite(x):
    assert x.isfinite().all()
    return x


REFUSED_BEFORE = {
    "a crop through patches": (lambda x: x[:, :, 8:56, 8:56], 48, "hidden in part"),
    "a pad by parts of patches": (lambda x: pad(x, (8, 8, 8, 8)), 80, "hidden in part"),
    "a larger patch": (lambda x: interpolate(x, 32), 32, "hidden in part"),
    "a smooth resize": (
        lambda x: interpolate(x, 96, mode="bilinear", antialias=True),
        96,
        "mixes hidden pixels",
    ),
    "a blur": (
        lambda x: torchvision.transforms.functional.gaussian_blur(x, 5),
        64,
        "mixes hidden pixels",
    ),
    "the image's mean": (
        lambda x: x - x.mean((1, 2, 3), keepdim=True),
        64,
        "mixes hidden pixels",
    ),
    "the mean of a row": (lambda x: x - x.mean(3, keepdim=True), 64, "mixes hidden pixels"),
    "the image's largest value": (
        lambda x: x / x.amax((1, 2, 3), keepdim=True),
        64,
        "mixes hidden pixels",
    ),
    "a range that is guessed": (
        lambda x: x / 255 if x.max() > 0.5 else x,
        64,
        "mixes hidden pixels",
    ),
    "whole numbers": (lambda x: (x * 255).byte().float() / 255, 64, "do not reach"),
    "NaN replaced": (lambda x: x.nan_to_num(), 64, "do not reach"),
    "a check for NaN": (assert_finite, 64, "AssertionError .* Take the check out"),
    "a check of the range": (
        lambda x: x if x.min() >= 0 else (_ for _ in ()).throw(ValueError("range")),
        64,
        "ValueError .range. for hidden pixels",
    ),
}


@pytest.mark.parametrize("name", REFUSED_BEFORE)
def test_ways_to_the_transformer_that_cannot_be_right_are_refused(name):
    before, size, message = REFUSED_BEFORE[name]
    model = Wrapped(vit(size=size), before)
    shown = torch.zeros(4, 16, dtype=torch.bool)
    for i in range(4):
        shown[i, 3 * i : 3 * i + 3] = True
    with pytest.raises(PatchShapError, match=message):
        TokenDropping(model)(hide(images(4), shown))
    assert not model.vit.patch_embed._forward_pre_hooks
    labels = np.arange(64)[:, None] // 16 * 4 + np.arange(64) // 16
    explainer = PatchKernelShap(model, PatchMasker(labels, background="drop"))
    with pytest.raises(PatchShapError, match=message):
        explainer(images(2), max_evals=60, silent=True)


def test_players_of_the_size_that_the_transformer_sees():
    model = Wrapped(vit(size=32), lambda x: interpolate(x, 32))
    masker = PatchMasker(players="patch:32", background="drop")
    players = PatchKernelShap(model, masker).explain_players(images(1), max_evals=16, silent=True)
    shrunk = PatchKernelShap(model.vit, PatchMasker(background="drop"))
    right = shrunk.explain_players(interpolate(images(1), 32), max_evals=16, silent=True)
    np.testing.assert_allclose(players.values, right.values, atol=1e-6)


class Ensemble(nn.Module):
    """A convolution of the same pixels beside the transformer."""

    def __init__(self):
        super().__init__()
        self.vit, self.conv = vit(), nn.Conv2d(3, 5, 4, stride=4)

    def forward(self, x):
        return self.vit(x) + self.conv(x).mean((2, 3))


def swallows(model, x):
    try:
        return model(x[:, :, 8:56, 8:56])
    except ValueError:
        return torch.zeros(len(x), 5)


def prompts(model, x):
    tokens = model._pos_embed(model.patch_embed(x))
    tokens = torch.cat([tokens, torch.ones(len(x), 3, 32)], 1)
    return model.forward_head(model.norm(model.blocks(tokens)))


def joined(model, x):
    tokens = model._pos_embed(torch.cat([model.patch_embed(x), model.patch_embed(x.flip(3))]))
    return sum(model.forward_head(model.norm(model.blocks(tokens))).chunk(2))


def skips_the_blocks(model, x):
    return model.head(model._pos_embed(model.patch_embed(x)).mean(1))


def its_convolution_alone(model, x):
    tokens = model._pos_embed(model.patch_embed.proj(x).flatten(2).transpose(1, 2))
    return model.forward_head(model.norm(model.blocks(tokens)))


def in_places(model, x):
    tokens = model.forward_features(x)[:, 1:].reshape(len(x), 4, 4, -1)
    return tokens.mean((1, 2))[:, :5]


REFUSED = {
    "a grid of an intermediate layer": (
        lambda: Reads(
            vit(),
            lambda v, x: v.forward_intermediates(x, intermediates_only=True)[-1].mean((2, 3))[
                :, :5
            ],
        ),
        "intermediate layer into a grid; .* output_fmt='NLC'",
    ),
    "a reshaped intermediate layer": (
        lambda: Reads(
            vit(),
            lambda v, x: v.get_intermediate_layers(x, n=1, reshape=True)[0].mean((2, 3))[:, :5],
        ),
        "intermediate layer into a grid",
    ),
    "features alone": (
        lambda: Reads(
            timm.create_model("test_vit", img_size=64, pretrained=False, features_only=True).eval(),
            lambda v, x: v(x)[-1].mean((2, 3))[:, :5],
        ),
        "intermediate layer into a grid",
    ),
    "a head that knows the grid": (
        lambda: Flat(),
        "RuntimeError .* where tokens leave",
    ),
    "a convolution beside it": (Ensemble, "outputs that are NaN where patches are hidden"),
    "code that swallows errors": (lambda: Reads(vit(size=48), swallows), "hidden in part"),
    "further tokens": (lambda: Reads(vit(), prompts), "shape .*, 20, 32. before the blocks"),
    "two embeddings, then blocks": (lambda: Reads(vit(), joined), "never reached"),
    "no blocks": (lambda: Reads(vit(), skips_the_blocks), "never reached"),
    "the convolution of the embedding": (
        lambda: Reads(vit(), its_convolution_alone),
        "patch embedding did not run",
    ),
    "no transformer at all": (
        lambda: Reads(vit(), lambda v, x: x.mean((2, 3))),
        "patch embedding did not run",
    ),
    "two transformers": (lambda: nn.Sequential(vit(), vit()), "2 vision transformers"),
    "scripted blocks": (lambda: scripted_blocks(vit()), "scripted in part"),
    "scripted": (lambda: torch.jit.script(vit()), "0 vision transformers"),
    "a graph of it": (lambda: torch.export.export(vit(), (images(1),)).module(), "0 vision"),
    "a compiled function": (
        lambda: torch.compile(lambda x: x, backend="eager"),
        "0 vision transformers",
    ),
    "tokens instead of scores": (
        lambda: Reads(vit(), lambda v, x: v.forward_features(x)),
        "outputs of .* for different numbers of tokens",
    ),
    "a dict": (lambda: Reads(vit(), lambda v, x: {"out": v(x)}), "a dict with the key 'out'"),
    "views at different places": (
        lambda: Reads(vit(size=32), lambda v, x: v(x[:, :, :32, :32]) + v(x[:, :, 32:, 32:])),
        "runs several times, on views that hide different parts|different numbers of patches",
    ),
    "statistics in a later view": (
        lambda: Reads(vit(), lambda v, x: v(x) + v(x - x.mean((1, 2, 3), keepdim=True))),
        "runs several times, on views that hide different parts",
    ),
    "NaN replaced in a later view": (
        lambda: Reads(vit(), lambda v, x: v(x) + v(x.nan_to_num())),
        "runs several times, on views that hide different parts",
    ),
    "a user's hook that mixes pixels": (
        lambda: hooked(lambda x: x - x.mean((1, 2, 3), keepdim=True)),
        "hooks or methods change which pixels are hidden",
    ),
    "a user's hook that replaces NaN": (
        lambda: hooked(torch.nan_to_num),
        "hooks or methods change which pixels are hidden",
    ),
    "vmap": (
        lambda: Reads(vit(), lambda v, x: torch.vmap(lambda row: v(row[None])[0])(x)),
        "RuntimeError .* where tokens leave|for hidden pixels",
    ),
    "trained pixels": (
        lambda: Reads(vit(), lambda v, x: v(x * nn.Parameter(torch.ones(1)))),
        "trained weights before the transformer",
    ),
}


def hooked(change):
    model = vit()
    model.register_forward_pre_hook(lambda _, given: (change(given[0]),))
    return model


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.vit, self.linear = vit(), nn.Linear(16 * 32, 5)

    def forward(self, x):
        return self.linear(self.vit.forward_features(x)[:, 1:].reshape(len(x), 16 * 32))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused(name):
    build, message = REFUSED[name]
    with pytest.raises(PatchShapError, match=message):
        TokenDropping(build())(hide(images(4), coalitions(6)[:4]))


OPTIONS = {
    "no class token": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 4},
    "positions of patches alone": {"reg_tokens": 2, "no_embed_class": True},
    "no positions": {"pos_embed": "none"},
    "norm before the blocks": {"pre_norm": True},
    "average": {"global_pool": "avg"},
    "average with a norm of tokens": {"global_pool": "avg", "fc_norm": False},
    "maximum": {"global_pool": "max"},
    "average and maximum": {"global_pool": "avgmax"},
    "average of all tokens": {"global_pool": "avg", "pool_include_prefix": True},
    "attention": {"global_pool": "map"},
    "attention without a class token": {"global_pool": "map", "class_token": False},
    "patch dropout": {"patch_drop_rate": 0.5},
    "position dropout": {"pos_drop_rate": 0.5},
    "any size": {"dynamic_img_size": True},
    "no last norm": {"final_norm": False},
    "oblong patches": {"patch_size": (16, 32)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_timms_transformer(name):
    model = vit(**OPTIONS[name])
    x = images(5)
    height, width = model.patch_embed.patch_size
    rows, columns = 64 // height, 64 // width
    shown = coalitions(5, rows * columns)
    grown = shown.reshape(-1, 1, rows, columns)
    keep = grown.repeat_interleave(height, 2).repeat_interleave(width, 3)
    with torch.no_grad():
        got = TokenDropping(model)(torch.where(keep, x, NAN))
        expected = by_hand_dynamic(model, x[:4], shown[:4])
    torch.testing.assert_close(got[:4], expected, atol=1e-5, rtol=1e-5)
    assert got.isfinite().all()


def by_hand_dynamic(model, x, shown):
    return by_hand(model, x, shown)


def test_a_prefix_that_is_pooled_stands_alone_where_nothing_is_shown():
    model = vit(global_pool="avg", pool_include_prefix=True, reg_tokens=2)
    x, nothing = images(2), torch.zeros(2, 16, dtype=torch.bool)
    with torch.no_grad():
        got = TokenDropping(model)(hide(x, nothing))
        torch.testing.assert_close(got, by_hand(model, x, nothing), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["last", "intermediate"])
def test_a_head_of_ones_own_that_pools_gets_zeros_where_nothing_is_shown(how):
    def head(v, x):
        if how == "last":
            tokens = v.forward_features(x)
        else:
            tokens = torch.cat(
                v.get_intermediate_layers(x, n=2, return_prefix_tokens=True)[-1][::-1], 1
            )
        return torch.cat([v.head(tokens[:, 0]), tokens[:, 1:].mean(1)], 1)

    plain, x = vit(), images(2)
    with torch.no_grad():
        got = TokenDropping(Reads(plain, head))(torch.full_like(x, NAN))
        tokens = plain._pos_embed(plain.patch_embed(x))[:, :1]
        tokens = plain.blocks(tokens)
        tokens = plain.norm(tokens) if how == "last" else tokens
    torch.testing.assert_close(got[:, :5], plain.head(tokens[:, 0]), atol=1e-5, rtol=1e-5)
    assert (got[:, 5:] == 0).all()


def test_images_that_the_transformer_pads_itself():
    model = vit(dynamic_img_size=True, dynamic_img_pad=True)
    x = images(4)[:, :, :60, :56]
    shown = coalitions(4)
    keep = pixels(shown, 16, (4, 4))[:, :, :60, :56]
    with torch.no_grad():
        got = TokenDropping(model)(torch.where(keep, x, NAN))
    torch.testing.assert_close(got, by_hand(model, x, shown), atol=1e-5, rtol=1e-5)


def test_patch_dropout_in_training_drops_among_the_shown():
    model = vit(patch_drop_rate=0.5).train()
    counts = []
    model.blocks[0].register_forward_pre_hook(lambda _, t: counts.append(t[0].shape[1]))
    shown = torch.arange(16).expand(2, 16) < 8
    TokenDropping(model)(hide(images(2), shown))
    assert counts == [5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    model, x, shown = vit().to(dtype), images(4).to(dtype), coalitions(4)
    with torch.no_grad():
        got = TokenDropping(model)(hide(x, shown))
        expected = by_hand(model, x, shown)
    assert got.dtype == dtype
    torch.testing.assert_close(got, expected, atol=0.05, rtol=0.05)


def test_autocast():
    model, x, shown = vit(), images(4), coalitions(4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = TokenDropping(model)(hide(x, shown))
        expected = by_hand(model, x, shown)
    torch.testing.assert_close(got, expected, atol=0.05, rtol=0.05)


def test_copies_drop_in_themselves():
    original, x, shown = TokenDropping(vit()), images(4), coalitions(4)
    for twin in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert twin.transformer is not original.transformer
        with torch.no_grad():
            twin.model.head.weight.mul_(2)
            got, was = twin(hide(x, shown)), original(hide(x, shown))
        torch.testing.assert_close(got, was * 2 - twin.model.head.bias, atol=1e-5, rtol=1e-5)


def test_parts_that_are_replaced_later():
    model, x, shown = vit(), images(4), coalitions(4)
    dropping = TokenDropping(model)
    other = vit(seed=3)
    model.blocks, model.norm = other.blocks, other.norm
    model.reset_classifier(5, "avg")
    with torch.no_grad():
        got = dropping(hide(x, shown))
        torch.testing.assert_close(got[:3], by_hand(model, x[:3], shown[:3]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("outer", [TokenDropping, nn.Sequential])
def test_a_wrapper_inside_a_wrapper(outer):
    plain, x, shown = vit(), images(4), coalitions(4)
    nested = TokenDropping(outer(TokenDropping(plain)))
    with torch.no_grad():
        got = nested(hide(x, shown))
        torch.testing.assert_close(got, by_hand(plain, x, shown), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_eight_threads(shared):
    plain, x, shown = vit(), images(6), coalitions(6)
    with torch.no_grad():
        dropped, whole = by_hand(plain, x, shown), plain(x)
    one, wrong = TokenDropping(plain), []

    def work(number):
        dropping = one if shared else TokenDropping(plain)
        with torch.no_grad():
            for _ in range(5):
                # Others call the plain model meanwhile: no token of theirs may leave.
                got = plain(x) if number % 4 == 0 else dropping(hide(x, shown))
                right = whole if number % 4 == 0 else dropped
                if not torch.allclose(got, right, atol=1e-5):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert not plain.patch_embed._forward_pre_hooks


def test_a_users_own_hooks_run():
    model, x, shown = vit(), images(4), coalitions(4)
    seen = []
    model.blocks[1].register_forward_hook(lambda _, __, out: seen.append(out.shape[1]))
    model.patch_embed.register_forward_pre_hook(lambda _, a: (a[0] * 2,))
    with torch.no_grad():
        got = TokenDropping(model)(hide(x, shown))
        assert sorted(seen) == sorted((1 + shown.sum(1)).tolist())
        torch.testing.assert_close(got, by_hand(model, x, shown), atol=1e-5, rtol=1e-5)
    assert len(model.patch_embed._forward_pre_hooks) == 1


def test_a_models_own_error_stays_its_own():
    def broken(v, x):
        v(x)
        raise RuntimeError("view size is not compatible with stride")

    with pytest.raises(RuntimeError, match="not compatible with stride"):
        TokenDropping(Reads(vit(), broken))(hide(images(2), coalitions(4)[:2]))


def test_the_model_gets_a_copy_and_the_mode_that_it_had():
    model = Wrapped(vit(), lambda x: x.mul_(0)).train()
    x = images(2)
    kept = x.clone()
    TokenDropping(model)(x)
    assert torch.equal(x, kept)
    assert model.training
    batch_model = BatchModel(TokenDropping(model))
    with batch_model.running():
        batch_model((x,))
    assert torch.equal(x, kept)


def test_before_torch_2_6_compiled_modules_are_refused(monkeypatch):
    monkeypatch.delattr(torch.compiler, "set_stance")
    x, shown = images(2), coalitions(4)[:2]
    for change in (compiled, compiled_in_place, compiled_blocks):
        with pytest.raises(PatchShapError, match=r"a compiled module; .*_orig_mod"):
            TokenDropping(change(vit()))(hide(x, shown))
    TokenDropping(vit())(hide(x, shown))


def test_the_stance_of_the_compiler_comes_back():
    traced = []

    def backend(graph, _):
        traced.append(1)
        return graph.forward

    model = torch.compile(vit(), backend=backend)
    x, shown = images(2), coalitions(4)[:2]
    with torch.no_grad():
        TokenDropping(model)(hide(x, shown))
        assert not traced
        model(x)
        assert traced


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "torchvision"])
def test_hybrids_are_refused_in_words(name):
    if name == "torchvision":
        from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

        stem = [ConvStemConfig(8, 3, 2) for _ in range(4)]
        model = VisionTransformer(64, 16, 1, 2, 32, 64, num_classes=5, conv_stem_configs=stem)
    else:
        model = timm.create_model(name, pretrained=False, img_size=64, num_classes=5, depth=1)
    with pytest.raises(PatchShapError, match=r"a hybrid: its patch embedding mixes patches.*blur"):
        PatchKernelShap(model, PatchMasker(background="drop"))(images(1), max_evals=10, silent=True)


def test_torchvisions_transformer_in_other_ways():
    torch.manual_seed(0)
    plain = torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=5).eval()
    nn.init.normal_(plain.heads.head.weight)
    x, shown = images(4), coalitions(4)

    def looping(v, x):
        tokens = v._process_input(x)
        tokens = torch.cat([v.class_token.expand(len(x), -1, -1), tokens], 1)
        tokens = tokens + v.encoder.pos_embedding
        for layer in v.encoder.layers:
            tokens = layer(tokens)
        return v.heads(v.encoder.ln(tokens)[:, 0])

    with torch.no_grad():
        right = TokenDropping(plain)(hide(x, shown))
        for model in (compiled(copy.deepcopy(plain)), Reads(copy.deepcopy(plain), looping)):
            got = TokenDropping(model)(hide(x, shown))
            torch.testing.assert_close(got, right, atol=1e-5, rtol=1e-5)
    assert (right - plain(x))[0].abs().max() > 1e-3
