"""The training stages: they learn, go on after a kill, and do not depend on how they are run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import random_images, tiny_vit
from torch import nn

from xai_patchshap import PatchShapError, TokenDropping
from xai_patchshap.amortized import (
    Recipe,
    Schedule,
    ShapleyViT,
    explained_variance,
    load_card,
    predicted_game,
    shapley_values,
    train_explainer,
    train_surrogate,
)
from xai_patchshap.amortized.training.objectives import uniform_sizes
from xai_patchshap.amortized.training.table import Table
from xai_patchshap.samples import cifar10_explainer, cifar10_images

HERE = Path(__file__).parent
QUICK = Schedule(epochs=2, batch_size=8, learning_rate=3e-3, validations=4)


def surrogate_of(out, images=None, model=None, **options):
    images = list(random_images(32)) if images is None else images
    schedule = replace(options.pop("schedule", QUICK), seed=options.pop("seed", 0))
    options = {"validation": images[:8], "progress": False, **options}
    return train_surrogate(tiny_vit() if model is None else model, images, out, schedule, **options)


def explainer_of(out, images=None, model=None, **options):
    images = list(random_images(32)) if images is None else images
    schedule = replace(options.pop("schedule", QUICK), seed=options.pop("seed", 0))
    accelerator = options.pop("accelerator", None)
    recipe = Recipe(**{"n_pairs": 2, **options})
    return train_explainer(
        tiny_vit() if model is None else model, images, out, recipe, schedule,
        validation=images[:8], accelerator=accelerator, progress=False,
    )  # fmt: skip


def log_of(folder):
    with (folder / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_the_loss_of_a_surrogate_falls(tmp_path):
    images = list(random_images(64))
    surrogate_of(tmp_path, images, schedule=Schedule(epochs=2, batch_size=8, learning_rate=5e-3))
    log = log_of(tmp_path)
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["score"] < log[0]["score"]


@pytest.mark.slow
def test_the_surrogate_comes_closer_to_the_whole_image(tmp_path):
    images, model = list(random_images(64)), tiny_vit()
    schedule = Schedule(epochs=12, batch_size=16, learning_rate=5e-3)
    surrogate = surrogate_of(tmp_path, images, model, schedule=schedule)
    scores = [row["score"] for row in log_of(tmp_path)]
    assert min(scores) < scores[0]
    assert load_card(tmp_path / "surrogate.safetensors")["validation"]["divergence"] == min(scores)
    assert divergence(surrogate, model, images) < 0.8 * divergence(model, model, images)


@pytest.mark.parametrize(("n_games", "n_sizes"), [(1, 16), (4, 8), (12, 8), (64, 8)])
def test_sizes_of_coalitions_are_uniform_whatever_the_batch(n_games, n_sizes):
    generator = torch.Generator().manual_seed(0)
    drawn = [uniform_sizes(n_games, 9, n_sizes, generator).sum(1) for _ in range(6000 // n_games)]
    share = torch.bincount(torch.cat(drawn), minlength=10) / sum(map(len, drawn))
    assert (share - 0.1).abs().max() < 0.02


@torch.no_grad()
def divergence(student, teacher, images):
    x = torch.stack(images)
    shown = torch.rand(len(x), 16, generator=torch.Generator().manual_seed(9)) < 0.5
    found = TokenDropping(student).coalition_outputs(x, torch.arange(len(x)), shown)
    wanted = teacher(x).log_softmax(-1)
    kl = nn.functional.kl_div(found.log_softmax(-1), wanted, log_target=True, reduction="batchmean")
    return float(kl)


def test_the_classifier_is_not_trained(tmp_path):
    model = tiny_vit()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    surrogate = surrogate_of(tmp_path, model=model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert any(not torch.equal(v, before[k]) for k, v in surrogate.state_dict().items())


OBJECTIVES = [
    {},
    {"fresh": False},
    {"objective": "labels"},
    {"n_frozen": 0},
    {"probability": False},
    {"predicts": "values"},
    {"taps": [1], "n_frozen": 2},
]


def one_patch_differs(n):
    """Images that differ by the brightness of a patch: a network sees quickly what counts."""
    x = random_images(1).repeat(n, 1, 1, 1)
    x[:, :, 4:8, 8:12] *= torch.linspace(-3, 3, n)[:, None, None, None]
    return x


@pytest.mark.parametrize("options", OBJECTIVES, ids=str)
def test_with_every_objective_less_is_left_unexplained(tmp_path, options):
    images = list(one_patch_differs(32))
    schedule = Schedule(epochs=3, batch_size=8, learning_rate=5e-3, validations=3)
    explainer_of(tmp_path, images, n_pairs=8, schedule=schedule, **options)
    scores = [row["score"] for row in log_of(tmp_path)]
    assert scores[-1] < 0.99 * scores[0]


@pytest.mark.slow
@pytest.mark.parametrize("options", OBJECTIVES, ids=str)
def test_every_objective_learns_the_shapley_values(tmp_path, options):
    x = one_patch_differs(48)
    images = list(x)
    schedule = Schedule(epochs=40, batch_size=16, learning_rate=5e-3)
    network = explainer_of(tmp_path, images, n_pairs=16, schedule=schedule, **options)
    truth = shapley_values(network, x, 1500)
    with torch.no_grad():
        found = network(x)[0].double().numpy()
    assert np.mean([explained_variance(found[..., k], truth[..., k]) for k in range(3)]) > 0.7
    assert log_of(tmp_path)[-1]["score"] < log_of(tmp_path)[0]["score"] * 1.05


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("stage", ["surrogate", "fastshap", "pairs", "labels"])
def test_killed_runs_end_with_the_same_weights(tmp_path, stage):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", HERE / "kill_and_resume.py", stage, tmp_path, "5"],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["kills=3", "same_weights=True", "same_log=True"]


def test_a_finished_run_gives_its_weights_again_without_training(tmp_path):
    first = explainer_of(tmp_path)
    stamp = (tmp_path / "state.pt").stat().st_mtime_ns
    again = explainer_of(tmp_path)
    assert (tmp_path / "state.pt").stat().st_mtime_ns == stamp
    for k, v in first.trained_state().items():
        assert torch.equal(v, again.trained_state()[k])


@pytest.mark.parametrize("stage", [surrogate_of, explainer_of])
def test_seeds_hold(tmp_path, stage):
    before = torch.get_rng_state()
    images = list(random_images(16))
    a, b, c = (
        stage(tmp_path / str(i), images, seed=s).state_dict() for i, s in enumerate((0, 0, 1))
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


@pytest.mark.parametrize("stage", [surrogate_of, explainer_of])
def test_accumulated_parts_make_the_same_step(tmp_path, stage):
    one = stage(tmp_path / "one", schedule=Schedule(epochs=1, batch_size=8)).state_dict()
    parts = Schedule(epochs=1, batch_size=8, accumulate=4)
    four = stage(tmp_path / "four", schedule=parts).state_dict()
    assert all(torch.allclose(one[k], four[k], atol=1e-5) for k in one)


def test_half_precision_trains(tmp_path):
    schedule = Schedule(epochs=1, batch_size=8, autocast=torch.bfloat16)
    network = explainer_of(tmp_path, schedule=schedule)
    values, full = network(random_images())
    assert values.dtype == torch.float32
    assert torch.allclose(values.sum(1), full - network.null, atol=1e-5)


def test_workers_do_not_change_the_result(tmp_path):
    images = list(random_images(16))
    one = {**vars(QUICK), "epochs": 1}
    del one["workers"]
    a, b = (
        surrogate_of(tmp_path / str(n), images, schedule=Schedule(**one, workers=n)).state_dict()
        for n in (0, 2)
    )
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_labels_and_values_are_computed_once(tmp_path, monkeypatch):
    calls = []
    original = ShapleyViT.odd_values

    def counted(self, *arguments):
        calls.append(len(arguments[0]))
        return original(self, *arguments)

    monkeypatch.setattr(ShapleyViT, "odd_values", counted)
    explainer_of(tmp_path, objective="labels")
    assert sum(calls) == 32 + 8  # training images and validation images
    labels = np.load(tmp_path / "labels" / "labels-00000.npy")
    assert labels.shape == (32, 16, 3)


def test_coalitions_make_a_game_by_default_and_labels_values(tmp_path):
    assert explainer_of(tmp_path / "a").predicts == "game"
    assert explainer_of(tmp_path / "b", objective="labels").predicts == "values"
    network = explainer_of(tmp_path / "c", predicts="values", n_frozen=2, taps=(1,))
    assert (network.predicts, network.taps) == ("values", (1,))
    card = load_card(tmp_path / "c" / "explainer.safetensors")
    assert (card["predicts"], card["taps"]) == ("values", [1])


@pytest.mark.parametrize("options", [{"fresh": False}, {"objective": "labels"}], ids=str)
def test_kept_tokens_save_the_frozen_blocks(tmp_path, monkeypatch, options):
    options = {**options, "n_frozen": 2, "taps": (1,)}
    plain = explainer_of(tmp_path / "plain", **options).trained_state()
    calls = []
    original = ShapleyViT.shared

    def counted(self, images):
        calls.append(len(images))
        return original(self, images)

    monkeypatch.setattr(ShapleyViT, "shared", counted)
    kept = explainer_of(tmp_path / "kept", keep_tokens=True, **options).trained_state()
    # Training images once; validation images four times, and once with the best weights.
    assert sum(calls) == 32 + 5 * 8
    # Half precision; Adam makes steps of rounding where there is no gradient.
    moved = [(plain[k] - kept[k]).abs().max() for k in plain if "bias" not in k]
    assert max(moved) < 5e-3


def test_a_copy_of_the_surrogate_may_evaluate(tmp_path):
    images, vit, asked = list(random_images(32)), tiny_vit().eval(), []

    def copied(x, coalitions):
        asked.append(tuple(coalitions.shape))
        n, m, players = coalitions.shape
        rows = torch.arange(n).repeat_interleave(m)
        with torch.no_grad():
            found = TokenDropping(vit).coalition_outputs(x, rows, coalitions.reshape(-1, players))
        return found.reshape(n, m, -1)

    for options in ({"fresh": False}, {"objective": "labels"}):
        name = options.get("objective", "pairs")
        own = explainer_of(tmp_path / f"{name} own", images, vit, **options).state_dict()
        theirs = explainer_of(
            tmp_path / f"{name} theirs", images, vit, evaluate=copied, **options
        ).state_dict()
        assert all(torch.allclose(own[k], theirs[k], atol=1e-4) for k in own)
    assert asked == 2 * [(32, 4, 16)]
    with pytest.raises(PatchShapError, match="made with other code to evaluate with; expected"):
        explainer_of(tmp_path / "pairs own", images, vit, evaluate=copied, fresh=False)
    assert "copied" in load_card(tmp_path / "pairs theirs" / "explainer.safetensors")["recipe"][
        "evaluate"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            lambda x, s: torch.zeros(*s.shape[:2], 1),
            r"gives \(32, 4, 1\); expected .* \(32, 4, 3\)",
        ),
        (lambda x, s: torch.zeros(len(x) * s.shape[1], 3), r"gives \(128, 3\); expected one that"),
        (lambda x, s: torch.full((*s.shape[:2], 3), torch.nan), r"\(32, 4, 3\), some not finite;"),
    ],
)
def test_a_copy_that_gives_something_else_is_refused(tmp_path, found, message):
    with pytest.raises(PatchShapError, match="evaluate: got a function that .*" + message):
        explainer_of(tmp_path, fresh=False, evaluate=found)


def test_tokens_beyond_half_precision_are_refused(tmp_path):
    vit = tiny_vit()
    with torch.no_grad():
        vit.blocks[1].mlp.fc2.bias += 1e5
    with pytest.raises(PatchShapError, match="keep_tokens: got tokens beyond half precision; exp"):
        explainer_of(tmp_path, model=vit, fresh=False, keep_tokens=True)


def test_many_tables_need_few_open_files(tmp_path):
    resource = pytest.importorskip("resource")
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("nothing says how many files are open")
    table = Table(
        tmp_path, 64, lambda i: {"a": np.arange(64)[i]}, ["a"], {}, chunk=1, progress=False
    )
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    table._mapped = lru_cache(maxsize=8)(table._mapped.__wrapped__)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 16, before[1]))
    try:
        assert np.array_equal(table.rows(np.arange(64))["a"], np.arange(64))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_explaining_in_inference_mode_does_not_stop_training(tmp_path):
    network = explainer_of(tmp_path / "first", n_frozen=2)
    predicted_game._few.cache_clear()
    with torch.inference_mode():
        network(random_images())
    explainer_of(tmp_path / "second", n_frozen=2)


@pytest.mark.parametrize("first", ["values", "game"])
def test_training_goes_on_from_a_trained_network(tmp_path, first):
    images = list(random_images(32))
    vit = tiny_vit()
    given = explainer_of(tmp_path / "first", images, vit, n_frozen=2, predicts=first)
    more = ShapleyViT(vit, n_frozen=2, predicts="game", taps=(1,), seed=5)
    more.begin_from(given)
    x = torch.stack(images)
    with torch.no_grad():
        assert torch.allclose(given(x)[0], more(x)[0], atol=1e-6)
    slow = Schedule(epochs=1, batch_size=8, learning_rate=1e-9)
    options = {"n_frozen": 2, "taps": (1,), "schedule": slow}
    second = explainer_of(tmp_path / "second", images, vit, start=given, **options)
    with torch.no_grad():
        assert torch.allclose(given(x)[0], second(x)[0], atol=1e-5)
    card = load_card(tmp_path / "second" / "explainer.safetensors")
    assert "start" in card["recipe"]
    with pytest.raises(PatchShapError, match="was made with another network to start from; exp"):
        explainer_of(tmp_path / "second", images, vit, **options)


def test_training_never_returns_less_than_it_began_with(tmp_path):
    images, vit = list(random_images(32)), tiny_vit()
    given = explainer_of(tmp_path / "first", images, vit, n_frozen=2, n_pairs=8)
    wild = Schedule(epochs=1, batch_size=8, learning_rate=0.05, validations=1)
    again = explainer_of(
        tmp_path / "second", images, vit, n_frozen=2, start=given, schedule=wild
    ).trained_state()
    assert all(torch.equal(v, again[k]) for k, v in given.trained_state().items())


def test_parts_of_a_step_have_the_same_noise(tmp_path):
    """Accumulated parts, with a game that is not flat."""
    images, vit = list(random_images(8)), tiny_vit()
    start = ShapleyViT(vit, n_frozen=2, predicts="game")
    nn.init.normal_(start.head[2].weight, std=0.5)
    common = {"n_frozen": 2, "start": start, "n_pairs": 4}
    one, four = (
        explainer_of(
            tmp_path / str(parts), images, vit,
            schedule=Schedule(
                epochs=1, batch_size=8, learning_rate=1e-3, accumulate=parts, validations=1
            ),
            **common,
        ).trained_state()
        for parts in (1, 4)
    )  # fmt: skip
    assert any(not torch.equal(v, start.trained_state()[k]) for k, v in one.items())
    assert all(torch.allclose(one[k], four[k], atol=1e-4) for k in one if "bias" not in k)


def test_a_start_that_does_not_fit_is_refused(tmp_path):
    vit = tiny_vit()
    given = ShapleyViT(vit, n_frozen=2, predicts="game", taps=(1,))
    with pytest.raises(PatchShapError, match=r"start: got a network with .* expected one"):
        explainer_of(tmp_path, model=vit, n_frozen=1, start=given)
    for other in ({"mlp_ratio": 2.0}, {"num_heads": 4}):
        stranger = ShapleyViT(tiny_vit(**other), n_frozen=2)
        with pytest.raises(PatchShapError, match=r"start: got a network with .* expected one"):
            explainer_of(tmp_path, model=vit, n_frozen=2, start=stranger)
    with pytest.raises(PatchShapError, match="start: got VisionTransformer; expected a ShapleyV"):
        explainer_of(tmp_path, model=vit, start=vit)
    for options in ({"predicts": "values", "taps": (1,)}, {"predicts": "game"}):
        with pytest.raises(PatchShapError, match=r"start: got a network with taps=\(1,\), predic"):
            explainer_of(tmp_path, model=vit, n_frozen=2, start=given, **options)


@pytest.mark.slow
def test_a_predicted_game_is_a_control_variate():
    vit = tiny_vit(depth=3)
    x = random_images(2)
    network = ShapleyViT(vit, predicts="game").eval()
    torch.manual_seed(0)
    nn.init.normal_(network.head[2].weight, std=0.3)  # a wrong game: noise, but no bias
    truth = shapley_values(network, x, 2**15)
    for control in (False, True):
        found = shapley_values(network, x, [500, 8000], control=control, seed=3)
        errors = [1 - explained_variance(*(v[..., 0] for v in (f, truth))) for f in found]
        assert errors[1] < min(0.02, errors[0])


def test_a_network_without_a_game_has_no_control_variate():
    with pytest.raises(PatchShapError, match="control: got a network that predicts values; expec"):
        shapley_values(ShapleyViT(tiny_vit()), random_images(2), 32, control=True)


@pytest.mark.slow
def test_the_shipped_game_leaves_less_noise():
    network, images = cifar10_explainer(), cifar10_images()[0][:3]
    truth = shapley_values(network, images, 3000, control=True, seed=1)
    errors = [
        ((shapley_values(network, images, 600, control=control, seed=2) - truth) ** 2).sum()
        for control in (True, False)
    ]
    assert errors[0] < 0.6 * errors[1]


def test_items_may_carry_labels(tmp_path):
    images = [(x, 1) for x in random_images(32)]
    plain = surrogate_of(tmp_path / "plain").state_dict()
    labelled = surrogate_of(tmp_path / "labelled", images).state_dict()
    assert all(torch.equal(plain[k], labelled[k]) for k in plain)


def test_a_folder_of_another_run_is_refused(tmp_path):
    surrogate_of(tmp_path)
    with pytest.raises(PatchShapError, match=r"out: got '.*', which .* made with seed=0, not 1; e"):
        surrogate_of(tmp_path, seed=1)
    with pytest.raises(PatchShapError, match="made with another model or other weights; expected"):
        surrogate_of(tmp_path, model=tiny_vit(seed=1))


def test_a_damaged_state_is_refused(tmp_path):
    surrogate_of(tmp_path)
    file = tmp_path / "state.pt"
    right = file.read_bytes()
    flipped = bytearray(right)
    flipped[len(right) // 2] ^= 8
    for wrong in (right[:1000], b"", bytes(flipped), right + b"\0"):
        file.write_bytes(wrong)
        with pytest.raises(PatchShapError, match="expected the state of a run of this stage"):
            surrogate_of(tmp_path)


class Evil:
    def __reduce__(self):
        return (print, ("unpickled!",))


def test_a_state_with_code_in_it_is_not_run(tmp_path, capsys):
    buffer = io.BytesIO()
    torch.save({"settings": Evil()}, buffer)
    content = buffer.getvalue()
    (tmp_path / "state.pt").write_bytes(hashlib.sha256(content).digest() + content)
    with pytest.raises(PatchShapError, match="expected the state of a run"):
        surrogate_of(tmp_path)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: got 0; expected a whole number of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0; expected a finite number above 0"),
        ({"warm_up": 1.0}, "warm_up: got 1.0; expected a finite number of at least 0 and below 1"),
        ({"batch_size": 9, "accumulate": 2}, "accumulate: got 2; expected a divisor of"),
    ],
)
def test_bad_schedules_are_refused(options, message):
    with pytest.raises(PatchShapError, match=message):
        Schedule(**options)


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(PatchShapError, match="objective: got 'magic'; expected one of"):
        explainer_of(tmp_path, objective="magic")
    with pytest.raises(PatchShapError, match="predicts: got 'game' with objective='labels'"):
        explainer_of(tmp_path, objective="labels", predicts="game")
    with pytest.raises(PatchShapError, match="keep_tokens: got fresh=True beside it; expected fre"):
        explainer_of(tmp_path, keep_tokens=True)
    with pytest.raises(PatchShapError, match="evaluate: got fresh=True beside it; expected fresh="):
        explainer_of(tmp_path, evaluate=lambda images, coalitions: coalitions)
    with pytest.raises(PatchShapError, match="n_pairs: got 0; expected a whole number"):
        explainer_of(tmp_path, n_pairs=0)
    with pytest.raises(PatchShapError, match="n_sizes: got 0; expected a whole number"):
        surrogate_of(tmp_path, n_sizes=0)
    with pytest.raises(PatchShapError, match=r"dataset: got an image of ndarray; expected tensors"):
        surrogate_of(tmp_path, [np.zeros((16, 16, 3))] * 8)
    with pytest.raises(PatchShapError, match=r"image of shape \(16, 16\)"):
        surrogate_of(tmp_path, [torch.zeros(16, 16)] * 8)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    schedule = Schedule(epochs=20, batch_size=8, learning_rate=1e30, warm_up=0.0)
    with pytest.raises(PatchShapError, match="is not finite; expected a finite one"):
        surrogate_of(tmp_path, schedule=schedule)


TWO_PROCESSES = """
import sys, torch
sys.path.insert(0, {root!r})
torch.set_num_threads(1)
from accelerate import Accelerator
from tests.amortized.test_training import surrogate_of, explainer_of
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
surrogate_of({out!r} + "/surrogate", accelerator=accelerator)
explainer_of({out!r} + "/explainer", fresh=False, accelerator=accelerator)
accelerator.end_training()
"""


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path):
    pytest.importorskip("accelerate")
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES.format(root=str(HERE.parents[1]), out=str(tmp_path / "two")))
    subprocess.run(
        [
            sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone",
            "--nproc_per_node", "2", str(script),
        ],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    surrogate_of(tmp_path / "one" / "surrogate")
    explainer_of(tmp_path / "one" / "explainer", fresh=False)
    for stage in ("surrogate", "explainer"):
        name = f"{stage}/{stage}.safetensors"
        one, two = (load_file(tmp_path / n / name) for n in ("one", "two"))
        # Biases of keys have no gradient but rounding, which Adam makes steps of.
        assert all(torch.allclose(one[k], two[k], atol=2e-4) for k in one)
        card = json.loads((tmp_path / "two" / name).with_suffix(".json").read_text())
        assert card["kind"] == stage
