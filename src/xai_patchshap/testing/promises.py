"""What Captum, shap and this package promise of an explainer: a function for each promise."""

from __future__ import annotations

import inspect
import io
import random
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
import shap
import torch
from captum.attr import Attribution, KernelShap, PerturbationAttribution

from ..errors import PatchShapError
from .games import LinearGame, OnePixelGame, ProductGame, ToyGame, UnanimityGame
from .subject import ALL, CELLS, SIDE, K, N, Subject, added_up, hold, random_states, same

__all__ = ["OF_TOYS", "PROMISES", "knows_games_of_all_coalitions"]

# ----- two families ------------------------------------------------------------------------


def is_of_both_families(s: Subject) -> None:
    """A Captum attribution that is a shap explainer, made as ours are."""
    explainer = s.make(
        link=shap.links.identity, output_names=list("abcd"), feature_names=None, seed=0,
        autocast=None,
    )  # fmt: skip
    for family in (Attribution, PerturbationAttribution, shap.Explainer):
        hold(isinstance(explainer, family), f"it is no {family.__module__}.{family.__name__}")
    hold(explainer.has_convergence_delta(), "has_convergence_delta() is not True")
    theirs = list(inspect.signature(KernelShap.attribute).parameters)[:-1]  # but for **kwargs
    own = list(inspect.signature(type(explainer).attribute).parameters)[: len(theirs)]
    hold(own == theirs, f"attribute begins with {own}, not with {theirs} as Captum's KernelShap")
    wrapped = hasattr(type(explainer).attribute, "__wrapped__")
    hold(wrapped, "attribute has no __wrapped__, which NoiseTunnel calls")


def has_a_repr_to_read(s: Subject) -> None:
    """``repr`` names the class and the model, on one line."""
    explainer = s.make()
    shown = repr(explainer)
    names = type(explainer).__name__, type(explainer.model).__name__
    said = all(name in shown for name in names) and "\n" not in shown
    hold(said, f"repr is {shown!r}, without {names[0]} and {names[1]} on one line")


def saves_and_loads(s: Subject) -> None:
    """``save`` and ``load`` keep options and numbers."""
    explainer, stream = s.make(seed=11, output_names=list("abcd")), io.BytesIO()
    explainer.save(stream)
    stream.seek(0)
    with redirect_stdout(io.StringIO()):  # shap's load prints what it reads
        loaded = type(explainer).load(stream)
    hold(type(loaded) is type(explainer), f"load made a {type(loaded).__name__}")
    kept = (loaded.seed, loaded.output_names) == (11, list("abcd"))
    hold(kept, f"load kept seed={loaded.seed!r} and output_names={loaded.output_names!r}")
    numbers = s.players(loaded).values, s.players(explainer).values
    same(*numbers, "a loaded explainer gives other values", 0)


# ----- shapes, sums, faces -----------------------------------------------------------------


def has_the_shapes_and_dtypes(s: Subject) -> None:
    """Captum's face mirrors the inputs; shap's has errors for every value."""
    explainer, x = s.make(), s.images
    found = s.attribute(explainer)
    hold(found.shape == x.shape, f"attribute gave {tuple(found.shape)} for {tuple(x.shape)}")
    hold(found.dtype == torch.float32, f"attribute gave {found.dtype} for float32")
    in_tuple = s.attribute(explainer, (x,))
    hold(isinstance(in_tuple, tuple) and len(in_tuple) == 1, "a tuple of inputs gave no tuple")
    same(in_tuple[0], found, "a tuple of inputs has other values", 0)
    if s.model is None:
        wide = s.attribute(s.make(s.fresh_model().double()), x.double())
        hold(wide.dtype == torch.float64, f"attribute gave {wide.dtype} for float64")
    players = s.players(explainer)
    for name in ("values", "error_std"):
        shape, dtype = getattr(players, name).shape, getattr(players, name).dtype
        right = shape == (2, N, K) and dtype == np.float64
        hold(right, f"{name} of explain_players is {shape} of {dtype}, not (2, {N}, {K})")
    hold(bool((players.error_std >= 0).all()), "error_std is negative or NaN")


def adds_up(s: Subject) -> None:
    """Values add up to f(x) - f(background), by every way in."""
    for budget in (s.budget, ALL):
        model = s.fresh_model()
        explainer, options = s.make(model), {"n_samples": budget, "perturbations_per_eval": 64}
        _, delta = s.attribute(explainer, target=[0, 3], return_convergence_delta=True, **options)
        same(delta, np.zeros(2), "the convergence delta is not 0")
        for name, found in (
            ("__call__", s.call(explainer, max_evals=budget)),
            ("explain_players", s.players(explainer, max_evals=budget)),
        ):
            ends = explainer.last_run.estimates
            gap = np.stack([e.full_values - e.base_values for e in ends])
            same(added_up(found), gap, f"the values of {name} do not add up")
            base = np.stack([e.base_values for e in ends])
            same(found.base_values, base, f"base_values of {name} are not the empty values")
        if s.model is None:
            with torch.no_grad():
                empty = model(torch.full_like(s.images, s.background))
                true = (model(s.images) - empty).double()
            same(gap, true, "f(x) - f(background) is not the model's")


def has_one_answer_on_both_faces(s: Subject) -> None:
    """``attribute``, ``__call__``, ``shap_values`` and ``explain_players`` agree."""
    explainer = s.make()
    players = s.players(explainer).values
    spread = explainer.shap_values(s.images, max_evals=s.budget)
    of_cells = spread.reshape(2, 3, 3, 4, 3, 4, K).sum(axis=(1, 3, 5)).reshape(2, N, K)
    same(of_cells, players, "shap_values do not add up to the values of explain_players")
    same(
        spread, np.broadcast_to(spread[:, :1, ::4, ::4].repeat(4, 2).repeat(4, 3), spread.shape),
        "shap_values are not spread evenly over a player", 1e-7,
    )  # fmt: skip
    found, arrays = s.call(explainer).values, s.images.permute(0, 2, 3, 1).numpy()
    if found.shape == (2, N, N, K):
        same(found.sum(axis=2), players, "rows of pairs do not add up to explain_players")
    else:
        same(found, np.moveaxis(spread, 1, 3), "__call__ and shap_values differ")
    same(s.players(explainer, arrays).values, players, "arrays and tensors differ")
    for k in (0, K - 1):
        alone = s.players(explainer, outputs=k).values[..., 0]
        same(s.table(explainer, target=k), alone, "attribute and explain_players differ")
        repeated = s.attribute(explainer, target=k)
        cells = torch.as_tensor(alone).float()[:, CELLS.flatten()].reshape(2, 1, SIDE, SIDE)
        same(repeated, cells.expand_as(repeated), "attribute does not repeat a player's value")


def takes_every_kind_of_target(s: Subject) -> None:
    """Captum's targets mean what they mean in Captum."""
    for target, chosen in (
        ((1,), (1, 1)),
        (torch.tensor(1), (1, 1)),
        (torch.tensor([1]), (1, 1)),
        (torch.tensor([1, 3]), (1, 3)),
        ([1, 3], (1, 3)),
        ([(1,), (3,)], (1, 3)),
    ):
        together = s.table(target=target)
        single = [s.table(None, s.images[i : i + 1], target=k)[0] for i, k in enumerate(chosen)]
        same(together, torch.stack(single), f"target={target} is not that of single runs")


def takes_feature_masks(s: Subject) -> None:
    """``feature_mask`` and ``baselines`` of a call come before the masker's."""
    plain, everything = s.explainer(s.fresh_model()), {"n_samples": ALL}
    masked = s.table(
        plain,
        feature_mask=N - 1 - CELLS[None, None],
        baselines=s.background if s.model is None else None,
        **everything,
    )
    same(masked, s.table(**everything).flip(1), "a feature_mask changes more than the order")


# ----- what may not matter -----------------------------------------------------------------


def keeps_the_budget(s: Subject) -> None:
    """The model is never asked more often than allowed, nor with larger batches."""
    for budget in (s.budget, 101):
        model = s.fresh_model()
        explainer = s.make(model)
        with s.counting(model) as rows:
            s.players(explainer, max_evals=budget, batch_size=7)
        spent = explainer.last_run.evaluations
        hold(bool((spent <= budget).all()), f"{spent} evaluations for a budget of {budget}")
        hold(sum(rows) == spent.sum(), f"{sum(rows)} evaluations, of which it says {spent}")
        hold(max(rows) <= 7, f"a batch of {max(rows)} with batch_size=7")
        with s.counting(model) as rows:
            s.attribute(explainer, n_samples=budget, perturbations_per_eval=3)
        hold(sum(rows) <= 2 * budget, f"{sum(rows)} evaluations of 2 images for {budget} each")
        hold(max(rows) <= 6, f"a batch of {max(rows)} with perturbations_per_eval=3 for 2 images")


def repeats_with_a_seed(s: Subject) -> None:
    """The same seed gives the same numbers."""
    explainer, other = s.make(seed=7), s.make(seed=7)
    values = s.players(explainer).values
    same(s.players(other).values, values, "the same seed gives other values", 0)
    same(s.players(explainer).values, values, "a second call gives other values", 0)


def ignores_the_batch_size(s: Subject) -> None:
    """Batch sizes do not change values."""
    for size in (1, 7):
        numbers = s.players(batch_size=size).values, s.players().values
        same(*numbers, "batch_size changes values")
        numbers = s.table(perturbations_per_eval=size), s.table()
        same(*numbers, "perturbations_per_eval changes values")


def ignores_other_inputs(s: Subject) -> None:
    """The other inputs of a batch do not change values."""
    together, captums = s.players().values, s.table()
    for i in range(2):
        x = s.images[i : i + 1]
        broken = "the other inputs of a batch change values"
        same(s.players(images=x).values[0], together[i], broken)
        same(s.table(images=x)[0], captums[i], broken)


def ignores_other_outputs(s: Subject) -> None:
    """Which outputs are explained together does not change values."""
    everything, some = s.players(), s.players(outputs=[2, 0])
    broken = "the other outputs that are explained change {} "
    same(some.values, everything.values[..., [2, 0]], broken.format("values"))
    same(some.error_std, everything.error_std[..., [2, 0]], broken.format("errors"))


# ----- the user's things -------------------------------------------------------------------


def leaves_everything_as_it_was(s: Subject) -> None:
    """Inputs, gradients, and the model's mode, hooks and weights are not changed."""
    expected, model, x = s.table(), s.fresh_model(), s.images.requires_grad_()
    first = next(model.children())
    modes = {m: m.training for m in model.modules()}

    def described() -> list[Any]:
        return [
            (m.training, list(m._forward_hooks), list(m._forward_pre_hooks),
             [(p.dtype, p.requires_grad, p.grad) for p in m.parameters()])
            for m in model.modules()
        ]  # fmt: skip

    try:
        model.train()
        first.eval()
        before, state = described(), {k: v.clone() for k, v in model.state_dict().items()}
        explainer = s.make(model)
        same(s.table(explainer, x), expected, "a model in training mode is not run in evaluation")
        s.call(explainer, x.detach())
        hold(described() == before, "the model's mode, hooks or parameters have changed")
        unchanged = all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        hold(unchanged, "the model's weights have changed")
    finally:
        for m, mode in modes.items():
            m.training = mode
    hold(torch.equal(x, s.images), "the inputs have changed")
    hold(x.grad is None, "the inputs have a gradient")
    hold(torch.is_grad_enabled(), "gradients stay off")


def leaves_random_states_alone(s: Subject) -> None:
    """Global random states are neither written nor, with a seed, read."""
    expected = s.players().values
    for seed in (0, None):
        before = random_states()
        explainer = s.make(seed=seed)
        s.attribute(explainer)
        s.call(explainer)
        hold(random_states() == before, f"a global random state has changed, with seed={seed}")
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        random.seed(99)
        np.random.seed(99)  # noqa: NPY002
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(99)
            values = s.players().values
        same(values, expected, "a global random state changes values", 0)
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002


def gives_copies_to_the_model(s: Subject) -> None:
    """A model may write into its input."""
    expected, model, x = s.table(), s.fresh_model(), s.images
    hook = s.played(model).register_forward_hook(lambda _, given, out: _written(given, out))
    try:
        same(s.table(s.make(model), x), expected, "a model that writes into its input sees it")
    finally:
        hook.remove()
    hold(torch.equal(x, s.images), "a model that writes into its input writes into the user's")


def _written(given: tuple[Any, ...], out: Any) -> Any:
    out = out.clone()
    given[0].zero_()
    return out


# ----- known answers, and refusals ---------------------------------------------------------


def knows_linear_games(s: Subject) -> None:
    """Games without interactions are exact from a small budget on."""
    for game in (LinearGame(), OnePixelGame()):
        _knows(s, game, s.linear_budget)


def knows_games_of_all_coalitions(s: Subject) -> None:
    """Shapley values are exact once the budget covers all coalitions."""
    for game in (UnanimityGame(), ProductGame()):
        _knows(s, game, ALL)


def _knows(s: Subject, game: ToyGame, budget: int) -> None:
    x, name = game.images(), f"the values of a {type(game).__name__}"
    explainer, true = s.explainer(game, game.masker), game.shapley_values(x)
    found = s.players(explainer, x, max_evals=budget).values
    same(found, true, f"{name} are wrong after {budget} evaluations")
    table = s.table(explainer, x, target=0, n_samples=budget)
    same(table, true[..., 0], f"{name} by attribute are wrong after {budget} evaluations")


def refuses_what_does_not_fit(s: Subject) -> None:
    """Bad input raises a PatchShapError that names the argument."""
    explainer, x = s.make(), s.images
    attribute, call, players = (partial(ask, explainer) for ask in (s.attribute, s.call, s.players))
    cases: list[tuple[str, Callable[[], Any]]] = []
    for ask in (attribute, call, players):
        cases += [("NaN", partial(ask, torch.full_like(x, torch.nan)))]
        cases += [("empty batch", partial(ask, x[:0]))]
    for target in (K, -K - 1, [0, 1, 2], "cat", 0.5, None):
        cases += [("target", partial(attribute, target=target))]
    for outputs in (K, -K - 1, [0, K], [], [0.5], "cat"):
        cases += [("outputs", partial(call, outputs=outputs))]
    for budget in (1, 0, -3, 2.5, True, "many"):
        cases += [("n_samples", partial(attribute, n_samples=budget))]
        cases += [("max_evals", partial(call, max_evals=budget))]
    for size in (0, -1, 2.5, "big"):
        cases += [("batch_size", partial(call, batch_size=size))]
        cases += [("perturbations_per_eval", partial(attribute, perturbations_per_eval=size))]
    for argument in ({"seed": -1}, {"output_names": 3}):
        cases += [(next(iter(argument)), partial(s.make, **argument))]
    foreign = shap.maskers.Image(np.zeros((4, 4, 3)))
    cases += [("PatchMasker", partial(s.explainer, s.fresh_model(), foreign))]
    for word, refused in cases:
        try:
            refused()
        except PatchShapError as error:
            hold(word in str(error), f"an error about {word} does not say so: {error}")
        else:
            raise AssertionError(f"no error about {word} for an argument that does not fit")


OF_TOYS = (knows_linear_games, knows_games_of_all_coalitions)
PROMISES: tuple[Callable[[Subject], None], ...] = (
    is_of_both_families,
    has_a_repr_to_read,
    saves_and_loads,
    has_the_shapes_and_dtypes,
    adds_up,
    has_one_answer_on_both_faces,
    takes_every_kind_of_target,
    takes_feature_masks,
    keeps_the_budget,
    repeats_with_a_seed,
    ignores_the_batch_size,
    ignores_other_inputs,
    ignores_other_outputs,
    leaves_everything_as_it_was,
    leaves_random_states_alone,
    gives_copies_to_the_model,
    *OF_TOYS,
    refuses_what_does_not_fit,
)
