"""The benchmark of the verdict's error rates matches the library, and the rates are the stated levels."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from kd.evaluation.power import power
from kd.evaluation.verdict import Judgement
from tests.evaluation.test_verdict import judge_pairs, pairs_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import verdict_error_rates as rates  # noqa: E402


def judge_row(row: rates.Floats) -> Judgement:
    return judge_pairs(pairs_of([int(d) for d in row]))


@pytest.mark.parametrize("n", [2, 3, 5, 6, 10])
@pytest.mark.parametrize("spread", [1, 4, 15])
def test_the_vectorised_benchmark_matches_the_library(n: int, spread: int) -> None:
    rng = np.random.default_rng([n, spread])
    differences = rng.integers(-spread, spread + 1, (60, n)) + rng.integers(-12, 13, (60, 1))
    indices = rates.verdicts(differences.astype(np.float64), rates.MARGIN)
    assert [rates.VERDICTS[index] for index in indices] == [judge_row(row).verdict for row in differences]


@pytest.mark.parametrize("scenario", ["normal, sd 20", "normal, sd 5", "counted errors, sd 24", "heavy tails, sd 20"])
@pytest.mark.parametrize("n", [3, 10])
def test_the_error_rate_without_an_effect_is_one_in_forty_per_direction(scenario: str, n: int) -> None:
    helps, hurts, *_ = rates.shares(scenario, n, 0.0, 8_000)
    error = 4 * math.sqrt(0.025 * 0.975 / 8_000)
    assert max(helps, hurts) <= 0.025 + error
    assert min(helps, hurts) >= (0.01 if "heavy" in scenario else 0.025 - error)


@pytest.mark.parametrize(("n", "effect"), [(3, 2.0), (5, 1.0), (10, 1.0)])
def test_simulated_detection_rates_match_the_power(n: int, effect: float) -> None:
    helps, hurts, *_ = rates.shares("counted errors, sd 24", n, effect, 8_000)
    assert helps + hurts == pytest.approx(power(n, effect), abs=0.025)  # not quite normal, rounded, simulated


@pytest.mark.parametrize(("scenario", "effect"), [("normal, sd 20", 0.5), ("normal, sd 5", 2.0)])
@pytest.mark.parametrize("n", [3, 20])
def test_the_error_rate_of_equivalence_is_at_most_the_level(scenario: str, effect: float, n: int) -> None:
    assert effect * rates.SCENARIOS[scenario][0] == rates.MARGIN
    assert rates.shares(scenario, n, effect, 8_000)[2] <= 0.06


@pytest.mark.parametrize("scenario", rates.SCENARIOS)
def test_scenarios_have_no_effect_and_the_documented_spread(scenario: str) -> None:
    differences = rates.simulate(scenario, 10, 0.0, 8_000)
    sd = rates.SCENARIOS[scenario][0]
    assert differences.mean() == pytest.approx(0, abs=4 * sd / math.sqrt(differences.size))
    assert differences.std() == pytest.approx(sd, rel=0.1 if "heavy" in scenario else 0.03)
    assert (differences == np.rint(differences)).all()
