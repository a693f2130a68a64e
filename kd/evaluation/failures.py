"""Students that learned little or nothing, to be reported before any comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from torch import Tensor

from kd.evaluation.classwise import ClassScores, majority_of, score_classes

COLLAPSE_RULE = "its lead over chance in balanced accuracy is less than half of its arm's median lead"
LEAST_LEAD = 0.1  # of the median over chance; below it, an arm as a whole has learned too little to tell who collapsed
WEAK = 0.9  # of the control's errors; a teacher with more has little to teach
NAMED = 5  # classes to name in a sentence


def find_collapsed(arms: Mapping[str, Sequence[ClassScores]]) -> dict[str, list[int]]:
    """Return the indices of the collapsed students of each arm; arms without any are omitted.

    A student has collapsed if its balanced accuracy leads chance (1 / C for C classes with test items) by less than
    half of the median lead of its arm. Where the median leads by less than 10 percentage points, no student is named.
    """
    found = {}
    for arm, students in arms.items():
        leads = [student.balanced_accuracy - 1 / _count_classes(student) for student in students]
        middle = median(leads)
        indices = [index for index, lead in enumerate(leads) if lead < middle / 2]
        if indices and middle >= LEAST_LEAD:
            found[arm] = indices
    return found


def describe_failures(
    arms: Mapping[str, Sequence[Tensor]], labels: Tensor, classes: Sequence[str], noun: str = "images"
) -> list[str]:
    """Name the arms with models that are no better than the majority class, or that never predict some class.

    Args:
        arms: name of an arm → confusion matrix [K, K] of each of its models.
        labels: [N] labels of the test set.
        classes: class names in label order.
    """
    majority = majority_of(labels)
    if not majority.errors:
        return []
    useless, blind, missing = [], [], set[int]()
    for arm, matrices in arms.items():
        errors = [len(labels) - int(matrix.diagonal().sum()) for matrix in matrices]
        never = [score_classes(matrix).never_predicted for matrix in matrices]
        useless += _count_models(arm, [count >= majority.errors for count in errors])
        blind += _count_models(arm, list(map(bool, never)))
        missing |= {label for group in never for label in group}
    sentences = []
    if useless:
        sentences.append(
            f"No better than always predicting {classes[majority.label]}, which makes {majority.errors:,} errors on "
            f"{len(labels):,} test {noun}: {', '.join(useless)}."
        )
    if blind:
        names = ", ".join(classes[label] for label in sorted(missing)[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        sentences.append(f"Models that never predict {names}{more}: {', '.join(blind)}.")
    return sentences


def describe_weak_teacher(teacher: float, control: float, noun: str = "images") -> str | None:
    """Return a sentence if the teacher makes at least ``WEAK`` of the control's errors.

    Args:
        teacher, control: errors on the same test set, or their means over several models.
    """
    if teacher < WEAK * control or not teacher:
        return None
    return (
        f"The teacher is hardly better than the control: {teacher:,.4g} errors on the test {noun}, the "
        f"control {control:,.4g}. "
        "It has little to teach; a better teacher is worth more than another method."
    )


def describe_gap(name: str, validation: float, validated: int, test: float, tested: int) -> str | None:
    """Return a sentence if the test accuracy is far below the validation accuracy, as with labels in another order.

    Far is more than ten percentage points and five standard errors of the difference.

    Args:
        validation, test: accuracies in [0, 1].
        validated, tested: numbers of samples, at least 1.
    """
    common = (validation * validated + test * tested) / (validated + tested)
    error = (common * (1 - common) * (1 / validated + 1 / tested)) ** 0.5
    if validation - test <= max(0.1, 5 * error):
        return None
    return (
        f"The {name} is right for {validation:.1%} of the validation samples, but only for {test:.1%} of the test "
        "samples. Check the labels of the test set and their order, and whether it is data of the same kind."
    )


def _count_models(arm: str, flags: Sequence[bool]) -> list[str]:
    """Return the arm with the number of its models for which the flag is set; nothing if there are none."""
    if not any(flags):
        return []
    return [arm if len(flags) == 1 else f"{arm} ({sum(flags)} of {len(flags)})"]


def _count_classes(scores: ClassScores) -> int:
    return sum(recall.images > 0 for recall in scores.recalls)
