"""Power of the paired t test: detectable difference for N pairs, and pairs needed for a difference."""

from __future__ import annotations

import math
from typing import NamedTuple

import scipy  # loads scipy.stats and scipy.optimize on first use, so that a single run does not wait 0.7 s for them

from kd.checks import require
from kd.evaluation.contrast import Contrast
from kd.evaluation.crossed import Estimate


def power(pairs: int, effect: float, *, level: float = 0.05) -> float:
    """Return the power of the two-sided paired t test at ``level`` for normally distributed differences.

    The power is in [``level``, 1].

    Args:
        pairs: number of pairs, at least 2.
        effect: true mean difference, of either sign, divided by the standard deviation of the differences.

    Source: Cohen 1988, "Statistical power analysis for the behavioral sciences", section 2.3; here computed with the
    noncentral t distribution rather than read from tables.
    """
    require(pairs >= 2, "pairs", pairs, "at least 2", "one pair has no spread")
    critical, shift = scipy.stats.t.isf(level / 2, pairs - 1), effect * pairs**0.5
    # Both tails as upper tails: the lower tail of scipy is NaN for a large shift.
    return float(scipy.stats.nct.sf(critical, pairs - 1, shift) + scipy.stats.nct.sf(critical, pairs - 1, -shift))


def seeds_needed(difference: float, sd: float, *, target: float = 0.8, level: float = 0.05) -> int:
    """Return the smallest number of pairs that detects a true difference with power ``target``.

    Args:
        difference: in the unit of ``sd``, not 0.
        sd: true standard deviation of the differences, above 0.
    """
    _require_spread(sd)
    require(math.isfinite(difference) and difference != 0, "difference", difference, "a number other than 0")
    effect = abs(difference / sd)
    # A t test needs more pairs than a z test, because it has to estimate sd.
    root = scipy.stats.norm.isf([level / 2, 1 - target]).sum() / effect  # √N of a z test: a lower bound
    pairs = max(2, math.floor(float(root) ** 2))
    while power(pairs, effect, level=level) < target:
        pairs += 1
    return pairs


def detectable(pairs: int, sd: float, *, target: float = 0.8, level: float = 0.05) -> float:
    """Return the true difference, above 0 and in the unit of ``sd``, that N pairs detect with power ``target``."""
    _require_spread(sd)
    highest = 1.0
    while power(pairs, highest, level=level) < target:
        highest *= 2

    def missing_power(effect: float) -> float:
        return target - power(pairs, effect, level=level)

    return sd * float(scipy.optimize.brentq(missing_power, 0, highest, xtol=1e-12))


def _require_spread(sd: float) -> None:
    require(0 < sd < math.inf, "sd", sd, "a finite number above 0", "equal differences give no estimate of the spread")


class Power(NamedTuple):
    """Detectable difference and number of pairs needed, for a power of 80 % and the observed spread.

    Attributes:
        detectable: smallest true difference that the pairs detect; None if the spread is unknown, or if it is larger
            than any possible difference.
        for_margin: pairs needed to detect the equivalence margin; None if the spread is unknown, or if more pairs are
            not enough, because the test items vary too much.
    """

    detectable: float | None
    for_margin: int | None


MOST_PAIRS = 1_000_000  # more are reported as "not enough"


def power_of(contrast: Contrast, margin: float, *, level: float = 0.05) -> Power:
    """Return the power of the interval that decides; ``margin`` in the unit of the contrast.

    Unknown if the number of pairs depended on the differences: benchmarks/verdict_looks.py simulates it.
    """
    estimate, n = contrast.estimate, len(contrast.differences)
    if contrast.anytime:
        return Power(None, None)

    def is_possible(difference: float) -> bool:
        return contrast.largest is None or difference <= contrast.largest

    if estimate is None:
        if not contrast.sd:
            return Power(None, None)
        smallest = detectable(n, contrast.sd, level=level)
        enough = seeds_needed(margin, contrast.sd, level=level)
        return Power(smallest if is_possible(smallest) else None, enough)
    widening = contrast.widening(level)
    crossed = estimate.variance**0.5 * _detectable_shift(estimate.freedom, level)
    of_seeds = estimate.from_pairs**0.5 * _detectable_shift(n - 1, level)  # the interval contains that of the seeds
    needed = _pairs_needed(estimate, margin - widening, level) if margin > widening else None
    smallest = max(crossed, of_seeds) + widening
    return Power(smallest if is_possible(smallest) else None, needed)


def _detectable_shift(freedom: float, level: float, target: float = 0.8) -> float:
    """Return the true difference in standard errors that a t test with these degrees of freedom detects."""
    critical = scipy.stats.t.isf(level / 2, freedom)

    def missing_power(shift: float) -> float:
        return target - float(
            scipy.stats.nct.sf(critical, freedom, shift) + scipy.stats.nct.sf(critical, freedom, -shift)
        )

    highest = 1.0
    while missing_power(highest) > 0:
        highest *= 2
    return float(scipy.optimize.brentq(missing_power, 0, highest, xtol=1e-9))


def _pairs_needed(estimate: Estimate, margin: float, level: float) -> int | None:
    """Return the pairs needed if only their number changes: the variance due to the items stays."""

    def is_enough(pairs: int) -> bool:
        from_pairs = estimate.from_pairs * estimate.pairs / pairs
        variance = from_pairs + estimate.from_items
        freedom = variance**2 / (from_pairs**2 / (pairs - 1) + estimate.from_items**2 / (estimate.items - 1))
        crossed, of_seeds = variance**0.5 * _detectable_shift(freedom, level), 0.0
        if from_pairs:
            of_seeds = from_pairs**0.5 * _detectable_shift(pairs - 1, level)
        return bool(max(crossed, of_seeds) <= margin)

    if not is_enough(MOST_PAIRS):
        return None
    low, high = 1, 2
    while not is_enough(high):
        low, high = high, 2 * high
    while high - low > 1:  # not enough for ``low``, enough for ``high``
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
