"""PatchKernelShap as a shap explainer, and PatchMasker as a shap masker."""

from __future__ import annotations

import io
from contextvars import ContextVar

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import shap
import torch
from captum.attr import FeatureAblation, KernelShap, ShapleyValueSampling
from captum.testing.helpers.basic_models import BasicModel_MultiLayer_MultiInput
from torch import nn

from xai_patchshap import InteractionShap, PatchKernelShap, PatchMasker, PatchShapError
from xai_patchshap.explainers import shap_face

TOP3 = shap.Explanation.argsort.flip[:3]
SIZE = 12


class Net(nn.Module):
    """Images (N, 3, 12, 12) to ``outputs`` scores with interactions; one number for 0."""

    def __init__(self, outputs=10):
        super().__init__()
        self.scalar = outputs == 0
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.hidden = nn.Linear(5 * 16, 8)
        self.head = nn.Linear(8, outputs or 1)

    def forward(self, x):
        x = nn.functional.avg_pool2d(torch.relu(self.conv(x)), 3)
        x = self.head(torch.tanh(3 * self.hidden(x.flatten(1))))
        return x[:, 0] if self.scalar else x


def photos(n=2):
    """Channels first."""
    return torch.rand(n, 3, SIZE, SIZE)


def last(x):
    """Channels last, as an array."""
    return x.permute(0, 2, 3, 1).numpy()


def on_arrays(model):
    """The model as shap users write it: arrays (N, H, W, C) to arrays (N, K)."""

    def predict(x):
        assert isinstance(x, np.ndarray)
        with torch.no_grad():
            return model(torch.tensor(x).permute(0, 3, 1, 2)).numpy()

    return predict


def outputs_of(model, x):
    with torch.no_grad():
        return model(x).double().numpy()


class Spy:
    """Notes which players of which image each row shows.

    It wants images (N, H, W, C) that hold their number, 1, 2, ..., over a background
    of 0, and a 3x3 grid; it returns ``outputs`` scores with interactions.
    """

    def __init__(self, outputs=4, breaks_at=None):
        rng = np.random.default_rng(0)
        self.weights = rng.normal(size=(9, 6)), rng.normal(size=(6, outputs))
        self.breaks_at, self.calls = breaks_at, []

    def __call__(self, x):
        cells = x[:, 2::4, 2::4, 0].reshape(len(x), 9)
        if len(self.calls) + 1 == self.breaks_at:
            raise KeyboardInterrupt
        self.calls.append(cells)
        return np.tanh(cells @ self.weights[0]) @ self.weights[1]

    @property
    def rows(self):
        return sum(map(len, self.calls))

    def coalitions(self, number):
        """Coalitions of one image, in the order they were asked for; the empty one is nobody's."""
        cells = np.concatenate(self.calls)
        return [tuple(row) for row in cells[cells.max(axis=1) == number] > 0]


def numbered(*numbers):
    return np.stack([np.full((SIZE, SIZE, 3), float(i)) for i in numbers])


def assert_close(actual, expected, tolerance=1e-6):
    """Equal to ``tolerance`` relative to the largest expected number."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


# ----- the same numbers everywhere -------------------------------------------------------


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("max_evals", [60, 512], ids=["sampled", "exact"])
@pytest.mark.parametrize("background", [0.3, "blur"])
def test_every_way_in_gives_the_same_numbers(background, max_evals):
    model, x = Net(), photos()
    masker = PatchMasker(players=(3, 3), background=background)
    explainer = PatchKernelShap(model, masker)
    kwargs = {"max_evals": max_evals, "silent": True}
    values = explainer(x, **kwargs).values
    assert values.shape == (2, SIZE, SIZE, 3, 10)
    assert_close(explainer(last(x), **kwargs).values, values)
    arrays = PatchKernelShap(on_arrays(model), masker)
    assert_close(arrays(last(x), **kwargs).values, values)
    tensors = PatchKernelShap(lambda t: model(t), masker)
    assert_close(tensors(x, **kwargs).values, values)
    assert_close(explainer.shap_values(last(x), **kwargs), values)
    assert_close(np.moveaxis(explainer.shap_values(x, **kwargs), 1, 3), values)
    # Per player, and in Captum's form: repeated on the 4 x 4 x 3 elements of each player.
    per_player = explainer.explain_players(x, **kwargs).values
    assert_close(per_player.reshape(2, 3, 3, 10), 48 * values[:, ::4, ::4, 0])
    for k in (0, 7):
        repeated = explainer.attribute(x, target=k, n_samples=max_evals, perturbations_per_eval=8)
        assert_close(last(repeated), 48 * values[..., k], 1e-5)


@pytest.mark.pairwise
@pytest.mark.parametrize("form", ["module", "arrays", "tensors"])
@pytest.mark.parametrize("outputs", [0, 1, 10])
@pytest.mark.parametrize("max_evals", [2, 9, 100, 512])
def test_values_add_up_to_the_output(form, outputs, max_evals):
    model, x = Net(outputs), photos(3)
    explain = {
        "module": PatchKernelShap(model, PatchMasker((3, 3), 0.5)),
        "arrays": PatchKernelShap(on_arrays(model), PatchMasker((3, 3), 0.5)),
        "tensors": PatchKernelShap(lambda t: model(t), PatchMasker((3, 3), 0.5)),
    }[form]
    explanation = explain(
        last(x) if form == "arrays" else x, max_evals=max_evals, batch_size=8, silent=True
    )
    k = () if outputs == 0 else (outputs,)
    assert explanation.values.shape == (3, SIZE, SIZE, 3, *k)
    assert explanation.base_values.shape == (3, *k)
    np.testing.assert_array_equal(explanation.data, last(x))
    assert_close(explanation.base_values, outputs_of(model, torch.full_like(x, 0.5)))
    total = explanation.base_values + explanation.values.sum(axis=(1, 2, 3))
    assert_close(total, outputs_of(model, x))


@pytest.mark.parametrize("outputs", [0, 10])
def test_layout_of_shap_values(outputs):
    model, x = Net(outputs), photos()
    explainer = PatchKernelShap(model, PatchMasker((3, 3)))
    k = () if outputs == 0 else (outputs,)
    first = explainer.shap_values(x, max_evals=50)
    assert first.shape == (2, 3, SIZE, SIZE, *k)
    assert explainer.shap_values(last(x), max_evals=50).shape == (2, SIZE, SIZE, 3, *k)
    # An array in torch's layout is one too.
    assert_close(explainer.shap_values(x.numpy(), max_evals=50), first)
    explanation = explainer(x.numpy(), max_evals=50, silent=True)
    np.testing.assert_array_equal(explanation.data, last(x))


@pytest.mark.parametrize("shape", [(2, 4, 4, 1), (2, 5, 7, 3), (2, 2, 2, 4)])
def test_shapes_of_other_images(shape):
    x = np.random.default_rng(0).random(shape)
    explainer = PatchKernelShap(lambda a: a.reshape(len(a), -1)[:, :2] ** 2, PatchMasker((2, 2)))
    explanation = explainer(x, max_evals=16, silent=True)
    assert explanation.values.shape == (*shape, 2)
    # The player that holds the elements which decide gets everything, evenly spread.
    assert_close(explanation.values.sum(axis=(1, 2, 3)), x.reshape(2, -1)[:, :2] ** 2)
    first = explanation.values[:, 0, 0]
    np.testing.assert_allclose(first, np.broadcast_to(first[:, :1], first.shape), rtol=1e-12)
    np.testing.assert_allclose(explanation.values[:, -1], 0, atol=1e-12)
    np.testing.assert_allclose(explanation.values[:, :, -1], 0, atol=1e-12)


# ----- choosing outputs ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "key"), [("max", lambda f: -f), ("min", lambda f: f), ("max_abs", lambda f: -abs(f))]
)
def test_ranked_outputs(order, key):
    model, x = Net(), photos(3)
    explainer = PatchKernelShap(model, PatchMasker((3, 3)))
    everything = explainer.shap_values(x, max_evals=40)
    values, indices = explainer.shap_values(x, 4, order, max_evals=40)
    expected = np.argsort(key(outputs_of(model, x)), axis=1)[:, :4]
    np.testing.assert_array_equal(indices, expected)
    assert values.shape == (3, 3, SIZE, SIZE, 4)
    assert_close(values, np.stack([everything[i][..., expected[i]] for i in range(3)]))


def top3(scores):
    return np.argsort(scores, axis=1)[:, ::-1][:, :3]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (4, lambda f: [[4]] * 3),
        (-1, lambda f: [[9]] * 3),
        ([2], lambda f: [[2]] * 3),
        ([7, 0, 7], lambda f: [[7, 0, 7]] * 3),
        (np.array([1, 8]), lambda f: [[1, 8]] * 3),
        (np.array([[1, 8], [0, 2], [9, 9]]), lambda f: [[1, 8], [0, 2], [9, 9]]),
        (TOP3, top3),
        (shap.Explanation.argsort.flip[0], lambda f: top3(f)[:, :1]),
    ],
    ids=["int", "negative", "list", "repeated", "array", "array each", "OpChain", "OpChain of one"],
)
def test_outputs(outputs, expected):
    model, x = Net(), photos(3)
    names = [f"class {i}" for i in range(10)]
    explainer = PatchKernelShap(model, PatchMasker((3, 3)), output_names=names)
    everything = explainer(x, max_evals=40, silent=True)
    some = explainer(x, max_evals=40, outputs=outputs, silent=True)
    index = np.array(expected(outputs_of(model, x)))
    assert_close(some.values, np.stack([everything.values[i][..., index[i]] for i in range(3)]))
    assert_close(some.base_values, np.take_along_axis(everything.base_values, index, axis=1))
    own = np.array(names)[index]
    shared = (index == index[0]).all()
    np.testing.assert_array_equal(some.output_names, own[0] if shared else own)
    if shared:
        assert_close(explainer.expected_value, some.base_values.mean(axis=0))
    else:
        assert explainer.expected_value is None


@pytest.mark.parametrize("outputs", [10, -11, [0, 10], [[0, 1]], [], [0.5], "first", [[0], [10]]])
def test_outputs_that_do_not_fit(outputs):
    with pytest.raises(PatchShapError, match="outputs"):
        PatchKernelShap(Net())(photos(), outputs=outputs, silent=True)


@pytest.mark.parametrize("outputs", [0, [0], [-1], TOP3])
def test_outputs_of_a_model_with_a_single_one(outputs):
    explainer = PatchKernelShap(Net(0), PatchMasker("3x3"))
    x = photos()
    named = explainer(x, outputs=outputs, max_evals=60, silent=True).values
    assert np.array_equal(named, explainer(x, max_evals=60, silent=True).values)
    with pytest.raises(PatchShapError, match="outputs: got indices from 1 to 1"):
        explainer(photos(), outputs=1, silent=True)
    with pytest.raises(PatchShapError, match="ranked_outputs: got 1; expected None for a model"):
        explainer.shap_values(photos(), ranked_outputs=1)


@pytest.mark.parametrize(("n", "order"), [(0, "max"), (11, "max"), (2, "best")])
def test_ranked_outputs_that_do_not_fit(n, order):
    with pytest.raises(PatchShapError, match="output"):
        PatchKernelShap(Net()).shap_values(photos(), n, order)


def test_output_names():
    names = list("abcdefghij")
    explainer = PatchKernelShap(Net(), output_names=names)
    assert list(explainer(photos(), max_evals=5, silent=True).output_names) == names
    players = explainer.explain_players(photos(), max_evals=5, outputs=[3, 1], silent=True)
    assert list(players.output_names) == ["d", "b"]


@pytest.mark.parametrize("outputs", [None, [0]])
def test_wrong_number_of_output_names(outputs):
    explainer = PatchKernelShap(Net(), output_names=["cat", "dog"])
    with pytest.raises(PatchShapError, match=r"2 names.*10"):
        explainer(photos(), max_evals=5, outputs=outputs, silent=True)


def test_expected_value():
    model, x = Net(), photos(3)
    explainer = PatchKernelShap(model, PatchMasker((3, 3), ["mean", 0.5]))
    assert explainer.expected_value is None
    explainer(x, max_evals=20, silent=True)
    means = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    empty = (outputs_of(model, means) + outputs_of(model, torch.full_like(x, 0.5))) / 2
    assert_close(explainer.expected_value, empty.mean(axis=0))
    scalar = PatchKernelShap(Net(0))
    scalar(x, max_evals=5, silent=True)
    assert isinstance(scalar.expected_value, float)


# ----- files -----------------------------------------------------------------------------


def round_trip(thing):
    stream = io.BytesIO()
    thing.save(stream)
    stream.seek(0)
    return type(thing).load(stream)


def test_save_and_load(capsys):
    x = photos()
    masker = PatchMasker((3, 3), [0.25, "noise"], layout="NCHW", seed=5)
    names = [f"class {i}" for i in range(10)]
    players = [f"player {i}" for i in range(9)]
    explainer = PatchKernelShap(
        Net(),
        masker,
        link=shap.links.identity,
        output_names=names,
        seed=11,
        sampling="leverage",
        tolerance=1e-9,
        feature_names=players,
    )
    loaded = round_trip(explainer)
    assert type(loaded) is PatchKernelShap
    for option in ("seed", "sampling", "tolerance", "autocast", "output_names", "feature_names"):
        assert getattr(loaded, option) == getattr(explainer, option), option
    for option in ("players", "background", "layout", "seed"):
        assert getattr(loaded.masker, option) == getattr(masker, option), option
    before = explainer.explain_players(x, max_evals=90, silent=True)
    after = loaded.explain_players(x, max_evals=90, silent=True)
    np.testing.assert_array_equal(after.values, before.values)
    np.testing.assert_array_equal(after.error_std, before.error_std)
    assert list(after.output_names) == names
    assert list(after.feature_names) == players
    # The options mattered.
    plain = PatchKernelShap(Net(), masker)
    plain.model.load_state_dict(explainer.model.state_dict())
    other = plain.explain_players(x, max_evals=90, silent=True)
    assert np.abs(other.values - before.values).max() > 1e-6


def probability(x):
    return 1 / (1 + np.exp(-x.sum(axis=(1, 2, 3)) + 3))


def test_save_and_load_a_function_with_a_link(capsys):
    x = np.random.default_rng(0).random((2, 4, 4, 1))
    explainer = PatchKernelShap(probability, PatchMasker((2, 2)), link=shap.links.logit)
    loaded = round_trip(explainer)
    before, after = (e(x, max_evals=16, silent=True) for e in (explainer, loaded))
    np.testing.assert_array_equal(after.values, before.values)
    np.testing.assert_array_equal(after.base_values, before.base_values)


def test_explainer_without_a_masker_is_still_one_after_loading(capsys):
    inputs = tuple(torch.rand(2, 3) for _ in range(3))
    explainer = PatchKernelShap(BasicModel_MultiLayer_MultiInput())
    before = explainer.attribute(inputs, target=0, additional_forward_args=1)
    after = round_trip(explainer).attribute(inputs, target=0, additional_forward_args=1)
    for a, b in zip(after, before, strict=True):
        assert torch.equal(a, b)


def left_and_right(image):
    return np.arange(image.shape[1])[None].repeat(image.shape[0], 0) * 2 // image.shape[1]


@pytest.mark.parametrize(
    "masker",
    [
        PatchMasker((2, 3), 0.5),
        PatchMasker("patch:5", "blur:2", layout="NHWC"),
        PatchMasker(np.arange(144).reshape(12, 12) // 30, ["noise", (0.1, 0.2, 0.3)], seed=3),
        PatchMasker(left_and_right, np.full((12, 12, 3), 0.7), clustering="ward"),
        PatchMasker((1, 3), clustering=np.array([[0.0, 2, 1, 2], [1, 3, 2, 3]])),
    ],
    ids=["grid", "patch", "mask and noise", "function", "linkage"],
)
def test_save_and_load_a_masker(masker, capsys):
    loaded = round_trip(masker)
    x = last(photos(1))[0]
    (n,) = masker.mask_shapes(x)[0]
    assert loaded.mask_shapes(x) == [(n,)]
    assert loaded.shape(x) == masker.shape(x)
    for mask in np.vstack([np.eye(n, dtype=bool), np.zeros((1, n), dtype=bool)]):
        np.testing.assert_array_equal(loaded(mask, x)[0], masker(mask, x)[0])
    assert hasattr(loaded, "clustering") == hasattr(masker, "clustering")
    if hasattr(masker, "clustering"):
        a, b = (
            m.clustering(x) if callable(m.clustering) else m.clustering for m in (loaded, masker)
        )
        np.testing.assert_array_equal(a, b)


# ----- plots -----------------------------------------------------------------------------


@pytest.fixture
def _figures():
    plt.close("all")
    yield
    plt.close("all")


@pytest.mark.usefixtures("_figures")
@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("tensor", [False, True])
def test_image_plot_draws_the_explanation(scalar, tensor):
    x = photos(2)
    names = None if scalar else [f"class {i}" for i in range(10)]
    explainer = PatchKernelShap(Net(0 if scalar else 10), PatchMasker((3, 3)), output_names=names)
    explanation = explainer(
        x if tensor else last(x), max_evals=40, outputs=None if scalar else TOP3, silent=True
    )
    shap.image_plot(explanation, show=False)
    plt.gcf().canvas.draw()
    drawn = [a for a in plt.gcf().axes if a.images]
    values = explanation.values[..., None] if scalar else explanation.values
    n_columns = 1 + values.shape[-1]
    for i in range(2):
        photo = np.asarray(drawn[i * n_columns].images[-1].get_array())
        np.testing.assert_allclose(photo, explanation.data[i], atol=1e-6)
        for k in range(values.shape[-1]):
            axes = drawn[i * n_columns + 1 + k]
            np.testing.assert_allclose(axes.images[-1].get_array(), values[i, ..., k].sum(axis=-1))
            if not scalar:
                assert axes.get_title() == explanation.output_names[i][k]


def texts(figure):
    return {t.get_text() for t in figure.findobj(mpl.text.Text)}


@pytest.mark.pairwise(1)
@pytest.mark.usefixtures("_figures")
@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("plot", ["waterfall", "force", "bar", "bar of all", "beeswarm"])
def test_plots_of_players(plot, scalar):
    names = [f"part {i}" for i in range(9)]
    explainer = PatchKernelShap(Net(0 if scalar else 10), PatchMasker((3, 3)), feature_names=names)
    players = explainer.explain_players(photos(4), max_evals=60, silent=True)
    one, many = (players[1], players) if scalar else (players[1, :, 2], players[..., 2])
    if plot == "waterfall":
        shap.plots.waterfall(one, show=False)
    elif plot == "force":
        shap.plots.force(one, matplotlib=True, show=False)
    elif plot == "bar":
        shap.plots.bar(one, show=False)
    elif plot == "bar of all":
        shap.plots.bar(many, show=False)
    else:
        shap.plots.beeswarm(many, show=False)
    figure = plt.gcf()
    figure.canvas.draw()
    largest = int(np.abs(many.values).mean(axis=0).argmax())
    if plot in ("waterfall", "force", "bar"):
        largest = int(np.abs(one.values).argmax())
    assert any(f"part {largest}" in text for text in texts(figure))


# ----- per-player explanations and errors ------------------------------------------------


@pytest.mark.parametrize("outputs", [0, 10])
def test_explanation_of_players(outputs):
    x = photos(2)
    explainer = PatchKernelShap(Net(outputs), PatchMasker((3, 3)))
    players = explainer.explain_players(x, max_evals=60, silent=True)
    k = () if outputs == 0 else (outputs,)
    assert players.values.shape == players.error_std.shape == (2, 9, *k)
    assert players.base_values.shape == (2, *k)
    means = x.mean(dim=1).reshape(2, 3, 4, 3, 4).mean(dim=(2, 4)).reshape(2, 9)
    assert_close(players.data, means)
    assert players.feature_names[5] == "row 1, column 2"
    total = players.base_values + players.values.sum(axis=1)
    assert_close(total, outputs_of(explainer.model, x))


def test_explanation_of_players_whose_number_differs():
    def parts(image):
        n = 2 if image.mean() < 0.5 else 3
        return np.arange(SIZE)[:, None].repeat(SIZE, 1) * n // SIZE

    x = torch.stack([torch.full((3, SIZE, SIZE), v) for v in (0.25, 0.75)])
    model = Net()
    explainer = PatchKernelShap(model, PatchMasker(parts))
    players = explainer.explain_players(x, max_evals=8, silent=True)
    assert [v.shape for v in players.values] == [(2, 10), (3, 10)]
    assert [v.shape for v in players.error_std] == [(2, 10), (3, 10)]
    np.testing.assert_allclose(players.data[1], [0.75] * 3)
    values = explainer(x, max_evals=8, silent=True).values
    assert_close(values[0, ::6, 0, 0] * 6 * SIZE * 3, players.values[0])
    assert_close(values[1, ::4, 0, 0] * 4 * SIZE * 3, players.values[1])


@pytest.mark.parametrize("outputs", [0, 10])
def test_error_std(outputs):
    x = photos(2)
    explainer = PatchKernelShap(Net(outputs), PatchMasker((3, 3)))
    kwargs = {"silent": True}
    assert explainer(x, max_evals=60, **kwargs).error_std is None
    explanation = explainer(x, max_evals=60, error_bounds=True, **kwargs)
    assert explanation.error_std.shape == explanation.values.shape
    per_player = explainer.explain_players(x, max_evals=60, **kwargs).error_std
    assert per_player.min() > 0
    corners = explanation.error_std[:, ::4, ::4, 0].reshape(per_player.shape)
    assert_close(corners * 48, per_player)
    exact = explainer(x, max_evals=512, error_bounds=True, **kwargs)
    assert (exact.error_std == 0).all()


@pytest.mark.slow
def test_error_std_covers_the_error():
    x = photos(4)
    model = Net()
    exact = PatchKernelShap(model, PatchMasker((3, 3))).explain_players(
        x, max_evals=512, silent=True
    )
    ratios = []
    for seed in range(10):
        explainer = PatchKernelShap(model, PatchMasker((3, 3)), seed=seed)
        estimate = explainer.explain_players(x, max_evals=80, silent=True)
        ratios.append(np.abs(estimate.values - exact.values) / estimate.error_std)
    assert 0.85 < np.mean(np.array(ratios) < 2) <= 1


# ----- shap's own machinery --------------------------------------------------------------


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("names", [None, [f"class {i}" for i in range(10)]], ids=["", "names"])
@pytest.mark.parametrize("outputs", [None, [0, 1], TOP3], ids=["all", "list", "OpChain"])
def test_call_of_the_base_class_gives_the_same(outputs, names):
    x = last(photos(3))
    explainer = PatchKernelShap(Net(), PatchMasker((3, 3)), output_names=names)
    kwargs = {"max_evals": 40, "outputs": outputs, "silent": True, "error_bounds": True}
    ours = explainer(x, **kwargs)
    theirs = shap.Explainer.__call__(explainer, x, **kwargs)
    assert_close(theirs.values, ours.values)
    assert_close(theirs.base_values, ours.base_values)
    assert_close(theirs.error_std, ours.error_std, 1e-4)  # residuals magnify rounding
    np.testing.assert_array_equal(theirs.output_names, ours.output_names)


def test_call_of_the_base_class_for_a_single_output():
    x = last(photos(2))
    explainer = PatchKernelShap(Net(0), PatchMasker((3, 3)))
    ours = explainer(x, max_evals=40, silent=True)
    theirs = shap.Explainer.__call__(explainer, x, max_evals=40, silent=True)
    assert_close(theirs.values, ours.values)
    assert_close(theirs.base_values, ours.base_values)


@pytest.mark.parametrize("max_evals", [40, 512])
def test_logit_link(max_evals):
    class Probabilities(Net):
        def forward(self, x):
            return torch.sigmoid(super().forward(x))

    model, x = Probabilities(3), photos(2)
    masker = PatchMasker((3, 3), 0.5)
    explanation = PatchKernelShap(model, masker, link=shap.links.logit)(
        x, max_evals=max_evals, silent=True
    )
    total = explanation.base_values + explanation.values.sum(axis=(1, 2, 3))
    p = outputs_of(model, x)
    assert_close(total, np.log(p / (1 - p)), 1e-5)
    on_logits = PatchKernelShap(lambda t: torch.logit(model(t)), masker)
    assert_close(explanation.values, on_logits(x, max_evals=max_evals, silent=True).values, 1e-4)


def test_link_follows_the_average_over_backgrounds():
    x = np.random.default_rng(0).random((2, 4, 4, 1))
    explainer = PatchKernelShap(probability, PatchMasker((2, 2), [0.0, 0.8]), link=shap.links.logit)
    base = explainer(x, max_evals=31, silent=True).base_values
    mean = (probability(0 * x) + probability(0 * x + 0.8)) / 2
    assert_close(base, np.log(mean / (1 - mean)), 1e-12)


def tabular(rows):
    return np.stack([np.tanh(rows @ np.arange(1, 6)), rows[:, 0] * rows[:, 1] + rows[:, 4]], 1)


@pytest.mark.slow
@pytest.mark.parametrize("n_backgrounds", [1, 3])
@pytest.mark.parametrize("scalar", [False, True])
def test_rows_agree_with_shap_exact_explainer(n_backgrounds, scalar):
    rng = np.random.default_rng(0)
    rows, background = rng.normal(size=(4, 5)), rng.normal(size=(n_backgrounds, 5))
    model = (lambda r: tabular(r)[:, 0]) if scalar else tabular
    theirs = shap.ExactExplainer(model, shap.maskers.Independent(background))(rows, silent=True)
    explainer = PatchKernelShap(model, background)
    ours = explainer(rows, max_evals=1 + 31 * n_backgrounds, silent=True)
    assert ours.values.shape == ((4, 5) if scalar else (4, 5, 2))
    assert_close(ours.values, theirs.values, 1e-10)
    assert_close(ours.base_values, theirs.base_values, 1e-10)
    np.testing.assert_array_equal(ours.data, rows)
    assert_close(explainer.shap_values(rows, max_evals=1 + 31 * n_backgrounds), ours.values)


# ----- what may not matter ---------------------------------------------------------------


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("max_evals", [80, 512])
@pytest.mark.parametrize(
    # Learning the parameters of the process makes more of rounding.
    ("dtype", "tolerance"),
    [(torch.float64, 1e-7), (torch.float32, 1e-5)],
    ids=str,
)
def test_batch_size_does_not_matter(max_evals, dtype, tolerance):
    explainer = PatchKernelShap(Net().to(dtype), PatchMasker((3, 3), ["mean", 0.5]))
    x = photos(3).to(dtype)
    a, b, c = (
        explainer.explain_players(x, max_evals=max_evals, batch_size=size, silent=True)
        for size in (1, 7, 64)
    )
    assert_close(a.values, c.values, tolerance)
    assert_close(b.values, c.values, tolerance)
    assert_close(a.base_values, c.base_values)


@pytest.mark.parametrize("kind", [PatchKernelShap, InteractionShap])
def test_what_is_explained_beside_an_output_does_not_matter(kind):
    """Not even of forty outputs, of which the sixteen of highest score guide the process."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(9, 40, generator=generator, dtype=torch.float64)

    def model(x):
        patches = x.mean(1).unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4)).flatten(1)
        return torch.softmax(3 * torch.tanh(patches @ weights), dim=1)

    explainer = kind(model, PatchMasker((3, 3)))
    x = torch.rand(2, 3, 12, 12, generator=generator, dtype=torch.float64)
    everything = explainer.explain_players(x, max_evals=100, silent=True)
    order = np.argsort(-everything.base_values - everything.values.sum(1), axis=1)
    for outputs in ([int(order[0, 0])], [int(order[0, 2]), int(order[0, 10])], [int(order[0, -1])]):
        some = explainer.explain_players(x, max_evals=100, outputs=outputs, silent=True)
        assert_close(some.values, everything.values[..., outputs], 1e-9)
        by_captum = kind(model, PatchMasker((3, 3))).attribute(x, target=outputs[0], n_samples=100)
        again = by_captum[:, 0, ::4, ::4].flatten(1)
        assert_close(again, everything.values[..., outputs[0]], 1e-5)


def test_number_of_classes_does_not_matter():
    explainer = PatchKernelShap(Net(), PatchMasker((3, 3)))
    x = photos(2)
    ten = explainer.explain_players(x, max_evals=80, silent=True)
    for k in (0, 9):
        one = explainer.explain_players(x, max_evals=80, outputs=k, silent=True)
        assert_close(one.values[..., 0], ten.values[..., k], 1e-10)
        assert_close(one.error_std[..., 0], ten.error_std[..., k], 1e-10)


@pytest.mark.parametrize("max_evals", [21, 80, 512])
def test_company_does_not_matter(max_evals):
    together, values = Spy(), {}
    kwargs = {"max_evals": max_evals, "batch_size": 7, "silent": True}
    values["together"] = PatchKernelShap(together, PatchMasker((3, 3)))(
        numbered(1, 2, 3), **kwargs
    ).values
    for i in (1, 2, 3):
        alone = Spy()
        explanation = PatchKernelShap(alone, PatchMasker((3, 3)))(numbered(i), **kwargs)
        assert together.coalitions(i) == alone.coalitions(i)
        assert len(alone.coalitions(i)) > 10
        # Rounding of the model differs with its batches, and what is learned from it more.
        assert_close(values["together"][i - 1], explanation.values[0], 1e-8)
    # One sample of coalitions serves all images.
    assert together.coalitions(1) == together.coalitions(3)


def coalitions(seed, sampling="modified_l2"):
    spy = Spy()
    explainer = PatchKernelShap(spy, PatchMasker((3, 3)), seed=seed, sampling=sampling)
    explanation = explainer(numbered(1), max_evals=50, silent=True)
    total = explanation.base_values + explanation.values.sum(axis=(1, 2, 3))
    assert_close(total, spy(numbered(1)), 1e-10)
    return set(spy.coalitions(1))


@pytest.mark.parametrize("sampling", ["modified_l2", "leverage", "kernel"])
def test_seed_chooses_the_coalitions(sampling):
    assert coalitions(3, sampling) == coalitions(3, sampling)
    assert coalitions(3, sampling) != coalitions(4, sampling)


def test_no_seed_draws_fresh_coalitions_every_time():
    assert len({frozenset(coalitions(None)) for _ in range(3)}) > 1


# ----- budget ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_backgrounds", [1, 3])
@pytest.mark.parametrize("max_evals", [2, 3, 10, 77, 200, 600])
def test_budget_is_never_exceeded(max_evals, n_backgrounds):
    spy = Spy()
    background = [0.0, 0.5, 0.25][:n_backgrounds]
    explainer = PatchKernelShap(spy, PatchMasker((3, 3), background))
    if max_evals < 1 + n_backgrounds:
        with pytest.raises(PatchShapError, match="max_evals"):
            explainer(numbered(1), max_evals=max_evals, silent=True)
        assert spy.rows == 0
        return
    explainer(numbered(1), max_evals=max_evals, silent=True)
    assert spy.rows <= max_evals
    # Nor is much of it left unused: at most a pair of coalitions.
    if max_evals <= 1 + 511 * n_backgrounds:
        assert spy.rows > max_evals - 3 * n_backgrounds
    assert explainer.last_run.evaluations.tolist() == [spy.rows]
    assert not explainer.last_run.interrupted


def test_evaluations_of_a_batch():
    spy = Spy()
    explainer = PatchKernelShap(spy, PatchMasker((3, 3), [0.0, 0.5]))
    explainer.explain_players(numbered(1, 2, 3), max_evals=41, batch_size=7, silent=True)
    assert explainer.last_run.evaluations.sum() == spy.rows
    assert explainer.last_run.evaluations.max() <= 41
    assert max(map(len, spy.calls)) <= 7


def test_no_coalition_is_evaluated_twice():
    spy = Spy()
    PatchKernelShap(spy, PatchMasker((3, 3)))(numbered(1), max_evals=300, silent=True)
    assert len(set(spy.coalitions(1))) == len(spy.coalitions(1)) == spy.rows - 1


def test_automatic_budget():
    spy = Spy()
    PatchKernelShap(spy, PatchMasker((2, 2)))(numbered(1), silent=True)
    assert spy.rows == 16
    spy = Spy()
    PatchKernelShap(spy, PatchMasker((6, 6)))(numbered(1), silent=True)
    assert spy.rows == 500


def test_tolerance_stops_early():
    x, model = photos(2), Net()
    masker = PatchMasker((3, 3))
    kwargs = {"max_evals": 300, "outputs": [2], "silent": True}
    reference = PatchKernelShap(model, masker).explain_players(x, **kwargs)
    tolerance = 3 * reference.error_std.max()
    explainer = PatchKernelShap(model, masker, tolerance=tolerance)
    early = explainer.explain_players(x, **kwargs)
    assert explainer.last_run.evaluations.max() < 280
    assert early.error_std.max() <= tolerance
    assert_close(early.base_values + early.values.sum(axis=1), outputs_of(model, x)[:, [2]])
    # Stopping early is the same as asking for that budget.
    spent = explainer.last_run.evaluations
    for i in range(2):
        same = PatchKernelShap(model, masker).explain_players(
            x[i : i + 1], **{**kwargs, "max_evals": int(spent[i])}
        )
        assert_close(same.values[0], early.values[i], 1e-5)


def test_tolerance_out_of_reach_spends_the_budget():
    spy = Spy()
    explainer = PatchKernelShap(spy, PatchMasker((3, 3)), tolerance=1e-12)
    explanation = explainer(numbered(1), max_evals=200, silent=True)
    assert spy.rows == 200
    plain = PatchKernelShap(Spy(), PatchMasker((3, 3)))(numbered(1), max_evals=200, silent=True)
    assert_close(explanation.values, plain.values, 1e-10)


# ----- Ctrl-C and the progress bar -------------------------------------------------------


@pytest.mark.pairwise
@pytest.mark.parametrize("background", [0.0, [0.0, 0.5, 0.25]], ids=["1", "3"])
@pytest.mark.parametrize("breaks_at", [3, 4, 10])
@pytest.mark.parametrize("face", ["call", "players", "captum"])
def test_interrupted(face, breaks_at, background):
    spy, x = Spy(breaks_at=breaks_at), numbered(1, 2)
    explainer = PatchKernelShap(spy, PatchMasker((3, 3), background))
    if face == "captum":
        images = torch.tensor(x)
        as_tensors = PatchKernelShap(
            lambda t: torch.tensor(spy(t.permute(0, 2, 3, 1).numpy())),
            PatchMasker((3, 3), background),
        )
        with pytest.warns(RuntimeWarning, match="Interrupted"):
            attributions = as_tensors.attribute(
                images.permute(0, 3, 1, 2),
                target=1,
                n_samples=300,
                perturbations_per_eval=8,
                return_input_shape=False,
            )
        base = np.stack([e.base_values[0] for e in as_tensors.last_run.estimates])
        total, expected = base + attributions.numpy().sum(axis=1), Spy()(x)[:, 1]
        explainer = as_tensors
    elif face == "players":
        with pytest.warns(RuntimeWarning, match="Interrupted"):
            players = explainer.explain_players(x, max_evals=300, batch_size=16, silent=True)
        total, expected = players.base_values + players.values.sum(axis=1), Spy()(x)
    else:
        with pytest.warns(RuntimeWarning, match="Interrupted"):
            explanation = explainer(x, max_evals=300, batch_size=16, silent=True)
        total, expected = explanation.base_values + explanation.values.sum((1, 2, 3)), Spy()(x)
    assert_close(total, expected)
    assert explainer.last_run.interrupted
    assert explainer.last_run.evaluations.sum() == spy.rows
    # It works on as if nothing had happened.
    spy.breaks_at = None
    again = explainer(
        x if face != "captum" else images.permute(0, 3, 1, 2), max_evals=60, silent=True
    )
    assert not explainer.last_run.interrupted
    assert_close(again.base_values + again.values.sum(axis=(1, 2, 3)), Spy()(x))


def test_interrupted_late_is_the_same_as_a_smaller_budget():
    spy = Spy(breaks_at=10)
    with pytest.warns(RuntimeWarning, match="Interrupted"):
        cut = PatchKernelShap(spy, PatchMasker((3, 3)))(
            numbered(1), max_evals=300, batch_size=16, silent=True
        )
    small = PatchKernelShap(Spy(), PatchMasker((3, 3)))(
        numbered(1), max_evals=spy.rows, silent=True
    )
    assert_close(cut.values, small.values, 1e-10)


@pytest.mark.parametrize("breaks_at", [1, 2])
def test_interrupted_before_anything_is_known(breaks_at):
    explainer = PatchKernelShap(Spy(breaks_at=breaks_at), PatchMasker((3, 3)))
    with pytest.raises(KeyboardInterrupt):
        explainer(numbered(1), max_evals=300, batch_size=16, silent=True)


def test_interrupted_module_gets_its_mode_back():
    model = Net().train()
    calls = []

    def interrupt(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(interrupt)
    with pytest.warns(RuntimeWarning, match="Interrupted"):
        PatchKernelShap(model)(photos(), max_evals=300, silent=True)
    assert all(m.training for m in model.modules())


def test_silent_prints_nothing(capsys, monkeypatch):
    monkeypatch.setattr(shap_face, "bar_delay", ContextVar("bar_delay", default=0.0))
    explainer = PatchKernelShap(Net())
    explainer(photos(), max_evals=60, silent=True)
    explainer.explain_players(photos(), max_evals=60, silent=True)
    explainer.shap_values(photos(), max_evals=60)
    assert capsys.readouterr() == ("", "")


def test_progress_bar(capsys, monkeypatch):
    explainer = PatchKernelShap(Net())
    explainer(photos(), max_evals=60)
    assert capsys.readouterr() == ("", "")  # it appears after ten seconds
    monkeypatch.setattr(shap_face, "bar_delay", ContextVar("bar_delay", default=0.0))
    explainer(photos(), max_evals=60)
    shown = capsys.readouterr()
    assert not shown.out
    assert "PatchKernelShap explainer: 100%" in shown.err


# ----- PatchMasker in shap's own explainers ----------------------------------------------


def image_function(linear, outputs=3):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(SIZE * SIZE * 3, 6)) / 8, rng.normal(size=(6, outputs))

    def predict(x):
        hidden = x.reshape(len(x), -1) @ first
        return (hidden if linear else np.tanh(hidden)) @ second

    return predict


@pytest.mark.slow
@pytest.mark.parametrize("background", [0.5, "blur", ["mean", 0.1]], ids=str)
@pytest.mark.parametrize("grid", [(2, 2), (3, 3)])
def test_shap_exact_explainer_agrees(grid, background):
    predict, x = image_function(linear=False), last(photos(2)).astype(float)
    masker = PatchMasker(grid, background)
    theirs = shap.ExactExplainer(predict, masker)(x, max_evals=2000, silent=True)
    ours = PatchKernelShap(predict, masker).explain_players(x, max_evals=2000, silent=True)
    assert_close(ours.values, theirs.values)
    assert_close(ours.base_values, theirs.base_values)
    assert_close(ours.data, theirs.data)
    assert list(ours.feature_names) == list(theirs.feature_names[0])


SHAP_EXPLAINERS = {
    "permutation": (lambda f, m: shap.PermutationExplainer(f, m, seed=0), None, 500),
    "partition": (shap.PartitionExplainer, "ward", 1000),
}


@pytest.mark.parametrize("linear", [True, False], ids=["linear", "tanh"])
@pytest.mark.parametrize("name", SHAP_EXPLAINERS)
def test_shap_sampling_explainers_run(name, linear):
    build, clustering, max_evals = SHAP_EXPLAINERS[name]
    predict, x = image_function(linear), last(photos(2)).astype(float)
    masker = PatchMasker((3, 3), "mean", clustering=clustering)
    theirs = build(predict, masker)(x, max_evals=max_evals, silent=True)
    assert theirs.values.shape == (2, 9, 3)
    assert_close(theirs.base_values + theirs.values.sum(axis=1), predict(x), 1e-6)
    ours = PatchKernelShap(predict, masker).explain_players(x, max_evals=512, silent=True)
    assert_close(theirs.base_values, ours.base_values)
    # Permutation and Owen values are Shapley values where there are no interactions.
    if linear:
        assert_close(theirs.values, ours.values)
    else:
        assert_close(theirs.values, ours.values, 0.5)


def test_ward_clustering_is_a_linkage_of_neighbours():
    masker = PatchMasker((2, 4), clustering="ward")
    tree = masker.clustering(np.zeros((6, 12, 3)))
    assert tree.shape == (7, 4)
    assert tree[-1, 3] == 8
    halves = sorted(tree[-1, :2])
    leaves = [sorted(_leaves(tree, int(h), 8)) for h in halves]
    assert sorted(leaves) == [[0, 1, 4, 5], [2, 3, 6, 7]]


def _leaves(tree, node, n):
    if node < n:
        return [node]
    return [leaf for child in tree[node - n, :2] for leaf in _leaves(tree, int(child), n)]


@pytest.mark.parametrize(
    ("clustering", "kind"),
    [("ward", shap.PartitionExplainer), (None, shap.PermutationExplainer)],
)
def test_shap_explainer_dispatches(clustering, kind):
    masker = PatchMasker((2, 2), clustering=clustering)
    explainer = shap.Explainer(image_function(linear=True), masker)
    assert type(explainer) is kind
    assert explainer(last(photos(2)), max_evals=50, silent=True).values.shape == (2, 4, 3)


# ----- PatchMasker in Captum's own methods -----------------------------------------------


@pytest.mark.parametrize("background", [0.5, "mean", (0.1, 0.5, 0.9)], ids=str)
def test_captum_methods_run_with_the_masker(background):
    masker = PatchMasker((2, 2), background)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2))
    x = photos(2)
    kwargs = {
        "baselines": masker.baselines(x),
        "feature_mask": masker.feature_mask(x),
        "target": 1,
    }
    assert kwargs["feature_mask"].unique().tolist() == [0, 1, 2, 3]
    ours = PatchKernelShap(model, masker).attribute(x, target=1, n_samples=16)
    # On a linear model all of these are the Shapley values.
    for method in (FeatureAblation, ShapleyValueSampling):
        theirs = method(model).attribute(x, **kwargs)
        torch.testing.assert_close(theirs.detach().expand_as(x), ours, atol=1e-5, rtol=0)
    kwargs["baselines"] = kwargs["baselines"][:1]
    theirs = KernelShap(model).attribute(x[:1], n_samples=100, **kwargs)
    torch.testing.assert_close(theirs, ours[:1], atol=1e-3, rtol=0)


def test_masker_with_several_backgrounds_has_no_captum_baseline():
    with pytest.raises(PatchShapError, match="2 backgrounds"):
        PatchMasker((2, 2), [0.0, "mean"]).baselines(photos())


# ----- bad input -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(3, SIZE, SIZE), r"batch axis.*x\[None\]"),
        (np.zeros((SIZE, SIZE, 3)), r"batch axis.*x\[None\]"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((0, SIZE, SIZE, 3)), "empty batch"),
        (np.zeros((0, 4)), "empty batch"),
        (np.full((1, SIZE, SIZE, 3), np.nan), "NaN"),
        (torch.full((1, 3, SIZE, SIZE), torch.nan), "NaN"),
        (np.zeros((1, SIZE, SIZE, 5)), "channels"),
        (torch.zeros(1, SIZE, SIZE, 3), "channels-first"),
        (np.array([["a", "b"]]), "dtype"),
        (np.zeros((1, SIZE, SIZE, 3), dtype=complex), "dtype"),
    ],
)
@pytest.mark.parametrize("call", ["__call__", "shap_values", "explain_players"])
def test_inputs_that_do_not_fit(call, x, message):
    with pytest.raises(PatchShapError, match=message):
        getattr(PatchKernelShap(Net()), call)(x, silent=True)


@pytest.mark.parametrize("max_evals", [1, 0, -5, 2.5, "many", None, True, np.float64(100)])
@pytest.mark.parametrize("call", ["__call__", "shap_values", "explain_players"])
def test_budgets_that_do_not_fit(call, max_evals):
    spy = Spy()
    with pytest.raises(PatchShapError, match="max_evals"):
        getattr(PatchKernelShap(spy), call)(numbered(1), max_evals=max_evals, silent=True)
    assert spy.rows == 0


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "big", None])
def test_batch_sizes_that_do_not_fit(batch_size):
    with pytest.raises(PatchShapError, match="batch_size"):
        PatchKernelShap(Net())(photos(), batch_size=batch_size, silent=True)


@pytest.mark.parametrize("kwargs", [{"nsamples": 100}, {"main_effects": True}])
def test_unknown_arguments(kwargs):
    with pytest.raises(PatchShapError, match=next(iter(kwargs))):
        PatchKernelShap(Net())(photos(), silent=True, **kwargs)


@pytest.mark.parametrize("n", [0, 2])
def test_wrong_number_of_batches(n):
    with pytest.raises(PatchShapError, match=f"{n} of them"):
        PatchKernelShap(Net())(*[photos()] * n, silent=True)


def test_shap_maskers_are_not_taken_for_ours():
    for masker in (shap.maskers.Image(np.zeros((4, 4, 3))), shap.maskers.Independent(np.eye(3))):
        with pytest.raises(PatchShapError, match="PatchMasker"):
            PatchKernelShap(Net(), masker)


@pytest.mark.parametrize("background", [0.25, "blur", (0.1, 0.2, 0.3), ["mean", 0.5]], ids=str)
def test_background_in_place_of_a_masker(background):
    model, x = Net(), photos(1)
    kwargs = {"max_evals": 60, "silent": True}
    short = PatchKernelShap(model, background)(x, **kwargs)
    long = PatchKernelShap(model, PatchMasker(background=background))(x, **kwargs)
    np.testing.assert_array_equal(short.values, long.values)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model": 3}, "model"),
        ({"model": Net, "sampling": "uniform"}, "sampling"),
        ({"model": Net, "tolerance": 0}, "tolerance"),
        ({"model": Net, "tolerance": -0.1}, "tolerance"),
    ],
)
def test_constructor_arguments_that_do_not_fit(kwargs, message):
    with pytest.raises(PatchShapError, match=message):
        PatchKernelShap(**kwargs)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: np.zeros((len(x), 2, 2)),
        lambda x: np.zeros((3, 2)),
        lambda x: 1.0,
        lambda x: np.full((len(x), 2), np.nan),
        lambda x: np.zeros((len(x), 0)),
    ],
    ids=["rank 3", "rows", "number", "NaN", "no outputs"],
)
def test_models_whose_output_does_not_fit(model):
    with pytest.raises(PatchShapError, match="model"):
        PatchKernelShap(model)(last(photos()), silent=True)


def test_image_plot_draws_as_many_images_as_channels_with_outputs_of_their_own():
    # shap takes names (N, K) for (C, K) where N = C.
    images = np.random.default_rng(0).random((3, 8, 8, 3)).astype(np.float32)
    images[:, 0, 0, 0] = [0.9, 0.1, 0.9]

    def model(x):
        return np.stack([x.mean((1, 2, 3)), x[:, 0, 0, 0], 1 - x[:, 0, 0, 0]], axis=1)

    explainer = PatchKernelShap(model, PatchMasker((2, 2)))
    chosen = shap.Explanation.argsort.flip[:2]
    explanation = explainer(images, outputs=chosen, error_bounds=True, silent=True)
    assert explanation.values.shape == (3, 8, 8, 3, 2)
    assert explanation.error_std.shape == (3, 8, 8, 3, 2)
    assert np.asarray(explanation.output_names).shape == (3, 2)
    shap.image_plot(explanation, show=False)
    plt.close("all")
