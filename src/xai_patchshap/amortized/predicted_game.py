r"""A game that a network predicts for an image, and its Shapley values.

Shapley values alone are hard to learn from coalitions: what an additive game leaves of their
values is noise to the regression. Most of that noise has a simple form. Evidence adds up before
the softmax, not behind it, and a transformer that pools its tokens averages what it is shown.
The predicted game

.. math:: \hat v(S) = \mathrm{link}\Bigl(b + \frac{(1 + m) \sum_{i \in S} e_i}
          {m + \frac1n \sum_{i \in S} w_i}\Bigr),
          \quad \tfrac1n \sum_i w_i = 1, \quad b + \sum_i e_i = \mathrm{logits}(N),

with the logits :math:`b` of the empty coalition, and evidence :math:`e_i` and a weight
:math:`w_i` for each patch, has the right values of the empty and of the full coalition, and
saturates as the model does. It is fitted to coalitions itself. Then the regression that Shapley
values minimise has less noise on

.. math:: v(S) - v(N \setminus S) - [\hat v(S) - \hat v(N \setminus S)]
          + \sum_i z_i \phi_i(\hat v), \quad z_i = \pm 1,

of which the Shapley values of v are the minimiser still, whatever the predicted game: a
control variate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["PredictedGame", "Prediction", "additively_normalised", "in_units"]

_FEW_SIZES = (0, 1, 2, 4, 7, 12, 20, 32, 48, 63)  # of 64 patches; games change most at the first
_ENTRIES_AT_ONCE = 2**22


def in_units(logits: Tensor, probability: bool) -> Tensor:
    """Logits (..., K) as the values of a game: probabilities or themselves."""
    if not probability:
        return logits
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)


def additively_normalised(values: Tensor, total: Tensor) -> Tensor:
    """Values (B, n, K) and the same for all patches, so that they sum to ``total`` (B, K)."""
    gap = total - values.sum(1)
    return values + gap[:, None] / values.shape[1]


@dataclass(frozen=True)
class PredictedGame:
    """The predicted games of B images.

    Attributes
    ----------
    evidence : Tensor (B, n, K)
        In logits; the patches' sum is what separates the full coalition from the empty one.
    weights : Tensor (B, n)
        Positive, of mean 1 over the patches.
    mass : Tensor (B,)
        What the empty coalition weighs, where all patches together weigh 1.
    empty : Tensor (K,)
        Logits of the empty coalition.
    probability : bool
        Whether values are probabilities or logits.

    Examples
    --------
    >>> evidence = torch.tensor([[[1.0], [2.0], [3.0]]])
    >>> heavy = torch.tensor([1e6])  # the empty coalition outweighs all: evidence adds up
    >>> game = PredictedGame(evidence, torch.ones(1, 3), heavy, torch.zeros(1), False)
    >>> game.values(torch.tensor([[[True, False, True]]])).round(decimals=3)
    tensor([[[4.]]])
    >>> game.shapley_values().squeeze().round(decimals=3)
    tensor([1., 2., 3.])
    """

    evidence: Tensor
    weights: Tensor
    mass: Tensor
    empty: Tensor
    probability: bool

    def __getitem__(self, rows: slice) -> PredictedGame:
        """The games of some of the images."""
        return PredictedGame(
            self.evidence[rows], self.weights[rows], self.mass[rows], self.empty, self.probability
        )

    def values(self, coalitions: Tensor) -> Tensor:
        """Values (B, m, K) of coalitions, bool (B, m, n)."""
        # In full precision, under autocast too: small differences of these will count.
        with torch.autocast(coalitions.device.type, enabled=False):
            shown = coalitions.to(self.evidence.dtype)
            evidence = torch.einsum("bmn,bnk->bmk", shown, self.evidence)
            return self._value(evidence, torch.einsum("bmn,bn->bm", shown, self.weights))

    def shapley_values(
        self, n_sizes: int = 64, n_orders: int = 8, generator: torch.Generator | None = None
    ) -> Tensor:
        """The values of :meth:`estimate`, without their errors."""
        return self.estimate(n_sizes, n_orders, generator)[0]

    def estimate(
        self, n_sizes: int = 64, n_orders: int = 8, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Shapley values (B, n, K), unbiased, and their standard errors.

        The values sum to what they should exactly.

        :math:`\phi_i` is the mean, over sizes 0 to n - 1 and the coalitions of that size
        without i, of what i adds. Of random orders, the first patches other than i are such
        coalitions, for all patches i at once.

        Parameters
        ----------
        n_sizes : int
            Sizes for each order, one of each stratum; from n on all.
        n_orders : int
            Random orders, and as many reversed. Errors are those between such couples: 0 of one.
        generator : torch.Generator, optional
            On the CPU; by default one of fixed seed.
        """
        n = self.evidence.shape[1]
        generator = generator or torch.Generator().manual_seed(0)
        orders = torch.rand(n_orders, n, generator=generator).argsort(1)
        orders = torch.cat([orders, n - 1 - orders])
        strata = min(n, n_sizes)
        draws = torch.rand(len(orders), strata, generator=generator)
        sizes = ((torch.arange(strata) + draws) * (n / strata)).long().clamp(max=n - 1)
        mean, spread = torch.zeros_like(self.evidence), torch.zeros_like(self.evidence)
        at_once = max(1, _ENTRIES_AT_ONCE // (strata * self.evidence[0].numel()))
        with torch.no_grad(), torch.autocast(mean.device.type, enabled=False):
            for couple in range(n_orders):
                found = torch.zeros_like(mean)
                for row in (couple, couple + n_orders):
                    before, after = (
                        (orders[row] < sizes[row, :, None] + more).to(mean) for more in (0, 1)
                    )
                    for start in range(0, len(mean), at_once):
                        some = self[start : start + at_once]
                        found[start : start + at_once] += some._added(before, after)
                found /= 2 * strata
                step = found - mean
                mean += step / (couple + 1)
                spread += step * (found - mean)
            error = (spread / (n_orders * max(1, n_orders - 1))).sqrt()
            whole = torch.ones(len(mean), 1, n, device=mean.device)
            gap = self.values(whole)[:, 0] - self.values(0 * whole)[:, 0]
            return additively_normalised(mean, gap), error

    def first_order(self) -> Tensor:
        r"""The Shapley values (B, n, K) of weak patches, at the price of a few coalitions.

        What a patch adds to a coalition is its derivative, half of the patch being there: a
        product of the patch's evidence and weight with sums over coalitions.
        """
        n = self.evidence.shape[1]
        coalitions, shares = (t.to(self.evidence) for t in _few(n))
        with torch.autocast(coalitions.device.type, enabled=False):
            evidence = torch.einsum("mn,bnk->bmk", coalitions, self.evidence)
            evidence = evidence + self.evidence.mean(1, keepdim=True) / 2
            weight = torch.einsum("mn,bn->bm", coalitions, self.weights) + 0.5
            value = self._value(evidence, weight)
            seen = self._seen(weight)
            slope = shares * (1 + self.mass)[:, None] / seen
            thinned = (slope / seen)[..., None] * self._through_link(value, evidence) / n
            by_weight = self.weights[..., None] * thinned.sum(1, keepdim=True)
            if not self.probability:
                return self.evidence * slope.sum(1)[:, None, None] - by_weight
            if value.shape[-1] == 1:
                value = value * (1 - value)
                return self.evidence * (slope[..., None] * value).sum(1, keepdim=True) - by_weight
            pulled = self.evidence @ value.mT * slope[:, None]
            alone = self.evidence * (slope[..., None] * value).sum(1, keepdim=True)
            return alone - pulled @ value - by_weight

    def _added(self, before: Tensor, after: Tensor) -> Tensor:
        """Sum (B, n, K) of what patches add: to ``before`` (m, n), or in ``after`` (m, n)."""
        result = torch.zeros_like(self.evidence)
        # A patch outside ``before`` joins it; one inside leaves ``after``, one larger.
        for coalitions, sign, movers in ((before, 1.0, 1 - before), (after, -1.0, before)):
            evidence = torch.einsum("mn,bnk->bmk", coalitions, self.evidence)
            weight = torch.einsum("mn,bn->bm", coalitions, self.weights)
            moved = self._value(
                evidence[:, :, None] + sign * self.evidence[:, None],
                weight[:, :, None] + sign * self.weights[:, None],
            )
            change = sign * (moved - self._value(evidence, weight)[:, :, None])
            result += torch.einsum("mn,bmnk->bnk", movers, change)
        return result

    def _through_link(self, value: Tensor, step: Tensor) -> Tensor:
        """The derivative of the values (..., K) along a step of their logits."""
        if not self.probability:
            return step
        if value.shape[-1] == 1:
            return value * (1 - value) * step
        return value * (step - (value * step).sum(-1, keepdim=True))

    def _seen(self, weight: Tensor) -> Tensor:
        mass = self.mass.reshape(-1, *[1] * (weight.ndim - 1))
        return mass + weight / self.evidence.shape[1]

    def _value(self, evidence: Tensor, weight: Tensor) -> Tensor:
        mass = self.mass.reshape(-1, *[1] * weight.ndim)
        pooled = (1 + mass) * evidence / self._seen(weight)[..., None]
        return in_units(self.empty + pooled, self.probability)


@dataclass(frozen=True)
class Prediction:
    """What an explainer network says of B images.

    Attributes
    ----------
    full : Tensor (B, K)
        Values of the full coalition.
    null : Tensor (K,)
        Value of the empty one.
    beside : Tensor (B, n, K)
        Values that are predicted by themselves: in addition to those of the game to first
        order, or all, if there is none.
    game : PredictedGame or None
    """

    full: Tensor
    null: Tensor
    beside: Tensor
    game: PredictedGame | None = None

    def values(self) -> Tensor:
        """Shapley values (B, n, K); they sum to ``full - null``."""
        values = self.beside
        if self.game is not None:
            # What fits the game does not follow from the errors of a first order.
            with torch.no_grad():
                first = self.game.first_order()
            values = values + first
        return additively_normalised(values, self.full - self.null)


@lru_cache(maxsize=8)
def _few(n: int) -> tuple[Tensor, Tensor]:
    """Coalitions (m, n) of zeros and ones of all sizes, and their shares of the mean."""
    sizes = np.unique(np.round(np.array(_FEW_SIZES) * (n - 1) / 63)).astype(int)
    # Trapezoids: every size from 0 to n - 1 counts as its neighbours in between.
    shares = np.array([np.interp(range(n), sizes, unit).mean() for unit in np.eye(len(sizes))])
    order = torch.rand(2, n, generator=torch.Generator().manual_seed(0)).argsort(1)
    order = torch.cat([order, n - 1 - order])
    coalitions = (order < torch.from_numpy(sizes)[:, None, None]).flatten(0, 1).float()
    return coalitions, torch.from_numpy(shares).float().repeat_interleave(len(order)) / len(order)
