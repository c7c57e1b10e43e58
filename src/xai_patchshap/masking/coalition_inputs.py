"""CoalitionInputs: the rows that a model gets for coalitions, one batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["CoalitionInputs"]


@dataclass(frozen=True)
class CoalitionInputs:
    """Inputs of the model for any coalition, built one batch at a time.

    N is the number of examples and S that of backgrounds; every input is one tensor of a
    tuple.

    Attributes
    ----------
    inputs : tuple of Tensor, each (N, ...)
        What is explained.
    backgrounds : tuple of Tensor, each (S, N or 1, ...)
        What stands in for hidden parts; broadcasts against the input.
    labels : tuple of Tensor, each (N or 1, ...)
        Player of each element, int64; broadcasts against the input.
    n_players : tuple of int
        Number of players of each example.
    """

    inputs: tuple[Tensor, ...]
    backgrounds: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    n_players: tuple[int, ...]

    @property
    def n_examples(self) -> int:
        return len(self.n_players)

    @property
    def n_backgrounds(self) -> int:
        return len(self.backgrounds[0])

    @cached_property
    def _in_order(self) -> tuple[bool, ...]:
        """For each input, whether element i is player i: pixels need no look-up."""
        return tuple(
            len(m) == 1 and torch.equal(m.reshape(-1), torch.arange(m.numel(), device=m.device))
            for m in self.labels
        )

    def to(self, device: torch.device | None, memory: torch.memory_format) -> CoalitionInputs:
        """The same inputs on another device, images in the given memory format."""

        def moved(t: Tensor) -> Tensor:
            t = t if device is None else t.to(device)
            return t.contiguous(memory_format=memory) if t.dim() == 4 else t

        inputs = tuple(moved(x) for x in self.inputs)
        backgrounds = tuple(torch.stack([moved(b) for b in bs]) for bs in self.backgrounds)
        labels = tuple(m if device is None else m.to(device) for m in self.labels)
        return CoalitionInputs(inputs, backgrounds, labels, self.n_players)

    def rows(self, examples: Tensor, coalitions: Tensor, backgrounds: Tensor) -> tuple[Tensor, ...]:
        """Masked inputs, one row for each (example, coalition, background).

        Parameters
        ----------
        examples, backgrounds : Tensor of int64, shape (B,)
        coalitions : Tensor of bool, shape (B, at least n_players)

        Returns
        -------
        tuple of Tensor, each (B, ...)
        """
        device = self.inputs[0].device
        examples, coalitions = examples.to(device), coalitions.to(device)
        backgrounds = backgrounds.to(device)
        out = []
        parts = zip(self.inputs, self.backgrounds, self.labels, self._in_order, strict=True)
        for x, background, labels, in_order in parts:
            if in_order:
                shown = coalitions[:, : labels.numel()]
            elif len(labels) == 1:
                shown = coalitions.index_select(1, labels.reshape(-1))
            else:
                shown = coalitions.gather(1, labels[examples].flatten(1))
            shown = shown.reshape(len(examples), *labels.shape[1:])
            # One example or one background broadcasts: no copy for each row.
            if len(background) == 1 and background.shape[1] == 1:
                hidden = background[0]
            else:
                hidden = background[backgrounds, examples if background.shape[1] > 1 else 0]
            out.append(torch.where(shown, x if len(x) == 1 else x[examples], hidden))
        return tuple(out)
