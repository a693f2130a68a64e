"""Did distillation help? One of four verdicts on paired seeds, by a rule stated before anyone looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from kd.checks import require
from kd.evaluation.paired_seeds import Interval, Pairs, t_interval
from kd.evaluation.power import detectable, seeds_needed

Verdict = Literal["helps", "hurts", "no difference larger than d", "inconclusive"]


class Judgement(NamedTuple):
    """A verdict and what it was read from.

    ``interval`` has confidence 1 − ``level`` and alone decides "helps" and "hurts". ``inner`` has confidence
    1 − 2 · ``inner_level``, and alone decides "no difference larger than d", where d is ``margin`` errors. For a single
    method both levels are the given one and ``p`` is the paired t test's; among several, see ``judge_all``.
    """

    verdict: Verdict
    pairs: Pairs
    margin: float
    interval: Interval | None
    level: float
    inner: Interval | None
    inner_level: float
    p: float
    methods: int


def judge(pairs: Pairs, *, margin: float = 0.1, level: float = 0.05) -> Judgement:
    """The verdict on one method. ``margin`` in percentage points of the test images, in (0, 100]; ``level`` below ½."""
    return judge_all({"method": pairs}, margin=margin, level=level)["method"]


class Across(NamedTuple):
    """A verdict over several teachers, and what it was read from; means and intervals in errors.

    Attributes:
        level: of the interval, whose confidence is 1 − level.
    """

    verdict: Verdict
    means: tuple[float, ...]
    mean: float
    margin: float
    interval: Interval | None
    inner: Interval | None
    level: float


def judge_across(teachers: Sequence[Pairs], *, margin: float = 0.1, level: float = 0.05) -> Across:
    """One verdict on a method under several teachers: each teacher counts once, by the mean difference of its pairs.

    Students of one teacher share its luck, so more of them make its mean surer and no other teacher's. What speaks for
    teachers in general is the number of teachers: the t interval has one degree of freedom less than there are.

    Args:
        teachers: the pairs of each, at least two, all on the same number of test images.
    """
    require(len(teachers) >= 2, "teachers", len(teachers), "at least 2", "one teacher says nothing of others")
    _require_rule(margin, level)
    means = tuple(pairs.mean for pairs in teachers)
    errors = margin / 100 * teachers[0].images
    interval, inner = t_interval(means, level), t_interval(means, 2 * level)
    return Across(decide(interval, inner, errors), means, fmean(means), errors, interval, inner, level)


def judge_all(methods: Mapping[str, Pairs], *, margin: float = 0.1, level: float = 0.05) -> dict[str, Judgement]:
    """The verdicts on several methods, such as share a control, with Holm's adjustment for their number.

    The smallest p-value is held against level / M, the next against level / (M − 1), and so on until one is not below
    its level; that one and all after it are not rejected. Each method's interval has the level at which its own case
    ended, so it excludes zero exactly where Holm rejects. These intervals decide; they do not jointly cover all M
    differences. The claims of no difference are tested at level / M each. So with a probability of at least
    1 − level no "helps" and no "hurts" is wrong, and with the same probability no "no difference larger than d".

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure"; equivalence by two one-sided tests:
    Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach".
    """
    _require_rule(margin, level)
    p_values = [pairs.t_p for pairs in methods.values()]
    adjusted, levels = holm(p_values), _levels(p_values, level)
    judged = {}
    for (name, pairs), p, own in zip(methods.items(), adjusted, levels, strict=True):
        interval = t_interval(pairs.differences, own)
        inner = t_interval(pairs.differences, 2 * level / len(methods))
        errors = margin / 100 * pairs.images
        verdict = decide(interval, inner, errors)
        judged[name] = Judgement(
            verdict, pairs, errors, interval, own, inner, level / len(methods), p, methods=len(methods)
        )
    return judged


def decide(interval: Interval | None, inner: Interval | None, margin: float) -> Verdict:
    """The rule. A difference that is shown is called one, however small; only then is it asked whether it is small."""
    if interval and interval.high < 0:
        return "helps"
    if interval and interval.low > 0:
        return "hurts"
    if inner and -margin < inner.low and inner.high < margin:
        return "no difference larger than d"
    return "inconclusive"


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order: below a level exactly where Holm's procedure rejects at it."""
    steps = {p: p * _at_least(p, p_values) for p in p_values}
    return [min(1.0, max(step for q, step in steps.items() if q <= p)) for p in p_values]


def sentence(
    judgement: Judgement,
    *,
    method: str = "Distillation",
    given: str = "this teacher, this split and this test set",
    noun: str = "images",
) -> str:
    """One paragraph for people: the verdict, the difference with its interval, what was measured, what it holds for.

    Args:
        given: what all pairs had in common, and the verdict therefore does not speak beyond.
        noun: what the items are called.
    """
    pairs = judgement.pairs
    seeds = f"{len(pairs.differences)} paired {_plural(len(pairs.differences), 'seed')}, {pairs.images:,} test {noun}"
    parts = [f"{_headline(judgement, method)} {_difference(judgement, noun)}", _remark(judgement)]
    return " ".join([*(part for part in parts if part), f"From {seeds}; given {given}."])


def sentence_across(across: Across) -> str:
    """One paragraph on a verdict over several teachers."""
    margin = f"{across.margin:,g} {_plural(across.margin, 'error')}"
    headline = {
        "helps": "Over teachers like these, distillation helps:",
        "hurts": "Over teachers like these, distillation hurts:",
        "no difference larger than d": f"Over teachers like these, no difference larger than {margin}:",
        "inconclusive": "Over teachers like these: inconclusive;",
    }[across.verdict]
    means = ", ".join(f"{mean:+,.1f}" for mean in across.means)
    interval = _interval(across.interval, 1 - across.level)
    return (
        f"{headline} on average {across.mean:+,.1f} errors against the control ({interval}), from {len(across.means)} "
        f"teachers that count once each: {means}; given this test set."
    )


def _require_rule(margin: float, level: float) -> None:
    require(0 < margin <= 100, "margin", margin, "above 0 and at most 100 percentage points of the test images")
    require(0 < level < 0.5, "level", level, "above 0 and below 0.5")


def _levels(p_values: Sequence[float], level: float) -> list[float]:
    """The level at which Holm's procedure decides on each: its own step's, or that of the step it stopped at."""
    kept = [p for p, adjusted in zip(p_values, holm(p_values), strict=True) if adjusted >= level]
    return [level / _at_least(min(p, *kept) if kept else p, p_values) for p in p_values]


def _at_least(p: float, p_values: Sequence[float]) -> int:
    """How many are not smaller: the divisor of the level at p's turn, the same for all that tie with it."""
    return sum(q >= p for q in p_values)


def _headline(judgement: Judgement, method: str) -> str:
    margin = f"{judgement.margin:,g} {_plural(judgement.margin, 'error')}"
    return {
        "helps": f"{method} helps:",
        "hurts": f"{method} hurts:",
        "no difference larger than d": f"{method} makes no difference larger than {margin}:",
        "inconclusive": f"{method}: inconclusive;",
    }[judgement.verdict]


def _difference(judgement: Judgement, noun: str) -> str:
    pairs = judgement.pairs
    if pairs.mean == 0:
        return f"as many errors as the control on average ({_intervals(judgement)})."
    more = "more" if pairs.mean > 0 else "fewer"
    share = f" and {abs(100 * pairs.relative):.1f} % of the control's" if pairs.relative is not None else ""
    errors = f"{abs(pairs.mean):,.1f} errors {more} than the control on average ({_intervals(judgement)})"
    return f"{errors}, which is {abs(pairs.points):.3g} percentage points of the {noun}{share}."


def _intervals(judgement: Judgement) -> str:
    shown = [_interval(judgement.interval, 1 - judgement.level)]
    if judgement.verdict == "no difference larger than d":
        shown.append(_interval(judgement.inner, 1 - 2 * judgement.inner_level))
    if judgement.methods > 1:
        shown.append(f"p = {judgement.p:.2g}; adjusted for {judgement.methods} methods by Holm's procedure")
    return "; ".join(shown)


def _interval(interval: Interval | None, confidence: float) -> str:
    shown = f"{interval.low:+,.1f} to {interval.high:+,.1f}" if interval else "none"
    return f"{100 * confidence:.4g} % interval {shown}"


def _remark(judgement: Judgement) -> str:
    """What a reader would otherwise read into the verdict, or miss in it."""
    interval, margin = judgement.interval, judgement.margin
    if judgement.verdict == "inconclusive":
        return _outlook(judgement)
    small = interval and -margin < interval.low and interval.high < margin
    if judgement.verdict != "no difference larger than d" and small:
        return f"The difference is shown, and it is small: less than the {margin:,g} errors stated as negligible."
    return ""


def _outlook(judgement: Judgement) -> str:
    """Why the pairs do not decide, and how many would."""
    n, sd, margin = len(judgement.pairs.differences), judgement.pairs.sd, judgement.margin
    if sd is None:
        return "One pair cannot tell: how much seeds differ is not seen in it."
    if sd == 0:
        return f"All {n} differences are equal, so their spread is unknown; that takes more pairs."
    visible, needed = detectable(n, sd, level=judgement.level), seeds_needed(margin, sd, level=judgement.level)
    shown = f"With this spread, {n} pairs show a true difference of {visible:,.1f} errors in 80 % of cases"
    return f"{shown}; for one of {margin:,g} errors it takes {needed:,}."


def _plural(count: float, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
