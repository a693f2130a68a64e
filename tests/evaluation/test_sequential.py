"""Evidence at any number of pairs: against numerical integration, its interval, and simulated repeated looks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from kd.evaluation.contrast import Contrast, contrast_of
from kd.evaluation.sequential import (
    FEWEST,
    STOP,
    anytime_interval,
    anytime_p,
    e_value,
    fewest_pairs,
    find_stop,
    measure_evidence,
)
from kd.evaluation.verdict import Question, judge

LEVELS = (0.05, 0.025, 0.1)


def draw(seed: int, pairs: int, mean: float = -0.8) -> list[float]:
    differences: list[float] = np.random.default_rng(seed).normal(mean, 1, pairs).tolist()
    return differences


@pytest.mark.parametrize("pairs", [2, 5, 9, 30])
def test_the_evidence_is_the_bayes_factor_of_a_standard_normal_effect(pairs: int) -> None:
    """The density of t with a normal effect size, integrated numerically, over its density without an effect."""
    differences = draw(pairs, pairs)
    freedom, t = pairs - 1, float(scipy.stats.ttest_1samp(differences, 0).statistic)

    def weigh(effect: float) -> float:
        return float(scipy.stats.nct.pdf(t, freedom, effect * pairs**0.5) * scipy.stats.norm.pdf(effect))

    with_effect, _ = scipy.integrate.quad(weigh, -8, 8, limit=200)
    assert e_value(differences) == pytest.approx(with_effect / scipy.stats.t.pdf(t, freedom), rel=1e-5)


def test_the_evidence_has_no_unit_and_no_sign_and_no_order() -> None:
    differences = draw(1, 8)
    for other in ([-d for d in differences], [1000 * d for d in differences], differences[::-1]):
        assert e_value(other) == pytest.approx(e_value(differences))
    assert e_value(differences, variance=10.0) < e_value(differences) == e_value(differences, variance=1e-9)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("variance", [0.0, 0.5])
def test_the_ends_of_the_interval_are_the_means_with_this_evidence(level: float, variance: float) -> None:
    differences = draw(2, 12)
    interval = anytime_interval(differences, level, variance)
    assert interval is not None
    for end in interval:
        assert e_value([d - end for d in differences], variance) == pytest.approx(1 / level)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("level", LEVELS)
def test_p_is_below_a_level_if_and_only_if_the_interval_excludes_zero(seed: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 2, (FEWEST + seed % 6, 60)) - (rng.random(60) < 0.08 * (seed % 5))
    contrast = contrast_of(rows.astype(np.float64), anytime=True)
    interval, fixed = contrast.interval(level), contrast_of(rows.astype(np.float64)).interval(level)
    assert fixed is not None
    assert (contrast.p < level) == (interval is not None and not interval.low <= 0 <= interval.high)
    if interval is not None:
        assert interval.low < fixed.low < fixed.high < interval.high  # looks have a price


def test_equal_differences_count_as_signs_and_none_is_no_evidence() -> None:
    assert [anytime_p([2.0] * pairs) for pairs in (2, 3, 5, 6)] == pytest.approx([3**-0.5, 1 / 4, 1 / 16, 1 / 32])
    assert anytime_interval([2.0] * 5) is None
    assert anytime_interval([2.0] * 6) == (2.0, 2.0)
    assert e_value([0.0] * 9) < 1
    assert anytime_interval([0.0] * 9) is not None
    assert Contrast((3.0,), anytime=True).interval() is None


def test_fewer_pairs_than_the_first_look_never_decide() -> None:
    assert max(e_value([1.0, 1.0, 1.0, 1.0 + 1e-9]), e_value([1.0] * (FEWEST - 1))) < STOP
    assert e_value([1.0, 1.0, 1.0, 1.0, 1.0 + 1e-9]) > STOP


def rows_of(differences: list[float]) -> NDArray[np.float64]:
    """Return contributions whose items all differ alike, so that only the pairs vary."""
    return np.repeat(np.array(differences)[:, None] / 4, 4, axis=1)


def test_training_stops_at_the_first_pair_after_which_every_contrast_is_decided() -> None:
    strong, weak = rows_of([-9.0, -10, -11, -10, -9, -11, -10, -9]), rows_of([-1.0, -9, -2, -8, -3, -8, -4, -7])
    assert find_stop([strong], STOP) == FEWEST
    both = find_stop([strong, weak], STOP)
    assert both == find_stop([weak], STOP)
    assert both is not None
    assert measure_evidence(weak[:both]) >= STOP > measure_evidence(weak[: both - 1])
    assert find_stop([strong, rows_of(draw(3, 8, mean=0))], STOP) is None
    # The same whatever was trained beyond it.
    assert find_stop([weak[:both]], STOP) == both


def test_a_stopped_comparison_is_significant_by_its_own_interval() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.random((20, 200)) < 0.05).astype(np.float64) - (rng.random((20, 200)) < 0.12)
    pairs = find_stop([rows], STOP)
    assert pairs is not None
    question = Question(contrast_of(rows[:pairs], anytime=True))
    assert judge(question, margin=1.0).verdict == "better than the labels alone"


@pytest.mark.slow
def test_repeated_looks_rarely_reach_the_threshold_but_repeated_t_tests_often_reject() -> None:
    runs, most = 1_000, 30
    found = np.zeros(2)
    for run in range(runs):
        differences = draw(run, most, mean=0)
        found[0] += any(e_value(differences[:n]) >= STOP for n in range(FEWEST, most + 1))
        found[1] += any(Contrast(tuple(differences[:n])).p < 0.05 for n in range(FEWEST, most + 1))
    assert found[0] / runs < 0.05
    assert found[1] / runs > 0.15


@pytest.mark.parametrize("threshold", [STOP, 40.0, 600.0, 1e6, 1e300])
def test_the_fewest_pairs_can_reach_the_evidence_and_one_less_cannot(threshold: float) -> None:
    fewest = fewest_pairs(threshold)

    def reach(pairs: int) -> float:
        return e_value([1 + 1e-9 * (-1) ** number for number in range(pairs)])

    assert reach(fewest) * (1 + 1e-6) >= threshold
    assert fewest == FEWEST or reach(fewest - 1) < threshold
