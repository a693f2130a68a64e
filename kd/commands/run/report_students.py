"""Report sections on the two students of a run: compared with each other, with the teacher, and by confusions."""

from __future__ import annotations

from functools import partial

from kd.arms import ARMS, STUDENTS
from kd.commands.run.disagreements import Confusion
from kd.commands.run.report_plots import confusion_difference, paired_errors
from kd.commands.run.results import Run, Students
from kd.evaluation.fidelity import Match
from kd.formatting import equate_p
from kd.report.blocks import Block, Paragraph, table
from kd.report.svg import figure

PAIRS = 10  # confusions in the table
DRAWN_CLASSES = 20  # largest matrix to draw; a larger one is unreadable


def compare_students(run: Run) -> tuple[Block, ...]:
    """Compare the errors of control and distilled student image by image."""
    students, noun = run.students, run.noun
    both, only_control = students.both_wrong, students.test.only_first_wrong
    only_distilled = students.test.only_second_wrong
    rows = [
        ("control wrong", f"{both:,}", f"{only_control:,}"),
        ("control right", f"{only_distilled:,}", f"{students.both_right:,}"),
    ]
    chart = figure(
        partial(paired_errors, both, only_control, only_distilled, noun=noun),
        alt=f"Bars: both students err on {both:,} test {noun}, only the control on {only_control:,}, "
        f"only the distilled student on {only_distilled:,}.",
        caption="Errors common to both students do not affect the comparison.",
    )
    header = (f"test {noun}", "distilled wrong", "distilled right")
    return chart, table(header, rows), Paragraph(_describe_odds(students, noun))


def _describe_odds(students: Students, noun: str) -> str:
    share, low, high = students.control_share, students.control_share_low_95, students.control_share_high_95
    if share is None or low is None or high is None:
        return f"There is no test {noun[:-1]} on which exactly one student is wrong."
    return (
        f"Exactly one student is wrong on {students.exactly_one_wrong:,} test {noun}. On {100 * share:.0f} % of these "
        f"it is the control (95 % interval {100 * low:.0f} to {100 * high:.0f} %; 50 % means no difference; exact "
        f"McNemar {equate_p(students.test.p_value)}). The interval covers only the choice of test {noun}; another seed "
        "gives two other networks."
    )


def compare_with_teacher(run: Run) -> tuple[Block, ...]:
    """Compare the predictions of each student with the teacher's. The control was trained without the teacher."""
    rows: list[tuple[str, ...]] = []
    for subset, title in (("overall", "all"), ("teacher_right", "teacher right"), ("teacher_wrong", "teacher wrong")):
        rows += [_match_row(title, ARMS[name].short, getattr(run.fidelities[name], subset)) for name in STUDENTS]
    header = (f"test {run.noun}", "student", "agreement", "KL", f"KL at T = {run.temperature:g}")
    caption = (
        "Agreement: same predicted class as the teacher. KL(teacher ‖ student) in nats: 0 for equal probabilities; "
        "compare only within a column"
    )
    return Paragraph(_describe_fidelity(run)), table(header, rows, caption=caption)


def _match_row(title: str, student: str, match: Match | None) -> tuple[str, ...]:
    if match is None:
        return (f"{title}: 0", student, "", "", "")
    agreement, kl, softened = f"{100 * match.agreement:.2f} %", f"{match.kl:.4f}", f"{match.softened_kl:.4f}"
    return (f"{title}: {match.images:,}", student, agreement, kl, softened)


def _describe_fidelity(run: Run) -> str:
    control, distilled = (run.fidelities[name].overall for name in STUDENTS)
    temperature, noun = run.temperature, run.noun
    closer = "closer" if distilled.softened_kl < control.softened_kl else "not closer"
    return (
        f"The distilled student predicts the teacher's class for {100 * distilled.agreement:.2f} % of the test {noun}, "
        f"and the control, trained without the teacher, for {100 * control.agreement:.2f} %. At T = "
        f"{temperature:g}{', as in training' * run.is_plain_kd}, the distilled student's probabilities are {closer} to "
        f"the teacher's than the control's (KL {distilled.softened_kl:.4f} against {control.softened_kl:.4f} nats). "
        f"Agreement with the teacher is not accuracy: the last rows are the {noun} that the teacher misclassifies."
    )


def compare_confusions(run: Run) -> tuple[Block, ...]:
    """Show which errors the distilled student makes more or less often than the control."""
    if not run.confusions:
        return (Paragraph("For each pair of classes, the two students make the same number of errors."),)
    text = (
        f"Compared with the control, the distilled student makes {run.fewer_confusions:,} fewer errors on some pairs "
        f"of classes and {run.more_confusions:,} more on others. Mended: the control is wrong, the distilled student "
        "right. New: the reverse. The last column is the mean softened teacher probability of the wrong class on these "
        f"{run.noun}; a high value means that the two classes are similar for the teacher, too."
    )
    return (Paragraph(text), *_draw_matrix(run), _confusion_table(run))


def _format_confusion(run: Run, confusion: Confusion) -> str:
    return f"{run.class_name(confusion.true)} predicted as {run.class_name(confusion.predicted)}"


def _draw_matrix(run: Run) -> tuple[Block, ...]:
    if len(run.confusion_change) > DRAWN_CLASSES:
        return ()
    largest = "; ".join(f"{_format_confusion(run, c)}: {c.difference:+,d}" for c in run.confusions[:PAIRS])
    matrix = figure(
        partial(confusion_difference, run.confusion_change, run.classes),
        alt=f"Matrix of differences in errors by true and predicted class. The largest: {largest}.",
        caption="Blue with a minus: the distilled student makes fewer of these errors. Orange with a plus: more.",
    )
    return (matrix,)


def _confusion_table(run: Run) -> Block:
    confusions = run.confusions
    rows = [
        (
            _format_confusion(run, c),
            c.control,
            c.distilled,
            f"{c.difference:+,d}".replace("-", "−"),
            c.mended,
            c.new,
            f"{100 * c.teacher:.0f} %",
        )
        for c in confusions[:PAIRS]
    ]
    teacher = f"teacher at T = {run.temperature:g}"
    header = ("confusion", "control", "distilled", "difference", "corrected", "new", teacher)
    caption = f"The {len(rows)} largest differences of {len(confusions)}" if len(confusions) > len(rows) else ""
    return table(header, rows, caption=caption)
