"""Figures for the report only, small enough for a phone; their text and colours follow the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from kd.arms import ARMS, CONTROL, DISTILLED, GREY, STUDENTS, arm_of
from kd.report.style import label_classes, mark_integers, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curve_panel(histories: Mapping[str, Mapping[str, Sequence[float]]], quantity: str, title: str) -> Figure:
    """Plot one quantity by epoch: validation solid with a marker per model, training dashed.

    Args:
        histories: training curves by model name; a model without the quantity is not drawn.
        quantity: name without ``train_`` or ``val_``; ``acc`` is shown in percent.
    """
    figure = new_figure(4.7, 3.7)
    from matplotlib.lines import Line2D

    axes, scale = figure.subplots(), 100 if quantity == "acc" else 1
    legend: list[Line2D] = []
    for name, history in histories.items():
        arm = arm_of(name)
        for split, style in (("train", "--"), ("val", "-")):
            values = [scale * value for value in history.get(f"{split}_{quantity}", ())]
            epochs = range(1, len(values) + 1)
            marker = arm.marker if split == "val" or len(values) == 1 else None
            axes.plot(epochs, values, style, color=arm.colour, marker=marker, ms=4.5, lw=1.5)
        if f"val_{quantity}" in history:
            legend.append(Line2D([], [], color=arm.colour, marker=arm.marker, ms=4.5, label=arm.short))
    legend.insert(1, Line2D([], [], color=GREY, label="validation"))  # a legend is filled column by column
    legend.insert(3, Line2D([], [], color=GREY, ls="--", label="training"))
    style_axes(axes, title)
    axes.set_xlabel("epoch")
    mark_integers(axes.xaxis, min_ticks=1)
    figure.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def paired_errors(both: int, only_control: int, only_distilled: int, *, noun: str = "images") -> Figure:
    """Plot bars of the test images that both students, or only one student, classify wrongly."""
    figure = new_figure(4.9, 2.1)
    axes = figure.subplots()
    counts = (both, only_control, only_distilled)
    axes.barh(range(3), counts, color=[GREY, *(ARMS[name].colour for name in STUDENTS)], height=0.6)
    for row, count in enumerate(counts):
        axes.annotate(f"{count:,}", (count, row), (4, 0), textcoords="offset points", va="center", weight="bold")
    axes.set_yticks(range(3), ["both students", "only the control", "only the distilled"])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    mark_integers(axes.xaxis, bins=6)
    style_axes(axes, f"Test {noun} misclassified by")
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return figure


def confusion_difference(difference: Tensor, names: Sequence[str] = ()) -> Figure:
    """Plot errors of the distilled student minus the control's per (true, predicted) class; the diagonal is empty.

    Signs repeat the colours: blue with a minus for fewer errors, orange with a plus for more.

    Args:
        difference: [K, K] integers.
        names: class names; empty if the classes are only numbered.
    """
    classes = len(difference)
    figure = new_figure(5.0, 4.6)
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    axes = figure.subplots()
    most = max(1, int(difference.abs().max()))
    size = min(9, 130 / classes)  # of a count, so that it fits its cell
    for true, predicted in difference.nonzero().tolist():
        if true != predicted:
            count = int(difference[true, predicted])
            colour = ARMS[CONTROL if count > 0 else DISTILLED].colour
            # Half transparent: the count stays readable on a white page and in dark mode.
            shade = (colour, 0.12 + 0.48 * abs(count) / most)
            axes.add_patch(Rectangle((predicted - 0.46, true - 0.46), 0.92, 0.92, color=shade, lw=0))
            axes.text(predicted, true, f"{count:+,d}".replace("-", "−"), ha="center", va="center", fontsize=size)
    diagonal = [[(label - 0.3, label + 0.3), (label + 0.3, label - 0.3)] for label in range(classes)]
    axes.add_collection(LineCollection(diagonal, colors="#b0b0b0", linewidths=0.8))
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), xlabel="predicted class", ylabel="true class")
    label_classes(axes, classes, names)
    axes.set_aspect("equal")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Errors, distilled minus control", weight="bold", loc="left")
    return figure
