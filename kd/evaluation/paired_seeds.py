"""Paired seeds: what the errors of N controls and N distilled students, on one test set, say about their difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, rankdata, t

from kd.checks import require


class Interval(NamedTuple):
    """From low to high, in errors; a difference below zero is in favour of the distilled students."""

    low: float
    high: float


class Arm(NamedTuple):
    """The errors of one arm: their mean and standard deviation over the seeds (None for a single seed)."""

    mean: float
    sd: float | None


class Pairs(NamedTuple):
    """N pairs on a test set of ``images`` images. Errors are counts, differences distilled − control, in pair order.

    ``mean`` and ``sd`` are those of the differences, ``points`` is the mean in percentage points of the images, and
    ``relative`` the mean as a share of the control's (None for a control without errors). ``interval`` is the 95 % t
    interval, the one that decides; ``bootstrap`` and the three two-sided p-values stand beside it.
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
    """All numbers about N pairs; entry i of both is the number of errors of seed i on the same ``images`` images.

    Raises:
        ValueError: no pair, unequal lengths, or an entry that is not a whole number from 0 to ``images``.
    """
    _require_pairs(control, distilled, images)
    differences = tuple(int(ours) - int(theirs) for theirs, ours in zip(control, distilled, strict=True))
    mean, arm = fmean(differences), _arm(control)
    return Pairs(
        images=images,
        control=arm,
        distilled=_arm(distilled),
        differences=differences,
        mean=mean,
        sd=_arm(differences).sd,
        points=100 * mean / images,
        relative=mean / arm.mean if arm.mean else None,
        interval=t_interval(differences),
        bootstrap=bootstrap_interval(differences),
        t_p=t_test(differences),
        wilcoxon_p=wilcoxon_test(differences),
        sign_p=sign_test(differences),
    )


def t_interval(differences: Sequence[float], level: float = 0.05) -> Interval | None:
    """The paired t interval of the mean difference, with confidence 1 − ``level``; None where the pairs give none.

    One pair has no spread. Neither have pairs that all differ by the same count: t would call them certain, although
    counts repeat by chance. If that count is not zero, the interval is the exact one from the smallest to the largest
    difference, where the sign test grants it (six pairs for 95 %), and else None. If it is zero, the interval reaches
    as far as a true difference may be and yet show nothing in n pairs with a probability of ``level`` / 2:
    log(2 / ``level``) / n errors, the "rule of three". (Of counts of rare events that differ by δ in the mean, a pair
    is equal with a probability of at most e^−δ.)
    """
    n, mean = len(differences), fmean(differences)
    if n < 2:
        return None
    if _all_equal(differences):
        if mean == 0:
            unseen = math.log(2 / level) / n
            return Interval(-unseen, unseen)
        return Interval(mean, mean) if t_test(differences) < level else None
    half = float(t.isf(level / 2, n - 1)) * stdev(differences) / n**0.5
    return Interval(mean - half, mean + half)


def t_test(differences: Sequence[float]) -> float:
    """The two-sided p-value of the paired t test: below a level exactly where the interval of that level excludes zero.

    Where the differences have no spread it is the sign test's, as in ``t_interval``; 1 for a single pair.
    """
    n = len(differences)
    if n < 2 or _all_equal(differences):
        return sign_test(differences)
    return float(2 * t.sf(abs(fmean(differences)) / (stdev(differences) / n**0.5), n - 1))


def bootstrap_interval(differences: Sequence[int], level: float = 0.05) -> Interval | None:
    """The percentile bootstrap interval of the mean difference, exactly: no resample is drawn; None for a single pair.

    The sum of N draws from N whole numbers has the N-fold convolution of their histogram as its distribution.
    Percentile and not BCa, because BCa takes a skewness from the few differences there are. With few pairs it is too
    narrow (docs/statistics.md measures how much), which is one reason why it does not decide.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    n, lowest = len(differences), min(differences)
    if n < 2:
        return None
    share = np.bincount(np.subtract(differences, lowest)) / n
    size = (len(share) - 1) * n + 1
    sums = np.fft.irfft(np.fft.rfft(share, size) ** n, size)
    outside = level / 2 - 1e-9  # the transform rounds; a tail of exactly level / 2 must not depend on that
    low = int(np.argmax(np.cumsum(sums) >= outside))
    high = size - 1 - int(np.argmax(np.cumsum(sums[::-1]) >= outside))
    return Interval(lowest + low / n, lowest + high / n)


def sign_test(differences: Sequence[float]) -> float:
    """The two-sided p-value of the exact sign test. Pairs that do not differ say nothing and are left out."""
    fewer, more = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    return float(binomtest(fewer, fewer + more).pvalue) if fewer + more else 1.0


def wilcoxon_test(differences: Sequence[int]) -> float:
    """The two-sided p-value of Wilcoxon's signed-rank test, exact also where differences tie.

    Pairs that do not differ are left out, ties share their mean rank, and all 2^N choices of signs count as equally
    likely. Under five per cent from six pairs on. By hand, because scipy is exact only where nothing ties.

    Source: Wilcoxon 1945, "Individual comparisons by ranking methods"; with ties, Hollander and Wolfe, section 3.1.
    """
    moved = [d for d in differences if d]
    ranks = np.rint(2 * rankdata(np.abs(moved))).astype(int)  # mean ranks are halves; doubled, they are whole
    share = np.ones(1)  # of the choices of signs, by the sum of the positive ranks
    for rank in ranks:
        share = (np.pad(share, (0, rank)) + np.pad(share, (rank, 0))) / 2
    observed = int(ranks[np.greater(moved, 0)].sum())
    tail = min(share[: observed + 1].sum(), share[observed:].sum())
    return min(1.0, 2 * float(tail))


def _all_equal(differences: Sequence[float]) -> bool:
    return min(differences) == max(differences)


def _arm(errors: Sequence[int]) -> Arm:
    counts = [int(count) for count in errors]  # statistics rounds to the type it is given, numpy's integers included
    return Arm(fmean(counts), stdev(counts) if len(counts) > 1 else None)


def _require_pairs(control: Sequence[int], distilled: Sequence[int], images: int) -> None:
    require(images >= 1, "images", images, "the number of test images, at least 1")
    require(len(control) >= 1, "control", control, "the errors of at least one seed")
    same = len(distilled) == len(control)
    allowed = f"{len(control)}, the number of control seeds, in the same order"
    require(same, "the number of distilled seeds", len(distilled), allowed, "leave out a seed in both arms or in none")
    for name, arm in (("control", control), ("distilled", distilled)):
        for index, errors in enumerate(arm):
            whole = float(errors).is_integer() and 0 <= errors <= images
            require(whole, f"{name}[{index}]", errors, f"a whole number of errors from 0 to {images:,}")


class Spread(NamedTuple):
    """Mean and standard deviation of n numbers; no deviation for one."""

    mean: float
    sd: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    """The mean and standard deviation of at least one number."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
