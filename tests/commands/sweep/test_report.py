"""Report sections of a sweep: consistent with the files, for every outcome."""

from __future__ import annotations

import dataclasses
import re
from html import unescape

import pytest
import torch
from statsmodels.stats.multitest import multipletests

from kd.commands.sweep.files import student_rows
from kd.commands.sweep.points import Score, list_grid, make_point
from kd.commands.sweep.report import sweep_part
from kd.commands.sweep.results import Final, Sweep
from kd.commands.sweep.text import _describe_mean, final_rows, lines, point_rows
from kd.evaluation.verdict import Earlier
from kd.report.page import Part, page
from tests.commands.sweep.test_plots import DEFAULT, SWEEPS, make_sweep
from tests.report.test_page import parsed, sections

CONFIG = {"SEED": 0, "TEMPERATURE": 5.0, "DEVICE": "cpu", "MARGIN": 0.1, "SEEDS": 2}


def make_part(sweep: Sweep, limit: int | None = None) -> Part:
    return sweep_part(sweep, CONFIG, teacher=b"weights", test=[1, 2], command="kd sweep --seeds 2", limit=limit)


def section_texts(sweep: Sweep) -> dict[str, str]:
    """Return the visible text of each section."""
    html = sections(page([make_part(sweep)]))
    return {name: unescape(re.sub(r"<[^>]+>", " ", content)).replace("\u00a0", " ") for name, content in html.items()}


@pytest.mark.parametrize("name", SWEEPS)
def test_the_page_is_valid_and_reproducible_for_every_outcome(name: str) -> None:
    sweep = SWEEPS[name]()
    content = page([make_part(sweep)])
    assert content == page([make_part(SWEEPS[name]())])
    assert list(sections(content)) == ["verdict", "table", "comparison", "map", "provenance"]
    texts = section_texts(sweep)
    for line in lines(sweep):
        assert line in " ".join(texts.values())
    for row in (*point_rows(sweep), *final_rows(sweep)):
        assert row[0] in texts["map"] + texts["table"]


def test_the_report_part_has_verdict_tone_and_shared_settings() -> None:
    part = make_part(SWEEPS["default"](), limit=2000)
    assert part.verdict == lines(SWEEPS["default"]())[-1]
    assert part.tone == "partly"
    assert part.settings == {"SEED": "0", "TEMPERATURE": "5"}  # margins and numbers of seeds differ by command
    assert part.toy == "LIMIT=2000"
    assert make_part(SWEEPS["controls alone"]()).tone == "open"


def test_a_sweep_is_adjusted_for_earlier_questions_and_does_not_outrank_an_undecided_comparison() -> None:
    alone = SWEEPS["default"]()
    judged = alone.judgement()
    assert judged is not None
    assert (judged.verdict, judged.family) == ("better than the labels alone", 1)
    earlier = [Earlier(p, 1.0) for p in (0.9, 0.04, 0.5)]
    adjusted = dataclasses.replace(alone, earlier=earlier).judgement()
    assert adjusted is not None
    expected = multipletests([judged.p, *(entry.p for entry in earlier)], method="holm")[1][0]
    assert (adjusted.family, adjusted.p) == (4, pytest.approx(expected))
    assert "Holm-adjusted for 4 questions" in lines(dataclasses.replace(alone, earlier=earlier))[-1]
    withheld = dataclasses.replace(alone, withheld="In this folder, kd compare is undecided.")
    part = make_part(withheld)
    assert (part.tone, ": not decided;" in part.verdict) == ("open", True)
    assert withheld.withheld in part.verdict


def make_imbalanced(control: list[int], judged: list[int], *, lost: int = 0) -> Sweep:
    """Make a sweep on 1,000 items, 20 of them rare, whose students find this many of the rare ones."""
    sweep = SWEEPS["default"]()
    labels = (torch.arange(1_000) < 20).long()

    def final(found: int, lost: int) -> Final:
        """Make a student that finds so many rare items and calls so many common ones rare."""
        predicted = (torch.arange(1_000) < found).long()
        predicted[20 : 20 + lost] = 1
        matrix = torch.bincount(2 * labels + predicted, minlength=4).reshape(2, 2)
        wrong = 20 - found
        return Final(Score(90, 0.1, 45.0), Score(wrong, 0.1, 100 * wrong / 40), predicted != labels, matrix)

    def balance(score: Score | None) -> Score | None:
        return score and score._replace(balanced_error=0.3 * score.errors)

    finals = {
        point: [final(found, 0 if is_control or not lost else lost + index) for index, found in enumerate(group)]
        for point in sweep.finals
        for is_control in [point == sweep.roles["control"]]
        for group in [control if is_control else judged]
    }
    tried = [trial._replace(scores=tuple(map(balance, trial.scores))) for trial in sweep.tried]
    images = sweep.images._replace(test=1_000, noun="items")
    return dataclasses.replace(
        sweep, tried=tried, finals=finals, labels=labels, classes=("common", "rare"), images=images, margin=0.5
    )


def test_students_that_always_predict_the_majority_get_no_verdict() -> None:
    """Once "makes no difference larger than 5 errors", with nothing said first."""
    sweep = make_imbalanced([0] * 3, [0] * 3)
    judged = sweep.judgement()
    assert judged is not None
    assert judged.verdict == "not decided"
    assert lines(sweep)[-1].startswith(
        "No better than always predicting common, which makes 20 errors on 1,000 test items (balanced error 50.00 %): "
        "chosen (3 of 3), documented (3 of 3), control (3 of 3). Models that never predict rare: "
    )
    assert make_part(sweep).tone == "open"


def test_a_sweep_of_unequal_classes_is_decided_by_the_balanced_error() -> None:
    sweep = make_imbalanced([6, 8, 7], [15, 14, 16])
    judged = sweep.judgement()
    assert judged is not None
    assert judged.verdict == "better than the labels alone"
    assert judged.question.control.mean == pytest.approx(-100 * (8 / 20) / 2)
    assert judged.margin == 0.5
    assert "20.00 percentage points less balanced error than the control" in lines(sweep)[-1]
    assert "the same balanced error on average" in " ".join(lines(sweep))  # chosen and documented
    chosen = sweep.find_tried(sweep.roles["chosen"])
    assert f"with a balanced error of {chosen.mean:.2f} %. The best of many" in lines(sweep)[0]
    assert (
        "fresh seeds the balanced error is 45.00 % on the same items and 12.50 % on the 1,000 test" in lines(sweep)[0]
    )
    assert "with an error rate of" in lines(SWEEPS["default"]())[0]
    texts = section_texts(sweep)
    assert "Differences in balanced error, %" in texts["comparison"]
    assert "Balanced errors on the 6,000 validation items" in texts["table"]
    assert "role balanced error, % errors cross-entropy" in " ".join(texts["map"].split())
    assert all(f"{value:.2f}" in texts["map"] for value in (chosen.mean, chosen.cross_entropy))
    assert all(row["validation_balanced_error"] != "" for row in student_rows(sweep))
    assert "validation_balanced_error" not in next(student_rows(SWEEPS["default"]()))


def test_a_lower_balanced_error_of_a_sweep_does_not_hide_more_errors() -> None:
    sweep = make_imbalanced([6, 8, 7], [15, 14, 16], lost=60)
    judged = sweep.judgement()
    assert judged is not None
    assert judged.verdict == "better than the labels alone"
    assert re.search(r"In all, it makes 5\d\.\d more errors than the control \(95 % CI \+", lines(sweep)[-1])
    assert "In all" not in lines(make_imbalanced([6, 8, 7], [15, 14, 16]))[-1]


def test_a_collapsed_student_withholds_the_verdict_of_a_sweep() -> None:
    sweep = make_imbalanced([15, 0, 14], [15, 14, 16])
    judged = sweep.judgement()
    assert judged is not None
    assert judged.verdict == "not decided"
    assert "Students collapsed: 1 of 3 (control)." in lines(sweep)[-1]


def test_the_text_alternative_of_the_map_names_the_marked_points() -> None:
    html = sections(page([make_part(SWEEPS["default"]())]))["map"]
    (description,) = re.findall(r"<desc .*?>(.*?)</desc>", html)
    assert "chosen: T = 10, alpha = 0.25: 86.5 ± 2.1" in description
    assert "documented: T = 5, alpha = 0.5: " in description


@pytest.mark.pictures
def test_the_map_has_page_colours_outside_and_fixed_colours_inside_its_cells() -> None:
    html = sections(page([make_part(SWEEPS["default"]())]))["map"]
    assert not {"#000000", "#ffffff"} & set(re.findall(r"#[0-9a-f]{6}\b", html))
    assert {"#010101", "#fefefe"} <= set(re.findall(r"#[0-9a-f]{6}\b", html))


def test_many_points_are_folded_behind_a_table_of_the_best() -> None:
    few, many = (make_sweep(list_grid(DEFAULT)[:n]) for n in (4, 25))
    assert "<details>" not in sections(page([make_part(few)]))["map"]
    html = sections(page([make_part(many)]))["map"]
    assert "All 21 points" in html
    best, every = (len(re.findall("<tr>", table)) - 1 for table in html.split("<details>"))
    assert (best, every) == (11, 21)  # the ten best, and the control


def test_pairs_include_the_verdict_and_the_documented_point() -> None:
    def pairs(name: str) -> list[str]:
        html = sections(page([make_part(SWEEPS[name]())]))["comparison"]
        return list(dict.fromkeys(re.findall(r'<th scope="row">(.*?)</th>', html)))  # two tables

    assert pairs("default") == ["chosen minus control", "chosen minus documented"]
    assert pairs("documented is best") == ["chosen minus control"]
    assert pairs("the control is best") == ["documented minus control"]
    assert pairs("controls alone") == []
    assert "no pairs to judge" in section_texts(SWEEPS["controls alone"]())["comparison"]


def test_provenance_shows_command_and_seeds() -> None:
    texts = section_texts(make_sweep(list_grid(DEFAULT), documented=make_point(5, 0.5)))["provenance"]
    assert "kd sweep --seeds 2" in texts
    assert "Seeds of the selection: 0, 1; of the test: 2, 3, 4." in texts


def test_a_page_of_several_commands_labels_each_source() -> None:
    run = Part("run", "One pair.", None, make_part(SWEEPS["default"]()).sections[:1])
    content = parsed(page([make_part(SWEEPS["default"]()), run]))
    assert content.text.index("One pair.") < content.text.index("Distillation at the chosen point")
    assert {"the run", "kd sweep"} <= set(re.findall("the run|kd sweep", content.text))


def test_equal_points_make_as_many_errors() -> None:
    assert _describe_mean(0.0) == _describe_mean(-1e-15) == "as many errors"
    assert (_describe_mean(-1234.0), _describe_mean(0.1)) == ("1,234.0 fewer errors", "0.1 more errors")
