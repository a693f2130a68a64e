"""What a report says of the two students of a run: against each other, beside their teacher, and where they differ."""

from __future__ import annotations

from kd.arms import ARMS, STUDENTS
from kd.commands.run.disagreements import Confusion
from kd.commands.run.report_plots import confusion_difference, paired_errors
from kd.commands.run.results import Run, Students
from kd.evaluation.fidelity import Match
from kd.report.blocks import Block, Paragraph, table
from kd.report.svg import figure

PAIRS = 10  # confusions in the table
DRAWN_CLASSES = 20  # more would be too small to read


def comparison(run: Run) -> tuple[Block, ...]:
    """Control against distilled student, image by image."""
    found, noun = run.students, run.noun
    both, only_control, only_distilled = found.both_wrong, found.test.only_first_wrong, found.test.only_second_wrong
    rows = [
        ("control wrong", f"{both:,}", f"{only_control:,}"),
        ("control right", f"{only_distilled:,}", f"{found.both_right:,}"),
    ]
    drawn = figure(
        paired_errors(both, only_control, only_distilled, noun=noun),
        alt=f"Bars: both students err on {both:,} test {noun}, only the control on {only_control:,}, "
        f"only the distilled student on {only_distilled:,}.",
        caption="Errors that the students share tell nothing of their difference.",
    )
    return drawn, table((f"test {noun}", "distilled wrong", "distilled right"), rows), Paragraph(_odds(found, noun))


def _odds(found: Students, noun: str) -> str:
    share, low, high = found.control_share, found.control_share_low_95, found.control_share_high_95
    if share is None or low is None or high is None:
        return f"There is no {noun[:-1]} on which exactly one of the two errs."
    return (
        f"On {found.exactly_one_wrong:,} {noun} exactly one of the two errs, on {100 * share:.0f} % of these the "
        f"control (95 % interval {100 * low:.0f} to {100 * high:.0f} %; 50 % is a draw; exact McNemar p = "
        f"{found.test.p_value:.2g}). The interval is for the choice of test {noun}. Another seed gives two other "
        "networks."
    )


def faithfulness(run: Run) -> tuple[Block, ...]:
    """How closely each student does what its teacher does. The control was never shown the teacher."""
    rows: list[tuple[str, ...]] = []
    for part, title in (("overall", "all"), ("teacher_right", "teacher right"), ("teacher_wrong", "teacher wrong")):
        rows += [_match_row(title, ARMS[name].short, getattr(run.fidelities[name], part)) for name in STUDENTS]
    header = (f"test {run.noun}", "student", "agreement", "KL", f"KL at T = {run.temperature:g}")
    caption = "Agreement: the teacher's answer. KL(teacher ‖ student) in nats: 0 for a copy; compare within one column"
    return Paragraph(_faithful_sentence(run)), table(header, rows, caption=caption)


def _match_row(title: str, student: str, match: Match | None) -> tuple[str, ...]:
    if match is None:
        return (f"{title}: 0", student, "", "", "")
    agreement, kl, softened = f"{100 * match.agreement:.2f} %", f"{match.kl:.4f}", f"{match.softened_kl:.4f}"
    return (f"{title}: {match.images:,}", student, agreement, kl, softened)


def _faithful_sentence(run: Run) -> str:
    control, distilled = (run.fidelities[name].overall for name in STUDENTS)
    temperature, noun = run.temperature, run.noun
    closer = "closer" if distilled.softened_kl < control.softened_kl else "not closer"
    return (
        f"The distilled student gives the teacher's answer to {100 * distilled.agreement:.2f} % of the test {noun}, "
        f"the control, which never saw the teacher, to {100 * control.agreement:.2f} %. Softened by "
        f"T = {temperature:g}{', as in training,' * run.plain} its probabilities are {closer} to the teacher's (KL "
        f"{distilled.softened_kl:.4f} against {control.softened_kl:.4f} nats). To be like the teacher is not to be "
        f"right: the last rows are the {noun} on which the teacher errs."
    )


def confusions(run: Run) -> tuple[Block, ...]:
    """Which errors the distilled student makes more or less often than the control, and where they come from."""
    if not run.confusions:
        return (Paragraph("The two students make the same errors, counted by class."),)
    text = (
        f"By pairs of classes the distilled student has {run.fewer_confusions:,} errors fewer and "
        f"{run.more_confusions:,} more than the control. "
        "Mended: the control erred so, the distilled student is right. New: the reverse. The last column is what the "
        f"teacher, softened, gives to the wrong class on these {run.noun}: where it is high, it too finds the two "
        "alike."
    )
    return (Paragraph(text), *_drawn(run), _confusion_table(run))


def _taken(run: Run, found: Confusion) -> str:
    return f"{run.named(found.true)} taken for {run.named(found.predicted)}"


def _drawn(run: Run) -> tuple[Block, ...]:
    if len(run.confusion_change) > DRAWN_CLASSES:
        return ()
    told = "; ".join(f"{_taken(run, c)}: {c.difference:+d}" for c in run.confusions[:PAIRS])
    drawn = figure(
        confusion_difference(run.confusion_change, run.classes),
        alt=f"Matrix of differences in errors by true and predicted class. The largest: {told}.",
        caption="Blue with a minus: the distilled student makes fewer of these errors. Orange with a plus: more.",
    )
    return (drawn,)


def _confusion_table(run: Run) -> Block:
    found = run.confusions
    rows = [
        (
            _taken(run, c),
            c.control,
            c.distilled,
            f"{c.difference:+d}".replace("-", "−"),
            c.mended,
            c.new,
            f"{100 * c.teacher:.0f} %",
        )
        for c in found[:PAIRS]
    ]
    header = ("confusion", "control", "distilled", "difference", "mended", "new", f"teacher at T = {run.temperature:g}")
    caption = f"The {len(rows)} largest differences of {len(found)}" if len(found) > len(rows) else ""
    return table(header, rows, caption=caption)
