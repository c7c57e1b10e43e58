"""Damaged, foreign and hostile checkpoints are refused in words, and open nothing."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import struct

import hypothesis.strategies as st
import pytest
import timm
import torch
from hypothesis import given, settings
from safetensors.torch import save, save_file
from tests.amortized.test_checkpoints import TINY
from tests.helpers import random_images, tiny_vit

from xai_patchshap import PatchShapError
from xai_patchshap.amortized import (
    Architecture,
    ShapleyViT,
    cards,
    checkpoints,
    load_card,
    load_classifier,
    load_explainer,
    load_surrogate,
    save_explainer,
    save_surrogate,
)
from xai_patchshap.samples import cifar10_path

FILES = [f"{n}.{s}" for n in ("surrogate", "explainer") for s in ("json", "safetensors")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with both checkpoints, which tests copy."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model = TINY.build()
    model.model.load_state_dict(tiny_vit().state_dict())
    network = ShapleyViT(model, n_frozen=1).eval()
    network.ridge, network.rmse = 12.5, [0.1, 0.2, 0.3]
    surrogate = folder / "surrogate.safetensors"
    save_surrogate(model, surrogate, architecture=TINY, card={"data": "noise", "é": [1e-7]})
    save_explainer(
        network, folder / "explainer.safetensors", surrogate=surrogate,
        card={"class_names": ["a", "b", "c"]},
    )  # fmt: skip
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def signed(content):
    """The text of a card whose own digest is right, whatever it says."""
    text = json.dumps({**content, "sha256": "0" * 64}, indent=1) + "\n"
    return text.replace("0" * 64, cards._card_digest(text.encode()))


def rewrite(folder, name, **changes):
    """Change a card as someone would who knows how its digests are made."""
    file = folder / f"{name}.json"
    content = {**json.loads(file.read_text()), **changes}
    content = {k: v for k, v in content.items() if v is not ...}
    file.write_text(signed(content))
    if name == "surrogate":
        own = load_card(file) if _is_fine(file) else {"sha256": "0" * 64}
        beside = {"file": "surrogate.safetensors", "sha256": own["sha256"]}
        rewrite(folder, "explainer", surrogate=beside)


def _is_fine(file):
    try:
        load_card(file)
    except PatchShapError:
        return False
    return True


def test_what_the_helper_signs_is_taken(folder):
    rewrite(folder, "surrogate", data="other")
    load_explainer(folder / "explainer.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_no_bit_flips_without_notice(folder, name):
    file = folder / name
    right = file.read_bytes()
    step = max(1, len(right) // 25)
    for place in itertools.chain(range(0, len(right), step), range(9), range(-4, 0)):
        content = bytearray(right)
        content[place] ^= 1 << (place * 7 % 8)
        file.write_bytes(content)
        with pytest.raises(PatchShapError):
            load_explainer(folder / "explainer.safetensors")
    file.write_bytes(right)
    load_explainer(folder / "explainer.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["surrogate.json", "explainer.json"])
def test_no_bit_of_a_card_flips_without_notice(folder, name):
    right = (folder / name).read_bytes()
    for place, bit in itertools.product(range(len(right)), range(8)):
        content = bytearray(right)
        content[place] ^= 1 << bit
        (folder / name).write_bytes(content)
        with pytest.raises(PatchShapError):
            load_card(folder / name)


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_cut_without_notice(folder, name):
    file = folder / name
    right = file.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(right) // 2, len(right) - 1):
        file.write_bytes(right[:length])
        with pytest.raises(PatchShapError):
            load_explainer(folder / "explainer.safetensors")
    file.write_bytes(right + b"\n")
    with pytest.raises(PatchShapError):
        load_explainer(folder / "explainer.safetensors")


def test_lines_that_git_ended_its_own_way_are_the_same_card(folder):
    for name in ("surrogate.json", "explainer.json"):
        file = folder / name
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    load_explainer(folder / "explainer.safetensors")


@pytest.mark.parametrize("name", ["classifier", "surrogate", "explainer"])
def test_what_is_shipped_is_checked_too(tmp_path, name):
    shutil.copytree(cifar10_path().parent, tmp_path, dirs_exist_ok=True)
    load = {
        "classifier": load_classifier, "surrogate": load_surrogate, "explainer": load_explainer
    }[name]  # fmt: skip
    file = tmp_path / f"{name}.safetensors"
    load(file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 | 1] ^= 0x40
    file.write_bytes(content)
    with pytest.raises(PatchShapError, match="its SHA-256 is not that of its card"):
        load(file)


def test_another_normalisation_of_the_surrogate_is_noticed(folder):
    before = (folder / "explainer.json").read_text()
    architecture = {**TINY.as_dict(), "mean": [0.9, 0.9, 0.9]}
    card = json.loads((folder / "surrogate.json").read_text())
    (folder / "surrogate.json").write_text(json.dumps({**card, "architecture": architecture}))
    with pytest.raises(PatchShapError, match="contents are not those of its SHA-256"):
        load_explainer(folder / "explainer.safetensors")
    rewrite(folder, "surrogate", architecture=architecture)
    load_surrogate(folder / "surrogate.safetensors")
    (folder / "explainer.json").write_text(before)
    with pytest.raises(PatchShapError, match="another card or other contents than the explainer"):
        load_explainer(folder / "explainer.safetensors")


def test_cards_of_the_first_format_are_refused_with_a_way_out(folder):
    card = json.loads((folder / "explainer.json").read_text())
    (folder / "explainer.json").write_text(json.dumps({**card, "version": "1"}))
    with pytest.raises(PatchShapError, match=r"of version '1'; expected version '2'.*Train again"):
        load_explainer(folder / "explainer.safetensors")


class Evil:
    def __reduce__(self):
        return (print, ("opened!",))


OPENS = {
    "checkpoint_path": "weights.bin",
    "pretrained": True,
    "pretrained_cfg": {"file": "weights.bin"},
    "pretrained_cfg_overlay": {"file": "weights.bin"},
    "pretrained_strict": False,
    "cache_dir": "/tmp",
    "features_only": True,
    "scriptable": True,
    "exportable": True,
    "no_jit": True,
    "block_fn": "torch.nn.Linear",
    "embed_layer": "builtins.eval",
    "mlp_layer": "os.system",
    "attn_layer": "attention",
    "device": "cuda",
    "dtype": "float16",
    "__class__": "x",
    "": 1,
}


@pytest.mark.parametrize("option", OPENS)
def test_a_card_opens_nothing(folder, capsys, option):
    torch.save({"state_dict": Evil()}, folder / "weights.bin")
    value = str(folder / "weights.bin") if option == "checkpoint_path" else OPENS[option]
    architecture = TINY.as_dict()
    architecture["options"] = {**architecture["options"], option: value}
    rewrite(folder, "surrogate", architecture=architecture)
    for load, name in ((load_surrogate, "surrogate"), (load_explainer, "explainer")):
        with pytest.raises(PatchShapError, match=r"architecture: got an option .*; expected t"):
            load(folder / f"{name}.safetensors")
    assert "opened" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:timm/vit_tiny_patch16_224", "hf_hub:x", "local-dir:/tmp", "/tmp/vit", "../vit",
        "timm/vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k", "https://x.y/z",
        "vit_tiny_patch16_224\n", "VIT_TINY_PATCH16_224", "no_such_vit", "resnet18", "",
        "a" * 10**6, "vit_tiny_patch16_224\0", "vít", None, 3, ["vit_tiny_patch16_224"], {"a": 1},
    ],
)  # fmt: skip
def test_only_plain_names_that_timm_knows_are_built(folder, name):
    rewrite(folder, "surrogate", architecture={**TINY.as_dict(), "name": name})
    with pytest.raises(PatchShapError, match="expected the name of a VisionTransformer that timm"):
        load_surrogate(folder / "surrogate.safetensors")


HOSTILE_OPTIONS = [
    {"depth": 10**6}, {"depth": 1000}, {"depth": 10**30}, {"depth": -1}, {"depth": 2.5},
    {"embed_dim": 10**9}, {"embed_dim": 2**20}, {"embed_dim": 0}, {"embed_dim": "x"},
    {"img_size": 10**9}, {"img_size": 2**20}, {"img_size": [2**20, 2**20]}, {"img_size": 0},
    {"img_size": [16]}, {"img_size": [16, 16, 16]}, {"img_size": "big"}, {"img_size": [16, [16]]},
    {"patch_size": 0}, {"patch_size": -4}, {"patch_size": 2**20}, {"patch_size": None},
    {"num_classes": 10**9}, {"num_classes": 2**20}, {"num_classes": -1}, {"num_classes": 0},
    {"num_heads": 0}, {"num_heads": 3}, {"mlp_ratio": 1e300}, {"mlp_ratio": 10**6},
    {"mlp_ratio": -1}, {"in_chans": 2**20}, {"in_chans": 0}, {"in_chans": None},
    {"reg_tokens": 2**20}, {"global_pool": "a" * 33}, {"global_pool": "os.system"},
    {"global_pool": "nothing"}, {"act_layer": "nothing"}, {"norm_layer": {"a": 1}},
    {"class_token": []}, {"drop_rate": 10**7}, {"init_values": [1.0]},
]  # fmt: skip


@pytest.mark.parametrize("options", HOSTILE_OPTIONS, ids=str)
def test_absurd_sizes_are_refused_before_anything_is_built(folder, options):
    architecture = TINY.as_dict()
    architecture["options"] = {**architecture["options"], **options}
    rewrite(folder, "surrogate", architecture=architecture)
    with pytest.raises(PatchShapError):
        load_surrogate(folder / "surrogate.safetensors")


@pytest.mark.parametrize("name", ["vit_gigantic_patch14_224", "vit_large_patch16_224"])
def test_a_large_name_for_small_weights_takes_no_memory(folder, name, monkeypatch):
    devices = []
    create = timm.create_model

    def noted(*arguments, **options):
        devices.append(options.get("device"))
        return create(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", noted)
    rewrite(folder, "surrogate", architecture={"name": name})
    with pytest.raises(PatchShapError, match="expected the weights of this architecture"):
        load_surrogate(folder / "surrogate.safetensors")
    assert devices == ["meta"]


@pytest.mark.parametrize(
    "architecture",
    [
        "vit", 3, [], ["vit_tiny_patch16_224"], {}, {"options": {}},
        {**TINY.as_dict(), "open": 1}, {**TINY.as_dict(), "options": None},
        {**TINY.as_dict(), "options": [1]}, {**TINY.as_dict(), "mean": None},
        {**TINY.as_dict(), "mean": [0.5]}, {**TINY.as_dict(), "mean": ["0.5"] * 3},
        {**TINY.as_dict(), "mean": [1e30, 0, 0]}, {**TINY.as_dict(), "mean": 0.5},
        {**TINY.as_dict(), "std": [0.0, 1.0, 1.0]}, {**TINY.as_dict(), "std": [True] * 3},
        {**TINY.as_dict(), "std": {}},
    ],
    ids=str,
)  # fmt: skip
def test_malformed_architectures_are_refused(folder, architecture):
    rewrite(folder, "surrogate", architecture=architecture)
    with pytest.raises(PatchShapError):
        load_surrogate(folder / "surrogate.safetensors")


MALFORMED = [
    {"n_frozen": v} for v in (..., None, -1, 3, 10**9, 10**30, 1.0, "1", True, [1])
] + [
    {"n_extra": v} for v in (..., None, -1, 0, 2, 10**6, 10**30, 1.0, "1", False)
] + [
    {"probability": v} for v in (..., None, 1, "true", [])
] + [
    {"predicts": v} for v in (..., None, 1, "game", "everything", ["values"], {})
] + [
    {"taps": v} for v in (..., None, 1, "1", [1], [0], [-1], [1.0], [True], [[1]], [10**30])
] + [
    {"ridge": v} for v in (-1.0, "12", [1.0], True, {})
] + [
    {"rmse": v} for v in (1.0, "1", [0.1], [0.1] * 4, [-0.1] * 3, ["a"] * 3, [None] * 3, {})
] + [
    {"class_names": v} for v in ("abc", 3, [1, 2, 3], ["a"], ["a"] * 4, [None] * 3, {})
] + [
    {"surrogate": v}
    for v in (..., None, "surrogate.safetensors", [], {}, {"file": "surrogate.safetensors"})
] + [
    {"kind": v} for v in (..., None, 3, "surrogate", "classifier", "other", ["explainer"], {})
] + [
    {"weights": v} for v in (..., None, "x", {}, {"sha256": "0"}, {"sha256": "0" * 64, "bytes": 9})
] + [
    {"format": v} for v in (..., None, 3, "other")
] + [
    {"version": v} for v in (..., None, 2, "3", ["2"])
]  # fmt: skip


@pytest.mark.parametrize("change", MALFORMED, ids=str)
def test_malformed_cards_are_refused(folder, change):
    rewrite(folder, "explainer", **change)
    with pytest.raises(PatchShapError):
        load_explainer(folder / "explainer.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "../surrogate.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "surrogate.pt",
        "C:\\x.safetensors", "\0.safetensors", "a" * 300 + ".safetensors", 3, None,
        "explainer.safetensors", "nothing.safetensors",
    ],
)  # fmt: skip
def test_the_surrogate_lies_beside_its_explainer_and_nowhere_else(folder, name):
    digest = load_card(folder / "surrogate.json")["sha256"]
    rewrite(folder, "explainer", surrogate={"file": name, "sha256": digest})
    with pytest.raises(PatchShapError):
        load_explainer(folder / "explainer.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "3", '"card"', "{", "{}", "[" * 100_000, '{"a":' * 50_000, "\ufeff{}",
        '{"format": "xai_patchshap"}', '{"format": "xai_patchshap", "version": NaN}',
        '{"format": "xai_patchshap", "version": ' + "9" * 5000 + "}",
    ],
    ids=lambda text: repr(text[:30]),
)  # fmt: skip
def test_what_is_no_card_is_refused(folder, text):
    (folder / "explainer.json").write_text(text)
    with pytest.raises(PatchShapError):
        load_explainer(folder / "explainer.safetensors")


def test_cards_that_are_no_text_or_no_file_are_refused(folder):
    card = folder / "explainer.json"
    for content in (b"\xff\xfe{\0}\0", b"\0" * 100, b"\x80"):
        card.write_bytes(content)
        with pytest.raises(PatchShapError, match="the JSON card that lies beside"):
            load_explainer(folder / "explainer.safetensors")
    with card.open("wb") as stream:
        stream.truncate(2**33)  # takes no room
    with pytest.raises(PatchShapError, match="larger than"):
        load_explainer(folder / "explainer.safetensors")
    card.unlink()
    card.mkdir()
    with pytest.raises(PatchShapError, match="no such file"):
        load_explainer(folder / "explainer.safetensors")
    text = json.dumps({"rmse": [float("nan")], "ridge": float("inf")})
    card.rmdir()
    card.write_text(text)
    with pytest.raises(PatchShapError, match="is no number of JSON"):
        load_explainer(folder / "explainer.safetensors")


def saved_weights(folder, weights, name="surrogate"):
    """Weights in place of others, on a card that knows them."""
    content = save(weights, metadata={"format": "xai_patchshap", "kind": name})
    (folder / f"{name}.safetensors").write_bytes(content)
    digest = checkpoints.hashlib.sha256(content).hexdigest()
    rewrite(folder, name, weights={"sha256": digest, "bytes": len(content)})


def changed(weights, **changes):
    return {**weights, **{k.replace("__", "."): v for k, v in changes.items()}}


def test_weights_of_another_kind_or_shape_or_without_numbers_are_refused(folder):
    weights = dict(load_surrogate(folder / "surrogate.safetensors").state_dict())
    bias = weights["model.head.bias"]
    for wrong in (
        bias * torch.nan, bias + torch.inf, bias.long(), bias.to(torch.complex64), bias[:2],
        bias[None], bias.bool(), bias.to(torch.float8_e4m3fn), torch.zeros(0), torch.zeros(()),
    ):  # fmt: skip
        saved_weights(folder, changed(weights, model__head__bias=wrong))
        with pytest.raises(PatchShapError):
            load_surrogate(folder / "surrogate.safetensors")
    saved_weights(folder, {k: v for k, v in weights.items() if k != "model.head.bias"})
    with pytest.raises(PatchShapError, match=r"without model\.head\.bias"):
        load_surrogate(folder / "surrogate.safetensors")
    saved_weights(folder, {**weights, "model.more": bias + 1})
    with pytest.raises(PatchShapError, match=r"with 'model\.more'"):
        load_surrogate(folder / "surrogate.safetensors")
    saved_weights(folder, {})
    with pytest.raises(PatchShapError, match="0 blocks, not 2"):
        load_surrogate(folder / "surrogate.safetensors")
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        saved_weights(folder, {k: v.to(dtype) for k, v in weights.items()})
        assert load_surrogate(folder / "surrogate.safetensors").model.head.bias.dtype == bias.dtype
    trained = dict(load_explainer(folder / "explainer.safetensors").trained_state())
    saved_weights(folder, {k: v * torch.nan for k, v in trained.items()}, "explainer")
    with pytest.raises(PatchShapError, match="is NaN or infinite; expected finite weights"):
        load_explainer(folder / "explainer.safetensors")


def test_headers_that_are_bombs_are_refused(folder):
    file = folder / "explainer.safetensors"
    right = file.read_bytes()
    length = struct.unpack("<Q", right[:8])[0]
    entry = {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}
    for header in (
        {"a": entry}, {"a": {**entry, "shape": [2**63, 2]}}, {"a": {**entry, "shape": [-1]}},
        {"a": {**entry, "data_offsets": [0, 10**18]}}, {"a": {**entry, "dtype": "PICKLE"}},
        {"a": {**entry, "shape": [0, 2**62, 2**62]}}, {"a": 3}, [], "a",
    ):  # fmt: skip
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 4)
        with pytest.raises(PatchShapError):
            load_explainer(file)
    for size in (0, 1, 10**6, 2**30, 2**63, 2**64 - 1):
        file.write_bytes(struct.pack("<Q", size) + right[8:])
        with pytest.raises(PatchShapError):
            load_explainer(file)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", 2**31))
        stream.truncate(2**32)  # takes no room
    with pytest.raises(PatchShapError, match=r"a header of \d+ bytes"):
        load_explainer(file)
    assert length < 2**20


def test_blocks_that_no_weights_are_there_for_are_not_built(folder, monkeypatch):
    rewrite(folder, "explainer", n_extra=10**6)
    monkeypatch.setattr(checkpoints, "ShapleyViT", lambda *_, **__: pytest.fail("was built"))
    with pytest.raises(PatchShapError, match="2 blocks, not 1000001"):
        load_explainer(folder / "explainer.safetensors")


def test_loading_draws_nothing(folder):
    before = torch.get_rng_state()
    load_explainer(folder / "explainer.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip


@pytest.mark.parametrize("examples", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_whatever_a_card_says_it_loads_right_or_is_refused_in_words(whole, tmp_path, examples):
    @settings(max_examples=examples, deadline=None)
    @given(data=st.data())
    def tried(data):
        changed_somewhere(whole, tmp_path, data)

    tried()


def changed_somewhere(whole, tmp_path, data):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["surrogate", "explainer"]))
    card = json.loads((tmp_path / f"{name}.json").read_text())
    path = [data.draw(st.sampled_from(sorted(card)))]
    place = card[path[0]]
    while isinstance(place, dict) and place and data.draw(st.booleans()):
        path.append(data.draw(st.sampled_from(sorted(place))))
        place = place[path[-1]]
    target = card
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(JUNK)
    rewrite(tmp_path, name, **card)
    x = random_images(1)
    right = load_explainer(whole / "explainer.safetensors")
    refused = None
    try:
        found = load_explainer(tmp_path / "explainer.safetensors")
    except PatchShapError as error:
        refused = str(error)
    if refused is not None:
        assert re.match(r"\w+: got .*; expected ", refused, re.DOTALL)
    elif path[0] not in ("architecture", "probability"):  # which are the model's to say
        assert torch.equal(found(x)[0], right(x)[0])


def test_what_cannot_be_saved_is_refused_before(tmp_path):
    file = tmp_path / "surrogate.safetensors"
    model = tiny_vit()
    for card in ({"a": object()}, {"a": float("nan")}, {1: {2, 3}}, {"a": file}):
        with pytest.raises(PatchShapError, match=r"card: got .*; expected a dictionary of wh"):
            save_surrogate(model, file, card=card)
    with torch.no_grad():
        model.head.bias += 1e6
    with pytest.raises(PatchShapError, match=r"NaN or infinite as torch\.float16; expected fin"):
        save_surrogate(model, file, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_what_a_user_says_cannot_take_the_place_of_what_is_checked(tmp_path):
    file = tmp_path / "surrogate.safetensors"
    card = {"kind": "explainer", "weights": 3, "sha256": "x", "version": 9, "architecture": 1}
    save_surrogate(TINY.build(), file, architecture=TINY, card={**card, "zeros": "0" * 64})
    assert load_card(file)["zeros"] == "0" * 64
    load_surrogate(file)


def test_weights_that_share_their_memory_are_saved(tmp_path):
    model = tiny_vit()
    model.blocks[1].attn.proj.weight = model.blocks[0].attn.proj.weight
    save_surrogate(model, tmp_path / "shared.safetensors")
    load_surrogate(tmp_path / "shared.safetensors", tiny_vit(seed=1))


def test_architectures_that_users_write_are_checked_alike():
    with pytest.raises(PatchShapError, match="an option 'checkpoint_path'; expected those of a"):
        Architecture("test_vit", {"checkpoint_path": "x"})
    with pytest.raises(PatchShapError, match="Leave out tags of pretrained weights"):
        Architecture("vit_tiny_patch16_224.augreg_in21k")


def test_a_file_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    for name in ("folder", "foreign", "nothing"):
        with pytest.raises(PatchShapError):
            load_explainer(tmp_path / f"{name}.safetensors")
