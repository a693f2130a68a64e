"""Students that learned little or nothing: what has to be said before any comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from torch import Tensor

from kd.evaluation.classwise import ClassScores, majority_of, score_classes

COLLAPSE_RULE = "its lead over chance in balanced accuracy is less than half of its arm's median lead"
LEAST_LEAD = 0.1  # of the median over chance; below it, an arm as a whole has learned too little to tell who collapsed
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
    """Return a sentence for each arm that is no better than the majority class, or never predicts some class.

    Args:
        arms: name of an arm → confusion matrix [K, K] of each of its models.
        labels: [N] labels of the test set.
        classes: class names in label order.
    """
    majority = majority_of(labels)
    sentences = []
    for arm, matrices in arms.items():
        errors = [len(labels) - int(matrix.diagonal().sum()) for matrix in matrices]
        useless = sum(count >= majority.errors for count in errors)
        if useless and majority.errors:
            sentences.append(
                f"{_count_models(arm, useless, len(matrices))} no better than always predicting "
                f"{classes[majority.label]}, which makes {majority.errors:,} errors on {len(labels):,} test {noun}."
            )
        never = [score_classes(matrix).never_predicted for matrix in matrices]
        blind = sum(map(bool, never))
        if blind:
            missing = sorted({label for group in never for label in group})
            names = ", ".join(classes[label] for label in missing[:NAMED])
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            verb = _count_models(arm, blind, len(matrices), verbs=("never predicts", "never predict"))
            sentences.append(f"{verb} {'class' if len(missing) == 1 else 'some classes:'} {names}{more}.")
    return sentences


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


def _count_models(arm: str, count: int, total: int, verbs: tuple[str, str] = ("is", "are")) -> str:
    if total == 1:
        return f"The {arm} {verbs[0]}"
    return f"{count} of {total} models of the arm “{arm}” {verbs[count > 1]}"


def _count_classes(scores: ClassScores) -> int:
    return sum(recall.images > 0 for recall in scores.recalls)
