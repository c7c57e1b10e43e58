"""Complete value tables of games of EfficientNet-Lite0 on photographs.

    python benchmarks/make_games.py --photographs DIR --out DIR [--grid 4x4] [--background blur]

One file for each photograph, as ``shapley_values.py`` and ``interactions.py`` read them: ``prob``
and ``logit`` of the class that the model gives the whole photograph, for all ``2**n`` coalitions;
bit i of the index says whether patch i, row by row, is visible. The network runs in OpenVINO where
that is installed, or else in ONNX Runtime: 16 patches take three or five minutes on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from patch_kernel_shap import CountedModel, prepared
from PIL import Image
from torch import Tensor

from xai_patchshap import PatchMasker

Floats = NDArray[np.float64]

BATCH = 8


def runtime() -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The network, from images (BATCH, 3, 224, 224) in [-1, 1] to logits."""
    network = CountedModel().network.eval()
    example = torch.rand(BATCH, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "network.onnx")
        torch.onnx.export(network, (example,), file, input_names=["x"], dynamo=False)
        try:
            import openvino
        except ImportError:
            import onnxruntime

            session = onnxruntime.InferenceSession(file)
            return lambda x: session.run(None, {"x": x})[0]
        compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda x: np.array(compiled(x)[0])


class PhotographGame:
    """Logits of any coalitions of the patches of one photograph.

    Parameters
    ----------
    photograph : Tensor (1, 3, 224, 224)
        In [0, 1].
    grid : (int, int)
        Rows and columns of patches.
    background
        As :class:`xai_patchshap.PatchMasker` takes it.
    """

    def __init__(
        self, network: Callable, photograph: Tensor, grid: tuple[int, int], background: str
    ) -> None:
        masker = PatchMasker(players=grid, background=background)
        self.network = network
        self.n_players = grid[0] * grid[1]
        self.labels = masker.feature_mask(photograph)[0, 0].long()
        self.image = 2 * photograph - 1
        self.background = 2 * masker.baselines(photograph) - 1
        self.target = int(self.logits(np.ones((1, self.n_players), dtype=bool))[0].argmax())

    def logits(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Logits (m, 1000) of coalitions (m, n)."""
        parts = []
        for rows in torch.split(torch.from_numpy(coalitions), BATCH):
            visible = rows[:, self.labels][:, None]
            x = torch.where(visible, self.image, self.background)
            room = torch.zeros(BATCH - len(x), *x.shape[1:])
            parts.append(self.network(torch.cat([x, room]).numpy())[: len(x)])
        return np.concatenate(parts)

    def values(self, coalitions: NDArray[np.bool_]) -> Floats:
        """Probability and logit (m, 2) of the class of the whole photograph."""
        parts = []
        for start in range(0, len(coalitions), 4096):
            z = self.logits(coalitions[start : start + 4096]).astype(np.float64)
            above = z - z.max(axis=1, keepdims=True)
            probability = np.exp(above[:, self.target]) / np.exp(above).sum(axis=1)
            parts.append(np.stack([probability, z[:, self.target]], axis=1))
        return np.concatenate(parts)

    def table(self) -> Floats:
        """Values (2**n, 2) of all coalitions."""
        index = np.arange(2**self.n_players)
        return self.values((index[:, None] >> np.arange(self.n_players) & 1) > 0)


def read(file: Path) -> Tensor:
    """A photograph as the network takes it."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    return prepared(pixels)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, required=True, help="folder of images")
    parser.add_argument("--only", nargs="*", help="words that the files' names contain")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--grid", default="4x4")
    parser.add_argument("--background", default="mean", help="as PatchMasker takes it")
    a = parser.parse_args(arguments)
    rows, columns = map(int, a.grid.split("x"))
    network = runtime()
    a.out.mkdir(parents=True, exist_ok=True)
    for file in sorted(p for p in a.photographs.iterdir() if p.suffix in (".jpg", ".png")):
        if a.only and not any(word in file.name for word in a.only):
            continue
        out = a.out / f"{file.stem}_{a.grid}_{a.background}.npz"
        if out.exists():
            continue
        start = time.perf_counter()
        game = PhotographGame(network, read(file), (rows, columns), a.background)
        table = game.table().astype(np.float32)
        np.savez(out, prob=table[:, 0], logit=table[:, 1], imagenet_index=game.target)
        print(
            f"{out.name}: class {game.target}, probability {table[-1, 0]:.2f} of the whole "
            f"photograph, {time.perf_counter() - start:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
