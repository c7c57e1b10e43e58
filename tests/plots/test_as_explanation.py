"""Attributions of other libraries, drawn by ``shap.image_plot``."""

from __future__ import annotations

import numpy as np
import pytest
import shap
import torch
from captum.attr import IntegratedGradients, KernelShap, Saliency
from matplotlib import pyplot as plt
from torch import nn

from xai_patchshap import InteractionShap, OwenBPT, PatchKernelShap, PatchMasker, PatchShapError
from xai_patchshap.plots import as_explanation, side_by_side

N, C, H, W, K = 2, 3, 6, 8, 4
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(N, H, W, C, K))  # as shap.image_plot wants them
FIRST = np.moveaxis(VALUES, 3, 1)  # (N, C, H, W, K)
IMAGES = RNG.random((N, H, W, C))  # channels last
TENSOR = torch.from_numpy(np.moveaxis(IMAGES, 3, 1).copy())
NAMES = ["a", "b", "c", "d"]
OWN_NAMES = np.array([["a", "b", "c", "d"], ["e", "f", "g", "h"]])


class Net(nn.Module):
    """Something that DeepExplainer can explain."""

    def __init__(self, channels=C, outputs=K, height=H, width=W):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4 * (height - 2) * (width - 2), outputs)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).flatten(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().double().eval()


@pytest.fixture(scope="module")
def background():
    return torch.from_numpy(np.random.default_rng(1).random((3, C, H, W)))


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def drawn(explanation, **kwargs):
    """Titles and pixels of the panels that ``shap.image_plot`` draws, row by row."""
    shap.image_plot(explanation, show=False, **kwargs)
    figure = plt.gcf()
    figure.canvas.draw()
    *panels, _ = figure.axes
    rows = np.array(panels, dtype=object).reshape(len(explanation.values), -1)
    titles = [[panel.get_title() for panel in row] for row in rows]
    pixels = [[np.asarray(p.images[-1].get_array()) for p in row] for row in rows]
    return titles, pixels


def assert_drawn(explanation, values, images, names):
    """What is drawn are the images and, under their names, the values, channels added up."""
    titles, pixels = drawn(explanation)
    names = np.asarray(names)
    for i, (title, row) in enumerate(zip(titles, pixels, strict=True)):
        expected = names[i] if names.ndim == 2 else (names if i == 0 else [""] * len(names))
        assert title[1:] == list(expected)
        np.testing.assert_allclose(
            row[0], images[i, :, :, 0] if images.shape[3] == 1 else images[i]
        )
        for k, panel in enumerate(row[1:]):
            np.testing.assert_allclose(panel, values[i, ..., k].sum(-1), atol=1e-12)


# ----- every form --------------------------------------------------------------------------


def old_list(values):
    return [values[..., k] for k in range(values.shape[-1])]


FORMS = {
    "array, channels first": FIRST,
    "array, channels last": VALUES,
    "tensor": torch.from_numpy(FIRST.copy()),
    "list, channels first": old_list(FIRST),
    "list, channels last": old_list(VALUES),
    "list of tensors": [torch.from_numpy(v.copy()) for v in old_list(FIRST)],
    "Explanation, tensors": shap.Explanation(FIRST, data=TENSOR),
    "Explanation, arrays": shap.Explanation(FIRST, data=TENSOR.numpy()),
    "Explanation, names": shap.Explanation(VALUES, data=IMAGES, output_names=NAMES),
}


@pytest.mark.parametrize(
    "images", [IMAGES, TENSOR, TENSOR.numpy()], ids=["last", "tensor", "first"]
)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_the_same_explanation(form, images):
    found = as_explanation(FORMS[form], images, output_names=NAMES)
    np.testing.assert_array_equal(found.values, VALUES)
    np.testing.assert_array_equal(found.data, IMAGES)
    assert (found.output_names, found.output_dims) == (NAMES, (4,))
    assert isinstance(found.data, np.ndarray)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_drawn_are_the_values_with_channels_added_up(form):
    assert_drawn(as_explanation(FORMS[form], TENSOR, output_names=NAMES), VALUES, IMAGES, NAMES)


@pytest.mark.parametrize("form", [f for f in FORMS if f.startswith("Explanation")])
def test_an_explanation_brings_its_images(form):
    np.testing.assert_array_equal(as_explanation(FORMS[form]).data, IMAGES)
    one = shap.Explanation(FORMS[form].values[..., 0], data=FORMS[form].data)
    for several in ({"array": FIRST[..., 0], "own": one}, [FIRST[..., 0], one], (one, one)):
        found = as_explanation(several)
        np.testing.assert_array_equal(found.data, IMAGES)
        np.testing.assert_array_equal(found.values[..., 1], VALUES[..., 0])


@pytest.mark.parametrize(
    "given", [FIRST[..., 0], VALUES[..., 0], torch.from_numpy(FIRST[..., 0].copy())]
)
def test_a_single_output(given):
    found = as_explanation(given, IMAGES)
    np.testing.assert_array_equal(found.values, VALUES[..., :1])
    assert found.output_names == ["Output 0"]
    assert_drawn(found, VALUES[..., :1], IMAGES, ["Output 0"])


@pytest.mark.parametrize("shape", [(N, 1, H, W), (N, H, W, 1), (N, H, W)])
def test_a_map_without_channels_is_divided_over_them(shape):
    sums = VALUES[..., 0].sum(3)
    found = as_explanation(sums.reshape(shape), IMAGES)
    np.testing.assert_allclose(found.values, np.repeat(sums[..., None, None] / C, C, axis=3))
    assert_drawn(found, found.values, IMAGES, ["Output 0"])
    np.testing.assert_allclose(drawn(found)[1][0][1], sums[0])


def test_gray_images():
    gray = IMAGES[..., :1]
    found = as_explanation(FIRST[:, :1], gray, output_names=NAMES)
    np.testing.assert_array_equal(found.values, VALUES[:, :, :, :1])
    assert_drawn(found, VALUES[:, :, :, :1], gray, NAMES)


def test_a_mapping_names_its_outputs():
    given = {"tensor": torch.from_numpy(FIRST[..., 0].copy()), "array": VALUES[..., 1]}
    given["explanation"] = shap.Explanation(FIRST[..., 2], data=TENSOR)
    found = as_explanation(given, IMAGES)
    np.testing.assert_array_equal(found.values, VALUES[..., :3])
    assert_drawn(found, VALUES[..., :3], IMAGES, ["tensor", "array", "explanation"])


def test_images_of_bytes():
    images = (255 * IMAGES).astype(np.uint8)
    assert as_explanation(FIRST, images).data.dtype == np.uint8
    drawn(as_explanation(FIRST, images))


# ----- layouts ------------------------------------------------------------------------------


def test_a_cube_needs_a_layout_unless_it_is_a_tensor():
    cube = RNG.normal(size=(N, 3, 3, 3))
    images = RNG.random((N, 3, 3, 3))
    turned = np.moveaxis(cube, 1, 3)
    for layout, expected in (("NHWC", cube), ("NCHW", turned)):
        found = as_explanation(cube, images, layout=layout)
        np.testing.assert_array_equal(found.values[..., 0], expected)
    found = as_explanation(torch.from_numpy(cube), torch.from_numpy(images))
    np.testing.assert_array_equal(found.values[..., 0], turned)
    np.testing.assert_array_equal(found.data, np.moveaxis(images, 1, 3))
    with pytest.raises(
        PatchShapError, match=r"attributions: got shape \(2, 3, 3, 3\), which fits bo"
    ):
        as_explanation(cube, images)


def test_a_layout_is_of_the_images_where_the_shape_of_the_values_is_clear():
    images = RNG.random((N, 5, H, W))
    values = RNG.normal(size=(N, H, W, 5))
    found = as_explanation(values, images, layout="NCHW")
    np.testing.assert_array_equal(found.values[..., 0], values)
    np.testing.assert_array_equal(found.data, np.moveaxis(images, 1, 3))


# ----- names and base values ----------------------------------------------------------------


def test_names_of_its_own_for_each_image():
    found = as_explanation(FIRST, IMAGES, output_names=OWN_NAMES)
    assert_drawn(found, VALUES, IMAGES, OWN_NAMES)
    same = as_explanation(FIRST, IMAGES, output_names=[NAMES, NAMES])
    assert same.output_names == NAMES


@pytest.mark.pairwise
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("own", [False, True])
def test_whatever_the_numbers_of_images_channels_and_outputs(n, channels, k, own):
    values, images = RNG.normal(size=(n, 5, 7, channels, k)), RNG.random((n, 5, 7, channels))
    names = np.array([[f"{i if own else 0}{j}" for j in range(k)] for i in range(n)])
    base = RNG.normal(size=(n, k))
    found = as_explanation(values, images, output_names=names, base_values=base)
    np.testing.assert_array_equal(found.base_values, base)
    assert_drawn(found, values, images, names if own and n > 1 else names[0])


def test_three_colour_photographs_that_shap_refuses_are_drawn():
    """As many images as channels: shap takes the names of images for those of channels."""
    x = torch.from_numpy(np.random.default_rng(0).random((3, C, H, W)))
    x = x / 2
    x[range(3), range(3)] += 0.5  # another output is highest for each image
    best = shap.Explanation.argsort.flip[:2]
    explainer = PatchKernelShap(lambda z: z.mean((2, 3)), PatchMasker((2, 2)))
    given = explainer(x, outputs=best, silent=True)
    plain = shap.Explanation(
        given.values, given.base_values, given.data, output_names=given.output_names
    )
    with pytest.raises(Exception, match="Number of outputs"):
        shap.image_plot(plain, show=False)
    found = as_explanation(plain)
    np.testing.assert_array_equal(found.base_values, given.base_values)
    assert_drawn(found, given.values, given.data, given.output_names)


def test_base_values():
    for base, expected in (
        ([1.0, 2, 3, 4], [[1, 2, 3, 4]] * 2),
        (RNG.normal(size=(N, K)), None),
        (torch.arange(4), [[0, 1, 2, 3]] * 2),
    ):
        found = as_explanation(FIRST, IMAGES, base_values=base).base_values
        np.testing.assert_array_equal(found, base if expected is None else expected)
    for base in (0.5, [0.5], [0.5, 0.5], [[0.5], [0.5]]):
        found = as_explanation(FIRST[..., 0], IMAGES, base_values=base)
        np.testing.assert_array_equal(found.base_values, [[0.5], [0.5]])
    assert as_explanation(FIRST, IMAGES).base_values is None


# ----- the libraries themselves -------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch's hooks
def test_deep_and_gradient_explainers(net, background):
    deep = shap.DeepExplainer(net, background)
    values = deep.shap_values(TENSOR)
    assert values.shape == (N, C, H, W, K)
    found = as_explanation(values, TENSOR, base_values=deep.expected_value, output_names=NAMES)
    gap = found.values.sum((1, 2, 3)) - (net(TENSOR).detach().numpy() - found.base_values)
    assert np.abs(gap).max() < 1e-5
    of_call = as_explanation(deep(TENSOR))
    np.testing.assert_allclose(of_call.values, found.values)
    np.testing.assert_array_equal(of_call.data, IMAGES)
    single = Net().eval()  # GradientExplainer is of float32
    gradient = shap.GradientExplainer(single, background.float())
    values = gradient.shap_values(TENSOR.float(), nsamples=5, rseed=0)
    found = as_explanation(values, TENSOR)
    np.testing.assert_array_equal(found.values, np.moveaxis(values, 1, 3))
    drawn(found)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ranked_outputs(net, background):
    deep, x = shap.DeepExplainer(net, background), torch.stack([TENSOR[0], -TENSOR[0]])
    # shap's check compares the chosen outputs with the first ones.
    pair = deep.shap_values(x, ranked_outputs=2, check_additivity=False)
    best = net(x).argsort(1, descending=True)[:, :2]
    found = as_explanation(pair, IMAGES, output_names=NAMES)
    every = np.moveaxis(deep.shap_values(x), 1, 3)
    chosen = np.stack([every[i][..., best[i]] for i in range(N)])
    named = np.array(NAMES)[best]
    assert (named[0] != named[1]).any()
    assert_drawn(found, chosen, IMAGES, named)
    unnamed = as_explanation(pair, IMAGES)
    assert unnamed.output_names[0][0] == f"Output {best[0, 0]}"
    ours = PatchKernelShap(net, PatchMasker((2, 2), background))
    ours = ours.shap_values(x, ranked_outputs=2, max_evals=100)
    np.testing.assert_array_equal(as_explanation(ours, IMAGES).output_names, unnamed.output_names)
    as_list = (old_list(pair[0]), pair[1])
    np.testing.assert_array_equal(
        as_explanation(as_list, IMAGES).values, as_explanation(pair, IMAGES).values
    )


@pytest.mark.parametrize("outputs", [None, [2], [1, 3]])
def test_our_own_explanations_come_back_unchanged(net, outputs):
    for explainer in (PatchKernelShap(net, PatchMasker((2, 2))), OwenBPT(net)):
        given = explainer(TENSOR, max_evals=20, outputs=outputs, silent=True)
        assert as_explanation(given) is given
    scalar = PatchKernelShap(lambda x: net(x)[:, 0], PatchMasker((2, 2)))
    given = scalar(TENSOR, max_evals=20, silent=True)
    assert given.values.ndim == 4
    assert as_explanation(given) is given
    np.testing.assert_array_equal(as_explanation(given, IMAGES).values, given.values[..., None])


def test_a_layout_tells_explanations_of_other_numbers_of_channels():
    given = shap.Explanation(VALUES[:, :, :, :2], data=IMAGES[..., :2], output_names=NAMES)
    assert as_explanation(given, layout="NHWC") is given
    with pytest.raises(PatchShapError, match="expected a clear layout"):
        as_explanation(given)


def test_an_explanation_may_get_other_images_and_names(net):
    given = PatchKernelShap(net, PatchMasker((2, 2)))(TENSOR, max_evals=20, silent=True)
    shown = 1 - TENSOR
    found = as_explanation(given, shown, output_names=NAMES)
    np.testing.assert_array_equal(found.values, given.values)
    np.testing.assert_array_equal(found.base_values, given.base_values)
    np.testing.assert_array_equal(found.data, 1 - IMAGES)
    assert found.output_names == NAMES


def test_an_output_cut_out_of_an_explanation_is_drawn(net):
    explainer = PatchKernelShap(net, PatchMasker((2, 2)), output_names=NAMES)
    every = explainer(TENSOR, max_evals=20, silent=True)
    cut = as_explanation(every[..., 1])  # shap itself cannot draw it
    assert_drawn(cut, every.values[..., 1:2], IMAGES, ["b"])
    np.testing.assert_array_equal(cut.base_values, every.base_values[:, 1:2])


def test_captums_tensors_one_for_each_target(net):
    method = IntegratedGradients(net)
    attributions = [method.attribute(TENSOR, target=k, n_steps=4) for k in range(K)]
    found = as_explanation(attributions, TENSOR, output_names=NAMES)
    for k in range(K):
        expected = attributions[k].permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(found.values[..., k], expected)


# ----- groups of elements -------------------------------------------------------------------

ROWS = torch.arange(H).repeat_interleave(W).reshape(H, W) // 2  # three groups of two rows


@pytest.mark.parametrize(
    "mask",
    [ROWS, ROWS[None], ROWS[None, None], ROWS.expand(N, 1, H, W), ROWS.expand(N, C, H, W)],
    ids=lambda m: str(tuple(m.shape)),
)
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_a_group_value_is_spread_over_its_elements(net, mask, kind):
    kwargs = {"target": 1, "n_samples": 8, "feature_mask": ROWS[None, None]}
    attributions = PatchKernelShap(net).attribute(TENSOR, **kwargs)
    mask = mask if kind == "tensor" else mask.numpy()
    found = as_explanation(attributions, IMAGES, feature_mask=mask)
    np.testing.assert_allclose(
        found.values, attributions.permute(0, 2, 3, 1)[..., None] / (2 * W * C)
    )
    gap = (net(TENSOR) - net(0 * TENSOR))[:, 1].detach().numpy() - found.values.sum((1, 2, 3, 4))
    assert np.abs(gap).max() < 1e-6


def test_both_faces_draw_the_same_picture(net):
    explainer = PatchKernelShap(net, PatchMasker((2, 2)))
    kwargs = {"n_samples": 16, "feature_mask": explainer.masker.feature_mask(TENSOR)}
    captum = [explainer.attribute(TENSOR, target=k, **kwargs) for k in range(K)]
    found = as_explanation(captum, TENSOR, feature_mask=kwargs["feature_mask"])
    ours = explainer(TENSOR, max_evals=16, silent=True)
    np.testing.assert_allclose(found.values, ours.values, atol=1e-7)


def test_groups_across_channels_and_masks_of_each_image():
    halves = torch.arange(W).expand(H, W) // 4
    mask = torch.stack([ROWS, 7 * halves])[:, None]  # ids may be anything
    given = mask.double().expand(N, C, H, W)
    found = as_explanation(given, TENSOR, feature_mask=mask).values[..., 0]
    np.testing.assert_allclose(found[0].sum((1, 2))[::2] * 2, [0.0, 1.0, 2.0])
    np.testing.assert_allclose(found[1].sum((0, 2))[::4] * 4, [0.0, 7.0])
    channels = torch.arange(C)[:, None, None].expand(1, C, H, W)  # each channel one player
    given = channels.double().expand(N, C, H, W)
    for layout_of_mask in (channels, channels.permute(0, 2, 3, 1).numpy()):
        found = as_explanation(given, TENSOR, feature_mask=layout_of_mask)
        np.testing.assert_allclose(found.values[0].sum((0, 1, 3)), [0.0, 1.0, 2.0])


def test_a_captum_method_with_a_mask(net):
    kwargs = {"target": 2, "feature_mask": ROWS[None, None], "n_samples": 50}
    attributions = KernelShap(net).attribute(TENSOR[:1], **kwargs)
    found = as_explanation(attributions, TENSOR[:1], feature_mask=ROWS[None, None])
    coefficients = attributions[0, 0, ::2, 0].numpy()
    np.testing.assert_allclose(found.values[0].sum((1, 2, 3))[::2] * 2, coefficients, rtol=1e-6)


# ----- several methods ----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_methods_side_by_side_in_one_image_plot(net, background):
    patches = PatchKernelShap(net, PatchMasker((2, 2), background))
    pixels = OwenBPT(net, PatchMasker(background=background))
    mask = ROWS[None, None]
    coefficients = PatchKernelShap(net).attribute(TENSOR, target=3, n_samples=8, feature_mask=mask)
    methods = {
        "DeepExplainer": shap.DeepExplainer(net, background).shap_values(TENSOR),
        "PatchKernelShap": patches(TENSOR, max_evals=48, silent=True),
        "OwenBPT": pixels(TENSOR, max_evals=60, silent=True),
        "by Captum": as_explanation(coefficients, TENSOR, feature_mask=mask),
        "Saliency": Saliency(net).attribute(TENSOR, target=3, abs=False),
    }
    found = side_by_side(methods, TENSOR, output=3)
    assert found.values.shape == (N, H, W, C, 5)
    columns = np.stack(
        [
            np.moveaxis(methods["DeepExplainer"][..., 3], 1, 3),
            methods["PatchKernelShap"].values[..., 3],
            methods["OwenBPT"].values[..., 3],
            coefficients.permute(0, 2, 3, 1).numpy() / (2 * W * C),
            methods["Saliency"].permute(0, 2, 3, 1).numpy(),
        ],
        axis=-1,
    )
    assert_drawn(found, columns, IMAGES, list(methods))
    # Three ways to the same sum.
    total = found.values.sum((1, 2, 3))[:, :3]
    expected = (net(TENSOR) - net(background).mean(0))[:, 3].detach().numpy()
    np.testing.assert_allclose(total, np.repeat(expected[:, None], 3, 1), atol=1e-5)


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_as_many_methods_as_images_or_channels(n, channels):
    values, images = RNG.normal(size=(n, 5, 7, channels, 6)), RNG.random((n, 5, 7, channels))
    for m in (1, 2, 3):
        chosen = RNG.integers(0, 6, n)
        found = side_by_side({f"method {j}": (j + 1) * values for j in range(m)}, images, chosen)
        own = values[np.arange(n), ..., chosen]
        expected = np.stack([(j + 1) * own for j in range(m)], axis=-1)
        assert_drawn(found, expected, images, [f"method {j}" for j in range(m)])
        plt.close("all")


def test_an_output_of_its_own_for_each_image():
    for output in ([3, 0], np.array([3, 0]), torch.tensor([3, 0])):
        found = side_by_side({"x": FIRST, "y": VALUES[..., 1]}, IMAGES, output)
        np.testing.assert_array_equal(found.values[0, ..., 0], VALUES[0, ..., 3])
        np.testing.assert_array_equal(found.values[1, ..., 0], VALUES[1, ..., 0])
        np.testing.assert_array_equal(found.values[..., 1], VALUES[..., 1])


def test_images_and_base_values_of_explanations():
    base = RNG.normal(size=(N, K))
    one = shap.Explanation(VALUES, base, IMAGES, output_names=NAMES)
    found = side_by_side({"x": one, "y": one}, output=2)
    np.testing.assert_array_equal(found.data, IMAGES)
    np.testing.assert_array_equal(found.base_values, np.stack([base[:, 2]] * 2, 1))
    assert side_by_side({"x": one, "y": FIRST}, output=2).base_values is None
    assert side_by_side({"x": one}, output=2, rescaled=True).base_values is None


def test_rescaled_maps_have_their_largest_value_at_one():
    given = {"x": FIRST[..., 0], "y": 100 * FIRST[..., 1], "nothing": 0 * FIRST[..., 2]}
    found = side_by_side(given, IMAGES, rescaled=True).values
    largest = np.abs(found.sum(3)).max((1, 2))
    np.testing.assert_allclose(largest, [[1, 1, 0]] * N)
    ratio = found[..., 1] / VALUES[..., 1]
    assert np.ptp(ratio, axis=(1, 2, 3)).max() < 1e-12  # one factor for each map


# ----- errors -------------------------------------------------------------------------------

NAN = np.where(np.arange(W)[:, None] == 3, np.nan, IMAGES)
ROW_VALUES = ROWS.double().expand(N, C, H, W)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"images": None},
            r"images: got None; expected the images\. Only an Explanation brings its own\.",
        ),
        (
            {"images": IMAGES[0]},
            r"images: got shape \(6, 8, 3\) of float64; expected \(N, H, W, C\) or "
            r"\(N, C, H, W\) of numbers\. One image alone needs a batch axis: x\[None\]\.",
        ),
        (
            {"images": IMAGES[0, 0]},
            r"images: got shape \(8, 3\) of float64; expected .* numbers\.$",
        ),
        ({"images": IMAGES[:0]}, r"images: got shape \(0, 6, 8, 3\) of float64"),
        ({"images": IMAGES.astype(str)}, r"images: got shape \(2, 6, 8, 3\) of <U32"),
        ({"images": NAN}, "images: got NaN or infinity; expected finite numbers"),
        (
            {"images": np.zeros((N, 5, H, W))},
            r"images: got an array of shape \(2, 5, 6, 8\); expected a clear layout\. Say "
            r"which with layout='NHWC' or layout='NCHW'\.",
        ),
        (
            {"images": torch.zeros(N, H, W, C)},
            r"images: got a tensor of shape \(2, 6, 8, 3\); expected a clear layout",
        ),
        ({"layout": "CHW"}, "layout: got 'CHW'; expected 'auto', 'NCHW' or 'NHWC'"),
        (
            {"attributions": VALUES[:, :-1]},
            r"attributions: got shape \(2, 5, 8, 3, 4\) for 2 images of 6 by 8 pixels and 3 "
            r"channel\(s\); expected \(2, 3, 6, 8\) or \(2, 6, 8, 3\), and one axis more for "
            r"several outputs\. Values per patch are drawn by plots\.attribution_maps\.",
        ),
        ({"attributions": VALUES[:1]}, r"attributions: got shape \(1, 6, 8, 3, 4\) for 2 images"),
        ({"attributions": VALUES[:, :, :, :2]}, r"attributions: got shape \(2, 6, 8, 2, 4\)"),
        ({"attributions": np.moveaxis(VALUES, 4, 0)}, r"attributions: got shape \(4, 2, 6, 8, 3\)"),
        ({"attributions": VALUES[0, 0, 0]}, r"attributions: got shape \(3, 4\)"),
        (
            {"attributions": shap.Explanation(np.zeros((N, 4)), data=np.zeros((N, 4)))},
            r"attributions: got shape \(2, 4\) for 2 images",
        ),
        (
            {"attributions": "saliency"},
            "attributions: got an object of type str; expected arrays of numbers",
        ),
        ({"attributions": NAN}, "attributions: got NaN or infinity; expected finite numbers"),
        ({"attributions": []}, "attributions: got no attributions; expected those to at least one"),
        ({"attributions": {}}, "attributions: got no attributions; expected those to at least one"),
        (
            {"attributions": {"x": VALUES}},
            r"attributions\['x'\]: got attributions to 4 outputs; expected to a single one\. "
            r"side_by_side\(\.\.\., output=\) shows one output of several methods",
        ),
        ({"attributions": [VALUES[..., 0], NAN]}, r"attributions\[1\]: got NaN or infinity"),
        (
            {"attributions": {"x": VALUES[..., 0]}, "output_names": ["a"]},
            "output_names: got names beside those of a mapping; expected None",
        ),
        (
            {"output_names": NAMES[:3]},
            r"output_names: got shape \(3,\); expected \(4,\) or \(2, 4\), one per output",
        ),
        ({"output_names": OWN_NAMES.T}, r"output_names: got shape \(4, 2\)"),
        (
            {"attributions": (VALUES, np.zeros((N, 3), int))},
            r"attributions: got indexes of shape \(2, 3\) of int64; expected whole numbers of "
            r"shape \(2, 4\), as ranked_outputs gives them",
        ),
        (
            {"attributions": (VALUES, np.zeros((N, K)))},
            r"attributions: got indexes of shape \(2, 4\) of float64",
        ),
        (
            {"attributions": (VALUES, np.full((N, K), 7)), "output_names": NAMES},
            r"output_names: got shape \(4,\); expected 8 or more, one for each output",
        ),
        (
            {"base_values": [1.0, 2.0]},
            r"base_values: got shape \(2,\); expected \(4,\) or \(2, 4\), one per output",
        ),
        ({"base_values": [1.0, 2, 3, np.inf]}, "base_values: got NaN or infinity"),
        ({"base_values": ["cat"]}, r"base_values: got \['cat'\]; expected numbers"),
        (
            {"attributions": ROW_VALUES, "feature_mask": ROWS[1:]},
            r"feature_mask: got shape \(5, 8\) of int64; expected whole numbers of shape "
            r"\(6, 8\), with or without axes of images and of the 3 channel\(s\) of attributions",
        ),
        (
            {"attributions": ROW_VALUES, "feature_mask": ROWS.double()},
            r"feature_mask: got shape \(6, 8\) of float64",
        ),
        (
            {"attributions": ROW_VALUES, "feature_mask": ROWS.expand(3, H, W)},
            r"feature_mask: got shape \(3, 6, 8\)",
        ),
        (
            {"attributions": ROW_VALUES, "feature_mask": ROWS.expand(3, 1, H, W)},
            r"feature_mask: got shape \(3, 1, 6, 8\)",
        ),
        (
            {"attributions": ROW_VALUES, "feature_mask": ROWS[0]},
            r"feature_mask: got shape \(8,\)",
        ),
        (
            {"attributions": ROW_VALUES[:, :1], "feature_mask": ROWS.expand(N, C, H, W)},
            r"feature_mask: got shape \(2, 3, 6, 8\) .* of the 1 channel\(s\)",
        ),
        (
            {"feature_mask": ROWS},
            "attributions: got values that differ within a group of the feature_mask, for image 0; "
            "expected one value on all elements of a group, which is Captum's convention. Leave",
        ),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    given = {"attributions": VALUES, "images": IMAGES} | arguments
    with pytest.raises(PatchShapError, match=message):
        as_explanation(given.pop("attributions"), given.pop("images"), **given)


def test_explanations_that_are_no_images(net):
    explainer = PatchKernelShap(net, PatchMasker((2, 2)))
    for given in (
        explainer.explain_players(TENSOR, max_evals=16),
        InteractionShap(net, PatchMasker((2, 2)))(TENSOR, max_evals=16, silent=True),
    ):
        with pytest.raises(PatchShapError, match=r"images: got shape \(2, 4\) of float64"):
            as_explanation(given)
        with pytest.raises(PatchShapError, match=r"plots\.attribution_maps"):
            as_explanation(given, IMAGES)
    broken = shap.Explanation(NAN[..., None], data=IMAGES, output_names=["a"])
    with pytest.raises(PatchShapError, match="attributions: got NaN"):
        as_explanation(broken)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": {}}, r"methods: got \{\}; expected a mapping of names to attributions"),
        ({"methods": [VALUES]}, r"methods: got \[array\(.*; expected a mapping"),
        ({"images": None}, "images: got None; expected the images"),
        (
            {"output": None},
            r"output: got None for 4 outputs of methods\['x'\]; expected one, or one for each of 2",
        ),
        ({"output": 1.0}, r"output: got 1\.0 for 4 outputs"),
        ({"output": [1, 2, 3]}, r"output: got \[1, 2, 3\] for 4 outputs"),
        ({"output": 4}, r"output: got 4 to 4 for 4 outputs of methods\['x'\]; expected 0 to 3"),
        ({"output": [0, -1]}, r"output: got -1 to 0 for 4 outputs"),
        ({"methods": {"x": VALUES, "y": NAN}}, r"methods\['y'\]: got NaN or infinity"),
        ({"methods": {"y": VALUES[:1]}}, r"methods\['y'\]: got shape \(1, 6, 8, 3, 4\) for 2"),
    ],
)
def test_methods_that_do_not_fit(arguments, message):
    given = {"methods": {"x": VALUES}, "images": IMAGES, "output": 1} | arguments
    with pytest.raises(PatchShapError, match=message):
        side_by_side(given.pop("methods"), given.pop("images"), **given)


def test_outputs_that_were_chosen_are_found_by_their_numbers():
    images = np.random.default_rng(0).random((2, 4, 4, 1)).astype(np.float32)

    def model(x):
        return np.stack([x.mean((1, 2, 3)) * k for k in (1.0, 2.0, 3.0)], axis=1)

    explainer = PatchKernelShap(model, PatchMasker((2, 2)))
    every = explainer(images, silent=True)
    some = explainer(images, outputs=[2, 0], silent=True)
    one = explainer(images, outputs=[2], silent=True)
    both = side_by_side({"every": every, "some": some}, images, output=2)
    np.testing.assert_array_equal(both.values[..., 0], both.values[..., 1])
    for name, explanation in (("some", some), ("one", one)):
        with pytest.raises(PatchShapError, match=r"output: got 1, which methods\['" + name):
            side_by_side({name: explanation}, images, output=1)
