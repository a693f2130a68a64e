"""Power and numbers of seeds match a simulation, an integral and published tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from kd.evaluation.power import detectable, power, seeds_needed

examples = settings(max_examples=40)


def power_by_integral(n: int, effect: float, level: float = 0.05) -> float:
    """Given the sample's variance, the mean is normal: average the chance of both tails over the χ² of the variance."""
    critical, shift = stats.t.isf(level / 2, n - 1), effect * math.sqrt(n)

    def given_spread(c: float) -> float:
        bar = critical * math.sqrt(c / (n - 1))
        return float(stats.norm.sf(bar - shift) + stats.norm.cdf(-bar - shift)) * float(stats.chi2.pdf(c, n - 1))

    return float(integrate.quad(given_spread, 0, np.inf, epsabs=1e-11)[0])


@pytest.mark.parametrize("n", [3, 5, 10, 40])
@pytest.mark.parametrize("effect", [0.0, 0.3, 1.0, 2.5])
def test_power_matches_an_integral_over_the_sample_variance(n: int, effect: float) -> None:
    assert power(n, effect) == pytest.approx(power_by_integral(n, effect), abs=1e-7)


def test_power_matches_simulated_t_tests() -> None:
    sample = np.random.default_rng(0).standard_normal((20_000, 6)) + 1.2
    share = float(np.mean(stats.ttest_1samp(sample, 0, axis=1).pvalue < 0.05))
    assert power(6, 1.2) == pytest.approx(share, abs=4 * math.sqrt(0.25 / 20_000))


def test_power_without_an_effect_is_the_level_and_ignores_the_sign() -> None:
    assert power(7, 0.0, level=0.01) == pytest.approx(0.01)
    assert power(7, -0.8) == pytest.approx(power(7, 0.8))


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_match_published_tables(effect: float, n: int) -> None:
    """The usual small, medium and large effects of a paired t test with power 0.8 at two-sided 0.05."""
    assert seeds_needed(effect, 1.0) == n


@examples
@given(st.floats(0.05, 20), st.sampled_from([0.8, 0.9]), st.sampled_from([0.05, 0.0125]))
def test_seeds_needed_are_the_smallest_sufficient_number(effect: float, target: float, level: float) -> None:
    n = seeds_needed(effect, 1.0, target=target, level=level)
    assert power(n, effect, level=level) >= target
    assert n == 2 or power(n - 1, effect, level=level) < target


@examples
@given(st.integers(2, 300), st.floats(0.01, 1e4))
def test_the_detectable_difference_has_the_requested_power(n: int, sd: float) -> None:
    difference = detectable(n, sd)
    assert power(n, difference / sd) == pytest.approx(0.8, abs=1e-8)
    assert seeds_needed(1.0001 * difference, sd) <= n < seeds_needed(0.9 * difference, sd) or n == 2


def test_seeds_needed_depend_on_neither_unit_nor_sign() -> None:
    assert seeds_needed(-10, 20) == seeds_needed(0.1, 0.2) == seeds_needed(0.5, 1) == 34
    assert detectable(5, 40) == pytest.approx(2 * detectable(5, 20))


def test_extreme_effects_terminate_without_warnings() -> None:
    assert seeds_needed(1e6, 1.0) == 2
    assert seeds_needed(1e-3, 1.0) == pytest.approx(2.8016**2 * 1e6, rel=1e-3)
    assert detectable(2, 1.0) == pytest.approx(11.55, abs=0.01)


@pytest.mark.parametrize("sd", [0.0, -1.0, math.nan, math.inf])
def test_an_invalid_spread_raises(sd: float) -> None:
    with pytest.raises(ValueError, match=r"sd must be a finite number above 0\. Got"):
        seeds_needed(1.0, sd)
    with pytest.raises(ValueError, match="sd must be a finite number above 0"):
        detectable(5, sd)


@pytest.mark.parametrize("difference", [0.0, math.nan, math.inf])
def test_a_difference_of_zero_raises(difference: float) -> None:
    with pytest.raises(ValueError, match="difference must be a number other than 0"):
        seeds_needed(difference, 1.0)


def test_power_of_one_pair_raises() -> None:
    with pytest.raises(ValueError, match="pairs must be at least 2"):
        power(1, 1.0)
