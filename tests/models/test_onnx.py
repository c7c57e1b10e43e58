from __future__ import annotations

import copy
import pickle
import sys
from functools import partial

import numpy as np
import pytest
import torch

from xai_patchshap import OwenBPT, PatchKernelShap, PatchMasker, PatchShapError
from xai_patchshap.models.onnx import OnnxModel
from xai_patchshap.players.superpixels import slic

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FLOAT = onnx.TensorProto.FLOAT
rng = np.random.default_rng(0)
WEIGHTS = rng.normal(size=(3 * 6 * 5, 2)).astype(np.float32)


def built(nodes, inputs, outputs, weights=None, dtype=FLOAT, out_dtype=FLOAT):
    """A model of ``nodes``; inputs and outputs are dicts from name to shape."""
    from onnx import helper

    graph = helper.make_graph(
        [helper.make_node(op, list(i), list(o), **options) for op, i, o, options in nodes],
        "graph",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, out_dtype, s) for n, s in outputs.items()],
        [onnx.numpy_helper.from_array(w, n) for n, w in (weights or {}).items()],
    )
    # Old enough for every onnxruntime that the extra allows.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def linear(shape=("b", 3, 6, 5), dtype=FLOAT, outputs=None):
    """Two linear outputs of the pixels in the order of the model's own layout."""
    nodes = [
        ("Flatten", ["x"], ["flat"], {}),
        ("Cast", ["flat"], ["rows"], {"to": FLOAT}),
        ("MatMul", ["rows", "W"], ["y"], {}),
        ("Softmax", ["y"], ["p"], {}),
    ]
    given = {"y": [shape[0], 2], "p": [shape[0], 2]} if outputs is None else outputs
    return built(nodes, {"x": shape}, given, {"W": WEIGHTS}, dtype)


def one_pixel(row, column, shape):
    """The pixel at (row, column) of a gray image, and nothing."""
    weights = np.zeros((shape[0] * shape[1], 2), dtype=np.float32)
    weights[row * shape[1] + column, 0] = 1
    nodes = [("Flatten", ["x"], ["rows"], {}), ("MatMul", ["rows", "W"], ["y"], {})]
    return built(nodes, {"x": ("b", *shape, 1)}, {"y": ["b", 2]}, {"W": weights})


def by_hand(images):
    """What ``linear`` gives for images (B, C, H, W)."""
    return images.reshape(len(images), -1) @ WEIGHTS


@pytest.mark.parametrize("kind", ["proto", "bytes", "path", "str"])
def test_a_model_comes_as_a_file_or_as_its_content(kind, tmp_path):
    proto, file = linear(), tmp_path / "m.onnx"
    onnx.save(proto, file)
    given = {"proto": proto, "bytes": proto.SerializeToString(), "path": file, "str": str(file)}
    model = OnnxModel(given[kind])
    assert (model.layout, model.channels, model.size, model.n_outputs) == ("NCHW", 3, (6, 5), 2)
    x = rng.random((7, 3, 6, 5))
    np.testing.assert_allclose(model(x), by_hand(x), rtol=1e-5)
    assert "x (b, 3, 6, 5), NCHW" in repr(model)


def test_images_come_in_either_layout_as_arrays_or_tensors():
    first, last = OnnxModel(linear()), OnnxModel(linear(("b", 6, 5, 3)))
    assert last.layout == "NHWC"
    assert last.size == (6, 5)
    x = rng.random((2, 3, 6, 5))
    moved = x.transpose(0, 2, 3, 1)
    for model, expected in ((first, by_hand(x)), (last, by_hand(moved))):
        for images in (x, moved, x.astype(np.float32)):
            out = model(images)
            assert isinstance(out, np.ndarray)
            np.testing.assert_allclose(out, expected, rtol=1e-5)
        for images in (torch.from_numpy(x), torch.from_numpy(moved.copy()).float()):
            out = model(images)
            assert isinstance(out, torch.Tensor)
            np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5)
        assert model(torch.from_numpy(x).bfloat16()).dtype == torch.float32


def test_where_both_layouts_fit_tensors_have_channels_first_and_arrays_last():
    model = OnnxModel(linear(("b", "c", "h", "w")), layout="NCHW")
    assert (model.channels, model.size) == (None, None)
    x = rng.random((2, 3, 6, 5))
    np.testing.assert_allclose(model(torch.from_numpy(x)).numpy(), by_hand(x), rtol=1e-5)
    np.testing.assert_allclose(model(x.transpose(0, 2, 3, 1)), by_hand(x), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (("b", 3, None, None), "NCHW"),
        ((None, "h", "w", 1), "NHWC"),
        ((1, 4, 224, 224), "NCHW"),
        (("b", 28, 28, 1), "NHWC"),
    ],
)
def test_the_layout_is_found(shape, layout):
    nodes = [("Flatten", ["x"], ["y"], {})]
    assert OnnxModel(built(nodes, {"x": shape}, {"y": [None, None]})).layout == layout


@pytest.mark.parametrize("shape", [("b", "c", "h", "w"), ("b", 3, 4, 3), ("b", 5, 6, 7)])
def test_an_ambiguous_layout_is_asked_for(shape):
    proto = built([("Flatten", ["x"], ["y"], {})], {"x": shape}, {"y": [None, None]})
    with pytest.raises(PatchShapError, match=r"expected 1, 3 or 4 channels in either its .*layout"):
        OnnxModel(proto)
    assert OnnxModel(proto, layout="NHWC").layout == "NHWC"


@pytest.mark.parametrize("fixed", [1, 3])
def test_a_fixed_batch_size_is_served_batch_by_batch(fixed):
    model = OnnxModel(linear((fixed, 3, 6, 5)))
    for n in (1, 3, 7):
        x = rng.random((n, 3, 6, 5))
        np.testing.assert_allclose(model(x), by_hand(x), rtol=1e-5)


def test_outputs_by_name_and_index():
    x = rng.random((2, 3, 6, 5))
    logits = by_hand(x)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for output, expected in [(None, logits), (0, logits), ("y", logits), (1, softmax)]:
        np.testing.assert_allclose(OnnxModel(linear(), output=output)(x), expected, rtol=1e-4)
    np.testing.assert_allclose(OnnxModel(linear(), output="p")(x), softmax, rtol=1e-4)
    for output in ("q", 2, -1, True, 1.0):
        with pytest.raises(
            PatchShapError, match=r"output: got .*; expected one of \['y', 'p'\], o"
        ):
            OnnxModel(linear(), output=output)


@pytest.mark.parametrize("name", ["FLOAT16", "DOUBLE", "UINT8", "INT32"])
def test_images_are_cast_to_the_models_dtype(name):
    model = OnnxModel(linear(dtype=getattr(onnx.TensorProto, name)))
    whole = rng.integers(0, 256, (2, 3, 6, 5))
    noisy = whole + (0 if name == "DOUBLE" else rng.uniform(-0.04, 0.04, whole.shape))
    expected = by_hand(whole.astype(np.float64))
    scale = np.abs(whole).sum()
    np.testing.assert_allclose(model(noisy), expected, atol=1e-3 * scale)
    if name == "UINT8":
        np.testing.assert_allclose(model(noisy), expected, rtol=1e-5)
        np.testing.assert_allclose(model(np.full((1, 3, 6, 5), -3.0)), 0, atol=1e-6)


def test_normalisation_per_channel():
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])
    x = rng.random((2, 3, 6, 5))
    scaled = (x - mean[:, None, None]) / std[:, None, None]
    model = OnnxModel(linear(), mean=mean, std=list(std))
    np.testing.assert_allclose(model(x), by_hand(scaled), rtol=1e-4)
    last = OnnxModel(linear(("b", 6, 5, 3)), mean=mean, std=std)
    np.testing.assert_allclose(last(x), by_hand(scaled.transpose(0, 2, 3, 1)), rtol=1e-4)
    bytes_wanted = OnnxModel(linear(), std=1 / 255)
    np.testing.assert_allclose(bytes_wanted(x), by_hand(255 * x), rtol=1e-4)


def test_rows_and_volumes_pass_as_they_are():
    nodes = [("Flatten", ["x"], ["y"], {})]
    model = OnnxModel(built(nodes, {"x": ("b", 6)}, {"y": [None, None]}))
    assert model.layout is None
    x = rng.random((3, 6)).astype(np.float32)
    np.testing.assert_array_equal(model(x), x)
    with pytest.raises(PatchShapError, match=r"images: got shape \(3, 5\); expected \(B, 6\), for"):
        model(x[:, :5])
    explanation = PatchKernelShap(model)(x, max_evals=64, silent=True)
    np.testing.assert_allclose(explanation.values.sum(axis=1), x, atol=1e-6)


def test_pickles_and_copies_run_the_same(tmp_path):
    onnx.save(linear(), tmp_path / "m.onnx")
    model = OnnxModel(tmp_path / "m.onnx", output="p", mean=0.5)
    (tmp_path / "m.onnx").unlink()
    x = rng.random((2, 3, 6, 5))
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(again(x), model(x))


def test_weights_in_a_file_beside_the_model(tmp_path, monkeypatch):
    options = {"save_as_external_data": True, "location": "w.data", "size_threshold": 0}
    onnx.save(linear(), tmp_path / "m.onnx", **options)
    assert (tmp_path / "w.data").exists()
    monkeypatch.chdir(tmp_path)
    model = OnnxModel("m.onnx")
    monkeypatch.chdir("/")
    x = rng.random((2, 3, 6, 5))
    np.testing.assert_allclose(pickle.loads(pickle.dumps(model))(x), by_hand(x), rtol=1e-5)


def test_one_session_with_as_many_threads_as_torch(monkeypatch):
    import onnxruntime

    made = []
    real = onnxruntime.InferenceSession

    def session(content, options, providers):
        made.append((options.intra_op_num_threads, providers))
        return real(content, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    model = OnnxModel(linear())
    PatchKernelShap(model, PatchMasker((2, 2)))(np.ones((2, 6, 5, 3)), silent=True)
    assert made == [(torch.get_num_threads(), ["CPUExecutionProvider"])]


@pytest.mark.parametrize("shape", [("b", 3, 6, 5), ("b", 6, 5, 3), (1, 3, 6, 5)])
def test_both_faces_explain_a_linear_model_exactly(shape):
    model = OnnxModel(linear(shape))
    x = rng.random((2, 3, 6, 5)).astype(np.float32)
    own = x if model.layout == "NCHW" else x.transpose(0, 2, 3, 1)
    weights = WEIGHTS.reshape(*own.shape[1:], 2)
    per_element = own[..., None] * weights
    if model.layout == "NCHW":
        per_element = per_element.transpose(0, 2, 3, 1, 4)
    expected = per_element.sum(axis=3)  # pixels play: all channels together
    explainer = PatchKernelShap(model, PatchMasker(players=1), estimator="kernel-shap")
    explanation = explainer(x.transpose(0, 2, 3, 1), max_evals=400, silent=True)
    assert explanation.values.shape == (2, 6, 5, 3, 2)
    np.testing.assert_allclose(explanation.values.sum(axis=3), expected, atol=1e-4)
    same = explainer(torch.from_numpy(x), max_evals=400, silent=True)
    np.testing.assert_allclose(same.values, explanation.values, atol=1e-6)
    captum = explainer.attribute(torch.from_numpy(x), target=1, n_samples=400)
    for channel in captum.unbind(1):
        np.testing.assert_allclose(channel.numpy(), expected[..., 1], atol=1e-4)


@pytest.mark.parametrize("face", ["numpy", "tensor", "captum", "owen"])
def test_one_pixel_gets_all_attribution_whatever_its_superpixel(face):
    pytest.importorskip("skimage")
    row, column = 10, 12
    image = np.random.default_rng(1).uniform(0.2, 1, (28, 28))
    image[8:20, 11:19] += 2
    labels = slic(200)(image)
    model = OnnxModel(one_pixel(row, column, image.shape))
    x = torch.from_numpy(image)[None, None]
    masker = PatchMasker(slic(200))
    linear_fit = partial(PatchKernelShap, estimator="kernel-shap")  # fast, and exact here
    if face == "captum":
        values = linear_fit(model, masker).attribute(x, target=0, n_samples=2000)[0, 0].numpy()
    else:
        # Of several trees, a few thousand evaluations do not reach every leaf.
        method = partial(OwenBPT, n_trees=1) if face == "owen" else linear_fit
        given = x if face == "tensor" else image[None, :, :, None]
        explanation = method(model, masker)(given, max_evals=2000, silent=True)
        values = explanation.values[0, :, :, 0, 0]
        np.testing.assert_allclose(explanation.values[..., 1], 0, atol=1e-9)
    holds = labels == labels[row, column]
    assert 100 < labels.max() < 300
    share = 1 if face == "captum" else holds.sum()
    np.testing.assert_allclose(values[holds] * share, image[row, column], rtol=1e-4)
    np.testing.assert_allclose(values[~holds], 0, atol=1e-6)


def test_an_output_without_a_row_for_each_image():
    mean = [("ReduceMean", ["x"], ["y"], {"keepdims": 0})]
    model = OnnxModel(built(mean, {"x": ("b", 3, 6, 5)}, {"y": []}))
    with pytest.raises(PatchShapError, match=r"output 'y' of shape \(\) for a batch of 2; expecte"):
        model(np.ones((2, 3, 6, 5)))


def test_a_batch_size_that_is_fixed_inside():
    nodes = [("Reshape", ["x", "shape"], ["y"], {})]
    weights = {"shape": np.array([1, 90])}
    model = OnnxModel(built(nodes, {"x": ("b", 3, 6, 5)}, {"y": [None, 90]}, weights))
    assert model(np.ones((1, 3, 6, 5))).shape == (1, 90)
    with pytest.raises(PatchShapError, match=r"a failure of onnxruntime on .*pass batch_size=1\. "):
        model(np.ones((2, 3, 6, 5)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 6, 6), r"images: got shape \(2, 3, 6, 6\); expected \(B, 3, 6, 5\), or the same w"),
        ((2, 1, 6, 5), r"images: got shape \(2, 1, 6, 5\); .*Resize the images"),
        ((3, 6, 5), "give a batch even of one"),
        ((0, 3, 6, 5), r"images: got shape \(0, 3, 6, 5\)"),
    ],
)
def test_images_of_another_size(shape, message):
    for images in (np.zeros(shape), torch.zeros(shape)):
        with pytest.raises(PatchShapError, match=message):
            OnnxModel(linear())(images)


def test_models_that_cannot_be_used(tmp_path):
    add = built(
        [("Add", ["a", "b"], ["y"], {})],
        {"a": ("n", 3, 6, 5), "b": ("n", 3, 6, 5)},
        {"y": ["n", 3, 6, 5]},
    )
    text = built(
        [("Cast", ["x"], ["y"], {"to": onnx.TensorProto.STRING})],
        {"x": ("b", 3, 6, 5)},
        {"y": ["b", 3, 6, 5]},
        out_dtype=onnx.TensorProto.STRING,
    )
    truth = built(
        [("Cast", ["x"], ["y"], {"to": FLOAT})],
        {"x": ("b", 3, 6, 5)},
        {"y": ["b", 3, 6, 5]},
        dtype=onnx.TensorProto.BOOL,
    )
    (tmp_path / "text.onnx").write_text("no model")
    for model, message in [
        (
            tmp_path / "none.onnx",
            r"ONNX model: got '.*none\.onnx'; expected a file that can be rea",
        ),
        (tmp_path, "expected a file that can be read"),
        (tmp_path / "text.onnx", r"got '.*text\.onnx'; expected a model that onnxruntime can read"),
        (b"", "ONNX model: got the given bytes; expected a model that onnxruntime can read"),
        (3, "ONNX model: got an object of type int; expected the path of an .onnx file, its bytes"),
        (add, "ONNX model: got the inputs a, b in the given model; expected a single input"),
        (text, r"output: got 'y' of type tensor\(string\); expected a tensor of numbers"),
        (truth, r"ONNX model: got an input of type tensor\(bool\); expected one of"),
    ]:
        with pytest.raises(PatchShapError, match=message):
            OnnxModel(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "CHW"}, "layout: got 'CHW'; expected 'auto', 'NCHW' or 'NHWC'"),
        ({"mean": [0.5, 0.5]}, r"mean: got \[0\.5, 0\.5\]; expected one number, or one for each c"),
        ({"std": float("nan")}, "std: got nan; expected one number"),
        ({"std": (1, 0, 1)}, r"std: got \(1, 0, 1\); expected numbers other than 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(PatchShapError, match=message):
        OnnxModel(linear(), **options)


def test_a_layout_for_rows_is_refused():
    proto = built([("Flatten", ["x"], ["y"], {})], {"x": ("b", 6)}, {"y": [None, None]})
    with pytest.raises(PatchShapError, match=r"'NCHW' for an input \(b, 6\); expected four axes"):
        OnnxModel(proto, layout="NCHW")


def test_without_onnxruntime(monkeypatch):
    proto = linear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        PatchShapError, match=r"'onnxruntime'; expected .*pip install 'xai-patchshap\[onnx\]'"
    ):
        OnnxModel(proto)
