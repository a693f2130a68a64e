"""The map of a sweep: every text readable, both points marked, one column for the control, and what the files hold."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from kd.commands.sweep.files import student_rows, sweep_files
from kd.commands.sweep.plots import LINES, sweep_map
from kd.commands.sweep.points import Point, Score, Tried, grid, point, with_controls
from kd.commands.sweep.results import Final, Images, Sweep, roles
from kd.commands.sweep.settings import SweepSettings
from kd.commands.sweep.text import lines, print_sweep
from kd.report.style import png
from tests.report.test_plots import clashes, outside, texts

pytestmark = pytest.mark.pictures

DEFAULT = SweepSettings()


def errors(at: Point, seed: int, control: int | None = None) -> int:
    """A valley at T = 10, alpha = 0.25, with some luck; the control's may be given."""
    if at.is_control and control is not None:
        return control + seed % 2
    distance = abs(np.log2((at.temperature or 40) / 10)) * 6 + abs(at.alpha - 0.25) * 30
    return round(85 + distance + 3 * (seed % 2) + sum(value for _, value in at.others) % 7)


def found(
    points: Sequence[Point],
    *,
    seeds: int = 2,
    pairs: int = 3,
    documented: Point | None = None,
    failed: Sequence[Point] = (),
    control: int | None = None,
    searched: bool = False,
) -> Sweep:
    """A finished sweep over these points, with made-up students."""

    def score(at: Point, seed: int) -> Score | None:
        return None if at in failed else Score(errors(at, seed, control), errors(at, seed, control) / 1000)

    documented = documented or point(5, 0.5, dict(points[0].others))
    tried = [Tried(each, tuple(score(each, s) for s in range(seeds))) for each in with_controls([documented, *points])]
    final_seeds = list(range(seeds, seeds + pairs))
    finals = {
        at: [
            Final(Score(errors(at, s, control) + 4, 0.1), Score(2 * errors(at, s, control) - s % 3, 0.1))
            for s in final_seeds
        ]
        for at in roles(tried, documented).values()
    }
    return Sweep(tried, documented, list(range(seeds)), Images(6000, 10_000), final_seeds, finals, 0.1, searched)


def searched_points() -> list[Point]:
    rng = np.random.default_rng(0)
    return [point(float(t), float(a)) for t, a in zip(20 ** rng.random(30), rng.random(30), strict=True)]


VARIED = SweepSettings(vary=("student_width=64,256", "learning_rate=0.001,0.004"))
USUAL = point(5, 0.5, {"student_width": 256, "learning_rate": 0.004})
MANY = SweepSettings(
    temperatures=(1, 1.5, 2, 2.5, 3, 4, 8, 20, 40), alphas=(0, 0.1, 0.2, 0.25, 0.333, 0.5, 0.7, 0.75, 0.9, 0.975, 1)
)
OFF = SweepSettings(temperatures=(2, 10), alphas=(0, 0.25, 1))
CONTROLS = SweepSettings(temperatures=(2,), alphas=(1,))
DISTILLED = [at for at in grid(DEFAULT) if not at.is_control]

SWEEPS: dict[str, Callable[[], Sweep]] = {
    "default": lambda: found(grid(DEFAULT)),
    "one seed": lambda: found(grid(DEFAULT), seeds=1),
    "thousands of errors": lambda: scaled(found(grid(DEFAULT)), 40),
    "two settings more": lambda: found(grid(VARIED), documented=USUAL),
    "documented off the grid": lambda: found(grid(OFF)),
    "controls alone": lambda: found(grid(CONTROLS), documented=point(5, 1)),
    "the control is best": lambda: found(grid(DEFAULT), control=60),
    "documented is best": lambda: found(grid(DEFAULT), documented=point(10, 0.25)),
    "some not finite": lambda: found(grid(DEFAULT), failed=DISTILLED[:5]),
    "many values": lambda: found(grid(MANY)),
    "search": lambda: found(searched_points(), searched=True),
    "search, nothing finite": lambda: found(
        searched_points(), searched=True, documented=point(5, 1), failed=searched_points()
    ),
    "search, control best": lambda: found(searched_points(), searched=True, control=60),
}


def scaled(sweep: Sweep, by: int) -> Sweep:
    tried = [
        Tried(each.point, tuple(s and Score(s.errors * by, s.cross_entropy) for s in each.scores))
        for each in sweep.tried
    ]
    return replace(sweep, tried=tried)


@cache
def drawn(name: str, toy: str | None = None) -> tuple[Figure, bytes]:
    figure = sweep_map(SWEEPS[name]())
    content = png(figure, toy=toy)
    figure.set_dpi(Image.open(io.BytesIO(content)).size[0] / figure.get_figwidth())
    FigureCanvasAgg(figure)
    return figure, content


@pytest.mark.parametrize(("name", "toy"), [*((name, None) for name in SWEEPS), ("default", "LIMIT=2000")])
def test_no_text_leaves_the_picture_or_covers_another(name: str, toy: str | None) -> None:
    figure, _ = drawn(name, toy)
    boxes = texts(figure)
    assert len(boxes) > 5
    assert outside(figure, boxes) == []
    assert clashes(boxes) == []


def cells(name: str) -> dict[tuple[int, int], list[str]]:
    """(column, row) → what is written in the cell."""
    written: dict[tuple[int, int], list[str]] = {}
    for text in drawn(name)[0].axes[0].texts:
        x, y = text.get_position()
        written.setdefault((round(x), round(y)), []).append(text.get_text())
    return written


def frames(name: str) -> dict[str, Rectangle]:
    patches = drawn(name)[0].axes[0].patches
    return {
        str(patch.get_gid()): patch for patch in patches if isinstance(patch, Rectangle) and patch.get_gid() in LINES
    }


def test_every_cell_tells_mean_and_deviation_and_the_controls_column_is_one_value() -> None:
    written = cells("default")
    assert set(written) == {(column, row) for column in range(5) for row in range(5)}
    assert written[1, 3] == ["86.5", "± 2.1"]  # T = 10, alpha = 0.25: 85 and 88
    control = SWEEPS["default"]().found(Point(None, 1.0))
    assert {tuple(written[4, row]) for row in range(5)} == {(f"{control.mean:.1f}", f"± {control.sd:.1f}")}


def test_temperature_grows_upwards_and_alpha_to_the_right_and_its_ends_are_explained() -> None:
    axes = drawn("default")[0].axes[0]
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
    (legend,) = drawn("default")[0].legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["chosen: T = 10, alpha = 0.25", "documented: T = 5, alpha = 0.5"]


def test_frames_on_one_cell_are_both_to_be_seen() -> None:
    outer, inner = (frames("documented is best")[role].get_bbox() for role in ("chosen", "documented"))
    assert outer.x0 < inner.x0 < inner.x1 < outer.x1


def test_a_chosen_control_is_framed_over_its_whole_column() -> None:
    box = frames("the control is best")["chosen"].get_bbox()
    assert round(box.height) == 5
    assert round((box.x0 + box.x1) / 2) == 4


def test_what_was_not_tried_is_blank_and_what_was_not_finite_says_so() -> None:
    off = cells("documented off the grid")  # T = 2, 5, 10; alpha = 0, 0.25, 0.5, 1
    assert set(off) == {(0, 0), (1, 0), (3, 0), (2, 1), (3, 1), (0, 2), (1, 2), (3, 2)}
    assert [text for own in cells("some not finite").values() for text in own].count("not\nfinite") == 5


def test_where_other_settings_are_better_there_is_a_map_for_them_and_one_for_the_documented_point() -> None:
    sweep, figure = SWEEPS["two settings more"](), drawn("two settings more")[0]
    assert sweep.roles["chosen"].others != sweep.roles["documented"].others
    for axes, role in zip(figure.axes, ("chosen", "documented"), strict=True):
        for name, value in sweep.roles[role].others:
            assert f"{name.replace('_', ' ')} {value:g}" in axes.get_title(loc="left")
        assert {str(patch.get_gid()) for patch in axes.patches} & set(LINES) == {role}
        assert len(axes.texts) == 2 * 25
    assert len(drawn("default")[0].axes) == 1


def test_one_seed_has_no_deviation() -> None:
    assert all(len(own) == 1 for own in cells("one seed").values())
    assert "± sd" not in drawn("one seed")[0].axes[0].get_title(loc="left")


def luminance(colour: Any) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("name", ["default", "thousands of errors", "many values"])
def test_numbers_can_be_read_on_every_ground(name: str) -> None:
    """Contrast of at least 4.5, as the web's guidelines ask for text."""
    axes = drawn(name)[0].axes[0]
    ground = {}
    for patch in axes.patches:
        if isinstance(patch, Rectangle) and patch.get_gid() is None:
            box = patch.get_bbox()
            ground[round((box.x0 + box.x1) / 2), round((box.y0 + box.y1) / 2)] = luminance(patch.get_facecolor())
    for text in axes.texts:
        x, y = text.get_position()
        light, dark = sorted((luminance(text.get_color()), ground[round(x), round(y)]), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, text.get_text()


def test_the_same_sweep_gives_the_same_bytes_and_another_one_others() -> None:
    assert png(sweep_map(SWEEPS["default"]())) == drawn("default")[1]
    assert drawn("default")[1] != drawn("documented is best")[1]


def test_a_search_is_drawn_where_its_points_are() -> None:
    sweep = SWEEPS["search"]()
    axes = drawn("search")[0].axes[0]
    (dots,) = axes.collections
    shown = {(round(x, 9), round(y, 9)) for x, y in np.asarray(dots.get_offsets())}
    expected = [at for at in (each.point for each in sweep.tried) if at.temperature is not None]
    assert shown == {(round(at.alpha, 9), round(at.temperature or 0, 9)) for at in expected}
    assert str(axes.lines[0].get_label()).startswith("chosen: ")
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize(("low", "high"), [(1, 20), (0.5, 300), (6, 9), (1, 4.9), (5, 5)])
def test_whatever_the_temperatures_are_some_are_written_at_the_axis(low: float, high: float) -> None:
    points = [point(low, 0.2), point(high, 0.8), point((low * high) ** 0.5, 0.5)]
    figure = sweep_map(found(points, documented=points[0], searched=True))
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    bottom, top = axes.get_ylim()
    shown = [text.get_text() for text in axes.get_yticklabels() if bottom <= text.get_position()[1] <= top]
    assert 1 <= len(shown) <= 10
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize(
    ("name", "marks"),
    [("search", ["chosen: T", "documented: T", "control: a"]), ("search, control best", ["chosen, control: a", "doc"])],
)
def test_a_search_marks_the_points_of_a_role_and_a_control_once(name: str, marks: list[str]) -> None:
    (legend,) = drawn(name)[0].legends
    told = [text.get_text() for text in legend.get_texts()]
    assert [text[: len(mark)] for text, mark in zip(told, marks, strict=True)] == marks
    at_the_edge = [line for line in drawn(name)[0].axes[0].lines if set(line.get_xdata()) == {1}]
    assert len(at_the_edge) == 1


# --- files and sentences


def files(sweep: Sweep) -> dict[str, bytes]:
    made = sweep_files(Path("r"), sweep, {"SEED": 0}, {"control-seed-0": 1.23456}, limit=None)
    return {path.as_posix(): content for path, content in made.items()}


def test_the_files_are_those_documented_and_hold_every_point_and_student() -> None:
    sweep = SWEEPS["some not finite"]()
    made = files(sweep)
    assert sorted(made) == [
        "r/metrics/sweep.csv",
        "r/metrics/sweep.json",
        "r/metrics/sweep_timings.json",
        "r/plots/sweep.png",
    ]
    summary = json.loads(made["r/metrics/sweep.json"])
    assert len(summary["points"]) == 21
    assert [each["mean"] for each in summary["points"]][-5:] == [None] * 5
    means = [each["mean"] for each in summary["points"][:-5]]
    assert means == sorted(means)
    chosen = summary["points"][0]
    assert summary["roles"]["chosen"] == {"temperature": chosen["temperature"], "alpha": chosen["alpha"]}
    assert summary["roles"]["control"] == {"temperature": None, "alpha": 1.0}
    assert summary["verdict"]["on"] == "chosen"
    table = list(csv.DictReader(io.StringIO(made["r/metrics/sweep.csv"].decode())))
    assert len(table) == 21 * 2 + 3 * 3
    assert {row["test_errors"] for row in table if row["part"] == "tried"} == {""}
    assert all(row["test_errors"] for row in table if row["part"] == "final")
    assert {row["seed"] for row in table if row["part"] == "tried"} == {"0", "1"}
    assert {row["seed"] for row in table if row["part"] == "final"} == {"2", "3", "4"}


def test_every_row_of_the_table_has_the_same_columns_whatever_is_varied() -> None:
    rows = list(student_rows(SWEEPS["two settings more"]()))
    assert len({tuple(row) for row in rows}) == 1
    assert {"student_width", "learning_rate"} <= set(rows[0])


def test_the_rates_of_the_chosen_point_show_what_its_luck_was_worth() -> None:
    sweep = SWEEPS["default"]()
    tried, fresh, test = sweep.rates(sweep.roles["chosen"])
    assert tried == pytest.approx(86.5 / 6000)
    assert fresh == pytest.approx((85 + 88 + 85 + 3 * 4) / 3 / 6000)
    assert test == pytest.approx(((2 * 85 - 2) + (2 * 88 - 0) + (2 * 85 - 1)) / 3 / 10_000)
    (choice, *_) = lines(sweep)
    for rate in (tried, fresh, test):
        assert f"{100 * rate:.2f} %" in choice
    assert "partly luck" in choice


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "default",
            ["errors fewer than the documented one (T = 5, alpha = 0.5)", "Distillation at the chosen point (T = 10"],
        ),
        ("documented is best", ["No point did better than the documented one.", "Distillation at the chosen point"]),
        ("the control is best", ["No point did better than the labels alone.", "Distillation at the documented point"]),
        ("controls alone", ["No point did better", "nothing to judge: neither the chosen nor the documented point"]),
        ("two settings more", ["The control is the best of its kind on the same images: alpha = 1 (labels alone), "]),
    ],
)
def test_the_sentences_say_what_was_chosen_and_what_was_judged(name: str, parts: list[str]) -> None:
    told = lines(SWEEPS[name]())
    for part in parts:
        assert any(part in line for line in told), told


def test_a_documented_point_whose_loss_is_not_finite_is_an_error_that_names_it() -> None:
    with pytest.raises(
        FloatingPointError, match=r"documented point \(T = 5, alpha = 0\.5\) was not trained to its end"
    ):
        found(grid(DEFAULT), failed=[point(5, 0.5)])


def test_the_verdict_is_the_last_line_and_speaks_of_the_test_images() -> None:
    assert "3 paired seeds and 10,000 test images, given this teacher" in lines(SWEEPS["default"]())[-1]


def test_the_screen_shows_the_best_points_and_always_those_of_a_role(capsys: pytest.CaptureFixture[str]) -> None:
    print_sweep(SWEEPS["default"](), limit=2000)
    out = " ".join(capsys.readouterr().out.split())
    assert "TOY RUN on 2,000 training images" in out
    assert "21 points with 2 seeds each; the 10 best, and those of a role" in out
    assert "documented" in out
    assert "T = 1, alpha = 0.75" not in out
