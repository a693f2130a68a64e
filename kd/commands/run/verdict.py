"""What a run says of its models: the verdict on the two students, failures before it, and a weak teacher."""

from __future__ import annotations

from kd.arms import CONTROL, DISTILLED, STUDENTS, TEACHER, arm_of
from kd.commands.run.results import Run
from kd.evaluation.failures import describe_failures, describe_gap, describe_weak_teacher, find_useless
from kd.evaluation.quantities import ERRORS, Quantity, choose_quantity, item_losses
from kd.evaluation.two_models import find_better, verdict
from kd.report.page import Tone


def write_verdict(run: Run) -> str:
    """Return the verdict on these two students, in a sentence or two, after failures of the models."""
    control, distilled = (run.accuracies[name].errors for name in STUDENTS)
    text = verdict(control, distilled, run.students.test, noun=run.noun, balanced=_measure_balanced(run))
    return " ".join([*describe_models(run), text])


def choose_tone(run: Run) -> Tone:
    """Return the tone that matches ``write_verdict``: open if the better student learned nothing either."""
    better, quantity = find_better(run.students.test, _measure_balanced(run)), _choose_quantity(run)
    if better is None:
        return "open"
    value, _ = _measure(run, quantity, better, better)
    (is_useless,) = find_useless({better: [value]}, quantity, run.labels)[better]
    return "open" if is_useless else "better" if better == DISTILLED else "worse"


def describe_models(run: Run) -> list[str]:
    """Return sentences on models that are no better than the majority class, or never predict some class."""
    arms = {arm_of(name).label: [matrix] for name, matrix in run.confusion_matrices.items()}
    names = [run.class_name(label) for label in range(len(run.confusion_matrices[TEACHER]))]
    failures = describe_failures(arms, run.labels, names, run.noun, quantity=_choose_quantity(run))
    return [*failures, *_describe_gaps(run)]


def list_remarks(run: Run) -> list[str]:
    """Return a sentence if the teacher is hardly better than the control, else nothing."""
    quantity = _choose_quantity(run)
    weak = describe_weak_teacher(*_measure(run, quantity, TEACHER, CONTROL), run.noun, quantity)
    return [weak] if weak else []


def _describe_gaps(run: Run) -> list[str]:
    """Name models whose test accuracy is far below the validation accuracy of their final weights."""
    if not run.validation_size:
        return []
    found = [
        describe_gap(
            arm_of(name).label,
            history.final("val_acc"),
            run.validation_size,
            run.accuracies[name].accuracy,
            len(run.labels),
        )
        for name, history in run.histories.items()
        if history.get("val_acc")
    ]
    return [sentence for sentence in found if sentence]


def _choose_quantity(run: Run) -> Quantity:
    """Return what decides in ``kd compare``: the balanced error if the classes differ much in size."""
    return choose_quantity("auto", run.labels, ())


def _measure_balanced(run: Run) -> tuple[float, float] | None:
    """Return the balanced errors of control and distilled student, if these decide in ``kd compare``."""
    quantity = _choose_quantity(run)
    return None if quantity == ERRORS else _measure(run, quantity, *STUDENTS)


def _measure(run: Run, quantity: Quantity, first: str, second: str) -> tuple[float, float]:
    """Return a quantity of two models."""
    values = [float(item_losses(quantity, run.logits[name], run.labels).sum()) for name in (first, second)]
    return values[0], values[1]
