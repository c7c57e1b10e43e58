"""Checkpoints come back as they were saved, and what is no checkpoint is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from tests.helpers import random_images, tiny_vit

from xai_patchshap import PatchShapError
from xai_patchshap.amortized import (
    Architecture,
    ShapleyViT,
    load_card,
    load_classifier,
    load_explainer,
    load_surrogate,
    save_explainer,
    save_surrogate,
)
from xai_patchshap.models.named_model import ScoredImages

OPTIONS = {
    "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
    "num_classes": 3, "class_token": False, "global_pool": "avg",
}  # fmt: skip
TINY = Architecture("vit_tiny_patch16_224", OPTIONS, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.fixture
def saved(tmp_path):
    """A surrogate's and an explainer's checkpoint, and the network."""
    model = TINY.build()
    model.model.load_state_dict(tiny_vit().state_dict())
    network = ShapleyViT(model, n_frozen=1).eval()
    torch.nn.init.normal_(
        network.head[2].weight, std=0.1, generator=torch.Generator().manual_seed(0)
    )
    network.ridge, network.rmse = 12.5, [0.1, 0.2, 0.3]
    save_surrogate(
        model, tmp_path / "surrogate.safetensors", architecture=TINY, card={"data": "noise"}
    )
    save_explainer(
        network, tmp_path / "explainer.safetensors", surrogate=tmp_path / "surrogate.safetensors"
    )
    return tmp_path, network


def test_an_explainer_comes_back(saved):
    folder, network = saved
    again = load_explainer(folder / "explainer.safetensors")
    x = random_images()
    for a, b in zip(network(x), again(x), strict=True):
        assert torch.equal(a, b)
    assert (again.ridge, again.rmse, again.n_frozen) == (12.5, [0.1, 0.2, 0.3], 1)
    assert not again.training


def test_a_predicted_game_comes_back(saved):
    folder, _ = saved
    surrogate = folder / "surrogate.safetensors"
    network = ShapleyViT(load_surrogate(surrogate), n_frozen=2, predicts="game", taps=(1,)).eval()
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        for p in network.trained().parameters():
            p.normal_(0, 0.2, generator=draw)
    save_explainer(network, folder / "game.safetensors", surrogate=surrogate)
    again = load_explainer(folder / "game.safetensors")
    assert (again.predicts, again.taps) == ("game", (1,))
    x = random_images()
    assert torch.equal(network(x)[0], again(x)[0])
    assert torch.equal(network.predict(x).game.mass, again.predict(x).game.mass)


def test_a_surrogate_comes_back_with_its_card(saved):
    folder, network = saved
    x = random_images()
    again = load_surrogate(folder / "surrogate.safetensors")
    assert torch.equal(again(x), network.surrogate.model(x))
    card = load_card(folder / "surrogate.safetensors")
    assert (card["kind"], card["data"]) == ("surrogate", "noise")
    assert card["architecture"]["options"] == OPTIONS


def test_half_precision_is_stored_and_loaded_as_single(saved):
    folder, network = saved
    file = folder / "surrogate.safetensors"
    size = file.stat().st_size
    save_surrogate(network.surrogate.model, file, architecture=TINY, dtype=torch.float16)
    save_explainer(network, folder / "explainer.safetensors", surrogate=file, dtype=torch.float16)
    assert file.stat().st_size < 0.7 * size
    again = load_explainer(folder / "explainer.safetensors")
    x = random_images()
    values, full = again(x)
    assert values.dtype == torch.float32
    assert torch.allclose(values, network(x)[0], atol=2e-2)
    # The empty coalition's value is that of the weights as they were rounded.
    assert torch.allclose(values.sum(1), full - again.null, atol=1e-5)


def test_a_surrogate_without_architecture_wants_a_module(saved):
    folder, _ = saved
    model = tiny_vit()
    save_surrogate(model, folder / "bare.safetensors")
    with pytest.raises(PatchShapError, match="whose card names no architecture"):
        load_surrogate(folder / "bare.safetensors")
    again = load_surrogate(folder / "bare.safetensors", tiny_vit(seed=1))
    x = random_images()
    assert torch.equal(again(x), model(x))


def test_truncated_files_are_refused(saved):
    folder, _ = saved
    for name, load in (("surrogate", load_surrogate), ("explainer", load_explainer)):
        file = folder / f"{name}.safetensors"
        whole = file.read_bytes()
        for length in (0, 4, 200, len(whole) - 1):
            file.write_bytes(whole[:length])
            with pytest.raises(PatchShapError, match="damaged or no safetensors file"):
                load(file)
        file.write_bytes(whole)


def test_pickles_are_not_read(saved):
    folder, network = saved
    torch.save(network.state_dict(), folder / "pickle.safetensors")
    with pytest.raises(PatchShapError, match=r"Pickled checkpoints \(.pt, .pth\) are not read"):
        load_explainer(folder / "pickle.safetensors")


def test_foreign_files_are_refused(saved):
    folder, _ = saved
    save_file({"a": torch.zeros(2)}, folder / "foreign.safetensors")
    with pytest.raises(PatchShapError, match="which is not of this package; expected the weights"):
        load_explainer(folder / "foreign.safetensors")
    with pytest.raises(PatchShapError, match="the weights of a surrogate; expected the weights"):
        load_explainer(folder / "surrogate.safetensors")
    with pytest.raises(PatchShapError, match="holds the weights of a explainer"):
        load_surrogate(folder / "explainer.safetensors")
    with pytest.raises(PatchShapError, match="which is no file"):
        load_explainer(folder / "nothing.safetensors")


def test_another_architecture_is_refused(saved):
    folder, _ = saved
    file = folder / "surrogate.safetensors"
    wider = ScoredImages(tiny_vit(embed_dim=32), probability=False)
    with pytest.raises(PatchShapError, match=r"has shape \(.*\), not \(.*\); expected the weights"):
        load_surrogate(file, wider)
    with pytest.raises(PatchShapError, match="expected the weights of this architecture"):
        load_surrogate(file, tiny_vit(depth=3))
    with pytest.raises(PatchShapError, match="expected the weights of this architecture"):
        load_explainer(folder / "explainer.safetensors", wider)
    deeper = ScoredImages(tiny_vit(depth=3), probability=False)
    with pytest.raises(PatchShapError, match="with weights of 2 blocks, not 3"):
        load_explainer(folder / "explainer.safetensors", deeper)


def test_another_surrogate_than_that_of_the_training_is_refused(saved):
    folder, network = saved
    file = folder / "surrogate.safetensors"
    with torch.no_grad():
        network.surrogate.model.model.head.bias += 1
    save_surrogate(network.surrogate.model, file, architecture=TINY)
    with pytest.raises(PatchShapError, match="other contents than the explainer was tra"):
        load_explainer(folder / "explainer.safetensors")


def test_cards_that_are_missing_or_wrong_are_refused(saved):
    folder, _ = saved
    card = folder / "explainer.json"
    text = card.read_text()
    for wrong in ("", "[]", '{"format": "other"}', text.replace('"2"', '"99"')):
        card.write_text(wrong)
        with pytest.raises(PatchShapError, match="the JSON card that lies beside every checkpoint"):
            load_explainer(folder / "explainer.safetensors")
    card.unlink()
    with pytest.raises(PatchShapError, match="FileNotFoundError"):
        load_explainer(folder / "explainer.safetensors")


def test_names_end_in_safetensors(tmp_path):
    with pytest.raises(PatchShapError, match=r"a name that ends in \.safetensors"):
        save_surrogate(tiny_vit(), tmp_path / "model.pt")


def test_a_classifier_is_a_kind_of_its_own(tmp_path):
    file = tmp_path / "classifier.safetensors"
    save_surrogate(TINY.build(), file, architecture=TINY, kind="classifier")
    assert load_classifier(file)(random_images()).shape == (4, 3)
    with pytest.raises(PatchShapError, match="the weights of a classifier"):
        load_surrogate(file)
