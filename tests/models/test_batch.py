from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from xai_patchshap import PatchShapError
from xai_patchshap.models.batch import BatchModel
from xai_patchshap.models.vit_anatomy import vit_patch_size


class Caching(nn.Module):
    """Keeps a tensor of its forward pass, as rotary embeddings and anchors do."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.cache = None

    def forward(self, x):
        if self.cache is None:
            self.cache = torch.arange(3.0) + 1
        return (x * (self.cache * self.scale)).sum(1, keepdim=True)


def test_a_model_that_caches_can_be_trained_afterwards():
    model = Caching()
    batch_model = BatchModel(model)
    with batch_model.running():
        batch_model((torch.rand(2, 3),))
    model(torch.rand(2, 3)).sum().backward()
    assert model.scale.grad is not None


def test_every_mode_comes_back_even_after_an_error():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()))
    model[1][0].eval()
    before = [m.training for m in model.modules()]
    statistics = model[1][0].running_mean.clone()
    batch_model = BatchModel(model)

    def stopped():
        with batch_model.running():
            assert not any(m.training for m in model.modules())
            batch_model((torch.rand(2, 3, 4, 4),))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert [m.training for m in model.modules()] == before
    assert torch.equal(model[1][0].running_mean, statistics)


def test_a_convolution_gets_channels_last_memory_and_the_same_values():
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return self.conv(x).mean((2, 3))

    model, x = Net(), torch.rand(2, 3, 8, 8)
    batch_model = BatchModel(model)
    with batch_model.running():
        out = batch_model((x,))
    assert seen == [True]
    torch.testing.assert_close(out, model(x).detach())


def test_a_model_that_views_its_activations_gets_contiguous_memory():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).view(len(x), -1)

    model, x = Viewing(), torch.rand(2, 3, 8, 8)
    batch_model = BatchModel(model)
    with batch_model.running():
        for _ in range(2):
            torch.testing.assert_close(batch_model((x,)), model(x).detach())


def test_inputs_follow_the_models_dtype():
    model = nn.Linear(3, 2).double()
    batch_model = BatchModel(model)
    with batch_model.running():
        assert batch_model((torch.rand(1, 3),)).dtype == torch.float64


def test_autocast_runs_in_the_chosen_precision():
    batch_model = BatchModel(nn.Linear(3, 2), autocast=torch.bfloat16)
    with batch_model.running():
        assert batch_model((torch.rand(1, 3),)).dtype == torch.bfloat16


def test_a_callable_gets_arrays_or_tensors_as_told():
    given = []

    def model(x):
        given.append(x)
        return 0.0

    for hands in (np.dtype("f4"), np.dtype("u2"), torch.uint16, None):
        BatchModel(model, hands=hands)((torch.ones(1, 3),))
    assert [type(x).__name__ for x in given] == ["ndarray", "ndarray", "Tensor", "Tensor"]
    assert [x.dtype for x in given] == [np.float32, np.uint16, torch.uint16, torch.float32]


def test_what_is_not_callable_is_refused():
    with pytest.raises(
        PatchShapError, match=r"model: got an object of type dict; expected a torch"
    ):
        BatchModel({})


@pytest.mark.parametrize(
    ("name", "options", "patch"),
    [
        ("vit_tiny_patch16_224", {"img_size": 64}, (16, 16)),
        ("deit_tiny_patch16_224", {"img_size": 64}, (16, 16)),
        ("vit_small_patch14_dinov2", {"img_size": 56}, (14, 14)),
        ("eva02_tiny_patch14_224", {"img_size": 56}, (14, 14)),
        ("beit_base_patch16_224", {"depth": 1}, (16, 16)),
        ("swin_tiny_patch4_window7_224", {}, None),
        ("resnet18", {}, None),
    ],
)
def test_patch_sizes_of_vision_transformers(name, options, patch):
    model = timm.create_model(name, pretrained=False, **options)
    assert vit_patch_size(model) == patch
    assert vit_patch_size(nn.Sequential(nn.Identity(), model)) == patch
    assert vit_patch_size(lambda x: model(x)) is None


def test_patch_size_of_torchvisions_vision_transformer():
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 1, 2, 16, 32)
    assert vit_patch_size(model) == (8, 8)
