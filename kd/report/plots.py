"""Figures from numbers. Each function returns a matplotlib figure. No global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from kd.arms import GREY, Arm, arm_of
from kd.evaluation.calibration import ReliabilityCurve
from kd.evaluation.two_models import Accuracy
from kd.report.style import TICKS, escape_label, label_classes, style_axes

MIN_JOINED = 10  # images that a bin must have for its point to be joined to others


def training_curves(histories: Mapping[str, Mapping[str, Sequence[float]]], panels: Mapping[str, str]) -> Figure:
    """One panel per quantity over the epochs: training dashed, validation solid, one colour per model.

    Args:
        histories: by model name.
        panels: quantity without its ``train_``/``val_`` prefix → title. A model that lacks it is not drawn there.
    """
    figure = Figure(figsize=(5.2 * len(panels), 4.4), layout="constrained")
    for axes, (quantity, title) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for name, history in histories.items():
            for split, style in (("train", "--"), ("val", "-")):
                if f"{split}_{quantity}" in history:
                    _plot_curve(axes, history[f"{split}_{quantity}"], style, name, quantity == "acc")
        style_axes(axes, title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
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
    """Test accuracy of each model as a dot with its 95 % interval, on an axis that shows the differences.

    Args:
        accuracies: by model name, on one test set.
    """
    figure = Figure(figsize=(8.4, 1.7 + 0.75 * len(accuracies)), layout="constrained")
    axes = figure.subplots()
    for row, (name, (share, low, high, errors, _)) in enumerate(accuracies.items()):
        spread = [[100 * (share - low)], [100 * (high - share)]]
        axes.errorbar(100 * share, row, xerr=spread, fmt="o", ms=8, capsize=5, lw=2, color=arm_of(name).colour)
        text = f"{share:.2%}   {errors:,} errors"
        axes.annotate(text, (100 * share, row), (0, 11), textcoords="offset points", ha="center", weight="bold")
    axes.set_yticks(range(len(accuracies)), [arm_of(name).label for name in accuracies])
    axes.set_ylim(len(accuracies) - 0.5, -0.75)
    axes.margins(x=0.2)
    images = next(iter(accuracies.values())).images
    axes.set_xlabel(f"accuracy on {images:,} test {noun}, %   (bar: 95 % interval for the choice of test {noun})")
    style_axes(axes, "Test accuracy")
    return figure


def prediction_examples(
    images: Sequence[Tensor],
    labels: Sequence[int],
    captions: Sequence[str],
    probabilities: Mapping[str, Tensor],
    colours: Sequence[str],
    classes: Sequence[str] = (),
) -> Figure:
    """One row per image: the image, then each model's probabilities over the classes as bars.

    Args:
        images: [C, H, W] each.
        labels, captions: the true class and what the row shows.
        probabilities: column title → [rows, K].
        colours: one per column.
        classes: their names, where they are more than numbers.
    """
    rows = len(images)
    figure = Figure(figsize=(13.5, 1.3 + 1.75 * rows), layout="constrained")
    if not rows:
        figure.suptitle("There is no test image on which a model errs", weight="bold")
        return figure
    grid = figure.subplots(rows, 1 + len(probabilities), squeeze=False, width_ratios=[1] + [1.7] * len(probabilities))
    for row, (image, label, caption) in enumerate(zip(images, labels, captions, strict=True)):
        picture = grid[row, 0]
        picture.imshow(image.mean(dim=0).numpy(), cmap="gray_r")
        named = escape_label(classes[label]) if classes else str(label)
        picture.set_title(f"label {named}: {caption}", fontsize=9.5, loc="left")
        picture.set_axis_off()
        for axes, (title, values), colour in zip(grid[row, 1:], probabilities.items(), colours, strict=True):
            _plot_probability_bars(axes, values[row], label, colour, classes)
            if row == 0:
                axes.set_title(title, fontsize=11, weight="bold", pad=16)
    figure.suptitle("Where the models disagree: probability of each class (hatched: the true one)", weight="bold")
    return figure


def _plot_probability_bars(axes: Axes, values: Tensor, label: int, colour: str, classes: Sequence[str]) -> None:
    bars = axes.bar(range(len(values)), (100 * values).tolist(), color=colour)
    bars[label].set(hatch="///", edgecolor="white")
    top = int(values.argmax())
    axes.annotate(
        f"{escape_label(classes[top]) if classes else top}: {values[top]:.0%}",
        (top, 100 * float(values[top])),
        (0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        weight="bold",
    )
    axes.set_ylim(0, 125)
    axes.set_xlim(-1.3, len(values) + 0.3)
    axes.set_yticks([0, 50, 100], ["0 %", "", "100 %"], fontsize=8)
    places = range(len(values)) if len(values) <= 12 else []
    if classes:
        axes.set_xticks(places, [escape_label(classes[place], 8) for place in places], rotation=60)
    else:
        axes.set_xticks(places)
    axes.tick_params(axis="x", labelsize=6 if classes else 8, length=0)
    axes.spines[["top", "right"]].set_visible(False)


def confusion_matrices(matrices: Mapping[str, Tensor], classes: Sequence[str] = ()) -> Figure:
    """Errors per (true, predicted) class for each model, on one colour scale; the diagonal is left blank.

    Args:
        classes: their names, where they are more than numbers.
    """
    figure = Figure(figsize=(5.4 * len(matrices), 5.3), layout="constrained")
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
    """Counts [K, K] as shades up to the ceiling, each with its number where it is not zero; the diagonal blank.

    In matplotlib alone: seaborn's heatmap looks the same, and costs a second and 190 MB to import.
    """
    blank = np.eye(len(counts), dtype=bool)
    axes.imshow(np.ma.masked_array(counts, blank), cmap="Blues", vmin=0, vmax=ceiling)
    legible = len(counts) <= TICKS
    for true, predicted in np.argwhere(~blank & (counts > 0) & legible):
        colour = "white" if counts[true, predicted] > 0.6 * ceiling else "black"
        axes.text(predicted, true, f"{counts[true, predicted]}", ha="center", va="center", color=colour)
    edges: Any = np.arange(len(counts) + 1) - 0.5 if legible else []
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="#EEEEEE", lw=0.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def reliability_diagram(curves: Mapping[str, ReliabilityCurve], *, noun: str = "images") -> Figure:
    """Accuracy against confidence for each model, with 95 % intervals, above the number of images in each bin.

    Args:
        curves: by model name, from ``kd.evaluation.calibration.reliability_curve`` with bins of equal width, as many
            for each.
    """
    bins = len(next(iter(curves.values())).bins)
    figure = Figure(figsize=(8.4, 6.6 + 0.28 * len(curves)), layout="constrained")
    axes, table = figure.subplots(2, 1, sharex=True, height_ratios=[6, 0.25 + 0.28 * len(curves)])
    axes.plot([0, 100], [0, 100], color=GREY, lw=1, ls=(0, (8, 4)), label="perfectly calibrated")
    for row, (name, curve) in enumerate(curves.items()):
        _plot_reliability(axes, curve, arm_of(name))
        for column, (images, _, _) in zip(range(bins), curve.bins, strict=True):
            text = f"{images:,}" if images < 1e5 else f"{images / 1000:,.0f}k"
            colour = "black" if images else GREY
            table.text(100 * (column + 0.5) / bins, row, text, ha="center", va="center", fontsize=8, color=colour)
    style_axes(axes, "Reliability: how often a model is right when it is this sure")
    axes.set_ylabel("accuracy, %   (bar: 95 % interval)")
    axes.set_ylim(-4, 104)
    _style_count_table(table, list(curves), bins, noun)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _plot_reliability(axes: Axes, curve: ReliabilityCurve, arm: Arm) -> None:
    """A point with its interval for each bin that has images; a line joins those that chance does not throw about."""
    full = [
        (images, 100 * confidence, 100 * accuracy, interval)
        for (images, confidence, accuracy), interval in zip(curve.bins, curve.intervals, strict=True)
        if confidence is not None and accuracy is not None and interval is not None
    ]
    joined = [(confidence, accuracy) for images, confidence, accuracy, _ in full if images >= MIN_JOINED]
    axes.plot([c for c, _ in joined], [a for _, a in joined], arm.line, color=arm.colour, lw=1.4)
    # Where none or all are right an interval ends at its point, but for rounding.
    below = [max(0.0, a - 100 * low) for _, _, a, (low, _) in full]
    above = [max(0.0, 100 * high - a) for _, _, a, (_, high) in full]
    axes.errorbar(
        [c for _, c, _, _ in full],
        [a for _, _, a, _ in full],
        yerr=[below, above],
        fmt=arm.marker,
        elinewidth=1,
        capsize=3,
        color=arm.colour,
        clip_on=False,  # a point at 100 % is drawn whole
        label=f"{arm.label}: ECE {100 * curve.ece:.2f} %",
    )


def _style_count_table(axes: Axes, names: Sequence[str], bins: int, noun: str) -> None:
    """The frame around the counts: a row per model, a column per bin, the shared axis of confidence below."""
    axes.set_yticks(range(len(names)), [arm_of(name).label for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xticks(np.arange(bins + 1) * 100 / bins, minor=True)
    axes.grid(which="minor", axis="x", color="#DDDDDD", lw=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    title = (
        f"{noun.capitalize()} in each of the {bins} bins   (points of fewer than {MIN_JOINED} {noun} are not joined)"
    )
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("confidence: probability of the predicted class, %")
