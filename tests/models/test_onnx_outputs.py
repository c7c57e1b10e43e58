"""ONNX files with several outputs, labels of classes among them, and images of the wrong units."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from xai_patchshap import PatchKernelShap, PatchMasker, PatchShapError, explain_image
from xai_patchshap.models.load import load_model
from xai_patchshap.models.onnx import OnnxModel

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
SHAPE = (6, 5, 3)
PIXELS = 6 * 5 * 3
WEIGHTS = np.random.default_rng(0).normal(size=(3, PIXELS)).astype(np.float32)
IMAGES = np.random.default_rng(1).random((2, *SHAPE)).astype(np.float32)
LOGITS = IMAGES.reshape(2, -1) @ WEIGHTS.T
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


def info(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, outputs, *, dtype=FLOAT, batch="N", weights=()):
    graph = helper.make_graph(
        [
            helper.make_node(op, i, o, **{"domain": "ai.onnx.ml"} if op in ML else {}, **more)
            for op, i, o, more in nodes
        ],
        "graph",
        [info("x", dtype, batch, *SHAPE)],
        outputs,
        [onnx.numpy_helper.from_array(np.asarray(w), n) for n, w in dict(weights).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


ML = ("LinearClassifier", "ZipMap")


def of_scikit_learn(*, texts=False, dicts=True, batch="N"):
    """What skl2onnx exports: a label first, then the probabilities, as dicts by default."""
    kind = TensorProto.STRING if texts else INT
    names = ["bird", "cat", "dog"] if texts else [0, 1, 2]
    keys = "classlabels_strings" if texts else "classlabels_ints"
    more = {
        "coefficients": WEIGHTS.ravel().tolist(),
        "intercepts": [0.0] * 3,
        "post_transform": "SOFTMAX",
        keys: names,
    }
    nodes = [
        ("Flatten", ["x"], ["flat"], {}),
        ("LinearClassifier", ["flat"], ["label", "p"], more),
    ]
    outputs = [info("label", kind, batch)]
    if dicts:
        keys = "classlabels_strings" if texts else "classlabels_int64s"
        nodes.append(("ZipMap", ["p"], ["maps"], {keys: names}))
        entry = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(FLOAT, []))
        outputs.append(helper.make_value_info("maps", helper.make_sequence_type_proto(entry)))
    else:
        outputs.append(info("p", FLOAT, batch, 3))
    return model(nodes, outputs, batch=batch)


def labelled(label, *, shape=("N",), kind=INT, dtype=FLOAT, scores=True):
    """The means of the channels, and a label that the node ``label`` makes of them."""
    nodes = [
        ("Cast", ["x"], ["f"], {"to": FLOAT}),
        ("ReduceMean", ["f"], ["p"], {"axes": [1, 2], "keepdims": 0}),
        *label,
    ]
    outputs = [info("label", kind, *shape)] + ([info("p", FLOAT, "N", 3)] if scores else [])
    return model(nodes, outputs, dtype=dtype)


ARGMAX = [("ArgMax", ["p"], ["label"], {"axis": 1, "keepdims": 0})]
KEPT = [("ArgMax", ["p"], ["label"], {"axis": 1, "keepdims": 1})]
BYTE = [
    ("ArgMax", ["p"], ["wide"], {"axis": 1, "keepdims": 0}),
    ("Cast", ["wide"], ["label"], {"to": TensorProto.UINT8}),
]
MAP = [("ArgMax", ["f"], ["label"], {"axis": 3, "keepdims": 0})]
ARGMAXES = {
    "number": labelled(ARGMAX),
    "column": labelled(KEPT, shape=("N", 1)),
    "byte": labelled(BYTE, kind=TensorProto.UINT8),
    "map": labelled(MAP, shape=("N", 6, 5)),
}


@pytest.mark.parametrize("dicts", [True, False])
@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("batch", ["N", 2])
def test_classifiers_of_scikit_learn_give_their_probabilities(texts, dicts, batch):
    name = "maps" if dicts else "p"
    content = of_scikit_learn(texts=texts, dicts=dicts, batch=batch)
    with pytest.warns(UserWarning, match=f"'label' .*; '{name}' is used .*output='{name}'") as w:
        found = OnnxModel(content)
    assert [one.filename for one in w] == [__file__]
    named = OnnxModel(content, output=name)  # without a warning
    for one in (found, named):
        np.testing.assert_allclose(one(IMAGES), PROBABILITIES, rtol=1e-4)
        tensor = one(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
        np.testing.assert_allclose(tensor, PROBABILITIES, rtol=1e-4)
    explanation = PatchKernelShap(named, PatchMasker((2, 2)))(IMAGES, max_evals=16, silent=True)
    difference = PROBABILITIES - np.full(3, 1 / 3)
    np.testing.assert_allclose(explanation.values.sum((1, 2, 3)), difference, atol=1e-5)


@pytest.mark.parametrize("name", ARGMAXES)
def test_scores_are_explained_where_a_label_comes_first(name):
    with pytest.warns(UserWarning, match="looks like the label of a class; 'p' is used instead"):
        found = explain_image(
            ARGMAXES[name], IMAGES[0], players=(2, 2), background=0.0, labels=[0, 1, 2]
        )
    np.testing.assert_allclose(found.values.sum((0, 1, 2, 3)), IMAGES[0].mean((0, 1)), rtol=1e-4)


@pytest.mark.parametrize("name", ARGMAXES)
def test_a_label_that_is_asked_for_is_doubtful(name):
    for output in ("label", 0):
        with pytest.warns(UserWarning, match=r"labels mean nothing\. Use output='p'\.") as record:
            chosen = OnnxModel(ARGMAXES[name], output=output)
        assert len(record) == 1
        assert chosen(IMAGES).dtype.kind in "iu"


def test_a_model_of_a_label_alone():
    with pytest.warns(UserWarning, match="mean nothing. Use a model that gives its scores") as w:
        load_model(labelled(ARGMAX, scores=False))
    assert len(w) == 1


def test_whole_numbers_that_are_scores_are_no_labels():
    scaled = [
        ("Mul", ["p", "by"], ["large"], {}),
        ("Cast", ["large"], ["label"], {"to": TensorProto.UINT8}),
    ]
    outputs = [info("label", TensorProto.UINT8, "N", 3), info("p", FLOAT, "N", 3)]
    nodes = [("ReduceMean", ["x"], ["p"], {"axes": [1, 2], "keepdims": 0}), *scaled]
    content = model(nodes, outputs, weights={"by": np.float32(255)})
    np.testing.assert_allclose(OnnxModel(content)(IMAGES), 255 * IMAGES.mean((1, 2)), atol=1)


def test_outputs_that_nobody_can_explain():
    text = of_scikit_learn(texts=True)
    message = r"output: got 'label' of type tensor\(string\); .* \['label', 'maps'\]; choose .*out"
    with pytest.raises(PatchShapError, match=message):
        OnnxModel(text, output="label")
    truth = [("Cast", ["p"], ["label"], {"to": TensorProto.BOOL})]
    content = labelled(truth, shape=("N", 3), kind=TensorProto.BOOL)
    with pytest.raises(PatchShapError, match=r"'label' of type tensor\(bool\)"):
        OnnxModel(content)


def test_classes_of_a_classifier_have_names():
    content = of_scikit_learn(texts=True)
    found = explain_image(
        OnnxModel(content, output="maps"),
        IMAGES[0],
        labels="dog",
        class_names=["bird", "cat", "dog"],
        players=(2, 2),
        background=0.0,
    )
    assert found.values.sum() == pytest.approx(PROBABILITIES[0, 2] - 1 / 3, abs=1e-5)


# ----- models of whole numbers -------------------------------------------------------------------

MEANS = [("Cast", ["x"], ["f"], {"to": FLOAT})], [info("p", FLOAT, "N", 3)]


def of_bytes(kind=TensorProto.UINT8):
    nodes, outputs = MEANS
    mean = ("ReduceMean", ["f"], ["p"], {"axes": [1, 2], "keepdims": 0})
    return model([*nodes, mean], outputs, dtype=kind)


@pytest.mark.parametrize("kind", ["UINT8", "INT8", "INT32", "UINT16"])
@pytest.mark.parametrize("face", ["explain_image", "shap", "tensor", "captum", "double"])
def test_images_in_the_unit_range_are_no_images_of_bytes(kind, face):
    content = of_bytes(getattr(TensorProto, kind))
    explainer = PatchKernelShap(OnnxModel(content), PatchMasker((2, 2)))
    tensor = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    calls = {
        "explain_image": lambda: explain_image(content, IMAGES[0], players=(2, 2)),
        "shap": lambda: explainer(IMAGES, max_evals=16),
        "tensor": lambda: explainer(tensor, max_evals=16),
        "captum": lambda: explainer.attribute(tensor, target=0, n_samples=16),
        "double": lambda: explainer(IMAGES.astype(float), max_evals=16),
    }
    with pytest.raises(PatchShapError, match=r"fractions from 0\.\d+ to 0\.\d+, .*std=1 / 255"):
        calls[face]()


def test_normalised_images_are_no_images_of_bytes():
    with pytest.raises(PatchShapError, match=r"fractions from -.* of whole numbers"):
        OnnxModel(of_bytes())((IMAGES - 0.5) / 0.25)


def test_images_in_the_models_own_units_pass():
    whole = OnnxModel(of_bytes())
    scaled = OnnxModel(of_bytes(), std=1 / 255)
    expected = np.rint(255 * IMAGES).mean((1, 2))
    np.testing.assert_allclose(whole(255 * IMAGES), expected, rtol=1e-5)
    np.testing.assert_allclose(scaled(IMAGES), expected, rtol=1e-5)
    np.testing.assert_allclose(whole((IMAGES > 0.5).astype(float)), (IMAGES > 0.5).mean((1, 2)))
    assert not whole(np.full((1, *SHAPE), 0.25)).any()  # a background
    found = PatchKernelShap(whole, PatchMasker((2, 2), "mean"))(
        (255 * IMAGES).round().astype(np.uint8), max_evals=16, silent=True
    )
    assert abs(found.values.sum()) < 10  # the mean of the image has its own mean
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = explain_image(scaled, IMAGES[0], players=(2, 2), background=0.0, labels=[0])
    assert right.values.sum() == pytest.approx(expected[0, 0], rel=1e-5)


def test_half_precision_and_whole_batches():
    nodes, outputs = MEANS
    mean = ("ReduceMean", ["f"], ["p"], {"axes": [1, 2], "keepdims": 0})
    half = model([*nodes, mean], outputs, dtype=TensorProto.FLOAT16, batch=4)
    explanation = PatchKernelShap(OnnxModel(half), PatchMasker((2, 2)))(
        IMAGES, max_evals=16, silent=True
    )
    np.testing.assert_allclose(explanation.values.sum((1, 2, 3)), IMAGES.mean((1, 2)), rtol=2e-3)
