"""Every wrong argument gets its own message, and the model is not asked in vain."""

from __future__ import annotations

import numpy as np
import pytest
import shap
import torch

from xai_patchshap import PatchKernelShap, PatchMasker, PatchShapError

X = torch.rand(2, 3, 8, 8)
MASK = torch.zeros(8, 8, dtype=torch.long)


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, *_):
        self.calls += 1
        return x.flatten(1)[:, :4]


@pytest.mark.parametrize(
    ("inputs", "arguments", "message"),
    [
        (np.zeros((2, 3)), {}, "inputs: got an object of type ndarray; expected a torch.Tensor"),
        (torch.tensor(1.0), {}, r"inputs: got a tensor without axes; expected a batch \(N, ...\)"),
        (X[:0], {}, r"inputs: got an empty batch of shape \(0, 3, 8, 8\)"),
        (torch.zeros(2, 0), {}, "inputs: got no elements"),
        (X * float("nan"), {}, "inputs: got NaN; expected numbers"),
        ((X, X[:1]), {}, r"inputs\[1\]: got 1 examples; expected 2 like inputs\[0\]"),
        (X, {"feature_mask": MASK[:7]}, r"feature_mask: got shape \(7, 8\); expected the shape"),
        (X, {"feature_mask": MASK.expand(3, 1, 8, 8)}, r"feature_mask: got shape \(3, 1, 8, 8\)"),
        (X, {"feature_mask": MASK + 10**12}, "feature_mask: got the id 1000000000000"),
        (X, {"feature_mask": MASK - 1}, "feature_mask: got the negative id -1"),
        (
            X,
            {"feature_mask": MASK + 0.5},
            "feature_mask: got a mask of dtype float32; expected whole",
        ),
        (X, {"feature_mask": (MASK, MASK)}, "feature_mask: got 2 masks; expected 1"),
        (X, {"feature_mask": [["a"]]}, "feature_mask: got dtype <U1; expected real numbers"),
        (
            X,
            {"baselines": X[:, :2]},
            r"baselines: got shape \(2, 2, 8, 8\); expected \(2, 3, 8, 8\)",
        ),
        (X, {"baselines": (0, 0)}, "baselines: got 2 of them; expected 1"),
        (X, {"baselines": "mean"}, "baselines: got dtype <U4; expected real numbers"),
        (X, {"baselines": X * float("nan")}, "baselines: got NaN"),
        (
            X,
            {"n_samples": 1},
            "n_samples: got 1; expected a whole number of at least 2",
        ),
        (X, {"n_samples": 10.0}, "n_samples: got 10.0; expected a whole number"),
        (X, {"perturbations_per_eval": 1.5}, "perturbations_per_eval: got 1.5; expected a whole"),
        (
            X,
            {"perturbations_per_eval": 0},
            "perturbations_per_eval: got 0; expected a whole number",
        ),
    ],
)
def test_captums_face_checks_before_it_calls_the_model(inputs, arguments, message):
    model = Counting()
    with pytest.raises(PatchShapError, match=message):
        PatchKernelShap(model).attribute(inputs, **{"target": 0, **arguments})
    assert model.calls == 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (4, r"target: got 4 for an output of shape \(2, 4\); expected indices within"),
        ([0, 9], r"target: got \[0, 9\]"),
        ([0, 1, 2], r"target: got \[0, 1, 2\]"),
        (torch.tensor([0, 1, 2]), "target: got tensor"),
        ((0, 0), r"target: got \(0, 0\)"),
        ("cat", "target: got 'cat'"),
        (
            None,
            r"got an output of shape \(2, 4\) for 2 examples; expected one value per .*target=0",
        ),
    ],
)
def test_a_target_that_does_not_fit_costs_one_call(target, message):
    model = Counting()
    with pytest.raises(PatchShapError, match=message):
        PatchKernelShap(model).attribute(X, target=target, n_samples=20)
    assert model.calls == 1


def test_a_target_for_a_model_that_returns_a_number():
    message = r"target: got 0 for an output of shape \(\); .* leave target= out"
    with pytest.raises(PatchShapError, match=message):
        PatchKernelShap(lambda x: float(x.sum())).attribute(X, target=0)


def test_a_value_per_batch_needs_one_perturbation_per_eval():
    with pytest.raises(
        PatchShapError, match="perturbations_per_eval: got 2; expected 1 for a forward"
    ):
        PatchKernelShap(lambda x: x.sum()).attribute(X, perturbations_per_eval=2)


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        (
            X[0],
            {},
            r"images: got shape \(3, 8, 8\); expected a batch.*needs a batch axis: x\[None\]",
        ),
        (torch.zeros(2, 3, 4, 5, 6), {}, r"images: got shape \(2, 3, 4, 5, 6\)"),
        (X[:0], {}, r"images: got an empty batch of shape \(0, 3, 8, 8\)"),
        (X.numpy() * np.nan, {}, "images: got NaN"),
        (np.array([["a"]]), {}, "images: got dtype <U1; expected real numbers"),
        (X, {"max_evals": 1}, "max_evals: got 1; expected a whole number of at least 2"),
        (X, {"max_evals": "many"}, "max_evals: got 'many'; expected a whole number"),
        (X, {"batch_size": 0}, "batch_size: got 0; expected a whole number of at least 1"),
        (X, {"batch_size": True}, "batch_size: got True"),
        (X, {"main_effects": True}, "arguments: got main_effects"),
        (X, {"fixed_context": 1}, "arguments: got fixed_context"),
    ],
)
def test_shaps_face_checks_before_it_calls_the_model(images, arguments, message):
    model = Counting()
    with pytest.raises(PatchShapError, match=message):
        PatchKernelShap(model)(images, silent=True, **arguments)
    assert model.calls == 0


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([0, 4], "outputs: got indices from 0 to 4; expected 0 to 3"),
        ([], "outputs: got"),
        (
            np.zeros((3, 1), int),
            r"expected an index, a list of indices, or integers of shape \(2, k\)",
        ),
        ([0.5], r"outputs: got \[0.5\]"),
    ],
)
def test_outputs_that_do_not_fit(outputs, message):
    with pytest.raises(PatchShapError, match=message):
        PatchKernelShap(Counting())(X, outputs=outputs, max_evals=20, silent=True)


def test_a_budget_too_small_for_its_backgrounds():
    explainer = PatchKernelShap(Counting(), PatchMasker(background=[0.0, 0.5, 1.0]))
    with pytest.raises(
        PatchShapError, match="max_evals: got 3; expected a whole number of at least 4"
    ):
        explainer(X, max_evals=3, silent=True)
    with pytest.raises(
        PatchShapError, match="n_samples: got 3; expected a whole number of at least 4"
    ):
        explainer.attribute(X, target=0, n_samples=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_names": ["cat", "dog"]}, "output_names: got 2 names; expected 4"),
        ({"feature_names": ["a", "b"]}, "feature_names: got 2 names; expected 49, one for each"),
        ({"link": shap.links.logit}, "link: got infinite or undefined values from outputs 0 to 1"),
    ],
)
def test_what_comes_after_the_model_is_checked_before_the_budget_is_spent(options, message):
    class Saturated(Counting):
        def forward(self, x):
            return (super().forward(x) > 0.5).float()

    model = Saturated()
    explainer = PatchKernelShap(model, **options)
    with pytest.raises(PatchShapError, match=message):
        explainer.explain_players(X, max_evals=500, batch_size=2, silent=True)
    assert model.calls == 1


def test_values_too_large_for_memory_name_the_way_out():
    def thousand(x):
        assert len(x) == 1, "only the full image may be evaluated"
        return x.mean((1, 2, 3))[:, None].expand(-1, 10**6)

    with pytest.raises(
        PatchShapError, match=r"expected at most 4\.0\. Choose some with outputs=.*explain_players"
    ):
        PatchKernelShap(thousand, PatchMasker("1x2"))(
            torch.rand(1, 3, 32, 32), max_evals=4, silent=True, batch_size=1
        )


def test_an_explainer_without_an_estimator():
    from xai_patchshap import PatchExplainer

    with pytest.raises(NotImplementedError, match="PatchExplainer has no estimator of its own"):
        PatchExplainer(Counting())(X, silent=True)


def test_constructor_arguments():
    with pytest.raises(
        PatchShapError, match=r"masker: got shap\.maskers\.Image; expected a PatchMasker"
    ):
        PatchKernelShap(Counting(), shap.maskers.Image(0, (8, 8, 3)))
    with pytest.raises(PatchShapError, match="sampling: got 'uniform'; expected one of"):
        PatchKernelShap(Counting(), sampling="uniform")
    with pytest.raises(PatchShapError, match="tolerance: got -1; expected a finite number above 0"):
        PatchKernelShap(Counting(), tolerance=-1)
    with pytest.raises(PatchShapError, match=r"autocast: got torch\.bfloat16 for a model of type"):
        PatchKernelShap(lambda x: x, autocast=torch.bfloat16)(X, silent=True)
    with pytest.raises(PatchShapError, match="outputs: got both outputs and ranked_outputs"):
        PatchKernelShap(Counting()).shap_values(X, 2, outputs=[1])
    for seed in (-1, "a"):
        with pytest.raises(PatchShapError, match=r"seed: got .*; expected a whole number"):
            PatchKernelShap(Counting(), seed=seed)
    named = PatchKernelShap(Counting(), PatchMasker("2x2"), feature_names=["a", "b"])
    with pytest.raises(PatchShapError, match="feature_names: got 2 names; expected 4, one for"):
        named.explain_players(X, max_evals=20, silent=True)
    with pytest.raises(PatchShapError, match=r"mask: got shape \(3,\); expected \(4,\), one entry"):
        PatchMasker("2x2")(np.ones(3, dtype=bool), np.zeros((8, 8, 3)))
    with pytest.raises(PatchShapError, match="model: got an object of type str"):
        PatchKernelShap("resnet18")
    with pytest.raises(
        PatchShapError, match="inputs: got 2 tensors for an explainer built with a masker"
    ):
        PatchKernelShap(Counting(), PatchMasker("2x2")).attribute((X, X), target=0)
