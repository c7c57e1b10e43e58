"""The settings of each command, checked once, before anything heavy is imported."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from .._validation import Constraint, finite, maybe, whole
from ..errors import bad
from ..explainers.methods import COMPARED, check_method, dashed
from .words import FLAGS

__all__: list[str] = []  # parts of the command line, for no one else

# What the library takes, spelled out because reading it there would import torch.
DEMO_MODEL = "timm:tf_efficientnet_lite0"
INDICES = ("SV", "BV", "SII", "BII", "k-SII", "STII", "FSII", "FBII")
OBJECTIVES = ("fastshap", "labels")
PREDICTS = ("values", "game")
SCALES = ("probability", "logit")

AMORTIZED = "vit_shapley_amortized"
# The options of one method only, as they are called in its constructor.
OWN_OPTIONS = {
    "tolerance": "patch_kernel_shap",
    "hierarchy": "owen_bpt",
    "n_trees": "owen_bpt",
    "index": "interaction_shap",
    "order": "interaction_shap",
}
# What a trained explainer has settled, with the values that mean that nothing was given.
_SETTLED: dict[str, tuple[Any, ...]] = {
    "players": (None,),
    "model": (DEMO_MODEL,),
    "weights": (None,),
    "size": (None,),
    "background": ("mean", "drop"),
    "scale": ("probability",),
    **dict.fromkeys(OWN_OPTIONS, (None,)),
}
# The demo's players, where they are not those of the explainer.
_DEMO_PLAYERS = {"patch_kernel_shap": "7x7", "interaction_shap": "4x4"}
# Points and coalitions of one image, beyond which the scores gain no digit.
_MOST = 10**6

_OPTION_CHECKS = {"tolerance": finite(least=0), "n_trees": whole(1), "order": whole(1)}

Read = TypeVar("Read")


def _check(settings: Any, **constraints: Constraint) -> None:
    """Check settings, which errors call as they were typed."""
    for name, constraint in constraints.items():
        constraint(f"--{dashed(name)}", getattr(settings, name))


@dataclass(frozen=True, kw_only=True)
class GameSettings:
    """The images, the model and its game, which ``explain`` and ``evaluate`` share."""

    images: tuple[Path, ...] = ()
    model: str = DEMO_MODEL
    weights: str | None = None
    explainer: Path | None = None
    players: str | None = None
    background: str = "mean"
    scale: str = "probability"
    device: str | None = None
    batch_size: int | str = "auto"
    size: int | None = None
    seed: int = 0
    out: Path

    def __post_init__(self) -> None:
        for path in self.images:
            if not os.path.lexists(path):
                raise bad("image", f"'{path}'", "a file or a folder that exists")
        _check(self, seed=whole(0), size=maybe(whole(1, unit=" pixels")))
        if self.batch_size != "auto":
            _check(self, batch_size=whole(1))
        for option, file in (("--explainer", self.explainer), ("--weights", self.weights)):
            if file not in (None, "random") and not os.path.isfile(file):
                raise bad(option, repr(str(file)), "a checkpoint file that exists")


@dataclass(frozen=True, kw_only=True)
class ExplainSettings(GameSettings):
    """Of ``demo`` and ``explain``; ``options`` are those of the method alone."""

    method: str = "patch_kernel_shap"
    classes: str = "top3"
    budget: int | str = 1000
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget != "auto":
            _check(self, budget=whole(2, unit=" evaluations"))
        for option in self.options.keys() & _OPTION_CHECKS.keys():
            _OPTION_CHECKS[option](FLAGS[option], self.options[option])

    @property
    def is_amortized(self) -> bool:
        """Whether a trained network explains."""
        return self.method == AMORTIZED

    def asked(self) -> dict[str, Any]:
        """What was asked for, but for the model and the background."""
        return {
            "method": dashed(self.method),
            "players": self.players,
            "classes": self.classes,
            "budget": self.budget,
            "seed": self.seed,
            **{option: self.options.get(option) for option in OWN_OPTIONS},
        }


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(GameSettings):
    """Of ``evaluate``."""

    methods: tuple[str, ...]
    budget: int
    steps: int
    samples: int

    def __post_init__(self) -> None:
        _check(self, budget=whole(2), steps=whole(1, _MOST), samples=whole(2, _MOST, also=0))
        super().__post_init__()

    def asked(self) -> dict[str, Any]:
        """What was asked for, but for the model and the background."""
        return {
            "players": self.players,
            "budget": self.budget,
            "steps": self.steps,
            "samples": self.samples,
            "seed": self.seed,
            "methods": list(map(dashed, self.methods)),
        }


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What both stages of a training share."""

    images: Path
    out: Path
    validation: Path | None
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    accumulate: int
    validations: int
    save_every: int
    workers: int
    autocast: str | None
    seed: int
    device: str | None
    accelerate: bool
    silent: bool

    def __post_init__(self) -> None:
        for folder in (self.images, self.validation):
            if folder is not None and not folder.is_dir():
                raise bad("images", f"'{folder}'", "a folder with images, at any depth")
        _check(
            self, epochs=whole(1), batch_size=whole(1), accumulate=whole(1), validations=whole(1),
            save_every=whole(1), workers=whole(0), seed=whole(0), learning_rate=finite(above=0),
            weight_decay=finite(least=0),
        )  # fmt: skip
        if self.batch_size % self.accumulate:
            expected = f"a divisor of --batch-size {self.batch_size}"
            raise bad("--accumulate", self.accumulate, expected)


@dataclass(frozen=True, kw_only=True)
class SurrogateSettings(TrainSettings):
    """Of ``train surrogate``; ``model_args`` are those of ``timm.create_model``."""

    model: str
    model_args: dict[str, Any]
    weights: str | None
    sizes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, sizes=whole(1))


@dataclass(frozen=True, kw_only=True)
class ExplainerSettings(TrainSettings):
    """Of ``train explainer``."""

    surrogate: Path
    objective: str
    pairs: int
    keep_pairs: bool
    keep_tokens: bool
    start: Path | None
    frozen: int | None
    taps: tuple[int, ...]
    predicts: str | None
    scale: str
    calibrate: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, pairs=whole(1), calibrate=whole(0), frozen=maybe(whole(0)))


def demo_settings(typed: argparse.Namespace) -> ExplainSettings:
    """Settings of ``demo``; the shipped explainer is found when it is loaded."""
    method = check_method("--method", typed.method, dashed)
    return _read(
        ExplainSettings, typed, method=method, budget=_budget(typed.budget, method),
        players=_DEMO_PLAYERS.get(method), background="drop" if method == AMORTIZED else "mean",
    )  # fmt: skip


def explain_settings(typed: argparse.Namespace) -> ExplainSettings:
    """Settings of ``explain``."""
    method = check_method("--method", typed.method, dashed)
    given = {option: getattr(typed, option) for option in OWN_OPTIONS}
    if typed.hierarchy is not None:
        given["hierarchy"] = [part.strip() for part in typed.hierarchy.split(",")]
    settings = _read(
        ExplainSettings, typed, method=method, images=tuple(typed.images),
        budget=_budget(typed.budget, method),
        background="drop" if method == AMORTIZED else typed.background,
        options={option: value for option, value in given.items() if value is not None},
    )  # fmt: skip
    if method == AMORTIZED:
        _check_trained(typed)
    else:
        _check_own_options(typed, method)
    return settings


def evaluate_settings(typed: argparse.Namespace) -> EvaluateSettings:
    """Settings of ``evaluate``."""
    named = dict.fromkeys(part.strip() for part in typed.methods.split(","))
    methods = tuple(check_method("--methods", name, dashed, COMPARED) for name in named)
    if AMORTIZED in methods and typed.explainer is None:
        came = f"{dashed(AMORTIZED)} without --explainer"
        raise bad("--methods", came, "explainer.safetensors there")
    if typed.explainer is not None:
        _check_trained(typed)
    background = typed.background if typed.explainer is None else "drop"
    return _read(
        EvaluateSettings, typed, images=tuple(typed.images), methods=methods, background=background
    )


def surrogate_settings(typed: argparse.Namespace) -> SurrogateSettings:
    """Settings of ``train surrogate``."""
    try:
        model_args = json.loads(typed.model_args)
        if not isinstance(model_args, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        expected = "a JSON object, as '{\"num_classes\": 10}'"
        raise bad("--model-args", repr(typed.model_args), expected, f"({error})") from error
    return _read(SurrogateSettings, typed, model_args=model_args)


def explainer_settings(typed: argparse.Namespace) -> ExplainerSettings:
    """Settings of ``train explainer``."""
    try:
        taps = tuple(int(k) for k in typed.taps.split(",") if k)
    except ValueError as error:
        expected = "numbers of blocks with commas between, as 2,4"
        raise bad("--taps", repr(typed.taps), expected) from error
    return _read(ExplainerSettings, typed, taps=taps)


def _read(kind: type[Read], typed: argparse.Namespace, **read: Any) -> Read:
    """Settings of what was typed, but for what has been read from it already."""
    names = [f.name for f in fields(kind) if hasattr(typed, f.name)]  # type: ignore[arg-type]
    return kind(**{**{name: getattr(typed, name) for name in names}, **read})


def _budget(given: int | str | None, method: str) -> int | str:
    """The budget, or the default of a method."""
    if given is None:
        return "auto" if method == AMORTIZED else 1000
    return given


def _check_own_options(typed: argparse.Namespace, method: str) -> None:
    """Raise if something is given that is of another method."""
    for option, owner in {**OWN_OPTIONS, "explainer": AMORTIZED}.items():
        given = getattr(typed, option)
        if given is not None and owner != method:
            flag = FLAGS.get(option, f"--{option}")
            raise bad(flag, given, f"it with --method {dashed(owner)} only")


def _check_trained(typed: argparse.Namespace) -> None:
    """Raise if there is no trained explainer, or something is given that it has settled."""
    if typed.explainer is None:
        raise bad(
            "--explainer",
            f"none for --method {dashed(AMORTIZED)}",
            "the explainer.safetensors of a training",
            "Train one: xai-patchshap train surrogate, then xai-patchshap train explainer.",
        )
    for option, defaults in _SETTLED.items():
        given = getattr(typed, option, defaults[0])  # evaluate has not all of them
        if given not in defaults:
            raise bad(
                FLAGS.get(option, f"--{option}"), given, f"none for --method {dashed(AMORTIZED)}",
                "The training has settled the patches and the model.",
            )  # fmt: skip
