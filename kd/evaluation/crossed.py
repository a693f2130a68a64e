"""Confidence interval of a mean difference over pairs of students and test items: for new seeds *and* new items."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy  # loads scipy.stats on first use, see kd.evaluation.power
from numpy.typing import NDArray

from kd.evaluation.paired_seeds import Interval


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
    if largest <= 0:
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
