"""Looks at the pairs while they are trained: e-values of their mean difference that hold at any number of pairs.

A t test that is repeated after every pair rejects a true hypothesis far more often than its level. The e-value below is
a Bayes factor with a scale-invariant prior, and a martingale if the true mean is 0: with a probability of at most 1 / c
it ever reaches c, however often it is looked at. This holds for the spread of normal differences over the seeds; with
skewness 2, E ever reaches 20 in up to 12 %. The verdict puts the wider standard error for new test items in its place.
benchmarks/verdict_looks.py simulates both.

Source: Lai 1976, "On confidence sequences"; Wang and Ramdas 2025, "Anytime-valid t-tests and confidence sequences for
Gaussian means with unknown variance"; with the prior N(0, 1) on the mean in standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import log
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from kd.evaluation.crossed import estimate_crossed, sum_items
from kd.evaluation.paired_seeds import Interval, are_equal, t_interval

STOP = 20.0  # e-value that decides a single question, at 5 %; M questions of one test set need M times as much
FEWEST = 5  # pairs; with fewer, no e-value reaches 20


def e_value(differences: Sequence[float], variance: float = 0.0) -> float:
    """Return the evidence against a mean of 0: (1 + n)^−½ · [(1 + t²/ν) / (1 + t²/((1 + n) ν))]^((ν + 1)/2), ν = n − 1.

    If all differences are equal, t may be infinite, although counts coincide by chance: then it is at most 2^(n − 1),
    as for the signs alone.

    Args:
        variance: of the mean, used in t if it is larger than that of the differences.
    """
    n, mean = len(differences), fmean(differences)
    if n < 2 or not mean:
        return float((1 + n) ** -0.5)
    squared_error, freedom = max(_squared_error(differences), variance), n - 1
    ratio = 1.0 + n  # its limit for an infinite t
    if squared_error:
        t_squared = mean**2 / squared_error
        ratio = (1 + t_squared / freedom) / (1 + t_squared / ((1 + n) * freedom))
    evidence = float((1 + n) ** -0.5 * ratio ** (n / 2))
    return min(evidence, 2.0 ** (n - 1)) if are_equal(differences) else evidence


def fewest_pairs(threshold: float) -> int:
    """Return the smallest number of pairs that can have an e-value of ``threshold``: n pairs have at most
    (1 + n)^((n − 1)/2), the limit for an infinite t.
    """
    return next(n for n in count(FEWEST) if (n - 1) / 2 * log(1 + n) >= log(threshold))


def anytime_p(differences: Sequence[float], variance: float = 0.0) -> float:
    """Return the p-value 1 / E, at most 1: below a level with at most this probability at any number of pairs."""
    return min(1.0, 1 / e_value(differences, variance))


def anytime_interval(differences: Sequence[float], level: float = 0.05, variance: float = 0.0) -> Interval | None:
    """Return the means whose e-value is below 1 / ``level``: they contain the true mean at all numbers of pairs.

    Args:
        variance: see ``e_value``.

    Returns:
        None if no mean is excluded, as for the first pairs. If nothing varies, the interval of ``t_interval`` for
        differences of zero: it does not depend on looks, since differences of zero never end the training.
    """
    n, mean = len(differences), fmean(differences)
    if n < 2:
        return None
    squared_error = max(_squared_error(differences), variance)
    if not squared_error:
        if not mean:
            return t_interval(differences, level)
        return Interval(mean, mean) if anytime_p(differences) < level else None
    bound = ((1 + n) ** 0.5 / level) ** (2 / n)  # of the ratio in ``e_value``, which stays below 1 + n
    if bound >= 1 + n:
        return None
    half = float(((n - 1) * (bound - 1) / (1 - bound / (1 + n)) * squared_error) ** 0.5)
    return Interval(mean - half, mean + half)


def find_stop(contributions: Sequence[NDArray[np.float64]], threshold: float) -> int | None:
    """Return the smallest number of pairs after which every contrast has an e-value of at least ``threshold``.

    Args:
        contributions: [pairs, items] for each contrast, in the order of the pairs; see ``kd.evaluation.crossed``.

    Returns:
        None if it is not reached.
    """
    differences = [sum_items(rows) for rows in contributions]

    def is_decided(pairs: int) -> bool:
        # The evidence of the seeds alone is larger and computed in no time.
        return all(e_value(row[:pairs]) >= threshold for row in differences) and all(
            measure_evidence(rows[:pairs]) >= threshold for rows in contributions
        )

    return next((pairs for pairs in range(FEWEST, len(contributions[0]) + 1) if is_decided(pairs)), None)


def measure_evidence(contributions: NDArray[np.float64]) -> float:
    """Return the e-value of contributions [pairs, items], for new seeds and new items."""
    estimate = estimate_crossed(contributions)
    return e_value(sum_items(contributions), estimate.variance if estimate else 0.0)


def describe_evidence(evidence: float, against: str, mean: float) -> str:
    """Return an e-value with the arm it refers to, and the direction if this arm is better: ``mean`` above 0."""
    return f"{evidence:,.3g} (against {against}{', which is better on average' if mean > 0 else ''})"


def _squared_error(differences: Sequence[float]) -> float:
    """Return the variance of the mean of at least two differences; 0 if they are equal but for rounding."""
    return 0.0 if are_equal(differences) else stdev(differences) ** 2 / len(differences)
