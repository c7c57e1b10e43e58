"""OwenBPT from call to call: warm starts, interruptions, files, wrong arguments."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import pytest
import shap
import torch
from captum.attr import NoiseTunnel
from torch import nn

from xai_patchshap import OwenBPT, PatchMasker, PatchShapError


class Net(nn.Module):
    def __init__(self, outputs=6, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, outputs)
        self.double()
        self.rows, self.fails_after = 0, None

    def forward(self, x):
        if self.fails_after is not None and self.rows >= self.fails_after[0]:
            raise self.fails_after[1]
        self.rows += len(x)
        return self.head(torch.tanh(5 * torch.tanh(3 * self.conv(x)).mean((2, 3))))


X = torch.rand(2, 3, 7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def values_of(explainer, x, face, budget, outputs=(0, 3)):
    if face == "captum":
        return explainer.attribute(x, target=outputs[-1], n_samples=budget).numpy()
    return explainer(x, max_evals=budget, outputs=list(outputs), silent=True).values


# ----- warm start ------------------------------------------------------------------------


@pytest.mark.pairwise
@pytest.mark.parametrize("face", ["captum", "shap"])
@pytest.mark.parametrize("background", [0.0, [0.1, "mean", "blur"]], ids=["one", "three"])
@pytest.mark.parametrize("options", [{}, {"hierarchy": "axis", "n_trees": 3}, {"n_trees": 1}])
def test_a_warm_start_ends_where_a_cold_one_does(face, background, options):
    masker = PatchMasker(background=background)
    warm = OwenBPT(Net(), masker, warm_start=True, **options)
    n_backgrounds = 1 if background == 0.0 else 3
    total = 0
    for budget in (30, 60, 61, 120, 250):
        cold = OwenBPT(Net(), masker, **options)
        expected = values_of(cold, X, face, budget)
        before = warm.model.rows
        np.testing.assert_array_equal(values_of(warm, X, face, budget), expected)
        # What is new: the full image once more, and the difference.
        total += warm.last_run.evaluations[0] - 1
        assert warm.model.rows - before == warm.last_run.evaluations.sum()
        assert total == cold.last_run.evaluations[0] - 1
        coalitions = 1 + (budget - 1) // n_backgrounds
        assert total == n_backgrounds * (coalitions - coalitions % 2 - 1)
        for one, other in zip(warm.last_run.estimates, cold.last_run.estimates, strict=True):
            np.testing.assert_array_equal(one.error_std, other.error_std)
        assert [t.children.tolist() for ts in warm.trees for t in ts] == [
            t.children.tolist() for ts in cold.trees for t in ts
        ]
    # With no more to spend, nothing but the full image is evaluated.
    before = warm.model.rows
    again = values_of(warm, X, face, 40)
    assert warm.model.rows - before == 2
    np.testing.assert_array_equal(again, expected)


def test_without_a_warm_start_nothing_is_kept():
    explainer = OwenBPT(Net())
    for budget in (30, 60):
        explainer(X, max_evals=budget, silent=True)
        assert explainer.last_run.evaluations.tolist() == [budget] * 2


def changed(what):
    """A warm explainer and a call whose ``what`` differs from the call before it."""
    x, mask = X, torch.arange(42).reshape(7, 6) // 2
    arguments = {"target": 0, "n_samples": 60, "feature_mask": mask, "baselines": 0.0}
    explainer = OwenBPT(Net(), warm_start=True)
    explainer.attribute(x, **arguments)
    if what == "image":
        x = X.clone()
        x[:, 0, 0, 0] += 0.01
    elif what == "one image":
        x = X.clone()
        x[1] = 1 - x[1]
    elif what == "size":
        x, arguments["feature_mask"] = X[:, :, :6], mask[:6]
    elif what == "background":
        arguments["baselines"] = 0.1
    elif what == "backgrounds":
        arguments["baselines"] = X * 0.1
    elif what == "target":
        arguments["target"] = 4
    elif what == "players":
        arguments["feature_mask"] = torch.arange(42).reshape(7, 6) // 3
    elif what == "players of the same number":
        arguments["feature_mask"] = 20 - mask
    elif what == "model":
        explainer.model = Net(seed=5)
    elif what == "dtype":
        x = X.float()
        explainer.model = lambda t, model=explainer.model: model(t.double())
    elif what == "number":
        x = X[1:]
    return explainer, x, arguments


@pytest.mark.parametrize(
    "what",
    [
        "image",
        "one image",
        "size",
        "background",
        "backgrounds",
        "target",
        "players",
        "players of the same number",
        "model",
        "dtype",
        "number",
    ],
)
def test_what_has_changed_starts_afresh(what):
    explainer, x, arguments = changed(what)
    values = explainer.attribute(x, **arguments)
    expected = OwenBPT(explainer.model).attribute(x, **arguments)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)  # batches round differently
    if what == "one image":
        assert explainer.last_run.evaluations.tolist() == [1, 60]
    else:
        assert explainer.last_run.evaluations.tolist() == [60] * len(x)


def test_explained_outputs_that_have_changed_start_afresh():
    explainer = OwenBPT(Net(), warm_start=True)
    explainer(X, max_evals=60, outputs=[0, 1], silent=True)
    values = explainer(X, max_evals=60, outputs=[0, 2], silent=True).values
    assert explainer.last_run.evaluations.tolist() == [60, 60]
    np.testing.assert_array_equal(values, values_of(OwenBPT(Net()), X, "shap", 60, (0, 2)))


def tied(x):
    """Two outputs that agree on X and on no masked copy of it, and a third."""
    whole = (x.sum((1, 2, 3)) - X.sum((1, 2, 3))[0]).abs() < 1e-9
    one, other = (x[:, :, r, c].sum(1) for r, c in ((0, 0), (6, 5)))
    return torch.stack([torch.where(whole, 1.0, one), torch.where(whole, 1.0, other)], dim=1)


@pytest.mark.parametrize("face", ["captum", "shap"])
def test_outputs_of_equal_value_are_not_mistaken_for_each_other(face):
    explainer = OwenBPT(tied, warm_start=True)
    values_of(explainer, X[:1], face, 60, (0,))
    values = values_of(explainer, X[:1], face, 60, (1,))
    np.testing.assert_array_equal(values, values_of(OwenBPT(tied), X[:1], face, 60, (1,)))


@pytest.mark.parametrize("error", [OSError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("warm_start", [False, True])
def test_after_an_error_the_next_call_works(error, warm_start):
    model = Net()
    explainer = OwenBPT(model, warm_start=warm_start)
    explainer(X, max_evals=30, silent=True)
    model.fails_after = (model.rows + 20, error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an interruption may give a result
        with contextlib.suppress(OSError, KeyboardInterrupt):
            explainer(X, max_evals=200, silent=True, batch_size=4)
    model.fails_after = None
    values = explainer(X, max_evals=100, silent=True).values
    np.testing.assert_allclose(values, OwenBPT(Net())(X, max_evals=100, silent=True).values)


def test_an_interruption_keeps_what_is_known():
    # In the second batch of a round.
    model = Net()
    explainer = OwenBPT(model)
    model.fails_after = (2 + 2 + 2 * 2 + 8, KeyboardInterrupt())
    with pytest.warns(RuntimeWarning, match="Interrupted after"):
        explanation = explainer(X, max_evals=200, batch_size=4, silent=True)
    assert explainer.last_run.interrupted
    assert (explainer.last_run.evaluations < 20).all()
    with torch.no_grad():
        gap = Net()(X) - Net()(torch.zeros_like(X))
    np.testing.assert_allclose(explanation.values.sum((1, 2, 3)), gap, atol=1e-12)


def test_an_interruption_between_rounds_keeps_what_is_known():
    model = Net()
    explainer = OwenBPT(model)
    model.fails_after = (60, KeyboardInterrupt())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            explainer(X, max_evals=200, batch_size=64, silent=True)
        except KeyboardInterrupt:  # would end the tests
            pytest.fail("nothing was kept")
    assert explainer.last_run.interrupted


# ----- other users -----------------------------------------------------------------------


def test_noise_tunnel():
    explainer = OwenBPT(Net())
    tunnel = NoiseTunnel(explainer)
    arguments = {"nt_type": "smoothgrad", "nt_samples": 3, "target": [1, 4], "n_samples": 30}
    still = tunnel.attribute(X, stdevs=0.0, **arguments)
    plain = explainer.attribute(X, target=[1, 4], n_samples=30)
    np.testing.assert_allclose(still, plain, atol=1e-12)
    noisy = tunnel.attribute(X, stdevs=0.2, **arguments)
    assert noisy.shape == X.shape
    assert (noisy - plain).abs().max() > 1e-6


def test_a_float32_model_of_any_batch_size():
    model, x = Net().float(), X.float()
    first = OwenBPT(model).attribute(x, target=1, n_samples=200)
    assert first.dtype == torch.float32
    for per_eval in (7, 64):
        again = OwenBPT(model).attribute(
            x, target=1, n_samples=200, perturbations_per_eval=per_eval
        )
        np.testing.assert_allclose(again, first, atol=1e-6)


def test_a_link_is_applied():
    def probabilities(x):
        return torch.softmax(Net()(x), dim=1)

    logits = OwenBPT(probabilities, link=shap.links.logit)(X, max_evals=40, silent=True)
    p, q = (probabilities(t).detach() for t in (X, torch.zeros_like(X)))
    gap = torch.logit(p) - torch.logit(q)
    np.testing.assert_allclose(logits.values.sum((1, 2, 3)), gap, atol=1e-10)


def test_a_batch_that_returns_one_value_plays_with_a_linkage():
    chain = [[0, 1], [3, 2]]
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    attributions = OwenBPT(lambda t: t.sum(), hierarchy=chain).attribute(x, n_samples=8)
    np.testing.assert_allclose(attributions, [[5.0, 7.0, 9.0]])


def round_trip(thing):
    stream = io.BytesIO()
    thing.save(stream)
    stream.seek(0)
    return type(thing).load(stream)


LINKAGE = np.array([[0.0, 1, 1, 2], [2, 3, 2, 2], [4, 5, 3, 4]])


@pytest.mark.parametrize(
    "options",
    [
        {"hierarchy": ["axis", LINKAGE], "n_guides": 2, "warm_start": True, "seed": 4},
        {"hierarchy": LINKAGE.tolist(), "output_names": list("abcdef")},
        {"n_trees": 3, "compactness": 0.5, "seed": 7},
    ],
    ids=["list", "linkage", "trees"],
)
def test_save_and_load(options, capsys):
    explainer = OwenBPT(Net(), PatchMasker((2, 2), "mean"), **options)
    loaded = round_trip(explainer)
    assert type(loaded) is OwenBPT
    for name, value in options.items():
        np.testing.assert_equal(getattr(loaded, name), value)
    before, after = (e(X, max_evals=14, silent=True) for e in (explainer, loaded))
    np.testing.assert_array_equal(after.values, before.values)
    assert after.output_names == before.output_names
    assert [t.children.tolist() for t in loaded.trees[1]] == [
        t.children.tolist() for t in explainer.trees[1]
    ]


def test_an_explainer_without_a_masker_is_still_one_after_loading(capsys):
    explainer = OwenBPT(Net(), compactness=0.0)
    loaded = round_trip(explainer)
    arguments = {"target": 0, "n_samples": 40, "baselines": 0.2}
    np.testing.assert_array_equal(
        loaded.attribute(X, **arguments), explainer.attribute(X, **arguments)
    )


@pytest.mark.parametrize("kind", ["bpt", "axis"])
def test_a_masker_with_a_clustering_is_saved(kind, capsys):
    masker = PatchMasker((2, 3), clustering=kind)
    image = X[0].permute(1, 2, 0).numpy()
    loaded = round_trip(masker)
    np.testing.assert_array_equal(loaded.clustering(image), masker.clustering(image))


# ----- wrong arguments -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hierarchy": "tree"}, r"hierarchy: got 'tree'; expected one of \('bpt', 'axis'\)"),
        ({"hierarchy": ["bpt", "ward"]}, "hierarchy: got 'ward'; expected one of"),
        ({"hierarchy": []}, "hierarchy: got an empty list; expected at least one tree"),
        ({"hierarchy": None}, r"hierarchy: got a linkage of shape \(\); expected shape"),
        ({"hierarchy": np.zeros((3, 3))}, r"hierarchy: got a linkage of shape \(3, 3\)"),
        ({"hierarchy": ["bpt", [[0, 0]]]}, "hierarchy: got a linkage that joins node 0 twice"),
        ({"hierarchy": [[0, 5]]}, "hierarchy: got a linkage that joins unknown nodes"),
        ({"n_trees": 0}, "n_trees: got 0; expected a whole number of at least 1"),
        ({"n_trees": 1.5}, "n_trees: got 1.5; expected a whole number"),
        ({"n_trees": True}, "n_trees: got True; expected a whole number"),
        ({"n_guides": 0}, "n_guides: got 0; expected a whole number of at least 1"),
        ({"n_guides": None}, "n_guides: got None; expected a whole number"),
        ({"compactness": -1}, "compactness: got -1; expected a finite number of at"),
        (
            {"compactness": float("nan")},
            "compactness: got nan; expected a finite number of at",
        ),
        (
            {"compactness": float("inf")},
            "compactness: got inf; expected a finite number of at",
        ),
        ({"seed": -1}, "seed: got -1; expected a whole number"),
        ({"masker": shap.maskers.Image(0, (7, 6, 3))}, r"masker: got shap\.maskers\.Image"),
    ],
)
def test_arguments_of_the_constructor(options, message):
    with pytest.raises(PatchShapError, match=message):
        OwenBPT(Net(), **options)


@pytest.mark.parametrize("budget", [1, 0, -3, 10.0, True, "many", None])
def test_budgets_that_do_not_fit(budget):
    model = Net()
    with pytest.raises(PatchShapError, match=r"max_evals: got .*; expected a whole number of at"):
        OwenBPT(model)(X, max_evals=budget, silent=True)
    with pytest.raises(PatchShapError, match=r"n_samples: got .*; expected a whole number of at"):
        OwenBPT(model).attribute(X, target=0, n_samples=budget)
    three = PatchMasker(background=[0.0, 0.5, 1.0])
    with pytest.raises(PatchShapError, match=r"max_evals: got 3; .* at least 4 evaluations"):
        OwenBPT(model, three)(X, max_evals=3, silent=True)
    assert model.rows == 0


def test_a_linkage_of_another_size():
    for call in (
        lambda e: e(X, max_evals=10, silent=True),
        lambda e: e.attribute(X, target=0, n_samples=10),
    ):
        with pytest.raises(
            PatchShapError, match="hierarchy: got a linkage of 4 leaves; expected 42, the players"
        ):
            call(OwenBPT(Net(), hierarchy=["bpt", LINKAGE]))


@pytest.mark.parametrize("kind", ["bpt", "axis"])
def test_trees_of_images_need_images(kind):
    message = f"hierarchy: got '{kind}' for inputs or players that are not one image .* linkage"
    explainer = OwenBPT(nn.Flatten(), hierarchy=kind)
    with pytest.raises(PatchShapError, match=message):
        explainer(np.zeros((2, 5)), silent=True)
    with pytest.raises(PatchShapError, match=message):
        explainer.attribute(torch.zeros(2, 5), target=0)
    with pytest.raises(PatchShapError, match=message):
        explainer.attribute(X, target=0, feature_mask=torch.arange(126).reshape(1, 3, 7, 6))
    with pytest.raises(PatchShapError, match=message):
        OwenBPT(lambda a, b: a.sum((1, 2, 3)), hierarchy=kind).attribute((X, X))


def test_other_clusterings_are_refused():
    with pytest.raises(PatchShapError, match="clustering: got 'tree'; expected 'bpt', 'axis'"):
        PatchMasker(clustering="tree")
    with pytest.raises(PatchShapError, match=r"clustering: got 'bpt' for an input of shape \(5,\)"):
        PatchMasker(clustering="bpt").clustering(np.zeros(5))


class Extremes(torch.nn.Module):
    """The mean, and two outputs that are 0 or 1, or not finite."""

    def __init__(self, odd):
        super().__init__()
        self.odd = odd

    def forward(self, x):
        mean = x.mean((1, 2, 3)).double()
        return torch.stack([0.25 + mean / 4, torch.full_like(mean, self.odd)], dim=1)


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_outputs_that_are_not_finite_steer_nothing(odd):
    x = torch.rand(1, 3, 4, 4)
    clean = OwenBPT(Extremes(0.0)).attribute(x, target=0, n_samples=40)
    np.testing.assert_array_equal(
        OwenBPT(Extremes(odd)).attribute(x, target=0, n_samples=40), clean
    )


def test_a_link_need_not_be_defined_for_outputs_that_only_steer():
    x = torch.rand(1, 3, 4, 4)
    explainer = OwenBPT(Extremes(1.0), link=shap.links.logit)
    explainer.attribute(x, target=0, n_samples=40)
    assert np.isfinite(explainer.last_run.estimates[0].values).all()


def test_settings_that_are_changed_later_take_effect():
    x = torch.rand(1, 3, 4, 4)
    explainer = OwenBPT(Net(), n_trees=1)
    explainer.attribute(x, target=0, n_samples=10)
    first = explainer.trees[0][0]
    explainer.hierarchy = "axis"
    explainer.attribute(x, target=0, n_samples=10)
    assert not np.array_equal(explainer.trees[0][0].children, first.children)


def test_a_tree_can_be_given_back():
    x = torch.rand(1, 3, 4, 4)
    grown = OwenBPT(Net(), n_trees=1)
    expected = grown.attribute(x, target=0, n_samples=40)
    again = OwenBPT(Net(), hierarchy=grown.trees[0][0]).attribute(x, target=0, n_samples=40)
    np.testing.assert_array_equal(again, expected)


def test_a_warm_start_that_is_turned_off_starts_anew():
    x = torch.rand(1, 3, 6, 6)
    explainer = OwenBPT(Net(), warm_start=True)
    explainer.attribute(x, target=0, n_samples=200)
    explainer.warm_start = False
    explainer.attribute(x, target=0, n_samples=50)
    assert explainer.last_run.estimates[0].n_coalitions <= 50


def test_a_tree_that_does_not_fit_is_refused_before_the_background_is_evaluated():
    calls = []

    def model(x):
        calls.append(len(x))
        return x.mean((1, 2, 3))

    explainer = OwenBPT(model, PatchMasker(background=[0.0, 1.0]), hierarchy=[[0, 1, 1.0, 2]])
    with pytest.raises(PatchShapError, match="a linkage of 2 leaves; expected 16, the players"):
        explainer(torch.rand(1, 3, 4, 4), max_evals=50, silent=True)
    assert calls == [1]  # the full image, which also checks the model's output


def test_a_link_need_not_be_defined_for_outputs_that_are_not_asked_for():
    explainer = OwenBPT(Extremes(0.0), link=shap.links.logit)
    explanation = explainer(torch.rand(1, 3, 4, 4), outputs=[0], max_evals=20, silent=True)
    assert np.isfinite(explanation.values).all()


def test_half_precision_images_have_a_tree():
    x = torch.rand(1, 3, 4, 4).bfloat16()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)).bfloat16()
    assert OwenBPT(model).attribute(x, target=0, n_samples=10).shape == x.shape
