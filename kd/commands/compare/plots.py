"""Plots of ``kd compare``: test errors by arm, paired differences with intervals, reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from kd.arms import TEACHER, arm_of
from kd.commands.differences_report import differences_drawing, draw_dots
from kd.evaluation.comparison import Comparison
from kd.report.drawings import Drawing
from kd.report.plots import reliability_diagram
from kd.report.style import new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawings(comparison: Comparison) -> dict[str, Drawing]:
    """Return the drawings of all plots; the keys are file names without a suffix.

    Their arguments are the numbers that they show, not the predictions: only other numbers are drawn again.
    """
    images, noun = comparison.images, comparison.noun
    return {
        "comparison_errors": partial(errors_by_arm, count_errors(comparison), images=images, noun=noun),
        "comparison_differences": differences_drawing(comparison),
        "comparison_reliability": partial(reliability_diagram, comparison.reliabilities, noun=noun),
    }


def count_errors(comparison: Comparison) -> dict[str, list[int]]:
    """Return the test errors of each network, by arm; the teachers come first."""
    errors = {TEACHER: [teacher.errors for teacher in comparison.teachers]}
    for arm, groups in comparison.students.items():
        errors[arm] = [predictions.errors for group in groups for predictions in group]
    return errors


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
        draw_dots(axes, counts, row, arm_of(arm).colour)
    axes.set_yticks(range(len(errors)), [f"{arm_of(arm).label}\nn = {len(counts)}" for arm, counts in errors.items()])
    axes.set_ylim(len(errors) - 0.4, -0.6)
    axes.set_xlabel(f"errors on {images:,} test {noun}   (bar: mean)")
    style_axes(axes, "Test errors of every student")
    return figure
