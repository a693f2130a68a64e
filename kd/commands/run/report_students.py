"""What a report says of the two students of a run: against each other, beside their teacher, and where they differ."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kd.commands.run.report_plots import confusion_difference, paired_errors
from kd.commands.run.results import Run
from kd.evaluation.fidelity import Fidelity, Match, fidelity
from kd.evaluation.metrics import confusion_matrix
from kd.evaluation.two_models import mcnemar, proportion_interval
from kd.report.html import paragraph, table
from kd.report.svg import figure

PAIRS = 10  # confusions in the table
DRAWN_CLASSES = 20  # more would be too small to read


def comparison(run: Run) -> str:
    """Control against distilled student, image by image, as HTML."""
    control, distilled = run.wrong("regular"), run.wrong("distilled")
    test, both = mcnemar(control, distilled), int((control & distilled).sum())
    single = test.only_first_wrong + test.only_second_wrong
    rows = [
        ("control wrong", f"{both:,}", f"{test.only_first_wrong:,}"),
        ("control right", f"{test.only_second_wrong:,}", f"{int((~control & ~distilled).sum()):,}"),
    ]
    drawn = figure(
        paired_errors(both, test.only_first_wrong, test.only_second_wrong, noun=run.noun),
        alt=f"Bars: both students err on {both:,} test {run.noun}, only the control on {test.only_first_wrong:,}, "
        f"only the distilled student on {test.only_second_wrong:,}.",
        caption="Errors that the students share tell nothing of their difference.",
    )
    return (
        drawn
        + table((f"test {run.noun}", "distilled wrong", "distilled right"), rows)
        + paragraph(_odds(test.only_first_wrong, single, test.p_value, run.noun))
    )


def _odds(only_control: int, single: int, p_value: float, noun: str) -> str:
    if not single:
        return f"There is no {noun[:-1]} on which exactly one of the two errs."
    low, high = proportion_interval(only_control, single)
    share = 100 * only_control / single
    return (
        f"On {single:,} {noun} exactly one of the two errs, on {share:.0f} % of these the control "
        f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %; 50 % is a draw; exact McNemar p = {p_value:.2g}). "
        f"The interval is for the choice of test {noun}. Another seed gives two other networks."
    )


def faithfulness(run: Run, temperature: float) -> str:
    """How closely each student does what its teacher does, as HTML. The control was never shown the teacher.

    Args:
        temperature: T > 0 of the distillation.
    """
    teacher = run.logits["teacher"]
    matched = {
        name: fidelity(run.logits[name], teacher, run.labels, temperature=temperature)
        for name in ("regular", "distilled")
    }
    rows: list[tuple[str, ...]] = []
    for part, title in (("overall", "all"), ("teacher_right", "teacher right"), ("teacher_wrong", "teacher wrong")):
        rows += [_match_row(title, name, getattr(matched[key], part)) for key, name in _SHORT.items()]
    header = (f"test {run.noun}", "student", "agreement", "KL", f"KL at T = {temperature:g}")
    caption = "Agreement: the teacher's answer. KL(teacher ‖ student) in nats: 0 for a copy; compare within one column"
    return paragraph(_faithful_sentence(matched, run.noun, trained=run.plain)) + table(header, rows, caption=caption)


_SHORT = {"regular": "control", "distilled": "distilled"}


def _match_row(title: str, student: str, match: Match | None) -> tuple[str, ...]:
    if match is None:
        return (f"{title}: 0", student, "", "", "")
    agreement, kl, softened = f"{100 * match.agreement:.2f} %", f"{match.kl:.4f}", f"{match.softened_kl:.4f}"
    return (f"{title}: {match.images:,}", student, agreement, kl, softened)


def _faithful_sentence(matched: dict[str, Fidelity], noun: str, *, trained: bool) -> str:
    control, distilled = (matched[name].overall for name in ("regular", "distilled"))
    temperature = matched["distilled"].temperature
    closer = "closer" if distilled.softened_kl < control.softened_kl else "not closer"
    return (
        f"The distilled student gives the teacher's answer to {100 * distilled.agreement:.2f} % of the test {noun}, "
        f"the control, which never saw the teacher, to {100 * control.agreement:.2f} %. Softened by "
        f"T = {temperature:g}{', as in training,' * trained} its probabilities are {closer} to the teacher's (KL "
        f"{distilled.softened_kl:.4f} against {control.softened_kl:.4f} nats). To be like the teacher is not to be "
        f"right: the last rows are the {noun} on which the teacher errs."
    )


class Confusion(NamedTuple):
    """One way to err: images of class ``true`` taken for ``predicted``, by control and distilled student.

    ``mended`` of the control's the distilled student has right; ``new`` of the distilled student's the control has.
    ``teacher`` is the mean probability that the softened teacher gives to ``predicted`` on all images concerned.
    """

    true: int
    predicted: int
    control: int
    distilled: int
    mended: int
    new: int
    teacher: float


def confusions(run: Run, temperature: float) -> str:
    """Which errors the distilled student makes more or less often than the control, and where they come from."""
    matrices = [confusion_matrix(run.logits[name], run.labels) for name in ("regular", "distilled")]
    difference = matrices[1] - matrices[0]
    difference.fill_diagonal_(0)
    if not difference.any():
        return paragraph("The two students make the same errors, counted by class.")
    found = [
        confusion(run, true, predicted, temperature)
        for true, predicted in difference.nonzero().tolist()
        if difference[true, predicted]
    ]
    found.sort(key=lambda c: (-abs(c.distilled - c.control), c.true, c.predicted))
    fewer, more = int(difference.clamp(max=0).sum()), int(difference.clamp(min=0).sum())
    text = (
        f"By pairs of classes the distilled student has {-fewer:,} errors fewer and {more:,} more than the control. "
        "Mended: the control erred so, the distilled student is right. New: the reverse. The last column is what the "
        f"teacher, softened, gives to the wrong class on these {run.noun}: where it is high, it too finds the two "
        "alike."
    )
    return paragraph(text) + _drawn(run, difference, found) + _confusion_table(run, found, temperature)


def confusion(run: Run, true: int, predicted: int, temperature: float) -> Confusion:
    """What there is to say on one pair of classes that at least one student confuses."""
    said = {name: (run.labels == true) & (run.logits[name].argmax(dim=1) == predicted) for name in _SHORT}
    either = said["regular"] | said["distilled"]
    softened = (run.logits["teacher"][either].double() / temperature).softmax(dim=1)[:, predicted]
    return Confusion(
        true,
        predicted,
        int(said["regular"].sum()),
        int(said["distilled"].sum()),
        int((said["regular"] & ~run.wrong("distilled")).sum()),
        int((said["distilled"] & ~run.wrong("regular")).sum()),
        float(softened.mean()),
    )


def _taken(run: Run, found: Confusion) -> str:
    return f"{run.named(found.true)} taken for {run.named(found.predicted)}"


def _drawn(run: Run, difference: Tensor, found: list[Confusion]) -> str:
    if len(difference) > DRAWN_CLASSES:
        return ""
    told = "; ".join(f"{_taken(run, c)}: {c.distilled - c.control:+d}" for c in found[:PAIRS])
    return figure(
        confusion_difference(difference, run.classes),
        alt=f"Matrix of differences in errors by true and predicted class. The largest: {told}.",
        caption="Blue with a minus: the distilled student makes fewer of these errors. Orange with a plus: more.",
    )


def _confusion_table(run: Run, found: list[Confusion], temperature: float) -> str:
    rows = [
        (
            _taken(run, c),
            c.control,
            c.distilled,
            f"{c.distilled - c.control:+d}".replace("-", "−"),
            c.mended,
            c.new,
            f"{100 * c.teacher:.0f} %",
        )
        for c in found[:PAIRS]
    ]
    header = ("confusion", "control", "distilled", "difference", "mended", "new", f"teacher at T = {temperature:g}")
    caption = f"The {len(rows)} largest differences of {len(found)}" if len(found) > len(rows) else ""
    return table(header, rows, caption=caption)
