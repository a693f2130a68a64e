"""The sweep's part of the report: it says what the files say, in whatever way the sweep ended."""

from __future__ import annotations

import re
from html import unescape

import pytest

from kd.commands.sweep.points import grid, point
from kd.commands.sweep.report import sweep_part
from kd.commands.sweep.results import Sweep
from kd.commands.sweep.text import final_rows, lines, point_rows
from kd.report.page import Part, page
from tests.commands.sweep.test_plots import DEFAULT, SWEEPS, found
from tests.report.test_page import parsed, sections

CONFIG = {"SEED": 0, "TEMPERATURE": 5.0, "DEVICE": "cpu", "MARGIN": 0.1, "SEEDS": 2}


def part(of: Sweep, limit: int | None = None) -> Part:
    return sweep_part(of, CONFIG, teacher=b"weights", test=[1, 2], command="kd sweep --seeds 2", limit=limit)


def told(of: Sweep) -> dict[str, str]:
    """The text of each section, as a reader has it."""
    html = sections(page([part(of)]))
    return {name: unescape(re.sub(r"<[^>]+>", " ", own)).replace("\u00a0", " ") for name, own in html.items()}


@pytest.mark.parametrize("name", SWEEPS)
def test_however_a_sweep_ended_its_page_is_sound_and_always_the_same(name: str) -> None:
    sweep = SWEEPS[name]()
    content = page([part(sweep)])
    assert content == page([part(SWEEPS[name]())])
    assert list(sections(content)) == ["verdict", "table", "comparison", "map", "provenance"]
    shown = told(sweep)
    for line in lines(sweep):
        assert line in " ".join(shown.values())
    for row in (*point_rows(sweep), *final_rows(sweep)):
        assert row[0] in shown["map"] + shown["table"]


def test_the_part_has_the_verdict_its_tone_and_the_settings_that_other_parts_have_too() -> None:
    made = part(SWEEPS["default"](), limit=2000)
    assert made.verdict == lines(SWEEPS["default"]())[-1]
    assert made.tone == "better"
    assert made.settings == {"SEED": "0", "TEMPERATURE": "5"}  # each command has margins and seeds of its own
    assert made.toy == "LIMIT=2000"
    assert part(SWEEPS["controls alone"]()).tone == "open"


def test_the_map_tells_those_who_do_not_see_it_which_points_are_marked() -> None:
    html = sections(page([part(SWEEPS["default"]())]))["map"]
    (description,) = re.findall(r"<desc .*?>(.*?)</desc>", html)
    assert "chosen: T = 10, alpha = 0.25: 86.5 ± 2.1" in description
    assert "documented: T = 5, alpha = 0.5: " in description


@pytest.mark.pictures
def test_the_maps_ink_follows_the_page_and_that_of_its_cells_their_own_ground() -> None:
    html = sections(page([part(SWEEPS["default"]())]))["map"]
    assert not {"#000000", "#ffffff"} & set(re.findall(r"#[0-9a-f]{6}\b", html))
    assert {"#010101", "#fefefe"} <= set(re.findall(r"#[0-9a-f]{6}\b", html))


def test_few_points_are_one_table_and_many_are_the_best_and_all_behind_a_line() -> None:
    few, many = (found(grid(DEFAULT)[:n]) for n in (4, 25))
    assert "<details>" not in sections(page([part(few)]))["map"]
    html = sections(page([part(many)]))["map"]
    assert "All 21 points" in html
    best, every = (len(re.findall("<tr>", table)) - 1 for table in html.split("<details>"))
    assert (best, every) == (11, 21)  # the ten best, and the control


def test_pairs_are_those_of_the_verdict_and_of_the_documented_point() -> None:
    def pairs(name: str) -> list[str]:
        html = sections(page([part(SWEEPS[name]())]))["comparison"]
        return re.findall(r'<th scope="row">(.*?)</th>', html)

    assert pairs("default") == ["chosen minus control", "chosen minus documented"]
    assert pairs("documented is best") == ["chosen minus control"]
    assert pairs("the control is best") == ["documented minus control"]
    assert pairs("controls alone") == []
    assert "there are no pairs to judge" in told(SWEEPS["controls alone"]())["comparison"]


def test_it_says_what_it_takes_to_get_it_once_more() -> None:
    shown = told(found(grid(DEFAULT), documented=point(5, 0.5)))["provenance"]
    assert "kd sweep --seeds 2" in shown
    assert "Seeds that judged the points: 0, 1; fresh ones: 2, 3, 4." in shown


def test_a_page_of_all_three_commands_names_where_each_piece_comes_from() -> None:
    run = Part("run", "One pair.", None, part(SWEEPS["default"]()).sections[:1])
    found = parsed(page([part(SWEEPS["default"]()), run]))
    assert found.text.index("One pair.") < found.text.index("Distillation at the chosen point")
    assert {"the run", "kd sweep"} <= set(re.findall("the run|kd sweep", found.text))
