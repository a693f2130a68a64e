"""What ``kd compare`` adds to the report: the verdict, all pairs, calibration, fidelity and cost of every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kd.calibration import BINS, Bin, reliability
from kd.compare.comparison import Comparison, Spread, spread
from kd.compare.files import arm_summaries, student_rows
from kd.compare.plots import errors_by_arm, paired_differences
from kd.compare.text import (
    DIFFERENCES,
    LABELS,
    contrasts,
    cost_sentence,
    difference_cells,
    lines,
    power_sentences,
    shown,
)
from kd.cost import Cost
from kd.figures import toy_stamp
from kd.plots import reliability_diagram
from kd.report.html import paragraph, table
from kd.report.page import Part, Section
from kd.report.svg import figure
from kd.results import environment

Summaries = Mapping[str, Mapping[str, Spread]]


def compare_part(comparison: Comparison, spent: Cost, config: Mapping[str, Any], *, limit: int | None) -> Part:
    """All sections of a comparison.

    Args:
        config: the settings it was run with.
        limit: the number of training images if it was a toy run, else None.
    """
    summaries = {
        arm: {name: Spread(**value) for name, value in numbers.items()}
        for arm, numbers in arm_summaries(list(student_rows(comparison))).items()
    }
    *others, verdict = lines(comparison, spent)
    sections = (
        Section("table", "Every way to train the student", _arms(comparison, summaries)),
        Section("comparison", "Pair by pair", _pairs(comparison) + "".join(map(paragraph, others))),
        Section("reliability", "Calibration", _calibration(comparison, summaries)),
        Section("fidelity", "Does the student do what its teacher does?", _fidelity(comparison, summaries)),
        Section("cost", "What it costs", _cost(spent)),
        Section("provenance", "Where this comes from", _provenance(comparison, config)),
    )
    return Part("compare", verdict, toy_stamp(limit), sections)


def _arms(comparison: Comparison, summaries: Summaries) -> str:
    rows = [
        (label(arm), own["test_errors"].n, shown(own["test_errors"], ".1f"), f"{own['test_accuracy'].mean:.2%}")
        for arm, own in summaries.items()
    ]
    teachers = spread([teacher.errors for teacher in comparison.teachers])
    rows.append(("teacher", teachers.n, shown(teachers, ".1f"), f"{1 - teachers.mean / comparison.images:.2%}"))
    caption = f"Mean ± standard deviation over the seeds, on {comparison.images:,} test images."
    alt = "; ".join(f"{row[0]}: {row[2]} errors" for row in rows)
    drawn = figure(errors_by_arm(comparison), alt=f"Test errors of every student. {alt}.")
    return table(("student", "n", "test errors", "accuracy"), rows, caption=caption) + drawn


def _pairs(comparison: Comparison) -> str:
    rows = [(title, *difference_cells(pairs)) for title, pairs in contrasts(comparison)]
    alt = "; ".join(f"distilled minus {row[0]}: {row[1]} ({row[2]})" for row in rows)
    caption = "Differences in test errors; below zero is in favour of the distilled students."
    drawn = figure(paired_differences(comparison), alt=f"Paired differences. {alt}.")
    return drawn + table(DIFFERENCES, rows, caption=caption) + "".join(map(paragraph, power_sentences(comparison)))


# Column of a student's row, how it is shown, and what it is multiplied by.
_CALIBRATION = (
    ("nll", ".4f", 1),
    ("brier", ".4f", 1),
    ("ece", ".2f", 100),
    ("adaptive_ece", ".2f", 100),
    ("fitted_temperature", ".2f", 1),
    ("nll_after_scaling", ".4f", 1),
    ("ece_after_scaling", ".2f", 100),
)


def _calibration(comparison: Comparison, summaries: Summaries) -> str:
    header = ("student", "NLL", "Brier", "ECE, %", "adaptive ECE, %", "fitted T", "NLL at it", "ECE at it, %")
    rows = [
        (label(arm), *(shown(own[name], form, scale=scale) for name, form, scale in _CALIBRATION))
        for arm, own in summaries.items()
    ]
    caption = f"{BINS} bins; T is fitted on the validation images. Mean ± standard deviation over the seeds."
    diagrams = {label(arm): pooled_reliability(comparison, arm) for arm in comparison.students}
    alt = "Accuracy against confidence of every arm, all its students together, in bins of equal width."
    return figure(reliability_diagram(diagrams), alt=alt) + table(header, rows, caption=caption)


def pooled_reliability(comparison: Comparison, arm: str) -> Sequence[Bin]:
    """The bins of all students of an arm together."""
    tested = [answers.test for group in comparison.students[arm] for answers in group]
    return reliability(torch.cat([own.logits for own in tested]), torch.cat([own.labels for own in tested]))


def _fidelity(comparison: Comparison, summaries: Summaries) -> str:
    percent = ("agreement_with_teacher", "agreement_where_teacher_right", "agreement_where_teacher_wrong")
    header = (
        "student",
        "agrees",
        "where it is right",
        "where it is wrong",
        "KL",
        f"KL at T = {comparison.temperature:g}",
    )
    rows = []
    for arm, own in summaries.items():
        shares = [f"{own[name].mean:.2%}" if name in own else "none" for name in percent]
        divergences = [shown(own[name], ".4f") for name in ("kl_to_teacher", "softened_kl_to_teacher")]
        rows.append((label(arm), *shares, *divergences))
    baseline = spread(comparison.baseline_agreement())
    told = (
        f"Two controls of different seeds, of which neither taught the other, agree on {baseline.mean:.2%} of the test "
        "images: what lies above that is what a student has taken from its teacher."
    )
    caption = "Agreement with the teacher's predictions, and KL(teacher ‖ student) in nats, on the test images."
    return table(header, rows, caption=caption) + paragraph(told)


def _cost(spent: Cost) -> str:
    rows = [
        ("teacher, its whole training", f"{spent.teacher:.4g}"),
        ("teacher, its answers to all training images", f"{spent.cache:.4g}"),
        ("one student, regular or distilled", f"{spent.student:.4g}"),
        (f"one distilled student with 1/{spent.served} of the teacher", f"{spent.distilled:.4g}"),
        (f"a control trained for {spent.longer_epochs} epochs", f"{spent.longer:.4g}"),
    ]
    return table(("training", "multiply-adds"), rows) + paragraph(cost_sentence(spent))


def _provenance(comparison: Comparison, config: Mapping[str, Any]) -> str:
    seeds = "; ".join(f"{own[0]} to {own[-1]}" for own in comparison.seeds)
    rows = [("seeds of the pairs", seeds), *config.items(), *environment().items()]
    return table(("what", "value"), [(str(name), str(value)) for name, value in rows])


def label(arm: str) -> str:
    """An arm's name for a reader."""
    return LABELS.get(arm, arm)
