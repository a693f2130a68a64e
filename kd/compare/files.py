"""What ``kd compare`` leaves on disk: every statistic as JSON, every student as a row of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.compare.comparison import Comparison, power_of, spread
from kd.cost import Cost
from kd.evidence import sentence, sentence_across
from kd.figures import toy_stamp
from kd.results import csv_bytes, environment, json_bytes
from kd.students import Trained


def comparison_files(
    folder: Path,
    comparison: Comparison,
    trained: Mapping[str, Trained],
    spent: Cost,
    config: Mapping[str, Any],
    *,
    limit: int | None,
) -> dict[Path, bytes]:
    """``metrics/comparison.json``, ``comparison_students.csv``, and the times in a file of their own.

    Args:
        folder: of the results.
        trained: every student by its name.
        limit: the number of training images if it was a toy run, else None.
    """
    toy, rows, metrics = toy_stamp(limit), list(student_rows(comparison)), folder / "metrics"
    summary = {
        "toy": toy,
        "config": dict(config),
        "environment": environment(),
        "verdicts": _verdicts(comparison),
        "across_teachers": _across(comparison),
        "further_controls": {
            arm: [pairs._asdict() for pairs in groups] for arm, groups in comparison.further().items()
        },
        "mcnemar": [[test._asdict() for test in comparison.mcnemars(n)] for n in range(len(comparison.teachers))],
        "arms": arm_summaries(rows),
        "teacher_errors": [teacher.errors for teacher in comparison.teachers],
        "agreement_of_two_controls": spread(comparison.baseline_agreement())._asdict(),
        "multiply_adds": spent._asdict()
        | {"distilled": spent.distilled, "longer": spent.longer, "longer_epochs": spent.longer_epochs},
    }
    seconds = {name: round(student.history.seconds, 3) for name, student in trained.items()}
    return {
        metrics / "comparison.json": json_bytes(summary),
        metrics / "comparison_students.csv": csv_bytes({"run": toy or "full", **row} for row in rows),
        metrics / "comparison_timings.json": json_bytes({"toy": toy, "training_seconds": seconds}),
    }


def student_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """One row per student: errors, calibration and fidelity on the test images."""
    fidelities, scalings = comparison.fidelities(), comparison.scalings()
    for arm, groups in comparison.students.items():
        for teacher, group in enumerate(groups):
            for index, answers in enumerate(group):
                match, scaled = fidelities[arm][teacher][index], scalings[arm][teacher][index]
                validation = answers.validation
                yield {
                    "arm": arm,
                    "teacher": teacher,
                    "seed": comparison.seeds[teacher][index],
                    "test_errors": answers.errors,
                    "test_accuracy": 1 - answers.errors / comparison.images,
                    "validation_errors": int((validation.logits.argmax(dim=1) != validation.labels).sum()),
                    **{name: getattr(scaled.before, name) for name in ("nll", "brier", "ece", "adaptive_ece")},
                    "fitted_temperature": scaled.temperature.value,
                    "nll_after_scaling": scaled.after.nll,
                    "ece_after_scaling": scaled.after.ece,
                    "agreement_with_teacher": match.overall.agreement,
                    "kl_to_teacher": match.overall.kl,
                    "softened_kl_to_teacher": match.overall.softened_kl,
                    "agreement_where_teacher_right": match.teacher_right.agreement if match.teacher_right else None,
                    "agreement_where_teacher_wrong": match.teacher_wrong.agreement if match.teacher_wrong else None,
                }


def arm_summaries(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation and n of every number of the arm's students; over all teachers."""
    named = {"run", "arm", "teacher", "seed"}
    summaries: dict[str, dict[str, Any]] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        measured = {name: [row[name] for row in own if row[name] is not None] for name in own[0] if name not in named}
        summaries[arm] = {name: spread(values)._asdict() for name, values in measured.items() if values}
    return summaries


def _verdicts(comparison: Comparison) -> list[dict[str, Any]]:
    """For each teacher, with its pairs."""
    return [
        {
            "verdict": judgement.verdict,
            "sentence": sentence(judgement),
            "margin_errors": judgement.margin,
            "interval_95": judgement.interval,
            "interval_90": judgement.inner,
            "pairs": judgement.pairs._asdict(),
            "power": power_of(judgement.pairs, judgement.margin)._asdict(),
        }
        for judgement in comparison.judgements()
    ]


def _across(comparison: Comparison) -> dict[str, Any] | None:
    across = comparison.across()
    return across and {**across._asdict(), "sentence": sentence_across(across)}
