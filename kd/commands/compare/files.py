"""Output files of ``kd compare``: statistics as JSON, one CSV row per student, times, plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd.commands.compare.plots import drawings
from kd.commands.judgement_json import describe_contrast, describe_judgement
from kd.commands.publish import csv_bytes, json_bytes, plot_files, quick_run_stamp
from kd.evaluation.comparison_rows import student_rows, summaries
from kd.evaluation.comparison_slices import Slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.cost import Cost, Footprint, TrainingCost
from kd.evaluation.paired_seeds import spread
from kd.report.style import png
from kd.storage.environment import versions
from kd.training.students import TrainedStudent


def comparison_files(
    folder: Path,
    verdicts: Verdicts,
    students: Mapping[str, TrainedStudent],
    cost: Cost,
    config: Mapping[str, Any],
    *,
    slices: Slices,
    limit: int | None,
) -> dict[Path, bytes]:
    """Return path → content of ``metrics/comparison*.json``, ``metrics/comparison_students.csv`` and the plots.

    Args:
        folder: the results folder.
        students: all trained students by name.
        config: the settings of the run.
        limit: the number of training images of a quick run, else None.
    """
    toy, metrics, comparison = quick_run_stamp(limit), folder / "metrics", verdicts.comparison
    return {
        metrics / "comparison.json": json_bytes(describe_comparison(verdicts, cost, config, slices, toy)),
        metrics / "comparison_students.csv": csv_bytes(
            {"run": toy or "full", **row} for row in student_rows(comparison)
        ),
        metrics / "comparison_timings.json": json_bytes({"toy": toy, **describe_times(students, cost)}),
        **plot_files(folder, {name: png(drawing, toy=toy) for name, drawing in drawings(comparison).items()}),
    }


def describe_comparison(
    verdicts: Verdicts, cost: Cost, config: Mapping[str, Any], slices: Slices, toy: str | None
) -> dict[str, Any]:
    """Return the content of ``metrics/comparison.json``; ``toy`` is the stamp of a quick run."""
    comparison = verdicts.comparison
    return {
        "toy": toy,
        "config": dict(config),
        "environment": versions(),
        "decides": comparison.quantity.key,
        "verdict": verdicts.main.verdict,
        "sentence": verdicts.lines[-1],
        "failures": verdicts.failures,
        "verdicts": [
            describe_judgement(judgement, comparison.pairs(number))
            for number, judgement in enumerate(verdicts.by_teacher)
        ],
        "across_teachers": _describe_across(verdicts),
        "smoothing": comparison.smoothing,
        "slices": _describe_slices(slices),
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
        "training_multiply_adds": _describe_training(
            cost.training, comparison.longer_epochs or cost.training.longer_epochs
        ),
        "models": {name: _describe_model(model) for name, model in cost.models.items()},
    }


def _describe_training(cost: TrainingCost, longer_epochs: int) -> dict[str, Any]:
    sums = {"distilled": cost.distilled, "longer": cost.longer_at(longer_epochs), "longer_epochs": longer_epochs}
    return cost._asdict() | sums


def _describe_model(model: Footprint) -> dict[str, Any]:
    return {name: value for name, value in model._asdict().items() if name != "latency"}


def describe_times(students: Mapping[str, TrainedStudent], cost: Cost) -> dict[str, Any]:
    """Return everything that was measured with a clock: training by student, latencies, the teacher's time saved."""
    return {
        "training_seconds": {name: round(student.history.seconds, 3) for name, student in students.items()},
        "latency_seconds": {name: model.latency._asdict() for name, model in cost.models.items()},
        "teacher_seconds_saved": cost.saved._asdict() | {"total": cost.saved.total} if cost.saved else None,
    }


def _describe_across(verdicts: Verdicts) -> dict[str, Any] | None:
    if verdicts.overall is None:
        return None
    return {"blocks": list(verdicts.comparison.blocks), **describe_judgement(verdicts.overall)}


def _describe_slices(slices: Slices) -> dict[str, Any]:
    return {
        group: {
            name: {
                "items": difference.items,
                "control_percent_wrong": difference.control,
                "distilled_percent_wrong": difference.distilled,
                **describe_contrast(difference.contrast),
                "p_holm": difference.p,
                "has_enough_items": difference.has_enough_items,
            }
            for name, difference in differences.items()
        }
        for group, differences in slices.items()
    }
