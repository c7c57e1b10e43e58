r"""Interactions by weighted least squares on paired coalitions, regularised.

In signs :math:`z_i = \pm 1` every polynomial of order :math:`\ell` in the players is a sum of
products :math:`b_T \prod_{i \in T} z_i`, and the two halves of a game,
:math:`[v(S) \pm v(N \setminus S)] / 2`, are the sums of those of even and of odd size: two
regressions with half the rows each.

- FSII and FBII are the coefficients of the best polynomial, under the Shapley kernel with the
  empty and the full coalition exact, or under equal weights (Tsai, Yeh & Ravikumar, JMLR
  2023, equations 4 and 9).
- SII, order by order (KernelSHAP-IQ, Fumagalli et al., ICML 2024, algorithm 1): what the lower
  orders leave is regressed on :math:`\sum_T \Phi(T)\, \lambda(|T|, |S \cap T|)`,
  :math:`\lambda(s, j) = \sum_{r=1}^{j} \binom{j}{r} B_{s-r}`, with kernel
  :math:`1 / \binom{n - 2s}{|S| - s}` and, for sizes below s and above n - s, very large
  weights. :math:`\lambda(s, \cdot)` is odd for odd s and even for even s: half the rows again.

Plain least squares magnifies what it cannot determine without bound where interactions
outnumber the evaluations; here a ridge, averaged over its strengths by marginal likelihood,
shrinks towards equal values of the players and no interaction.
"""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array

from ..._typing import Floats
from ...errors import bad
from ..averaged_ridge import AveragedRidge
from ..base import check_values
from ..coalitions.sampled_pairs import PairSampler, paired_coalitions
from ..indices import bernoulli, check_index
from ..units import constant_outputs, units_of
from .exact import exact_interactions
from .interactions import Interactions, k_sii_of_sii, subsets

__all__ = ["RegressionInteractions"]

REGRESSION_INDICES = ("SV", "BV", "SII", "k-SII", "FSII", "FBII")
_BASE = {"SV": "FSII", "BV": "FBII", "k-SII": "SII"}

# Weight of the sizes that KernelSHAP-IQ's kernel makes infinitely heavy, over all others.
_HEAVY = 1e3
_RANK_TOLERANCE = 1e-6
# Heavy rows set the scale that ratios refer to: the light ones may be far below it.
_RATIOS = np.logspace(-3.0, 7.0, 61)
_SPARE = 3  # pairs below which nothing is estimated


def check_regression(index: str, order: int) -> None:
    """Raise unless the index can be estimated by regression."""
    if index not in REGRESSION_INDICES or order > (3 if index in ("FSII", "FBII") else 2):
        raise bad(
            "index",
            f"{index!r} of order {order}",
            "SII and k-SII up to order 2, FSII and FBII up to order 3 for regression",
            "estimator='gaussian-process' takes every index and order.",
        )


class RegressionInteractions:
    """FSII and FBII by constrained regression, SII and k-SII by KernelSHAP-IQ.

    Regularised, so that any budget gives a usable answer; the standard errors are posterior
    deviations. Exact once all pairs are drawn. :class:`GaussianProcessInteractions` is more
    accurate on the games of ``benchmarks/interactions.py``, but for a few settings; this is for
    those who want the published estimators.

    Parameters
    ----------
    n_players, budget, index, order, seed, sampling
        As in :class:`GaussianProcessInteractions`; ``index`` is one of SV, BV, SII, k-SII,
        FSII, FBII; SII and k-SII up to order 2, FSII and FBII up to 3.

    Attributes
    ----------
    coalitions : ndarray of bool, shape (m, n_players)
        As in :class:`GaussianProcessInteractions`.

    Raises
    ------
    PatchShapError
        If the index or the order is not among these, or the budget is below 2.

    Examples
    --------
    >>> import numpy as np
    >>> estimator = RegressionInteractions(12, budget=400, index="FSII", order=2)
    >>> z = estimator.coalitions
    >>> interactions = estimator.estimate(z @ np.arange(12.0) + 30 * z[:, 3] * z[:, 4])
    >>> interactions.top(1, order=2)[0][0]
    (3, 4)
    """

    min_coalitions = 2

    def __init__(
        self,
        n_players: int,
        budget: int,
        index: str = "FSII",
        order: int = 2,
        seed: int | None = 0,
        sampling: str = "modified_l2",
    ) -> None:
        check_index(index, order, n_players)
        check_regression(index, order)
        self.index, self.order = index, order
        self._sampler = PairSampler(n_players, seed, sampling)
        features = sum(comb(n_players, s) for s in range(1, order + 1))
        self.coalitions, self._strata = paired_coalitions(
            n_players,
            budget,
            self._sampler,
            lambda p: 8 * (4 * p * features + 2 * min(p, features) ** 2),
        )

    def estimate(self, values: Floats, n_guides: int = 0) -> Interactions:
        """Interactions of all outputs from the values of the first coalitions.

        Parameters
        ----------
        values : ndarray of shape (m, n_outputs) or (m,)
            Values of the first ``m >= 2`` of :attr:`coalitions`; a last coalition
            without its complement is left aside.
        n_guides : int
            The last outputs, as many as this, only guide a Gaussian process: they are left aside.
        """
        v = check_values(values, len(self.coalitions), self.min_coalitions, n_guides)
        n_pairs = (len(v) - 2) // 2
        if n_pairs == self._sampler.n_pairs:
            return exact_interactions(self.coalitions, v, self.index, self.order)
        n = self.coalitions.shape[1]
        base = _BASE.get(self.index, self.index)
        v = v[: 2 + 2 * n_pairs]
        unit = units_of(v)
        u = v / unit
        inside, outside = u[2::2], u[3::2]
        odd, even = (inside - outside) / 2, (inside + outside) / 2 - (u[0] + u[1]) / 2
        problem = _Problem(
            n, np.where(self.coalitions[2 : 2 + 2 * n_pairs : 2], 1.0, -1.0),
            self._strata[:n_pairs], self._sampler,
        )  # fmt: skip
        solve = problem.kernel_iq if base == "SII" else problem.faithful
        means, stds = solve(odd, even, (u[1] - u[0]) / 2, self.order, base)
        if self.index == "k-SII":
            means, stds = k_sii_of_sii(means, n), k_sii_of_sii(stds, n, of_errors=True)
        constant = constant_outputs(u)
        for s, (mean, std) in enumerate(zip(means, stds, strict=True), start=1):
            mean[:, constant] = (u[1] - u[0])[constant] / n if s == 1 else 0.0
            std[:, constant] = 0.0
        return Interactions(
            self.index, n, tuple(m * unit for m in means), tuple(s * unit for s in stds),
            v[0].copy(), v[1].copy(), len(v), exact=False,
        )  # fmt: skip


class _Problem:
    """The regressions on one sample of pairs."""

    def __init__(
        self, n: int, signs: Floats, strata: NDArray[np.int64], sampler: PairSampler
    ) -> None:
        self.n, self.signs, self.strata, self.sampler = n, signs, strata, sampler
        self.sizes = np.arange(1, len(sampler.mass) + 1)

    def faithful(
        self, odd: Floats, even: Floats, gap: Floats, order: int, index: str
    ) -> tuple[list[Floats], list[Floats]]:
        """FSII or FBII; the constraint of FSII is built in, FBII has a free constant."""
        mass = self.sampler.mass if index == "FSII" else self.sampler.n_pairs_of
        root = self._root(mass)
        means = [np.zeros((len(subsets(self.n, s)), odd.shape[1])) for s in range(1, order + 1)]
        variances = [np.zeros_like(m) for m in means]
        for parity, y in ((1, odd), (0, even)):
            orders = [s for s in range(1, order + 1) if s % 2 == parity]
            if not orders:
                continue
            # Prior variances: every order as a whole has the same.
            scale = np.concatenate(
                [np.full(len(subsets(self.n, s)), (self.n / len(subsets(self.n, s))) ** 0.5)
                 for s in orders]
            )  # fmt: skip
            features = np.concatenate([self._products(s) for s in orders], axis=1) * scale
            centre = np.zeros((features.shape[1], odd.shape[1]))
            normal = None
            if parity:
                if index == "FSII":
                    # On the constraint: the sum of all coefficients is that of the full one.
                    centre[: self.n] = gap / self.n
                    normal = scale / np.linalg.norm(scale)
            elif index == "FSII":
                features = features - scale  # the full coalition's row is zero
            else:
                share = root**2 / (root**2).sum()
                features, y = features - share.T @ features, y - share.T @ y
            maps = [self._to_moebius(s, orders) * scale for s in range(1, order + 1)]
            for s, (mean, std) in enumerate(
                self._fit(features, y - features @ centre, root, maps, normal), start=1
            ):
                means[s - 1] += mean + maps[s - 1] @ centre
                variances[s - 1] += std**2
        return means, [np.sqrt(x) for x in variances]

    def kernel_iq(
        self, odd: Floats, even: Floats, gap: Floats, order: int, index: str
    ) -> tuple[list[Floats], list[Floats]]:
        """SII, order by order."""
        n = self.n
        left_over = {1: odd, 0: even}
        means, stds = [], []
        for s in range(1, order + 1):
            features = self._intersections(s)
            normal = None
            centre = np.zeros((features.shape[1], odd.shape[1]))
            if s == 1:
                # The part of signs, whose other half is a constant.
                features = features - 0.5
                centre += 2 * gap / n
                normal = np.full(n, n**-0.5)
                mass = self.sampler.mass
            else:
                mass = self.sampler.n_pairs_of.copy()
                light = self.sizes >= s
                mass[light] /= [float(comb(n - 2 * s, k - s)) for k in self.sizes[light]]
                mass[~light] = _HEAVY * max(mass[light].sum(), 1.0)
            y = left_over[s % 2]
            whole = eye_array(features.shape[1], format="csr")
            [(mean, std)] = self._fit(
                features, y - features @ centre, self._root(mass), [whole], normal
            )
            means.append(mean + centre)
            stds.append(std)
            left_over[s % 2] = y - features @ means[-1]
        return means, stds

    def _fit(
        self, x: Floats, y: Floats, root: Floats, maps: list[Any], normal: Floats | None
    ) -> list[tuple[Floats, Floats]]:
        """Ridge estimates of the linear functions of the coefficients in ``maps``."""
        if len(x) < _SPARE:
            # Too little to learn a scale from: no interaction, and no claim about the error.
            shapes = [(m.shape[0], y.shape[1]) for m in maps]
            return [(np.zeros(shape), np.full(shape, np.inf)) for shape in shapes]
        x = root * x
        if normal is not None:
            x = x - np.outer(x @ normal, normal)
        left, singular, v = _factors(x)
        y = root * y
        projected = left.T @ y
        unexplained = np.maximum((y**2).sum(axis=0) - (projected**2).sum(axis=0), 0.0)
        ridge = AveragedRidge.of(projected, unexplained, len(y), singular, _RATIOS)
        fits = []
        for m in maps:
            prior = np.asarray(m.power(2).sum(axis=1)).ravel()
            if normal is not None:
                prior = prior - np.square(m @ normal)
            fits.append(ridge.functions(m @ v, prior))
        return fits

    def _root(self, mass: Floats) -> Floats:
        """Square roots of the pairs' weights, whose mean is 1."""
        weight, _ = self.sampler.weights(self.strata, mass)
        mean = weight.mean() if len(weight) else 1.0
        return np.asarray(np.sqrt(weight / max(mean, np.finfo(float).tiny))[:, None])

    def _products(self, s: int) -> Floats:
        """Products of the signs of each subset, (m, C(n, s))."""
        members = subsets(self.n, s)
        product = self.signs[:, members[:, 0]]
        for k in range(1, s):
            product = product * self.signs[:, members[:, k]]
        return product

    def _intersections(self, s: int) -> Floats:
        """lambda(s, j) of the j players that each coalition shares with each subset."""
        shown = (self.signs > 0).astype(float)
        members = subsets(self.n, s)
        shared = np.sum([shown[:, members[:, k]] for k in range(s)], axis=0)
        table = [
            float(sum(comb(j, r) * bernoulli(s - r) for r in range(1, j + 1))) for j in range(s + 1)
        ]
        return np.asarray(np.array(table)[shared.astype(np.intp)])

    def _to_moebius(self, s: int, orders: list[int]) -> Any:
        """Matrix from coefficients of products of signs to those of players' products.

        With z = 2x - 1, ``a(U) = 2**|U| * sum_{T >= U} (-1)**(|T| - |U|) b_T``.
        """
        rows, columns, entries, start = [], [], [], 0
        place = {tuple(u): i for i, u in enumerate(subsets(self.n, s).tolist())}
        for t in orders:
            members = subsets(self.n, t)
            if t >= s:
                for inside in subsets(t, s):
                    for column, u in enumerate(members[:, inside].tolist()):
                        rows.append(place[tuple(u)])
                        columns.append(start + column)
                        entries.append(2.0**s * (-1) ** (t - s))
            start += len(members)
        return csr_array((entries, (rows, columns)), shape=(len(place), start))


def _factors(x: Floats) -> tuple[Floats, Floats, Floats]:
    """Thin singular value decomposition by way of the smaller Gram matrix."""
    wide = x.shape[1] > x.shape[0]
    squares, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    keep = squares > (_RANK_TOLERANCE**2) * max(squares[-1], np.finfo(float).tiny)
    singular, vectors = np.sqrt(squares[keep]), vectors[:, keep]
    if wide:
        return vectors, singular, (x.T @ vectors) / singular
    return (x @ vectors) / singular, singular, vectors
