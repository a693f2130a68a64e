"""Plots of a run's results. Each function returns a matplotlib figure and uses no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from kd.arms import GREY, Arm, arm_of
from kd.evaluation.calibration import ReliabilityCurve
from kd.evaluation.two_models import Accuracy
from kd.report.style import TICKS, label_classes, mark_integers, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MIN_JOINED = 10  # images; the line skips the points of bins with fewer


def training_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], panels: Mapping[str, str]) -> Figure:
    """Plot quantities over the epochs, one panel each: training dashed, validation solid, one colour per model.

    Args:
        histories: by model name.
        panels: quantity without its ``train_``/``val_`` prefix → title. Models without the quantity are skipped.
    """
    figure = new_figure(5.2 * len(panels), 4.4)
    for axes, (quantity, title) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for name, history in histories.items():
            for split, style in (("train", "--"), ("val", "-")):
                if f"{split}_{quantity}" in history:
                    _plot_curve(axes, history[f"{split}_{quantity}"], style, name, quantity == "acc")
        style_axes(axes, title)
        axes.set_xlabel("epoch")
        mark_integers(axes.xaxis, min_ticks=1)
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _plot_curve(axes: Axes, values: Sequence[float], style: str, name: str, percent: bool) -> None:
    arm = arm_of(name)
    label = f"{arm.label}, {'training' if style == '--' else 'validation'}"
    scale = 100 if percent else 1
    epochs = range(1, len(values) + 1)
    marker = "o" if len(values) == 1 else None  # a line through one epoch would be invisible
    axes.plot(epochs, [scale * v for v in values], style, color=arm.colour, label=label, marker=marker, lw=1.8)


def accuracy_comparison(accuracies: Mapping[str, Accuracy], *, noun: str = "images") -> Figure:
    """Plot each model's test accuracy with its 95 % interval, on an axis zoomed to the differences.

    Args:
        accuracies: by model name, on one test set.
    """
    figure = new_figure(8.4, 1.7 + 0.75 * len(accuracies))
    axes = figure.subplots()
    for row, (name, (share, low, high, errors, _)) in enumerate(accuracies.items()):
        margins = [[100 * (share - low)], [100 * (high - share)]]
        axes.errorbar(100 * share, row, xerr=margins, fmt="o", ms=8, capsize=5, lw=2, color=arm_of(name).colour)
        text = f"{share:.2%}   {errors:,} errors"
        axes.annotate(text, (100 * share, row), (0, 11), textcoords="offset points", ha="center", weight="bold")
    axes.set_yticks(range(len(accuracies)), [arm_of(name).label for name in accuracies])
    axes.set_ylim(len(accuracies) - 0.5, -0.75)
    axes.margins(x=0.2)
    images = next(iter(accuracies.values())).images
    axes.set_xlabel(f"accuracy on {images:,} test {noun}, %   (bar: 95 % interval for the sampling of test {noun})")
    style_axes(axes, "Test accuracy")
    return figure


def confusion_matrices(matrices: Mapping[str, Tensor], classes: Sequence[str] = ()) -> Figure:
    """Plot each model's errors per (true, predicted) class, on a shared colour scale; the diagonal is blank.

    Args:
        classes: class names; empty if classes are plain numbers.
    """
    figure = new_figure(5.4 * len(matrices), 5.3)
    mistakes = {name: matrix.numpy().copy() for name, matrix in matrices.items()}
    for matrix in mistakes.values():
        np.fill_diagonal(matrix, 0)
    ceiling = max(1, *(int(matrix.max()) for matrix in mistakes.values()))
    for axes, (name, matrix) in zip(np.atleast_1d(figure.subplots(1, len(matrices))), mistakes.items(), strict=True):
        _plot_heatmap(axes, matrix, ceiling)
        label_classes(axes, len(matrix), classes)
        arm = arm_of(name)
        axes.set_title(f"{arm.label}: {matrix.sum():,} errors", weight="bold", color=arm.colour)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
    return figure


def _plot_heatmap(axes: Axes, counts: Any, ceiling: int) -> None:
    """Plot counts [K, K] as shades up to ``ceiling``, with non-zero counts as text and a blank diagonal.

    Uses matplotlib only: seaborn's heatmap looks the same but takes a second and 190 MB to import.
    """
    blank = np.eye(len(counts), dtype=bool)
    axes.imshow(np.ma.masked_array(counts, blank), cmap="Blues", vmin=0, vmax=ceiling)
    legible = len(counts) <= TICKS
    for true, predicted in np.argwhere(~blank & (counts > 0) & legible):
        colour = "white" if counts[true, predicted] > 0.6 * ceiling else "black"
        axes.text(predicted, true, f"{counts[true, predicted]}", ha="center", va="center", color=colour)
    if legible:
        edges = np.arange(len(counts) + 1) - 0.5
        axes.hlines(edges, edges[0], edges[-1], "#EEEEEE", lw=0.5)
        axes.vlines(edges, edges[0], edges[-1], "#EEEEEE", lw=0.5)
    axes.set(xlim=(-0.5, len(counts) - 0.5), ylim=(len(counts) - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def reliability_diagram(curves: Mapping[str, ReliabilityCurve], *, noun: str = "images") -> Figure:
    """Plot each model's accuracy against confidence with 95 % intervals, above the number of images per bin.

    Args:
        curves: by model name, from ``kd.evaluation.calibration.reliability_curve`` with bins of equal width, the same
            number for each model.
    """
    bins = len(next(iter(curves.values())).bins)
    figure = new_figure(8.4, 6.6 + 0.28 * len(curves))
    axes, table = figure.subplots(2, 1, sharex=True, height_ratios=[6, 0.25 + 0.28 * len(curves)])
    axes.plot([0, 100], [0, 100], color=GREY, lw=1, ls=(0, (8, 4)), label="perfectly calibrated")
    for row, (name, curve) in enumerate(curves.items()):
        _plot_reliability(axes, curve, arm_of(name))
        for column, (images, _, _) in zip(range(bins), curve.bins, strict=True):
            text = f"{images:,}" if images < 1e5 else f"{images / 1000:,.0f}k"
            colour = "black" if images else GREY
            table.text(100 * (column + 0.5) / bins, row, text, ha="center", va="center", fontsize=8, color=colour)
    style_axes(axes, "Reliability: accuracy of predictions at each confidence")
    axes.set_ylabel("accuracy, %   (bar: 95 % interval)")
    axes.set_ylim(-4, 104)
    _style_count_table(table, list(curves), bins, noun)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _plot_reliability(axes: Axes, curve: ReliabilityCurve, arm: Arm) -> None:
    """Plot a point and its interval for each bin with images; a line joins bins with at least ``MIN_JOINED`` images."""
    bins = [
        (images, 100 * confidence, 100 * accuracy, interval)
        for (images, confidence, accuracy), interval in zip(curve.bins, curve.intervals, strict=True)
        if confidence is not None and accuracy is not None and interval is not None
    ]
    joined = [(confidence, accuracy) for images, confidence, accuracy, _ in bins if images >= MIN_JOINED]
    axes.plot([c for c, _ in joined], [a for _, a in joined], arm.line, color=arm.colour, lw=1.4)
    # At 0 % or 100 % accuracy the interval ends at the point; rounding could make the difference negative.
    below = [max(0.0, a - 100 * low) for _, _, a, (low, _) in bins]
    above = [max(0.0, 100 * high - a) for _, _, a, (_, high) in bins]
    axes.errorbar(
        [c for _, c, _, _ in bins],
        [a for _, _, a, _ in bins],
        yerr=[below, above],
        fmt=arm.marker,
        elinewidth=1,
        capsize=3,
        color=arm.colour,
        clip_on=False,  # so that a point at 100 % is not cut off
        label=f"{arm.label}: ECE {100 * curve.ece:.2f} %",
    )


def _style_count_table(axes: Axes, names: Sequence[str], bins: int, noun: str) -> None:
    """Style the table of counts: a row per model, a column per bin, the shared confidence axis below."""
    axes.set_yticks(range(len(names)), [arm_of(name).label for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.vlines(np.arange(bins + 1) * 100 / bins, -0.5, len(names) - 0.5, "#DDDDDD", lw=0.8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    title = (
        f"{noun.capitalize()} in each of the {bins} bins   (points of fewer than {MIN_JOINED} {noun} are not joined)"
    )
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("confidence: probability of the predicted class, %")
