"""Statistics of ``kd compare``, computed from the logits of its models, and table rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd.arms import ARMS, CONTROL, DISTILLED, SMOOTHED
from kd.evaluation.calibration import (
    ReliabilityCurve,
    Scaling,
    calibration_error,
    reliability,
    reliability_curve,
    temperature_scaling,
)
from kd.evaluation.classwise import ClassScores, score_classes
from kd.evaluation.contrast import Contrast, contrast_of
from kd.evaluation.fidelity import Fidelity, agreement, fidelity
from kd.evaluation.metrics import confusion_matrix
from kd.evaluation.paired_seeds import Pairs, pair_errors
from kd.evaluation.quantities import ERRORS, Quantity, item_losses, largest_difference, largest_loss, margin_of
from kd.evaluation.two_models import McNemar, mcnemar
from kd.models.inference import Predictions

Losses = dict[str, list[NDArray[np.float64]]]


class ModelPredictions(NamedTuple):
    """Logits and labels of one network on the validation and test images, in dataset order.

    Attributes:
        weights: SHA-256 of the network's weights file.
        shifted: logits on the test images changed in some ways, by name; the labels are the same.
    """

    validation: Predictions
    test: Predictions
    weights: str = ""
    shifted: Mapping[str, Predictions] = {}

    @property
    def errors(self) -> int:
        """Number of misclassified test images."""
        return int(self.test.wrong.sum())


class ArmContrast(NamedTuple):
    """The distilled students of one teacher minus another arm.

    Attributes:
        title: the arm, and the teacher if there are several.
        decides: whether the verdict uses it.
        contrast: in the unit of the quantity that decides.
        errors: the same pairs in test errors, with further tests.
    """

    title: str
    decides: bool
    contrast: Contrast
    errors: Pairs


@dataclass(frozen=True)
class Comparison:
    """Predictions of all teachers and, for each teacher, of its students.

    Attributes:
        teachers: all use the same test set; none if only the students' predictions are known (``kd judge``).
        students: arm → teacher → students in the order of ``seeds``; includes the arms ``control`` and ``distilled``.
            Students of one teacher and seed start from the same weights and see the same batches in all arms.
        seeds: teacher → seeds of its pairs.
        margin: equivalence margin in percentage points.
        temperature: distillation temperature, also used for fidelity.
        noun: plural noun for the samples, such as "images".
        quantity: what decides the verdict, fixed before training.
        classes: class names in label order; empty if the classes are only numbered.
        method: the method with its settings, for sentences.
        smoothing: strength of the arm ``smoothed``; None if there is none.
        is_smoothing_tuned: whether it is the best on validation; False if it was given.
        longer_epochs: epochs of the arm ``longer``.
        longer_of: the methods that cost as much as the arm ``longer``, if several are compared and they differ.
        blocks: teacher → its block; the overall verdict counts each block once.
        block_noun: what a block shares: "teacher" or "split".
        one_split: seed of the split if all teachers share it, else None.
        given: what the pairs of one teacher share besides the test set, for sentences.
        has_probabilities: whether the logits are more than predicted classes.
        most_pairs: maximum number of pairs, if training stopped once they decided; None if the number was fixed.
        remarks: sentences on all students, for the verdict.
    """

    teachers: Sequence[ModelPredictions]
    students: Mapping[str, Sequence[Sequence[ModelPredictions]]]
    seeds: Sequence[Sequence[int]]
    margin: float
    temperature: float
    noun: str = "images"
    quantity: Quantity = ERRORS
    classes: Sequence[str] = ()
    method: str = ""
    smoothing: float | None = None
    is_smoothing_tuned: bool = True
    longer_epochs: int | None = None
    longer_of: str = ""
    blocks: Sequence[int] = (0,)
    block_noun: str = "teacher"
    one_split: int | None = None
    given: str = "this teacher and split"
    has_probabilities: bool = True
    most_pairs: int | None = None
    remarks: Sequence[str] = ()

    @property
    def anytime(self) -> bool:
        """Whether the number of pairs depended on their differences."""
        return self.most_pairs is not None

    @property
    def images(self) -> int:
        return len(self.labels)

    @property
    def groups(self) -> int:
        """Number of groups of students: one for each teacher."""
        return len(self.students[CONTROL])

    def pairs(self, teacher: int, arm: str = DISTILLED, against: str = CONTROL) -> Pairs:
        """Pair the test errors of two arms by seed, under one teacher; differences are ``arm`` minus ``against``."""
        students, reference = (self.students[name][teacher] for name in (arm, against))
        return pair_errors([a.errors for a in reference], [a.errors for a in students], self.images)

    @property
    def labels(self) -> Tensor:
        """Labels of the test set, [N] int64."""
        return self.students[CONTROL][0][0].test.labels

    @property
    def unit_margin(self) -> float:
        """The equivalence margin in the unit of ``quantity``."""
        return margin_of(self.quantity, self.margin, self.images)

    def contributions(
        self, teacher: int, against: str = CONTROL, quantity: Quantity | None = None
    ) -> NDArray[np.float64]:
        """Return what each test item adds to the difference of each pair: distilled minus ``against``, [pairs, N]."""
        losses = self.measure_losses(quantity or self.quantity)
        return losses[DISTILLED][teacher] - losses[against][teacher]

    @cached_property  # read by the printed table, the files, the report and its figure
    def contrasts(self) -> list[ArmContrast]:
        """Every comparison: for each teacher the control, then the additional controls."""
        return [
            ArmContrast(
                f"{ARMS[arm].label}{f', teacher {number}' if self.groups > 1 else ''}",
                arm in (CONTROL, SMOOTHED),
                self.contrast(self.contributions(number, arm)),
                self.pairs(number, against=arm),
            )
            for number in range(self.groups)
            for arm in self.students
            if arm != DISTILLED
        ]

    def contrast(self, rows: NDArray[np.float64], quantity: Quantity | None = None) -> Contrast:
        """Return the contrast of contributions [pairs or blocks, N]."""
        quantity = quantity or self.quantity
        return contrast_of(
            rows,
            one_error=largest_loss(quantity, self.labels),
            anytime=self.anytime,
            unequal=quantity.weighs_classes,
            largest=largest_difference(quantity, self.images),
        )

    def block_means(self, by_teacher: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the mean over the pairs of a teacher, then over the teachers of a block: [blocks, …].

        Pairs of one teacher are not independent, and neither are teachers of one split.
        """
        means, blocks = [rows.mean(axis=0) for rows in by_teacher], np.asarray(self.blocks)
        return np.stack([np.mean([means[n] for n in np.flatnonzero(blocks == b)], axis=0) for b in np.unique(blocks)])

    def replicates(self, by_teacher: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the independent rows: the pairs of a single teacher, or the blocks of several."""
        return by_teacher[0] if self.groups == 1 else self.block_means(by_teacher)

    @property
    def losses(self) -> Losses:
        """What each test item adds to ``quantity`` for each student: arm → teacher → [seeds, N]."""
        return self.measure_losses(self.quantity)

    def measure_losses(self, quantity: Quantity) -> Losses:
        """Return what each test item adds to a quantity for each student, like ``losses``; measured once."""
        if quantity not in self._measured:
            self._measured[quantity] = {
                arm: [np.stack([item_losses(quantity, *student.test) for student in group]) for group in groups]
                for arm, groups in self.students.items()
            }
        return self._measured[quantity]

    @cached_property
    def _measured(self) -> dict[Quantity, Losses]:
        return {}

    @cached_property
    def class_scores(self) -> dict[str, list[list[ClassScores]]]:
        """Recall of each class, balanced accuracy and macro-F1 of each student: arm → teacher → seed."""
        return {
            arm: [[score_classes(matrix) for matrix in group] for group in groups]
            for arm, groups in self.confusion_matrices.items()
        }

    @cached_property
    def confusion_matrices(self) -> dict[str, list[list[Tensor]]]:
        """Confusion matrix [K, K] of each student on the test set: arm → teacher → seed."""
        return self._measure_students(lambda predictions, _: confusion_matrix(*predictions.test))

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number if it has no name."""
        return self.classes[label] if self.classes else str(label)

    def further_pairs(self) -> dict[str, list[Pairs]]:
        """Pair the distilled students with each additional control: arm → teacher → pairs. Not part of the verdict."""
        controls = [arm for arm in self.students if arm not in (CONTROL, DISTILLED)]
        return {arm: [self.pairs(n, against=arm) for n in range(self.groups)] for arm in controls}

    def mcnemars(self, teacher: int) -> list[McNemar]:
        """Return McNemar's test of each pair; it compares two networks, not two methods."""
        wrong = [[student.test.wrong for student in self.students[arm][teacher]] for arm in (CONTROL, DISTILLED)]
        return [mcnemar(control, distilled) for control, distilled in zip(*wrong, strict=True)]

    @cached_property  # takes seconds, and is read by tables, files and report
    def fidelities(self) -> dict[str, list[list[Fidelity]]]:
        """Fidelity of each student to its teacher on the test images: arm → teacher → seed."""
        return self._measure_students(
            lambda predictions, teacher: fidelity(
                predictions.test.logits, teacher.test.logits, teacher.test.labels, temperature=self.temperature
            )
        )

    @cached_property
    def calibration_errors(self) -> dict[str, list[NDArray[np.float64]]]:
        """Expected calibration error of each student on the test images, before scaling: arm → teacher → [seeds]."""
        errors = self._measure_students(lambda predictions, _: calibration_error(reliability(*predictions.test)))
        return {arm: [np.array(group) for group in groups] for arm, groups in errors.items()}

    @cached_property
    def scalings(self) -> dict[str, list[list[Scaling]]]:
        """Calibration of each student on the test images before and after temperature scaling: arm → teacher → seed."""
        return self._measure_students(lambda predictions, _: fit_scaling(predictions))

    @cached_property
    def reliabilities(self) -> dict[str, ReliabilityCurve]:
        """Reliability curve of each arm, from the pooled test predictions of its students."""
        return {
            arm: _pool_reliability([predictions.test for group in groups for predictions in group])
            for arm, groups in self.students.items()
        }

    def baseline_agreement(self) -> list[float]:
        """Return the agreement between controls of consecutive seeds: the level reached without distillation."""
        return [
            agreement(first.test.logits, second.test.logits)
            for controls in self.students[CONTROL]
            for first, second in itertools.pairwise(controls)
        ]

    def _measure_students(self, measure: Callable[[ModelPredictions, Any], Any]) -> dict[str, list[list[Any]]]:
        return {
            arm: [
                [measure(predictions, teacher) for predictions in group]
                for group, teacher in itertools.zip_longest(groups, self.teachers)
            ]
            for arm, groups in self.students.items()
        }


def _pool_reliability(predictions: Sequence[Predictions]) -> ReliabilityCurve:
    logits, labels = torch.cat([p.logits for p in predictions]), torch.cat([p.labels for p in predictions])
    return reliability_curve(reliability(logits, labels), students=len(predictions))


def fit_scaling(predictions: ModelPredictions) -> Scaling:
    """Return calibration on the test images before and after temperature scaling on the validation images."""
    return temperature_scaling(*predictions.validation, *predictions.test)
