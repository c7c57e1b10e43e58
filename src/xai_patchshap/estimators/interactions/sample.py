"""The sample of coalitions that the sampled estimators share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import bad
from ..sampling import PairSampler

__all__ = ["paired_coalitions"]


def paired_coalitions(
    n_players: int, budget: int, seed: int | None, sampling: str
) -> tuple[NDArray[np.bool_], PairSampler, NDArray[np.int64]]:
    """Empty, full, then each sampled coalition and its complement; the pairs' strata."""
    if budget < 2:
        raise bad("budget", budget, "at least 2 evaluations (the empty and the full coalition)")
    sampler = PairSampler(n_players, seed, sampling)
    halves, strata = sampler.take(min((budget - 2) // 2, sampler.n_pairs))
    ends = np.zeros((2, n_players), dtype=bool)
    ends[1] = True
    both = np.stack([halves, ~halves], axis=1).reshape(-1, n_players)
    return np.concatenate([ends, both]), sampler, strata
