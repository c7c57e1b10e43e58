"""Pipelines and models of transformers in the classes, in Explainer and in explain_image."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import shap
import torch
from PIL import Image

from xai_patchshap import (
    InteractionShap,
    OwenBPT,
    PatchKernelShap,
    PatchMasker,
    PatchShapError,
    ViTShapleyAmortized,
    explain_image,
)
from xai_patchshap.explainers.registry import Explainer, register
from xai_patchshap.models.huggingface import taken
from xai_patchshap.models.load import load_model
from xai_patchshap.samples import cifar10_explainer

transformers = pytest.importorskip("transformers")

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
SEES = {**TINY, "image_size": 32, "patch_size": 8, "initializer_range": 0.3}
READS = {**TINY, "vocab_size": 6, "max_position_embeddings": 8}
STAGES = {
    "hidden_sizes": [8] * 4,
    "depths": [1] * 4,
    "num_attention_heads": [1] * 4,
    "decoder_hidden_size": 8,
}
SIZE = {"height": 32, "width": 32}
CLASSES = ["cat", "dog", "bird"]
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    transformers.logging.set_verbosity_error()


def made(kind, config):
    torch.manual_seed(0)
    return getattr(transformers, kind)(config).eval()


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "a", "cat", "dog", "[EOS]"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", eos_token="[EOS]", model_max_length=8,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def classifier(**options):
    numbers = {name: i for i, name in enumerate(CLASSES)}
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": numbers}
    config = transformers.ViTConfig(**SEES, **{**names, **options})
    return made("ViTForImageClassification", config)


def processor():
    return transformers.ViTImageProcessor(size=SIZE, image_mean=[0.4, 0.5, 0.6])


def classifying(model=None, **options):
    return transformers.pipeline(
        "image-classification",
        model=classifier() if model is None else model,
        image_processor=processor(),
        **options,
    )


@pytest.fixture(scope="module")
def pipe():
    return classifying()


def clip():
    return made("CLIPModel", transformers.CLIPConfig(text_config=READS, vision_config=SEES))


def siglip():
    return made("SiglipModel", transformers.SiglipConfig(text_config=READS, vision_config=SEES))


def naflex(kind):
    sees = {**TINY, "num_patches": 16, "patch_size": 16}
    return made(
        kind, transformers.Siglip2Config(vision_config=sees, text_config=READS, num_labels=3)
    )


def of_patches():
    return transformers.Siglip2ImageProcessor(max_num_patches=16)


# ----- pipelines that classify images ------------------------------------------------------------


@pytest.mark.parametrize("kind", [PatchKernelShap, OwenBPT])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_class_takes_a_pipeline_as_explain_image_does(pipe, kind, wrapped):
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = "patch_kernel_shap" if kind is PatchKernelShap else "owen_bpt"
    options = {"labels": [0, 1, 2], "players": (2, 2), "background": 0.0, "budget": 16}
    right = explain_image(pipe, x, method=method, **options)
    given = shap.models.TransformersPipeline(pipe) if wrapped else pipe
    found = kind(given, PatchMasker((2, 2), 0.0))(x, max_evals=16, silent=True)
    np.testing.assert_array_equal(found.values, right.values)
    np.testing.assert_array_equal(found.base_values, right.base_values)
    assert list(found.output_names) == list(right.output_names) == CLASSES
    with torch.no_grad():
        scores = load_model(pipe).model(x)[0]
    total = found.base_values[0] + found.values.sum((0, 1, 2, 3))
    np.testing.assert_allclose(total, scores, atol=1e-6)


def test_all_classes_and_faces_take_it(pipe):
    x = torch.rand(1, 3, 32, 32)
    network = load_model(pipe).model
    masker = PatchMasker((2, 2), 0.5)
    for kind in (PatchKernelShap, OwenBPT, InteractionShap):
        by_pipe, by_network = kind(pipe, masker), kind(network, masker)
        np.testing.assert_array_equal(
            by_pipe(x, max_evals=16, silent=True).values,
            by_network(x, max_evals=16, silent=True).values,
        )
        np.testing.assert_array_equal(
            by_pipe.attribute(x, target=1, n_samples=16),
            by_network.attribute(x, target=1, n_samples=16),
        )
    # A vision transformer's patches are the players, as of a model alone.
    assert PatchKernelShap(pipe).model_patch_size == (8, 8)


def test_an_assigned_pipeline_is_taken_alike(pipe):
    x = torch.rand(1, 3, 32, 32)
    masker = PatchMasker((2, 2), 0.5)
    right = PatchKernelShap(pipe, masker)(x, max_evals=16, silent=True)
    for name in ("model", "forward_func"):
        explainer = PatchKernelShap(lambda images: images.mean((2, 3)), masker)
        assert explainer.output_names is None
        setattr(explainer, name, pipe)
        found = explainer(x, max_evals=16, silent=True)
        np.testing.assert_array_equal(found.values, right.values)
        assert list(found.output_names) == CLASSES
        explainer.model = lambda images: images.mean((2, 3))
        assert explainer.output_names is None


def test_names_that_are_given_stay(pipe):
    explainer = PatchKernelShap(pipe, output_names=["a", "b", "c"])
    assert explainer.output_names == ["a", "b", "c"]


def test_copies_and_files_keep_the_model_of_the_pipeline(pipe, tmp_path):
    x = torch.rand(1, 3, 32, 32)
    explainer = PatchKernelShap(pipe, PatchMasker((2, 2), 0.5))
    right = explainer(x, max_evals=16, silent=True)
    with (tmp_path / "explainer").open("wb") as file:
        explainer.save(file)
    with (tmp_path / "explainer").open("rb") as file:
        loaded = PatchKernelShap.load(file)
    for other in (loaded, copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        found = other(x, max_evals=16, silent=True)
        np.testing.assert_array_equal(found.values, right.values)
        assert list(found.output_names) == CLASSES


@pytest.mark.parametrize("asked", ["none", "softmax", "sigmoid"])
def test_the_function_that_a_pipeline_applies_is_applied(asked):
    made = classifying(function_to_apply=asked)
    named = load_model(made)
    assert named.scale == ("logit" if asked == "none" else "probability")
    with torch.no_grad():
        scores = named.model(named.prepare(PHOTO.resize((32, 32)))[None])[0]
    theirs = {row["label"]: row["score"] for row in made(PHOTO.resize((32, 32)))}
    np.testing.assert_allclose(scores, [theirs[n] for n in CLASSES], rtol=1e-4)


@pytest.fixture(params=["Explainer", "register"])
def make(request):
    if request.param == "Explainer":
        yield Explainer
        return
    with register():
        yield shap.Explainer


@pytest.mark.parametrize("masker", [None, PatchMasker((2, 2), 0.5)], ids=["none", "patches"])
def test_explainer_takes_it(make, pipe, masker):
    explainer = make(pipe, masker)
    assert type(explainer) is PatchKernelShap
    x = torch.rand(1, 3, 32, 32)
    right = PatchKernelShap(pipe, masker)(x, max_evals=40, silent=True)
    np.testing.assert_array_equal(explainer(x, max_evals=40, silent=True).values, right.values)
    named = make(pipe, masker, algorithm="owen_bpt", n_trees=2, seed=9)
    assert type(named) is OwenBPT
    assert (named.n_trees, named.seed) == (2, 9)


@pytest.mark.parametrize(
    ("masker", "algorithm"),
    [
        (None, "partition"),
        (PatchMasker(clustering="axis"), "auto"),
        (PatchMasker(), "exact"),
        (shap.maskers.Independent(np.zeros((2, 4))), "auto"),
    ],
    ids=["none", "tree", "exact", "rows"],
)
def test_shaps_wrapper_for_texts_gets_no_images(make, pipe, masker, algorithm):
    for given in (pipe, shap.models.TransformersPipeline(pipe)):
        with pytest.raises(PatchShapError, match=r"'image-classification' with algorithm=.*load_m"):
            make(given, masker, algorithm=algorithm)


# ----- everything else of transformers -----------------------------------------------------------


def others():
    """Further pipelines: the task, the model and what else the pipeline wants."""
    t = transformers
    clip_sees = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIZE)
    siglip_sees = t.SiglipImageProcessor(size=SIZE)
    yolos = {"image_size": [32, 32], "num_detection_tokens": 5, "num_labels": 3}
    return {
        "clip": ("zero-shot-image-classification", clip, clip_sees, ".logits_per_image"),
        "siglip": ("zero-shot-image-classification", siglip, siglip_sees, ".logits_per_image"),
        "siglip2": (
            "zero-shot-image-classification",
            lambda: naflex("Siglip2Model"),
            of_patches(),
            ".logits_per_image",
        ),
        "naflex": (
            "image-classification",
            lambda: naflex("Siglip2ForImageClassification"),
            of_patches(),
            ".logits",
        ),
        "features": (
            "image-feature-extraction",
            lambda: made("ViTModel", t.ViTConfig(**SEES)),
            processor(),
            ".pooler_output",
        ),
        "convolutions": (
            "image-feature-extraction",
            lambda: made("ConvNextModel", t.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4)),
            processor(),
            ".pooler_output",
        ),
        "detection": (
            "object-detection",
            lambda: made("YolosForObjectDetection", t.YolosConfig(**{**SEES, **yolos})),
            t.YolosImageProcessor(size=SIZE, do_pad=False),
            ".logits.amax(1)",
        ),
        "segmentation": (
            "image-segmentation",
            lambda: made(
                "SegformerForSemanticSegmentation", t.SegformerConfig(**STAGES, num_labels=3)
            ),
            t.SegformerImageProcessor(size=SIZE),
            ".logits.mean((2, 3))",
        ),
        "depth": (
            "depth-estimation",
            lambda: made("GLPNForDepthEstimation", t.GLPNConfig(**STAGES)),
            t.GLPNImageProcessor(),
            ".predicted_depth.mean((1, 2))",
        ),
    }


OTHERS = [
    *("clip", "siglip", "siglip2", "naflex", "features"),
    *("convolutions", "detection", "segmentation", "depth"),
]


def pasted(error, **names):
    """The function that an error offers, as its reader would run it."""
    return eval(re.search(r"lambda images: .*", str(error)).group(0), names)


@pytest.mark.parametrize("name", OTHERS)
def test_the_line_that_an_error_offers_works(name):
    task, model, images, scores = others()[name]
    words = tokenizer() if task.startswith("zero-shot") else None
    pipe = transformers.pipeline(task, model=model(), image_processor=images, tokenizer=words)
    errors = []
    for call in (
        lambda: explain_image(pipe, PHOTO),
        lambda: load_model(pipe),
        lambda: PatchKernelShap(pipe),
        lambda: OwenBPT(pipe, PatchMasker()),
        lambda: InteractionShap(pipe),
        lambda: Explainer(pipe),
        lambda: Explainer(pipe, PatchMasker()),
        lambda: setattr(PatchKernelShap(lambda x: x), "model", pipe),
        lambda: setattr(PatchKernelShap(lambda x: x), "forward_func", pipe),
    ):
        with pytest.raises(PatchShapError, match="explain_image and load_model take a func") as e:
            call()
        errors.append(str(e.value))
    assert len(set(errors)) == 1
    assert errors[0].endswith(scores)
    function = pasted(errors[0], pipe=pipe)
    # The same scores as of the photograph, which the processor would bring to [0, 1] itself.
    side = 64 if name in ("siglip2", "naflex") else 32
    photo = np.array(PHOTO.resize((side, side)))
    with torch.no_grad():
        inputs = images(images=[photo], return_tensors="pt")
        if words is not None:
            padding = "max_length" if "siglip" in name else True
            inputs |= words(["a cat", "a dog"], padding=padding, return_tensors="pt")
        right = eval(f"outputs{scores}", {"outputs": pipe.model(**inputs)})
        x = torch.tensor(photo / 255.0).float()[None]
        np.testing.assert_allclose(function(x.permute(0, 3, 1, 2)), right, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(function(x.numpy()), right, rtol=1e-3, atol=1e-4)
    explanation = explain_image(function, photo / 255.0, players=(2, 2), background=0.0)
    total = explanation.values.sum() + np.sum(explanation.base_values)
    assert total == pytest.approx(float(right.max()), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "naflex", "features", "detection"])
def test_the_line_for_a_model_alone_works(name):
    task, model, images, scores = others()[name]
    model, reader = model(), images
    if task.startswith("zero-shot"):
        kind = {"clip": "CLIP", "siglip": "Siglip", "siglip2": "Siglip2"}[name]
        reader = getattr(transformers, f"{kind}Processor")(images, tokenizer())
    calls = [lambda: load_model(model), lambda: explain_image(model, PHOTO)]
    if name not in ("features", "detection"):  # else the classes see their outputs, and refuse them
        calls += [lambda: PatchKernelShap(model), lambda: OwenBPT(model)]
    for call in calls:
        with pytest.raises(PatchShapError, match="takes images") as error:
            call()
        assert str(error.value).endswith(scores)
        function = pasted(error.value, model=model, processor=reader)
        with torch.no_grad():
            assert len(function(torch.rand(2, 3, 32, 32))) == 2


def reading():
    config = transformers.BertConfig(**READS, num_labels=2)
    model = made("BertForSequenceClassification", config)
    return transformers.pipeline("text-classification", model=model, tokenizer=tokenizer())


def test_pipelines_of_texts_are_no_pipelines_of_images(make):
    pipe = reading()
    for call in (
        lambda: PatchKernelShap(pipe),
        lambda: OwenBPT(pipe, PatchMasker()),
        lambda: make(pipe, PatchMasker()),
        lambda: explain_image(pipe, PHOTO),
    ):
        with pytest.raises(PatchShapError, match=r"reads no images\. For texts there is shap\.Ex"):
            call()
    with pytest.raises(PatchShapError, match="a pipeline for 'text-classification' with algorithm"):
        make(pipe, PatchMasker(), algorithm="partition")


@pytest.mark.slow  # shap imports every language model of transformers
def test_pipelines_of_texts_are_shaps_alone(make):
    pipe = reading()
    explainer = make(pipe)
    assert type(explainer) is shap.PartitionExplainer
    assert type(explainer.model) is shap.models.TransformersPipeline
    assert explainer.model.inner_model is pipe


def test_models_that_take_more_than_images_or_less():
    video = transformers.VideoMAEConfig(**SEES, num_frames=2)
    vilt = transformers.ViltConfig(**SEES, vocab_size=9)
    bert = transformers.BertConfig(**READS)
    for kind, config, message in [
        ("VideoMAEForVideoClassification", video, "which takes several frames; .*any function of"),
        ("ViltForQuestionAnswering", vilt, "which takes input_ids; .*take any function of images"),
        ("BertForSequenceClassification", bert, "which takes input_ids; expected .*no images"),
    ]:
        model = made(kind, config)
        with pytest.raises(PatchShapError, match=message):
            PatchKernelShap(model)
        with pytest.raises(PatchShapError, match=f"got a {kind}; expected an image-classification"):
            load_model(model)


def test_a_model_of_ones_own_that_descends_from_transformers_is_ones_own():
    class Own(transformers.PreTrainedModel):
        config_class = transformers.ViTConfig

        def __init__(self, config):
            super().__init__(config)
            self.head = torch.nn.Linear(3, 2)
            self.post_init()

        def forward(self, input_ids):
            return self.head(input_ids.mean((2, 3)))

    model = Own(transformers.ViTConfig(**SEES)).eval()
    assert taken(model) is model
    explainer = PatchKernelShap(lambda images: images, PatchMasker((2, 2)))
    explainer.model = model  # given to the class, shap would first import all language models
    x = torch.rand(1, 3, 32, 32)
    values = explainer(x, max_evals=16, silent=True).values
    with torch.no_grad():
        difference = model(x) - model(0 * x)
    np.testing.assert_allclose(values.sum((1, 2, 3)), difference, atol=1e-6)


def test_the_explainer_of_a_trained_network_takes_no_pipeline(pipe):
    message = "got an object of type ImageClassificationPipeline; .* explain_image explains any"
    with pytest.raises(PatchShapError, match=message):
        ViTShapleyAmortized(pipe)
    explainer = ViTShapleyAmortized(cifar10_explainer())
    for name in ("model", "forward_func"):
        with pytest.raises(PatchShapError, match=message):
            setattr(explainer, name, pipe)
    assert explainer.model.training is False


# ----- names of classes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({0: "a", 1: "b", 2: "c"}, ("a", "b", "c")),
        ({2: "c", 0: "a", 1: "b"}, ("a", "b", "c")),
        ({"0": "a", "1": "b", "2": "c"}, ("a", "b", "c")),
        ({0: 5, 1: None, 2: "c"}, ("5", "None", "c")),
        (None, None),
        ({}, None),
    ],
)
def test_names_that_fit(given, expected):
    model = classifier()
    model.config.__dict__["id2label"] = given
    assert load_model(model).class_names == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({1: "a", 2: "b", 3: "c"}, ("LABEL_0", "a", "b")),
        ({0: "a", 2: "c", 3: "d"}, ("a", "LABEL_1", "c")),
        ({0: "a", 1: "b"}, ("a", "b", "LABEL_2")),
        ({i: f"class {i}" for i in range(10)}, ("class 0", "class 1", "class 2")),
        ({"x": "a", "y": "b", "z": "c"}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({-1: "a", 0: "b", 1: "c"}, ("b", "c", "LABEL_2")),
    ],
)
def test_names_with_gaps_are_told(given, expected):
    model = classifier()
    model.config.__dict__["id2label"] = given
    message = r"config\.id2label names .* the outputs 0 to 2\. .* set model\.config\.id2label"
    for call in (load_model, classifying, PatchKernelShap):
        if call is PatchKernelShap:
            with pytest.warns(UserWarning, match=message) as record:
                assert PatchKernelShap(classifying(model)).output_names == list(expected)
        else:
            given_model = model if call is load_model else classifying(model)
            with pytest.warns(UserWarning, match=message) as record:
                assert load_model(given_model).class_names == expected
        assert [w.filename for w in record] == [__file__]


def test_labels_by_name_where_some_are_missing():
    model = classifier()
    model.config.__dict__["id2label"] = {0: "cat", 2: "bird"}
    with pytest.warns(UserWarning, match="config.id2label names 0, 2; the model has"):
        found = explain_image(model, PHOTO, labels=["bird", "LABEL_1"], players=(2, 2))
    assert list(found.output_names) == ["bird", "LABEL_1"]


def test_a_configuration_of_names_alone():
    for names in ({1: "a", 2: "b"}, {0: "a", 2: "b"}):
        model = classifier(id2label=names)
        with pytest.warns(UserWarning, match=r"the model has the outputs 0 to 1\."):
            assert len(load_model(model).class_names) == 2
    # Without label2id, which shap's wrapper for texts asks for.
    assert PatchKernelShap(classifying(classifier(label2id=None))).output_names == CLASSES


def test_models_that_return_tuples():
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], num_labels=3, return_dict=False
    )
    model = made("ResNetForImageClassification", config)
    named = load_model(model)
    x = named.prepare(PHOTO)[None]
    with torch.no_grad():
        assert isinstance(model(x), tuple)
        np.testing.assert_allclose(named.model(x), model(x)[0].softmax(-1), rtol=1e-5)
