"""Table of paired differences with the intervals that decide, shared by ``kd compare`` and ``kd judge``."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from kd.console import print_table, say
from kd.evaluation.comparison import Comparison
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.contrast import Contrast
from kd.evaluation.quantities import Quantity
from kd.evaluation.verdict_text import describe_detectable, format_bounds, power_at
from kd.formatting import format_p, format_signed

CONTRASTS = ("distilled minus", "mean", "95 % CI, new {noun}", "95 % CI, these {noun}", "median", "p")


def contrast_header(noun: str) -> list[str]:
    """Return the header of the table of contrasts; ``noun`` is the plural word for the samples."""
    return [cell.format(noun=noun) for cell in CONTRASTS]


def contrast_cells(contrast: Contrast, quantity: Quantity) -> list[str]:
    """Return the cells of a row under ``contrast_header``, except the first cell."""
    return [
        format_signed(contrast.mean, quantity.spec),
        (format_bounds(contrast.interval(), quantity) if contrast.estimate else "") or "none",
        format_bounds(contrast.seeds_interval(), quantity) or "none",
        format_signed(median(contrast.differences), quantity.spec),
        format_p(contrast.p),
    ]


def differences_caption(comparison: Comparison) -> str:
    """Return the caption of the table of contrasts: the unit, and what decides."""
    if comparison.groups == 1:
        return f"Paired differences, {comparison.quantity.name}; the verdict uses the first kind of interval"
    return f"Paired differences, {comparison.quantity.name}; the verdict uses one mean per {comparison.block_noun}"


def print_differences(verdicts: Verdicts) -> None:
    """Print the table of contrasts and the power of the pairs."""
    comparison = verdicts.comparison
    rows = {row.title: contrast_cells(row.contrast, comparison.quantity) for row in comparison.contrasts}
    print_table(differences_caption(comparison), contrast_header(comparison.noun), rows)
    for line in power_sentences(verdicts):
        say(line)


def power_sentences(verdicts: Verdicts) -> Iterator[str]:
    """Yield, for each teacher, the power of its pairs, the pairs needed for the margin, and McNemar's tests."""
    comparison, judgements = verdicts.comparison, verdicts.by_teacher
    quantity = comparison.quantity
    for number, judgement in enumerate(judgements):
        prefix = f"Teacher {number}: at" if len(judgements) > 1 else "At"
        power, n = power_at(judgement), len(judgement.question.control.differences)
        is_said = judgement.verdict == "inconclusive" and len(judgements) == 1  # by the verdict itself
        if power.detectable is not None and not is_said:
            needed = f"{power.for_margin:,} pairs" if power.for_margin else f"more test {comparison.noun}"
            yield (
                f"{prefix} this spread, {describe_detectable(n, power.detectable, quantity)}; "
                f"to detect {quantity.describe_bound(judgement.margin)}, {needed} are needed."
            )
        significant = sum(test.p_value < 0.05 for test in comparison.mcnemars(number))
        yield (
            f"McNemar's exact test, which compares two networks rather than two methods, gives p < 0.05 for "
            f"{significant} of {n} pairs."
        )
