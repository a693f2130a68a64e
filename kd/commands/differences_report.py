"""Report blocks on paired differences, shared by ``kd compare`` and ``kd judge``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kd.arms import ARMS, DISTILLED, GREY
from kd.commands.differences import contrast_cells, contrast_header, differences_caption, power_sentences
from kd.commands.paired_table import DIFFERENCES, difference_cells
from kd.evaluation.comparison import ArmContrast, Comparison
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.contrast import Contrast
from kd.evaluation.quantities import Quantity
from kd.evaluation.verdict_text import format_bounds
from kd.formatting import format_signed
from kd.report.blocks import Block, Fold, Paragraph, paragraphs, table
from kd.report.drawings import Drawing
from kd.report.style import new_figure, style_axes
from kd.report.svg import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show_differences(verdicts: Verdicts) -> tuple[Block, ...]:
    """Return figure and tables of the paired differences, their power and further tests."""
    comparison, rows = verdicts.comparison, verdicts.comparison.contrasts
    cells = [(row.title, *contrast_cells(row.contrast, comparison.quantity)) for row in rows]
    alt = "; ".join(f"distilled minus {row[0]}: {row[1]} ({row[2]})" for row in cells)
    drawing = figure(differences_drawing(comparison), alt=f"Paired differences. {alt}.")
    caption = f"{differences_caption(comparison)}. Values below zero favour the distilled students"
    looks = FIXED_NUMBER if comparison.anytime else ""
    further = [(row.title, *difference_cells(row.errors)) for row in rows]
    return (
        drawing,
        table(contrast_header(comparison.noun), cells, caption=caption),
        Paragraph(TWO_INTERVALS.format(noun=comparison.noun)),
        *paragraphs(power_sentences(verdicts)),
        Fold("Further tests on the numbers of errors", (table(DIFFERENCES, further, caption=looks),)),
    )


FIXED_NUMBER = (
    "These p-values and intervals do not account for the looks after each pair: they hold for a number of pairs that "
    "is fixed beforehand, and are too small here"
)
TWO_INTERVALS = (
    "The first interval holds for other seeds and other test {noun} of the same kind: it treats both as random "
    "samples. The verdict is based on it, adjusted if there are several questions. The second interval holds for other "
    "seeds on the same test {noun}, so it is too narrow for a claim about new ones."
)


def differences_drawing(comparison: Comparison) -> Drawing:
    """Return the drawing of ``paired_differences``."""
    return partial(
        paired_differences,
        comparison.contrasts,
        quantity=comparison.quantity,
        margin=comparison.unit_margin,
        noun=comparison.noun,
    )


def paired_differences(
    rows: Sequence[ArmContrast],
    *,
    quantity: Quantity,
    margin: float,
    noun: str,
    label: str = "distilled\nminus {}",
    levels: Sequence[float] | None = None,
) -> Figure:
    """Plot one row per control and teacher: the difference of each pair, and their mean with its 95 % interval.

    The shaded band is the equivalence margin. The coloured rows determine the verdict; with several teachers, their
    means by teacher or split do.

    Args:
        margin: equivalence margin in the unit of the quantity.
        noun: plural noun for the samples.
        label: label of a row, with {} for its title.
        levels: significance level of each row's interval, if it is adjusted; None: 0.05 for all.
    """
    plot = new_figure(8.4, 1.7 + 0.72 * len(rows))
    axes = plot.subplots()
    band = f"equivalence margin: ±{quantity.describe_bound(margin)}"
    axes.axvspan(-margin, margin, color=GREY, alpha=0.15, lw=0, label=band)
    axes.axvline(0, color=GREY, lw=1)
    for row, (_, decides, contrast, _) in enumerate(rows):
        colour, level = ARMS[DISTILLED].colour if decides else GREY, levels[row] if levels else 0.05
        draw_dots(axes, contrast.differences, row + 0.17, colour, mean=False)
        _draw_mean(axes, contrast, row - 0.17, colour, quantity, level)
    axes.set_yticks(range(len(rows)), [label.format(row.title) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel(f"distilled better  ←   difference in {quantity.name}   →  distilled worse")
    confidence = "adjusted" if levels else "95 %"
    style_axes(axes, f"Paired differences with {confidence} CI for new {noun}")
    plot.legend(loc="outside lower center", frameon=False)
    return plot


def draw_dots(axes: Axes, values: Sequence[float], row: float, colour: str, *, mean: bool = True) -> None:
    """Draw a dot for each value, with equal values stacked, and a bar at the mean."""
    counts: dict[float, int] = {}
    heights = []
    for value in values:
        heights.append(row - 0.07 * counts.get(value, 0))
        counts[value] = counts.get(value, 0) + 1
    axes.plot(values, heights, "o", ms=5.5, color=colour, alpha=0.65, mew=0)
    if mean:
        axes.plot([np.mean(values)] * 2, [row - 0.28, row + 0.28], color=colour, lw=2.2)


def _draw_mean(axes: Axes, contrast: Contrast, row: float, colour: str, quantity: Quantity, level: float) -> None:
    mean, interval = contrast.mean, contrast.interval(level)
    spread = [[mean - interval.low], [interval.high - mean]] if interval else None
    axes.errorbar(mean, row, xerr=spread, fmt="D", ms=6, capsize=5, lw=2, color=colour)
    bounds = format_bounds(interval, quantity)
    text = format_signed(mean, quantity.spec) + (f"  ({bounds})" if bounds else "")
    axes.annotate(text, (mean, row), (0, 7), textcoords="offset points", ha="center", fontsize=9, weight="bold")
