"""The difference of two arms over pairs of students, with the intervals and the p-value of a verdict."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd.evaluation.crossed import Estimate, RareItems, estimate_crossed, find_p, sum_items
from kd.evaluation.paired_seeds import Interval, t_interval, t_test
from kd.evaluation.sequential import anytime_interval, anytime_p, e_value


class Contrast(NamedTuple):
    """The distilled students minus another arm, in the unit of the quantity that decides.

    Attributes:
        differences: one for each pair of students, or the mean of each block of pairs (``kd.commands.compare``).
        estimate: also covers other test items; None if only the differences are known, or nothing varies.
        one_error: what one error adds to a difference, at most; None if this has no bound, as for the cross-entropy.
        anytime: whether the number of pairs depended on the differences (``kd.evaluation.sequential``).
        rare: widens ``interval`` where items of small classes count more than others; None if all count alike.
        largest: size of the largest possible difference, at which intervals end; None if there is no bound.
    """

    differences: tuple[float, ...]
    estimate: Estimate | None = None
    one_error: float | None = 1.0
    anytime: bool = False
    rare: RareItems | None = None
    largest: float | None = None

    @property
    def mean(self) -> float:
        return fmean(self.differences)

    @property
    def sd(self) -> float | None:
        """Standard deviation of the differences; None for a single one."""
        return stdev(self.differences) if len(self.differences) > 1 else None

    @property
    def p(self) -> float:
        """Two-sided p-value; below a level if and only if ``interval`` at this level excludes 0."""
        if self.rare is None:
            return self._plain_p
        return find_p(self.interval, self._plain_p)

    @property
    def _plain_p(self) -> float:
        if self.anytime:
            return anytime_p(self.differences, self._variance)
        of_seeds = t_test(self.differences)
        return max(self.estimate.p, of_seeds) if self.estimate else of_seeds

    @property
    def e_value(self) -> float:
        """Evidence against a difference of 0 that holds at any number of pairs, see ``kd.evaluation.sequential``."""
        return e_value(self.differences, self._variance)

    @property
    def _variance(self) -> float:
        return self.estimate.variance if self.estimate else 0.0

    def interval(self, level: float = 0.05) -> Interval | None:
        """Return the interval that decides: for other seeds and other test items if these are known.

        It contains ``seeds_interval``. With two or three pairs, the estimate alone would rest on the spread of the
        items and could be narrower; simulated, it then excluded a true difference in up to 10 % instead of 5 %. Where
        items of small classes count more than others, it is wider, see ``kd.evaluation.crossed.RareItems``.
        """
        plain = self._plain_interval(level)
        widened = self.rare.widen(plain, self.mean, level) if self.rare and plain else plain
        return widened and widened.clip(self.largest)

    def widening(self, level: float = 0.05) -> float:
        """Return how much ``rare`` moves a bound of ``interval``, at most."""
        plain = self._plain_interval(level)
        if plain is None or self.rare is None:
            return 0.0
        interval = self.rare.widen(plain, self.mean, level)
        return max(plain.low - interval.low, interval.high - plain.high)

    def _plain_interval(self, level: float) -> Interval | None:
        seeds = self._unbounded_seeds_interval(level)
        if self.estimate is None or seeds is None:
            return seeds
        if self.anytime:
            return anytime_interval(self.differences, level, self._variance)
        both = self.estimate.interval(level)
        return Interval(min(both.low, seeds.low), max(both.high, seeds.high))

    def seeds_interval(self, level: float = 0.05) -> Interval | None:
        """Return the t interval of the differences: for other seeds on the same test items.

        With ``anytime``, the interval that holds at any number of pairs; it contains the t interval.
        """
        interval = self._unbounded_seeds_interval(level)
        return interval and interval.clip(self.largest)

    def _unbounded_seeds_interval(self, level: float) -> Interval | None:
        interval = (anytime_interval if self.anytime else t_interval)(self.differences, level)
        if interval is None or any(self.differences):
            return interval
        # Without any difference, the interval is a number of errors.
        if self.one_error is None:
            return None
        return Interval(self.one_error * interval.low, self.one_error * interval.high)


def contrast_of(
    contributions: NDArray[np.float64],
    *,
    one_error: float | None = 1.0,
    anytime: bool = False,
    unequal: bool = False,
    largest: float | None = None,
) -> Contrast:
    """Return the contrast of contributions [pairs, items]; see ``kd.evaluation.crossed.estimate_crossed``.

    Args:
        unequal: whether an error counts more in small classes, at most ``one_error``; see ``Contrast.rare``.
        largest: see ``Contrast``.
    """
    rare = RareItems.of(contributions, one_error) if unequal and one_error else None
    return Contrast(sum_items(contributions), estimate_crossed(contributions), one_error, anytime, rare, largest)
