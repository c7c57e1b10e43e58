"""Damaged checkpoints: the explainer as it was saved, or a refusal in words."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from oracle import judged, tried

from xai_patchshap.amortized import (
    Architecture,
    ShapleyViT,
    load_explainer,
    save_explainer,
    save_surrogate,
)

OPTIONS = {
    "img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2,
    "num_classes": 3, "class_token": False, "global_pool": "avg",
}  # fmt: skip
FILES = ("surrogate.json", "surrogate.safetensors", "explainer.json", "explainer.safetensors")
X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@functools.cache
def whole():
    """The bytes of a checkpoint's four files, and what its network says."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = Architecture("vit_tiny_patch16_224", OPTIONS, (0.5,) * 3, (0.2,) * 3)
        model = architecture.build()
        network = ShapleyViT(model, n_frozen=1).eval()
        surrogate, explainer = Path(folder, FILES[1]), Path(folder, FILES[3])
        save_surrogate(model, surrogate, architecture=architecture)
        save_explainer(network, explainer, surrogate=surrogate)
        contents = {name: Path(folder, name).read_bytes() for name in FILES}
    with torch.no_grad():
        return contents, network(X)[0].numpy()


places = st.floats(0, 1, exclude_max=True)
damages = st.one_of(
    st.tuples(st.just("flip a bit"), places, st.integers(0, 7)),
    st.tuples(st.just("cut"), places, st.just(0)),
    st.tuples(st.just("cut from the front"), places, st.just(0)),
    st.tuples(st.just("insert"), places, st.integers(1, 300)),
    st.tuples(st.just("zeros"), places, st.integers(1, 300)),
    st.tuples(st.just("another file"), places, st.sampled_from(FILES)),
    st.tuples(st.just("text"), places, st.text(max_size=40)),
    st.tuples(st.just("remove"), places, st.just(0)),
    st.tuples(st.just("a folder"), places, st.just(0)),
    st.tuples(st.just("a loop of links"), places, st.just(0)),
    st.tuples(st.just("twice"), places, st.just(0)),
)
files = st.tuples(st.sampled_from(FILES), damages)


def damaged(content, damage):
    how, place, more = damage
    i = int(place * len(content))
    if how == "flip a bit":
        return content[:i] + bytes([content[i] ^ 1 << more]) + content[i + 1 :]
    if how == "cut":
        return content[:i]
    if how == "cut from the front":
        return content[i + 1 :]
    if how == "insert":
        return content[:i] + b"\xff" * more + content[i:]
    if how == "zeros":
        return content[:i] + bytes(more) + content[i + more :]
    if how == "another file":
        return whole()[0][more]
    if how == "text":
        return more.encode()
    return content * 2 if how == "twice" else None


def damage_is_found(case):
    name, damage = case
    contents, said = whole()
    with tempfile.TemporaryDirectory() as folder:
        for each, content in contents.items():
            Path(folder, each).write_bytes(content)
        file = Path(folder, name)
        content = damaged(contents[name], damage)
        if content is not None:
            file.write_bytes(content)
        else:
            file.unlink()
            if damage[0] == "a folder":
                file.mkdir()
            elif damage[0] == "a loop of links":
                file.symlink_to(name)
        unchanged = content == contents[name]

        def question():
            network = load_explainer(Path(folder, FILES[3]))
            with torch.no_grad():
                return network(X)[0].numpy()

        def check(found):
            np.testing.assert_array_equal(found, said)

        with torch.random.fork_rng():
            return judged(question, check, may=("right",) if unchanged else ("right", "refused"))


CASES = {"files": (files, damage_is_found)}


@pytest.mark.parametrize("name", CASES)
def test_some_of_each(name):
    assert sum(tried(*CASES[name], 25).values()) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_of_each(name):
    assert sum(tried(*CASES[name], 300).values()) >= 150
