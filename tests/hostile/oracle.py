"""The judge of hostile cases: a right answer, or a refusal in words; nothing else.

Truths are computed apart from the package: games of four players by their definition, in float64,
from a clean copy of the model.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
import warnings
from collections import Counter

import numpy as np
import timm
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from xai_patchshap import (
    InteractionShap,
    OwenBPT,
    PatchKernelShap,
    PatchMasker,
    PatchShapError,
    ViTShapleyAmortized,
)
from xai_patchshap.amortized import ShapleyViT

CLASSES = (PatchKernelShap, OwenBPT, InteractionShap, ViTShapleyAmortized)
FACES = ("attribute", "table", "call", "explain_players", "shap_values", "explain_row")
SIDE, K, OUTPUT = 8, 4, 1  # pixels, outputs, and which of them is asked for
QUARTERS = (torch.arange(SIDE) // 4)[:, None] * 2 + torch.arange(SIDE) // 4
BACKGROUND = 1.0  # a number of every dtype


# ----- games with known values -------------------------------------------------------------


def weights():
    n = 3 * SIDE * SIDE
    return torch.cos(torch.arange(n * K, dtype=torch.float64)).reshape(K, 3, SIDE, SIDE)


def linear(x):
    """Scores (B, 4) of images (B, 3, 8, 8), in their own precision or better."""
    return torch.einsum("bchw,kchw->bk", x, weights().to(x))


class Net(nn.Module):
    """The linear game as a module with parameters."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(), torch.no_grad():
            self.head = nn.Linear(3 * SIDE * SIDE, K)
            self.head.weight.copy_(weights().reshape(K, -1))
            self.head.bias.fill_(0.25)

    def forward(self, x):
        return self.head(x.flatten(1))


def function(x):
    """The linear game of tensors or arrays, channels first or last, of any dtype."""
    if not isinstance(x, torch.Tensor):
        x = torch.from_numpy(np.asarray(x).astype(np.float64))
    if x.shape[1] != 3:
        x = x.movedim(-1, 1)
    return linear(x.double()) + 0.25


def tiny_network():
    """An amortized explainer of the same four patches."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        vit = timm.create_model(
            "vit_tiny_patch16_224", img_size=SIDE, patch_size=4, class_token=False,
            global_pool="avg", embed_dim=16, depth=2, num_heads=2, num_classes=K,
        ).eval()  # fmt: skip
        for p in vit.parameters():
            nn.init.normal_(p, std=0.3)
        network = ShapleyViT(vit, n_frozen=1)
        nn.init.normal_(network.head[2].weight, std=0.05)
    return network.eval()


_NETWORK = tiny_network()


def table(score, x, background, labels=QUARTERS):
    """Values (2 ** n, N, K) of all coalitions; bit i of a row's number is player i."""
    n = int(labels.max()) + 1
    rows = []
    for coalition in range(2**n):
        shown = torch.tensor([bool(coalition >> i & 1) for i in range(n)])[labels]
        rows.append(score(torch.where(shown, x, background)))
    return torch.stack(rows).double().numpy()


def shapley(values):
    """Shapley values (N, n, K) by their definition."""
    n = len(values).bit_length() - 1
    phi = np.zeros((n, *values.shape[1:]))
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for team in itertools.combinations(others, size):
                s = sum(1 << j for j in team)
                phi[i] += weight * (values[s | 1 << i] - values[s])
    return np.moveaxis(phi, 0, 1)


def truth(kind, x, background=BACKGROUND):
    """Shapley values (N, 4, K) of images (N, 3, 8, 8) of float64."""
    if kind is not ViTShapleyAmortized:
        return shapley(table(lambda z: linear(z) + 0.25, x, torch.tensor(background).double()))
    network = copy.deepcopy(_NETWORK).double()
    nothing = torch.tensor(torch.nan, dtype=torch.float64)
    with torch.no_grad():
        return shapley(table(lambda z: network.link(network.surrogate(z)), x, nothing))


def make(kind, model=None, players=(2, 2), background=BACKGROUND, **options):
    """An explainer of four players; ``model`` is a function or module of the linear game."""
    if kind is ViTShapleyAmortized:
        return kind(copy.deepcopy(_NETWORK), PatchMasker(players, "drop"), **options)
    return kind(Net() if model is None else model, PatchMasker(players, background), **options)


# ----- one question to one face ------------------------------------------------------------


def row_of(x):
    """The first of a batch, if there is one."""
    try:
        return x[0]
    except Exception:  # what is no batch is a hostile row too
        return x


def ask(explainer, face, x, budget=None, **options):
    """Values (N, 4) of the output that is asked for, by one of the faces."""
    if budget is None:  # all coalitions of four players, and all branches of some trees
        budget = 64 if isinstance(explainer, OwenBPT) else 16
    if face in ("attribute", "table"):
        given = {"target": OUTPUT, "n_samples": budget, "perturbations_per_eval": 16, **options}
        found = explainer.attribute(x, return_input_shape=face == "attribute", **given)
        if isinstance(found, tuple):
            (found,) = found
        assert found.dtype in (torch.float32, torch.float64)
        found = found.double()
        if face == "table":
            return found.numpy()
        corners = found[:, :, ::4, ::4]
        repeated = corners.repeat_interleave(4, 2).repeat_interleave(4, 3)
        assert torch.equal(found, repeated), "a player's value is not on all of its elements"
        assert torch.equal(corners, corners[:, :1].expand_as(corners))
        return corners[:, 0].flatten(1).numpy()
    given = {"max_evals": budget, "silent": True, "outputs": [OUTPUT], **options}
    of_pairs = isinstance(explainer, InteractionShap)
    if of_pairs and face == "explain_row":
        return explainer.explain_players(x, **given).values[:1, :, 0]
    if face == "explain_players" or (of_pairs and face == "call"):
        values = explainer.explain_players(x, **given).values
        return values[..., 0] if values.ndim == 3 else values
    if face == "explain_row":
        row = explainer.explain_row(row_of(x), **given)
        values = np.asarray(row["values"]).reshape(1, *row["mask_shapes"][0], -1)
    elif face == "call":
        values = explainer(x, **given).values
    else:
        values = explainer.shap_values(x, **given)
        if values.shape[1] == 3:
            values = np.moveaxis(values, 1, 3)
    values = values.reshape(len(values), SIDE, SIDE, 3).sum(axis=-1)
    return values.reshape(-1, 2, 4, 2, 4).sum(axis=(2, 4)).reshape(-1, 4)


# ----- the judge ---------------------------------------------------------------------------


def memory(x):
    """What must not change of something that was given, to the bit."""
    if isinstance(x, list | tuple):
        return [memory(each) for each in x]
    if isinstance(x, dict):
        return {k: memory(v) for k, v in x.items()}
    if isinstance(x, torch.Tensor):
        if x.is_meta or x.is_nested or x.is_quantized or x.layout is not torch.strided:
            return None
        plain = x.detach().resolve_conj().resolve_neg().contiguous()
        return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    if isinstance(x, np.ndarray) and x.dtype != object:
        return np.asarray(x).tobytes()
    return None


def state(model):
    """What must not change of a model."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        return None
    return (
        [
            (getattr(m, "training", None), len(m._forward_hooks), len(m._forward_pre_hooks))
            for m in model.modules()
        ],
        {k: memory(v) for k, v in model.state_dict().items()},
        [(p.requires_grad, p.grad is None, p.dtype) for p in model.parameters()],
    )


def surroundings():
    legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return (
        torch.get_rng_state().numpy().tobytes(),
        (legacy["key"].tobytes(), legacy["pos"]),
        random.getstate(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        np.geterr(),
    )


class WrongError(AssertionError):
    """A hostile case that was neither answered rightly nor refused in words."""


def judged(question, check, given=(), model=None, may=("right", "refused")):
    """Ask, and judge the answer: "right", "warned", "refused" or "raised" by the user's own code.

    Parameters
    ----------
    question : callable
        Makes the call and returns its answer.
    check : callable
        Raises an AssertionError unless the answer is right.
    given, model
        What must not be changed.
    may
        What is allowed: "right" or "refused" or both.
    """
    before, were, around = memory(given), state(model), surroundings()
    answer, error = None, None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            answer = question()
        except Exception as raised:
            error = raised
    if memory(given) != before:
        raise WrongError("what was given has changed")
    if state(model) != were:
        raise WrongError("the model has changed")
    if surroundings() != around:
        raise WrongError("a global state has changed")
    for w in said:
        in_others = issubclass(w.category, DeprecationWarning | FutureWarning)
        if not in_others and (w.category is not UserWarning or "/src/xai" in w.filename):
            raise WrongError(f"{w.category.__name__} at {w.filename}: {w.message}")
    if error is not None:
        return _judged_error(error, may)
    if "right" not in may:
        raise WrongError(f"answered, where only a refusal is right: {np.shape(answer)}")
    try:
        check(answer)
    except Exception as wrong:
        raise WrongError(f"a wrong answer: {wrong}") from wrong
    return "warned" if any(w.category is UserWarning for w in said) else "right"


def _judged_error(error, may):
    refused = isinstance(error, PatchShapError)
    if not refused and any("Raised by the" in note for note in getattr(error, "__notes__", ())):
        if "raised" not in may:
            raise WrongError(f"the model got what it cannot take: {error!r:.300}") from error
        return "raised"
    if not isinstance(error, PatchShapError):
        raise WrongError(f"a bare {type(error).__name__}: {error!s:.300}") from error
    if "got " not in str(error) or "expected " not in str(error):
        raise WrongError(f"an error without form: {error!s:.300}") from error
    if len(str(error)) > 1500:
        raise WrongError(f"an error of {len(str(error))} letters: {error!s:.300}") from error
    if "refused" not in may:
        raise WrongError(f"refused, where an answer is due: {error}") from error
    return "refused"


def equal_to(expected, tolerance=1e-4):
    """A check of values against a truth, relative to the largest of them."""

    def check(found):
        assert np.shape(found) == expected.shape, f"shape {np.shape(found)}, not {expected.shape}"
        scale = np.abs(expected).max()
        off = np.abs(found - expected).max()
        assert off <= tolerance * max(scale, 0.01), f"off by {off:g} where values reach {scale:g}"

    return check


def tried(strategy, judge, most):
    """Judge so many hostile cases, and count the verdicts; the first wrong one is raised."""
    tally = Counter()

    @settings(
        max_examples=most,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case):
        tally[judge(case)] += 1

    run()
    print(f"\n{judge.__module__}.{judge.__name__}: {sum(tally.values())} cases: {dict(tally)}")
    return tally
