"""What training keeps on disk serves the same images, weights and settings, and no others."""

from __future__ import annotations

import copy
import io
import json
import shutil
import threading
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from tests.helpers import random_images, tiny_vit
from torch.utils.data import DataLoader, Subset

from xai_patchshap import PatchShapError
from xai_patchshap import _files as _folders
from xai_patchshap._files import only_process_in
from xai_patchshap.amortized import (
    Recipe,
    Schedule,
    ShapleyViT,
    calibrate,
    shapley_values,
    train_explainer,
    train_surrogate,
)
from xai_patchshap.amortized.training.digests import images_digest, model_digest
from xai_patchshap.amortized.training.loop import _save_state
from xai_patchshap.game import Game
from xai_patchshap.models.named_model import ScoredImages

ONE_EPOCH = Schedule(epochs=1, batch_size=8, learning_rate=3e-3, validations=2, save_every=1)
TOKENS = {"fresh": False, "n_pairs": 2, "keep_tokens": True, "n_frozen": 2, "taps": [1]}
STAGES = {
    "surrogate": (train_surrogate, {}),
    "fresh pairs": (train_explainer, {"n_pairs": 2}),
    "kept pairs": (train_explainer, {"fresh": False, "n_pairs": 2}),
    "kept tokens": (train_explainer, TOKENS),
    "labels": (train_explainer, {"objective": "labels", "n_pairs": 2}),
}
KEEP = [name for name in STAGES if name != "fresh pairs"]


def train(stage, out, images=None, model=None, **options):
    function, own = STAGES[stage]
    given = {**own, **options}
    seed = {"seed": given.pop("seed")} if "seed" in given else {}
    schedule = replace(given.pop("schedule", ONE_EPOCH), **seed)
    if function is train_explainer:
        chosen = {f.name for f in fields(Recipe)} & set(given)
        given["recipe"] = Recipe(**{name: given.pop(name) for name in chosen})
    return function(
        tiny_vit() if model is None else model,
        list(random_images(24)) if images is None else images,
        out,
        schedule=schedule,
        **{"progress": False, "validation": list(random_images(6, seed=1)), **given},
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Folders in which stages have ended."""
    folders = {}

    def of(stage):
        if stage not in folders:
            folders[stage] = tmp_path_factory.mktemp("kept")
            train(stage, folders[stage])
        return folders[stage]

    return of


def with_stages(changes, often):
    """Every stage with every change; the quick tier takes them with one stage, in turn."""
    return [
        pytest.param(stage, change, marks=[] if quick else pytest.mark.slow)
        for i, change in enumerate(changes)
        for k, stage in enumerate(KEEP)
        for quick in [change in often or i % len(KEEP) == k]
    ]


def without(i):
    return lambda x: x[:i] + x[i + 1 :]


def swapped(i, j):
    def change(x):
        x[i], x[j] = x[j], x[i]
        return x

    return change


def replaced(i, of):
    def change(x):
        x[i] = of(x[i])
        return x

    return change


IMAGES = {
    "the last replaced": replaced(-1, lambda x: torch.rand(x.shape)),
    "one with its sign changed": replaced(5, lambda x: -x),
    "one mirrored": replaced(5, lambda x: x.flip(-1)),
    "one with its channels in another order": replaced(5, lambda x: x[[2, 1, 0]]),
    "one with the least change": replaced(7, lambda x: torch.nextafter(x, torch.ones(()))),
    "one added at the end": lambda x: [*x, random_images(1, seed=5)[0]],
    "one added in between": lambda x: [*x[:9], random_images(1, seed=5)[0], *x[9:]],
    "one removed from the end": without(-1 + 24),
    "one removed from between": without(9),
    "one removed and one added": lambda x: [*without(9)(x), random_images(1, seed=5)[0]],
    "two in another order": swapped(3, 17),
    "all the other way round": lambda x: x[::-1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "change"), with_stages(IMAGES, ["two in another order", "one removed and one added"])
)
def test_what_belongs_to_other_images_is_refused(kept, tmp_path, stage, change):
    shutil.copytree(kept(stage), tmp_path, dirs_exist_ok=True)
    images = IMAGES[change](list(random_images(24)))
    with pytest.raises(PatchShapError, match=r"out: got .* made with other training images"):
        train(stage, tmp_path, images)
    (tmp_path / "state.pt").unlink()
    with pytest.raises(PatchShapError, match=r"out: got .* made with other training images"):
        train(stage, tmp_path, images)
    held = IMAGES["one with its sign changed"](list(random_images(6, seed=1)))
    with pytest.raises(PatchShapError, match=r"out: got .* made with other validation images"):
        train(stage, tmp_path, validation=held)


@torch.no_grad()
def negated(model):
    model.blocks[1].mlp.fc1.weight.neg_()


@torch.no_grad()
def permuted(model):
    model.blocks[1].mlp.fc2.weight.copy_(model.blocks[1].mlp.fc2.weight.flip(0))


@torch.no_grad()
def exchanged(model):
    a, b = (block.attn.proj.bias for block in model.blocks)
    kept = a.clone()
    a.copy_(b)
    b.copy_(kept)


def with_other_heads(model):
    for block in model.blocks:
        block.attn.num_heads, block.attn.head_dim = 4, 4
        block.attn.scale = 0.5


@pytest.mark.parametrize(
    ("stage", "change"), with_stages([negated, permuted, exchanged, with_other_heads], [])
)
def test_what_belongs_to_other_weights_is_refused(kept, tmp_path, stage, change):
    model = tiny_vit()
    change(model)
    for without_state in (False, True):
        shutil.copytree(kept(stage), tmp_path, dirs_exist_ok=True)
        if without_state:
            (tmp_path / "state.pt").unlink()
        with pytest.raises(PatchShapError, match=r"out: got .* made with another model or o"):
            train(stage, tmp_path, model=model)


def test_a_normalisation_that_is_no_part_of_the_state_counts():
    vit = tiny_vit()
    one, other = (ScoredImages(vit, mean, (1.0,) * 3, False) for mean in ((0.5,) * 3, (0.4,) * 3))
    assert one.state_dict().keys() == other.state_dict().keys()
    assert model_digest(one) != model_digest(other)
    assert model_digest(one) == model_digest(copy.deepcopy(one).train())


@pytest.mark.parametrize(
    ("stage", "options", "said"),
    [
        ("surrogate", {"seed": 1}, "seed=0, not 1"),
        ("surrogate", {"n_sizes": 4}, "n_sizes=8, not 4"),
        ("kept pairs", {"seed": 1}, "seed=0, not 1"),
        ("kept pairs", {"n_pairs": 3}, "n_pairs=2, not 3"),
        ("kept pairs", {"probability": False}, "probability=True, not False"),
        ("labels", {"n_pairs": 3}, "n_pairs=2, not 3"),
        ("kept tokens", {"n_frozen": 1, "taps": ()}, "n_frozen=2, not 1"),
        ("kept tokens", {"taps": ()}, r"taps=\[1\], not \[\]"),
    ],
)
def test_what_belongs_to_other_settings_is_refused(tmp_path, stage, options, said):
    train(stage, tmp_path)
    (tmp_path / "state.pt").unlink()
    if stage == "surrogate":  # whose targets do not depend on them
        train(stage, tmp_path)
    with pytest.raises(PatchShapError, match=rf"out: got .* made with .*{said}"):
        train(stage, tmp_path, **options)


def test_a_note_of_another_run_does_not_make_its_values_ours(tmp_path):
    train("kept pairs", tmp_path / "a")
    right = train("kept pairs", tmp_path / "b", seed=1).state_dict()
    for file in (tmp_path / "a" / "pairs").glob("*.npy"):
        shutil.copy(file, tmp_path / "b" / "pairs" / file.name)
    (tmp_path / "b" / "state.pt").unlink()
    again = train("kept pairs", tmp_path / "b", seed=1).state_dict()
    assert all(torch.equal(right[k], again[k]) for k in right)


DAMAGES = ["flipped", "cut", "empty", "gone", "note", "no note"]


@pytest.mark.parametrize(("stage", "damage"), with_stages(DAMAGES, []))
def test_damaged_values_are_computed_again(kept, tmp_path, stage, damage):
    shutil.copytree(kept(stage), tmp_path, dirs_exist_ok=True)
    right = train(stage, tmp_path).state_dict()
    (tmp_path / "state.pt").unlink()
    for file in (*tmp_path.glob("*/*.npy"), *tmp_path.glob("*/*.json")):
        is_note = file.suffix == ".json"
        if is_note != ("note" in damage):
            continue
        content = bytearray(file.read_bytes())
        if damage == "flipped":
            content[-2] ^= 0x40
        file.write_bytes({"cut": content[:-9], "empty": b"", "note": b"{"}.get(damage, content))
        if damage in ("gone", "no note"):
            file.unlink()
    again = train(stage, tmp_path).state_dict()
    assert all(torch.equal(right[k], again[k]) for k in right)


class Stops(list):
    """Images that can be had a number of times."""

    left = 10**9

    def __getitem__(self, index):
        if Stops.left == 0:
            raise KeyboardInterrupt
        Stops.left -= 1
        return super().__getitem__(index)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_stopped_anywhere_ends_as_one_that_was_not(tmp_path, stage):
    images = Stops(random_images(24))
    Stops.left = total = 10**6
    right = train(stage, tmp_path / "whole", images).state_dict()
    total -= Stops.left
    stops = 0
    Stops.left = total // 3
    while True:
        try:
            again = train(stage, tmp_path / "stopped", images).state_dict()
            break
        except KeyboardInterrupt:
            stops += 1
            Stops.left = total // 3 + 9 * stops
    Stops.left = 10**9
    assert stops >= 1
    assert all(torch.equal(right[k], again[k]) for k in right)


@pytest.mark.parametrize("stage", ["surrogate", "labels"])
def test_a_folder_belongs_to_one_run_at_a_time(tmp_path, monkeypatch, stage):
    monkeypatch.setattr(_folders, "_PATIENCE", 0)
    refused = []

    def second():
        try:
            train(stage, tmp_path)
        except PatchShapError as error:
            refused.append(str(error))

    with only_process_in(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "is at work; expected a folder that no other process writes to" in refused[0]
    train(stage, tmp_path)


def test_a_folder_that_is_none_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PatchShapError, match=r"folder: got .*; expected a folder that can be"):
            train("surrogate", out, images=None)


class Random(list):
    def __getitem__(self, index):
        return super().__getitem__(index) + torch.rand(())


@pytest.mark.parametrize("stage", ["surrogate", pytest.param("labels", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "dataset: got no images; expected at least one"),
        (DataLoader(list(random_images(8))), r"DataLoader; expected .* give its \.dataset"),
        (iter(random_images(8)), "iterator; expected a dataset with a length"),
        (Random(random_images(8)), "other images when they are asked for again; exp"),
        ([(x * 255).byte() for x in random_images(8)], r"an image of torch\.uint8; expected f"),
        ([*random_images(8)[:7], torch.rand(3, 16, 12)], r"shape \(3, 16, 12\) and .* in image 7"),
        ([*random_images(8)[:7], torch.full((3, 16, 16), torch.nan)], "NaN or infinite num"),
        ([*random_images(8)[:7], torch.rand(3, 16, 16).double()], "float64 in image 7; expected"),
        ([x.double() for x in random_images(8)], r"raises RuntimeError; expected .* \.float\(\)"),
        (list(random_images(8, size=12)), "raises AssertionError; expected a model that takes"),
        ([x[:1] for x in random_images(8)], "raises RuntimeError; expected a model that takes"),
        (random_images(8).numpy(), "an image of ndarray; expected tensors"),
        ([()] * 8, "an image of tuple; expected tensors"),
    ],
    ids=range(13),
)  # fmt: skip
def test_images_that_cannot_be_trained_on_are_refused(tmp_path, stage, images, message):
    held = {"validation": images} if "raises" in message else {}
    with pytest.raises(PatchShapError, match=message):
        train(stage, tmp_path / "out", images=images, **held)
    with pytest.raises(PatchShapError):
        train(stage, tmp_path / "out", validation=images)
    assert not (tmp_path / "out" / "targets").exists()


class WritesIntoItsInput(torch.nn.Module):
    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, x):
        return self.vit(x.sub_(0.5).div_(0.5))


class WritesNothing(WritesIntoItsInput):
    def forward(self, x):
        return self.vit((x - 0.5) / 0.5)


@pytest.mark.parametrize("stage", ["surrogate", "fresh pairs", "kept tokens", "labels"])
def test_a_model_that_writes_into_its_input_changes_no_images(tmp_path, stage):
    images, held = list(random_images(24)), list(random_images(6, seed=1))
    found = {}
    for kind in (WritesIntoItsInput, WritesNothing):
        model = kind(tiny_vit()).eval()
        found[kind] = train(
            stage, tmp_path / kind.__name__, images, model, validation=held
        ).state_dict()
    assert all(torch.equal(a, b) for a, b in zip(images, random_images(24), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(held, random_images(6, seed=1), strict=True))
    first, second = found.values()
    assert all(torch.allclose(first[k], second[k], atol=1e-5) for k in first)
    x = random_images()
    network = ShapleyViT(WritesIntoItsInput(tiny_vit()).eval())
    network(x), network.whole_images(x)
    assert torch.equal(x, random_images())


@pytest.mark.parametrize(
    ("wraps", "message"),
    [
        (lambda y: {"logits": y}, r"got a dict .*; expected .* lambda x: model\(x\)\[\"logits\"\]"),
        (lambda y: (y, y), "got a tuple of 2"),
        (lambda y: y[:, None], "gives an output of shape"),
        (lambda y: y.sum(), "gives an output of shape"),
        (lambda y: y * torch.nan, "gives an output that is not finite"),
        (lambda y: None, "got None"),
    ],
    ids=range(6),
)
def test_what_gives_no_logits_is_refused_before_any_work(tmp_path, wraps, message):
    class Odd(WritesNothing):
        def forward(self, x):
            return wraps(super().forward(x))

    with pytest.raises(PatchShapError, match="classifier: .*" + message):
        train("surrogate", tmp_path / "out", model=Odd(tiny_vit()).eval())
    assert not (tmp_path / "out").exists()


def test_tensors_subsets_and_lists_of_the_same_images_are_the_same():
    x = random_images(9)
    found = {
        images_digest(images, name="dataset", workers=workers)
        for images in (x, list(x), [(i, 3) for i in x], Subset(list(x), range(9)))
        for workers in (0, 1)
    }
    assert len(found) == 1


def test_a_calibration_goes_on_where_it_was(tmp_path, monkeypatch):
    network = ShapleyViT(tiny_vit(), n_frozen=1).eval()
    images = random_images(6)
    asked, right = [], calibrate(copy.deepcopy(network), images, reference_budget=40, budgets=(16,))
    original = Game.evaluate

    def counted(self, coalitions):
        asked.append(len(coalitions))
        if len(asked) == stop:
            raise KeyboardInterrupt
        return original(self, coalitions)

    monkeypatch.setattr(Game, "evaluate", counted)
    options = {"reference_budget": 40, "budgets": (16,), "keep": tmp_path}
    stop = 2
    with pytest.raises(KeyboardInterrupt):
        calibrate(network, images, **options)
    stop, asked = 0, []
    found = calibrate(network, images, **options)
    assert len(asked) == 2  # the last references, and the refinements
    assert found["ridge"] == right["ridge"]
    assert np.allclose(found["rmse"], right["rmse"])
    calibrate(network, images[:3], **options)  # others' references are not taken
    assert len(list(tmp_path.iterdir())) == 2
    notes = {json.loads(n.read_text())["key"]["images"] for n in tmp_path.glob("*/*.json")}
    assert len(notes) == 2


def test_a_calibration_that_is_interrupted_keeps_no_half_of_its_values(monkeypatch):
    network = ShapleyViT(tiny_vit(), n_frozen=1).eval()
    original, calls = ShapleyViT.whole_logits, []

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, images)

    monkeypatch.setattr(ShapleyViT, "whole_logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shapley_values(network, random_images(4), 64, batch_size=32)


def test_a_run_that_fitted_labels_under_their_former_name_goes_on(tmp_path):
    right = train("labels", tmp_path).state_dict()
    for note in tmp_path.glob("labels/*.json"):
        note.write_text(
            note.read_text().replace('"objective": "labels"', '"objective": "regression"')
        )
    content = (tmp_path / "state.pt").read_bytes()[32:]
    state = torch.load(io.BytesIO(content), weights_only=True)
    state["settings"]["objective"] = "regression"
    _save_state(tmp_path / "state.pt", state)
    stamp = (tmp_path / "state.pt").stat().st_mtime_ns
    again = train("labels", tmp_path).state_dict()
    assert (tmp_path / "state.pt").stat().st_mtime_ns == stamp
    assert all(torch.equal(right[k], again[k]) for k in right)


@pytest.mark.parametrize("n_frozen", [0, 1, 2])
def test_gradient_checkpointing_changes_no_network(n_frozen):
    vit = tiny_vit()
    plain = ShapleyViT(vit, n_frozen=n_frozen).eval()
    vit.set_grad_checkpointing(True)
    checkpointed = ShapleyViT(vit, n_frozen=n_frozen).eval()
    assert vit.grad_checkpointing
    x = random_images()
    shown = torch.rand(4, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    for a, b in zip(plain(x), checkpointed(x), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plain.null, checkpointed.null)
    rows = torch.arange(4)
    values = plain.coalition_values(x, rows, shown)
    assert torch.equal(values, checkpointed.coalition_values(x, rows, shown))


def test_cards_and_architectures_that_do_not_fit_are_refused_before_any_work(tmp_path):
    from tests.amortized.test_checkpoints import TINY

    right = TINY.build()
    for stage in ("surrogate", "labels"):
        for model, message in (
            (tiny_vit(), "whose weights are not the model's; expected"),
            (
                ScoredImages(right.model, (0.1,) * 3, TINY.std, False),
                "gives other outputs; exp",
            ),
            (ScoredImages(right.model, TINY.mean, TINY.std, True), "gives other outputs; exp"),
        ):
            with pytest.raises(PatchShapError, match=message):
                train(stage, tmp_path / "out", model=model, architecture=TINY)
        with pytest.raises(PatchShapError, match=r"card: got .*; expected a dictionary of wh"):
            train(stage, tmp_path / "out", card={"folder": tmp_path})
        assert not (tmp_path / "out").exists()
    train("surrogate", tmp_path / "out", model=right, architecture=TINY)
