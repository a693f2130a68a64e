"""Statistics of ``kd compare`` on made-up logits, checked against plain counts and for invariances."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from html import unescape
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from kd.commands.compare.files import comparison_files
from kd.commands.compare.plots import errors_by_arm, paired_differences
from kd.commands.compare.report import _show_calibration, compare_part
from kd.commands.compare.results import Comparison, ModelPredictions, student_rows, summaries
from kd.commands.compare.text import print_comparison, verdict_lines
from kd.evaluation.cost import Cost, Footprint, Saved, TrainingCost
from kd.evaluation.latency import Latency
from kd.evaluation.paired_seeds import spread
from kd.evaluation.power import power_of
from kd.models.inference import Predictions
from kd.report.html import render
from kd.report.page import Part, page
from kd.report.style import png
from kd.training.history import History
from kd.training.students import TrainedStudent

IMAGES, CLASSES = 400, 5
SPENT = Cost(
    TrainingCost(teacher=10**9, cache=10**7, student=10**8, epochs=10, served=3),
    {
        "teacher": Footprint(1000, 5000, 4400, Latency(2e-3, 3e-3, 100, 1, "cpu")),
        "student": Footprint(100, 200, 2400, Latency(1e-4, 2e-4, 1000, 1, "cpu")),
    },
    Saved(2.5, 30),
)


def make_predictions(seed: int, errors: int, images: int = IMAGES) -> ModelPredictions:
    """Make confident logits with this number of errors; labels are the same for every seed."""
    labels = torch.arange(images) % CLASSES
    generator = torch.Generator().manual_seed(seed)

    def predictions(wrong: int) -> Predictions:
        predicted = labels.clone()
        rows = torch.randperm(images, generator=generator)[:wrong]
        predicted[rows] = (predicted[rows] + 1) % CLASSES
        logits = 4 * torch.nn.functional.one_hot(predicted, CLASSES) + torch.rand(images, CLASSES, generator=generator)
        return Predictions(logits.float(), labels)

    return ModelPredictions(predictions(errors), predictions(errors))


def make_comparison(teachers: int = 1, *, gain: int = 8) -> Comparison:
    """Controls with 40 to 43 errors, distilled students with ``gain`` fewer, label smoothing in between.

    Under teacher k, the last distilled student has k more errors, so that the teachers' means differ.
    """
    seeds = [[100 * teacher + seed for seed in range(4)] for teacher in range(teachers)]
    errors = [
        {
            "control": [40, 41, 42, 43],
            "distilled": [40 - gain, 40 - gain, 42 - gain, 42 - gain + teacher],
            "smoothed": [38, 39, 40, 41],
        }
        for teacher in range(teachers)
    ]
    students = {
        arm: [
            [make_predictions(seed + 1000 * len(arm), count) for seed, count in zip(group, counts[arm], strict=True)]
            for group, counts in zip(seeds, errors, strict=True)
        ]
        for arm in errors[0]
    }
    return Comparison(
        [make_predictions(-1 - teacher, 5 + teacher) for teacher in range(teachers)], students, seeds, 0.5, 4.0
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
    contents = comparison_files(Path("results"), comparison, list_trained(comparison), SPENT, {"SEED": 0}, limit=limit)
    return {path.name: content for path, content in contents.items()}


def test_errors_and_pairs_are_plain_counts() -> None:
    comparison = make_comparison()
    errors = {
        arm: [int((predictions.test.logits.argmax(1) != predictions.test.labels).sum()) for predictions in groups[0]]
        for arm, groups in comparison.students.items()
    }
    assert errors["control"] == [40, 41, 42, 43]
    assert errors["distilled"] == [32, 32, 34, 34]
    assert comparison.pairs(0).differences == (-8, -9, -8, -9)
    assert comparison.pairs(0, against="smoothed").differences == tuple(
        d - s for d, s in zip(errors["distilled"], errors["smoothed"], strict=True)
    )
    assert [test.only_first_wrong - test.only_second_wrong for test in comparison.mcnemars(0)] == [8, 9, 8, 9]


def test_swapping_the_arms_reverses_the_verdict() -> None:
    comparison = make_comparison()
    swapped = dataclasses.replace(
        comparison, students={"control": comparison.students["distilled"], "distilled": comparison.students["control"]}
    )
    (judged,), (mirrored,) = comparison.judgements(), swapped.judgements()
    assert (judged.verdict, mirrored.verdict) == ("helps", "hurts")
    assert judged.pairs.mean == -mirrored.pairs.mean


def test_the_order_of_the_pairs_does_not_matter() -> None:
    comparison = make_comparison()
    reversed_seeds = dataclasses.replace(
        comparison,
        students={arm: [group[::-1] for group in groups] for arm, groups in comparison.students.items()},
        seeds=[group[::-1] for group in comparison.seeds],
    )
    assert reversed_seeds.judgements()[0].interval == comparison.judgements()[0].interval
    assert sorted(map(str, student_rows(reversed_seeds))) == sorted(map(str, student_rows(comparison)))


def test_the_overall_verdict_needs_several_teachers_and_counts_each_once() -> None:
    assert make_comparison().across() is None
    comparison = make_comparison(teachers=3)
    across = comparison.across()
    assert across is not None
    assert across.means == tuple(comparison.pairs(number).mean for number in range(3))
    assert across.mean == pytest.approx(fmean(across.means))
    assert across.verdict == "helps"
    doubled = dataclasses.replace(
        comparison,
        students={arm: [group * 2 for group in groups] for arm, groups in comparison.students.items()},
        seeds=[group * 2 for group in comparison.seeds],
    )
    repeated = doubled.across()
    assert repeated is not None
    assert repeated.interval == across.interval  # more students per teacher are no evidence on other teachers


def test_additional_controls_do_not_affect_the_verdict() -> None:
    comparison = make_comparison()
    without = dataclasses.replace(
        comparison, students={arm: comparison.students[arm] for arm in ("control", "distilled")}
    )
    assert list(comparison.further_pairs()) == ["smoothed"]
    assert without.further_pairs() == {}
    assert without.judgements() == comparison.judgements()


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
    assert summary["verdicts"][0]["pairs"]["differences"] == list(comparison.pairs(0).differences)
    assert summary["across_teachers"]["means"] == [comparison.pairs(0).mean, comparison.pairs(1).mean]
    assert summary["training_multiply_adds"]["longer_epochs"] == SPENT.training.longer_epochs
    rows = list(csv.DictReader(io.StringIO(files["comparison_students.csv"].decode())))
    assert len(rows) == 24
    assert {row["run"] for row in rows} == {"LIMIT=300"}
    times = json.loads(files["comparison_timings.json"])
    assert times["teacher_seconds_saved"] == {"seconds": 2.5, "passes": 30, "total": 72.5}
    assert json.loads(make_files(comparison)["comparison.json"])["toy"] is None
    assert make_files(comparison) == make_files(comparison)


def test_printed_output_ends_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(make_comparison(), SPENT, limit=300)
    printed = capsys.readouterr().out
    assert "RUN on 300 training images" in printed
    assert "label smoothing" in printed
    last = printed.rstrip().splitlines()[-1]
    assert last.startswith("Distillation helps: 8.5 fewer errors than the control on average")
    assert last.endswith("given this teacher, split and test set.")
    across = verdict_lines(make_comparison(teachers=2))[-1]
    assert across.startswith("Across teachers")


def test_power_is_unknown_without_a_spread() -> None:
    comparison = make_comparison()
    assert power_of(comparison.pairs(0), 2.0).for_margin is not None
    same = dataclasses.replace(
        comparison, students={arm: [[groups[0][0]] * 4] for arm, groups in comparison.students.items()}
    )
    assert power_of(same.pairs(0), 2.0) == (None, None, None)


@pytest.mark.pictures
@pytest.mark.parametrize("teachers", [1, 3])
def test_both_figures_show_every_student(teachers: int) -> None:
    comparison = make_comparison(teachers)
    axes = errors_by_arm(comparison).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [teachers, *[4 * teachers] * 3]
    differences = paired_differences(comparison).axes[0]
    dots = [line for line in differences.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots[:1]] == [list(comparison.pairs(0).differences)]
    assert len(dots) == 2 * teachers
    assert png(errors_by_arm(comparison)) == png(errors_by_arm(comparison))


def make_part(comparison: Comparison, limit: int | None = None) -> Part:
    config = {"SEED": 0, "TEMPERATURE": 4.0, "DEVICE": "cpu"}
    return compare_part(comparison, SPENT, config, test=[1, 2], command="kd compare --pairs 4", limit=limit)


def page_text(part: Part) -> str:
    return unescape(page([part]).decode()).replace("\u00a0", " ")


@pytest.mark.parametrize(("gain", "tone"), [(8, "better"), (-8, "worse")])
def test_the_report_starts_with_the_verdict_and_matches_the_files(gain: int, tone: str) -> None:
    comparison = make_comparison(gain=gain)
    part, html = make_part(comparison), page_text(make_part(comparison))
    assert (part.tone, part.verdict) == (tone, verdict_lines(comparison)[-1])
    assert part.verdict in html
    assert part.settings == {"SEED": "0", "TEMPERATURE": "4"}
    for text in ("kd compare --pairs 4", "72 s saved", "label smoothing"):
        assert text in html, text


def test_the_report_of_several_teachers_has_all_verdicts() -> None:
    comparison = make_comparison(teachers=2)
    html = page_text(make_part(comparison, limit=300))
    for line in verdict_lines(comparison):
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
