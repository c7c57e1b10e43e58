"""All coalitions of a few players, in one order."""

from __future__ import annotations

import numpy as np

from ..._typing import Bools
from ...errors import bad

__all__ = ["MAX_EXACT_PLAYERS", "all_coalitions"]

MAX_EXACT_PLAYERS = 20


def all_coalitions(n_players: int) -> Bools:
    """All coalitions (2**n_players, n_players), the empty one first and the full one second.

    Examples
    --------
    >>> all_coalitions(2).astype(int).tolist()
    [[0, 0], [1, 1], [1, 0], [0, 1]]
    """
    if not 1 <= n_players <= MAX_EXACT_PLAYERS:
        raise bad(
            "n_players",
            n_players,
            f"1 to {MAX_EXACT_PLAYERS} players for full enumeration",
            "Use KernelShap for more.",
        )
    masks = np.arange(2**n_players, dtype=np.uint32)
    # The others by bitmask: bit i set means player i is in.
    masks = np.concatenate([masks[:1], masks[-1:], masks[1:-1]])
    return (masks[:, None] >> np.arange(n_players, dtype=np.uint32) & 1).astype(bool)
