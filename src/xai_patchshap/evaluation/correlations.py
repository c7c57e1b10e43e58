"""Metrics of one attribution map against one game, over random coalitions.

Both ask whether the attributions of a coalition add up to more where its value is higher.
They are the sensitivity-n of Ancona et al. (Towards better understanding of gradient-based
attribution methods for deep neural networks, ICLR 2018) and the faithfulness of Bhatt,
Weller & Moura (Evaluating and aggregating feature-based model explanations, IJCAI 2020), in
the form of Covert, Kim & Lee (Learning to estimate Shapley values with vision transformers,
ICLR 2023): Spearman's correlation, over 1,000 coalitions. A game is any callable from
coalitions, bool (m, n), to values (m,), as in :mod:`xai_patchshap.evaluation`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from .._typing import Bools, Floats
from .._validation import whole
from ..errors import bad
from ..models.outputs import one_score_each
from .checks import GameLike, finite_array

__all__ = ["faithfulness", "random_coalitions", "rank_correlation", "sensitivity_n"]

_ROUNDING = 1e-12  # a spread below this share of the largest number is rounding
_STEPS = 1e9  # numbers closer than the spread over this are equal


def sensitivity_n(
    game: GameLike,
    attribution: ArrayLike,
    n: int,
    *,
    n_coalitions: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
) -> float:
    r"""Rank correlation of summed attributions and values, over coalitions of size n.

    .. math:: \mathrm{corr}_{S : |S| = n} \Big( \sum_{i \in S} \phi_i,\; v(S) \Big)

    Ancona et al. remove S and correlate with the loss :math:`v(N) - v(N \setminus S)`. That
    is this metric for coalitions of the other players, since both sides of the correlation
    become a constant minus what is here.

    Parameters
    ----------
    game : callable
        Maps coalitions, bool (m, n_players), to values (m,) or (m, 1).
    attribution : array_like of any shape
        One number for each player, in C order.
    n : int
        Size of the coalitions, from 1 to n_players - 1.
    n_coalitions : int
        Number of coalitions, drawn with equal probability and with replacement; at least 2.
    seed : int
        Seed of the coalitions.
    batch_size : int
        Most coalitions in one call of ``game``.

    Returns
    -------
    float
        From -1 to 1, the higher the better. 0 where the sums are constant (an attribution
        that prefers no coalition agrees with no order), NaN where the values are (there is
        no order to find, for any attribution: leave such a game out of a mean).

    Raises
    ------
    PatchShapError
        If an argument is not as above, or the game's output has another shape or is not
        finite.

    Examples
    --------
    >>> game = lambda shown: shown @ [1.0, 2.0, 4.0]
    >>> sensitivity_n(game, [1.0, 2.0, 4.0], 2), sensitivity_n(game, [4.0, 2.0, 1.0], 2)
    (1.0, -1.0)
    >>> sensitivity_n(game, [1.0, 1.0, 1.0], 2)
    0.0
    """
    phi = _attribution(attribution)
    most = len(phi) - 1
    mend = "The empty and the full coalition are the only ones of their sizes."
    size = whole(1, most, unit=f", of {len(phi)} players", mend=mend)("n", n)
    return _score(game, phi, random_coalitions(len(phi), size, n_coalitions, seed), batch_size)


def faithfulness(
    game: GameLike,
    attribution: ArrayLike,
    *,
    n_coalitions: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
) -> float:
    """Rank correlation of summed attributions and values, over coalitions of all sizes.

    As :func:`sensitivity_n`, but the size of each coalition is drawn from 0 to n_players, all
    equally likely. Where more patches tend to give higher values, so do the sums of any
    positive attributions: even equal ones can score well.

    Parameters, errors and what constant sides give are those of :func:`sensitivity_n`.

    Examples
    --------
    >>> game = lambda shown: shown @ [1.0, 2.0, 4.0]
    >>> faithfulness(game, [1.0, 2.0, 4.0]), faithfulness(game, [-1.0, -2.0, -4.0])
    (1.0, -1.0)
    >>> 0 < faithfulness(game, [1.0, 1.0, 1.0]) < 1
    True
    """
    phi = _attribution(attribution)
    return _score(game, phi, random_coalitions(len(phi), None, n_coalitions, seed), batch_size)


def random_coalitions(n_players: int, size: int | None, n_coalitions: int, seed: int) -> Bools:
    """Coalitions, bool (n_coalitions, n_players), of one size or of uniformly drawn sizes.

    Of a size, all are equally likely.
    """
    m, rng = whole(2)("n_coalitions", n_coalitions), np.random.default_rng(seed)
    sizes = rng.integers(0, n_players + 1, m) if size is None else np.full(m, size)
    rank = rng.random((m, n_players)).argsort(axis=1).argsort(axis=1)
    return np.asarray(rank < sizes[:, None])


def rank_correlation(sums: Floats, values: Floats) -> Floats:
    """Spearman's correlation (...) of sums (..., m) and values (..., m).

    0 where the sums are constant, NaN where the values are.

    Examples
    --------
    >>> rank_correlation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 5.0, 3.0, 9.0]))
    array(0.8)
    """
    a, b = _centred_ranks(sums), _centred_ranks(values)
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    found = (a * b).sum(-1) / np.where(scale > 0, scale, 1.0)
    return np.asarray(np.where(b.any(-1), found, np.nan))


def _centred_ranks(x: Floats) -> Floats:
    """Ranks minus their mean: all zeros for a constant.

    Sums that are equal differ by rounding, which would break their ties at random.
    """
    low = x.min(-1, keepdims=True)
    spread = x.max(-1, keepdims=True) - low
    constant = spread <= _ROUNDING * np.abs(x).max(-1, keepdims=True)
    steps = np.rint((x - low) / np.where(constant, np.inf, spread) * _STEPS)
    return np.asarray(rankdata(steps, axis=-1) - (x.shape[-1] + 1) / 2)


def _score(game: GameLike, phi: Floats, coalitions: Bools, batch_size: int) -> float:
    size = whole(1)("batch_size", batch_size)
    parts = [coalitions[i : i + size] for i in range(0, len(coalitions), size)]
    # Copies, so that a game that writes into its argument does not change the sums.
    values = np.concatenate(
        [one_score_each("game", game(part.copy()), len(part)) for part in parts]
    )
    return float(rank_correlation(coalitions @ phi, values))


def _attribution(given: ArrayLike) -> Floats:
    phi = finite_array("attribution", given).ravel()
    if len(phi) < 2:
        raise bad("attribution", f"shape {np.shape(given)}", "at least two players")
    return phi
