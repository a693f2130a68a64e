"""No text of the figures in the report and of kd compare overlaps another or leaves the figure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kd.commands.compare.plots import figures
from kd.commands.run.report_plots import confusion_difference, curve_panel, paired_errors
from kd.report.style import DPI, png
from kd.report.svg import render_svg
from tests.commands.compare.test_results import make_comparison
from tests.overlaps import clashes, outside, texts
from tests.report.test_plots import FIGURES, NAMES, PANELS, histories

pytestmark = pytest.mark.pictures


def panel(quantity: str, epochs: int = 10) -> Figure:
    curves = histories(epochs)
    return curve_panel({"teacher": curves["control"], **curves}, quantity, PANELS[quantity])


def confusions(classes: int, names: tuple[str, ...] = ()) -> Figure:
    generator = torch.Generator().manual_seed(0)
    return confusion_difference(torch.randint(-30, 31, (classes, classes), generator=generator), names)


REPORT: dict[str, Callable[[], Figure]] = {
    **{f"curves, {quantity}": lambda quantity=quantity: panel(quantity) for quantity in PANELS},  # type: ignore[misc]
    "curves, one epoch": lambda: panel("ce", 1),
    "paired": lambda: paired_errors(120, 47, 23),
    "paired, many": lambda: paired_errors(1_200_000, 47_000, 0),
    "confusions": lambda: confusions(10),
    "confusions, named classes": lambda: confusions(10, NAMES),
    "confusions, 20 classes": lambda: confusions(20),
    "accuracy": FIGURES["accuracy"],
    "reliability": FIGURES["reliability"],
}
COMPARE = {
    f"{name}, {teachers} teachers": lambda name=name, teachers=teachers: figures(make_comparison(teachers))[name]
    for teachers in (1, 3)
    for name in figures(make_comparison())
}


@pytest.mark.parametrize("name", REPORT)
def test_no_text_in_the_report_is_clipped_or_overlaps_another(name: str) -> None:
    figure = REPORT[name]()
    render_svg(figure)
    check(figure)


@pytest.mark.parametrize("name", COMPARE)
def test_no_text_of_a_comparison_is_clipped_or_overlaps_another(name: str) -> None:
    figure = COMPARE[name]()
    png(figure)
    check(figure)


def check(figure: Figure) -> None:
    figure.set_dpi(DPI)
    FigureCanvasAgg(figure).draw()  # labels of axes move with each drawing
    boxes = texts(figure)
    assert len(boxes) > 3
    assert outside(figure, boxes) == []
    assert clashes(boxes) == []
