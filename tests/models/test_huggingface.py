from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from xai_patchshap import PatchKernelShap, PatchMasker, PatchShapError
from xai_patchshap.models.huggingface import HFModel, is_transformers
from xai_patchshap.models.load import load_model
from xai_patchshap.models.vit_anatomy import vit_patch_size

transformers = pytest.importorskip("transformers")

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)


@pytest.fixture(autouse=True)
def offline_and_quiet(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def classifier(num_labels=3, **options):
    """An untrained vision transformer on images of 32 x 32 pixels."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        initializer_range=0.3,
        num_labels=num_labels,
        **options,
    )
    return transformers.ViTForImageClassification(config).eval()


def vit_processor(**options):
    return transformers.ViTImageProcessor(
        **{"size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.5, 0.6], **options}
    )


def pipeline(model, processor=None):
    processor = vit_processor() if processor is None else processor
    return transformers.pipeline("image-classification", model=model, image_processor=processor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit")
    transformers.logging.disable_progress_bar()
    names = {0: "cat", 1: "dog", 2: "bird"}
    classifier(id2label=names, label2id={v: k for k, v in names.items()}).save_pretrained(path)
    vit_processor().save_pretrained(path)
    return path


def prepared(named):
    with torch.no_grad():
        return named.model(named.prepare(PHOTO)[None])[0].double().numpy()


def test_a_pipeline_gives_its_own_scores(folder):
    made = transformers.pipeline("image-classification", model=str(folder))
    named = load_model(made)
    assert named.class_names == ("cat", "dog", "bird")
    assert (named.size, named.crop, named.channels) == ((32, 32), 1.0, 3)
    assert (named.scale, named.name) == ("probability", "ImageClassificationPipeline")
    theirs = {row["label"]: row["score"] for row in made(PHOTO)}
    np.testing.assert_allclose(prepared(named), [theirs[n] for n in named.class_names], rtol=1e-5)


def test_a_name_a_pipeline_and_a_model_are_one(folder):
    by_name = load_model(f"hf:{folder}")
    assert by_name.name == f"hf:{folder}"
    assert not by_name.model.model.training
    expected = prepared(by_name)
    assert expected.sum() == pytest.approx(1.0, abs=1e-6)
    model = by_name.model.model
    for given in (pipeline(model), model, by_name.model, by_name):
        named = load_model(given)
        assert named.class_names == ("cat", "dog", "bird")
        np.testing.assert_allclose(prepared(named), expected, rtol=1e-5)


def test_logits():
    model = classifier()
    named = load_model(pipeline(model), probability=False)
    assert named.scale == "logit"
    pixels = vit_processor()(images=PHOTO, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        np.testing.assert_allclose(prepared(named), model(pixels).logits[0], atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "problem", "scale"),
    [
        (3, "multi_label_classification", "probability"),
        (1, None, "probability"),
        (2, "regression", "output"),
    ],
)
def test_several_labels_one_label_and_numbers(labels, problem, scale):
    made = pipeline(classifier(labels, problem_type=problem))
    named = load_model(made)
    assert named.scale == scale
    # Older pipelines put a softmax on a regression.
    kept = {"function_to_apply": "none"} if problem == "regression" else {}
    theirs = {row["label"]: row["score"] for row in made(PHOTO, **kept)}
    np.testing.assert_allclose(prepared(named), [theirs[n] for n in named.class_names], rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options", "crop"),
    [
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}}, 1.0),
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "do_rescale": False}, 1.0),
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "do_normalize": False}, 1.0),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 1.0}, 1.0),
        (
            "CLIPImageProcessor",
            {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
            1.0,
        ),
        (
            "EfficientNetImageProcessor",
            {
                "size": {"height": 32, "width": 32},
                "rescale_factor": 1 / 127.5,
                "rescale_offset": True,
            },
            1.0,
        ),
        (  # blue comes first
            "MobileViTImageProcessor",
            {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
            1.0,
        ),
    ],
)
def test_what_a_processor_does_is_done_to_every_image(kind, options, crop):
    processor = getattr(transformers, kind)(**options)
    model = HFModel(SimpleNamespaceAsPipeline(classifier(), processor))
    seen = []
    model.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    named = load_model(model)
    assert (named.size, named.crop) == ((32, 32), crop)
    prepared(named)
    expected = processor(images=PHOTO, return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(seen[0], expected, rtol=1e-4, atol=1e-5)


class SimpleNamespaceAsPipeline(SimpleNamespace):
    """A pipeline that does not check its processor."""

    def __init__(self, model, processor):
        super().__init__(task="image-classification", model=model, image_processor=processor)


@pytest.mark.parametrize(
    ("kind", "options", "size", "crop"),
    [
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}, 224, 0.875),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}, 384, 1.0),
        ("MobileNetV2ImageProcessor", {}, 224, 224 / 256),
        (
            "CLIPImageProcessor",
            {"size": {"height": 40, "width": 80}, "crop_size": {"height": 32, "width": 32}},
            32,
            0.8,
        ),
        (
            "TimmWrapperImageProcessor",
            {"pretrained_cfg": {"input_size": (3, 48, 48), "crop_pct": 0.9}},
            48,
            0.9,
        ),
    ],
)
def test_sizes_and_crops(kind, options, size, crop):
    processor = getattr(transformers, kind)(**options)
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])
    of_any_size = transformers.ResNetForImageClassification(config)
    model = HFModel(SimpleNamespaceAsPipeline(of_any_size, processor))
    assert model.size == (size, size)
    assert model.crop == pytest.approx(crop)


def test_a_model_made_from_a_configuration_gets_images_as_they_are():
    model = classifier()
    named = load_model(model)
    x = named.prepare(PHOTO)[None]
    with torch.no_grad():
        expected = model(pixel_values=x).logits.softmax(-1)[0]
    np.testing.assert_allclose(prepared(named), expected, rtol=1e-6)


def test_gray_models_get_gray_images():
    model = classifier(num_channels=1)
    processor = vit_processor(image_mean=[0.5], image_std=[0.25])
    for given in (model, SimpleNamespaceAsPipeline(model, processor)):
        named = load_model(HFModel(given))
        assert named.channels == 1
        assert named.prepare(PHOTO).shape == (1, 32, 32)
        assert prepared(named).shape == (3,)
    assert float(named.model.mean) == pytest.approx(0.5)
    assert float(named.model.std) == pytest.approx(0.25)


def test_both_faces_explain_it_and_leave_it_as_it_was():
    made = pipeline(classifier())
    made.model.train()
    named = load_model(made)
    x = named.prepare(PHOTO)[None]
    explainer = PatchKernelShap(named.model, PatchMasker((4, 4), "mean"))
    explanation = explainer(x, max_evals=200, silent=True)
    assert explanation.values.shape == (1, 32, 32, 3, 3)
    total = explanation.values.sum((1, 2, 3)) + explanation.base_values
    assert made.model.training
    made.model.eval()
    np.testing.assert_allclose(total[0], prepared(named), atol=1e-6)
    assert explainer.attribute(x, target=0, n_samples=50).shape == x.shape


def test_the_players_are_the_patches_of_the_transformer():
    named = load_model(pipeline(classifier()))
    x = named.prepare(PHOTO)[None]
    for model in (named.model, named.model.model):
        assert vit_patch_size(model) == (8, 8)
    players = PatchKernelShap(named.model).explain_players(x, max_evals=40, silent=True)
    assert players.values.shape == (1, 16, 3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Swin", {"embed_dim": 4, "depths": [1, 1], "num_heads": [1, 2]}),
        ("MobileViT", {"hidden_sizes": [4, 4, 4], "num_attention_heads": 1}),
    ],
)
def test_transformers_that_merge_their_patches_have_none(kind, options):
    config = getattr(transformers, f"{kind}Config")(**options)
    model = getattr(transformers, f"{kind}ForImageClassification")(config)
    assert vit_patch_size(model) is None


def test_a_model_of_text_and_images_says_what_it_sees():
    tiny = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    sees = {**tiny, "num_attention_heads": 1, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(vision_config=sees, num_labels=2)
    named = load_model(transformers.CLIPForImageClassification(config))
    assert named.size == (32, 32)
    assert vit_patch_size(named.model) == (8, 8)


def test_the_precision_of_the_model_is_kept():
    named = load_model(pipeline(classifier().double()))
    assert named.model.mean.dtype == torch.float64
    assert named.model(named.prepare(PHOTO)[None].double()).dtype == torch.float64


def test_what_belongs_to_transformers():
    model = classifier()
    assert is_transformers(model)
    assert is_transformers(pipeline(model))
    assert not is_transformers(torch.nn.Flatten())
    assert not is_transformers("google/vit-base-patch16-224")


def test_models_that_cannot_be_had(folder, tmp_path):
    backbone = transformers.ViTModel(classifier().config)
    backbone.save_pretrained(tmp_path / "backbone")
    classifier().save_pretrained(tmp_path / "alone")
    for name, message in [
        (
            "no/such",
            r"model: got 'hf:no/such'; expected an image classifier on the Hugging .*Error",
        ),
        (tmp_path / "none", "expected an image classifier on the Hugging Face hub, cached or to"),
        (tmp_path / "backbone", r"backbone' without classifier\.\w+; expected the weights of a tr"),
        (tmp_path / "alone", r"alone' without an image processor; expected its preprocessor_conf"),
    ]:
        with pytest.raises(PatchShapError, match=message):
            load_model(f"hf:{name}")
    lonely = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "alone")
    with pytest.raises(PatchShapError, match=r"image processor is not in the local .*Hand over tr"):
        load_model(lonely)


def test_models_for_something_else():
    with pytest.raises(
        PatchShapError,
        match=r"model: got a ViTModel; .* or a \.\.\.ForImageClassification .*lambda images: mod",
    ):
        load_model(transformers.ViTModel(classifier().config))
    other = SimpleNamespaceAsPipeline(classifier(), vit_processor())
    other.task = "image-feature-extraction"
    with pytest.raises(PatchShapError, match="a pipeline for 'image-feature-extraction'; expected"):
        HFModel(other)
    with pytest.raises(PatchShapError, match=r"weights: got 'x\.pt'; expected none for a model of"):
        load_model(classifier(), weights="x.pt")


def test_processors_that_do_not_fit():
    gray = classifier(num_channels=1)
    with pytest.raises(PatchShapError, match=r"image processor: got a ViTImageProcessor .*1 chann"):
        load_model(pipeline(gray))

    def always_three(images, return_tensors):
        return {"pixel_values": torch.tensor(images).permute(2, 0, 1).expand(1, 3, -1, -1)}

    with pytest.raises(PatchShapError, match="a function that gives 3 channels; expected the one "):
        HFModel(SimpleNamespaceAsPipeline(gray, always_three))


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        PatchShapError, match=r"'transformers'; expected .*pip install 'xai-patchshap\[hf\]'"
    ):
        load_model("hf:google/vit-base-patch16-224")


def test_an_image_processor_for_another_size_than_the_models():
    other = vit_processor(size={"height": 48, "width": 48})
    with pytest.raises(PatchShapError, match=r"fails on images \(1, 3, 48, 48\); .* \(48\*48"):
        load_model(pipeline(classifier(), other))
