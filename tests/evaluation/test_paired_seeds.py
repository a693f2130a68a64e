"""Statistics of paired seeds match scipy, an enumeration of all cases, or arithmetic."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kd.evaluation.paired_seeds import (
    Interval,
    bootstrap_interval,
    pair_errors,
    sign_test,
    t_interval,
    t_test,
    wilcoxon_test,
)

IMAGES = 10_000
DIFFERENCES = st.lists(st.integers(-40, 40), min_size=2, max_size=12)
SMALL = st.lists(st.integers(-4, 4), min_size=1, max_size=7)  # many ties and zeros
ARMS = st.lists(st.tuples(st.integers(100, 300), st.integers(100, 300)), min_size=1, max_size=8)
examples = settings(max_examples=60)


def arms(pairs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [control for control, _ in pairs], [distilled for _, distilled in pairs]


def mirror(interval: Interval | None) -> Interval | None:
    return interval and Interval(-interval.high, -interval.low)


@examples
@given(DIFFERENCES.filter(lambda values: len(set(values)) > 1))
def test_the_t_interval_and_its_p_value_match_scipy(differences: list[int]) -> None:
    result = stats.ttest_rel(differences, [0] * len(differences))
    assert t_test(differences) == pytest.approx(result.pvalue, rel=1e-9)
    for level in (0.05, 0.1, 0.0125):
        assert t_interval(differences, level) == pytest.approx(tuple(result.confidence_interval(1 - level)), abs=1e-9)


def test_a_t_interval_by_hand() -> None:
    """Mean −6, standard deviation 4, three pairs: ± 4.3027 · 4 / √3."""
    assert t_interval([-10, -6, -2]) == pytest.approx((-6 - 9.9366, -6 + 9.9366), abs=1e-3)


@examples
@given(DIFFERENCES, st.floats(0.001, 0.3))
def test_a_p_value_is_below_a_level_if_and_only_if_the_interval_excludes_zero(d: list[int], level: float) -> None:
    interval = t_interval(d, level)
    assert (t_test(d) < level) == (interval is not None and not interval.low <= 0 <= interval.high)


@examples
@given(SMALL)
def test_the_sign_test_matches_an_enumeration(differences: list[int]) -> None:
    nonzero = [d for d in differences if d]
    lopsided = abs(sum(d > 0 for d in nonzero) - sum(d < 0 for d in nonzero))
    choices = [abs(sum(signs)) >= lopsided for signs in itertools.product((-1, 1), repeat=len(nonzero))]
    assert sign_test(differences) == pytest.approx(sum(choices) / len(choices), rel=1e-12)


@examples
@given(SMALL)
def test_wilcoxons_test_matches_an_enumeration_even_with_ties_and_zeros(differences: list[int]) -> None:
    nonzero = [d for d in differences if d]
    sizes = sorted(map(abs, nonzero))
    doubled = [2 * sizes.index(abs(d)) + 1 + sizes.count(abs(d)) for d in nonzero]  # twice the mean rank
    observed = abs(sum(math.copysign(rank, d) for rank, d in zip(doubled, nonzero, strict=True)))
    choices = [
        abs(sum(sign * rank for sign, rank in zip(signs, doubled, strict=True))) >= observed
        for signs in itertools.product((-1, 1), repeat=len(nonzero))
    ]
    assert wilcoxon_test(differences) == pytest.approx(sum(choices) / len(choices), rel=1e-12)


@examples
@given(st.lists(st.integers(1, 200), min_size=3, max_size=30, unique=True), st.randoms(use_true_random=False))
def test_wilcoxons_test_without_ties_matches_scipy(sizes: list[int], random: object) -> None:
    differences = [size * random.choice((-1, 1)) for size in sizes]  # type: ignore[attr-defined]
    assert wilcoxon_test(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, rel=1e-9)


@pytest.mark.parametrize(("n", "p"), [(1, 1.0), (5, 0.0625), (6, 0.03125)])
def test_rank_and_sign_tests_cannot_reach_five_per_cent_below_six_pairs(n: int, p: float) -> None:
    differences = list(range(-n, 0))
    assert (sign_test(differences), wilcoxon_test(differences)) == pytest.approx((p, p))


@examples
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=5), st.sampled_from([0.05, 0.1, 0.125, 0.5]))
def test_the_bootstrap_interval_matches_all_resamples(differences: list[int], level: float) -> None:
    n = len(differences)
    counts = Counter(map(sum, itertools.product(differences, repeat=n)))
    sums, outside = sorted(counts), Fraction(level) / 2 * n**n
    low = next(s for s in sums if sum(counts[second] for second in sums if second <= s) >= outside)
    high = next(s for s in reversed(sums) if sum(counts[second] for second in sums if second >= s) >= outside)
    assert bootstrap_interval(differences, level) == pytest.approx((low / n, high / n), abs=1e-12)


def test_the_bootstrap_interval_matches_random_resamples() -> None:
    differences = [-80, -31, -66, -59, -94, -20, -71, -48, -77, -75]
    means = np.random.default_rng(0).choice(differences, size=(40_000, 10)).mean(axis=1)
    assert bootstrap_interval(differences) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.6)


def test_the_bootstrap_interval_of_large_counts_is_quick_and_close_to_normal() -> None:
    differences = [int(x) for x in 5000 * np.random.default_rng(0).standard_normal(50)]
    half = 1.96 * statistics.pstdev(differences) / 50**0.5
    mean = statistics.fmean(differences)
    assert bootstrap_interval(differences) == pytest.approx((mean - half, mean + half), abs=0.05 * half)


@pytest.mark.parametrize(
    ("differences", "interval", "p"),
    [
        ([-5], None, 1.0),
        ([0], None, 1.0),
        ([-5, -5], None, 0.5),
        ([3] * 5, None, 0.0625),
        ([3] * 6, (3, 3), 0.03125),
    ],
)
def test_equal_differences_use_the_sign_test(
    differences: list[int], interval: tuple[int, int] | None, p: float
) -> None:
    assert t_interval(differences) == interval
    assert t_test(differences) == p


@pytest.mark.parametrize("level", [0.05, 0.1])
@pytest.mark.parametrize("pairs", [2, 10])
def test_differences_of_zero_use_the_rule_of_three(pairs: int, level: float) -> None:
    """A count with mean nδ is 0 with probability e^−nδ, and the interval ends where that is level / 2."""
    interval = t_interval([0] * pairs, level)
    assert interval is not None
    assert interval.low == -interval.high
    assert math.exp(-pairs * interval.high) == pytest.approx(level / 2)
    assert t_test([0] * pairs) == 1.0
    assert t_interval([0]) is None


def test_five_equal_differences_have_a_ninety_per_cent_interval() -> None:
    assert t_interval([3] * 5, 0.1) == (3, 3)
    assert t_interval([3] * 4, 0.1) is None


def test_two_pairs_have_a_wide_interval() -> None:
    """t with one degree of freedom: tan(0.475 π) = 12.706."""
    half = math.tan(0.475 * math.pi) * 1
    assert t_interval([-5, -3]) == pytest.approx((-4 - half, -4 + half), rel=1e-9)
    assert bootstrap_interval([-5, -3]) == (-5, -3)
    assert bootstrap_interval([-5]) is None


def test_the_summary_by_hand() -> None:
    pairs = pair_errors([220, 240, 200], [160, 150, 170], IMAGES)
    assert (pairs.control, pairs.distilled) == ((220, 20), (160, 10))
    assert pairs.differences == (-60, -90, -30)
    assert (pairs.mean, pairs.sd, pairs.points) == (-60, 30, pytest.approx(-0.6))
    assert pairs.relative == pytest.approx(-60 / 220)
    assert (pairs.interval, pairs.bootstrap) == (t_interval([-60, -90, -30]), (-90, -30))
    assert (pairs.t_p, pairs.wilcoxon_p, pairs.sign_p) == (pytest.approx(0.0742, abs=1e-4), 0.25, 0.25)


def test_a_single_pair_and_a_control_without_errors() -> None:
    pairs = pair_errors([0], [3], 100)
    assert (pairs.control.sd, pairs.sd, pairs.relative, pairs.interval) == (None, None, None, None)
    assert (pairs.t_p, pairs.wilcoxon_p, pairs.sign_p) == (1.0, 1.0, 1.0)


def test_numpy_counts_stay_exact() -> None:
    control, distilled = [220, 241, 200], [160, 150, 171]
    assert pair_errors(np.array(control), np.array(distilled), IMAGES) == pair_errors(control, distilled, IMAGES)  # type: ignore[arg-type]


@examples
@given(ARMS)
def test_swapped_arms_give_the_mirror_image(pairs: list[tuple[int, int]]) -> None:
    control, distilled = arms(pairs)
    first, second = pair_errors(control, distilled, IMAGES), pair_errors(distilled, control, IMAGES)
    assert (second.mean, second.points) == (-first.mean, -first.points)
    assert second.interval == mirror(first.interval)
    assert second.bootstrap == (mirror(first.bootstrap) and pytest.approx(mirror(first.bootstrap)))
    assert second[-3:] == pytest.approx(first[-3:])
    assert (second.control, second.distilled, second.sd) == (first.distilled, first.control, first.sd)


@examples
@given(ARMS, st.integers(-100, 500))
def test_a_constant_added_to_both_arms_does_not_change_the_difference(
    pairs: list[tuple[int, int]], constant: int
) -> None:
    control, distilled = arms(pairs)
    first = pair_errors(control, distilled, IMAGES)
    second = pair_errors([c + constant for c in control], [d + constant for d in distilled], IMAGES)
    without = {"control": first.control, "distilled": first.distilled, "relative": first.relative}
    assert second._replace(**without) == first
    assert second.control.mean == pytest.approx(first.control.mean + constant)


@examples
@given(ARMS.flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs))))
def test_the_order_of_the_seeds_does_not_matter(orders: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> None:
    first, second = (pair_errors(*arms(pairs), IMAGES) for pairs in orders)
    assert second._replace(differences=first.differences) == first
    assert sorted(second.differences) == sorted(first.differences)


@examples
@given(ARMS, st.integers(2, 9))
def test_scaled_differences_scale_the_intervals_and_keep_the_p_values(pairs: list[tuple[int, int]], k: int) -> None:
    control, distilled = arms(pairs)
    first = pair_errors(control, distilled, IMAGES)
    second = pair_errors([k * c for c in control], [k * d for d in distilled], k * IMAGES)
    for name in ("interval", "bootstrap"):
        before, after = getattr(first, name), getattr(second, name)
        assert after == (before and pytest.approx((k * before.low, k * before.high)))
    assert second[-3:] == pytest.approx(first[-3:])
    assert (second.points, second.relative) == pytest.approx((first.points, first.relative))


@pytest.mark.parametrize(
    ("control", "distilled", "images", "message"),
    [
        ([1, 2], [1], 10, r"number of distilled seeds must be 2.*Got 1 instead.*drop a seed from both arms"),
        ([], [], 10, r"control must be the errors of at least one seed. Got \[\]"),
        ([1, math.nan], [1, 2], 10, r"control\[1\] must be an integer number of errors from 0 to 10. Got nan"),
        ([1, 2], [1, math.inf], 10, r"distilled\[1\] must be an integer.*Got inf"),
        ([1, 2], [1, 2.5], 10, r"distilled\[1\].*Got 2.5"),
        ([1, 11], [1, 2], 10, r"control\[1\].*Got 11"),
        ([-1], [1], 10, r"control\[0\].*Got -1"),
        ([0], [0], 0, "images must be the number of test images, at least 1. Got 0"),
    ],
)
def test_invalid_counts_raise(control: list[int], distilled: list[int], images: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_errors(control, distilled, images)
