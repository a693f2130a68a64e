"""A figure is drawn once per file, and MPLBACKEND does not matter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
from matplotlib.figure import Figure

from kd.report.style import lay_out, new_figure, png
from kd.report.svg import figure, render_svg

DRAW = """
import os, sys
from kd.report.style import new_figure, png
from kd.report.svg import figure
assert "matplotlib" not in sys.modules
def draw():
    drawn = new_figure(2, 2)
    drawn.subplots()
    return drawn
assert png(draw()) and figure(draw(), alt="a")
import matplotlib
print(os.environ.get("MPLBACKEND"), matplotlib.rcParams._get("backend"))
"""


def two_axes() -> Figure:
    drawn = new_figure(6, 2)
    drawn.subplots(1, 2)
    return drawn


@pytest.mark.pictures
@pytest.mark.parametrize("save", [png, partial(figure, alt="a")])
def test_a_figure_is_drawn_once(save: Callable[[Figure], object], monkeypatch: pytest.MonkeyPatch) -> None:
    draws, draw = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: [draws.append(self), draw(self, renderer)])
    save(two_axes())
    assert len(draws) == 1


def test_the_layout_does_not_depend_on_an_earlier_one() -> None:
    once, twice = two_axes(), two_axes()
    lay_out(once, pad=0.5)
    for pad in (0.1, 0.5):
        twice.set_layout_engine("constrained")
        lay_out(twice, pad=pad)
    assert [axes.get_position().bounds for axes in once.axes] == [axes.get_position().bounds for axes in twice.axes]


def test_a_figure_with_fixed_positions_keeps_them() -> None:
    drawn = new_figure(2, 2, layout="none")
    axes = drawn.add_axes((0.25, 0.5, 0.5, 0.25))
    png(drawn)
    render_svg(drawn)
    assert axes.get_position().bounds == (0.25, 0.5, 0.5, 0.25)


@pytest.mark.parametrize(
    ("backend", "kept"), [("missing", None), ("svg", "svg"), ("module://missing.backend", "module://missing.backend")]
)
@pytest.mark.slow
def test_figures_are_drawn_without_the_backend_that_the_environment_names(backend: str, kept: str | None) -> None:
    environment = {**os.environ, "MPLBACKEND": backend}
    process = subprocess.run([sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    variable, setting = process.stdout.split(maxsplit=1)
    assert variable == backend
    assert kept is None or setting.strip() == kept
