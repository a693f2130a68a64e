"""Simulated students, for the simulations of verdicts.

Item b is wrong with a probability that depends on its difficulty, on the student's seed, and on an effect of the method
that differs from item to item.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kd.evaluation.paired_seeds import Interval

Floats = NDArray[np.float64]

ITEMS = 1_000  # test items; rates of 95 % and 5 % do not depend on their number
CLAIMS = ("helps", "better than the labels alone", "hurts")  # the verdicts that claim a difference


class Students:
    """Simulated students on one draw of test items. Differences between methods are 0 on average over all items."""

    def __init__(self, rng: np.random.Generator, *, seed_sd: float, item_sd: float) -> None:
        self.rng, self.seed_sd, self.item_sd = rng, seed_sd, item_sd
        self.difficulty = -5.5 + 2.5 * rng.standard_normal(ITEMS)  # log-odds: about 5 % errors

    def method(self, shift: float = 0.0) -> Floats:
        """Draw the effect of a method on each item, in log-odds; ``shift`` is common to all items."""
        return shift + self.item_sd * self.rng.standard_normal(ITEMS)

    def train(self, effect: Floats, seeds: int) -> Floats:
        """Return [seeds, items]: 1 where a student errs."""
        odds = self.difficulty + effect + self.seed_sd * self.rng.standard_normal((seeds, 1))
        return (self.rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.float64)


def draw(name: str, runs: int, *, seed_sd: float, item_sd: float) -> Iterator[Students]:
    """Yield ``runs`` draws, the same ones for the same name."""
    for number in range(runs):
        rng = np.random.default_rng([number, *name.encode()])
        yield Students(rng, seed_sd=seed_sd, item_sd=item_sd)


SCENARIOS = {
    "seeds alone": {"seed_sd": 0.1, "item_sd": 0.0},
    "items vary": {"seed_sd": 0.1, "item_sd": 0.7},
    "items vary much": {"seed_sd": 0.1, "item_sd": 1.4},
    "seeds vary much": {"seed_sd": 0.3, "item_sd": 0.7},
}


def excludes_zero(interval: Interval | None) -> bool:
    """Return whether a difference of 0 lies outside the interval."""
    return interval is not None and not interval.low <= 0 <= interval.high
