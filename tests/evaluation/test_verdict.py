"""Verdicts follow their rule, boundaries included; simulated error rates match the stated levels."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.evaluation.paired_seeds import Interval, Pairs, pair_errors, t_interval, t_test
from kd.evaluation.power import detectable, power, seeds_needed
from kd.evaluation.verdict import Judgement, decide, holm, judge, judge_across, judge_all, sentence, sentence_across

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import verdict_error_rates as rates  # noqa: E402

IMAGES = 10_000
MIRROR = {"helps": "hurts", "hurts": "helps"}
DIFFERENCES = st.lists(st.integers(-40, 40), min_size=1, max_size=10)
P_VALUES = st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.012, 0.02, 0.03, 0.05, 0.2, 1.0]), min_size=1, max_size=6)
examples = settings(max_examples=100)


def pairs_of(differences: list[int]) -> Pairs:
    return pair_errors([200] * len(differences), [200 + d for d in differences], IMAGES)


HELPS, HURTS = [-60, -90, -30, -55, -71], [60, 90, 30, 55, 71]
NONE, OPEN = [-2, 1, 0, 2, -1], [-60, 90, -30, 55, 0]


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        (HELPS, "helps"),
        (HURTS, "hurts"),
        (NONE, "no difference larger than d"),
        (OPEN, "inconclusive"),
        ([-3, -4, -3, -2, -3], "helps"),  # shown, and within the margin: shown decides first
        ([0] * 5, "no difference larger than d"),
        ([0, 0], "no difference larger than d"),
        ([0], "inconclusive"),
        ([-90], "inconclusive"),
        ([-5, -5], "inconclusive"),
        ([-5] * 5, "no difference larger than d"),
        ([-5] * 6, "helps"),
        ([-90, -91], "helps"),
        ([-90, -110], "inconclusive"),
    ],
)
def test_the_verdict_on_known_pairs(differences: list[int], verdict: str) -> None:
    assert judge(pairs_of(differences)).verdict == verdict


@pytest.mark.parametrize(
    ("interval", "inner", "verdict"),
    [
        ((-5, -1e-9), None, "helps"),
        ((-5, 0), (-4, -1), "no difference larger than d"),
        ((-50, 0), (-40, -1), "inconclusive"),
        ((1e-9, 5), None, "hurts"),
        ((0, 50), (1, 40), "inconclusive"),
        ((-20, 20), (-9.99, 9.99), "no difference larger than d"),
        ((-20, 20), (-10, 9), "inconclusive"),
        ((-20, 20), (-9, 10), "inconclusive"),
        ((-5, -3), (-4, -3), "helps"),
        (None, (-9, 9), "no difference larger than d"),
        (None, None, "inconclusive"),
    ],
)
def test_the_rule_at_its_boundaries(
    interval: tuple[float, float] | None, inner: tuple[float, float] | None, verdict: str
) -> None:
    assert decide(interval and Interval(*interval), inner and Interval(*inner), 10.0) == verdict


def test_the_margin_is_in_percentage_points_of_the_images() -> None:
    pairs = pairs_of([-8, 6, 7, -7, 1])
    inner = t_interval(pairs.differences, 0.1)
    assert inner is not None
    points = max(-inner.low, inner.high) / IMAGES * 100
    assert judge(pairs, margin=points * 1.001).verdict == "no difference larger than d"
    assert judge(pairs, margin=points * 0.999).verdict == "inconclusive"
    assert judge(pairs).margin == pytest.approx(10)


@examples
@given(DIFFERENCES)
def test_swapped_arms_give_the_opposite_verdict(differences: list[int]) -> None:
    verdict = judge(pairs_of(differences)).verdict
    assert judge(pairs_of([-d for d in differences])).verdict == MIRROR.get(verdict, verdict)


@examples
@given(DIFFERENCES, st.sampled_from([0.01, 0.05, 0.2]))
def test_the_verdict_matches_a_rule_written_with_p_values(differences: list[int], level: float) -> None:
    """The expected verdict is derived from p-values; TOST is two one-sided tests against ± the margin."""
    judgement = judge(pairs_of(differences), level=level)
    has_spread, total = len(set(differences)) > 1, sum(differences)
    if t_test(differences) < level:
        assert judgement.verdict == ("helps" if total < 0 else "hurts")
    elif has_spread:
        inside = abs(total / len(differences)) < 10
        one_sided = [t_test([d + shift for d in differences]) / 2 for shift in (10, -10)]
        equivalent = inside and max(one_sided) < level
        assert judgement.verdict == ("no difference larger than d" if equivalent else "inconclusive")


def holm_step_by_step(p_values: list[float], level: float) -> list[bool]:
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, index in enumerate(order):
        if p_values[index] >= level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


@examples
@given(P_VALUES, st.sampled_from([0.011, 0.037, 0.06]))
def test_adjusted_p_values_match_a_stepwise_holm_procedure(p_values: list[float], level: float) -> None:
    assert [p < level for p in holm(p_values)] == holm_step_by_step(p_values, level)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02]) == [0.02]
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@examples
@given(st.lists(DIFFERENCES, min_size=1, max_size=5))
def test_several_methods_differ_if_and_only_if_holm_rejects(several: list[list[int]]) -> None:
    methods = {str(index): pairs_of(differences) for index, differences in enumerate(several)}
    judgements = judge_all(methods)
    rejected = holm_step_by_step([pairs.t_p for pairs in methods.values()], 0.05)
    for judgement, reject in zip(judgements.values(), rejected, strict=True):
        assert (judgement.verdict in {"helps", "hurts"}) == reject == (judgement.p < 0.05)
        assert judgement.interval == t_interval(judgement.pairs.differences, judgement.level)
        assert judgement.inner == t_interval(judgement.pairs.differences, 0.1 / len(several))
        assert 0.05 / len(several) <= judgement.level <= 0.05
        assert judgement.p >= judgement.pairs.t_p


def test_all_methods_after_the_stop_of_holm_are_inconclusive() -> None:
    """Both p-values are below 0.05, neither is below 0.025, so the second is never tested at 0.05."""
    several = {"one": pairs_of([-30, -6, -20, -9, -6]), "two": pairs_of([-30, -6, -21, -9, -4])}
    assert 0.025 < several["one"].t_p < several["two"].t_p < 0.05
    for judgement in judge_all(several).values():
        assert (judgement.verdict, judgement.level) == ("inconclusive", 0.025)
        assert judgement.interval is not None
        assert judgement.interval.high > 0


@examples
@given(st.lists(DIFFERENCES, min_size=2, max_size=4))
def test_the_order_of_the_methods_does_not_matter(several: list[list[int]]) -> None:
    methods = {str(index): pairs_of(differences) for index, differences in enumerate(several)}
    for order in itertools.permutations(methods):
        assert judge_all({name: methods[name] for name in order}) == judge_all(methods)


def test_a_single_method_is_not_adjusted() -> None:
    pairs = pairs_of([-30, -6, -20, -9, -12])
    alone = judge(pairs)
    assert (alone.verdict, alone.level, alone.inner_level, alone.p) == ("helps", 0.05, 0.05, pairs.t_p)
    assert alone.interval == pairs.interval
    among = judge_all({"it": pairs} | {str(seed): pairs_of(OPEN) for seed in range(4)})["it"]
    assert (among.verdict, among.level) == ("inconclusive", 0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": 0.0}, "margin must be above 0 and at most 100 percentage points.*Got 0.0"),
        ({"margin": math.nan}, "margin must be above 0.*Got nan"),
        ({"level": 0.5}, r"level must be above 0 and below 0\.5.*Got 0\.5"),
    ],
)
def test_an_invalid_margin_or_level_raises(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(pairs_of(HELPS), **arguments)


GIVEN = "given this teacher, split and test set."


@pytest.mark.parametrize(
    ("differences", "facts"),
    [
        (HELPS, ["Distillation helps: 61.2 fewer errors", "error rate -0.612 percentage points (-30.6 % relative)."]),
        (HURTS, ["Distillation hurts: 61.2 more errors", "95 % CI +33.9 to +88.5"]),
        ([-3, -4, -3, -2, -3], ["helps: 3.0 fewer errors", "within the equivalence margin of 10 errors"]),
        (NONE, ["makes no difference larger than 10 errors: the same number of errors", "; 90 % CI -1.5 to +1.5)"]),
        (OPEN, ["Distillation: inconclusive; 11.0 more errors", "80 % power", "a difference of 10 takes"]),
        ([-90], ["inconclusive", "95 % CI undefined", "from one pair", "on 1 paired seed and"]),
        ([-5, -5], ["inconclusive", "All 2 differences are equal", "more pairs"]),
    ],
)
def test_the_sentence_states_verdict_difference_and_conditions(differences: list[int], facts: list[str]) -> None:
    text = sentence(judge(pairs_of(differences)))
    for fact in (*facts, f"{len(differences)} paired seed", "10,000 test images", GIVEN):
        assert fact in text
    assert "\n" not in text
    assert ("equivalence margin" in text) == (differences == [-3, -4, -3, -2, -3])


def test_an_inconclusive_verdict_states_power_and_pairs_needed() -> None:
    pairs = pairs_of(OPEN)
    assert pairs.sd is not None
    text = sentence(judge(pairs))
    assert f"5 pairs detect a true difference of {detectable(5, pairs.sd):.1f} errors" in text
    assert f"a difference of 10 takes {seeds_needed(10, pairs.sd):,} pairs." in text


def test_a_sentence_on_several_methods_names_the_method_and_the_adjustment() -> None:
    judgements = judge_all({"Hints": pairs_of(HELPS), "Logits": pairs_of(NONE)})
    text = sentence(judgements["Hints"], method="Hints", given="one split and one test set")
    assert text.startswith("Hints helps:")
    assert "97.5 % CI" in text
    assert f"p = {judgements['Hints'].p:.2g}, Holm-adjusted for 2 methods" in text
    assert text.endswith("given one split and one test set.")
    assert "Holm" not in sentence(judge(pairs_of(HELPS)))


def judge_row(row: rates.Floats) -> Judgement:
    return judge(pairs_of([int(d) for d in row]))


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


def test_no_difference_on_few_images_is_inconclusive() -> None:
    assert judge(pair_errors([1, 1], [1, 1], 36)).verdict == "inconclusive"  # d is 0.04 errors
    assert judge(pair_errors([1, 1], [1, 1], 10_000)).verdict == "no difference larger than d"


def test_a_verdict_across_teachers_states_confidence_and_conditions() -> None:
    teachers = [pairs_of(differences) for differences in (HELPS, [-50, -61, -72, -55, -48])]
    text = sentence_across(judge_across(teachers, level=0.01))
    assert "99 % CI" in text
    assert text.endswith("given this test set.")
