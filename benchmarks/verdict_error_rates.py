"""How often is kd.evaluation.verdict wrong, and how often does it see what is there? Simulated, with known truth.

    python benchmarks/verdict_error_rates.py

Pairs of 10,000 test images with d = 10 errors; the true difference is an improvement of so many standard deviations of
the differences. Seeded: every run prints the same tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

sys.path.insert(0, str(Path(__file__).parent.parent))

from kd.evaluation.paired_seeds import bootstrap_interval
from kd.evaluation.power import power
from measuring import table

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]  # differences without any effect, before rounding

VERDICTS = ("helps", "hurts", "no difference larger than d", "inconclusive")
SIZES = (3, 5, 10, 20)
ITEMS = (36, 150, 360, 1_000, 3_000)
EFFECTS = (0.0, 0.5, 1.0, 2.0)
MARGIN = 10.0


def t_intervals(differences: Floats, level: float) -> tuple[Floats, Floats]:
    """Low and high of ``kd.evaluation.paired_seeds.t_interval`` for each row; NaN where it gives none."""
    n = differences.shape[1]
    mean, sd = differences.mean(axis=1), differences.std(axis=1, ddof=1)
    half = t.isf(level / 2, n - 1) * sd / n**0.5
    equal = np.ptp(differences, axis=1) == 0
    half = np.where(equal, 0.0 if 2.0 ** (1 - n) < level else np.nan, half)
    half = np.where(equal & (mean == 0), np.log(2 / level) / n, half)
    return mean - half, mean + half


def verdicts(differences: Floats, margin: float, level: float = 0.05) -> NDArray[np.int64]:
    """``kd.evaluation.verdict.judge`` for each row of whole differences, as an index into ``VERDICTS``."""
    low, high = t_intervals(differences, level)
    inner_low, inner_high = t_intervals(differences, 2 * level)
    inside = (-margin < inner_low) & (inner_high < margin)
    return np.select([high < 0, low > 0, inside], [0, 1, 2], default=3)


def normal(sd: float) -> Noise:
    def noise(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        return sd * rng.standard_normal(shape)

    return noise


def students(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Differences of counted errors. Each image has its difficulty, each seed its luck, half of which a pair shares.

    About 220 errors with a standard deviation of 21 between seeds, as the default student has; 24 of the differences.
    """
    images, wrong = np.array([100, 300, 9600]), np.array([0.7, 0.3, 0.00625])
    luck = 0.12 * 0.5**0.5 * rng.standard_normal((3, *shape))  # in log-odds of an error
    odds = np.log(wrong / (1 - wrong))
    control, distilled = (
        rng.binomial(images, 1 / (1 + np.exp(-(odds + own[..., None])))).sum(axis=-1)
        for own in (luck[0] + luck[1], luck[0] + luck[2])
    )
    differences: Floats = (distilled - control).astype(np.float64)
    return differences


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Gamma with skewness 1: now and then a pair in which the distilled student does much worse."""
    return 20 * (rng.gamma(4, size=shape) - 4) / 2


def very_skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Exponential, skewness 2."""
    return 20 * (rng.exponential(size=shape) - 1)


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Student's t with 3 degrees of freedom: most pairs alike, a few far out on either side."""
    return 20 * rng.standard_t(3, size=shape) / 3**0.5


SCENARIOS: dict[str, tuple[float, Noise]] = {
    "normal, sd 20": (20, normal(20)),
    "normal, sd 5": (5, normal(5)),
    "counted errors, sd 24": (24, students),
    "skewness 1, sd 20": (20, skewed),
    "skewness 2, sd 20": (20, very_skewed),
    "heavy tails, sd 20": (20, heavy_tailed),
}


def simulate(scenario: str, n: int, effect: float, runs: int) -> Floats:
    """[runs, n] whole differences with this true improvement, in standard deviations."""
    sd, noise = SCENARIOS[scenario]
    rng = np.random.default_rng([list(SCENARIOS).index(scenario), n, round(100 * effect)])
    return np.rint(noise(rng, (runs, n)) - effect * sd)


def shares(scenario: str, n: int, effect: float, runs: int) -> Floats:
    """The share of each of ``VERDICTS`` among so many simulated comparisons of n pairs."""
    found = verdicts(simulate(scenario, n, effect, runs), MARGIN)
    return np.bincount(found, minlength=len(VERDICTS)) / runs


def verdict_table(runs: int) -> str:
    rows = []
    for scenario in SCENARIOS:
        for effect in EFFECTS:
            cells = [" / ".join(_percent(x) for x in shares(scenario, n, effect, runs)) for n in SIZES]
            rows.append([scenario, f"{effect:g}", *cells])
    return table(["differences", "effect in sd", *(f"{n} pairs" for n in SIZES)], rows)


def power_table() -> str:
    rows = [[f"{effect:g}", *(_percent(power(n, effect)) for n in SIZES)] for effect in EFFECTS]
    return table(["effect in sd", *(f"{n} pairs" for n in SIZES)], rows)


def coverage_table(runs: int) -> str:
    rows = []
    for scenario in SCENARIOS:
        cells = []
        for n in SIZES:
            differences = simulate(scenario, n, 0.0, runs)
            low, high = t_intervals(differences, 0.05)
            resampled = [bootstrap_interval([int(x) for x in row]) or (np.nan, np.nan) for row in differences]
            lows, highs = np.array(resampled).T
            cells.append(" / ".join(_percent(_covers_zero(*ends)) for ends in ((low, high), (lows, highs))))
        rows.append([scenario, *cells])
    return table(["differences", *(f"{n} pairs" for n in SIZES)], rows)


def few_items_table(runs: int) -> str:
    """Few errors: the control makes none, or one in a thousand items, and the student d more. Is that denied?"""
    rows = []
    for items in ITEMS:
        margin = items * MARGIN / 10_000
        cells = [" / ".join(_percent(_denied(n, rate * items, margin, runs)) for rate in (0.0, 0.001)) for n in SIZES]
        rows.append([f"{items:,}", f"{margin:g}", *cells])
    return table(["test items", "d, errors", *(f"{n} pairs" for n in SIZES)], rows)


def _denied(n: int, errors: float, more: float, runs: int) -> float:
    """How often n pairs of Poisson counts that differ by just the margin are said to differ by less."""
    rng = np.random.default_rng([n, round(1000 * errors), round(1000 * more)])
    control, distilled = (rng.poisson(mean, (runs, n)) for mean in (errors, errors + more))
    return float(np.mean(verdicts((distilled - control).astype(np.float64), more) == 2))


def family_table(methods: int, runs: int) -> str:
    """Methods without any effect against one control: how often at least one of them is said to help or to hurt."""
    cells: list[list[str]] = [["each at 5 %"], ["Holm"]]
    for n in SIZES:
        rng = np.random.default_rng([methods, n])
        arms = 14 * rng.standard_normal((methods + 1, runs, n))
        differences = np.rint(arms[1:] - arms[0])
        levels = (0.05, 0.05 / methods)  # the latter is Holm's first step: all is null, so what it rejects is wrong
        for row, level in zip(cells, levels, strict=True):
            wrong = [verdicts(one, MARGIN, level) < 2 for one in differences]
            row.append(_percent(np.any(wrong, axis=0).mean()))
    return table(["any of four wrong", *(f"{n} pairs" for n in SIZES)], cells)


def _covers_zero(low: Floats, high: Floats) -> float:
    return float(np.mean((low <= 0) & (high >= 0)))


def _percent(share: Any) -> str:
    return f"{100 * share:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40_000, help="simulated comparisons per cell")
    runs = parser.parse_args().runs
    print(f"{' / '.join(VERDICTS)}, in % of {runs:,} comparisons:\n\n{verdict_table(runs)}\n")
    print(f"The chance of an interval that excludes zero, in %, by kd.evaluation.power:\n\n{power_table()}\n")
    print(f"Coverage of the 95 % t / bootstrap interval, in % of {runs // 20:,}:\n\n{coverage_table(runs // 20)}\n")
    title = "Called smaller than d where it is d, control without errors / with 0.1 %"
    print(f"{title}, in % of {runs:,}:\n\n{few_items_table(runs)}\n")
    print(f"Four methods, one control, no effect, in % of {runs:,}:\n\n{family_table(4, runs)}")


if __name__ == "__main__":
    main()
