"""No text of the figures in the report and of kd compare overlaps another or leaves the figure; each is drawn once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kd.commands.compare.files import comparison_files
from kd.commands.compare.plots import drawings
from kd.commands.run.report_plots import confusion_difference, curve_panel, paired_errors
from kd.commands.sweep.files import sweep_files
from kd.evaluation.comparison_slices import measure_slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.report import style
from kd.report.style import DPI
from kd.report.svg import render_svg
from kd.storage.run_folder import open_run
from tests.commands.compare.test_results import SPENT, make_comparison, make_part
from tests.commands.sweep.test_plots import SWEEPS
from tests.commands.sweep.test_report import make_part as make_sweep_part
from tests.overlaps import clashes, outside, place_texts, texts
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
    f"{name}, {teachers} teachers": lambda name=name, teachers=teachers: drawings(make_comparison(teachers))[name]()
    for teachers in (1, 3)
    for name in drawings(make_comparison())
}


@pytest.mark.parametrize("name", REPORT)
def test_no_text_in_the_report_is_clipped_or_overlaps_another(name: str) -> None:
    figure = REPORT[name]()
    render_svg(figure)
    check(figure)


@pytest.mark.parametrize("name", COMPARE)
def test_no_text_of_a_comparison_is_clipped_or_overlaps_another(name: str) -> None:
    figure = COMPARE[name]()
    place_texts(figure)
    check(figure)


def check(figure: Figure) -> None:
    figure.set_dpi(DPI)
    FigureCanvasAgg(figure)  # measures the texts
    figure.draw_without_rendering()  # labels of axes move with each drawing
    boxes = texts(figure)
    assert len(boxes) > 3
    assert outside(figure, boxes) == []
    assert clashes(boxes) == []


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry per figure drawn so far."""
    figures: list[str] = []
    prepare = style._import_matplotlib

    def record() -> None:
        figures.append("figure")
        prepare()

    monkeypatch.setattr(style, "_import_matplotlib", record)
    return figures


@pytest.mark.slow
def test_an_unchanged_comparison_draws_nothing_and_another_margin_only_the_differences(
    tmp_path: Path, drawn: list[str]
) -> None:
    def save(margin: float) -> tuple[object, object]:
        comparison = dataclasses.replace(make_comparison(), margin=margin)
        with open_run(tmp_path):
            files = comparison_files(
                tmp_path, Verdicts(comparison), {}, SPENT, {}, slices=measure_slices(comparison), limit=None
            )
            return files, make_part(comparison)

    first = save(1.0)
    assert len(drawn) == 3 * 2  # as PNG and in the report
    assert save(1.0) == first
    assert len(drawn) == 3 * 2
    save(2.0)
    assert len(drawn) == 3 * 2 + 2


@pytest.mark.parametrize("name", ["default", pytest.param("search", marks=pytest.mark.slow)])
def test_an_unchanged_sweep_draws_nothing_and_neither_does_another_margin(
    tmp_path: Path, drawn: list[str], name: str
) -> None:
    def save(margin: float) -> tuple[object, object]:
        sweep = dataclasses.replace(SWEEPS[name](), margin=margin)
        with open_run(tmp_path):
            return sweep_files(tmp_path, sweep, {}, {}, limit=None), make_sweep_part(sweep)

    first = save(0.1)
    assert save(0.1) == first
    save(0.2)
    assert len(drawn) == 2
