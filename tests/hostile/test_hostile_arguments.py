"""Hostile arguments to all four classes, by both faces: right answers, or refusals in words."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import strategies as hostile
import torch
from oracle import (
    CLASSES,
    FACES,
    OUTPUT,
    Net,
    ask,
    equal_to,
    function,
    judged,
    make,
    tried,
    truth,
)
from strategies import ANY, EITHER, REFUSED

from xai_patchshap import (
    InteractionShap,
    OwenBPT,
    PatchMasker,
    ViTShapleyAmortized,
)

X = hostile.BASE.float()
TRUTHS = {}


def right_values(kind, face="call"):
    if kind not in TRUTHS:
        TRUTHS[kind] = truth(kind, X.double())[..., OUTPUT]
    return TRUTHS[kind][:1] if face == "explain_row" else TRUTHS[kind]


def expected_of(kind, plain, face):
    with np.errstate(all="ignore"):
        try:
            right = truth(kind, plain)[..., OUTPUT]
        except Exception:  # what is not images of this size has no truth
            right = np.full((len(plain), 4), np.nan)
    return right[:1] if face == "explain_row" else right


def tolerance_of(case):
    rough = ("float16", "bfloat16", "float8", ">f2")
    return 2e-2 if any(r in case.name for r in rough) else 1e-3 if "large" in case.name else 2e-4


# ----- images ------------------------------------------------------------------------------

images = st.tuples(hostile.kinds, hostile.faces, st.booleans(), hostile.tensors())
arrays = st.tuples(hostile.kinds, st.sampled_from(FACES[2:]), st.booleans(), hostile.arrays())


def images_are_right_or_refused(case):
    kind, face, as_function, x = case
    explainer = make(kind, function if as_function else None)
    may = x.may
    if kind is ViTShapleyAmortized and "right" in may:
        may = EITHER  # its network is of float32
    tensor = x.value[0] if isinstance(x.value, tuple) else x.value
    if isinstance(tensor, torch.Tensor) and not tensor.is_floating_point():
        may = (*may, "raised")  # Captum hands whole numbers on as they are
    return judged(
        lambda: ask(explainer, face, x.value),
        equal_to(expected_of(kind, x.plain, face), tolerance_of(x)),
        x.value,
        explainer.model,
        may,
    )


# ----- numbers -----------------------------------------------------------------------------

ARGUMENTS = (
    "budget", "batch", "seed", "tolerance", "n_trees", "n_guides", "compactness", "refinement",
    "order", "noise seed", "ranked",
)  # fmt: skip
numbers = st.tuples(hostile.kinds, hostile.faces, st.sampled_from(ARGUMENTS), hostile.numbers)


def numbers_are_taken_or_refused(case):
    kind, face, argument, n = case
    options, of_masker, more = {}, {}, {}
    if argument == "budget":
        more = {"budget": n.value}
        if n.value is None and kind is not ViTShapleyAmortized:
            more = {"n_samples" if face in ("attribute", "table") else "max_evals": None}
    elif argument == "batch":
        captums = face in ("attribute", "table")
        more = {"perturbations_per_eval" if captums else "batch_size": n.value}
    elif argument == "noise seed":
        of_masker = {"seed": n.value}
    elif argument == "ranked":
        face = "ranked"
    else:
        owners = {"seed": CLASSES, "tolerance": CLASSES[:1], "refinement": CLASSES[3:]}
        if kind not in owners.get(argument, (InteractionShap if argument == "order" else OwenBPT,)):
            kind = owners.get(argument, (InteractionShap if argument == "order" else OwenBPT,))[0]
        options = {"budget" if argument == "refinement" else argument: n.value}

    def question():
        explainer = make(kind, **options)
        if of_masker:
            background = "drop" if kind is ViTShapleyAmortized else 1.0
            explainer.masker = PatchMasker((2, 2), background, **of_masker)
        if face == "ranked":
            return explainer.shap_values(X, n.value, max_evals=16)
        return ask(explainer, face, X, **more)

    def check(found):
        if face == "ranked":
            return
        equal = equal_to(right_values(kind, face), 2e-4)
        if argument in ("budget", "n_trees", "tolerance", "refinement", "order"):
            # Whatever the budget, the values add up.
            equal = equal_to(right_values(kind, face).sum(axis=1), 2e-4)
            found = found.sum(axis=1)
        equal(found)

    return judged(question, check, X)


# ----- masks and players -------------------------------------------------------------------

masks = st.tuples(hostile.kinds, st.sampled_from((*FACES, "delta")), hostile.masks())
players = st.tuples(hostile.kinds, hostile.faces, hostile.players)


def masks_are_taken_or_refused(case):
    kind, face, mask = case
    may = mask.may
    if face in ("attribute", "table") or face == "delta":
        explainer, more = make(kind), {"feature_mask": mask.value}
    else:
        explainer, more = None, {}
        may = EITHER if "right" in may or mask.name.startswith("10**12") else may
    if kind is ViTShapleyAmortized and "right" in may:
        may = EITHER
    gaps = "gaps" in mask.name
    if gaps and "large" in mask.name and face == "attribute":
        more["perturbations_per_eval"] = 4

    def question():
        if face == "delta":
            start = None if kind is ViTShapleyAmortized else 1.0
            values = torch.from_numpy(right_values(kind)).float()
            spread = values.reshape(2, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
            return explainer.compute_convergence_delta(
                spread.expand_as(X), start, X, target=OUTPUT, feature_mask=mask.value
            ).numpy()
        asked = make(kind, players=mask.value) if explainer is None else explainer
        found = ask(asked, face, X, **more)
        if face == "table" and gaps:
            step = 1000 if "large" in mask.name else 5
            assert not np.delete(found, np.arange(4) * step, axis=1).any()
            found = found[:, ::step]
        return found

    def check(found):
        if face == "delta":
            assert np.abs(found).max() < 1e-3
        else:
            equal_to(right_values(kind, face))(found)

    return judged(question, check, (X, mask.value), may=may)


def players_are_taken_or_refused(case):
    kind, face, spec = case

    def question():
        explainer = make(kind, players=spec.value)
        if face in ("attribute", "table"):
            return ask(explainer, "table", X).sum(axis=1)
        budget = {"max_evals": 64, "silent": True, "outputs": OUTPUT}
        return explainer.explain_players(X, **budget).values.sum(axis=(1, 2))

    return judged(question, equal_to(right_values(kind).sum(axis=1)), X, may=ANY)


# ----- backgrounds -------------------------------------------------------------------------

backgrounds = st.tuples(st.sampled_from(CLASSES), hostile.faces, st.booleans(), hostile.backgrounds)
baselines = st.tuples(
    st.sampled_from(CLASSES), st.sampled_from(("attribute", "table", "delta")), hostile.baselines
)


def backgrounds_are_taken_or_refused(case):
    kind, face, as_function, background = case
    budget = 256 if kind is OwenBPT else 64

    def question():
        masker = PatchMasker((2, 2), background.value)
        explainer = make(kind, function if as_function else None)
        explainer.masker = masker
        return ask(explainer, face, X, budget)

    def check(found):
        if background.name in hostile.ONE or kind is ViTShapleyAmortized:
            equal_to(right_values(kind, face))(found)
        assert np.isfinite(found).all()

    may = EITHER
    if background.name in ("nan", "inf", "text", "object", "function", "1e300", "10**400", "dict"):
        may = REFUSED
    return judged(question, check, (X, background.value), may=may)


def baselines_are_taken_or_refused(case):
    kind, face, baseline = case
    explainer = kind(Net()) if kind is not ViTShapleyAmortized else make(kind)
    mask = (torch.arange(8) // 4)[:, None] * 2 + torch.arange(8) // 4

    def question():
        if face == "delta":
            values = torch.from_numpy(right_values(kind)).float()
            spread = values.reshape(2, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
            return explainer.compute_convergence_delta(
                spread.expand_as(X), baseline.value, X, target=OUTPUT, feature_mask=mask
            ).numpy()
        return ask(explainer, face, X, baselines=baseline.value, feature_mask=mask)

    def check(found):
        if baseline.name == "None" and kind is not ViTShapleyAmortized:
            return
        if face == "delta":
            assert np.abs(found).max() < 1e-3
        else:
            equal_to(right_values(kind, face))(found)

    may = REFUSED if baseline.name in hostile.NOT_ONE else EITHER
    return judged(question, check, (X, baseline.value), explainer.model, may)


# ----- what is asked for -------------------------------------------------------------------

targets = st.tuples(
    hostile.kinds, st.sampled_from(("attribute", "table", "delta")), hostile.targets
)
outputs = st.tuples(hostile.kinds, st.sampled_from(FACES[2:]), hostile.outputs)


def targets_are_taken_or_refused(case):
    kind, face, target = case
    explainer = make(kind)

    def question():
        if face == "delta":
            start = None if kind is ViTShapleyAmortized else 1.0
            values = torch.from_numpy(right_values(kind)).float()
            spread = values.reshape(2, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
            return explainer.compute_convergence_delta(
                spread.expand_as(X), start, X, target=target.value
            ).numpy()
        return ask(explainer, face, X, target=target.value)

    def check(found):
        if face == "delta":
            assert np.abs(found).max() < 1e-3
        else:
            equal_to(right_values(kind, face))(found)

    return judged(question, check, (X, target.value), explainer.model)


def outputs_are_taken_or_refused(case):
    kind, face, chosen = case
    explainer = make(kind)

    def check(found):
        equal_to(right_values(kind, face))(found)

    return judged(
        lambda: ask(explainer, face, X, outputs=chosen.value),
        check,
        (X, chosen.value),
        explainer.model,
    )


# ----- links and names ---------------------------------------------------------------------

linked = st.tuples(hostile.kinds, hostile.faces, hostile.links)
named = st.tuples(
    hostile.kinds,
    hostile.faces,
    st.sampled_from(("output_names", "feature_names")),
    hostile.names,
)


def links_are_taken_or_refused(case):
    kind, face, link = case
    return judged(
        lambda: ask(make(kind, link=link.value), face, X),
        equal_to(right_values(kind, face)),
        X,
        may=ANY,
    )


def names_are_taken_or_refused(case):
    kind, face, which, given = case

    def question():
        explainer = make(kind, **{which: given.value})
        if face == "call" and kind is not InteractionShap:
            explanation = explainer(X, max_evals=64, silent=True)
            repr(explanation), explanation[0]
        if face == "explain_players":
            explanation = explainer.explain_players(X, max_evals=64, silent=True)
            repr(explanation), explanation[0], explanation[..., 1]
        return ask(explainer, face, X)

    return judged(question, equal_to(right_values(kind, face)), X)


CASES = {
    "tensors": (images, images_are_right_or_refused),
    "arrays": (arrays, images_are_right_or_refused),
    "numbers": (numbers, numbers_are_taken_or_refused),
    "masks": (masks, masks_are_taken_or_refused),
    "players": (players, players_are_taken_or_refused),
    "backgrounds": (backgrounds, backgrounds_are_taken_or_refused),
    "baselines": (baselines, baselines_are_taken_or_refused),
    "targets": (targets, targets_are_taken_or_refused),
    "outputs": (outputs, outputs_are_taken_or_refused),
    "links": (linked, links_are_taken_or_refused),
    "names": (named, names_are_taken_or_refused),
}


@pytest.mark.parametrize("name", CASES)
def test_some_of_each(name):
    assert sum(tried(*CASES[name], 25).values()) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_of_each(name):
    assert sum(tried(*CASES[name], 300).values()) >= 150
