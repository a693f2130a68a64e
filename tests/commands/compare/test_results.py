"""Statistics of ``kd compare`` on made-up logits, checked against plain counts and for invariances."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from kd.commands.compare.files import comparison_files
from kd.commands.compare.plots import drawings
from kd.commands.compare.report import _show_calibration, compare_part
from kd.commands.compare.text import print_comparison
from kd.commands.judgement_json import describe_judgement
from kd.evaluation.comparison import Comparison, ModelPredictions
from kd.evaluation.comparison_rows import student_rows, summaries
from kd.evaluation.comparison_slices import Slices, measure_slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.contrast import Contrast
from kd.evaluation.cost import Cost, Footprint, Saved, TrainingCost
from kd.evaluation.latency import Latency
from kd.evaluation.paired_seeds import spread
from kd.evaluation.power import power_of
from kd.evaluation.verdict import Earlier
from kd.evaluation.verdict_text import format_interval
from kd.models.inference import Predictions
from kd.report.html import render
from kd.report.page import Part, page
from kd.report.style import png
from kd.training.history import History
from kd.training.students import TrainedStudent
from tests.commands.compare.comparisons import CLASSES, IMAGES, make_comparison

SPENT = Cost(
    TrainingCost(teacher=10**9, cache=10**7, student=10**8, epochs=10, served=3),
    {
        "teacher": Footprint(1000, 5000, 4400, Latency(2e-3, 3e-3, 100, 1, "cpu")),
        "student": Footprint(100, 200, 2400, Latency(1e-4, 2e-4, 1000, 1, "cpu")),
    },
    Saved(2.5, 30),
)


def list_trained(comparison: Comparison) -> dict[str, TrainedStudent]:
    history = History({"val_acc": [0.5]})
    return {
        f"{arm}-{teacher}-{seed}": TrainedStudent({}, history, predictions.validation, predictions.test)
        for arm, groups in comparison.students.items()
        for teacher, group in enumerate(groups)
        for seed, predictions in enumerate(group)
    }


def make_files(comparison: Comparison, limit: int | None = None) -> dict[str, bytes]:
    contents = comparison_files(
        Path("results"),
        Verdicts(comparison),
        list_trained(comparison),
        SPENT,
        {"SEED": 0},
        slices=measure_slices(comparison),
        limit=limit,
    )
    return {path.name: content for path, content in contents.items()}


def test_errors_and_pairs_are_plain_counts() -> None:
    comparison = make_comparison()
    errors = {
        arm: [int((predictions.test.logits.argmax(1) != predictions.test.labels).sum()) for predictions in groups[0]]
        for arm, groups in comparison.students.items()
    }
    assert errors["control"] == [40, 41, 42, 43]
    assert errors["distilled"] == [15, 15, 17, 17]
    assert comparison.pairs(0).differences == (-25, -26, -25, -26)
    assert comparison.pairs(0, against="smoothed").differences == tuple(
        d - s for d, s in zip(errors["distilled"], errors["smoothed"], strict=True)
    )
    assert [test.only_first_wrong - test.only_second_wrong for test in comparison.mcnemars(0)] == [25, 26, 25, 26]


def test_every_student_has_a_row_and_summaries_cover_all_rows_of_an_arm() -> None:
    comparison = make_comparison(teachers=2)
    rows = list(student_rows(comparison))
    assert len(rows) == 3 * 2 * 4
    errors = [row["test_errors"] for row in rows if row["arm"] == "smoothed"]
    assert summaries(comparison)["smoothed"]["test_errors"] == spread(errors)
    assert len(errors) == 8


@pytest.mark.pictures
def test_files_contain_the_statistics_and_mark_a_quick_run() -> None:
    comparison = make_comparison(teachers=2)
    files = make_files(comparison, limit=300)
    plots = {"comparison_errors.png", "comparison_differences.png", "comparison_reliability.png"}
    assert set(files) == {"comparison.json", "comparison_students.csv", "comparison_timings.json", *plots}
    summary: dict[str, Any] = json.loads(files["comparison.json"])
    assert summary["toy"] == "LIMIT=300"
    assert [verdict["verdict"] for verdict in summary["verdicts"]] == ["helps", "helps"]
    assert summary["sentence"] == Verdicts(comparison).lines[-1]
    assert summary["verdicts"][0]["pairs"]["differences"] == list(comparison.pairs(0).differences)
    means = [comparison.pairs(number).mean for number in range(2)]
    assert summary["across_teachers"]["control"]["differences"] == pytest.approx(means)
    assert summary["training_multiply_adds"]["longer_epochs"] == SPENT.training.longer_epochs
    rows = list(csv.DictReader(io.StringIO(files["comparison_students.csv"].decode())))
    assert len(rows) == 24
    assert {row["run"] for row in rows} == {"LIMIT=300"}
    times = json.loads(files["comparison_timings.json"])
    assert times["teacher_seconds_saved"] == {"seconds": 2.5, "passes": 30, "total": 72.5}
    full = make_files(comparison)
    assert json.loads(full["comparison.json"])["toy"] is None
    assert make_files(comparison) == full


@pytest.mark.parametrize(
    ("gain", "margin", "names"),
    [(25, 0.5, ("interval", "smoothed_interval")), (1, 10.0, ("interval", "inner_interval"))],
)
def test_the_json_has_every_interval_of_the_sentence(gain: int, margin: float, names: tuple[str, ...]) -> None:
    """With their confidence, which earlier questions raise."""
    comparison = dataclasses.replace(make_comparison(gain=gain), margin=margin)
    verdicts = Verdicts(comparison, [Earlier(1e-9, 0.5), Earlier(0.5, 0.5)])
    content = describe_judgement(verdicts.main)
    for name in names:
        text = format_interval(content[name], content[f"{name}_confidence"])
        assert text in verdicts.lines[-1]


def test_printed_output_ends_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    comparison = make_comparison()
    print_comparison(Verdicts(comparison), SPENT, slices=measure_slices(comparison), limit=300)
    printed = capsys.readouterr().out
    assert "RUN on 300 training images" in printed
    assert "label smoothing" in printed
    last = printed.rstrip().splitlines()[-1]
    assert last.startswith(
        "Distillation (kd, T = 4, α = 0.5, teacher's test accuracy 98.75%) helps: 25.5 fewer errors than the "
        "control on average"
    )
    assert last.endswith("given this teacher and split.")
    across = Verdicts(make_comparison(teachers=2)).lines[-1]
    assert across.startswith("Across teachers")


def test_power_is_unknown_without_a_spread() -> None:
    row = make_comparison().contrasts[0]
    assert power_of(row.contrast, 2.0).detectable is not None
    assert power_of(Contrast((0.0, 0.0, 0.0)), 2.0) == (None, None)


@pytest.mark.pictures
@pytest.mark.parametrize("teachers", [1, 3])
def test_both_figures_show_every_student(teachers: int) -> None:
    comparison = make_comparison(teachers)
    plots = drawings(comparison)
    axes = plots["comparison_errors"]().axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [teachers, *[4 * teachers] * 3]
    differences = plots["comparison_differences"]().axes[0]
    dots = [line for line in differences.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots[:1]] == [list(comparison.contrasts[0].contrast.differences)]
    assert len(dots) == 2 * teachers
    assert png(plots["comparison_errors"]) == png(plots["comparison_errors"])


def make_part(comparison: Comparison, limit: int | None = None, **settings: str) -> Part:
    config = {"SEED": 0, "TEMPERATURE": 4.0, "DEVICE": "cpu", **settings}
    slices: Slices = measure_slices(comparison)
    command = "kd compare --pairs 4"
    return compare_part(Verdicts(comparison), SPENT, config, test=[1, 2], command=command, slices=slices, limit=limit)


def page_text(part: Part) -> str:
    return unescape(page([part]).decode()).replace("\u00a0", " ")


@pytest.mark.parametrize(("gain", "tone"), [(25, "better"), (-25, "worse")])
def test_the_report_starts_with_the_verdict_and_matches_the_files(gain: int, tone: str) -> None:
    comparison = make_comparison(gain=gain)
    part, html = make_part(comparison), page_text(make_part(comparison))
    assert (part.tone, part.verdict) == (tone, Verdicts(comparison).lines[-1])
    assert part.verdict in html
    assert part.settings == {"SEED": "0", "TEMPERATURE": "4"}
    for text in ("kd compare --pairs 4", "72 s saved", "label smoothing"):
        assert text in html, text


def test_the_report_says_if_the_validation_set_chose_the_epochs() -> None:
    comparison = make_comparison()
    assert "best validation results" not in page_text(make_part(comparison))
    assert "best validation results, which are therefore too good" in page_text(make_part(comparison, KEEP="best"))


def test_the_report_of_several_teachers_has_all_verdicts() -> None:
    comparison = make_comparison(teachers=2)
    html = page_text(make_part(comparison, limit=300))
    for line in Verdicts(comparison).lines:
        assert line in html
    assert "compare: LIMIT=300" in html


def test_a_fitted_temperature_at_the_end_of_its_range_is_not_reported() -> None:
    comparison = make_comparison()
    sure = torch.nn.functional.one_hot(torch.arange(IMAGES) % CLASSES, CLASSES).float()
    right = Predictions(sure, torch.arange(IMAGES) % CLASSES)
    for groups in comparison.students.values():
        groups[0][:] = [ModelPredictions(right, predictions.test, predictions.weights) for predictions in groups[0]]
    rows = list(student_rows(comparison))
    assert {row["fitted_temperature"] for row in rows} == {row["nll_after_scaling"] for row in rows} == {None}
    assert all("fitted_temperature" not in predictions for predictions in summaries(comparison).values())
    assert re.search(r"<td[^>]*>none</td>", render(_show_calibration(comparison, summaries(comparison))))


@pytest.mark.parametrize("gain", [0, 25])
def test_the_power_is_stated_once(gain: int, capsys: pytest.CaptureFixture[str]) -> None:
    """An inconclusive verdict states it itself."""
    comparison = dataclasses.replace(make_comparison(gain=gain), margin=0.01)
    assert (Verdicts(comparison).main.verdict == "inconclusive") == (gain == 0)
    print_comparison(Verdicts(comparison), SPENT, slices=measure_slices(comparison), limit=None)
    printed = capsys.readouterr().out
    assert printed.count("pairs detect a true difference of") == 1
    assert printed.count("McNemar's exact test") == 1
    assert page_text(make_part(comparison)).count("pairs detect a true difference of") == 1
