"""What a gain costs: errors, balanced error, probabilities or calibration, and computation."""

from __future__ import annotations

import numpy as np

from kd.arms import CONTROL, DISTILLED, LONGER
from kd.evaluation.comparison import Comparison
from kd.evaluation.contrast import Contrast
from kd.evaluation.paired_seeds import t_interval
from kd.evaluation.quantities import BALANCED, ERRORS, NLL, Quantity, are_balanced
from kd.evaluation.sequential import anytime_interval
from kd.evaluation.verdict_text import format_bounds, format_interval
from kd.formatting import format_range, format_visible

IN_ALL = "In all, it makes"


def describe_losses(comparison: Comparison, teacher: int | None) -> list[str]:
    """Return a sentence on each other quantity that is significantly worse than the controls', at 95 % each.

    Args:
        teacher: number of the teacher; None for all.
    """
    sentences = [
        text
        for quantity, start in _list_others(comparison).items()
        for text in describe_rise(_contrast(comparison, teacher, quantity), quantity, start)
    ]
    return [*sentences, *(_describe_probabilities(comparison, teacher) if comparison.has_probabilities else ())]


def describe_rise(contrast: Contrast, quantity: Quantity, start: str = IN_ALL) -> list[str]:
    """Return a sentence with this start if a quantity is significantly worse than the control's, at 95 %."""
    interval = contrast.interval()
    if interval is None or interval.low <= 0:
        return []
    return [
        f"{start} {quantity.describe(contrast.mean)} than the control (95 % CI {format_bounds(interval, quantity)})."
    ]


def describe_computation(comparison: Comparison, teacher: int | None) -> list[str]:
    """Return a sentence if distilled students are not shown to be better than controls with as much computation.

    Args:
        teacher: number of the teacher; None for all.
    """
    if LONGER not in comparison.students:
        return []
    quantity = comparison.quantity
    contrast = _contrast(comparison, teacher, quantity, LONGER)
    interval = contrast.interval()
    if interval and interval.high < 0:
        return []
    difference = quantity.describe(contrast.mean) if quantity.shows(contrast.mean) else "no difference"
    budget = f" (the cost of {comparison.longer_of})" if comparison.longer_of else ""
    return [
        f"It is not shown to be better than the control trained for {comparison.longer_epochs} epochs{budget}, which "
        f"costs as much as a distilled student and its share of the teacher: {difference} "
        f"({format_interval(interval, 0.95, quantity)})."
    ]


def _list_others(comparison: Comparison) -> dict[Quantity, str]:
    """Return other kinds of errors with the start of a sentence: fewer misses of one class may cost the others."""
    others = {} if comparison.quantity == ERRORS else {ERRORS: IN_ALL}
    if comparison.quantity != BALANCED and not are_balanced(comparison.labels):
        others[BALANCED] = "With equal weight of all classes, it has"
    return others


def _contrast(comparison: Comparison, teacher: int | None, quantity: Quantity, against: str = CONTROL) -> Contrast:
    numbers = range(comparison.groups) if teacher is None else [teacher]
    by_teacher = [comparison.contributions(number, against, quantity) for number in numbers]
    rows = by_teacher[0] if len(numbers) == 1 else comparison.block_means(by_teacher)
    return comparison.contrast(rows, quantity)


def _describe_probabilities(comparison: Comparison, teacher: int | None) -> list[str]:
    """State a significantly higher cross-entropy or calibration error than the control's."""
    contrast = _contrast(comparison, teacher, NLL)
    interval = contrast.interval()
    if interval and interval.low > 0 and comparison.quantity != NLL:
        return [f"Its probabilities are worse: {NLL.describe(contrast.mean)} (95 % CI {format_bounds(interval, NLL)})."]
    numbers = range(comparison.groups) if teacher is None else [teacher]
    errors = comparison.calibration_errors
    by_teacher = [100 * (errors[DISTILLED][n] - errors[CONTROL][n])[:, None] for n in numbers]
    rises = by_teacher[0] if len(numbers) == 1 else comparison.block_means(by_teacher)
    risen = (anytime_interval if comparison.anytime else t_interval)(rises[:, 0].tolist())
    if risen and risen.low > 0:
        rise = format_visible(float(np.mean(rises)), ".2f")
        return [
            f"It is worse calibrated: its ECE is {rise} percentage points higher (95 % CI for these {comparison.noun} "
            f"{format_range(*risen, '.2f')})."
        ]
    return []
