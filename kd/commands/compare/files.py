"""Output files of ``kd compare``: statistics as JSON, one CSV row per student, times, plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd.commands.compare.plots import figures
from kd.commands.compare.results import Comparison, student_rows, summaries
from kd.commands.paired_table import describe_tests
from kd.commands.publish import csv_bytes, json_bytes, plot_files, quick_run_stamp
from kd.evaluation.cost import Cost, Footprint, TrainingCost
from kd.evaluation.paired_seeds import spread
from kd.evaluation.power import power_of
from kd.evaluation.verdict import sentence, sentence_across
from kd.report.style import png
from kd.storage.environment import versions
from kd.training.students import TrainedStudent


def comparison_files(
    folder: Path,
    comparison: Comparison,
    students: Mapping[str, TrainedStudent],
    cost: Cost,
    config: Mapping[str, Any],
    *,
    limit: int | None,
) -> dict[Path, bytes]:
    """Return path → content of ``metrics/comparison*.json``, ``metrics/comparison_students.csv`` and the plots.

    Args:
        folder: the results folder.
        students: all trained students by name.
        config: the settings of the run.
        limit: the number of training images of a quick run, else None.
    """
    toy, metrics = quick_run_stamp(limit), folder / "metrics"
    summary = {
        "toy": toy,
        "config": dict(config),
        "environment": versions(),
        "verdicts": _describe_verdicts(comparison),
        "across_teachers": _describe_across(comparison),
        "further_controls": {
            arm: [pairs._asdict() for pairs in groups] for arm, groups in comparison.further_pairs().items()
        },
        "mcnemar": [[test._asdict() for test in comparison.mcnemars(n)] for n in range(len(comparison.teachers))],
        "arms": {
            arm: {name: value._asdict() for name, value in spreads.items()}
            for arm, spreads in summaries(comparison).items()
        },
        "teacher_errors": [teacher.errors for teacher in comparison.teachers],
        "agreement_of_two_controls": spread(comparison.baseline_agreement())._asdict(),
        "teacher_weights_sha256": [teacher.weights for teacher in comparison.teachers],
        "training_multiply_adds": _describe_training(cost.training),
        "models": {name: _describe_model(model) for name, model in cost.models.items()},
    }
    return {
        metrics / "comparison.json": json_bytes(summary),
        metrics / "comparison_students.csv": csv_bytes(
            {"run": toy or "full", **row} for row in student_rows(comparison)
        ),
        metrics / "comparison_timings.json": json_bytes({"toy": toy, **_describe_times(students, cost)}),
        **plot_files(folder, {name: png(figure, toy=toy) for name, figure in figures(comparison).items()}),
    }


def _describe_training(cost: TrainingCost) -> dict[str, Any]:
    sums = {"distilled": cost.distilled, "longer": cost.longer, "longer_epochs": cost.longer_epochs}
    return cost._asdict() | sums


def _describe_model(model: Footprint) -> dict[str, Any]:
    return {name: value for name, value in model._asdict().items() if name != "latency"}


def _describe_times(students: Mapping[str, TrainedStudent], cost: Cost) -> dict[str, Any]:
    return {
        "training_seconds": {name: round(student.history.seconds, 3) for name, student in students.items()},
        "latency_seconds": {name: model.latency._asdict() for name, model in cost.models.items()},
        "teacher_seconds_saved": cost.saved._asdict() | {"total": cost.saved.total} if cost.saved else None,
    }


def _describe_verdicts(comparison: Comparison) -> list[dict[str, Any]]:
    """Describe the verdict under each teacher, with its pairs, tests and power."""
    return [
        {
            "verdict": judgement.verdict,
            "sentence": sentence(judgement, noun=comparison.noun),
            **describe_tests(judgement),
            "power": power_of(judgement.pairs, judgement.margin)._asdict(),
        }
        for judgement in comparison.judgements()
    ]


def _describe_across(comparison: Comparison) -> dict[str, Any] | None:
    across = comparison.across()
    return across and {**across._asdict(), "sentence": sentence_across(across)}
