from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from xai_patchshap import PatchShapError
from xai_patchshap.masking.backgrounds import background_tensor

IMAGES = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))


def made(spec, x=IMAGES, layout="NCHW", **options):
    return background_tensor(spec, x, layout, **options)


def test_numbers_and_colours():
    assert made(0.5).shape == (1, 1, 3, 6, 8)
    assert (made(0.5) == 0.5).all()
    colour = made((0.1, 0.2, 0.3))
    assert torch.allclose(colour[0, 0, :, 2, 5], torch.tensor([0.1, 0.2, 0.3]))
    last = made((0.1, 0.2, 0.3), IMAGES.permute(0, 2, 3, 1), "NHWC")
    assert torch.equal(last[0, 0], colour[0, 0].permute(1, 2, 0))


def test_the_mean_is_that_of_each_image_and_channel():
    mean = made("mean")
    assert mean.shape == (1, 2, 3, 6, 8)
    assert torch.allclose(mean[0, 1, 2], IMAGES[1, 2].mean().expand(6, 8))


def test_blur_is_scipys_gaussian_without_mixing_channels_or_images():
    expected = gaussian_filter(IMAGES[1, 0].double().numpy(), 2.0, mode="nearest")
    np.testing.assert_allclose(made("blur:2")[0, 1, 0], expected, atol=1e-6)
    last = made("blur:2", IMAGES.permute(0, 2, 3, 1), "NHWC")
    np.testing.assert_allclose(last[0, 1, :, :, 0], expected, atol=1e-6)
    assert torch.equal(made("blur"), made("blur:0.6"))  # a tenth of the shorter side


def test_noise_has_the_images_moments_and_depends_on_the_seed_alone():
    big = torch.rand(1, 3, 100, 100) * torch.tensor([1.0, 0.1, 3.0])[:, None, None]
    noise = made("noise", big)[0, 0]
    assert torch.allclose(noise.mean((1, 2)), big[0].mean((1, 2)), atol=0.05)
    assert torch.allclose(noise.std((1, 2)), big[0].std((1, 2)), rtol=0.05)
    state = torch.random.get_rng_state()
    assert torch.equal(made("noise", seed=1), made("noise", seed=1))
    assert not torch.equal(made("noise", seed=1), made("noise", seed=2))
    assert torch.equal(torch.random.get_rng_state(), state)
    # An image gets the same noise alone and inside a batch.
    assert torch.equal(made("noise", IMAGES[1:])[0, 0], made("noise")[0, 1])


def test_an_own_image_in_either_layout():
    image = IMAGES[0].flip(-1)
    for spec in (image, image[None], image.numpy(), image.permute(1, 2, 0).numpy()):
        assert torch.equal(made(spec)[0, 0], image)


def test_a_set_stacks_its_members():
    several = made([0.0, "mean", (0.1, 0.2, 0.3)])
    assert several.shape == (3, 2, 3, 6, 8)
    assert torch.equal(several[1], made("mean")[0])
    stacked = made(np.stack([np.zeros((3, 6, 8)), np.ones((3, 6, 8))]))
    assert stacked.shape == (2, 1, 3, 6, 8)
    assert stacked[:, 0, 0, 0, 0].tolist() == [0, 1]
    # Two noises of a set are two draws.
    noises = made(["noise", "noise"])
    assert not torch.equal(noises[0], noises[1])


def test_integer_images_keep_their_dtype():
    x = (IMAGES * 255).to(torch.uint8)
    assert made("mean", x).dtype == torch.uint8
    assert made(127.6, x).unique().tolist() == [128]


def test_inputs_that_are_not_images():
    x = torch.rand(4, 5)
    assert background_tensor(2.0, x, None).shape == (1, 1, 5)
    assert background_tensor(np.arange(5), x, None)[0, 0].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(PatchShapError, match="background: 'mean' is made from an image"):
        background_tensor("mean", x, None)
    with pytest.raises(PatchShapError, match=r"expected the shape of one input, \(5,\)"):
        background_tensor(np.arange(4), x, None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "grey",
            "background: got 'grey'; expected 'mean', 'blur', 'blur:SIGMA', 'noise' or 'drop'",
        ),
        ("blur:-1", "expected 'blur:SIGMA' with a positive number of pixels"),
        ("blur:x", "expected 'blur:SIGMA'"),
        ([], "background: got an empty list; expected at least one background"),
        ((0.1, 0.2), "background: got a colour of 2 channels; expected 3 channels"),
        (
            np.zeros((5, 5)),
            r"background: got an array of shape \(5, 5\); expected the shape of one",
        ),
        (float("nan"), "background: got NaN"),
        (object(), "background: got <object .*; expected numbers"),
    ],
)
def test_errors(spec, message):
    with pytest.raises(PatchShapError, match=message):
        made(spec)
