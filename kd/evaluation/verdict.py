"""Verdicts on whether distillation helps, from paired seeds and a rule fixed in advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from kd.checks import require
from kd.evaluation.contrast import Contrast
from kd.evaluation.paired_seeds import Interval, Pairs

Verdict = Literal[
    "helps",
    "better than the labels alone",
    "hurts",
    "no difference larger than d",
    "inconclusive",
    "not decided",
]


class Question(NamedTuple):
    """What is asked of a method: is it better than the labels alone, and better than labels softened without a teacher?

    Attributes:
        control: distilled minus control.
        smoothed: distilled minus the control with label smoothing; None if there is none, and the verdict is never
            "helps".
    """

    control: Contrast
    smoothed: Contrast | None = None

    @property
    def p_of_helping(self) -> float:
        """p-value of the intersection–union test of both contrasts: the larger one; 1 without ``smoothed``.

        Source: Berger 1982, "Multiparameter hypothesis testing and acceptance sampling".
        """
        return max(self.control.p, self.smoothed.p) if self.smoothed else 1.0


class Judgement(NamedTuple):
    """A verdict and the statistics that determine it.

    Attributes:
        margin: equivalence margin d, in the unit of the differences.
        interval: interval of the contrast with the control, at confidence 1 − ``level``.
        level: significance level of ``interval``; equal to ``inner_level`` for a single question, else see
            ``judge_all``.
        inner: the same at 1 − 2 · ``inner_level``; it alone determines "no difference larger than d".
        inner_level: significance level of each of the two one-sided tests.
        smoothed: interval of the contrast with label smoothing, at 1 − ``smoothed_level``; None if there is none.
        smoothed_level: significance level of the step that decided "helps".
        p, p_helps: Holm-adjusted p-values of the contrast with the control and of both contrasts together.
        family: number of questions judged together.
        pairs: the counted errors, from ``judge_counts``; else None.
    """

    verdict: Verdict
    question: Question
    margin: float
    interval: Interval | None
    level: float
    inner: Interval | None
    inner_level: float
    smoothed: Interval | None
    smoothed_level: float
    p: float
    p_helps: float
    family: int
    pairs: Pairs | None = None


class Earlier(NamedTuple):
    """p-values of an earlier question on the same test set: for the control, and for both contrasts together."""

    p: float
    p_of_helping: float


def judge(question: Question, *, margin: float, level: float = 0.05) -> Judgement:
    """Judge one question.

    Args:
        margin: equivalence margin in the unit of the differences, above 0.
        level: significance level in (0, 0.5).
    """
    return judge_all({"": question}, margin=margin, level=level)[""]


def judge_all(
    questions: Mapping[str, Question], *, margin: float, level: float = 0.05, earlier: Sequence[Earlier] = ()
) -> dict[str, Judgement]:
    """Judge several questions on one test set, with Holm's adjustment for their number M.

    The smallest p-value is compared with level / M, the next with level / (M − 1), and so on. The procedure stops
    at the first p-value that is not below its level: this one and all larger ones are not rejected. The interval of
    each question uses the level of the step that decided its p-value, so it excludes zero if and only if Holm's
    procedure rejects; that of the contrast with label smoothing uses the step of both contrasts together. The
    intervals have no joint coverage of all M differences. Holm's procedure runs twice: for the
    contrasts with the control ("better than the labels alone", "hurts") and for both contrasts together ("helps").
    Equivalence is tested at level / M per question (Bonferroni). Hence, without ``earlier``, each kind of wrong
    verdict has a probability of at most ``level`` over all questions. Earlier verdicts were given at larger levels and
    stand; to keep the level over all of them, adjust all again, as the report's table does.

    Args:
        earlier: p-values of questions that were asked of the same test set before; they count in M.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure"; equivalence by two one-sided tests:
    Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach".
    """
    require(margin > 0, "margin", margin, "above 0")
    require(0 < level < 0.5, "level", level, "above 0 and below 0.5")
    family = len(questions) + len(earlier)
    p_values = [question.control.p for question in questions.values()] + [entry.p for entry in earlier]
    p_helps = [question.p_of_helping for question in questions.values()] + [entry.p_of_helping for entry in earlier]
    adjusted = zip(holm(p_values), holm(p_helps), strict=True)
    levels = zip(_find_levels(p_values, level), _find_levels(p_helps, level), strict=True)
    judgements = {}
    # The earlier questions come last.
    for (name, question), (p, helps), (outer, of_both) in zip(questions.items(), adjusted, levels, strict=False):
        interval, inner = question.control.interval(outer), question.control.interval(2 * level / family)
        judgements[name] = Judgement(
            decide(interval, inner, margin, helps=helps < level and _is_better_than_smoothing(question)),
            question,
            margin,
            interval,
            outer,
            inner,
            level / family,
            question.smoothed.interval(of_both) if question.smoothed else None,
            of_both,
            p,
            helps,
            family,
        )
    return judgements


def decide(interval: Interval | None, inner: Interval | None, margin: float, *, helps: bool = False) -> Verdict:
    """Apply the decision rule. A significant difference takes precedence over equivalence, however small it is.

    Args:
        interval, inner: intervals of the contrast with the control, see ``Judgement``.
        helps: whether both contrasts together are significant, in favour of distillation.
    """
    if interval and interval.high < 0:
        return "helps" if helps else "better than the labels alone"
    if interval and interval.low > 0:
        return "hurts"
    if inner and -margin < inner.low and inner.high < margin:
        return "no difference larger than d"
    return "inconclusive"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in input order: below a level if and only if Holm's procedure rejects at it."""
    steps = {p: p * _count_at_least(p, p_values) for p in p_values}
    return [min(1.0, max(step for q, step in steps.items() if q <= p)) for p in p_values]


def judge_counts(methods: Mapping[str, Pairs], *, margin: float = 0.1, level: float = 0.05) -> dict[str, Judgement]:
    """Judge methods by the errors of their students alone: the intervals hold for other seeds on these test items.

    Args:
        margin: equivalence margin in percentage points of the test items, in (0, 100].
    """
    require(0 < margin <= 100, "margin", margin, "above 0 and at most 100 percentage points of the test items")
    if not methods:
        return {}
    images = next(iter(methods.values())).images
    questions = {name: Question(Contrast(tuple(map(float, pairs.differences)))) for name, pairs in methods.items()}
    judgements = judge_all(questions, margin=margin / 100 * images, level=level)
    return {name: judgement._replace(pairs=methods[name]) for name, judgement in judgements.items()}


def _is_better_than_smoothing(question: Question) -> bool:
    return question.smoothed is not None and question.smoothed.mean < 0


def _find_levels(p_values: Sequence[float], level: float) -> list[float]:
    """Return the level of the Holm step that decides each p-value: its own step, or the last one performed."""
    not_rejected = [p for p, adjusted in zip(p_values, holm(p_values), strict=True) if adjusted >= level]
    return [level / _count_at_least(min(p, *not_rejected) if not_rejected else p, p_values) for p in p_values]


def _count_at_least(p: float, p_values: Sequence[float]) -> int:
    """Count the p-values of at least p: the divisor of the level at the Holm step of p, equal for ties."""
    return sum(q >= p for q in p_values)
