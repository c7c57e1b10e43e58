"""Arrays and tensors as people have them: every kind gives the values of its plain copy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shap
import torch
from torch import nn

from xai_patchshap import OwenBPT, PatchKernelShap, PatchMasker, PatchShapError, grid_players
from xai_patchshap.players.grids import resolve_players

RNG = np.random.default_rng(0)
IMAGES = RNG.random((2, 8, 8, 3)).astype(np.float32)  # for arrays; tensors get channels first
BYTES = RNG.integers(0, 256, (2, 8, 8, 3))
MASK = (np.arange(8) // 4)[:, None] * 2 + np.arange(8) // 4  # ids 0..3


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))


def values(model, x, background=0.25, players=MASK, kind=PatchKernelShap):
    masker = PatchMasker(players, background)
    return kind(model, masker)(x, max_evals=16, silent=True).values


def means(x):
    return np.stack([x[..., c].mean(axis=(1, 2), dtype=np.float64) for c in range(3)], axis=1)


def alike(a, b, atol=1e-6):
    np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), atol=atol, rtol=1e-6)


def strided(x):
    return {
        "reversed rows": x[:, ::-1].copy()[:, ::-1],
        "reversed channels": x[..., ::-1].copy()[..., ::-1],
        "flipped": np.flip(np.flip(x, 2).copy(), 2),
        "rotated": np.rot90(np.rot90(x, 1, (1, 2)).copy(), -1, (1, 2)),
        "transposed": x.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1),
        "Fortran": np.asfortranarray(x),
        "every second": np.repeat(x, 2, axis=1)[:, ::2],
    }


@pytest.mark.parametrize("name", strided(IMAGES))
def test_strides_of_every_sign(name):
    x, model = strided(IMAGES)[name], net()
    assert np.array_equal(x, IMAGES)
    alike(values(model, x), values(model, IMAGES))
    alike(values(means, x), values(means, IMAGES))
    alike(values(means, x, kind=OwenBPT), values(means, IMAGES, kind=OwenBPT))
    alike(values(model, x[:1], background=x[1]), values(model, IMAGES[:1], background=IMAGES[1]))
    alike(PatchMasker(MASK)(np.eye(4)[0], x[0]), PatchMasker(MASK)(np.eye(4)[0], IMAGES[0]))


@pytest.mark.parametrize("kind", [">f4", ">f8", "g", "<f2", "f8"])
def test_floats_of_every_order_and_size(kind):
    x, model = IMAGES.astype(kind), net()
    tolerance = 2e-3 if kind == "<f2" else 1e-6
    alike(values(model, x), values(model, IMAGES), tolerance)
    given = []
    alike(values(lambda x: given.append(x) or means(x), x), values(means, IMAGES), tolerance)
    assert {g.dtype for g in given} == {np.dtype(kind).newbyteorder("=")}
    alike(values(means, IMAGES, x[:1]), values(means, IMAGES, IMAGES[:1]), tolerance)


@pytest.mark.filterwarnings("ignore:The images hold whole numbers:UserWarning")
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", ">u2", ">i4", "i8"])
def test_whole_numbers_of_every_size(kind):
    x, model = BYTES.astype(kind), net()
    alike(values(model, x), values(model, BYTES.astype("f4")), 1e-4)
    given = []
    alike(values(lambda x: given.append(x) or means(x), x, 7), values(means, BYTES, 7))
    assert {g.dtype for g in given} == {np.dtype(kind).newbyteorder("=")}


TENSORS = {
    "uint16": lambda x: (x * 255).round().to(torch.uint16),
    "uint32": lambda x: (x * 255).round().to(torch.uint32),
    "bfloat16": lambda x: x.bfloat16(),
    "float16": lambda x: x.half(),
    "float8": lambda x: x.to(torch.float8_e4m3fn).bfloat16(),
    "conjugate": lambda x: (x + 0j).conj().real,
    "negative view": lambda x: torch.imag((0j - 1j * x).conj()),
    "needs gradient": lambda x: x.clone().requires_grad_(),
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand(2, -1, -1, -1),
    "inference": lambda x: x,
}


@pytest.mark.filterwarnings("ignore:The images hold whole numbers:UserWarning")
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_every_kind(name):
    with torch.inference_mode(name == "inference"):
        x = TENSORS[name](torch.from_numpy(IMAGES).permute(0, 3, 1, 2).clone())
    plain = torch.from_numpy(np.array(x.detach().to(torch.float64).tolist())).float()
    model, given = net(), []
    alike(values(model, x), values(model, plain), 1e-2)
    function = lambda z: given.append(z.dtype) or z.float().mean((2, 3))  # noqa: E731
    alike(values(function, x), values(lambda z: z.float().mean((2, 3)), plain), 1e-2)
    assert set(given) == {x.dtype}
    options = {"target": 1, "n_samples": 16, "feature_mask": torch.from_numpy(MASK)}
    ours = PatchKernelShap(lambda z: model(z.float()))
    alike(ours.attribute(x, **options), ours.attribute(plain, **options), 1e-2)


def test_bfloat16_backgrounds_maskers_and_masks():
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    model, black = net(), torch.zeros(3, 8, 8)
    want = values(model, x, 0.0)
    alike(values(model, x, black.bfloat16()), want)
    alike(values(model, x, 0.0, torch.from_numpy(MASK).bfloat16()), want)
    alike(values(model, x.bfloat16(), "blur"), values(model, x, "blur"), 2e-2)
    explainer = PatchKernelShap(model)
    options = {"target": 0, "n_samples": 16}
    mask = torch.from_numpy(MASK)
    plain = explainer.attribute(x, 0.0, feature_mask=mask, **options)
    for given, baseline in (
        (mask.bfloat16(), black[None].bfloat16()),
        (MASK, np.zeros((1, 3, 8, 8))),
        (MASK.astype(">u2"), np.float32(0)),
        (MASK[::-1].copy()[::-1], torch.tensor(0)),
        (MASK.astype("g"), 0),
    ):
        alike(explainer.attribute(x, baseline, feature_mask=given, **options), plain)


def test_masks_with_gaps_are_taken_as_captum_takes_them():
    x, model = torch.from_numpy(IMAGES).permute(0, 3, 1, 2), net()
    gaps = torch.tensor([0, 2, 5, 9])[torch.from_numpy(MASK)]
    explainer, options = PatchKernelShap(model), {"target": 1, "n_samples": 16}
    plain = explainer.attribute(x, feature_mask=torch.from_numpy(MASK), **options)
    alike(explainer.attribute(x, feature_mask=gaps, **options), plain)
    table = explainer.attribute(x, feature_mask=gaps, return_input_shape=False, **options)
    assert table.shape == (2, 10)
    assert table[:, [1, 3, 4, 6, 7, 8]].abs().max() == 0
    alike(table[:, [0, 2, 5, 9]], plain[:, 0, ::4, ::4].flatten(1))
    # One example lacks an id that the other has; both have gaps.
    each = torch.stack([gaps, torch.where(gaps == 5, 2, gaps)])[:, None]
    both = explainer.attribute(x, feature_mask=each, **options)
    alike(both[:1], plain[:1])
    alike(both[1:], explainer.attribute(x[1:], feature_mask=each[1:], **options))
    # A function that returns one value for the whole batch.
    shared = PatchKernelShap(lambda z: model(z)[:, 1].sum())
    alike(
        shared.attribute(x, feature_mask=gaps, n_samples=16),
        shared.attribute(x, feature_mask=torch.from_numpy(MASK), n_samples=16),
    )
    masker = PatchMasker(gaps)
    named = PatchKernelShap(model, masker).explain_players(x, max_evals=16, silent=True)
    assert list(named.feature_names) == ["segment 0", "segment 2", "segment 5", "segment 9"]
    alike(named.values[:, :, 1], table[:, [0, 2, 5, 9]])


def test_several_inputs_and_lists_of_images():
    model = net()
    x = list(IMAGES)
    alike(values(model, x), values(model, IMAGES))
    tensors = [torch.from_numpy(i).permute(2, 0, 1) for i in x]
    alike(values(model, tensors), values(model, IMAGES))
    explainer = PatchKernelShap(model, PatchMasker("2x2"))
    with pytest.raises(PatchShapError, match=r"different shapes: .*attribute\(\(x1, x2\)\)"):
        explainer([IMAGES, np.zeros((2, 5))], silent=True)
    with pytest.raises(PatchShapError, match=r"inputs: got an object of type list; .*as a tuple"):
        explainer.attribute([torch.zeros(2, 3), torch.zeros(2, 5)], target=0)
    with pytest.raises(PatchShapError, match=r"masked array; .*filled\(0\)"):
        explainer(np.ma.masked_less(IMAGES, 0.5), silent=True)
    for x in (IMAGES + 0j, IMAGES.astype(str), IMAGES.astype(object)):
        with pytest.raises(PatchShapError, match="images: got dtype"):
            explainer(x, silent=True)


@pytest.mark.filterwarnings("ignore")  # torch says of some kinds of tensors that they will go
def test_tensors_without_numbers_to_compute_with():
    x = torch.rand(1, 3, 8, 8)
    for made, way_out in (
        (x + 0j, "x.real"),
        (x.to_sparse(), "to_dense"),
        (torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), "dequantize"),
        (x.to("meta"), "meta device"),
    ):
        for call in (
            lambda made=made: PatchKernelShap(net())(made, silent=True),
            lambda made=made: PatchKernelShap(net()).attribute(made, target=0),
            lambda made=made: PatchMasker()(True, made[0]),
        ):
            with pytest.raises(PatchShapError, match=way_out):
                call()


def test_tables_as_backgrounds():
    rows = RNG.normal(size=(6, 4))
    table = pd.DataFrame(rows[:3], columns=list("abcd"))

    def model(x):
        return x @ np.arange(4.0)

    def explained(background):
        explainer = PatchKernelShap(model, PatchMasker(background=background))
        return explainer(rows, max_evals=48, silent=True).values

    want = (rows - rows[:3].mean(axis=0)) * np.arange(4)
    alike(explained(table), want)
    alike(explained(rows[:3]), want)
    alike(PatchKernelShap(model, table)(rows, max_evals=48, silent=True).values, want)
    with pytest.raises(PatchShapError, match=r"shap.kmeans makes it; .*summary.data"):
        PatchMasker(background=shap.kmeans(rows, 2))
    with pytest.raises(
        PatchShapError, match="background: got an object of type ndarray; expected numbers"
    ):
        PatchMasker(background=pd.DataFrame({"a": ["x"]}))


@pytest.mark.parametrize(
    "sizes",
    [
        {"patch": 2.5}, {"patch": 4.0}, {"patch": (2, 2.5)}, {"grid": (2.0, 2)}, {"grid": 2.5},
        {"grid": (2, True)}, {"patch": 0}, {"patch": (1, 2, 3)}, {"grid": "2x2"},
    ],
)  # fmt: skip
def test_sizes_of_grids_are_whole(sizes):
    with pytest.raises(PatchShapError, match=r"(patch|grid): got .* whole number"):
        grid_players(8, 8, **sizes)
    with pytest.raises(PatchShapError, match=r"height: got 8\.0"):
        grid_players(8.0, 8)
    assert grid_players(np.int64(8), 8, patch=np.int32(4)).n == 4
    assert resolve_players((np.int64(2), 2), IMAGES[0]).n == 4
    assert resolve_players(np.int64(4), IMAGES[0]).n == 4


@pytest.mark.parametrize(
    "arguments",
    [
        {"players": "7by7"}, {"players": "7x"}, {"players": "patch16px"}, {"players": "slick:50"},
        {"players": "slic:0"}, {"players": "0x4"}, {"players": 2.5}, {"players": True},
        {"players": -1}, {"players": (7, 7, 3)}, {"players": (7, 7.5)}, {"players": [["a"]]},
        {"players": np.full((4, 4), 0.5)}, {"players": np.full((4, 4), -1)}, {"players": {1: 2}},
        {"background": "blurr"}, {"background": "blur:"}, {"background": "blur:-1"},
        {"background": "blur:nan"}, {"background": "mean:3"}, {"background": "drop:1"},
        {"background": [0.0, "grey"]}, {"background": {"a": 1}}, {"background": print},
        {"layout": "HWC"}, {"layout": 3}, {"seed": -1}, {"seed": 2**64}, {"seed": 1.5},
        {"clustering": "bpd"},
    ],
)  # fmt: skip
def test_typing_errors_are_found_by_the_constructor(arguments):
    with pytest.raises(PatchShapError, match=f"{next(iter(arguments))}: got"):
        PatchMasker(**arguments)


def test_sigmas_beyond_the_image():
    masker = PatchMasker(MASK, "blur:1e9")
    with pytest.raises(PatchShapError, match="'blur:1e9'; expected at most 80 pixels"):
        PatchKernelShap(net(), masker)(IMAGES, max_evals=16, silent=True)


def test_names_are_no_texts():
    for name in ("output_names", "feature_names"):
        with pytest.raises(PatchShapError, match=f"{name}: got the text 'abc'"):
            PatchKernelShap(net(), **{name: "abc"})
