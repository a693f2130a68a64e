"""What ``kd compare`` leaves on disk: every statistic as JSON, every student as a row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd.commands.compare.plots import figures
from kd.commands.compare.results import Comparison, student_rows, summaries
from kd.commands.paired_table import describe_tests
from kd.commands.publish import csv_bytes, json_bytes, plot_files, toy_stamp
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
    trained: Mapping[str, TrainedStudent],
    spent: Cost,
    config: Mapping[str, Any],
    *,
    limit: int | None,
) -> dict[Path, bytes]:
    """``metrics/comparison.json``, ``comparison_students.csv``, the times in a file of their own, and the plots.

    Args:
        folder: of the results.
        trained: every student by its name.
        limit: the number of training images if it was a toy run, else None.
    """
    toy, metrics = toy_stamp(limit), folder / "metrics"
    summary = {
        "toy": toy,
        "config": dict(config),
        "environment": versions(),
        "verdicts": _verdicts(comparison),
        "across_teachers": _across(comparison),
        "further_controls": {
            arm: [pairs._asdict() for pairs in groups] for arm, groups in comparison.further().items()
        },
        "mcnemar": [[test._asdict() for test in comparison.mcnemars(n)] for n in range(len(comparison.teachers))],
        "arms": {
            arm: {name: value._asdict() for name, value in own.items()} for arm, own in summaries(comparison).items()
        },
        "teacher_errors": [teacher.errors for teacher in comparison.teachers],
        "agreement_of_two_controls": spread(comparison.baseline_agreement())._asdict(),
        "teacher_weights_sha256": [teacher.weights for teacher in comparison.teachers],
        "training_multiply_adds": _training(spent.training),
        "models": {name: _counted(model) for name, model in spent.models.items()},
    }
    return {
        metrics / "comparison.json": json_bytes(summary),
        metrics / "comparison_students.csv": csv_bytes(
            {"run": toy or "full", **row} for row in student_rows(comparison)
        ),
        metrics / "comparison_timings.json": json_bytes({"toy": toy, **_timings(trained, spent)}),
        **plot_files(folder, {name: png(drawn, toy=toy) for name, drawn in figures(comparison).items()}),
    }


def _training(spent: TrainingCost) -> dict[str, Any]:
    sums = {"distilled": spent.distilled, "longer": spent.longer, "longer_epochs": spent.longer_epochs}
    return spent._asdict() | sums


def _counted(model: Footprint) -> dict[str, Any]:
    return {name: value for name, value in model._asdict().items() if name != "latency"}


def _timings(trained: Mapping[str, TrainedStudent], spent: Cost) -> dict[str, Any]:
    return {
        "training_seconds": {name: round(student.history.seconds, 3) for name, student in trained.items()},
        "latency_seconds": {name: model.latency._asdict() for name, model in spent.models.items()},
        "teacher_seconds_saved": spent.saved._asdict() | {"total": spent.saved.total} if spent.saved else None,
    }


def _verdicts(comparison: Comparison) -> list[dict[str, Any]]:
    """For each teacher, with its pairs."""
    return [
        {
            "verdict": judgement.verdict,
            "sentence": sentence(judgement, noun=comparison.noun),
            **describe_tests(judgement),
            "power": power_of(judgement.pairs, judgement.margin)._asdict(),
        }
        for judgement in comparison.judgements()
    ]


def _across(comparison: Comparison) -> dict[str, Any] | None:
    across = comparison.across()
    return across and {**across._asdict(), "sentence": sentence_across(across)}
