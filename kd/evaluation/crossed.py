"""Confidence interval of a mean difference over pairs of students and test items: for new seeds *and* new items."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
import scipy  # loads scipy.stats and scipy.special on first use, see kd.evaluation.power
from numpy.typing import NDArray

from kd.evaluation.paired_seeds import Interval

_ROUNDING = 1e-10  # relative error of sums of floats; far below what a single item adds


class Estimate(NamedTuple):
    """A mean difference with its uncertainty; the unit is that of the contributions.

    Attributes:
        mean: sum over the items, averaged over the pairs.
        from_pairs, from_items: the part of ``variance`` due to the pairs, which more pairs reduce, and the rest, due to
            the test items, which only more items reduce; ≥ 0.
        variance: of the mean, with the rule of ``estimate_crossed``.
        freedom: degrees of freedom, at least 1.
        pairs, items: numbers of both.
    """

    mean: float
    from_pairs: float
    from_items: float
    variance: float
    freedom: float
    pairs: int
    items: int

    def interval(self, level: float = 0.05) -> Interval:
        """Return the t interval with confidence 1 − ``level``."""
        half = float(scipy.stats.t.isf(level / 2, self.freedom)) * self.variance**0.5
        return Interval(self.mean - half, self.mean + half)

    @property
    def p(self) -> float:
        """Two-sided p-value: below a level if and only if the interval at this level excludes 0."""
        return float(2 * scipy.stats.t.sf(abs(self.mean) / self.variance**0.5, self.freedom))


class RareItems(NamedTuple):
    """Sums over the test items in each direction, for an interval that also holds if few items count much.

    The t interval takes the sum over the items as normal. If the items of a small class count more than others and no
    pair differs on any of them, they add nothing to its length. Yet a share q of all items of this class may differ in
    every pair: N of them show nothing with a probability of (1 − q)^N ≤ e^(−qN), which is above ``level`` / 2 up to
    q = log(2 / ``level``) / N. More pairs do not help, because they share the items. After one or a few such items, the
    t interval is too short as well.

    The number of such items is a Poisson variable, and its exact upper limit after S of them is a quantile of the gamma
    distribution with mean and variance S + 1. For a sum y of unequal contributions with squares v, of at most w each,
    Fay and Feuer take mean y + w and variance v + w². ``widen`` replaces z √v, the part of the t interval for the
    same items, by the distance from y to this limit; independent parts add as squares.

    Attributes:
        rises, falls: sum of the items' mean contributions that are above 0, and below 0 without their sign.
        squared_rises, squared_falls: sums of their squares.
        largest: what one item adds at most, above 0.

    Source: Fay and Feuer 1997, "Confidence intervals for directly standardized rates"; Zou and Donner 2008,
    "Construction of confidence limits about effect measures", for the sum of squares.
    """

    rises: float
    falls: float
    squared_rises: float
    squared_falls: float
    largest: float

    @classmethod
    def of(cls, contributions: NDArray[np.float64], largest: float) -> Self:
        """Return the sums for contributions [pairs, items], see ``estimate_crossed``."""
        means = contributions.mean(axis=0)
        rises, falls = np.maximum(means, 0), np.maximum(-means, 0)
        squares = float((rises**2).sum()), float((falls**2).sum())
        return cls(float(rises.sum()), float(falls.sum()), *squares, largest)

    def widen(self, interval: Interval, mean: float, level: float) -> Interval:
        """Return the interval around ``mean`` with confidence 1 − ``level``, widened for rare items."""
        below = (mean - interval.low) ** 2 + self._missing(self.falls, self.squared_falls, level)
        above = (interval.high - mean) ** 2 + self._missing(self.rises, self.squared_rises, level)
        return Interval(mean - below**0.5, mean + above**0.5)

    def _missing(self, total: float, squares: float, level: float) -> float:
        """Return the difference of the squared distances to both limits, at least 0."""
        mean, variance = total + self.largest, squares + self.largest**2
        limit = variance / mean * float(scipy.special.gammainccinv(mean**2 / variance, level / 2))
        normal = float(scipy.special.ndtri(level / 2)) ** 2 * squares
        return max(0.0, (limit - total) ** 2 - normal)


def find_p(interval: Callable[[float], Interval | None], smallest: float) -> float:
    """Return the smallest level at which an interval excludes 0, by bisection; 1 if there is none.

    Args:
        interval: of a level in (0, 1), the longer the smaller it is; None excludes nothing.
        smallest: lower bound of the result.
    """

    def excludes_zero(level: float) -> bool:
        found = interval(level)
        return found is not None and (found.low > 0 or found.high < 0)

    low, high = np.log(max(smallest, 1e-300)), 0.0
    if not excludes_zero(1 - 1e-9):
        return 1.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (low, middle) if excludes_zero(float(np.exp(middle))) else (middle, high)
    return float(np.exp(high))


def sum_items(contributions: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the difference of each pair for contributions [pairs, items], without the rounding of sums of weights.

    Differences that are 0 or equal have rules of their own, which one bit must not switch off.
    """
    totals = contributions.sum(axis=1)
    allowed = _ROUNDING * np.abs(contributions).max(initial=0)
    for value in (totals[0], 0.0):
        totals[np.abs(totals - value) < allowed] = value
    return tuple(map(float, totals))


def estimate_crossed(contributions: NDArray[np.float64]) -> Estimate | None:
    """Estimate the mean over pairs of the summed contributions [pairs, items], with both as random samples.

    Contribution [a, b] is what item b adds to the difference of pair a. With the mean squares of pairs, items and
    residual in a two-way layout without replication, the variance of the mean contribution is
    max(MS_p + MS_i − MS_r, MS_p, MS_i) / (A · B), with Satterthwaite's degrees of freedom.

    Returns:
        None with fewer than two pairs or items, or if all contributions are equal: there is no spread to estimate.

    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components"; for crossed random
    factors, Searle, Casella and McCulloch 1992, "Variance components".
    """
    pairs, items = contributions.shape
    if pairs < 2 or items < 2:
        return None
    mean, by_pair, by_item = contributions.mean(), contributions.mean(axis=1), contributions.mean(axis=0)
    residual = contributions - by_pair[:, None] - by_item[None, :] + mean
    freedoms = np.array([pairs - 1, items - 1, (pairs - 1) * (items - 1)])
    sums = [items * ((by_pair - mean) ** 2).sum(), pairs * ((by_item - mean) ** 2).sum(), (residual**2).sum()]
    of_pairs, of_items, of_residual = squares = np.array(sums) / freedoms
    combined = of_pairs + of_items - of_residual
    largest = max(combined, of_pairs, of_items)
    if largest <= _ROUNDING**2 * float(np.abs(contributions).max()) ** 2:
        return None
    if combined == largest:
        freedom = combined**2 / (squares**2 / freedoms).sum()
    else:
        freedom = pairs - 1 if of_pairs == largest else items - 1
    scale = items / pairs  # from the mean of the contributions to their sum over the items
    return Estimate(
        float(items * mean),
        float(scale * of_pairs),
        float(scale * (largest - of_pairs)),
        float(scale * largest),
        max(float(freedom), 1.0),
        pairs,
        items,
    )
