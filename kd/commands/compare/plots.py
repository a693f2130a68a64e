"""Plots of ``kd compare``: test errors by arm, paired differences with intervals, reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kd.arms import ARMS, DISTILLED, GREY, TEACHER
from kd.commands.compare.results import ArmContrast, Comparison, contrasts
from kd.evaluation.quantities import Quantity
from kd.evaluation.verdict import Contrast
from kd.evaluation.verdict_text import format_bounds
from kd.formatting import format_signed
from kd.report.drawings import Drawing
from kd.report.plots import reliability_diagram
from kd.report.style import new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def drawings(comparison: Comparison) -> dict[str, Drawing]:
    """Return the drawings of all plots; the keys are file names without a suffix.

    Their arguments are the numbers that they show, not the predictions: only other numbers are drawn again.
    """
    images, noun = comparison.images, comparison.noun
    errors = {TEACHER: [teacher.errors for teacher in comparison.teachers]}
    for arm, groups in comparison.students.items():
        errors[arm] = [predictions.errors for group in groups for predictions in group]
    differences = partial(
        paired_differences,
        contrasts(comparison),
        quantity=comparison.quantity,
        margin=comparison.unit_margin,
        noun=noun,
    )
    return {
        "comparison_errors": partial(errors_by_arm, errors, images=images, noun=noun),
        "comparison_differences": differences,
        "comparison_reliability": partial(reliability_diagram, comparison.reliabilities, noun=noun),
    }


def errors_by_arm(errors: Mapping[str, Sequence[int]], *, images: int, noun: str) -> Figure:
    """Plot one row per arm: a dot per student, a bar at the mean; the top row shows the teachers.

    Args:
        errors: test errors of each network, by arm.
        images: number of test samples.
        noun: plural noun for the samples.
    """
    figure = new_figure(8.4, 1.5 + 0.62 * len(errors))
    axes = figure.subplots()
    for row, (arm, counts) in enumerate(errors.items()):
        _draw_dots(axes, counts, row, ARMS[arm].colour)
    axes.set_yticks(range(len(errors)), [f"{ARMS[arm].label}\nn = {len(counts)}" for arm, counts in errors.items()])
    axes.set_ylim(len(errors) - 0.4, -0.6)
    axes.set_xlabel(f"errors on {images:,} test {noun}   (bar: mean)")
    style_axes(axes, "Test errors of every student")
    return figure


def paired_differences(rows: Sequence[ArmContrast], *, quantity: Quantity, margin: float, noun: str) -> Figure:
    """Plot one row per control and teacher: the difference of each pair, and their mean with its 95 % interval.

    The shaded band is the equivalence margin. The coloured rows determine the verdict; with several teachers, their
    means by teacher or split do.

    Args:
        margin: equivalence margin in the unit of the quantity.
        noun: plural noun for the samples.
    """
    figure = new_figure(8.4, 1.7 + 0.72 * len(rows))
    axes = figure.subplots()
    label = f"equivalence margin: ±{quantity.describe_bound(margin)}"
    axes.axvspan(-margin, margin, color=GREY, alpha=0.15, lw=0, label=label)
    axes.axvline(0, color=GREY, lw=1)
    for row, (_, decides, contrast, _) in enumerate(rows):
        colour = ARMS[DISTILLED].colour if decides else GREY
        _draw_dots(axes, contrast.differences, row + 0.17, colour, mean=False)
        _draw_mean(axes, contrast, row - 0.17, colour, quantity)
    axes.set_yticks(range(len(rows)), [f"distilled\nminus {row.title}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel(f"distilled better  ←   difference in {quantity.name}   →  distilled worse")
    style_axes(axes, f"Paired differences with 95 % CI for new {noun}")
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def _draw_dots(axes: Axes, values: Sequence[float], row: float, colour: str, *, mean: bool = True) -> None:
    """Draw a dot for each value, with equal values stacked, and a bar at the mean."""
    counts: dict[float, int] = {}
    heights = []
    for value in values:
        heights.append(row - 0.07 * counts.get(value, 0))
        counts[value] = counts.get(value, 0) + 1
    axes.plot(values, heights, "o", ms=5.5, color=colour, alpha=0.65, mew=0)
    if mean:
        axes.plot([np.mean(values)] * 2, [row - 0.28, row + 0.28], color=colour, lw=2.2)


def _draw_mean(axes: Axes, contrast: Contrast, row: float, colour: str, quantity: Quantity) -> None:
    mean, interval = contrast.mean, contrast.interval()
    spread = [[mean - interval.low], [interval.high - mean]] if interval else None
    axes.errorbar(mean, row, xerr=spread, fmt="D", ms=6, capsize=5, lw=2, color=colour)
    bounds = format_bounds(interval, quantity)
    text = format_signed(mean, quantity.spec) + (f"  ({bounds})" if bounds else "")
    axes.annotate(text, (mean, row), (0, 7), textcoords="offset points", ha="center", fontsize=9, weight="bold")
