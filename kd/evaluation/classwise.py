"""Quality of a model on each class, and averages over the classes that a majority class cannot hide behind."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kd.evaluation.two_models import proportion_interval


class Recall(NamedTuple):
    """Fraction of a class's test items that a model finds, with its 95 % Wilson interval; None without items."""

    images: int
    correct: int
    recall: float | None
    low_95: float | None
    high_95: float | None


class ClassScores(NamedTuple):
    """Quality of a model over the classes that occur in the test set.

    Attributes:
        balanced_accuracy: mean recall, in [0, 1].
        macro_f1: mean F1 score, in [0, 1]; a class that is never predicted counts 0.
        recalls: one for each class, in label order.
        never_predicted: labels of classes with test items that the model never predicts.
    """

    balanced_accuracy: float
    macro_f1: float
    recalls: tuple[Recall, ...]
    never_predicted: tuple[int, ...]


class Majority(NamedTuple):
    """The constant prediction with the fewest errors: the largest class of the test set.

    Attributes:
        label: the class.
        errors: number of test items of the other classes.
        share: fraction of the test items in this class.
    """

    label: int
    errors: int
    share: float


def majority_of(labels: Tensor) -> Majority:
    """Return the majority baseline of labels [N] int64, N ≥ 1."""
    sizes = torch.bincount(labels)
    label = int(sizes.argmax())
    return Majority(label, len(labels) - int(sizes[label]), float(sizes[label]) / len(labels))


def score_classes(matrix: Tensor) -> ClassScores:
    """Return the scores of a confusion matrix [K, K] of counts (row = true class, column = predicted class)."""
    matrix = matrix.double()
    sizes, predicted, correct = matrix.sum(dim=1), matrix.sum(dim=0), matrix.diagonal()
    occurs = sizes > 0
    recalls = tuple(_measure_recall(int(n), int(k)) for n, k in zip(sizes, correct, strict=True))
    return ClassScores(
        float((correct / sizes)[occurs].mean()),
        float((2 * correct / (sizes + predicted))[occurs].mean()),
        recalls,
        tuple(torch.nonzero(occurs & (predicted == 0)).flatten().tolist()),
    )


def _measure_recall(images: int, correct: int) -> Recall:
    if not images:
        return Recall(0, 0, None, None, None)
    return Recall(images, correct, correct / images, *proportion_interval(correct, images))
