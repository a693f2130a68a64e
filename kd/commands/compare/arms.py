"""The arms of a comparison as rows and columns: what its tables, figures and files are made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kd.commands.compare.results import CONTROL, Comparison
from kd.evaluation.paired_seeds import Pairs, Spread, spread
from kd.report.style import LABELS


def student_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """One row per student: errors, calibration and fidelity on the test images."""
    fidelities, scalings = comparison.fidelities, comparison.scalings
    for arm, groups in comparison.students.items():
        for teacher, group in enumerate(groups):
            for index, answers in enumerate(group):
                match, scaled = fidelities[arm][teacher][index], scalings[arm][teacher][index]
                validation, bounded = answers.validation, scaled.temperature.at_bound
                yield {
                    "arm": arm,
                    "teacher": teacher,
                    "seed": comparison.seeds[teacher][index],
                    "test_errors": answers.errors,
                    "test_accuracy": 1 - answers.errors / comparison.images,
                    "weights_sha256": answers.weights,
                    "validation_errors": int((validation.logits.argmax(dim=1) != validation.labels).sum()),
                    **{name: getattr(scaled.before, name) for name in ("nll", "brier", "ece", "adaptive_ece")},
                    # A temperature at the end of its range is no optimum: there is none, and nothing to tell of it.
                    "fitted_temperature": None if bounded else scaled.temperature.value,
                    "nll_after_scaling": None if bounded else scaled.after.nll,
                    "ece_after_scaling": None if bounded else scaled.after.ece,
                    "agreement_with_teacher": match.overall.agreement,
                    "kl_to_teacher": match.overall.kl,
                    "softened_kl_to_teacher": match.overall.softened_kl,
                    "agreement_where_teacher_right": match.teacher_right.agreement if match.teacher_right else None,
                    "agreement_where_teacher_wrong": match.teacher_wrong.agreement if match.teacher_wrong else None,
                }


def summaries(comparison: Comparison) -> dict[str, dict[str, Spread]]:
    """Mean, standard deviation and n of every number of an arm's students, over all teachers: arm → name → spread."""
    rows = list(student_rows(comparison))
    named = {"arm", "teacher", "seed", "weights_sha256"}
    found: dict[str, dict[str, Spread]] = {}
    for arm in comparison.students:
        own = [row for row in rows if row["arm"] == arm]
        measured = {name: [row[name] for row in own if row[name] is not None] for name in own[0] if name not in named}
        found[arm] = {name: spread(values) for name, values in measured.items() if values}
    return found


def contrasts(comparison: Comparison) -> list[tuple[str, Pairs]]:
    """What the distilled students are compared with, and how: for each teacher the control, then the further ones."""
    further, several = comparison.further(), len(comparison.teachers) > 1
    found = []
    for number in range(len(comparison.teachers)):
        suffix = f", teacher {number}" if several else ""
        found.append((f"{LABELS[CONTROL]}{suffix}", comparison.pairs(number)))
        found += [(f"{LABELS[arm]}{suffix}", groups[number]) for arm, groups in further.items()]
    return found
