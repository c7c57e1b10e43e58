"""The explainer network: all Shapley values of an image in one forward pass."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import bad
from ..masking.token_dropping import TokenDropping
from ..models.vit_anatomy import n_heads, timm_transformer
from .predicted_game import PredictedGame, Prediction, in_units

__all__ = ["PREDICTS", "ShapleyViT"]

PREDICTS = ("values", "game")


class ShapleyViT(nn.Module):
    r"""A surrogate and the network that predicts the Shapley values of its patches.

    The first blocks of the surrogate serve both: one pass through them, then the rest of
    the surrogate gives :math:`v(N)`, and further blocks and a head for each token give the
    values, to which additive efficient normalisation adds
    :math:`[v(N) - v(\emptyset) - \sum_i \phi_i] / n` (Covert, Kim & Lee, Learning to
    estimate Shapley values with vision transformers, ICLR 2023, section 4.2).

    Parameters
    ----------
    surrogate : torch.nn.Module
        A timm ``VisionTransformer``, or a module that holds exactly one, from images to
        logits (B, K). It is copied, and the copy is frozen.
    n_frozen : int, optional
        Blocks that both share; 0 trains copies of all of them. By default all, as the
        published explainer with a frozen backbone.
    n_extra : int
        New blocks behind them.
    probability : bool
        Whether the game is that of probabilities (softmax, or sigmoid for a single logit)
        or of logits.
    seed : int
        Seed of the new weights.
    predicts : {"values", "game"}
        ``"values"``: the head gives the values, as published. ``"game"``: it also gives, for
        each patch, evidence in logits and a weight, of which a game is made that saturates as
        the surrogate's does (:class:`~.predicted_game.PredictedGame`). Its Shapley values, to
        first order, are part of the prediction; it makes training less noisy, and
        refinements start from it.
    taps : sequence of int
        Earlier blocks of the surrogate, counted from 1 and before the last shared one, whose
        tokens reach the explainer's blocks too.

    Attributes
    ----------
    surrogate : TokenDropping
        The frozen surrogate; hidden patches are NaN.
    grid : (int, int)
        Rows and columns of patches, the players.
    n_outputs : int
        K.
    null : Tensor (K,)
        Value of the empty coalition.
    ridge : float or None
        How far a few evaluations are to be trusted over the prediction; see
        :meth:`~xai_patchshap.estimators.KernelShap.estimate`. From validation.
    rmse : list of float, or None
        Root mean squared error of the predicted values of each output, from validation.

    Raises
    ------
    PatchShapError
        If the surrogate is not such a transformer, or another argument does not fit.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64, num_classes=5)
    >>> network = ShapleyViT(vit).eval()
    >>> values, full = network(torch.rand(2, 3, 64, 64))
    >>> values.shape, full.shape
    (torch.Size([2, 16, 5]), torch.Size([2, 5]))
    >>> torch.allclose(values.sum(1), full - network.null, atol=1e-6)
    True
    """

    def __init__(
        self,
        surrogate: nn.Module,
        *,
        n_frozen: int | None = None,
        n_extra: int = 1,
        probability: bool = True,
        seed: int = 0,
        predicts: str = "values",
        taps: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.surrogate = TokenDropping(copy.deepcopy(surrogate)).requires_grad_(False).eval()
        vit = timm_transformer(self.surrogate, "surrogate")
        if vit.num_classes < 1:
            raise bad("surrogate", "a transformer without a head", "one that gives logits")
        vit.set_grad_checkpointing(False)  # it is not trained
        depth = len(vit.blocks)
        self.n_frozen = depth if n_frozen is None else n_frozen
        if not 0 <= self.n_frozen <= depth:
            raise bad("n_frozen", n_frozen, f"0 to {depth}, the blocks of the surrogate")
        if n_extra < 0 or n_extra + depth - self.n_frozen < 1:
            raise bad("n_extra", n_extra, "at least 1 new block where all others are frozen")
        if predicts not in PREDICTS:
            raise bad("predicts", repr(predicts), f"one of {PREDICTS}")
        self.taps = tuple(int(k) for k in taps)
        if not all(0 < k < self.n_frozen for k in self.taps) or len({*taps}) < len(self.taps):
            raise bad(
                "taps",
                self.taps,
                f"different blocks from 1 to {self.n_frozen - 1}: those before the last that is "
                "shared, which reaches the explainer anyway",
            )
        self.n_extra, self.probability, self.predicts = n_extra, probability, predicts
        self.ridge: float | None = None
        self.rmse: list[float] | None = None
        self.grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.image_size: tuple[int, int] = tuple(vit.patch_embed.img_size)
        self.n_channels = int(vit.patch_embed.proj.in_channels)
        self._n_prefix = int(vit.num_prefix_tokens)
        self.n_outputs = int(vit.num_classes)
        width = int(vit.embed_dim)
        own = [copy.deepcopy(block) for block in vit.blocks[self.n_frozen :]]
        # New weights are drawn on the CPU: the same whatever the surrogate's device.
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            fresh = [_fresh(vit.blocks[-1]) for _ in range(n_extra)]
            hidden = nn.Linear(width, 2 * width)
            # A bias would be the same for all patches: the normalisation takes it out again.
            n_numbers = self.n_outputs if predicts == "values" else 2 * self.n_outputs + 1
            last = nn.Linear(2 * width, n_numbers, bias=False)
            self.head = nn.Sequential(hidden, nn.GELU(), last)
            self.mixed = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in self.taps
            )
        self.blocks = nn.Sequential(*own, *fresh).requires_grad_(True)
        self.norm = nn.LayerNorm(width)
        # The first prediction is the equal split.
        nn.init.zeros_(last.weight)
        for module in self.mixed.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        self.mass = _Mass() if predicts == "game" else None
        self.null: Tensor
        self._empty: Tensor  # logits
        self.register_buffer("null", torch.zeros(self.n_outputs), persistent=False)
        self.register_buffer("_empty", torch.zeros(self.n_outputs), persistent=False)
        self.to(next(self.surrogate.parameters()).device)
        self.refresh()

    @property
    def n_players(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]

    def refresh(self) -> None:
        """Compute :attr:`null` anew, after the surrogate got other weights."""
        first = next(self.surrogate.parameters())
        empty = torch.full((1, self.n_channels, *self.image_size), torch.nan)
        with torch.no_grad():
            self._empty = self.surrogate(empty.to(first))[0].float()
        self.null = self.link(self._empty)

    def link(self, logits: Tensor) -> Tensor:
        """Logits in the units of the game."""
        return in_units(logits, self.probability)

    def train(self, mode: bool = True) -> ShapleyViT:
        """Training mode for what is trained; the surrogate stays as it is."""
        super().train(mode)
        self.surrogate.eval()
        return self

    def trained(self) -> nn.ModuleList:
        """What is trained: all but the surrogate."""
        return nn.ModuleList(m for name, m in self.named_children() if name != "surrogate")

    def trained_state(self) -> dict[str, Tensor]:
        """Weights of what is trained: all but the surrogate's."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("surrogate.")}

    def begin_from(self, other: ShapleyViT) -> None:
        """Take over the weights of a network that is trained already.

        Where that one predicts values and this one a game, or has fewer taps, this one's
        first predictions are that one's last, if both have the same surrogate.

        Raises
        ------
        PatchShapError
            If it has other blocks, another width or other outputs, or reads or predicts what
            this one does not.
        """
        if not isinstance(other, ShapleyViT):
            raise bad("start", type(other).__name__, "a ShapleyViT", "load_explainer reads one.")
        mine, given = (
            {
                "n_frozen": n.n_frozen,
                "n_extra": n.n_extra,
                "probability": n.probability,
                "grid": n.grid,
                "n_outputs": n.n_outputs,
                "heads": [n_heads(block) for block in n.blocks],
                "weights of its blocks": sum(p.numel() for p in n.blocks.parameters()),
            }
            for n in (self, other)
        )
        if given != mine:
            raise bad("start", f"a network with {given}", f"one with {mine}, as asked for here")
        too_much = other.predicts == "game" and self.predicts == "values"
        if too_much or not {*other.taps} <= {*self.taps}:
            raise bad(
                "start",
                f"a network with taps={other.taps}, predicts={other.predicts!r}",
                f"no more than taps={self.taps}, predicts={self.predicts!r}",
            )
        self.blocks.load_state_dict(other.blocks.state_dict())
        self.norm.load_state_dict(other.norm.state_dict())
        head = other.head.state_dict()
        rows = self.head.state_dict()["2.weight"].clone()
        rows[: len(head["2.weight"])] = head["2.weight"]
        self.head.load_state_dict({**head, "2.weight": rows})
        for k, mixed in zip(other.taps, other.mixed, strict=True):
            self.mixed[self.taps.index(k)].load_state_dict(mixed.state_dict())
        if self.mass is not None and other.mass is not None:
            self.mass.load_state_dict(other.mass.state_dict())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Values (B, patches, K) and the full coalition's value (B, K) of whole images."""
        prediction = self.predict(images)
        return prediction.values(), prediction.full

    def predict(self, images: Tensor) -> Prediction:
        """All that the network says of whole images; see :class:`Prediction`."""
        return self.predict_from(*self.shared(images))

    def predict_from(self, shared: Sequence[Tensor], logits: Tensor) -> Prediction:
        """The same of what :meth:`shared` gives."""
        tokens = shared[-1]
        for tapped, mixed in zip(shared, self.mixed, strict=False):
            tokens = tokens + mixed(tapped)
        tokens = self.norm(self.blocks(tokens)[:, self._n_prefix :])
        out, k = self.head(tokens).float(), self.n_outputs
        if self.mass is None:
            return Prediction(self.link(logits), self.null, out)
        beside, evidence, log_weights = out[..., :k], out[..., k : 2 * k], out[..., 2 * k]
        weights = log_weights.softmax(1) * self.n_players
        # Heavy patches leave little to the empty coalition.
        mass = (self.mass.log - log_weights.logsumexp(1)).exp() * self.n_players
        evidence = weights[..., None] * evidence / (1 + mass)[:, None, None]
        gap = logits - self._empty - evidence.sum(1)
        evidence = evidence + weights[..., None] * gap[:, None] / self.n_players
        game = PredictedGame(evidence, weights, mass, self._empty, self.probability)
        return Prediction(self.link(logits), self.null, beside, game)

    def shared(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """What the surrogate makes of whole images, which no training changes.

        Tokens (B, t, width) of the tapped blocks and of the last shared one; logits (B, K).
        """
        vit = self.surrogate.transformer
        passed: dict[int, Tensor] = {}
        thread = threading.get_ident()

        def keep(place: int, tokens: Tensor) -> None:
            # Other threads may be calling the same transformer.
            if threading.get_ident() == thread:
                passed[place] = tokens

        places = [*self.taps, self.n_frozen]
        handles = [
            vit.blocks[k - 1].register_forward_hook(lambda _, __, tokens, k=k: keep(k, tokens))
            for k in places
            if k
        ]
        if not self.n_frozen:
            first = vit.blocks[0]
            handles.append(first.register_forward_pre_hook(lambda _, given: keep(0, given[0])))
        try:
            with torch.no_grad():
                logits = self.whole_logits(images)
        finally:
            for handle in handles:
                handle.remove()
        if passed.keys() != {*places}:
            raise bad(
                "surrogate",
                "a transformer whose blocks do not run one after another",
                "a plain VisionTransformer of timm: not compiled, and without a forward of its own",
            )
        return [passed[k] for k in places], logits

    def whole_images(self, images: Tensor) -> Tensor:
        """The surrogate's outputs (B, K) for whole images, in the units of the game."""
        first = next(self.surrogate.parameters())
        with torch.no_grad():
            return self.link(self.whole_logits(images.to(first)))

    def whole_logits(self, images: Tensor) -> Tensor:
        """The surrogate's logits (B, K) for whole images; it may write into its copy of them."""
        logits: Tensor = self.surrogate(images)
        return logits.float()

    def coalition_values(
        self, images: Tensor, examples: Tensor, coalitions: Tensor, batch_size: int = 512
    ) -> Tensor:
        """Values (R, K) of coalitions (R, patches) of the images of ``examples`` (R,)."""
        outputs = self.surrogate.coalition_outputs(images, examples, coalitions, batch_size)
        return self.link(outputs.float())

    def odd_values(self, images: Tensor, halves: Tensor, batch_size: int = 512) -> Tensor:
        """Values of coalitions (B, m, patches) minus those of their complements, (B, m, K)."""
        n_games, n_pairs, n_players = halves.shape
        both = torch.stack([halves, ~halves]).reshape(-1, n_players)
        examples = torch.arange(n_games, device=halves.device).repeat_interleave(n_pairs).repeat(2)
        values = self.coalition_values(images, examples, both, batch_size)
        inside, outside = values.reshape(2, n_games, n_pairs, -1).unbind()
        return inside - outside


class _Mass(nn.Module):
    """Logarithm of what the empty coalition weighs beside patches of weight 1 / n."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.ones(()))


def _fresh(block: nn.Module) -> nn.Module:
    """A block of the same kind with new weights."""
    block = copy.deepcopy(block).cpu()
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    return block
