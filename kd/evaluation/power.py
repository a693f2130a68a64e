"""How many paired seeds it takes to see a difference, and which difference so many seeds can see."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.optimize import brentq
from scipy.stats import nct, norm, t

from kd.checks import require
from kd.evaluation.paired_seeds import Pairs


def power(pairs: int, effect: float, *, level: float = 0.05) -> float:
    """The chance that the two-sided paired t test is below ``level``, for normal differences; in [level, 1].

    Args:
        pairs: how many, at least 2.
        effect: the true mean difference in units of the standard deviation of the differences, of either sign.

    Source: Cohen 1988, "Statistical power analysis for the behavioral sciences", section 2.3; here with the
    noncentral t distribution itself and not its tables.
    """
    require(pairs >= 2, "pairs", pairs, "at least 2", "one pair has no spread")
    critical, shift = t.isf(level / 2, pairs - 1), effect * pairs**0.5
    # Both tails as upper ones: scipy's lower tail is NaN where the shift is large.
    return float(nct.sf(critical, pairs - 1, shift) + nct.sf(critical, pairs - 1, -shift))


def seeds_needed(difference: float, sd: float, *, target: float = 0.8, level: float = 0.05) -> int:
    """The fewest pairs that show this true difference with power ``target``, should ``sd`` be the true one.

    Args:
        difference: in the unit of ``sd``, not 0.
        sd: standard deviation of the differences, above 0.
    """
    _require_spread(sd)
    require(math.isfinite(difference) and difference != 0, "difference", difference, "a number other than 0")
    effect = abs(difference / sd)
    known = (norm.isf(level / 2) + norm.isf(1 - target)) / effect  # as many as a known sd would take: always too few
    pairs = max(2, math.floor(float(known) ** 2))
    while power(pairs, effect, level=level) < target:
        pairs += 1
    return pairs


def detectable(pairs: int, sd: float, *, target: float = 0.8, level: float = 0.05) -> float:
    """The true difference, above 0 and in the unit of ``sd``, that so many pairs show with power ``target``."""
    _require_spread(sd)
    highest = 1.0
    while power(pairs, highest, level=level) < target:
        highest *= 2
    return sd * float(brentq(lambda effect: power(pairs, effect, level=level) - target, 0, highest, xtol=1e-12))


def _require_spread(sd: float) -> None:
    require(0 < sd < math.inf, "sd", sd, "above 0", "the spread of differences that are all equal is unknown, not 0")


class Power(NamedTuple):
    """What so many pairs can show, in 80 % of cases, with the spread that was seen.

    Attributes:
        detectable: the true difference in errors that they show; None where the spread is not known.
        for_margin, for_difference: pairs that it takes to show a difference as large as the margin, or as the one seen.
    """

    detectable: float | None
    for_margin: int | None
    for_difference: int | None


def power_of(pairs: Pairs, margin: float) -> Power:
    """How many pairs it takes. ``margin`` in errors."""
    if not pairs.sd:
        return Power(None, None, None)
    return Power(
        detectable(len(pairs.differences), pairs.sd),
        seeds_needed(margin, pairs.sd),
        seeds_needed(pairs.mean, pairs.sd) if pairs.mean else None,
    )
