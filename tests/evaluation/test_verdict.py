"""Verdicts follow their rule, boundaries included."""

from __future__ import annotations

import math
from statistics import stdev
from typing import Any

import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.evaluation.contrast import Contrast
from kd.evaluation.paired_seeds import Interval, Pairs, pair_errors, t_interval, t_test
from kd.evaluation.power import detectable, seeds_needed
from kd.evaluation.quantities import NLL
from kd.evaluation.verdict import Earlier, Judgement, Question, decide, holm, judge, judge_all, judge_counts
from kd.evaluation.verdict_text import describe_basis, sentence

IMAGES = 10_000
BETTER = "better than the labels alone"
MIRROR = {BETTER: "hurts", "hurts": BETTER}
DIFFERENCES = st.lists(st.integers(-40, 40), min_size=1, max_size=10)
P_VALUES = st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.012, 0.02, 0.03, 0.05, 0.2, 1.0]), min_size=1, max_size=6)
examples = settings(max_examples=60)


def pairs_of(differences: list[int]) -> Pairs:
    return pair_errors([200] * len(differences), [200 + d for d in differences], IMAGES)


def judge_pairs(pairs: Pairs, *, margin: float = 0.1, level: float = 0.05) -> Judgement:
    return judge_counts({"": pairs}, margin=margin, level=level)[""]


def write(
    judgement: Judgement, *, method: str = "Distillation", given: str = "this teacher, split and test set"
) -> str:
    count = len(judgement.question.control.differences)
    basis = describe_basis(count, IMAGES, "images", given)
    return sentence(judgement, method=method, basis=basis, relative_to=200.0)


HELPS, HURTS = [-60, -90, -30, -55, -71], [60, 90, 30, 55, 71]
NONE, OPEN = [-2, 1, 0, 2, -1], [-60, 90, -30, 55, 0]


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        (HELPS, BETTER),
        (HURTS, "hurts"),
        (NONE, "no difference larger than d"),
        (OPEN, "inconclusive"),
        ([-3, -4, -3, -2, -3], BETTER),  # shown, and within the margin: shown decides first
        ([0] * 5, "no difference larger than d"),
        ([0, 0], "no difference larger than d"),
        ([0], "inconclusive"),
        ([-90], "inconclusive"),
        ([-5, -5], "inconclusive"),
        ([-5] * 5, "no difference larger than d"),
        ([-5] * 6, BETTER),
        ([-90, -91], BETTER),
        ([-90, -110], "inconclusive"),
    ],
)
def test_the_verdict_on_known_pairs(differences: list[int], verdict: str) -> None:
    assert judge_pairs(pairs_of(differences)).verdict == verdict


@pytest.mark.parametrize(
    ("interval", "inner", "verdict"),
    [
        ((-5, -1e-9), None, BETTER),
        ((-5, 0), (-4, -1), "no difference larger than d"),
        ((-50, 0), (-40, -1), "inconclusive"),
        ((1e-9, 5), None, "hurts"),
        ((0, 50), (1, 40), "inconclusive"),
        ((-20, 20), (-9.99, 9.99), "no difference larger than d"),
        ((-20, 20), (-10, 9), "inconclusive"),
        ((-20, 20), (-9, 10), "inconclusive"),
        ((-5, -3), (-4, -3), BETTER),
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
    assert judge_pairs(pairs, margin=points * 1.001).verdict == "no difference larger than d"
    assert judge_pairs(pairs, margin=points * 0.999).verdict == "inconclusive"
    assert judge_pairs(pairs).margin == pytest.approx(10)


@examples
@given(DIFFERENCES)
def test_swapped_arms_give_the_opposite_verdict(differences: list[int]) -> None:
    verdict = judge_pairs(pairs_of(differences)).verdict
    assert judge_pairs(pairs_of([-d for d in differences])).verdict == MIRROR.get(verdict, verdict)


@examples
@given(DIFFERENCES, st.sampled_from([0.01, 0.05, 0.2]))
def test_the_verdict_matches_a_rule_written_with_p_values(differences: list[int], level: float) -> None:
    """The expected verdict is derived from p-values; TOST is two one-sided tests against ± the margin."""
    judgement = judge_pairs(pairs_of(differences), level=level)
    has_spread, total = len(set(differences)) > 1, sum(differences)
    if t_test(differences) < level:
        assert judgement.verdict == (BETTER if total < 0 else "hurts")
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
    judgements = judge_counts(methods)
    rejected = holm_step_by_step([pairs.t_p for pairs in methods.values()], 0.05)
    for judgement, reject in zip(judgements.values(), rejected, strict=True):
        assert (judgement.verdict in {BETTER, "hurts"}) == reject == (judgement.p < 0.05)
        assert judgement.interval == t_interval(judgement.question.control.differences, judgement.level)
        assert judgement.inner == t_interval(judgement.question.control.differences, 0.1 / len(several))
        assert 0.05 / len(several) <= judgement.level <= 0.05
        assert judgement.p >= judgement.question.control.p


def test_all_methods_after_the_stop_of_holm_are_inconclusive() -> None:
    """Both p-values are below 0.05, neither is below 0.025, so the second is never tested at 0.05."""
    several = {"one": pairs_of([-30, -6, -20, -9, -6]), "two": pairs_of([-30, -6, -21, -9, -4])}
    assert 0.025 < several["one"].t_p < several["two"].t_p < 0.05
    for judgement in judge_counts(several).values():
        assert (judgement.verdict, judgement.level) == ("inconclusive", 0.025)
        assert judgement.interval is not None
        assert judgement.interval.high > 0


@examples
@given(st.lists(DIFFERENCES, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_the_methods_does_not_matter(several: list[list[int]], random: Any) -> None:
    methods = {str(index): pairs_of(differences) for index, differences in enumerate(several)}
    expected = judge_counts(methods)
    for order in ([*methods][::-1], random.sample([*methods], len(methods))):
        assert judge_counts({name: methods[name] for name in order}) == expected


def test_a_single_method_is_not_adjusted() -> None:
    pairs = pairs_of([-30, -6, -20, -9, -12])
    alone = judge_pairs(pairs)
    assert (alone.verdict, alone.level, alone.inner_level, alone.p) == (BETTER, 0.05, 0.05, pairs.t_p)
    assert alone.interval == pairs.interval
    among = judge_counts({"it": pairs} | {str(seed): pairs_of(OPEN) for seed in range(4)})["it"]
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
        judge_pairs(pairs_of(HELPS), **arguments)


GIVEN = "given this teacher, split and test set."


@pytest.mark.parametrize(
    ("differences", "facts"),
    [
        (
            HELPS,
            ["Distillation is better than the labels alone: 61.2 fewer errors", "; -30.6 % relative to the control."],
        ),
        (HURTS, ["Distillation hurts: 61.2 more errors", "95 % CI +33.9 to +88.5"]),
        ([-3, -4, -3, -2, -3], ["alone: 3.0 fewer errors", "within the equivalence margin of 10 errors"]),
        (
            NONE,
            [
                "makes no difference larger than 10 errors: on average the same as the control",
                "; 90 % CI -1.5 to +1.5)",
            ],
        ),
        (OPEN, ["Distillation: inconclusive; 11.0 more errors", "80 % power", "; to detect 10 errors, "]),
        ([-90], ["inconclusive", "95 % CI undefined", "from one pair", "on 1 paired seed and"]),
        ([-5, -5], ["inconclusive", "All 2 differences are equal", "more pairs"]),
    ],
)
def test_the_sentence_states_verdict_difference_and_conditions(differences: list[int], facts: list[str]) -> None:
    text = write(judge_pairs(pairs_of(differences)))
    for fact in (*facts, f"{len(differences)} paired seed", "10,000 test images", GIVEN):
        assert fact in text
    assert "\n" not in text
    assert ("equivalence margin" in text) == (differences == [-3, -4, -3, -2, -3])


def test_an_inconclusive_verdict_states_power_and_pairs_needed() -> None:
    pairs = pairs_of(OPEN)
    assert pairs.sd is not None
    text = write(judge_pairs(pairs))
    assert f"5 pairs detect a true difference of {detectable(5, pairs.sd):.1f} errors" in text
    assert f"to detect 10 errors, {seeds_needed(10, pairs.sd):,} pairs are needed." in text


def test_a_sentence_on_several_methods_names_the_method_and_the_adjustment() -> None:
    judgements = judge_counts({"Hints": pairs_of(HELPS), "Logits": pairs_of(NONE)})
    text = write(judgements["Hints"], method="Hints", given="one split and one test set")
    assert text.startswith("Hints is better than the labels alone:")
    assert "97.5 % CI" in text
    assert f"p = {judgements['Hints'].p:.2g}, Holm-adjusted for 2 questions" in text
    assert text.endswith("given one split and one test set.")
    assert "Holm" not in write(judge_pairs(pairs_of(HELPS)))


def test_no_difference_on_few_images_is_inconclusive() -> None:
    assert judge_pairs(pair_errors([1, 1], [1, 1], 36)).verdict == "inconclusive"  # d is 0.04 errors
    assert judge_pairs(pair_errors([1, 1], [1, 1], 10_000)).verdict == "no difference larger than d"


STRONG, WEAK, NOTHING = (
    Contrast((-60.0, -90.0, -30.0, -55.0, -71.0)),
    Contrast((-30.0, -6.0, -20.0, -9.0, -12.0)),
    Contrast((-2.0, 1.0, 0.0, 2.0, -1.0)),
)


@pytest.mark.parametrize(
    ("smoothed", "verdict"),
    [(STRONG, "helps"), (WEAK, "helps"), (NOTHING, BETTER), (Contrast((60.0, 70.0, 65.0)), BETTER), (None, BETTER)],
)
def test_it_helps_only_if_it_is_also_better_than_label_smoothing(smoothed: Contrast | None, verdict: str) -> None:
    judgement = judge(Question(STRONG, smoothed), margin=10)
    assert judgement.verdict == verdict
    assert judgement.p_helps == (max(STRONG.p, smoothed.p) if smoothed else 1.0)


def test_better_than_label_smoothing_alone_is_no_help() -> None:
    """A method that hurts does not help, however bad label smoothing is."""
    assert judge(Question(Contrast((60.0, 70.0, 65.0)), STRONG), margin=10).verdict == "hurts"
    assert judge(Question(NOTHING, STRONG), margin=10).verdict == "no difference larger than d"


def test_earlier_questions_on_the_test_set_count() -> None:
    alone = judge(Question(WEAK, WEAK), margin=10)
    assert (alone.verdict, alone.family) == ("helps", 1)
    earlier = [Earlier(0.6, 0.6)] * 4
    again = judge_all({"": Question(WEAK, WEAK)}, margin=10, earlier=earlier)[""]
    assert (again.verdict, again.family) == ("inconclusive", 5)
    assert again.p == pytest.approx(5 * alone.p)
    both = judge_all({"a": Question(WEAK, WEAK), "b": Question(STRONG, STRONG)}, margin=10)
    one_by_one = judge_all({"a": Question(WEAK, WEAK)}, margin=10, earlier=[Earlier(STRONG.p, STRONG.p)])
    assert both["a"] == one_by_one["a"]


def test_a_gain_that_label_smoothing_also_gives_is_said_with_its_bound() -> None:
    text = write(judge(Question(STRONG, NOTHING), margin=10))
    bound = NOTHING.interval()
    assert bound is not None
    assert (
        f"Label smoothing, which needs no teacher, does not differ from it by more than {bound.high:.1f} errors" in text
    )
    better = write(judge(Question(STRONG, Contrast((60.0, 70.0, 65.0))), margin=10))
    assert "Label smoothing, which needs no teacher, is better still: 65.0 fewer errors" in better
    assert "no control with label smoothing" in write(judge(Question(STRONG), margin=10))
    assert "and 61.2 fewer errors than label smoothing" in write(judge(Question(STRONG, STRONG), margin=10))


def with_p(p: float, n: int = 10) -> Contrast:
    """Return ten differences below 0 whose t test has this p-value."""
    base = [index - (n - 1) / 2 for index in range(n)]
    sd = 10 * n**0.5 / float(scipy.stats.t.isf(p / 2, n - 1))
    return Contrast(tuple(-10 + sd * value / stdev(base) for value in base))


@examples
@given(st.lists(st.sampled_from([0.0001, 0.004, 0.01, 0.02, 0.04, 0.2]), min_size=2, max_size=8))
def test_no_interval_beside_helps_contains_zero(p_values: list[float]) -> None:
    """With earlier questions, both contrasts together have another step of Holm's procedure than the first alone."""
    first, second, *rest = p_values
    question = Question(with_p(first), with_p(second))
    judgement = judge_all({"": question}, margin=1, earlier=[Earlier(p, p) for p in rest])[""]
    if judgement.verdict == "helps":
        assert judgement.interval is not None
        assert judgement.smoothed is not None
        assert judgement.interval.high < 0
        assert judgement.smoothed.high < 0


def test_helps_states_the_p_value_of_both_contrasts() -> None:
    judgement = judge_all({"": Question(with_p(0.001), with_p(0.04))}, margin=1, earlier=[Earlier(0.01, 0.01)])[""]
    assert judgement.verdict == "helps"
    assert judgement.smoothed is not None
    assert judgement.smoothed.high < 0
    assert "p = 0.04 for both together, Holm-adjusted" in write(judgement)


def test_a_gain_of_label_smoothing_and_its_interval_have_the_same_sign() -> None:
    smoothed = Contrast((60.0, 70.0, 65.0))
    interval = smoothed.interval()
    assert interval is not None
    text = write(judge(Question(STRONG, smoothed), margin=10))
    assert f"65.0 fewer errors (95 % CI {-interval.high:+.1f} to {-interval.low:+.1f})" in text


@pytest.mark.parametrize(("scale", "start"), [(1e-7, "3e-07 nats less"), (0.01, "0.0300 nats less")])
def test_a_difference_too_small_for_its_format_is_not_called_none(scale: float, start: str) -> None:
    """Once "better than the labels alone: on average the same as the control (95 % CI 0.0000 to 0.0000)"."""
    contrast = Contrast(tuple(scale * difference for difference in (-3, -4, -3, -2, -3)), one_error=None)
    text = sentence(judge(Question(contrast), margin=0.1), basis="", quantity=NLL, relative_to=scale)
    assert f"alone: {start} cross-entropy than the control" in text
    assert f"{100 * contrast.mean / scale:.1f} % relative to the control" in text
    assert "to 0.0" not in text


def test_without_a_difference_there_is_no_relative_one() -> None:
    assert "relative" not in write(judge_pairs(pairs_of(NONE)))


@pytest.mark.parametrize(("margin", "is_said"), [(1.0, False), (2.0, True), (30.0, True)])
def test_a_margin_that_a_perfect_student_would_keep_is_said(margin: float, is_said: bool) -> None:
    text = write(judge_pairs(pairs_of(NONE), margin=margin))
    assert "makes no difference larger than" in text
    assert ("The margin is not below the mean of the control, 200 errors, so that even a perfect" in text) == is_said
