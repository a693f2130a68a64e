"""Report sections of ``kd compare``: verdict, pairs, calibration, fidelity and cost of every arm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd.arms import ARMS, LONGER, TEACHER, arm_of
from kd.commands.compare.plots import drawings
from kd.commands.compare.text import LATENCY, MODEL_CELLS, cost_sentences, merge_costs, model_cells
from kd.commands.differences_report import show_differences
from kd.commands.paired_table import format_number, percent
from kd.commands.publish import model_settings, quick_run_stamp
from kd.commands.recipe_settings import CHOSEN_EPOCH
from kd.commands.slices_report import show_slices
from kd.evaluation.calibration import BINS
from kd.evaluation.classwise import majority_of, score_classes
from kd.evaluation.comparison import Comparison
from kd.evaluation.comparison_rows import summaries
from kd.evaluation.comparison_slices import Slices
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.cost import Cost
from kd.evaluation.metrics import confusion_matrix
from kd.evaluation.paired_seeds import Spread, spread
from kd.report.blocks import Block, Paragraph, paragraphs, table
from kd.report.drawings import Drawing
from kd.report.page import TONE_OF, Part, Section
from kd.report.provenance import provenance
from kd.report.svg import figure

Arms = Mapping[str, Mapping[str, Spread]]  # arm → column of ``student_rows`` → spread


def compare_part(
    verdicts: Verdicts,
    cost: Cost,
    config: Mapping[str, Any],
    *,
    test: object,
    command: str,
    limit: int | None,
    slices: Slices,
    questions: tuple[Block, ...] = (),
) -> Part:
    """Build the report sections of a comparison.

    Args:
        config: the settings of the run.
        test: the test set.
        command: the command line as typed; "" if there was none.
        limit: the number of training images of a quick run, else None.
        questions: table of all questions asked of the test set.
    """
    comparison = verdicts.comparison
    arms = summaries(comparison)
    *other_verdicts, verdict = verdicts.lines
    sections = (
        Section(
            "table",
            "Test errors of all arms",
            (*show_arms(comparison, arms, drawings(comparison)["comparison_errors"]), *describe_epoch(config)),
        ),
        Section(
            "comparison", "Paired differences", (*show_differences(verdicts), *questions, *paragraphs(other_verdicts))
        ),
        Section("slices", "Where it helps", show_slices(slices, withheld=verdicts.is_withheld)),
        Section("reliability", "Calibration", _show_calibration(comparison, arms)),
        Section("fidelity", "Fidelity to the teacher", tabulate_fidelity(comparison, arms)),
        Section("cost", "Cost", show_cost(comparison, {"": cost})),
        Section("provenance", "Provenance", show_provenance(comparison, cost, config, test, command)),
    )
    tone = TONE_OF[verdicts.main.verdict]
    return Part("compare", verdict, quick_run_stamp(limit), sections, tone, model_settings(config))


def show_arms(comparison: Comparison, arms: Arms, errors: Drawing) -> tuple[Block, ...]:
    """Return the table of test errors with a row for each arm and one for the teachers, and the drawing of them."""
    rows = [
        (
            arm_of(arm).label,
            spreads["test_errors"].n,
            format_number(spreads["test_errors"], ",.1f"),
            percent(spreads["test_accuracy"].mean),
            percent(spreads["balanced_accuracy"].mean),
            percent(spreads["macro_f1"].mean),
        )
        for arm, spreads in arms.items()
    ]
    teachers = spread([teacher.errors for teacher in comparison.teachers])
    scores = [score_classes(confusion_matrix(*teacher.test)) for teacher in comparison.teachers]
    rows.append(
        (
            ARMS[TEACHER].label,
            teachers.n,
            format_number(teachers, ",.1f"),
            percent(1 - teachers.mean / comparison.images),
            percent(spread([score.balanced_accuracy for score in scores]).mean),
            percent(spread([score.macro_f1 for score in scores]).mean),
        )
    )
    majority = majority_of(comparison.labels)
    caption = (
        f"Mean ± standard deviation over the seeds, on {comparison.images:,} test {comparison.noun}; always predicting "
        f"{comparison.class_name(majority.label)} makes {majority.errors:,} errors"
    )
    alt = "; ".join(f"{row[0]}: {row[2]} errors" for row in rows)
    drawing = figure(errors, alt=f"Test errors of every student. {alt}.")
    return table(
        ("student", "n", "test errors", "accuracy", "balanced accuracy", "macro-F1"), rows, caption=caption
    ), drawing


# Column of ``student_rows``, its format specification and its scale.
_CALIBRATION_COLUMNS = (
    ("nll", ".4f", 1),
    ("brier", ".4f", 1),
    ("ece", ".2f", 100),
    ("adaptive_ece", ".2f", 100),
    ("fitted_temperature", ".2f", 1),
    ("nll_after_scaling", ".4f", 1),
    ("ece_after_scaling", ".2f", 100),
)


def _show_calibration(comparison: Comparison, arms: Arms) -> tuple[Block, ...]:
    alt = "Accuracy against confidence of every arm in bins of equal width, with the students of an arm pooled."
    drawing = figure(drawings(comparison)["comparison_reliability"], alt=alt)
    return drawing, tabulate_calibration(comparison, arms)


def tabulate_calibration(comparison: Comparison, arms: Arms) -> Block:
    """Return the calibration of each arm before and after temperature scaling."""
    header = ("student", "NLL", "Brier", "ECE, %", "adaptive ECE, %", "fitted T", "NLL at T", "ECE at T, %")
    rows = [
        (
            arm_of(arm).label,
            *(
                format_number(spreads[name], spec, scale=scale) if name in spreads else "none"
                for name, spec, scale in _CALIBRATION_COLUMNS
            ),
        )
        for arm, spreads in arms.items()
    ]
    caption = (
        f"Mean ± standard deviation over the seeds; {BINS} bins. The temperature T is fitted on the validation "
        f"{comparison.noun}. Students without validation errors have no optimal T and are omitted from its columns."
    )
    return table(header, rows, caption=caption)


def tabulate_fidelity(comparison: Comparison, arms: Arms) -> tuple[Block, ...]:
    """Return the agreement and divergence of each arm from its teacher, with an explanation."""
    share_columns = ("agreement_with_teacher", "agreement_where_teacher_right", "agreement_where_teacher_wrong")
    header = (
        "student",
        "agreement",
        "if teacher right",
        "if teacher wrong",
        "KL",
        f"KL at T = {comparison.temperature:g}",
    )
    rows = []
    for arm, spreads in arms.items():
        shares = [percent(spreads[name].mean) if name in spreads else "none" for name in share_columns]
        divergences = [format_number(spreads[name], ".4f") for name in ("kl_to_teacher", "softened_kl_to_teacher")]
        rows.append((arm_of(arm).label, *shares, *divergences))
    baseline = spread(comparison.baseline_agreement())
    explanation = (
        "The control is trained without the teacher, so only agreement above the control's can be due to the "
        f"training method. Two controls with different seeds agree on {percent(baseline.mean)} of the test "
        f"{comparison.noun}."
    )
    caption = (
        f"Agreement with the teacher's predictions on all test {comparison.noun} and on those it classifies correctly "
        "or wrongly; KL(teacher ‖ student) in nats."
    )
    return table(header, rows, caption=caption), Paragraph(explanation)


def show_cost(comparison: Comparison, costs: Mapping[str, Cost]) -> tuple[Block, ...]:
    """Return the tables of computational costs and sentences on them.

    Args:
        costs: by method; the name of a single method may be "".
    """
    cost = next(iter(costs.values()))
    footprints = [(name, *model_cells(model)) for name, model in cost.models.items()]
    training = cost.training
    rows = [
        ("training of the teacher", f"{training.teacher:.4g}"),
        ("one student, control or distilled", f"{training.student:.4g}"),
    ]
    for names, own in merge_costs(costs).items():
        of, share = (f", {names}" if names else ""), f"1/{training.served} of the teacher's computation"
        rows.append((f"the teacher's logits of all training {comparison.noun}{of}", f"{own.training.cache:.4g}"))
        rows.append((f"one distilled student and {share}{of}", f"{own.training.distilled:.4g}"))
    if LONGER in comparison.students:
        epochs = comparison.longer_epochs or training.longer_epochs
        rows.append((f"one control trained for {epochs} epochs", f"{training.longer_at(epochs):.4g}"))
    return (
        table(MODEL_CELLS, footprints, caption=f"Inference on this machine: one input, one thread; {LATENCY}"),
        table(("computation", "multiply-adds"), rows, caption="Training"),
        *paragraphs(cost_sentences(comparison, costs)),
    )


def describe_epoch(config: Mapping[str, Any]) -> tuple[Paragraph, ...]:
    """Return a paragraph if the validation results chose the epoch of each student."""
    return (Paragraph(CHOSEN_EPOCH),) if config.get("KEEP") == "best" else ()


def show_provenance(
    comparison: Comparison, cost: Cost, config: Mapping[str, Any], test: object, command: str
) -> tuple[Block, ...]:
    """Return settings, digests of data and weights, versions and seeds."""
    size = cost.models["teacher"].bytes
    weights = {
        f"teacher {number}": {"sha256": teacher.weights, "bytes": size}
        for number, teacher in enumerate(comparison.teachers)
    }
    seeds = "; ".join(f"{group[0]} to {group[-1]}" for group in comparison.seeds)
    students = (
        f"Seeds of the pairs: {seeds}. The hash of each student's weights is in `metrics/comparison_students.csv`."
    )
    return (*provenance(config, weights, test, command), Paragraph(students))
