"""The Shapley kernel: how likely each size of a coalition is."""

from __future__ import annotations

import numpy as np

from ..._typing import Floats
from ...errors import bad

__all__ = ["shapley_kernel_sizes", "shapley_kernel_strata"]


def shapley_kernel_sizes(n_players: int, power: float = 1.0) -> Floats:
    r"""Probability of each coalition size 1..n-1 under the Shapley kernel.

    :math:`p(k) \propto 1 / (k (n - k))`: the kernel weight of one coalition (Lundberg & Lee,
    NeurIPS 2017, theorem 2) times the number of coalitions of that size.

    Parameters
    ----------
    n_players : int
    power : float
        Of :math:`1 / (k (n - k))`: 1 is the kernel, 0 makes all sizes as likely.

    Returns
    -------
    ndarray of shape (n_players - 1,)

    Examples
    --------
    >>> shapley_kernel_sizes(4).round(3)
    array([0.364, 0.273, 0.364])
    """
    if n_players < 2:
        raise bad("n_players", n_players, "at least 2 players")
    size = np.arange(1, n_players)
    share = 1.0 / (size * (n_players - size)) ** power
    return np.asarray(share / share.sum())


def shapley_kernel_strata(n_players: int, power: float = 1.0) -> Floats:
    """The same of pairs of a coalition and its complement, by the size of the smaller half.

    Examples
    --------
    >>> shapley_kernel_strata(4).round(3)
    array([0.727, 0.273])
    """
    sizes = shapley_kernel_sizes(n_players, power)
    strata = sizes[: n_players // 2].copy()
    # The sizes k and n - k coincide in the middle.
    strata[: (n_players - 1) // 2] *= 2
    return strata
