"""The surrogate in 8-bit integers, for the many evaluations that training needs.

    pip install openvino nncf

On processors with integer units (AVX-512 VNNI, AMX) its coalitions take half of the time or
less. The values of pairs of coalitions are those of the surrogate to .3 % of their variance.
"""

from __future__ import annotations

from pathlib import Path

import nncf
import numpy as np
import openvino
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from xai_patchshap.amortized.training.digests import model_digest

N_CALIBRATION = 300
_ROWS = 128  # of one request


class Behind(nn.Module):
    """What follows the patch embedding: from tokens (B, t, width) to logits."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.vit.blocks:
            tokens = block(tokens)
        return self.vit.forward_head(self.vit.norm(tokens))


class Int8:
    """Logits (B, m, K) of coalitions (B, m, patches) of images (B, 3, H, W) in [0, 1].

    Parameters
    ----------
    surrogate : ScoredImages
        A timm transformer without class token, and the normalisation of its images.
    images : Tensor (N, 3, H, W)
        The ranges of the integers come from random coalitions of these.
    folder : Path
        Where the network is kept, in a file for each surrogate; read if it is there.
    """

    def __init__(self, surrogate: nn.Module, images: Tensor, folder: Path) -> None:
        self.surrogate = surrogate.eval()
        core = openvino.Core()
        file = folder / f"int8-{model_digest(surrogate)[:16]}.xml"
        if not file.exists():
            new = folder / "int8-new.xml"
            openvino.save_model(self._quantised(images), new)
            for suffix in (".bin", ".xml"):
                new.with_suffix(suffix).replace(file.with_suffix(suffix))
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self._compiled = core.compile_model(core.read_model(file), "CPU", options)

    def _tokens(self, images: Tensor) -> Tensor:
        vit = self.surrogate.model
        with torch.no_grad():
            return vit._pos_embed(
                vit.patch_embed((images - self.surrogate.mean) / self.surrogate.std)
            )

    def _quantised(self, images: Tensor) -> openvino.Model:
        vit = self.surrogate.model
        width = vit.embed_dim
        graph = openvino.convert_model(
            Behind(vit),
            example_input=torch.randn(4, 8, width),
            input=[openvino.PartialShape([-1, -1, width])],
        )
        tokens = self._tokens(images[:N_CALIBRATION])
        random = np.random.default_rng(0)
        shown = [
            row[random.permutation(len(row))[: 1 + random.integers(len(row))]] for row in tokens
        ]
        return nncf.quantize(
            graph,
            nncf.Dataset([t[None].numpy() for t in shown]),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(shown),
        )

    def __call__(self, images: Tensor, coalitions: Tensor) -> Tensor:
        tokens = self._tokens(images)
        n_images, n_coalitions, n_players = coalitions.shape
        rows = coalitions.reshape(-1, n_players)
        image = torch.arange(n_images).repeat_interleave(n_coalitions)
        sizes = rows.sum(1)
        result = np.empty((len(rows), self.surrogate.model.num_classes), np.float32)

        def done(request: openvino.InferRequest, some: np.ndarray) -> None:
            result[some] = request.get_output_tensor().data

        queue = openvino.AsyncInferQueue(self._compiled)
        queue.set_callback(done)
        for size in sizes.unique().tolist():
            for some in torch.split((sizes == size).nonzero()[:, 0], _ROWS):
                patches = rows[some].nonzero()[:, 1].reshape(len(some), size)
                queue.start_async({0: tokens[image[some, None], patches].numpy()}, some.numpy())
        queue.wait_all()
        return torch.from_numpy(result).reshape(n_images, n_coalitions, -1)
