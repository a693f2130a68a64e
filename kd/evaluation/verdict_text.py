"""A verdict as a paragraph: the finding, the differences with their intervals, the conditions."""

from __future__ import annotations

from collections.abc import Sequence

from kd.evaluation.contrast import Contrast
from kd.evaluation.paired_seeds import Interval
from kd.evaluation.power import Power, power_of
from kd.evaluation.quantities import ERRORS, Quantity
from kd.evaluation.verdict import Judgement, Verdict
from kd.formatting import equate_p, format_range, format_signed


def sentence(
    judgement: Judgement,
    *,
    basis: str,
    method: str = "Distillation",
    quantity: Quantity = ERRORS,
    relative_to: float | None = None,
    smoothing: str = "label smoothing",
    remarks: Sequence[str] = (),
    unit: str = "pair",
) -> str:
    """Return a paragraph on a verdict.

    Args:
        basis: last sentence: numbers of pairs and test items, and the conditions shared by all pairs.
        method: name of the method with its settings.
        quantity: what the differences measure.
        relative_to: mean of the quantity over the controls, to add the relative difference; None omits it.
        smoothing: name of the control with label smoothing.
        remarks: further sentences, such as a loss of calibration.
        unit: what each difference stands for: a pair, or a teacher or split of several.
    """
    sentences = [
        f"{_write_headline(judgement, method, quantity)} {_describe_differences(judgement, quantity, smoothing)}"
        f"{_describe_relative(judgement, relative_to)}.",
        describe_smoothing(judgement, quantity, smoothing),
        _write_remark(judgement, quantity, unit),
        _describe_margin(judgement, quantity, relative_to),
        *remarks,
        basis,
    ]
    return " ".join(filter(None, sentences))


def describe_basis(pairs: int, items: int, noun: str, given: str) -> str:
    """Return the last sentence of a paragraph on paired seeds; ``given`` names what all pairs share."""
    seeds = f"{pairs} paired {'seed' if pairs == 1 else 'seeds'}"
    return f"Based on {seeds} and {items:,} test {noun}, given {given}."


def describe_verdict(verdict: Verdict, margin: float, quantity: Quantity = ERRORS) -> str:
    """Return a verdict in words, with the equivalence margin in the unit of the quantity in place of d."""
    if verdict == "no difference larger than d":
        return f"no difference larger than {quantity.describe_bound(margin)}"
    return verdict


def power_at(judgement: Judgement) -> Power:
    """Return the power of the contrast with the control at the level of its interval."""
    return power_of(judgement.question.control, judgement.margin, level=judgement.level)


def describe_detectable(count: int, difference: float, quantity: Quantity, unit: str = "pair") -> str:
    """Return the smallest true difference that so many pairs, teachers or splits detect, as a clause."""
    return f"{count} {unit}s detect a true difference of {quantity.describe_bound(difference)} with 80 % power"


def format_interval(interval: Interval | None, confidence: float, quantity: Quantity = ERRORS) -> str:
    """Return an interval with its confidence, such as ``95 % CI -31.7 to -21.9``."""
    return f"{100 * confidence:.4g} % CI {format_bounds(interval, quantity) or 'undefined'}"


def format_bounds(interval: Interval | None, quantity: Quantity = ERRORS) -> str:
    """Return the bounds of an interval, such as ``-31.7 to -21.9``; "" if there is none."""
    return format_range(*interval, quantity.spec) if interval else ""


def describe_smoothing(judgement: Judgement, quantity: Quantity, smoothing: str) -> str:
    """State what label smoothing, which needs no teacher, achieves, if the verdict depends on it or it is better."""
    contrast, interval = judgement.question.smoothed, judgement.smoothed
    is_gain = judgement.verdict == "better than the labels alone"
    is_surpassed = judgement.verdict != "not decided" and interval is not None and interval.low > 0
    if not is_gain and not is_surpassed:
        return ""
    if contrast is None:
        return (
            "Whether this is due to the teacher or to softer targets is not known: there is no control with label "
            "smoothing."
        )
    name = f"{smoothing[:1].upper()}{smoothing[1:]}"
    confidence = 1 - judgement.smoothed_level
    bounds = format_interval(interval, confidence, quantity)
    if interval is None:
        return f"{name}, which needs no teacher, cannot be compared with it yet ({bounds})."
    if interval.low > 0:
        bounds = format_interval(Interval(-interval.high, -interval.low), confidence, quantity)
        still = " still" if is_gain else " than distillation"
        return f"{name}, which needs no teacher, is better{still}: {quantity.describe(-contrast.mean)} ({bounds})."
    if interval.high < 0:  # significant alone, but not after the adjustment for the questions asked
        return (
            f"That it is better than {smoothing}, which needs no teacher, is not shown: {bounds}, but "
            f"{equate_p(judgement.p_helps)} after the adjustment."
        )
    bound = max(abs(interval.low), abs(interval.high))
    return (
        f"{name}, which needs no teacher, does not differ from it by more than {quantity.describe_bound(bound)} "
        f"({bounds})."
    )


def _write_headline(judgement: Judgement, method: str, quantity: Quantity) -> str:
    return {
        "helps": f"{method} helps:",
        "better than the labels alone": f"{method} is better than the labels alone:",
        "hurts": f"{method} hurts:",
        "no difference larger than d": (
            f"{method} makes no difference larger than {quantity.describe_bound(judgement.margin)}:"
        ),
        "inconclusive": f"{method}: inconclusive;",
        "not decided": f"{method}: not decided;",
    }[judgement.verdict]


def _describe_differences(judgement: Judgement, quantity: Quantity, smoothing: str) -> str:
    control = _describe_difference(
        judgement.question.control, "the control", _list_intervals(judgement, quantity), quantity
    )
    smoothed = judgement.question.smoothed
    if judgement.verdict != "helps" or smoothed is None:
        return control
    interval = format_interval(judgement.smoothed, 1 - judgement.smoothed_level, quantity)
    if judgement.family > 1:
        interval += f"; {equate_p(judgement.p_helps)} for both together, Holm-adjusted"
    return f"{control}, and {_describe_difference(smoothed, smoothing, interval, quantity)}"


def _describe_difference(contrast: Contrast, against: str, interval: str, quantity: Quantity) -> str:
    if not quantity.shows(contrast.mean):
        return f"on average the same as {against} ({interval})"
    return f"{quantity.describe(contrast.mean)} than {against} on average ({interval})"


def _list_intervals(judgement: Judgement, quantity: Quantity) -> str:
    texts = [format_interval(judgement.interval, 1 - judgement.level, quantity)]
    if judgement.verdict == "no difference larger than d":
        texts.append(format_interval(judgement.inner, 1 - 2 * judgement.inner_level, quantity))
    if judgement.family > 1:
        texts.append(f"{equate_p(judgement.p)}, Holm-adjusted for {judgement.family} questions")
    return "; ".join(texts)


def _describe_relative(judgement: Judgement, relative_to: float | None) -> str:
    mean = judgement.question.control.mean
    if not relative_to or not mean:
        return ""
    return f"; {format_signed(100 * mean / relative_to)} % relative to the control"


def _write_remark(judgement: Judgement, quantity: Quantity, unit: str) -> str:
    """Return the power of an inconclusive comparison, a note on a significant but small difference, or ''."""
    interval, margin = judgement.interval, judgement.margin
    if judgement.verdict == "inconclusive":
        return _describe_power(judgement, quantity, unit)
    is_small = interval and -margin < interval.low and interval.high < margin
    if judgement.verdict in ("helps", "better than the labels alone", "hurts") and is_small:
        return (
            "The difference is significant but within the equivalence margin of "
            f"{quantity.describe_bound(judgement.margin)}."
        )
    return ""


def _describe_margin(judgement: Judgement, quantity: Quantity, control: float | None) -> str:
    """Return a warning if a student without any error would also make no difference larger than the margin."""
    if judgement.verdict != "no difference larger than d" or not control or judgement.margin < control:
        return ""
    return (
        f"The margin is not below the mean of the control, {quantity.describe_value(control)}, so that even a perfect "
        "student would make no larger difference; set a smaller margin."
    )


def _describe_power(judgement: Judgement, quantity: Quantity, unit: str) -> str:
    """Explain why the pairs, teachers or splits are inconclusive, and how many would be needed."""
    contrast = judgement.question.control
    n = len(contrast.differences)
    if contrast.sd is None:
        return "The spread between seeds cannot be estimated from one pair."
    if contrast.sd == 0 and (contrast.estimate is None or judgement.interval is None):
        if contrast.rare and not contrast.mean:  # the pairs share the items of the class
            return f"All {n} differences are 0; to show that they are small, more test items are needed."
        return f"All {n} differences are equal, so their spread is unknown; more {unit}s are needed."
    if contrast.anytime:
        return f"The evidence of {n} pairs is not enough; more pairs are another question."
    power, margin = power_at(judgement), quantity.describe_bound(judgement.margin)
    detected = f"Even the largest possible difference is not detected by {n} {unit}s with 80 % power"
    if power.detectable is not None:
        detected = describe_detectable(n, power.detectable, quantity, unit)
    if power.for_margin is None:
        return f"{detected}; to detect {margin}, no number of {unit}s is enough: more test items are needed."
    return f"{detected}; to detect {margin}, {power.for_margin:,} {unit}s are needed."
