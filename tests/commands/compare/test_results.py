"""The numbers of ``kd compare``, from answers made up here: each against a plain count, and what may not matter."""

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
from kd.commands.compare.report import _calibration, compare_part
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


def model_predictions(seed: int, errors: int, images: int = IMAGES) -> ModelPredictions:
    """Confident logits with so many errors on the test images; labels are the same for every seed."""
    labels = torch.arange(images) % CLASSES
    generator = torch.Generator().manual_seed(seed)

    def predictions(wrong: int) -> Predictions:
        named = labels.clone()
        chosen = torch.randperm(images, generator=generator)[:wrong]
        named[chosen] = (named[chosen] + 1) % CLASSES
        logits = 4 * torch.nn.functional.one_hot(named, CLASSES) + torch.rand(images, CLASSES, generator=generator)
        return Predictions(logits.float(), labels)

    return ModelPredictions(predictions(errors), predictions(errors))


def comparison(teachers: int = 1, *, gain: int = 8) -> Comparison:
    """Controls with 40 to 43 errors, distilled students with ``gain`` fewer, label smoothing in between; the last
    distilled student makes one error more with each further teacher."""
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
            [model_predictions(seed + 1000 * len(arm), count) for seed, count in zip(group, own[arm], strict=True)]
            for group, own in zip(seeds, errors, strict=True)
        ]
        for arm in errors[0]
    }
    return Comparison(
        [model_predictions(-1 - teacher, 5 + teacher) for teacher in range(teachers)], students, seeds, 0.5, 4.0
    )


def trained(of: Comparison) -> dict[str, TrainedStudent]:
    history = History({"val_acc": [0.5]})
    return {
        f"{arm}-{teacher}-{seed}": TrainedStudent({}, history, own.validation, own.test)
        for arm, groups in of.students.items()
        for teacher, group in enumerate(groups)
        for seed, own in enumerate(group)
    }


def files(of: Comparison, limit: int | None = None) -> dict[str, bytes]:
    made = comparison_files(Path("results"), of, trained(of), SPENT, {"SEED": 0}, limit=limit)
    return {path.name: content for path, content in made.items()}


def test_errors_and_pairs_are_plain_counts() -> None:
    of = comparison()
    counted = {
        arm: [int((own.test.logits.argmax(1) != own.test.labels).sum()) for own in groups[0]]
        for arm, groups in of.students.items()
    }
    assert counted["control"] == [40, 41, 42, 43]
    assert counted["distilled"] == [32, 32, 34, 34]
    assert of.pairs(0).differences == (-8, -9, -8, -9)
    assert of.pairs(0, against="smoothed").differences == tuple(
        d - s for d, s in zip(counted["distilled"], counted["smoothed"], strict=True)
    )
    assert [test.only_first_wrong - test.only_second_wrong for test in of.mcnemars(0)] == [8, 9, 8, 9]


def test_swapping_the_arms_turns_the_verdict_round() -> None:
    of = comparison()
    swapped = dataclasses.replace(
        of, students={"control": of.students["distilled"], "distilled": of.students["control"]}
    )
    (judged,), (mirrored,) = of.judgements(), swapped.judgements()
    assert (judged.verdict, mirrored.verdict) == ("helps", "hurts")
    assert judged.pairs.mean == -mirrored.pairs.mean


def test_the_order_of_the_seeds_does_not_matter_as_long_as_pairs_stay_together() -> None:
    of = comparison()
    turned = dataclasses.replace(
        of,
        students={arm: [group[::-1] for group in groups] for arm, groups in of.students.items()},
        seeds=[group[::-1] for group in of.seeds],
    )
    assert turned.judgements()[0].interval == of.judgements()[0].interval
    assert sorted(map(str, student_rows(turned))) == sorted(map(str, student_rows(of)))


def test_one_teacher_has_no_verdict_across_teachers_and_several_count_once_each() -> None:
    assert comparison().across() is None
    of = comparison(teachers=3)
    across = of.across()
    assert across is not None
    assert across.means == tuple(of.pairs(number).mean for number in range(3))
    assert across.mean == pytest.approx(fmean(across.means))
    assert across.verdict == "helps"
    doubled = dataclasses.replace(
        of,
        students={arm: [group * 2 for group in groups] for arm, groups in of.students.items()},
        seeds=[group * 2 for group in of.seeds],
    )
    repeated = doubled.across()
    assert repeated is not None
    assert repeated.interval == across.interval  # more students of the same teachers say nothing of other teachers


def test_the_further_controls_are_shown_and_decide_nothing() -> None:
    of = comparison()
    without = dataclasses.replace(of, students={arm: of.students[arm] for arm in ("control", "distilled")})
    assert list(of.further()) == ["smoothed"]
    assert without.further() == {}
    assert without.judgements() == of.judgements()


def test_every_student_has_a_row_and_the_summary_is_that_of_the_rows() -> None:
    of = comparison(teachers=2)
    rows = list(student_rows(of))
    assert len(rows) == 3 * 2 * 4
    own = [row["test_errors"] for row in rows if row["arm"] == "smoothed"]
    assert summaries(of)["smoothed"]["test_errors"] == spread(own)
    assert len(own) == 8


@pytest.mark.pictures
def test_the_files_hold_what_was_found_and_stamp_a_toy_run() -> None:
    of = comparison(teachers=2)
    made = files(of, limit=300)
    plots = {"comparison_errors.png", "comparison_differences.png", "comparison_reliability.png"}
    assert set(made) == {"comparison.json", "comparison_students.csv", "comparison_timings.json", *plots}
    summary: dict[str, Any] = json.loads(made["comparison.json"])
    assert summary["toy"] == "LIMIT=300"
    assert [verdict["verdict"] for verdict in summary["verdicts"]] == ["helps", "helps"]
    assert summary["verdicts"][0]["pairs"]["differences"] == list(of.pairs(0).differences)
    assert summary["across_teachers"]["means"] == [of.pairs(0).mean, of.pairs(1).mean]
    assert summary["training_multiply_adds"]["longer_epochs"] == SPENT.training.longer_epochs
    rows = list(csv.DictReader(io.StringIO(made["comparison_students.csv"].decode())))
    assert len(rows) == 24
    assert {row["run"] for row in rows} == {"LIMIT=300"}
    times = json.loads(made["comparison_timings.json"])
    assert times["teacher_seconds_saved"] == {"seconds": 2.5, "passes": 30, "total": 72.5}
    assert json.loads(files(of)["comparison.json"])["toy"] is None
    assert files(of) == files(of)


def test_what_is_printed_ends_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    print_comparison(comparison(), SPENT, limit=300)
    printed = capsys.readouterr().out
    assert "TOY RUN on 300 training images" in printed
    assert "label smoothing" in printed
    last = printed.rstrip().splitlines()[-1]
    assert last.startswith("Distillation helps: 8.5 fewer errors than the control on average")
    assert last.endswith("given this teacher, split and test set.")
    across = verdict_lines(comparison(teachers=2))[-1]
    assert across.startswith("Across teachers")


def test_how_many_pairs_it_takes_is_unknown_without_a_spread() -> None:
    of = comparison()
    assert power_of(of.pairs(0), 2.0).for_margin is not None
    same = dataclasses.replace(of, students={arm: [[groups[0][0]] * 4] for arm, groups in of.students.items()})
    assert power_of(same.pairs(0), 2.0) == (None, None, None)


@pytest.mark.pictures
@pytest.mark.parametrize("teachers", [1, 3])
def test_both_figures_show_every_student(teachers: int) -> None:
    of = comparison(teachers)
    shown = errors_by_arm(of).axes[0]
    dots = [line for line in shown.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [teachers, *[4 * teachers] * 3]
    differences = paired_differences(of).axes[0]
    dots = [line for line in differences.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots[:1]] == [list(of.pairs(0).differences)]
    assert len(dots) == 2 * teachers
    assert png(errors_by_arm(of)) == png(errors_by_arm(of))


def part(of: Comparison, limit: int | None = None) -> Part:
    config = {"SEED": 0, "TEMPERATURE": 4.0, "DEVICE": "cpu"}
    return compare_part(of, SPENT, config, test=[1, 2], command="kd compare --pairs 4", limit=limit)


def told(of: Part) -> str:
    return unescape(page([of]).decode()).replace("\u00a0", " ")


@pytest.mark.parametrize(("gain", "tone"), [(8, "better"), (-8, "worse")])
def test_the_report_starts_with_the_verdict_and_says_what_the_files_say(gain: int, tone: str) -> None:
    of = comparison(gain=gain)
    made, html = part(of), told(part(of))
    assert (made.tone, made.verdict) == (tone, verdict_lines(of)[-1])
    assert made.verdict in html
    assert made.settings == {"SEED": "0", "TEMPERATURE": "4"}
    for text in ("kd compare --pairs 4", "72 s saved", "label smoothing"):
        assert text in html, text


def test_the_report_of_several_teachers_has_the_verdict_over_all_and_each_of_them() -> None:
    of = comparison(teachers=2)
    html = told(part(of, limit=300))
    for line in verdict_lines(of):
        assert line in html
    assert "Toy run" in html


def test_a_fitted_temperature_at_the_end_of_its_range_is_left_out() -> None:
    of = comparison()
    sure = torch.nn.functional.one_hot(torch.arange(IMAGES) % CLASSES, CLASSES).float()
    right = Predictions(sure, torch.arange(IMAGES) % CLASSES)
    for groups in of.students.values():
        groups[0][:] = [ModelPredictions(right, own.test, own.weights) for own in groups[0]]
    rows = list(student_rows(of))
    assert {row["fitted_temperature"] for row in rows} == {row["nll_after_scaling"] for row in rows} == {None}
    assert all("fitted_temperature" not in own for own in summaries(of).values())
    assert re.search(r"<td[^>]*>none</td>", render(_calibration(of, summaries(of))))
