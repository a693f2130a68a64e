"""Statistics of two models match their formulas, written a second time with ``math``."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from torch import Tensor

from kd.evaluation.two_models import EXACT, McNemar, _lower_tail, mcnemar, proportion_interval, verdict
from kd.formatting import equate_p

COUNTS = st.integers(0, 60)


def wrong_masks(shared: int, only_first: int, only_second: int, neither: int = 5) -> tuple[Tensor, Tensor]:
    """Two masks with these counts, in an order that is not sorted."""
    first = [True] * (shared + only_first) + [False] * (only_second + neither)
    second = [True] * shared + [False] * only_first + [True] * only_second + [False] * neither
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(0))
    return torch.tensor(first)[order], torch.tensor(second)[order]


def two_sided_tail(b: int, c: int) -> float:
    """Return the probability of a split at least as uneven as b : c in b + c fair coin tosses."""
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1)) / float(2**n)
    return min(1.0, 2 * tail)


@settings(max_examples=50)
@given(COUNTS, COUNTS, COUNTS)
def test_mcnemar_is_the_exact_binomial_tail(shared: int, only_first: int, only_second: int) -> None:
    result = mcnemar(*wrong_masks(shared, only_first, only_second))
    assert result[:2] == (only_first, only_second)
    assert result.p_value == pytest.approx(two_sided_tail(only_first, only_second), rel=1e-9)


@settings(max_examples=30)
@given(COUNTS, COUNTS, COUNTS)
def test_swapping_the_networks_swaps_the_counts_and_keeps_the_p_value(shared: int, b: int, c: int) -> None:
    first, second = wrong_masks(shared, b, c)
    forward, swapped = mcnemar(first, second), mcnemar(second, first)
    assert swapped[:2] == forward[1::-1]
    assert swapped.p_value == pytest.approx(forward.p_value, rel=1e-12)


@settings(max_examples=60)
@given(st.integers(1, 20_000), st.floats(0, 1), st.sampled_from([0.9, 0.95, 0.99]))
def test_the_interval_matches_scipy_stats(n: int, share: float, confidence: float) -> None:
    successes = round(share * n)
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert proportion_interval(successes, n, confidence=confidence) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize("shared", [0, 7])
def test_networks_that_err_on_the_same_images_do_not_differ(shared: int) -> None:
    assert mcnemar(*wrong_masks(shared, 0, 0)) == McNemar(0, 0, 1.0)


@pytest.mark.parametrize(
    ("errors", "other_errors", "shared", "p_value"), [(67, 74, 50, 0.35), (146, 74, 60, 8e-14), (74, 146, 60, 8e-14)]
)
def test_known_counts_have_their_known_p_value(errors: int, other_errors: int, shared: int, p_value: float) -> None:
    result = mcnemar(*wrong_masks(shared, errors - shared, other_errors - shared, neither=10_000))
    assert result.p_value == pytest.approx(p_value, rel=0.05)


def test_predictions_on_different_numbers_of_images_raise() -> None:
    with pytest.raises(ValueError, match=r"same images.*\[3\] and \[4\]"):
        mcnemar(torch.zeros(3, dtype=torch.bool), torch.zeros(4, dtype=torch.bool))


def wilson(successes: int, n: int, z: float) -> tuple[float, float]:
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


@settings(max_examples=50)
@given(st.integers(1, 20_000), st.floats(0, 1))
def test_the_interval_is_wilsons_and_contains_the_estimate(n: int, share: float) -> None:
    successes = round(share * n)
    low, high = proportion_interval(successes, n)
    assert (low, high) == pytest.approx(wilson(successes, n, 1.959963984540054), abs=1e-9)
    assert 0 <= low <= successes / n <= high <= 1


def test_more_confidence_is_a_wider_interval_and_more_images_a_narrower_one() -> None:
    low, high = proportion_interval(90, 100)
    wide_low, wide_high = proportion_interval(90, 100, confidence=0.99)
    many_low, many_high = proportion_interval(9000, 10_000)
    assert wide_low < low < many_low < 0.9 < many_high < high < wide_high


def sentence(shared: int, only_control: int, only_distilled: int) -> str:
    test = mcnemar(*wrong_masks(shared, only_control, only_distilled))
    return verdict(shared + only_control, shared + only_distilled, test)


@pytest.mark.parametrize(
    ("only_control", "only_distilled", "start"),
    [
        (24, 17, "No significant difference:"),
        (0, 0, "No significant difference:"),
        (86, 14, "The distilled student is better:"),
        (14, 86, "The distilled student is worse:"),
    ],
)
def test_the_verdict_states_the_result_with_its_counts(only_control: int, only_distilled: int, start: str) -> None:
    text = sentence(1200, only_control, only_distilled)
    assert text.startswith(start)
    assert re.search("these two networks", text, re.IGNORECASE)
    for fact in (
        f"distilled student makes {1200 + only_distilled:,} errors",
        f"the control {1200 + only_control:,} ",
        f"images that only the control gets wrong: {only_control},",
        f"only the distilled student: {only_distilled};",
        equate_p(two_sided_tail(only_control, only_distilled)),
    ):
        assert fact in text
    assert "several seeds" in text


def test_the_verdict_changes_at_the_level() -> None:
    test = mcnemar(*wrong_masks(10, 20, 8))
    assert verdict(30, 18, test, level=test.p_value * 1.01).startswith("The distilled student is better")
    assert verdict(30, 18, test, level=test.p_value).startswith("No significant difference")


@pytest.mark.parametrize("n", [0, 1, 2, 9, 100, 1_001, EXACT, EXACT + 1])
def test_the_tail_of_the_binomial_distribution_is_that_of_scipy(n: int) -> None:
    for k in {0, n // 3, n // 2}:
        assert _lower_tail(k, n) == pytest.approx(binom.cdf(k, n, 0.5), rel=1e-10)
