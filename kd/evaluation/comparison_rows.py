"""Rows of a comparison's tables: one for each student, and their means by arm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kd.evaluation.comparison import Comparison
from kd.evaluation.paired_seeds import Spread, spread


def student_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yield one row per student: errors, calibration and fidelity on the test images."""
    fidelities, scalings = comparison.fidelities, comparison.scalings
    for arm, groups in comparison.students.items():
        for teacher, group in enumerate(groups):
            for index, predictions in enumerate(group):
                fidelity_to_teacher, scaling = fidelities[arm][teacher][index], scalings[arm][teacher][index]
                validation, at_bound = predictions.validation, scaling.temperature.at_bound
                yield {
                    "arm": arm,
                    "teacher": teacher,
                    "seed": comparison.seeds[teacher][index],
                    "test_errors": predictions.errors,
                    "test_accuracy": 1 - predictions.errors / comparison.images,
                    "balanced_accuracy": comparison.class_scores[arm][teacher][index].balanced_accuracy,
                    "macro_f1": comparison.class_scores[arm][teacher][index].macro_f1,
                    "weights_sha256": predictions.weights,
                    "validation_errors": int(validation.wrong.sum()),
                    **{name: getattr(scaling.before, name) for name in ("nll", "brier", "ece", "adaptive_ece")},
                    # A fitted temperature at the end of its range is not an optimum, so it is not reported.
                    "fitted_temperature": None if at_bound else scaling.temperature.value,
                    "nll_after_scaling": None if at_bound else scaling.after.nll,
                    "ece_after_scaling": None if at_bound else scaling.after.ece,
                    "agreement_with_teacher": fidelity_to_teacher.overall.agreement,
                    "kl_to_teacher": fidelity_to_teacher.overall.kl,
                    "softened_kl_to_teacher": fidelity_to_teacher.overall.softened_kl,
                    "agreement_where_teacher_right": fidelity_to_teacher.teacher_right.agreement
                    if fidelity_to_teacher.teacher_right
                    else None,
                    "agreement_where_teacher_wrong": fidelity_to_teacher.teacher_wrong.agreement
                    if fidelity_to_teacher.teacher_wrong
                    else None,
                }


def summaries(comparison: Comparison) -> dict[str, dict[str, Spread]]:
    """Return mean, standard deviation and n of every column over all students of an arm: arm → column → spread."""
    rows = list(student_rows(comparison))
    labels = {"arm", "teacher", "seed", "weights_sha256"}
    spreads: dict[str, dict[str, Spread]] = {}
    for arm in comparison.students:
        arm_rows = [row for row in rows if row["arm"] == arm]
        columns = {
            name: [row[name] for row in arm_rows if row[name] is not None] for name in arm_rows[0] if name not in labels
        }
        spreads[arm] = {name: spread(values) for name, values in columns.items() if values}
    return spreads
