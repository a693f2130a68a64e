"""Paired tests and confidence intervals for the errors of N controls and N distilled students on one test set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
import scipy  # loads scipy.stats on first use, see kd.evaluation.power

from kd.checks import require


class Interval(NamedTuple):
    """An interval in errors; differences below zero favour the distilled students."""

    low: float
    high: float

    def clip(self, largest: float | None) -> Interval:
        """Return the part within ±``largest``, the only possible differences; all of it for None."""
        return self if largest is None else Interval(max(self.low, -largest), min(self.high, largest))


class Arm(NamedTuple):
    """Mean and standard deviation (None for a single seed) of the errors of one arm over the seeds."""

    mean: float
    sd: float | None


class Pairs(NamedTuple):
    """Statistics of N pairs of students. Errors are counts; differences are distilled − control.

    Attributes:
        images: number of test images.
        differences: in the order of the pairs.
        mean, sd: of the differences; ``sd`` is None for a single pair.
        points: the mean difference in percentage points of the test images.
        relative: the mean difference divided by the mean of the control; None if the latter is 0.
        interval: 95 % t interval, for other seeds on these test images.
        bootstrap: 95 % percentile bootstrap interval.
        t_p, wilcoxon_p, sign_p: two-sided p-values.
    """

    images: int
    control: Arm
    distilled: Arm
    differences: tuple[int, ...]
    mean: float
    sd: float | None
    points: float
    relative: float | None
    interval: Interval | None
    bootstrap: Interval | None
    t_p: float
    wilcoxon_p: float
    sign_p: float


def pair_errors(control: Sequence[int], distilled: Sequence[int], images: int) -> Pairs:
    """Return the statistics of N pairs of students on the same test images.

    Args:
        control, distilled: numbers of errors; entry i of both belongs to seed i.
        images: number of test images.

    Raises:
        ValueError: no pair, unequal lengths, or an entry that is not an integer from 0 to ``images``.
    """
    _require_pairs(control, distilled, images)
    differences = tuple(int(errors) - int(base) for base, errors in zip(control, distilled, strict=True))
    mean, control_arm = fmean(differences), _summarise(control)
    return Pairs(
        images=images,
        control=control_arm,
        distilled=_summarise(distilled),
        differences=differences,
        mean=mean,
        sd=_summarise(differences).sd,
        points=100 * mean / images,
        relative=mean / control_arm.mean if control_arm.mean else None,
        interval=t_interval(differences),
        bootstrap=bootstrap_interval(differences),
        t_p=t_test(differences),
        wilcoxon_p=wilcoxon_test(differences),
        sign_p=sign_test(differences),
    )


def t_interval(differences: Sequence[float], level: float = 0.05) -> Interval | None:
    """Return the paired t interval of the mean difference with confidence 1 − ``level``; None if it is undefined.

    It is undefined for a single pair. If all differences are equal, the t interval would have length 0, although
    counts repeat by chance. Two rules replace it then. For a difference other than zero, the interval is the single
    point if the sign test rejects at ``level`` (six pairs for 95 %), else None. For zero, it is
    ±log(2 / ``level``) / n errors, the "rule of three": under a larger true difference, the probability that all n
    pairs are equal is below ``level`` / 2. (If the means of two counts of rare events differ by δ, they are equal with
    a probability of at most e^−δ.)
    """
    n, mean = len(differences), fmean(differences)
    if n < 2:
        return None
    if are_equal(differences):
        if mean == 0:
            bound = math.log(2 / level) / n
            return Interval(-bound, bound)
        return Interval(mean, mean) if t_test(differences) < level else None
    half = float(scipy.stats.t.isf(level / 2, n - 1)) * stdev(differences) / n**0.5
    return Interval(mean - half, mean + half)


def t_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the paired t test.

    It is below a level if and only if ``t_interval`` at this level excludes zero. If all differences are equal, it is
    the p-value of the sign test; for a single pair, it is 1.
    """
    n = len(differences)
    if n < 2 or are_equal(differences):
        return sign_test(differences)
    return float(2 * scipy.stats.t.sf(abs(fmean(differences)) / (stdev(differences) / n**0.5), n - 1))


def bootstrap_interval(differences: Sequence[int], level: float = 0.05) -> Interval | None:
    """Return the exact percentile bootstrap interval of the mean difference; None for a single pair.

    No resamples are drawn: the sum of N draws from N integers is distributed as the N-fold convolution of their
    histogram. Percentile rather than BCa, because BCa would have to estimate a skewness from few differences. With few
    pairs the interval is too narrow (measured in docs/statistics.md), so it does not determine the verdict.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    n, lowest = len(differences), min(differences)
    if n < 2:
        return None
    share = np.bincount(np.subtract(differences, lowest)) / n
    size = (len(share) - 1) * n + 1
    sums = np.fft.irfft(np.fft.rfft(share, size) ** n, size)
    tail = level / 2 - 1e-9  # tolerance for the rounding of the FFT if a tail is exactly level / 2
    low = int(np.argmax(np.cumsum(sums) >= tail))
    high = size - 1 - int(np.argmax(np.cumsum(sums[::-1]) >= tail))
    return Interval(lowest + low / n, lowest + high / n)


def sign_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the exact sign test; equal pairs are dropped."""
    fewer, more = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    return float(scipy.stats.binomtest(fewer, fewer + more).pvalue) if fewer + more else 1.0


def wilcoxon_test(differences: Sequence[int]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test, exact even with ties.

    Equal pairs are dropped, ties share their mean rank, and all 2^N sign assignments are equally likely. A p-value
    below 0.05 requires at least six pairs. Implemented here because scipy is exact only without ties.

    Source: Wilcoxon 1945, "Individual comparisons by ranking methods"; with ties, Hollander and Wolfe, section 3.1.
    """
    nonzero = [d for d in differences if d]
    # Mean ranks are multiples of ½; doubled, they are integers.
    ranks = np.rint(2 * scipy.stats.rankdata(np.abs(nonzero))).astype(int)
    share = np.ones(1)  # fraction of sign assignments by the sum of positive ranks
    for rank in ranks:
        share = (np.pad(share, (0, rank)) + np.pad(share, (rank, 0))) / 2
    observed = int(ranks[np.greater(nonzero, 0)].sum())
    tail = min(share[: observed + 1].sum(), share[observed:].sum())
    return min(1.0, 2 * float(tail))


def are_equal(differences: Sequence[float]) -> bool:
    """Return whether differences are equal but for the rounding of sums of floats."""
    low, high = min(differences), max(differences)
    return high - low <= 1e-11 * max(-low, high)


def _summarise(errors: Sequence[int]) -> Arm:
    # ``statistics`` returns the type of its input: with numpy integers, the mean would be rounded.
    counts = [int(count) for count in errors]
    return Arm(fmean(counts), stdev(counts) if len(counts) > 1 else None)


def _require_pairs(control: Sequence[int], distilled: Sequence[int], images: int) -> None:
    require(images >= 1, "images", images, "the number of test images, at least 1")
    require(len(control) >= 1, "control", control, "the errors of at least one seed")
    equal = len(distilled) == len(control)
    allowed = f"{len(control)}, the number of control seeds, in the same order"
    require(
        equal, "the number of distilled seeds", len(distilled), allowed, "drop a seed from both arms or from neither"
    )
    for name, arm in (("control", control), ("distilled", distilled)):
        for index, errors in enumerate(arm):
            valid = float(errors).is_integer() and 0 <= errors <= images
            require(valid, f"{name}[{index}]", errors, f"an integer number of errors from 0 to {images:,}")


class Spread(NamedTuple):
    """Mean and standard deviation of n numbers; ``sd`` is None for n = 1."""

    mean: float
    sd: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Return the mean and standard deviation of at least one number."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
