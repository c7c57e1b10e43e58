"""Hostile shapes, and the masker under shap's own explainers: right, or refused in words."""

from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import numpy as np
import pytest
import shap
import strategies as hostile
import torch
from oracle import OUTPUT, equal_to, function, judged, tried, truth
from strategies import ANY, Named, named

from xai_patchshap import Explainer, InteractionShap, OwenBPT, PatchKernelShap, PatchMasker

SAMPLED = (PatchKernelShap, OwenBPT, InteractionShap)


def scores(x):
    """Two linear scores of inputs of any shape."""
    x = torch.as_tensor(np.asarray(x)) if not isinstance(x, torch.Tensor) else x
    flat = x.double().reshape(len(x), -1)
    weights = torch.cos(torch.arange(2 * flat.shape[1], dtype=torch.float64)).reshape(2, -1)
    return flat @ weights.T + 1


SHAPES = (
    (), (0,), (1,), (3,), (1, 0), (0, 4), (1, 1), (2, 3), (2, 1), (1, 30), (2, 0, 3), (2, 3, 4),
    (1, 1, 1), (1, 1, 1, 1), (2, 1, 1, 1), (1, 3, 1, 1), (1, 1, 5, 5), (1, 3, 1, 20),
    (1, 3, 20, 1), (2, 5, 4, 4), (1, 4, 4, 4), (1, 2, 6, 6), (1, 3, 3, 3), (3, 3, 3, 3),
    (1, 6, 6, 3), (1, 6, 6, 1), (1, 6, 6, 7), (1, 3, 0, 4), (0, 3, 4, 4), (1, 0, 4, 4),
    (1, 2, 2, 2, 2), (1, 1, 1, 1, 1, 1), (2, 1, 2, 1, 2, 1), (1, 1, 1, 1, 1, 1, 1),
)  # fmt: skip
shapes = st.tuples(
    st.sampled_from(SAMPLED),
    st.sampled_from(("table", "call", "explain_players", "shap_values")),
    st.booleans(),
    st.sampled_from(SHAPES),
)


def shapes_are_explained_or_refused(case):
    kind, face, as_tensor, shape = case
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5
    given = x if as_tensor or face == "table" else x.numpy()

    def question():
        explainer = kind(scores)
        budget = 40
        if face == "table":
            # Values of pairs of elements would take long.
            found = explainer.attribute(
                x, target=OUTPUT, n_samples=budget, perturbations_per_eval=64,
                return_input_shape=False,
            )  # fmt: skip
            return found.double().sum(dim=1).numpy()
        if kind is InteractionShap:
            face_ = explainer.explain_players
        else:
            face_ = explainer if face == "call" else getattr(explainer, face)
        found = face_(given, max_evals=budget, outputs=OUTPUT, silent=True)
        values = np.asarray(getattr(found, "values", found))
        return values.reshape(len(values), -1).sum(axis=1)

    def check(found):
        gap = scores(x) - scores(torch.zeros_like(x))
        equal_to(gap[:, OUTPUT].numpy(), 1e-4)(found)

    return judged(question, check, given)


# ----- the masker itself -------------------------------------------------------------------

IMAGE = hostile.BASE[0].permute(1, 2, 0).float().numpy()
VALUES = truth(PatchKernelShap, hostile.BASE[:1].float().double())[0]

bits = named(
    {
        "bools": [True, False, True, True],
        "array": np.array([True, False, True, True]),
        "whole numbers": [1, 0, 1, 1],
        "floats": [1.0, 0.0, 1.0, 1.0],
        "tensor": torch.tensor([True, False, True, True]),
        "True": True,
        "False": False,
        "np.True_": np.True_,
        "too few": [True],
        "too many": [True] * 5,
        "2-d": [[True, False, True, True]],
        "empty": [],
        "text": "1011",
        "None": None,
        "texts": ["1", "0", "1", "1"],
        "a dict": {},
        "ragged": [[True], [True, False]],
        "objects": np.array([None, 1, 0, 1]),
        "nan": [np.nan, 0, 1, 1],
        "0.5": 0.5,
        "7": 7,
        "-1": -1,
        "object": object(),
        "sparse": torch.tensor([1, 0, 1, 1]).to_sparse(),
        "meta": torch.tensor([1, 0, 1, 1], device="meta"),
        "complex": [1j, 0, 1, 1],
    }
)
rows = st.sampled_from(
    [
        Named("array", IMAGE),
        Named("double", IMAGE.astype(np.float64)),
        Named("bytes", (255 * IMAGE).astype(np.uint8)),
        Named("big-endian", IMAGE.astype(">f4")),
        Named("flipped", IMAGE[::-1]),
        Named("tensor", torch.from_numpy(IMAGE).permute(2, 0, 1)),
        Named("bfloat16", torch.from_numpy(IMAGE).permute(2, 0, 1).bfloat16()),
        Named("a list", IMAGE.tolist()),
        Named("2-d", IMAGE[0]),
        Named("0-d", np.float32(1)),
        Named("4-d", IMAGE[None]),
        Named("empty", IMAGE[:0]),
        Named("None", None),
        Named("text", "image.png"),
        Named("complex", IMAGE * 1j),
        Named("objects", IMAGE.astype(object)),
        Named("sparse", torch.from_numpy(IMAGE).to_sparse()),
        Named("meta", torch.from_numpy(IMAGE).to("meta")),
        Named("NaN", IMAGE * np.nan),
        Named("a dict", {}),
        Named("5 channels", np.ones((8, 8, 5), np.float32)),
    ]
)
methods = st.sampled_from(
    ("__call__", "shape", "mask_shapes", "feature_names", "data_transform", "feature_mask",
     "baselines", "clustering")
)  # fmt: skip
direct = st.tuples(methods, st.sampled_from(("bpt", "axis", "ward")), bits, rows)


def maskers_mask_or_refuse(case):
    method, clustering, coalition, row = case
    x = row.value
    if method in ("feature_mask", "baselines") and isinstance(x, np.ndarray | torch.Tensor):
        x = x[None]
    masker = PatchMasker((2, 2), 0.5, clustering=clustering)

    def question():
        function_ = getattr(masker, method)
        return function_(coalition.value, x) if method == "__call__" else function_(x)

    def check(found):
        if method == "__call__" and coalition.name == "bools" and row.name == "array":
            quarters = np.kron([[1, 0], [1, 1]], np.ones((4, 4)))[..., None]
            np.testing.assert_array_equal(found[0][0], np.where(quarters, IMAGE, 0.5))

    return judged(question, check, (x, coalition.value))


NAMES = ("exact", "permutation", "partition", "kernel-shap", "patch_kernel_shap", "owen_bpt",
         "auto", "interaction_shap", "vit_shapley_amortized", "no-such", "", 3, None)  # fmt: skip
dispatched = st.tuples(
    st.sampled_from(NAMES),
    st.sampled_from((None, "bpt", "axis", "ward", "no-such", 3, np.zeros((3, 4)), np.zeros(3))),
    st.sampled_from((16, 64, "auto", 1, 0, -1, "many", 2.5, None, True)),
)


@contextlib.contextmanager
def restored():
    before = np.random.get_state()  # noqa: NPY002
    yield
    np.random.set_state(before)  # noqa: NPY002


def algorithms_are_found_or_refused(case):
    name, clustering, budget = case
    if name == "partition" and clustering is None:
        clustering = "bpt"  # which shap's own explainer asks for
    if name == "exact" and isinstance(clustering, str):
        clustering = None  # it takes no function

    def question():
        # shap's own explainers draw from numpy's global state.
        with restored():
            return asked()

    def asked():
        masker = PatchMasker((2, 2), 1.0, clustering=clustering)
        options = {} if name is None else {"algorithm": name}
        explainer = Explainer(function, masker, **options)
        if budget is None:
            return explainer
        ours = isinstance(explainer, SAMPLED)
        if not ours and budget not in (64, "auto"):
            return explainer  # budgets of shap's own explainers are shap's own
        options = {"silent": True, "max_evals": 500 if budget == 64 and not ours else budget}
        return explainer(IMAGE[None], **options)

    def check(found):
        if isinstance(found, shap.Explainer):
            return
        values = np.asarray(found.values)[0]
        total = values.reshape(-1, values.shape[-1]).sum(axis=0)
        equal_to(VALUES.sum(axis=0), 1e-3)(total)

    return judged(question, check, IMAGE, may=ANY)


CASES = {
    "shapes": (shapes, shapes_are_explained_or_refused),
    "maskers": (direct, maskers_mask_or_refuse),
    "algorithms": (dispatched, algorithms_are_found_or_refused),
}


@pytest.mark.parametrize("name", CASES)
def test_some_of_each(name):
    assert sum(tried(*CASES[name], 25).values()) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_of_each(name):
    assert sum(tried(*CASES[name], 300).values()) >= 150
