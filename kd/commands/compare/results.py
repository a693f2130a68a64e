"""The numbers of ``kd compare``, from its students' answers alone, and its arms as rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from kd.arms import ARMS, CONTROL, DISTILLED
from kd.evaluation.calibration import (
    ReliabilityCurve,
    Scaling,
    reliability,
    reliability_curve,
    temperature_scaling,
)
from kd.evaluation.fidelity import Fidelity, agreement, fidelity
from kd.evaluation.paired_seeds import Pairs, Spread, pair_errors, spread
from kd.evaluation.two_models import McNemar, mcnemar
from kd.evaluation.verdict import Across, Judgement, judge, judge_across
from kd.models.inference import Predictions


class ModelPredictions(NamedTuple):
    """One network's logits and the labels of the validation and of the test images, in the order of the datasets.

    Attributes:
        weights: SHA-256 of the network's weights as a file.
    """

    validation: Predictions
    test: Predictions
    weights: str = ""

    @property
    def errors(self) -> int:
        """Test images that it gets wrong."""
        return int((self.test.logits.argmax(dim=1) != self.test.labels).sum())


@dataclass(frozen=True)
class Comparison:
    """Teachers and the students that were compared under each of them.

    Attributes:
        teachers: one or more, all on one test set.
        students: arm → for each teacher, its students in the order of their seeds; entry i of every arm started from
            the same weights and saw the same batches. ``control`` and ``distilled`` are always among the arms.
        seeds: for each teacher, of its pairs.
        margin: what counts as no difference, in percentage points.
        temperature: of the distillation, for fidelity.
        noun: what the items are called.
    """

    teachers: Sequence[ModelPredictions]
    students: Mapping[str, Sequence[Sequence[ModelPredictions]]]
    seeds: Sequence[Sequence[int]]
    margin: float
    temperature: float
    noun: str = "images"

    @property
    def images(self) -> int:
        return len(self.teachers[0].test.labels)

    def pairs(self, teacher: int, arm: str = DISTILLED, against: str = CONTROL) -> Pairs:
        """Test errors of ``arm`` against those of another, paired by seed, under one teacher."""
        ours, theirs = (self.students[name][teacher] for name in (arm, against))
        return pair_errors([a.errors for a in theirs], [a.errors for a in ours], self.images)

    def judgements(self) -> list[Judgement]:
        """The verdict under each teacher, given this teacher."""
        return [judge(self.pairs(number), margin=self.margin) for number in range(len(self.teachers))]

    def across(self) -> Across | None:
        """The verdict over all teachers; None for a single one."""
        groups = [self.pairs(number) for number in range(len(self.teachers))]
        return judge_across(groups, margin=self.margin) if len(groups) > 1 else None

    def further(self) -> dict[str, list[Pairs]]:
        """The distilled students against each further control, by teacher. Shown; they decide nothing."""
        others = [arm for arm in self.students if arm not in (CONTROL, DISTILLED)]
        return {arm: [self.pairs(n, against=arm) for n in range(len(self.teachers))] for arm in others}

    def mcnemars(self, teacher: int) -> list[McNemar]:
        """McNemar's test for each pair: two networks, not the method."""
        labels = self.teachers[teacher].test.labels
        wrong = [
            [predictions.test.logits.argmax(dim=1) != labels for predictions in self.students[arm][teacher]]
            for arm in (CONTROL, DISTILLED)
        ]
        return [mcnemar(control, distilled) for control, distilled in zip(*wrong, strict=True)]

    @cached_property  # each is asked for by table, files and report, and takes seconds
    def fidelities(self) -> dict[str, list[list[Fidelity]]]:
        """How closely each student matches its teacher on the test images: arm → by teacher → by seed."""
        return self._each(
            lambda predictions, teacher: fidelity(
                predictions.test.logits, teacher.test.logits, teacher.test.labels, temperature=self.temperature
            )
        )

    @cached_property
    def scalings(self) -> dict[str, list[list[Scaling]]]:
        """Calibration of each student on the test images, before and after one temperature fitted on validation."""
        return self._each(lambda predictions, _: scaling(predictions))

    @cached_property
    def reliabilities(self) -> dict[str, ReliabilityCurve]:
        """Accuracy against confidence of every arm, all its students together."""
        return {
            arm: _pooled([predictions.test for group in groups for predictions in group])
            for arm, groups in self.students.items()
        }

    def baseline_agreement(self) -> list[float]:
        """Agreement of controls with the next seed's: what two networks share of which neither taught the other."""
        return [
            agreement(one.test.logits, other.test.logits)
            for controls in self.students[CONTROL]
            for one, other in itertools.pairwise(controls)
        ]

    def _each(self, measure: Callable[[ModelPredictions, ModelPredictions], Any]) -> dict[str, list[list[Any]]]:
        return {
            arm: [
                [measure(predictions, teacher) for predictions in group]
                for group, teacher in zip(groups, self.teachers, strict=True)
            ]
            for arm, groups in self.students.items()
        }


def _pooled(tested: Sequence[Predictions]) -> ReliabilityCurve:
    logits, labels = torch.cat([own.logits for own in tested]), torch.cat([own.labels for own in tested])
    return reliability_curve(reliability(logits, labels), students=len(tested))


def scaling(predictions: ModelPredictions) -> Scaling:
    """Calibration on the test images, before and after the temperature that fits the validation images."""
    return temperature_scaling(*predictions.validation, *predictions.test)


def student_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """One row per student: errors, calibration and fidelity on the test images."""
    fidelities, scalings = comparison.fidelities, comparison.scalings
    for arm, groups in comparison.students.items():
        for teacher, group in enumerate(groups):
            for index, predictions in enumerate(group):
                match, scaled = fidelities[arm][teacher][index], scalings[arm][teacher][index]
                validation, bounded = predictions.validation, scaled.temperature.at_bound
                yield {
                    "arm": arm,
                    "teacher": teacher,
                    "seed": comparison.seeds[teacher][index],
                    "test_errors": predictions.errors,
                    "test_accuracy": 1 - predictions.errors / comparison.images,
                    "weights_sha256": predictions.weights,
                    "validation_errors": int((validation.logits.argmax(dim=1) != validation.labels).sum()),
                    **{name: getattr(scaled.before, name) for name in ("nll", "brier", "ece", "adaptive_ece")},
                    # A temperature at the end of its range is no optimum: there is none, and nothing to tell of it.
                    "fitted_temperature": None if bounded else scaled.temperature.value,
                    "nll_after_scaling": None if bounded else scaled.after.nll,
                    "ece_after_scaling": None if bounded else scaled.after.ece,
                    "agreement_with_teacher": match.overall.agreement,
                    "kl_to_teacher": match.overall.kl,
                    "softened_kl_to_teacher": match.overall.softened_kl,
                    "agreement_where_teacher_right": match.teacher_right.agreement if match.teacher_right else None,
                    "agreement_where_teacher_wrong": match.teacher_wrong.agreement if match.teacher_wrong else None,
                }


def summaries(comparison: Comparison) -> dict[str, dict[str, Spread]]:
    """Mean, standard deviation and n of every number of an arm's students, over all teachers: arm → name → spread."""
    rows = list(student_rows(comparison))
    named = {"arm", "teacher", "seed", "weights_sha256"}
    found: dict[str, dict[str, Spread]] = {}
    for arm in comparison.students:
        own = [row for row in rows if row["arm"] == arm]
        measured = {name: [row[name] for row in own if row[name] is not None] for name in own[0] if name not in named}
        found[arm] = {name: spread(values) for name, values in measured.items() if values}
    return found


def contrasts(comparison: Comparison) -> list[tuple[str, Pairs]]:
    """What the distilled students are compared with, and how: for each teacher the control, then the further ones."""
    further, several = comparison.further(), len(comparison.teachers) > 1
    found = []
    for number in range(len(comparison.teachers)):
        suffix = f", teacher {number}" if several else ""
        found.append((f"{ARMS[CONTROL].label}{suffix}", comparison.pairs(number)))
        found += [(f"{ARMS[arm].label}{suffix}", groups[number]) for arm, groups in further.items()]
    return found
