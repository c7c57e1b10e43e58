"""Errors are of the kinds that their callers catch."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch

from xai_patchshap import PatchKernelShap, PatchShapError, load_model, slic
from xai_patchshap.amortized import load_card, load_explainer
from xai_patchshap.errors import (
    MissingExtraError,
    MissingFileError,
    TargetError,
    deprecated,
    rename,
)
from xai_patchshap.models import OnnxModel
from xai_patchshap.models.photographs import open_image


@pytest.mark.parametrize("read", [load_card, load_explainer, OnnxModel, open_image])
def test_files_that_do_not_exist(read, tmp_path):
    missing = str(tmp_path / "missing.safetensors")
    with pytest.raises(FileNotFoundError, match="missing") as caught:
        read(missing)
    assert isinstance(caught.value, PatchShapError)
    assert isinstance(caught.value, ValueError)


def test_weights_that_do_not_exist_and_files_that_are_no_image(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights: got .*missing\.pth"):
        load_model("torchvision:resnet18", weights=str(tmp_path / "missing.pth"))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(PatchShapError, match="a readable image file") as caught:
        open_image(tmp_path / "text.png")
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("package", "use", "extra"),
    [
        ("skimage", lambda: slic(4)(np.zeros((8, 8, 3))), "superpixels"),
        ("onnxruntime", lambda: OnnxModel(b"no model"), "onnx"),
        ("transformers", lambda: load_model("hf:some/model"), "hf"),
    ],
)
def test_extras_that_are_missing(package, use, extra, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"pip install 'xai-patchshap\[{extra}\]'") as caught:
        use()
    assert isinstance(caught.value, PatchShapError)


def test_targets_that_captum_refuses_too():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    with pytest.raises(AssertionError, match="target: got 5") as caught:
        PatchKernelShap(model).attribute(torch.rand(1, 3, 2, 2), target=5, n_samples=16)
    assert isinstance(caught.value, PatchShapError)


@pytest.mark.parametrize("kind", [MissingExtraError, MissingFileError, TargetError])
def test_every_kind_can_be_said_in_other_words(kind):
    error = kind("file: got nothing; expected something.")
    rename(error, {"file": "--weights"})
    assert str(error) == "--weights: got nothing; expected something."


def test_what_goes_away_warns_at_the_line_of_its_user():
    @deprecated("new()", since="1.2")
    def old(x):
        """Twice the number."""
        return 2 * x

    with pytest.warns(
        DeprecationWarning, match=r"old is deprecated since 1\.2: use new\(\)\."
    ) as w:
        assert old(3) == 6
    assert [one.filename for one in w] == [__file__]
    assert old.__doc__ == "Twice the number."
