"""Verdicts on whether distillation helps: one of four, from paired seeds and a rule fixed in advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from kd.checks import require
from kd.evaluation.paired_seeds import Interval, Pairs, t_interval
from kd.evaluation.power import detectable, seeds_needed

Verdict = Literal["helps", "hurts", "no difference larger than d", "inconclusive"]


class Judgement(NamedTuple):
    """A verdict and the statistics that determine it.

    Attributes:
        margin: equivalence margin d in errors.
        interval: confidence interval at 1 − ``level``; it alone determines "helps" and "hurts".
        level: significance level of ``interval``; equal to ``inner_level`` for a single method, else see ``judge_all``.
        inner: confidence interval at 1 − 2 · ``inner_level``; it alone determines "no difference larger than d".
        inner_level: significance level of each of the two one-sided tests.
        p: p-value of the paired t test, Holm-adjusted for the number of methods.
        methods: number of methods judged together.
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
    """Judge one method.

    Args:
        margin: equivalence margin in percentage points of the test images, in (0, 100].
        level: significance level in (0, 0.5).
    """
    return judge_all({"method": pairs}, margin=margin, level=level)["method"]


class Across(NamedTuple):
    """A verdict across several teachers and its statistics; means, margin and intervals are in errors.

    Attributes:
        means: mean difference under each teacher.
        interval: confidence interval at 1 − ``level``.
        inner: confidence interval at 1 − 2 · ``level``.
    """

    verdict: Verdict
    means: tuple[float, ...]
    mean: float
    margin: float
    interval: Interval | None
    inner: Interval | None
    level: float


def judge_across(teachers: Sequence[Pairs], *, margin: float = 0.1, level: float = 0.05) -> Across:
    """Judge a method under several teachers. Each teacher counts once, with the mean difference of its pairs.

    Pairs of one teacher are not independent, so more pairs per teacher do not generalise to other teachers. The sample
    size is the number of teachers, so the t interval of M teachers has M − 1 degrees of freedom.

    Args:
        teachers: pairs under each teacher, at least two, all with the same number of test images.
    """
    require(len(teachers) >= 2, "teachers", len(teachers), "at least 2", "one teacher does not generalise to others")
    _require_valid_rule(margin, level)
    means = tuple(pairs.mean for pairs in teachers)
    errors = margin / 100 * teachers[0].images
    interval, inner = t_interval(means, level), t_interval(means, 2 * level)
    return Across(decide(interval, inner, errors), means, fmean(means), errors, interval, inner, level)


def judge_all(methods: Mapping[str, Pairs], *, margin: float = 0.1, level: float = 0.05) -> dict[str, Judgement]:
    """Judge several methods, for example with a shared control, with Holm's adjustment for their number M.

    The smallest p-value is compared with level / M, the next with level / (M − 1), and so on. The procedure stops
    at the first p-value that is not below its level: this one and all larger ones are not rejected. The interval of
    each method uses the level of the step that decided its p-value, so it excludes zero if and only if Holm's procedure
    rejects. The intervals have no joint coverage of all M differences. Equivalence is tested at level / M per method
    (Bonferroni). Hence the probability of any wrong "helps" or "hurts" is at most ``level``, and so is the
    probability of any wrong "no difference larger than d".

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure"; equivalence by two one-sided tests:
    Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power approach".
    """
    _require_valid_rule(margin, level)
    p_values = [pairs.t_p for pairs in methods.values()]
    adjusted, levels = holm(p_values), _find_levels(p_values, level)
    judgements = {}
    for (name, pairs), p, outer_level in zip(methods.items(), adjusted, levels, strict=True):
        interval = t_interval(pairs.differences, outer_level)
        inner = t_interval(pairs.differences, 2 * level / len(methods))
        errors = margin / 100 * pairs.images
        verdict = decide(interval, inner, errors)
        judgements[name] = Judgement(
            verdict, pairs, errors, interval, outer_level, inner, level / len(methods), p, methods=len(methods)
        )
    return judgements


def decide(interval: Interval | None, inner: Interval | None, margin: float) -> Verdict:
    """Apply the decision rule. A significant difference takes precedence over equivalence, however small it is."""
    if interval and interval.high < 0:
        return "helps"
    if interval and interval.low > 0:
        return "hurts"
    if inner and -margin < inner.low and inner.high < margin:
        return "no difference larger than d"
    return "inconclusive"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in input order: below a level if and only if Holm's procedure rejects at it."""
    steps = {p: p * _count_at_least(p, p_values) for p in p_values}
    return [min(1.0, max(step for q, step in steps.items() if q <= p)) for p in p_values]


def sentence(
    judgement: Judgement,
    *,
    method: str = "Distillation",
    given: str = "this teacher, split and test set",
    noun: str = "images",
) -> str:
    """Return a paragraph: the verdict, the difference with its interval, the sample size and the conditions.

    Args:
        method: name of the method.
        given: conditions shared by all pairs, beyond which the verdict does not generalise.
        noun: word for the test samples.
    """
    pairs = judgement.pairs
    seeds = f"{len(pairs.differences)} paired {_pluralise(len(pairs.differences), 'seed')}"
    sentences = [
        f"{_write_headline(judgement, method)} {_describe_difference(judgement)}",
        _write_remark(judgement),
        f"Based on {seeds} and {pairs.images:,} test {noun}, given {given}.",
    ]
    return " ".join(filter(None, sentences))


def sentence_across(across: Across) -> str:
    """Return a paragraph on a verdict across several teachers."""
    margin = f"{across.margin:,g} {_pluralise(across.margin, 'error')}"
    headline = {
        "helps": "Across teachers, distillation helps:",
        "hurts": "Across teachers, distillation hurts:",
        "no difference larger than d": f"Across teachers, distillation makes no difference larger than {margin}:",
        "inconclusive": "Across teachers: inconclusive;",
    }[across.verdict]
    means = ", ".join(f"{mean:+,.1f}" for mean in across.means)
    interval = _format_interval(across.interval, 1 - across.level)
    return (
        f"{headline} {across.mean:+,.1f} errors relative to the control on average ({interval}). "
        f"Based on {len(across.means)} teachers with equal weight ({means}), given this test set."
    )


def _require_valid_rule(margin: float, level: float) -> None:
    require(0 < margin <= 100, "margin", margin, "above 0 and at most 100 percentage points of the test images")
    require(0 < level < 0.5, "level", level, "above 0 and below 0.5")


def _find_levels(p_values: Sequence[float], level: float) -> list[float]:
    """Return the level of the Holm step that decides each p-value: its own step, or the last one performed."""
    not_rejected = [p for p, adjusted in zip(p_values, holm(p_values), strict=True) if adjusted >= level]
    return [level / _count_at_least(min(p, *not_rejected) if not_rejected else p, p_values) for p in p_values]


def _count_at_least(p: float, p_values: Sequence[float]) -> int:
    """Count the p-values of at least p: the divisor of the level at the Holm step of p, equal for ties."""
    return sum(q >= p for q in p_values)


def _write_headline(judgement: Judgement, method: str) -> str:
    margin = f"{judgement.margin:,g} {_pluralise(judgement.margin, 'error')}"
    return {
        "helps": f"{method} helps:",
        "hurts": f"{method} hurts:",
        "no difference larger than d": f"{method} makes no difference larger than {margin}:",
        "inconclusive": f"{method}: inconclusive;",
    }[judgement.verdict]


def _describe_difference(judgement: Judgement) -> str:
    pairs = judgement.pairs
    if pairs.mean == 0:
        return f"the same number of errors as the control on average ({_list_intervals(judgement)})."
    more = "more" if pairs.mean > 0 else "fewer"
    share = f" ({100 * pairs.relative:+.1f} % relative)" if pairs.relative is not None else ""
    errors = f"{abs(pairs.mean):,.1f} {more} errors than the control on average ({_list_intervals(judgement)})"
    return f"{errors}; error rate {pairs.points:+.3g} percentage points{share}."


def _list_intervals(judgement: Judgement) -> str:
    texts = [_format_interval(judgement.interval, 1 - judgement.level)]
    if judgement.verdict == "no difference larger than d":
        texts.append(_format_interval(judgement.inner, 1 - 2 * judgement.inner_level))
    if judgement.methods > 1:
        texts.append(f"p = {judgement.p:.2g}, Holm-adjusted for {judgement.methods} methods")
    return "; ".join(texts)


def _format_interval(interval: Interval | None, confidence: float) -> str:
    bounds = f"{interval.low:+,.1f} to {interval.high:+,.1f}" if interval else "undefined"
    return f"{100 * confidence:.4g} % CI {bounds}"


def _write_remark(judgement: Judgement) -> str:
    """Return the power of an inconclusive comparison, a note on a significant but small difference, or ''."""
    interval, margin = judgement.interval, judgement.margin
    if judgement.verdict == "inconclusive":
        return _describe_power(judgement)
    small = interval and -margin < interval.low and interval.high < margin
    if judgement.verdict != "no difference larger than d" and small:
        return f"The difference is significant but within the equivalence margin of {margin:,g} errors."
    return ""


def _describe_power(judgement: Judgement) -> str:
    """Explain why the pairs are inconclusive, and how many would be needed."""
    n, sd, margin = len(judgement.pairs.differences), judgement.pairs.sd, judgement.margin
    if sd is None:
        return "The spread between seeds cannot be estimated from one pair."
    if sd == 0:
        return f"All {n} differences are equal, so their spread is unknown; more pairs are needed."
    smallest, needed = detectable(n, sd, level=judgement.level), seeds_needed(margin, sd, level=judgement.level)
    detected = f"At this spread, {n} pairs detect a true difference of {smallest:,.1f} errors with 80 % power"
    return f"{detected}; a difference of {margin:,g} takes {needed:,} pairs."


def _pluralise(count: float, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
