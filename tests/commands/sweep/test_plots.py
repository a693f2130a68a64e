"""The map of a sweep: legible texts, marked points, control column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kd.commands.sweep.plots import LINES, sweep_map
from kd.commands.sweep.points import (
    Point,
    Score,
    TriedPoint,
    add_controls,
    documented_point,
    format_point,
    list_grid,
    make_point,
)
from kd.commands.sweep.results import Final, Images, Sweep, assign_roles
from kd.commands.sweep.settings import SweepSettings
from kd.report.style import png
from tests.overlaps import clashes, outside, place_texts, texts

pytestmark = pytest.mark.pictures

DEFAULT = SweepSettings()
LABELS = torch.arange(10_000) % 10


def fake_errors(at: Point, seed: int, control: int | None = None) -> int:
    """Errors with a minimum at T = 10, alpha = 0.25, and noise by seed; ``control`` sets the errors of controls."""
    if at.is_control and control is not None:
        return control + seed % 2
    distance = abs(np.log2((at.temperature or 40) / 10)) * 6 + abs(at.alpha - 0.25) * 30
    numbers = [value for _, value in at.others + (at.method or ()) if isinstance(value, int | float)]
    return round(85 + distance + 3 * (seed % 2) + sum(numbers) % 7)


def make_final(validation: int, test: int) -> Final:
    wrong = torch.arange(10_000) < test
    matrix = torch.bincount(10 * LABELS + (LABELS + wrong) % 10, minlength=100).reshape(10, 10)
    return Final(Score(validation, 0.1), Score(test, 0.1), wrong, matrix)


def make_sweep(
    points: Sequence[Point],
    *,
    seeds: int = 2,
    pairs: int = 3,
    documented: Point | None = None,
    failed: Sequence[Point] = (),
    control: int | None = None,
    searched: bool = False,
) -> Sweep:
    """Make a finished sweep over these points with made-up scores."""

    def score(at: Point, seed: int) -> Score | None:
        return None if at in failed else Score(fake_errors(at, seed, control), fake_errors(at, seed, control) / 1000)

    documented = documented or make_point(5, 0.5, dict(points[0].others))
    tried = [
        TriedPoint(point, tuple(score(point, s) for s in range(seeds))) for point in add_controls([documented, *points])
    ]
    final_seeds = list(range(seeds, seeds + pairs))
    finals = {
        at: [make_final(fake_errors(at, s, control) + 4, 2 * fake_errors(at, s, control) - s % 3) for s in final_seeds]
        for at in assign_roles(tried, documented).values()
    }
    return Sweep(
        tried,
        documented,
        list(range(seeds)),
        Images(6000, 10_000),
        final_seeds,
        finals,
        0.1,
        LABELS,
        tuple("0123456789"),
        searched,
    )


def searched_points() -> list[Point]:
    rng = np.random.default_rng(0)
    return [make_point(float(t), float(a)) for t, a in zip(20 ** rng.random(30), rng.random(30), strict=True)]


VARIED = SweepSettings(vary=("student_width=64,256", "learning_rate=0.001,0.004"))
USUAL = make_point(5, 0.5, {"student_width": 256, "learning_rate": 0.004})
MANY = SweepSettings(
    temperatures=(1, 1.5, 2, 2.5, 3, 4, 8, 20, 40), alphas=(0, 0.1, 0.2, 0.25, 0.333, 0.5, 0.7, 0.75, 0.9, 0.975, 1)
)
OFF = SweepSettings(temperatures=(2, 10), alphas=(0, 0.25, 1))
CONTROLS = SweepSettings(temperatures=(2,), alphas=(1,))
DIVERGENCES = SweepSettings(temperatures=(2, 5), vary=("divergence=forward,js,reverse",))
FORWARD = documented_point(DIVERGENCES)
OTHER_METHOD = SweepSettings(method="dkd", vary=("beta=1,2,4,8", "temperature=2,4,8", "epochs=5,10"))
DISTILLED = [at for at in list_grid(DEFAULT) if not at.is_control]

SWEEPS: dict[str, Callable[[], Sweep]] = {
    "default": lambda: make_sweep(list_grid(DEFAULT)),
    "one seed": lambda: make_sweep(list_grid(DEFAULT), seeds=1),
    "thousands of errors": lambda: scale_errors(make_sweep(list_grid(DEFAULT)), 40),
    "two settings more": lambda: make_sweep(list_grid(VARIED), documented=USUAL),
    "documented off the grid": lambda: make_sweep(list_grid(OFF)),
    "controls alone": lambda: make_sweep(list_grid(CONTROLS), documented=make_point(5, 1)),
    "the control is best": lambda: make_sweep(list_grid(DEFAULT), control=60),
    "documented is best": lambda: make_sweep(list_grid(DEFAULT), documented=make_point(10, 0.25)),
    "another method": lambda: replace(
        make_sweep(list_grid(OTHER_METHOD), documented=documented_point(OTHER_METHOD)), method="dkd"
    ),
    "another method, the control is best": lambda: replace(
        make_sweep(list_grid(OTHER_METHOD), documented=documented_point(OTHER_METHOD), control=60), method="dkd"
    ),
    "another divergence": lambda: make_sweep(
        list_grid(DIVERGENCES), documented=FORWARD, failed=[at for at in list_grid(DIVERGENCES) if at.alpha == 0.25]
    ),
    "divergences, the control is best": lambda: make_sweep(list_grid(DIVERGENCES), documented=FORWARD, control=60),
    "some not finite": lambda: make_sweep(list_grid(DEFAULT), failed=DISTILLED[:5]),
    "many values": lambda: make_sweep(list_grid(MANY)),
    "search": lambda: make_sweep(searched_points(), searched=True),
    "search, nothing finite": lambda: make_sweep(
        searched_points(), searched=True, documented=make_point(5, 1), failed=searched_points()
    ),
    "search, control best": lambda: make_sweep(searched_points(), searched=True, control=60),
}


def scale_errors(sweep: Sweep, by: int) -> Sweep:
    tried = [
        TriedPoint(trial.point, tuple(s and Score(s.errors * by, s.cross_entropy) for s in trial.scores))
        for trial in sweep.tried
    ]
    return replace(sweep, tried=tried)


@cache
def draw(name: str, toy: str | None = None) -> Figure:
    """Return the figure with the layout of its file."""
    figure = sweep_map(SWEEPS[name]())
    place_texts(figure, toy=toy)
    return figure


@cache
def content(name: str, toy: str | None = None) -> bytes:
    """Return the content of the figure's file."""
    return png(sweep_map(SWEEPS[name]()), toy=toy)


@pytest.mark.parametrize(("name", "toy"), [*((name, None) for name in SWEEPS), ("default", "LIMIT=2000")])
def test_no_text_overlaps_another_or_leaves_the_figure(name: str, toy: str | None) -> None:
    figure = draw(name, toy)
    boxes = texts(figure)
    assert len(boxes) > 5
    assert outside(figure, boxes) == []
    assert clashes(boxes) == []


def cell_texts(name: str) -> dict[tuple[int, int], list[str]]:
    """Return (column, row) → texts in the cell."""
    written: dict[tuple[int, int], list[str]] = {}
    for text in draw(name).axes[0].texts:
        x, y = text.get_position()
        written.setdefault((round(x), round(y)), []).append(text.get_text())
    return written


def frames(name: str) -> dict[str, Rectangle]:
    patches = draw(name).axes[0].patches
    return {
        str(patch.get_gid()): patch for patch in patches if isinstance(patch, Rectangle) and patch.get_gid() in LINES
    }


def test_cells_show_mean_and_deviation_and_the_control_column_is_constant() -> None:
    texts_of = cell_texts("default")
    assert set(texts_of) == {(column, row) for column in range(5) for row in range(5)}
    assert texts_of[1, 3] == ["86.5", "± 2.1"]  # T = 10, alpha = 0.25: 85 and 88
    control = SWEEPS["default"]().find_tried(Point(None, 1.0))
    assert {tuple(texts_of[4, row]) for row in range(5)} == {(f"{control.mean:.1f}", f"± {control.sd:.1f}")}


def test_temperature_grows_upwards_and_the_ends_of_alpha_are_labelled() -> None:
    axes = draw("default").axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "2", "5", "10", "20"]
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "0\n(teacher alone)",
        "0.25",
        "0.5",
        "0.75",
        "1\n(control)",
    ]
    low, high = axes.get_ylim()
    assert low < high


def test_both_points_are_framed_and_named() -> None:
    marked = frames("default")
    assert set(marked) == {"chosen", "documented"}
    for role, (column, row) in {"chosen": (1, 3), "documented": (2, 2)}.items():
        box = marked[role].get_bbox()
        assert (round((box.x0 + box.x1) / 2), round((box.y0 + box.y1) / 2)) == (column, row)
    (legend,) = draw("default").legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["chosen: T = 10, alpha = 0.25", "documented: T = 5, alpha = 0.5"]


def test_both_frames_on_one_cell_are_visible() -> None:
    outer, inner = (frames("documented is best")[role].get_bbox() for role in ("chosen", "documented"))
    assert outer.x0 < inner.x0 < inner.x1 < outer.x1


def test_a_chosen_control_is_framed_over_its_whole_column() -> None:
    box = frames("the control is best")["chosen"].get_bbox()
    assert round(box.height) == 5
    assert round((box.x0 + box.x1) / 2) == 4


def test_untried_cells_are_blank_and_non_finite_cells_are_marked() -> None:
    off = cell_texts("documented off the grid")  # T = 2, 5, 10; alpha = 0, 0.25, 0.5, 1
    assert set(off) == {(0, 0), (1, 0), (3, 0), (2, 1), (3, 1), (0, 2), (1, 2), (3, 2)}
    assert [text for written in cell_texts("some not finite").values() for text in written].count("not\nfinite") == 5


def test_chosen_and_documented_point_get_separate_maps_if_other_settings_differ() -> None:
    sweep, figure = SWEEPS["two settings more"](), draw("two settings more")
    assert sweep.roles["chosen"].others != sweep.roles["documented"].others
    for axes, role in zip(figure.axes, ("chosen", "documented"), strict=True):
        for name, value in sweep.roles[role].others:
            assert f"{name.replace('_', ' ')} {value:g}" in axes.get_title(loc="left")
        assert {str(patch.get_gid()) for patch in axes.patches} & set(LINES) == {role}
        assert len(axes.texts) == 2 * 25
    assert len(draw("default").axes) == 1


def test_the_map_shows_one_divergence_at_a_time() -> None:
    sweep, figure = SWEEPS["another divergence"](), draw("another divergence")
    chosen = dict(sweep.roles["chosen"].method or ())["divergence"]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == len({"forward", chosen})
    assert any("at divergence forward; " in title for title in titles)
    assert all(len({text.get_position() for text in axes.texts}) >= 4 * 2 for axes in figure.axes)


def test_another_method_has_a_list_of_its_best_points_with_all_roles() -> None:
    for name in ("another method", "another method, the control is best"):
        sweep, axes = SWEEPS[name](), draw(name).axes[0]
        labels = [text.get_text() for text in axes.get_yticklabels()]
        assert len(labels) >= 20
        assert {role for role in sweep.roles if any(role in label for label in labels)} == set(sweep.roles)
        means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        shown = [trial.mean for rank, trial in enumerate(sweep.ordered) if rank < 20 or sweep.roles_of(trial.point)]
        assert means == shown
        assert labels[0].endswith(": " + format_point(sweep.ordered[0].point))
        assert "dkd on 6,000 validation images" in axes.get_title(loc="left")


def test_one_seed_has_no_deviation() -> None:
    assert all(len(written) == 1 for written in cell_texts("one seed").values())
    assert "± sd" not in draw("one seed").axes[0].get_title(loc="left")


def luminance(colour: Any) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("name", ["default", "thousands of errors", "many values"])
def test_numbers_are_legible_on_every_cell(name: str) -> None:
    """The contrast is at least 4.5, the minimum for text in the Web Content Accessibility Guidelines."""
    axes = draw(name).axes[0]
    ground = {}
    for patch in axes.patches:
        if isinstance(patch, Rectangle) and patch.get_gid() is None:
            box = patch.get_bbox()
            ground[round((box.x0 + box.x1) / 2), round((box.y0 + box.y1) / 2)] = luminance(patch.get_facecolor())
    for text in axes.texts:
        x, y = text.get_position()
        light, dark = sorted((luminance(text.get_color()), ground[round(x), round(y)]), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, text.get_text()


def test_equal_sweeps_give_equal_bytes_and_different_sweeps_differ() -> None:
    assert png(sweep_map(SWEEPS["default"]())) == content("default")
    assert content("default") != content("documented is best")


def test_a_search_map_shows_every_point_at_its_place() -> None:
    sweep = SWEEPS["search"]()
    axes = draw("search").axes[0]
    (dots,) = axes.collections
    plotted = {(round(x, 9), round(y, 9)) for x, y in np.asarray(dots.get_offsets())}
    expected = [at for at in (trial.point for trial in sweep.tried) if at.temperature is not None]
    assert plotted == {(round(at.alpha, 9), round(at.temperature or 0, 9)) for at in expected}
    assert str(axes.lines[0].get_label()).startswith("chosen: ")
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize(("low", "high"), [(1, 20), (0.5, 300), (6, 9), (1, 4.9), (5, 5)])
def test_the_temperature_axis_always_has_tick_labels(low: float, high: float) -> None:
    points = [make_point(low, 0.2), make_point(high, 0.8), make_point((low * high) ** 0.5, 0.5)]
    figure = sweep_map(make_sweep(points, documented=points[0], searched=True))
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    bottom, top = axes.get_ylim()
    labels = [text.get_text() for text in axes.get_yticklabels() if bottom <= text.get_position()[1] <= top]
    assert 1 <= len(labels) <= 10
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("name", "marks"),
    [("search", ["chosen: T", "documented: T", "control: a"]), ("search, control best", ["chosen, control: a", "doc"])],
)
def test_a_search_map_marks_each_role_and_a_control_once(name: str, marks: list[str]) -> None:
    (legend,) = draw(name).legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert [text[: len(mark)] for text, mark in zip(labels, marks, strict=True)] == marks
    at_the_edge = [line for line in draw(name).axes[0].lines if set(line.get_xdata()) == {1}]
    assert len(at_the_edge) == 1
