"""Figures of ``kd compare``: every student's errors, and every pair's difference beside the interval that decides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd.arms import ARMS, CONTROL, DISTILLED, GREY, TEACHER
from kd.commands.compare.results import Comparison, contrasts
from kd.evaluation.paired_seeds import Interval
from kd.report.plots import reliability_diagram
from kd.report.style import style_axes


def figures(comparison: Comparison) -> dict[str, Figure]:
    """All of them, by the names of their files."""
    return {
        "comparison_errors": errors_by_arm(comparison),
        "comparison_differences": paired_differences(comparison),
        "comparison_reliability": arms_reliability(comparison),
    }


def arms_reliability(comparison: Comparison) -> Figure:
    """Accuracy against confidence of every arm, all its students together."""
    return reliability_diagram(comparison.reliabilities, noun=comparison.noun)


def errors_by_arm(comparison: Comparison) -> Figure:
    """One row per arm: each student's test errors as a dot, their mean as a bar; the teachers' on top."""
    rows: dict[str, list[int]] = {TEACHER: [teacher.errors for teacher in comparison.teachers]}
    for arm, groups in comparison.students.items():
        rows[arm] = [predictions.errors for group in groups for predictions in group]
    figure = Figure(figsize=(8.4, 1.5 + 0.62 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for row, (arm, errors) in enumerate(rows.items()):
        _dots(axes, errors, row, ARMS[arm].colour)
    axes.set_yticks(range(len(rows)), [f"{ARMS[arm].label}\nn = {len(errors)}" for arm, errors in rows.items()])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"errors on {comparison.images:,} test {comparison.noun}   (bar: mean)")
    style_axes(axes, "Test errors of every student")
    return figure


def paired_differences(comparison: Comparison) -> Figure:
    """One row per control and teacher: each pair's difference, and the mean with its 95 % t interval.

    The band is what was stated as no difference. The row that decides, with one teacher, is the first; with several it
    is their means (``judge_across``), and the first row of each shows what they are made of.
    """
    rows = dict(contrasts(comparison))
    figure = Figure(figsize=(8.4, 1.7 + 0.72 * len(rows)), layout="constrained")
    axes = figure.subplots()
    margin = comparison.margin / 100 * comparison.images
    axes.axvspan(-margin, margin, color=GREY, alpha=0.15, lw=0, label=f"no difference: within ±{margin:,g} errors")
    axes.axvline(0, color=GREY, lw=1)
    for row, (title, pairs) in enumerate(rows.items()):
        decides = title.startswith(ARMS[CONTROL].label)
        colour = ARMS[DISTILLED].colour if decides else GREY
        _dots(axes, pairs.differences, row + 0.17, colour, mean=False)
        _mean_with_interval(axes, pairs.mean, pairs.interval, row - 0.17, colour)
    axes.set_yticks(range(len(rows)), [f"minus {title}" for title in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel("distilled student: fewer errors  ←   difference in test errors   →  more errors")
    style_axes(axes, "Paired differences, and the mean with its 95 % interval")
    figure.legend(loc="outside lower center", frameon=False)
    return figure


def _dots(axes: Axes, values: Sequence[int], row: float, colour: str, *, mean: bool = True) -> None:
    """A dot for each value, equal ones stacked, and a bar at their mean."""
    seen: dict[int, int] = {}
    heights = []
    for value in values:
        heights.append(row - 0.07 * seen.get(value, 0))
        seen[value] = seen.get(value, 0) + 1
    axes.plot(values, heights, "o", ms=5.5, color=colour, alpha=0.65, mew=0)
    if mean:
        axes.plot([np.mean(values)] * 2, [row - 0.28, row + 0.28], color=colour, lw=2.2)


def _mean_with_interval(axes: Axes, mean: float, interval: Interval | None, row: float, colour: str) -> None:
    spread = [[mean - interval.low], [interval.high - mean]] if interval else None
    axes.errorbar(mean, row, xerr=spread, fmt="D", ms=6, capsize=5, lw=2, color=colour)
    text = f"{mean:+,.1f}" + (f"  ({interval.low:+,.1f} to {interval.high:+,.1f})" if interval else "")
    axes.annotate(text, (mean, row), (0, 7), textcoords="offset points", ha="center", fontsize=9, weight="bold")
