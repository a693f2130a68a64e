"""Figures from numbers. Each function returns a matplotlib figure; ``png`` turns it into bytes. No global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from kd.stats import proportion_interval

# Okabe and Ito's palette: told apart with every common colour blindness, and in grey by lightness.
COLOURS = {"teacher": "#000000", "regular": "#D55E00", "distilled": "#0072B2"}
LABELS = {"teacher": "teacher", "regular": "regular student (control)", "distilled": "distilled student"}
GREY = "#666666"


def png(figure: Figure, *, toy: str | None = None) -> bytes:
    """The figure as PNG bytes, stamped if it comes from a toy run."""
    if toy:
        title = "   ".join(filter(None, [figure.get_suptitle(), f"TOY RUN ({toy}): too small to conclude from"]))
        figure.suptitle(title, color="#CC0000", weight="bold")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)  # titles keep clear of the picture's edge
    buffer = io.BytesIO()
    # No creation date or software version in the file: the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


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
                    _curve(axes, history[f"{split}_{quantity}"], style, name, quantity == "acc")
        _tidy(axes, title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _curve(axes: Axes, values: Sequence[float], style: str, name: str, percent: bool) -> None:
    label = f"{LABELS.get(name, name)}, {'training' if style == '--' else 'validation'}"
    scale = 100 if percent else 1
    epochs = range(1, len(values) + 1)
    marker = "o" if len(values) == 1 else None  # a line through one epoch would be invisible
    axes.plot(epochs, [scale * v for v in values], style, color=COLOURS.get(name), label=label, marker=marker, lw=1.8)


def accuracy_comparison(errors: Mapping[str, int], images: int) -> Figure:
    """Test accuracy of each model as a dot with Wilson's 95 % interval, on an axis that shows the differences."""
    figure = Figure(figsize=(8.4, 1.7 + 0.75 * len(errors)), layout="constrained")
    axes = figure.subplots()
    for row, (name, count) in enumerate(errors.items()):
        share = 1 - count / images
        low, high = proportion_interval(images - count, images)
        spread = [[100 * (share - low)], [100 * (high - share)]]
        axes.errorbar(100 * share, row, xerr=spread, fmt="o", ms=8, capsize=5, lw=2, color=COLOURS.get(name))
        text = f"{share:.2%}   {count:,} errors"
        axes.annotate(text, (100 * share, row), (0, 11), textcoords="offset points", ha="center", weight="bold")
    axes.set_yticks(range(len(errors)), [LABELS.get(name, name) for name in errors])
    axes.set_ylim(len(errors) - 0.5, -0.75)
    axes.margins(x=0.2)
    axes.set_xlabel(f"accuracy on {images:,} test images, %   (bar: 95 % interval for the choice of test images)")
    _tidy(axes, "Test accuracy")
    return figure


def prediction_examples(
    images: Sequence[Tensor],
    labels: Sequence[int],
    captions: Sequence[str],
    probabilities: Mapping[str, Tensor],
    colours: Sequence[str],
) -> Figure:
    """One row per image: the image, then each model's probabilities over the classes as bars.

    Args:
        images: [C, H, W] each.
        labels, captions: the true class and what the row shows.
        probabilities: column title → [rows, K].
        colours: one per column.
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
        picture.set_title(f"label {label}: {caption}", fontsize=9.5, loc="left")
        picture.set_axis_off()
        for axes, (title, values), colour in zip(grid[row, 1:], probabilities.items(), colours, strict=True):
            _probability_bars(axes, values[row], label, colour)
            if row == 0:
                axes.set_title(title, fontsize=11, weight="bold", pad=16)
    figure.suptitle("Where the models disagree: probability of each class (hatched: the true one)", weight="bold")
    return figure


def _probability_bars(axes: Axes, values: Tensor, label: int, colour: str) -> None:
    bars = axes.bar(range(len(values)), (100 * values).tolist(), color=colour)
    bars[label].set(hatch="///", edgecolor="white")
    top = int(values.argmax())
    axes.annotate(
        f"{top}: {values[top]:.0%}",
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
    axes.set_xticks(range(len(values)) if len(values) <= 12 else [])
    axes.tick_params(axis="x", labelsize=8, length=0)
    axes.spines[["top", "right"]].set_visible(False)


def confusion_matrices(matrices: Mapping[str, Tensor]) -> Figure:
    """Errors per (true, predicted) class for each model, on one colour scale; the diagonal is left blank."""
    import seaborn  # here, because it takes a second to import and only this figure needs it

    figure = Figure(figsize=(5.4 * len(matrices), 5.3), layout="constrained")
    mistakes = {name: matrix.numpy().copy() for name, matrix in matrices.items()}
    for matrix in mistakes.values():
        np.fill_diagonal(matrix, 0)
    ceiling = max(1, *(int(matrix.max()) for matrix in mistakes.values()))
    for axes, (name, matrix) in zip(np.atleast_1d(figure.subplots(1, len(matrices))), mistakes.items(), strict=True):
        cells: Any = np.where(matrix > 0, matrix.astype(str), "")
        seaborn.heatmap(
            matrix,
            ax=axes,
            vmin=0,
            vmax=ceiling,
            cmap="Blues",
            cbar=False,
            square=True,
            mask=np.eye(len(matrix), dtype=bool),
            annot=cells,
            fmt="",
            linewidths=0.5,
            linecolor="#EEEEEE",
        )
        axes.set_title(f"{LABELS.get(name, name)}: {matrix.sum():,} errors", weight="bold", color=COLOURS.get(name))
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
    return figure


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(title, weight="bold", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
