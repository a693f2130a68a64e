"""Texts of a figure that overlap each other or leave the figure. Rotated texts are compared as rotated rectangles."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from unittest import mock

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from kd.report.style import png

# The four corners of a text in pixels, [4, 2].
Corners = NDArray[np.float64]


def place_texts(figure: Figure, *, toy: str | None = None) -> None:
    """Place all texts as in the figure's PNG file, without drawing its pixels, which takes longer."""
    with mock.patch.object(FigureCanvasAgg, "print_png"):
        png(figure, toy=toy)
    figure.draw_without_rendering()


def visible_ticks(axes: Axes, which: str = "xy") -> Iterator[Text]:
    """Yield the labels of ticks inside the axes; matplotlib also keeps ticks outside, without drawing them."""
    for axis in (getattr(axes, f"{letter}axis") for letter in which):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-6 * (high - low)
        yield from (t.label1 for t in axis.get_major_ticks() if low - slack <= t.get_loc() <= high + slack)


def texts(figure: Figure) -> list[tuple[str, Corners]]:
    """Return every visible text with its corners."""
    axes = [axes for axes in figure.axes if axes.axison]
    ticks = {
        label
        for axis in itertools.chain.from_iterable((a.xaxis, a.yaxis) for a in figure.axes)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
    }
    seen = [text for text in figure.findobj(Text) if isinstance(text, Text) and text not in ticks]
    seen += itertools.chain.from_iterable(map(visible_ticks, axes))
    return [(t.get_text(), find_corners(t)) for t in seen if t.get_visible() and t.get_text().strip()]


def find_corners(text: Text) -> Corners:
    """Return the corners of a text: of its rectangle before rotation, rotated around the centre."""
    box, rotation = text.get_window_extent(), text.get_rotation()
    if rotation % 90 == 0:
        return np.array([[box.x0, box.y0], [box.x1, box.y0], [box.x1, box.y1], [box.x0, box.y1]])
    text.set_rotation(0)
    width, height = text.get_window_extent().size
    text.set_rotation(rotation)
    centre = np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2
    sine, cosine = np.sin(np.deg2rad(rotation)), np.cos(np.deg2rad(rotation))
    halves = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    return np.asarray(centre + halves @ np.array([[cosine, sine], [-sine, cosine]]))


def clashes(boxes: list[tuple[str, Corners]]) -> list[tuple[str, str]]:
    """Return pairs of texts that overlap by more than a pixel in every direction."""
    low, high = (np.array([function(corners, axis=0) for _, corners in boxes]) for function in (np.min, np.max))
    shared = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
    rows, columns = np.triu((shared > 1).all(axis=2), k=1).nonzero()
    pairs = ((boxes[i], boxes[j]) for i, j in zip(rows, columns, strict=True))
    return [(first, second) for (first, a), (second, b) in pairs if not (is_apart(a, b) or is_apart(b, a))]


def is_apart(first: Corners, second: Corners) -> bool:
    """Return whether a line along a side of the first rectangle separates the two, but for a pixel."""
    for side in np.diff(first[:3], axis=0):
        normal = np.array([-side[1], side[0]]) / max(float(np.hypot(*side)), 1e-9)
        a, b = first @ normal, second @ normal
        if min(a.max(), b.max()) - max(a.min(), b.min()) <= 1:
            return True
    return False


def outside(figure: Figure, boxes: list[tuple[str, Corners]]) -> list[str]:
    """Return the texts that leave the figure."""
    return [text for text, corners in boxes if corners.min() < 0 or (corners.max(axis=0) > figure.bbox.size).any()]
