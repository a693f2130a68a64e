"""The figure of images on which models disagree: all panels on one sheet in inches, because axes are slow to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from kd.report.pictures import to_pixels
from kd.report.style import escape_label, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches.
WIDTH, HEAD, PITCH, NAMES = 13.5, 1.05, 1.82, 0.2  # of the sheet, its titles, a row; more for a row with class names
MARGIN, IMAGE = 0.12, 1.25  # left edge of captions and images; side of an image
LEFT, STEP, PANEL = 2.1, 2.9, 2.4  # of the first panel; from one panel to the next; width of a panel
FULL = 1.12  # height of a bar of 100 %
LETTER = 0.085  # mean width of a letter above a bar
NAMED = 12  # largest number of classes with a label below each bar
VISIBLE = 0.002  # smallest probability whose bar can be seen


def prediction_examples(
    images: Sequence[Tensor],
    labels: Sequence[int],
    captions: Sequence[str],
    probabilities: Mapping[str, Tensor],
    colours: Sequence[str],
    classes: Sequence[str] = (),
    *,
    ink: bool = True,
) -> Figure:
    """Plot one row per image: the image, then each model's class probabilities as bars.

    Args:
        images: [C, H, W] each, in [0, 1]; 3 or 4 channels are colours.
        labels: true class of each image.
        captions: caption of each row.
        probabilities: column title → [rows, K].
        colours: one per column.
        classes: class names; empty if classes are plain numbers.
        ink: draw images of one channel dark on light, like handwriting; otherwise as photographs.
    """
    pitch = PITCH + (NAMES if classes else 0)
    height = HEAD + pitch * len(images)
    figure = new_figure(WIDTH, height, layout="none")
    if not images:
        figure.suptitle("No model misclassifies any test image", weight="bold")
        return figure
    figure.suptitle("Where the models disagree: probability of each class (hatched: the true one)", weight="bold")
    sheet = figure.add_axes((0, 0, 1, 1))
    for row, (image, label, caption) in enumerate(zip(images, labels, captions, strict=True)):
        base = height - HEAD - pitch * row - 1.4  # of the bars
        _draw_image(sheet, image, base, ink=ink)
        class_name = escape_label(classes[label]) if classes else str(label)
        sheet.text(MARGIN, base + 1.45, f"label {class_name}: {caption}", fontsize=9.5)
        for column, (values, colour) in enumerate(zip(probabilities.values(), colours, strict=True)):
            _draw_panel(sheet, LEFT + STEP * column, base, values[row], label, colour, classes)
    for column, title in enumerate(probabilities):
        sheet.text(LEFT + STEP * column + PANEL / 2, height - 0.72, title, fontsize=11, weight="bold", ha="center")
    sheet.set(xlim=(0, WIDTH), ylim=(0, height), aspect="auto")
    sheet.set_axis_off()
    return figure


def _draw_image(sheet: Axes, image: Tensor, base: float, *, ink: bool) -> None:
    rows, columns = image.shape[-2:]
    scale = IMAGE / max(rows, columns)
    box = (MARGIN, MARGIN + scale * columns, base, base + scale * rows)
    pixels = to_pixels(image).permute(1, 2, 0).numpy()
    if ink and pixels.shape[2] == 1:
        sheet.imshow(pixels, cmap="gray_r", extent=box)
    else:
        sheet.imshow(pixels.clip(0, 1), cmap="gray", vmin=0, vmax=1, extent=box)


def _draw_panel(
    sheet: Axes, left: float, base: float, values: Tensor, label: int, colour: str, classes: Sequence[str]
) -> None:
    """Draw the bars of one model and one image, with axes, labels, and the likeliest class above its bar."""
    count, top = len(values), int(values.argmax())
    step = PANEL / (count + 1.6)
    centres = [left + step * (1.3 + number) for number in range(count)]
    heights = [FULL * value for value in values.tolist()]
    shown = [number for number in range(count) if values[number] >= VISIBLE or number == label]
    bars = sheet.bar([centres[n] for n in shown], [heights[n] for n in shown], 0.8 * step, bottom=base, color=colour)
    bars[shown.index(label)].set(hatch="///", edgecolor="white")
    sheet.hlines(base, left, left + PANEL, "black", lw=0.8)
    sheet.vlines(left, base, base + 1.25 * FULL, "black", lw=0.8)
    ticks = [base, base + FULL / 2, base + FULL]
    sheet.hlines(ticks, left - 0.05, left, "black", lw=0.8)
    for height, text in ((ticks[0], "0 %"), (ticks[2], "100 %")):
        sheet.text(left - 0.09, height, text, fontsize=8, ha="right", va="center")
    text = f"{escape_label(classes[top]) if classes else top}: {values[top]:.0%}"
    half = LETTER * len(text) / 2  # keeps the text inside the panel
    centre = min(max(centres[top], left + half), left + PANEL - half)
    sheet.text(centre, base + heights[top] + 0.03, text, fontsize=9, weight="bold", ha="center")
    if count <= NAMED:
        _label_bars(sheet, centres, base, classes)


def _label_bars(sheet: Axes, centres: Sequence[float], base: float, classes: Sequence[str]) -> None:
    for number, centre in enumerate(centres):
        if classes:
            name = escape_label(classes[number], 8)
            sheet.text(centre + 0.05, base - 0.03, name, fontsize=6, rotation=60, ha="right", va="top")
        else:
            sheet.text(centre, base - 0.05, str(number), fontsize=8, ha="center", va="top")
