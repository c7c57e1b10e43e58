"""Explainer and register: which explainer a call gives, and that shap's own stay as they are."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import sys
import types

import numpy as np
import pytest
import shap
import torch
from captum.attr import PerturbationAttribution
from shap.maskers._text import SimpleTokenizer
from shap.utils._exceptions import InvalidAlgorithmError
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from xai_patchshap import (
    InteractionShap,
    OwenBPT,
    PatchKernelShap,
    PatchMasker,
    PatchShapError,
    ViTShapleyAmortized,
)
from xai_patchshap.explainers.methods import METHODS
from xai_patchshap.explainers.registry import Explainer, method_class, register, unregister
from xai_patchshap.samples import cifar10_path

CLASSES = {
    "patch_kernel_shap": PatchKernelShap,
    "owen_bpt": OwenBPT,
    "interaction_shap": InteractionShap,
    "vit_shapley_amortized": ViTShapleyAmortized,
}
ON_IMAGES = [name for name in CLASSES if name != "vit_shapley_amortized"]
GRID = (2, 2)
ORIGINAL = shap.Explainer.__init__


@pytest.fixture(autouse=True)
def _nothing_stays_registered():
    assert shap.Explainer.__init__ is ORIGINAL
    yield
    unregister()
    assert shap.Explainer.__init__ is ORIGINAL


@pytest.fixture(params=["Explainer", "register"])
def make(request):
    """The two ways of asking."""
    if request.param == "Explainer":
        return Explainer
    register()
    return shap.Explainer


def on_images(x):
    """Images (N, 8, 8, 3) to (N, 2), with interactions."""
    corners = x[:, ::7, ::7].reshape(len(x), -1)
    return np.stack([np.tanh(corners.sum(axis=1)), corners.prod(axis=1)], axis=1)


WEIGHTS = np.array([[1.0, -2.0], [0.5, 3.0], [2.0, 0.0], [-1.0, 1.0]])


def on_rows(x):
    """Rows (N, 4) to (N, 2), linear."""
    return np.asarray(x) @ WEIGHTS


def on_texts(texts):
    return np.array([[float(len(t)), float(t.count("good"))] for t in texts])


@pytest.fixture
def images():
    return np.random.default_rng(0).random((2, 8, 8, 3))


@pytest.fixture
def rows():
    return np.random.default_rng(1).normal(size=(20, 4))


@pytest.fixture(scope="module")
def network(cifar10_network):
    return cifar10_network


def load(stream_of, loader):
    stream = io.BytesIO()
    stream_of.save(stream)
    stream.seek(0)
    return loader.load(stream)


# ----- our own -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ON_IMAGES)
def test_each_algorithm_by_its_name(make, name, images):
    masker = PatchMasker(GRID, 0.5)
    explainer = make(on_images, masker, algorithm=name)
    assert type(explainer) is CLASSES[name]
    assert isinstance(explainer, shap.Explainer)
    assert isinstance(explainer, PerturbationAttribution)
    assert explainer.masker is masker
    assert explainer.seed == 0
    direct = CLASSES[name](on_images, masker)
    assert vars(explainer).keys() == vars(direct).keys()
    np.testing.assert_array_equal(
        explainer(images, max_evals=12, silent=True).values,
        direct(images, max_evals=12, silent=True).values,
    )


def test_the_amortized_explainer(make, network):
    assert type(make(network, algorithm="vit_shapley_amortized", budget=8)) is ViTShapleyAmortized
    for model in (network, cifar10_path(), str(cifar10_path())):
        for masker in (None, PatchMasker(background="drop")):
            explainer = make(model, masker)
            assert type(explainer) is ViTShapleyAmortized
    x = torch.rand(1, 3, 32, 32)
    np.testing.assert_array_equal(
        explainer(x, silent=True).values, ViTShapleyAmortized(network)(x, silent=True).values
    )


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("owen-bpt", "owen_bpt"),
        ("vit-shapley-amortized", "vit_shapley_amortized"),
        ("patch-kernel-shap", "patch_kernel_shap"),
        ("interaction-shap", "interaction_shap"),
    ],
)
def test_spellings_of_the_command_line(make, spelling, name, network):
    model = network if name == "vit_shapley_amortized" else on_images
    assert type(make(model, algorithm=spelling)) is CLASSES[name]


def test_names_are_those_of_the_classes():
    assert {name: kind.__name__ for name, kind in CLASSES.items()} == METHODS
    for name, kind in CLASSES.items():
        assert method_class(name) is kind
        assert name.replace("_", "") == kind.__name__.lower()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("patch_kernel", "patch_kernel_shap"),
        ("patch-kernel", "patch-kernel-shap"),
        ("vit_shapley", "vit_shapley_amortized"),
        ("interaction", "interaction_shap"),
        ("OwenBPT", "owen_bpt"),
    ],
)
def test_a_name_that_is_nearly_right_is_asked_after(make, given, meant):
    with pytest.raises(InvalidAlgorithmError, match=rf"Did you mean '{meant}'\?$"):
        make(on_images, PatchMasker(), algorithm=given)


def test_auto_takes_a_patch_masker_for_ours(make, images):
    explainer = make(on_images, PatchMasker(GRID, 0.5))
    assert type(explainer) is PatchKernelShap
    values = explainer(images, silent=True).values
    np.testing.assert_allclose(
        values.sum(axis=(1, 2, 3)), on_images(images) - on_images(np.full_like(images, 0.5))
    )
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    x = torch.rand(1, 3, 8, 8)
    assert make(module, PatchMasker(GRID)).attribute(x, target=1, n_samples=16).shape == x.shape


def test_positional_arguments(make):
    masker, names, players = PatchMasker(GRID), ["a", "b"], list("wxyz")
    given = (on_images, masker, shap.links.logit, "interaction_shap", names, players, False, 7)
    explainer = make(*given)
    assert type(explainer) is InteractionShap
    assert explainer.link is shap.links.logit
    assert (explainer.output_names, explainer.feature_names) == (names, players)
    assert explainer.seed == 7
    for n in range(2, len(given)):
        expected = InteractionShap if n > 3 else PatchKernelShap
        assert type(make(*given[:n])) is expected
    keywords = make(masker=masker, algorithm="owen_bpt", model=on_images, link=shap.links.logit)
    assert type(keywords) is OwenBPT
    assert keywords.link is shap.links.logit


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("auto", {"sampling": "kernel", "tolerance": 0.1, "seed": None}),
        ("patch_kernel_shap", {"sampling": "leverage", "tolerance": None, "seed": 3}),
        ("owen_bpt", {"hierarchy": "axis", "n_trees": 2, "compactness": 0.0, "n_guides": 1}),
        ("owen_bpt", {"warm_start": True, "output_names": ["a", "b"]}),
        ("interaction_shap", {"index": "FSII", "order": 3, "estimator": "regression"}),
        ("vit_shapley_amortized", {"budget": 64, "sampling": "kernel", "seed": 5}),
    ],
)
def test_options_reach_our_explainers(make, network, name, options):
    if name == "vit_shapley_amortized":
        explainer = make(network, algorithm=name, **options)
    else:
        explainer = make(on_images, PatchMasker(GRID), algorithm=name, **options)
    for option, value in options.items():
        assert getattr(explainer, option) == value


def test_maskers_are_as_in_the_constructors(make, network, images):
    explainer = make(on_images, algorithm="owen_bpt")
    assert isinstance(explainer.masker, PatchMasker)
    assert not explainer._own_masker  # Captum's face falls back on its own defaults
    assert make(on_images, "blur", algorithm="patch-kernel-shap").masker.background == "blur"
    background = np.full((8, 8, 3), 0.25)
    assert make(on_images, background, algorithm="interaction_shap").masker.background is background
    with pytest.raises(PatchShapError, match=r"shap\.maskers\.Independent"):
        make(on_images, shap.maskers.Independent(np.eye(3)), algorithm="owen_bpt")
    # No explainer of shap's could take this network.
    for foreign in (PatchMasker(), shap.maskers.Independent(np.eye(3))):
        with pytest.raises(PatchShapError, match="masker"):
            make(network, foreign)


# ----- the hook that shap has --------------------------------------------------------------------


@pytest.mark.slow  # shap compiles what it runs
@pytest.mark.parametrize("clustering", ["bpt", "axis"])
@pytest.mark.parametrize("way", ["shap", "Explainer", "register"])
def test_a_tree_drives_shaps_partition_explainer(way, clustering):
    x = np.random.default_rng(0).random((1, 64, 64, 3))

    def model(images):
        cells = images[:, 8::16, 8::16].mean(axis=3).reshape(len(images), -1)
        return np.stack([np.tanh(cells.sum(axis=1) / 4), cells[:, 0] * cells[:, 5]], axis=1)

    if way == "register":
        register()
    make = Explainer if way == "Explainer" else shap.Explainer
    masker = PatchMasker(players=16, background=0.25, clustering=clustering)
    explainer = make(model, masker)
    assert type(explainer) is shap.PartitionExplainer
    explanation = explainer(x, max_evals=200, silent=True)
    assert explanation.values.shape == (1, 16, 2)
    np.testing.assert_allclose(explanation.base_values, model(np.full_like(x, 0.25)), atol=1e-12)
    np.testing.assert_allclose(
        explanation.base_values + explanation.values.sum(axis=1), model(x), atol=1e-12
    )


def test_shaps_choice_stays_shaps(make, rows):
    for model, masker, algorithm, kind in [
        (on_images, PatchMasker(GRID, clustering="axis"), "auto", shap.PartitionExplainer),
        (on_images, PatchMasker(GRID), "exact", shap.ExactExplainer),
        (on_images, PatchMasker(GRID), "permutation", shap.PermutationExplainer),
        (on_rows, rows, "auto", shap.ExactExplainer),
        (on_rows, np.zeros((5, 12)), "auto", shap.PermutationExplainer),
    ]:
        assert type(make(model, masker, algorithm=algorithm)) is kind


def test_a_tree_gives_way_to_a_named_algorithm(make):
    masker = PatchMasker(GRID, clustering="axis")
    assert type(make(on_images, masker, algorithm="owen_bpt")) is OwenBPT
    assert type(make(on_images, masker, algorithm="patch_kernel_shap")) is PatchKernelShap
    assert type(make(on_images, masker, algorithm="permutation")) is shap.PermutationExplainer


# ----- shap's own --------------------------------------------------------------------------------


def same(ours, theirs, x, **call):
    assert type(ours) is type(theirs)
    assert type(ours.masker) is type(theirs.masker)
    np.random.seed(0)  # noqa: NPY002  # Partition asks it
    expected = theirs(x, **call)
    np.random.seed(0)  # noqa: NPY002
    found = ours(x, **call)
    # Not bit by bit: compiled code has random numbers of its own, which have no seed.
    np.testing.assert_allclose(found.values, expected.values, atol=1e-12)
    np.testing.assert_allclose(found.base_values, expected.base_values, atol=1e-12)
    assert found.output_names == expected.output_names
    return found


@pytest.mark.slow  # shap compiles what it runs
@pytest.mark.parametrize(
    ("algorithm", "form"),
    [
        ("auto", "array"),
        ("auto", "Independent"),
        ("exact", "Independent"),
        ("permutation", "Independent"),
        ("partition", "array"),
        ("partition", "Partition"),
    ],
)
def test_a_function_of_rows(make, rows, algorithm, form):
    masker = rows if form == "array" else getattr(shap.maskers, form)(rows)
    with_seed = {"seed": 4} if algorithm == "permutation" else {}
    theirs = shap.Explainer.__new__(shap.Explainer)
    ORIGINAL(theirs, on_rows, masker, algorithm=algorithm, **with_seed)
    ours = make(on_rows, masker, algorithm=algorithm, **with_seed)
    found = same(ours, theirs, rows[:3], silent=True)
    # A linear function's values are known.
    expected = (rows[:3, :, None] - rows.mean(axis=0)[:, None]) * WEIGHTS
    np.testing.assert_allclose(found.values, expected, atol=1e-8)


@pytest.mark.slow  # shap compiles what it runs
def test_rows_with_positional_arguments(make, rows):
    x = rows[:2]
    exact = make(on_rows, rows, shap.links.identity, "exact", None, list("abcd"))
    assert type(exact) is shap.ExactExplainer
    assert exact(x, silent=True).feature_names == list("abcd")
    full = make(on_rows, rows, shap.links.identity, "permutation", None, None, True, 3)
    assert type(full) is shap.PermutationExplainer
    assert full(x, silent=True).values.shape == (2, 4, 2)
    assert type(make(on_rows, masker=rows)) is shap.ExactExplainer
    assert type(make(on_rows, np.zeros((5, 12)))) is shap.PermutationExplainer
    # Options of a call, which shap keeps as its defaults.
    partition = make(on_rows, shap.maskers.Partition(rows), algorithm="partition", max_evals=30)
    assert isinstance(partition, shap.PartitionExplainer)


def test_models_that_shap_knows(make, rows):
    y = on_rows(rows)[:, 0]
    linear, tree = LinearRegression().fit(rows, y), DecisionTreeRegressor(max_depth=2).fit(rows, y)
    for model, masker, algorithm, kind in [
        (linear, rows, "auto", shap.LinearExplainer),
        ((WEIGHTS[:, 0], 0.5), rows, "linear", shap.LinearExplainer),
        (tree, None, "auto", shap.TreeExplainer),
        (tree, rows, "tree", shap.TreeExplainer),
    ]:
        explainer = make(model, masker, algorithm=algorithm)
        assert type(explainer) is kind
        values = np.asarray(explainer(rows[:2]).values)
        assert values.shape == (2, 4)
        if kind is shap.LinearExplainer:
            expected = (rows[:2] - rows.mean(axis=0)) * WEIGHTS[:, 0]
            np.testing.assert_allclose(values, expected, atol=1e-8)


@pytest.mark.slow  # shap compiles what it runs
def test_shaps_own_explainers_with_a_patch_masker(make, images):
    masker = PatchMasker(GRID, 0.5)
    for algorithm, kind in (
        ("exact", shap.ExactExplainer),
        ("permutation", shap.PermutationExplainer),
    ):
        explainer = make(on_images, masker, algorithm=algorithm)
        assert type(explainer) is kind
        values = explainer(images, max_evals=100, silent=True).values
        ours = PatchKernelShap(on_images, masker).explain_players(images, silent=True)
        if algorithm == "exact":
            np.testing.assert_allclose(values, ours.values, atol=1e-12)


@pytest.mark.slow  # shap compiles what it runs
def test_images_and_texts_with_shaps_maskers(make, images):
    explainer = make(on_images, shap.maskers.Image(np.zeros((8, 8, 3))))
    assert type(explainer) is shap.PartitionExplainer
    texts = ["a good day", "not so good at all"]
    explainer = make(on_texts, shap.maskers.Text(r"\W+"), output_names=["length", "good"])
    assert type(explainer) is shap.PartitionExplainer
    found = explainer(texts, silent=True)
    assert list(found.output_names) == ["length", "good"]
    for i, text in enumerate(texts):
        total = found.base_values[i] + found.values[i].sum(axis=0)
        np.testing.assert_allclose(total, on_texts([text])[0])


@pytest.mark.parametrize(
    "arguments",
    [
        ((on_rows,), {}),  # no masker
        ((on_rows, np.eye(3)), {"link": "logit"}),
        ((3,), {}),
        (("model.onnx",), {}),
        ((on_rows, np.eye(3)), {"algorithm": "deep"}),
        ((on_rows, np.eye(3)), {"algorithm": "exact", "n_trees": 2}),
        ((), {}),
        ((on_rows,), {"model": on_rows}),
        ((on_rows, None, None, "auto", None, None, True, 0, "one too many"), {}),
    ],
    ids=["masker", "link", "number", "path", "deep", "option", "none", "twice", "many"],
)
def test_what_shap_refuses_it_still_refuses(make, arguments):
    args, kwargs = arguments
    messages = []
    for call in (make, lambda *a, **k: ORIGINAL(shap.Explainer.__new__(shap.Explainer), *a, **k)):
        with pytest.raises((TypeError, ValueError)) as caught:
            call(*args, **kwargs)
        assert not isinstance(caught.value, PatchShapError)
        messages.append((caught.type, str(caught.value)))
    assert messages[0][0] is messages[1][0]
    if make is shap.Explainer:
        assert messages[0] == messages[1]


# ----- pipelines ---------------------------------------------------------------------------------


@pytest.fixture
def transformers(monkeypatch):
    """What shap looks for of transformers, which recognizes classes by their modules."""

    class Pipeline:
        def __init__(self, score, tokenizer=None):
            labels = {"SHORT": 0, "LONG": "1"}
            config = types.SimpleNamespace(
                label2id=labels, id2label={int(i): name for name, i in labels.items()}
            )
            self.model = types.SimpleNamespace(config=config)
            self.score, self.tokenizer = score, tokenizer

        def __call__(self, inputs):
            assert isinstance(inputs, list)
            return [
                [{"label": "LONG", "score": s}, {"label": "SHORT", "score": 1 - s}]
                for s in map(self.score, inputs)
            ]

    class PreTrainedTokenizer(SimpleTokenizer):
        pass

    top, pipelines = types.ModuleType("transformers"), types.ModuleType("transformers.pipelines")
    top.PreTrainedTokenizer, top.pipelines = PreTrainedTokenizer, pipelines
    pipelines.Pipeline = Pipeline
    monkeypatch.setitem(sys.modules, "transformers", top)
    monkeypatch.setitem(sys.modules, "transformers.pipelines", pipelines)
    return top


@pytest.mark.slow  # shap compiles what it runs
@pytest.mark.parametrize("algorithm", ["auto", "partition", "permutation"])
def test_a_text_pipeline_is_shaps(make, transformers, algorithm):
    pipeline = transformers.pipelines.Pipeline(
        lambda text: len(text) / 100, transformers.PreTrainedTokenizer()
    )
    explainer = make(pipeline, algorithm=algorithm)
    partition = algorithm != "permutation"
    assert type(explainer) is (shap.PartitionExplainer if partition else shap.PermutationExplainer)
    assert type(explainer.masker) is shap.maskers.Text
    assert type(explainer.model.inner_model) is transformers.pipelines.Pipeline
    texts = ["a rather long sentence, is it not", "not long"]
    if partition:
        found = explainer(texts, silent=True)
        for i, text in enumerate(texts):
            total = found.base_values[i] + found.values[i].sum(axis=0)
            np.testing.assert_allclose(total, [1 - len(text) / 100, len(text) / 100])
    # A wrapped pipeline without a masker, and one with a masker.
    wrapped = make(shap.models.TransformersPipeline(pipeline, rescale_to_logits=True))
    assert type(wrapped) is shap.PartitionExplainer
    assert type(make(pipeline, shap.maskers.Text(r"\W+"))) is shap.PartitionExplainer


# ----- files and copies --------------------------------------------------------------------------


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("name", CLASSES)
def test_our_explainers_are_saved_and_pickled(make, name, images, network, capsys):
    if name == "vit_shapley_amortized":
        explainer, x = make(network, algorithm=name, budget=8), torch.rand(1, 3, 32, 32)
    else:
        masker = PatchMasker(GRID, 0.5)
        explainer, x = make(on_images, masker, algorithm=name, seed=3), images[:1]
    expected = explainer(x, max_evals=10, silent=True).values

    def copies():
        yield load(explainer, Explainer)
        yield load(explainer, shap.Explainer)
        yield load(explainer, CLASSES[name])
        yield pickle.loads(pickle.dumps(explainer))
        yield copy.deepcopy(explainer)

    for registered in (True, False):
        (register if registered else unregister)()
        for other in copies():
            assert type(other) is CLASSES[name]
            assert other.seed == explainer.seed
            np.testing.assert_array_equal(other(x, max_evals=10, silent=True).values, expected)


@pytest.mark.slow  # shap compiles what it runs
@pytest.mark.parametrize(
    ("algorithm", "form"),
    [("exact", "Independent"), ("permutation", "Independent"), ("partition", "Partition")],
)
def test_shaps_explainers_are_saved(make, rows, algorithm, form, capsys):
    masker = getattr(shap.maskers, form)(rows)
    explainer = make(on_rows, masker, algorithm=algorithm)
    for loader in (shap.Explainer, make, type(explainer)):
        other = load(explainer, loader)
        assert type(other) is type(explainer)
        assert type(other.masker) is type(masker)
        call = {"silent": True, "max_evals": 100}
        np.testing.assert_allclose(
            other(rows[:2], **call).values, explainer(rows[:2], **call).values, atol=1e-12
        )


class Plain(shap.Explainer):
    """A third party's explainer without a constructor of its own."""


class Late(Explainer):
    """The same, of ours."""


@pytest.mark.parametrize("kind", [Plain, Late])
def test_a_third_partys_explainer_stays_what_it_is(kind, capsys):
    for registered in (False, True):
        if registered:
            register()
        masker = PatchMasker(GRID)
        explainer = kind(on_images, masker, shap.links.logit, algorithm="owen_bpt")
        assert type(explainer) is kind
        assert explainer.masker is masker
        assert not hasattr(explainer, "hierarchy")
        loaded = load(explainer, shap.Explainer)
        assert type(loaded) is kind
        assert loaded.masker.players == GRID
        assert type(load(explainer, kind)) is kind
        assert type(pickle.loads(pickle.dumps(explainer))) is kind


# ----- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["owen", "", "AUTO", "Permutation", "tree-shap", 3, None, []])
def test_an_algorithm_that_nobody_has(make, algorithm):
    for masker in (PatchMasker(), np.eye(3)):
        with pytest.raises(InvalidAlgorithmError) as caught:
            make(on_images, masker, algorithm=algorithm)
        assert isinstance(caught.value, PatchShapError)
        assert caught.value.__suppress_context__
        message = str(caught.value)
        assert str(algorithm) in message
        assert message.count("expected") == 1
        for name in (*CLASSES, "auto", "permutation", "partition", "exact", "tree", "linear"):
            assert repr(name) in message


@pytest.mark.slow  # shap compiles what it runs
def test_every_algorithm_that_the_message_names_exists(rows):
    with pytest.raises(InvalidAlgorithmError) as caught:
        Explainer(on_rows, rows, algorithm="?")
    shaps = str(caught.value).split("shap's (")[-1].split(")")[0]
    for name in shaps.replace("'", "").split(", "):
        try:
            shap.Explainer(on_rows, rows, algorithm=name)
        except InvalidAlgorithmError:
            raise
        except Exception:
            continue  # it exists, and wants another model


def test_without_registration_shap_answers_as_ever():
    with pytest.raises(InvalidAlgorithmError, match="Unknown algorithm type passed: owen_bpt!"):
        shap.Explainer(on_images, PatchMasker(), algorithm="owen_bpt")
    assert type(shap.Explainer(on_images, PatchMasker())) is shap.PermutationExplainer


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("owen_bpt", "n_tree", r"option of OwenBPT: got n_tree; .*'n_trees'.*'warm_start'.*calls"),
        ("owen_bpt", "max_evals", r"max_evals, .* go into the explainer's calls"),
        ("owen_bpt", "tolerance", r"algorithm='patch_kernel_shap'\.$"),
        (
            "auto",
            "order",
            r"option of PatchKernelShap: .*'tolerance'.*algorithm='interaction_shap'",
        ),
        (
            "interaction_shap",
            "budget",
            r"InteractionShap: .*'index', 'order'.*'vit_shapley_amortized'",
        ),
        ("vit_shapley_amortized", "n_guides", r"got n_guides; .*'seed', .*'budget', 'sampling'"),
        ("auto", "options", "got options"),
    ],
)
def test_options_that_our_explainers_do_not_have(make, name, option, message):
    with pytest.raises(PatchShapError, match=message):
        make(on_images, PatchMasker(), algorithm=name, **{option: 2})


def test_our_options_are_not_lost_on_shaps_explainers(make):
    masker = PatchMasker(GRID, clustering="bpt")
    with pytest.raises(PatchShapError, match=r"got n_trees; .*shap.*algorithm='owen_bpt'"):
        make(on_images, masker, n_trees=2)
    explainer = make(on_images, masker, max_evals=50)  # shap's way to say it
    assert isinstance(explainer, shap.PartitionExplainer)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"algorithm": "owen_bpt", "n_trees": 0}, "n_trees"),
        ({"algorithm": "interaction_shap", "index": "nSII"}, "index"),
        ({"seed": -1}, "seed"),
        ({"algorithm": "vit_shapley_amortized"}, "ShapleyViT"),
    ],
)
def test_values_that_do_not_fit_are_the_constructors_to_refuse(make, kwargs, message):
    with pytest.raises(PatchShapError, match=message):
        make(on_images, PatchMasker(), **kwargs)
    # The failed call leaves nothing behind.
    assert type(make(on_images, PatchMasker())) is PatchKernelShap


def test_a_path_that_is_no_checkpoint(make, tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    for name in ("missing.safetensors", "other.safetensors"):
        with pytest.raises(PatchShapError, match=name):
            make(tmp_path / name)


# ----- register and unregister -------------------------------------------------------------------


def ours():
    return type(shap.Explainer(on_images, PatchMasker())) is PatchKernelShap


def test_registration_is_undone_to_the_last_object():
    before = vars(shap.Explainer).copy()
    kind, signature = shap.Explainer, inspect.signature(shap.Explainer)
    register()
    assert shap.Explainer is kind
    assert shap.explainers._explainer.Explainer is kind
    assert inspect.signature(shap.Explainer) == signature
    assert shap.Explainer.__init__.__doc__ == ORIGINAL.__doc__
    changed = {k for k, v in vars(shap.Explainer).items() if v is not before.get(k)}
    assert changed == {"__init__"}
    unregister()
    assert vars(shap.Explainer) == before
    assert vars(shap.Explainer)["__init__"] is ORIGINAL


def test_registering_twice_is_registering_once():
    register()
    installed = shap.Explainer.__init__
    register()
    assert shap.Explainer.__init__ is installed
    unregister()
    assert shap.Explainer.__init__ is ORIGINAL
    unregister()
    assert shap.Explainer.__init__ is ORIGINAL
    assert not ours()


def test_with_blocks():
    with register():
        assert ours()
        with register():
            assert ours()
        assert ours()
    assert not ours()
    with pytest.raises(KeyError), register():
        raise KeyError
    assert not ours()
    # A block within a lasting registration leaves it alone, and one may be ended early.
    register()
    with register():
        pass
    assert ours()
    unregister()
    with register():
        unregister()
        assert not ours()
    assert not ours()


def test_what_was_made_stays_when_registration_ends(images):
    with register():
        explainer = shap.Explainer(on_images, PatchMasker(GRID), algorithm="owen-bpt")
        expected = explainer(images, max_evals=10, silent=True).values
    np.testing.assert_array_equal(explainer(images, max_evals=10, silent=True).values, expected)


def test_someone_elses_patch_on_top_is_left_in_place(monkeypatch):
    register()
    under, calls = shap.Explainer.__init__, []

    def theirs(self, *args, **kwargs):
        calls.append(type(self))
        under(self, *args, **kwargs)

    shap.Explainer.__init__ = theirs
    try:
        assert ours()
        unregister()
        assert shap.Explainer.__init__ is theirs
        assert not ours()
        assert shap.Explainer in calls
        register()
        assert ours()
        unregister()
        assert shap.Explainer.__init__ is theirs
    finally:
        shap.Explainer.__init__ = ORIGINAL


def test_the_signature_is_shaps():
    theirs, mine = (inspect.signature(c).parameters for c in (shap.Explainer, Explainer))
    assert list(theirs)[:-1] == list(mine)[:-1]
    for name in list(theirs)[:-2]:
        assert theirs[name].default == mine[name].default, name
