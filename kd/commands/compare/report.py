"""What ``kd compare`` adds to the report: the verdict, all pairs, calibration, fidelity and cost of every arm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd.arms import ARMS, LONGER, TEACHER
from kd.commands.compare.plots import arms_reliability, errors_by_arm, paired_differences
from kd.commands.compare.results import Comparison, contrasts, summaries
from kd.commands.compare.text import MODEL_CELLS, cost_sentences, model_cells, power_sentences, verdict_lines
from kd.commands.paired_table import DIFFERENCES, difference_cells, format_number, percent
from kd.commands.publish import model_settings, toy_stamp
from kd.evaluation.calibration import BINS
from kd.evaluation.cost import Cost
from kd.evaluation.paired_seeds import Spread, spread
from kd.report.blocks import Block, Paragraph, paragraphs, table
from kd.report.page import TONE_OF, Part, Section
from kd.report.provenance import provenance
from kd.report.svg import figure

Arms = Mapping[str, Mapping[str, Spread]]


def compare_part(
    comparison: Comparison, spent: Cost, config: Mapping[str, Any], *, test: object, command: str, limit: int | None
) -> Part:
    """All sections of a comparison.

    Args:
        config: the settings it was run with.
        test: the data set that was tested on.
        command: as it was typed, "" if there was none.
        limit: the number of training images if it was a toy run, else None.
    """
    arms = summaries(comparison)
    *others, verdict = verdict_lines(comparison)
    sections = (
        Section("table", "Every way to train the student", _arms(comparison, arms)),
        Section("comparison", "Pair by pair", (*_pairs(comparison), *paragraphs(others))),
        Section("reliability", "Calibration", _calibration(comparison, arms)),
        Section("fidelity", "Does the student do what its teacher does?", _fidelity(comparison, arms)),
        Section("cost", "What it costs", _cost(comparison, spent)),
        Section("provenance", "Where this comes from", _provenance(comparison, spent, config, test, command)),
    )
    judged = comparison.across() or comparison.judgements()[0]
    return Part("compare", verdict, toy_stamp(limit), sections, TONE_OF[judged.verdict], model_settings(config))


def _arms(comparison: Comparison, arms: Arms) -> tuple[Block, ...]:
    rows = [
        (
            ARMS[arm].label,
            own["test_errors"].n,
            format_number(own["test_errors"], ".1f"),
            percent(own["test_accuracy"].mean),
        )
        for arm, own in arms.items()
    ]
    teachers = spread([teacher.errors for teacher in comparison.teachers])
    rows.append(
        (
            ARMS[TEACHER].label,
            teachers.n,
            format_number(teachers, ".1f"),
            percent(1 - teachers.mean / comparison.images),
        )
    )
    caption = f"Mean ± standard deviation over the seeds, on {comparison.images:,} test {comparison.noun}."
    alt = "; ".join(f"{row[0]}: {row[2]} errors" for row in rows)
    drawn = figure(errors_by_arm(comparison), alt=f"Test errors of every student. {alt}.")
    return table(("student", "n", "test errors", "accuracy"), rows, caption=caption), drawn


def _pairs(comparison: Comparison) -> tuple[Block, ...]:
    rows = [(title, *difference_cells(pairs)) for title, pairs in contrasts(comparison)]
    alt = "; ".join(f"distilled minus {row[0]}: {row[1]} ({row[2]})" for row in rows)
    caption = "Differences in test errors; below zero is in favour of the distilled students."
    drawn = figure(paired_differences(comparison), alt=f"Paired differences. {alt}.")
    return (drawn, table(DIFFERENCES, rows, caption=caption), *paragraphs(power_sentences(comparison)))


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


def _calibration(comparison: Comparison, arms: Arms) -> tuple[Block, ...]:
    header = ("student", "NLL", "Brier", "ECE, %", "adaptive ECE, %", "fitted T", "NLL at it", "ECE at it, %")
    rows = [
        (
            ARMS[arm].label,
            *(
                format_number(own[name], form, scale=scale) if name in own else "none"
                for name, form, scale in _CALIBRATION
            ),
        )
        for arm, own in arms.items()
    ]
    caption = (
        f"{BINS} bins; T is fitted on the validation {comparison.noun}, and left out where none fits best (a student "
        "without an error there). Mean ± standard deviation over the seeds."
    )
    alt = "Accuracy against confidence of every arm, all its students together, in bins of equal width."
    return figure(arms_reliability(comparison), alt=alt), table(header, rows, caption=caption)


def _fidelity(comparison: Comparison, arms: Arms) -> tuple[Block, ...]:
    shares_of = ("agreement_with_teacher", "agreement_where_teacher_right", "agreement_where_teacher_wrong")
    header = (
        "student",
        "agrees",
        "where it is right",
        "where it is wrong",
        "KL",
        f"KL at T = {comparison.temperature:g}",
    )
    rows = []
    for arm, own in arms.items():
        shares = [percent(own[name].mean) if name in own else "none" for name in shares_of]
        divergences = [format_number(own[name], ".4f") for name in ("kl_to_teacher", "softened_kl_to_teacher")]
        rows.append((ARMS[arm].label, *shares, *divergences))
    baseline = spread(comparison.baseline_agreement())
    told = (
        "The control was never shown the teacher: what another student agrees with beyond it comes from its training. "
        f"Two controls of different seeds, neither of which taught the other, agree on {percent(baseline.mean)} of "
        f"the test {comparison.noun}."
    )
    caption = (
        f"Agreement with the teacher's predictions, and KL(teacher ‖ student) in nats, on the test {comparison.noun}."
    )
    return table(header, rows, caption=caption), Paragraph(told)


def _cost(comparison: Comparison, spent: Cost) -> tuple[Block, ...]:
    used = [(name, *model_cells(model)) for name, model in spent.models.items()]
    own = spent.training
    rows = [
        ("teacher, its whole training", f"{own.teacher:.4g}"),
        (f"teacher, its answers to all training {comparison.noun}", f"{own.cache:.4g}"),
        ("one student, control or distilled", f"{own.student:.4g}"),
        (f"one distilled student with 1/{own.served} of the teacher", f"{own.distilled:.4g}"),
    ]
    if LONGER in comparison.students:
        rows.append((f"a control trained for {own.longer_epochs} epochs", f"{own.longer:.4g}"))
    return (
        table(MODEL_CELLS, used, caption="Where it is used: one input, one thread, on this machine"),
        table(("training", "multiply-adds"), rows, caption="To train it"),
        *paragraphs(cost_sentences(comparison, spent)),
    )


def _provenance(
    comparison: Comparison, spent: Cost, config: Mapping[str, Any], test: object, command: str
) -> tuple[Block, ...]:
    size = spent.models["teacher"].bytes
    weights = {
        f"teacher {number}": {"sha256": teacher.weights, "bytes": size}
        for number, teacher in enumerate(comparison.teachers)
    }
    seeds = "; ".join(f"{own[0]} to {own[-1]}" for own in comparison.seeds)
    students = f"Seeds of the pairs: {seeds}. Each student's digest is in `metrics/comparison_students.csv`."
    return (*provenance(config, weights, test, command), Paragraph(students))
