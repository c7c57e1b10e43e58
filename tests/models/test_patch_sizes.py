"""Patch sizes in pixels against the tokens that a transformer really makes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from xai_patchshap import PatchKernelShap, grid_players
from xai_patchshap.models.vit_anatomy import vit_patch_size

PLAIN = {"embed_dim": 24, "depth": 1, "num_heads": 2}


def stem(stride):
    """A convolutional stem, as of a hybrid."""
    layers, width = [], 3
    for _ in range(stride.bit_length() - 1):
        layers += [nn.Conv2d(width, 8, 3, stride=2, padding=1), nn.ReLU()]
        width = 8
    return nn.Sequential(*layers)


def hybrid(stride, patch, size=64, cls=timm.models.VisionTransformer, **options):
    def embed(**given):
        given = {**given, "patch_size": patch}
        return timm.layers.HybridEmbed(stem(stride), **given)

    return cls(img_size=size, patch_size=patch, embed_layer=embed, **PLAIN, **options).eval()


def n_tokens(model, size):
    with torch.no_grad():
        tokens = model.forward_features(torch.zeros(1, 3, *size))
    return tokens.shape[1] - model.num_prefix_tokens


def n_default_players(model, size):
    return int(PatchKernelShap(model)._default_masks((torch.zeros(1, 3, *size),))[0].max()) + 1


@pytest.mark.parametrize(
    ("stride", "patch", "size", "expected"),
    [
        (16, 1, (64, 64), (16, 16)),
        (4, 4, (64, 64), (16, 16)),
        (2, 8, (64, 96), (16, 16)),
        (8, (2, 1), (64, 64), (16, 8)),
        (32, 1, (64, 128), (32, 32)),
    ],
)
def test_a_hybrids_patch_is_the_stride_of_its_whole_embedding(stride, patch, size, expected):
    model = hybrid(stride, patch, size)
    assert vit_patch_size(model) == expected
    assert vit_patch_size(nn.Sequential(nn.Identity(), model)) == expected
    assert n_default_players(model, size) == n_tokens(model, size)


def test_a_hybrid_whose_grid_does_not_divide_the_image_falls_back_to_seven_by_seven():
    model = hybrid(16, 1, 72)  # five tokens a side
    assert vit_patch_size(model) is None
    assert n_default_players(model, (72, 72)) == 49


@pytest.mark.parametrize(
    "embed",
    [
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 24, 8, stride=8)),
        nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 24, 8, stride=8)),
        nn.Conv2d(3, 24, 16, stride=10),
        nn.Conv2d(3, 24, 8, stride=8, padding=4),
    ],
)
def test_an_unknown_embedding_falls_back_to_seven_by_seven(embed):
    model = timm.models.VisionTransformer(img_size=64, **PLAIN)
    model.patch_embed = embed
    assert vit_patch_size(model) is None


@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        "test_vit4",
        "vit_tiny_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_base_patch16_siglip_224",
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",
        "flexivit_small",
        "eva02_tiny_patch14_224",
        "beit_base_patch16_224",
        "vit_base_mci_224",
        "vit_tiny_r_s16_p8_224",
        pytest.param("vit_small_r26_s32_224", marks=pytest.mark.slow),
        "vit_base_r50_s16_224",
        "vit_small_resnet26d_224",
        pytest.param("vit_base_resnet50d_224", marks=pytest.mark.slow),
    ],
)
def test_players_of_timms_models_are_their_tokens(name):
    with torch.device("meta"):  # shapes without weights
        model = timm.create_model(name, pretrained=False).eval()
        size = model.pretrained_cfg["input_size"][1:]
        tokens = model.forward_features(torch.empty(1, 3, *size)).shape[1]
    players = grid_players(*size, patch=vit_patch_size(model))
    assert players.n == tokens - model.num_prefix_tokens


@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "hiera_tiny_224", "mvitv2_tiny", "levit_128", "test_resnet"],
)
def test_models_that_merge_patches_have_no_patch_size(name):
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    assert vit_patch_size(model) is None


def test_torchvision_counts_in_pixels_behind_a_stem_too():
    from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

    convolutions = [ConvStemConfig(8, 3, 2), ConvStemConfig(8, 3, 2), ConvStemConfig(8, 3, 2)]
    model = VisionTransformer(32, 8, 1, 2, 16, 32, conv_stem_configs=convolutions)
    assert vit_patch_size(model) == (8, 8)


TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
}
BIT = {
    "model_type": "bit",
    "layer_type": "bottleneck",
    "depths": [1, 1, 1],
    "hidden_sizes": [8, 8, 16],
    "embedding_size": 8,
    "num_groups": 2,
    "out_features": ["stage1", "stage2", "stage3"],
}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("ViT", {**TINY, "patch_size": 8}, (8, 8)),
        ("Dinov2", {**TINY, "patch_size": 4}, (4, 4)),
        ("VitPoseBackbone", {**TINY, "patch_size": [8, 4], "image_size": [32, 32]}, (8, 4)),
        ("DPT", {**TINY, "is_hybrid": True, "backbone_config": BIT}, None),
        ("MobileViT", {}, None),
        ("ConvNext", {}, None),
        ("Swin", {}, None),
        ("Levit", {}, None),
        ("Segformer", {}, None),
        ("Hiera", {}, None),
    ],
)
def test_patch_sizes_of_transformers_models(name, options, expected):
    import transformers

    suffix = "" if name.endswith("Backbone") else "Model"
    if name == "DPT":
        options = {
            **options,
            "num_hidden_layers": 4,
            "backbone_featmap_shape": [1, 16, 2, 2],
            "neck_ignore_stages": [0, 1],
            "backbone_out_indices": [0, 1, 2, 3],
        }
    config = getattr(transformers, f"{name}Config")(**options)
    with torch.device("meta"):
        model = getattr(transformers, name + suffix)(config)
    assert vit_patch_size(model) == expected
