"""Students that learned little or nothing, to be reported before any comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, median

from torch import Tensor

from kd.evaluation.classwise import ClassScores, majority_of, score_classes
from kd.evaluation.quantities import ERRORS, Quantity, constant_value
from kd.formatting import count_noun

COLLAPSE_RULE = (
    "its lead over chance in balanced accuracy is less than half of its arm's median lead, by more than the sampling "
    "error of the test set"
)
FALSE_COLLAPSE = 0.01  # probability that sampling error alone makes some student of a comparison collapse
LEAST_LEAD = 0.1  # of the median over chance; below it, an arm as a whole has learned too little to tell who collapsed
WEAK = 0.9  # of the control's errors, or of what decides; a teacher with more has little to teach
NAMED = 5  # classes to name in a sentence


def find_collapsed(arms: Mapping[str, Sequence[ClassScores]]) -> dict[str, list[int]]:
    """Return the indices of the collapsed students of each arm; arms without any are omitted.

    A student has collapsed if its balanced accuracy leads chance (1 / C for C classes with test items) by less than
    half of the median lead of its arm, and the shortfall exceeds the sampling error of a finite test set, adjusted for
    the number of students. Where the median leads by less than 10 percentage points, no student is named.
    """
    found = {}
    errors_allowed = NormalDist().inv_cdf(1 - FALSE_COLLAPSE / max(1, sum(map(len, arms.values()))))
    for arm, students in arms.items():
        leads = [student.balanced_accuracy - 1 / _count_classes(student) for student in students]
        variances = list(map(_sampling_variance, students))
        middle = median(leads)
        # The median of n normal values has π / 2 times the variance of their mean.
        of_half = math.pi / 2 * fmean(variances) / len(students) / 4
        highest = [lead + errors_allowed * math.sqrt(own + of_half) for lead, own in zip(leads, variances, strict=True)]
        indices = [index for index, lead in enumerate(highest) if lead < middle / 2]
        if indices and middle >= LEAST_LEAD:
            found[arm] = indices
    return found


def describe_collapse(counts: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return a sentence on collapsed students, if there are any: name of an arm → collapsed, all."""
    texts = [f"{collapsed} of {count} ({name})" for name, (collapsed, count) in counts.items() if collapsed]
    return [f"Students collapsed: {', '.join(texts)}. A student has collapsed if {COLLAPSE_RULE}."] if texts else []


def find_useless(values: Mapping[str, Sequence[float]], quantity: Quantity, labels: Tensor) -> dict[str, list[bool]]:
    """Return for each model of each arm whether it is no better than a prediction that ignores the inputs.

    Args:
        values: name of an arm → value of the quantity for each of its models.
        labels: [N] labels of the test set.
    """
    constant = constant_value(quantity, labels)
    # Below a tolerance, sums in another order differ. A constant of 0, of a single class, tells nothing.
    return {arm: [constant > 0 and value > constant * (1 - 1e-9) for value in models] for arm, models in values.items()}


def describe_failures(
    arms: Mapping[str, Sequence[Tensor]],
    labels: Tensor,
    classes: Sequence[str],
    noun: str = "images",
    *,
    quantity: Quantity = ERRORS,
    values: Mapping[str, Sequence[float]] | None = None,
) -> list[str]:
    """Name the arms with models that are no better than the majority class, or that never predict some class.

    Args:
        arms: name of an arm → confusion matrix [K, K] of each of its models.
        labels: [N] labels of the test set.
        classes: class names in label order.
        quantity: what decides, and so what "no better" refers to.
        values: name of an arm → value of the quantity for each of its models; None for errors and balanced error,
            which follow from the matrices.
    """
    if not majority_of(labels).errors:
        return []
    if values is None:
        values = {arm: [_measure(quantity, matrix) for matrix in matrices] for arm, matrices in arms.items()}
    useless = [
        text for arm, flags in find_useless(values, quantity, labels).items() for text in _count_models(arm, flags)
    ]
    blind, missing = [], set[int]()
    for arm, matrices in arms.items():
        never = [score_classes(matrix).never_predicted for matrix in matrices]
        blind += _count_models(arm, list(map(bool, never)))
        missing |= {label for group in never for label in group}
    sentences = []
    if useless:
        sentences.append(f"No better than {_describe_constant(quantity, labels, classes, noun)}: {', '.join(useless)}.")
    if blind:
        names = ", ".join(classes[label] for label in sorted(missing)[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        some = "at least one of " if len(missing) > 1 else ""
        sentences.append(f"Models that never predict {some}{names}{more}: {', '.join(blind)}.")
    return sentences


def describe_weak_teacher(
    teacher: float, control: float, noun: str = "images", quantity: Quantity = ERRORS
) -> str | None:
    """Return a sentence if the teacher has at least ``WEAK`` of the control's errors, or of another quantity.

    Args:
        teacher, control: value of the quantity on the same test set, or its means over several models.
    """
    if teacher < WEAK * control or not teacher:
        return None
    is_equal = math.isclose(teacher, control)  # but for the rounding of weights
    relation = "no better" if is_equal else "worse" if teacher > control else "hardly better"
    return (
        f"The teacher is {relation} than the control: {quantity.describe_value(teacher)} on the test {noun}, the "
        f"control {quantity.describe_value(control).removesuffix(' errors').removesuffix(' error')}. "
        "It may have little to teach; a better teacher is often worth more than another method."
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


def _measure(quantity: Quantity, matrix: Tensor) -> float:
    if quantity == ERRORS:
        return float(matrix.sum() - matrix.diagonal().sum())
    return 100 * (1 - score_classes(matrix).balanced_accuracy)


def _describe_constant(quantity: Quantity, labels: Tensor, classes: Sequence[str], noun: str) -> str:
    """Describe the prediction that ignores the inputs, with its value."""
    value = quantity.describe_value(constant_value(quantity, labels))
    if quantity.key == "nll":
        return f"predicting the frequencies of the classes ({value} on {len(labels):,} test {noun})"
    majority = majority_of(labels)
    errors = f"{count_noun(majority.errors, 'error')} on {len(labels):,} test {noun}"
    text = f"always predicting {classes[majority.label]}, which makes {errors}"
    return text if quantity == ERRORS else f"{text} ({value})"


def _sampling_variance(scores: ClassScores) -> float:
    """Return the variance of the balanced accuracy over draws of the test items.

    One right and one wrong item are added to each class, so that a recall of 0 or 1 has a variance too.
    """
    found = [(recall.correct + 1) / (recall.images + 2) for recall in scores.recalls if recall.images]
    sizes = [recall.images for recall in scores.recalls if recall.images]
    return sum(p * (1 - p) / n for p, n in zip(found, sizes, strict=True)) / len(sizes) ** 2


def _count_classes(scores: ClassScores) -> int:
    return sum(recall.images > 0 for recall in scores.recalls)
