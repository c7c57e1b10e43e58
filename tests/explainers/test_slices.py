"""Explanations are cut like any of shap's, whatever sizes coincide."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import shap

from xai_patchshap import InteractionShap, OwenBPT, PatchKernelShap, PatchMasker, PatchShapError

TOP2 = shap.Explanation.argsort.flip[:2]


def model(z):
    """Three scores: the mean of three bands of rows."""
    return np.stack(
        [z[:, :4].mean((1, 2, 3)), z[:, 4:8].mean((1, 2, 3)), z[:, 8:].mean((1, 2, 3))], 1
    )


def explained(kind, n, channels, players=(2, 2), method="__call__", **options):
    x = np.random.default_rng(n).random((n, 12, 12, channels))
    explainer = kind(model, PatchMasker(players), output_names=["top", "middle", "bottom"])
    return getattr(explainer, method)(x, max_evals=16, silent=True, outputs=TOP2, **options)


@pytest.mark.parametrize(("n", "channels"), itertools.product((1, 2, 3, 4), (1, 3, 4)))
@pytest.mark.parametrize("kind", [PatchKernelShap, OwenBPT])
def test_any_number_of_images_and_channels(kind, n, channels):
    e = explained(kind, n, channels, error_bounds=True)
    v, names = np.asarray(e.values), np.asarray(e.output_names)
    assert names.ndim == (2 if n > 1 else 1)
    assert np.asarray(e.error_std).shape == v.shape
    pairs = {
        "[0]": (e[0], v[0]),
        "[-1]": (e[-1], v[-1]),
        "[0:1]": (e[0:1], v[0:1]),
        "[:]": (e[:], v),
        "[:-1]": (e[: max(1, n - 1)], v[: max(1, n - 1)]),
        "[..., 0]": (e[..., 0], v[..., 0]),
        "[0][..., 1]": (e[0][..., 1], v[0, ..., 1]),
        "[0:1][0]": (e[0:1][0], v[0]),
        "[[0]]": (e[np.array([0])], v[:1]),
        "copy": (copy.copy(e)[0], v[0]),
        "deepcopy": (copy.deepcopy(e)[0], v[0]),
        "pickle": (pickle.loads(pickle.dumps(e))[0], v[0]),
        "abs": (e.abs[0], abs(v[0])),
        "twice": ((e * 2)[0], 2 * v[0]),
    }
    for what, (cut, expected) in pairs.items():
        assert np.array_equal(np.asarray(cut.values), expected), what
    own = e[0]
    assert list(own.output_names) == list(names[0] if names.ndim == 2 else names)
    assert np.array_equal(own.base_values, np.asarray(e.base_values)[0])
    assert np.array_equal(own.data, np.asarray(e.data)[0])
    assert np.array_equal(e[..., 1].base_values, np.asarray(e.base_values)[:, 1])
    assert np.array_equal(e[0].error_std, np.asarray(e.error_std)[0])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_any_number_of_images_and_players(n):
    for e in (
        explained(PatchKernelShap, n, 3, method="explain_players"),
        explained(InteractionShap, n, 3),
    ):
        v = np.asarray(e.values)
        assert np.array_equal(e[0].values, v[0])
        assert np.array_equal(e[0:1].values, v[:1])
        assert np.array_equal(e[..., 0].values, v[..., 0])
        assert np.array_equal(e[0, ..., 1].base_values, np.asarray(e.base_values)[0, 1])
        assert e[0].feature_names == [f"row {i}, column {j}" for i in (0, 1) for j in (0, 1)]


def test_an_output_by_its_name():
    e = explained(PatchKernelShap, 3, 3)
    names = np.asarray(e.output_names)
    for name in np.unique(names):
        images, places = np.nonzero(names == name)
        one = e[..., str(name)]
        assert np.array_equal(one.values, e.values[images, ..., places])
        assert np.array_equal(one.base_values, np.asarray(e.base_values)[images, places])
        assert np.array_equal(one.data, np.asarray(e.data)[images])
    with pytest.raises(PatchShapError, match="output: got 'left'; expected the name of an"):
        e[..., "left"]


def test_a_cut_explanation_is_drawn():
    import matplotlib.pyplot as plt

    e = explained(PatchKernelShap, 3, 3)
    for cut in (e, e[0:2], e[1:]):
        shap.image_plot(cut, show=False)
        plt.close("all")
    shap.plots.waterfall(
        explained(PatchKernelShap, 4, 3, method="explain_players")[0, :, 0], show=False
    )
    plt.close("all")
