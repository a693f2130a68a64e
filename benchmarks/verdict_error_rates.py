"""Simulate the error rates and the power of kd.evaluation.verdict, with known true differences.

    python benchmarks/verdict_error_rates.py

Pairs are evaluated on 10,000 test images with d = 10 errors; the true effect is an improvement in standard
deviations of the differences. Seeded: every run prints the same tables.
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
from measuring import format_table

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]  # draws differences without effect, before rounding

VERDICTS = ("better than the labels alone", "hurts", "no difference larger than d", "inconclusive")
SIZES = (3, 5, 10, 20)  # pairs
TEST_SIZES = (36, 150, 360, 1_000, 3_000)  # test samples
EFFECTS = (0.0, 0.5, 1.0, 2.0)
MARGIN = 10.0


def t_intervals(differences: Floats, level: float) -> tuple[Floats, Floats]:
    """Return the bounds of ``kd.evaluation.paired_seeds.t_interval`` for each row; NaN if there is no interval."""
    n = differences.shape[1]
    mean, sd = differences.mean(axis=1), differences.std(axis=1, ddof=1)
    half = t.isf(level / 2, n - 1) * sd / n**0.5
    equal = np.ptp(differences, axis=1) == 0
    half = np.where(equal, 0.0 if 2.0 ** (1 - n) < level else np.nan, half)
    half = np.where(equal & (mean == 0), np.log(2 / level) / n, half)
    return mean - half, mean + half


def verdicts(differences: Floats, margin: float, level: float = 0.05) -> NDArray[np.int64]:
    """Apply ``kd.evaluation.verdict.judge`` to each row of whole differences; return indices into ``VERDICTS``."""
    low, high = t_intervals(differences, level)
    inner_low, inner_high = t_intervals(differences, 2 * level)
    inside = (-margin < inner_low) & (inner_high < margin)
    return np.select([high < 0, low > 0, inside], [0, 1, 2], default=3)


def normal(sd: float) -> Noise:
    """Return a function that draws normal differences with this standard deviation."""

    def noise(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        return sd * rng.standard_normal(shape)

    return noise


def counted_errors(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw differences of error counts: images vary in difficulty, and a pair shares half of the variance of its seeds.

    About 220 errors; a standard deviation of 21 between seeds, as for the default student, and of 24 for differences.
    """
    images, wrong = np.array([100, 300, 9600]), np.array([0.7, 0.3, 0.00625])
    effects = 0.12 * 0.5**0.5 * rng.standard_normal((3, *shape))  # shared, control's, distilled's; in log-odds
    odds = np.log(wrong / (1 - wrong))
    control, distilled = (
        rng.binomial(images, 1 / (1 + np.exp(-(odds + effect[..., None])))).sum(axis=-1)
        for effect in (effects[0] + effects[1], effects[0] + effects[2])
    )
    differences: Floats = (distilled - control).astype(np.float64)
    return differences


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw from a gamma distribution, skewness 1: in a few pairs the distilled student is much worse."""
    return 20 * (rng.gamma(4, size=shape) - 4) / 2


def very_skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw from an exponential distribution, skewness 2."""
    return 20 * (rng.exponential(size=shape) - 1)


def skewed_down(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw with skewness −1: in a few pairs the distilled student is much better."""
    return -skewed(rng, shape)


def very_skewed_down(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw with skewness −2."""
    return -very_skewed(rng, shape)


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Draw from Student's t with 3 degrees of freedom: most pairs similar, a few extreme on either side."""
    return 20 * rng.standard_t(3, size=shape) / 3**0.5


SCENARIOS: dict[str, tuple[float, Noise]] = {
    "normal, sd 20": (20, normal(20)),
    "normal, sd 5": (5, normal(5)),
    "counted errors, sd 24": (24, counted_errors),
    "skewness 1, sd 20": (20, skewed),
    "skewness 2, sd 20": (20, very_skewed),
    "heavy tails, sd 20": (20, heavy_tailed),
    "skewness −1, sd 20": (20, skewed_down),
    "skewness −2, sd 20": (20, very_skewed_down),
}


def simulate(scenario: str, n: int, effect: float, runs: int) -> Floats:
    """Draw [runs, n] whole differences with this true improvement, in standard deviations."""
    sd, noise = SCENARIOS[scenario]
    rng = np.random.default_rng([list(SCENARIOS).index(scenario), n, round(100 * effect)])
    return np.rint(noise(rng, (runs, n)) - effect * sd)


def shares(scenario: str, n: int, effect: float, runs: int) -> Floats:
    """Return the frequency of each of ``VERDICTS`` among simulated comparisons of n pairs."""
    indices = verdicts(simulate(scenario, n, effect, runs), MARGIN)
    return np.bincount(indices, minlength=len(VERDICTS)) / runs


def format_verdicts(runs: int) -> str:
    rows = []
    for scenario in SCENARIOS:
        for effect in EFFECTS:
            cells = [" / ".join(_format_percent(x) for x in shares(scenario, n, effect, runs)) for n in SIZES]
            rows.append([scenario, f"{effect:g}", *cells])
    return format_table(["differences", "effect in sd", *(f"{n} pairs" for n in SIZES)], rows)


def format_power() -> str:
    rows = [[f"{effect:g}", *(_format_percent(power(n, effect)) for n in SIZES)] for effect in EFFECTS]
    return format_table(["effect in sd", *(f"{n} pairs" for n in SIZES)], rows)


def format_coverage(runs: int) -> str:
    rows = []
    for scenario in SCENARIOS:
        cells = []
        for n in SIZES:
            differences = simulate(scenario, n, 0.0, runs)
            low, high = t_intervals(differences, 0.05)
            resampled = [bootstrap_interval([int(x) for x in row]) or (np.nan, np.nan) for row in differences]
            lows, highs = np.array(resampled).T
            cells.append(
                " / ".join(_format_percent(_estimate_coverage(*ends)) for ends in ((low, high), (lows, highs)))
            )
        rows.append([scenario, *cells])
    return format_table(["differences", *(f"{n} pairs" for n in SIZES)], rows)


def format_few_samples(runs: int) -> str:
    """Return how often a true difference of d is judged smaller than d; the control errs on 0 or 0.1 % of samples."""
    rows = []
    for samples in TEST_SIZES:
        margin = samples * MARGIN / 10_000
        cells = [
            " / ".join(_format_percent(_estimate_denied(n, rate * samples, margin, runs)) for rate in (0.0, 0.001))
            for n in SIZES
        ]
        rows.append([f"{samples:,}", f"{margin:g}", *cells])
    return format_table(["test samples", "d, errors", *(f"{n} pairs" for n in SIZES)], rows)


def _estimate_denied(n: int, errors: float, margin: float, runs: int) -> float:
    """Return how often n pairs of Poisson counts whose means differ by the margin are judged to differ by less."""
    rng = np.random.default_rng([n, round(1000 * errors), round(1000 * margin)])
    control, distilled = (rng.poisson(mean, (runs, n)) for mean in (errors, errors + margin))
    return float(np.mean(verdicts((distilled - control).astype(np.float64), margin) == 2))


def format_family(methods: int, runs: int) -> str:
    """Return how often at least one of several methods without effect is judged to help or hurt."""
    cells: list[list[str]] = [["each at 5 %"], ["Holm"]]
    for n in SIZES:
        rng = np.random.default_rng([methods, n])
        arms = 14 * rng.standard_normal((methods + 1, runs, n))
        differences = np.rint(arms[1:] - arms[0])
        # Without effects every rejection is an error, so only the first step of Holm's procedure matters.
        levels = (0.05, 0.05 / methods)
        for row, level in zip(cells, levels, strict=True):
            errors = [verdicts(method, MARGIN, level) < 2 for method in differences]
            row.append(_format_percent(np.any(errors, axis=0).mean()))
    return format_table(["wrong verdict for any of four", *(f"{n} pairs" for n in SIZES)], cells)


def _estimate_coverage(low: Floats, high: Floats) -> float:
    return float(np.mean((low <= 0) & (high >= 0)))


def _format_percent(share: Any) -> str:
    return f"{100 * share:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40_000, help="simulated comparisons per cell")
    runs = parser.parse_args().runs
    print(f"{' / '.join(VERDICTS)}, in % of {runs:,} comparisons:\n\n{format_verdicts(runs)}\n")
    print(f"Probability that the interval excludes zero, in %, computed by kd.evaluation.power:\n\n{format_power()}\n")
    print(f"Coverage of the 95 % t / bootstrap interval, in % of {runs // 20:,}:\n\n{format_coverage(runs // 20)}\n")
    title = "A true difference of d judged smaller than d, control without errors / with 0.1 %"
    print(f"{title}, in % of {runs:,}:\n\n{format_few_samples(runs)}\n")
    print(f"Four methods, one control, no effect, in % of {runs:,}:\n\n{format_family(4, runs)}")


if __name__ == "__main__":
    main()
