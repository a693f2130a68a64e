"""Results of a sweep: the choice on the validation images and its test with fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

import numpy as np
from torch import Tensor

from kd.commands.sweep.points import Point, Score, TriedPoint, choose_control, choose_point, format_point, rank_points
from kd.evaluation.classwise import score_classes
from kd.evaluation.contrast import Contrast, contrast_of
from kd.evaluation.failures import describe_collapse, describe_failures, find_collapsed, find_useless
from kd.evaluation.paired_seeds import Pairs, pair_errors
from kd.evaluation.quantities import (
    ERRORS,
    Quantity,
    choose_quantity,
    largest_difference,
    largest_loss,
    margin_of,
    weigh_errors,
)
from kd.evaluation.verdict import Earlier, Judgement, Question, judge_all

ROLES = ("chosen", "documented", "control")
_NAMES = {True: "--temperature, --alpha", False: "--set"}  # flags of kd and of other methods


class Images(NamedTuple):
    """Numbers of validation and test samples, and the plural noun for them."""

    validation: int
    test: int
    noun: str = "images"


class Rates(NamedTuple):
    """Mean error rates of the students of a point, or mean balanced errors if these decide, in [0, 1].

    Attributes:
        validation_when_tried: on the validation images, with the seeds of the selection; biased low for the chosen
            point, because it is the best of many.
        validation_fresh_seeds: on the validation images, with fresh seeds.
        test: on the test images, with fresh seeds.
    """

    validation_when_tried: float
    validation_fresh_seeds: float
    test: float


class Final(NamedTuple):
    """Validation and test score of a student with a fresh seed, and its confusion matrix [K, K] on the test items.

    Attributes:
        wrong: [N] bool, the test items it gets wrong.
    """

    validation: Score
    test: Score
    wrong: Tensor
    matrix: Tensor


def assign_roles(tried: Sequence[TriedPoint], documented: Point) -> dict[str, Point]:
    """Return the point of each role, to be tested; a point may have several roles.

    The control is the best control that has the same width as the judged point: the chosen point, or the documented
    point if the chosen point is itself a control.

    Raises:
        FloatingPointError: the documented point, or every candidate for another role, has a loss that is not finite.
    """
    chosen = choose_point(tried, documented).point
    if not next(trial for trial in tried if trial.point == documented).finite:
        raise FloatingPointError(
            f"the documented point ({format_point(documented)}) could not be trained: a loss was not finite. The "
            f"chosen point is compared with it, so change {_NAMES[documented.of_kd]} or --learning-rate."
        )
    judged = documented if chosen.is_control else chosen
    return dict(zip(ROLES, (chosen, documented, choose_control(tried, judged, documented).point), strict=True))


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        tried: all points, scored with the same seeds.
        documented: the point that ``kd run`` trains with the same settings.
        seeds: seeds of the selection.
        images: numbers of validation and test images.
        final_seeds: seeds of the test, disjoint from ``seeds``.
        finals: point of a role → its students in the order of ``final_seeds``.
        margin: equivalence margin in percentage points of the test images.
        labels: [N] int64, of the test set.
        classes: class names in label order.
        searched: whether Optuna proposed the points; otherwise they form a grid.
        earlier: p-values of the questions asked of the same test set before.
        withheld: why the differences are no verdict, as a sentence; "" if they are.
        remarks: sentences on all students.
        method: name of the method.
    """

    tried: Sequence[TriedPoint]
    documented: Point
    seeds: Sequence[int]
    images: Images
    final_seeds: Sequence[int]
    finals: Mapping[Point, Sequence[Final]]
    margin: float
    labels: Tensor
    classes: Sequence[str]
    searched: bool
    earlier: Sequence[Earlier] = ()
    withheld: str = ""
    remarks: Sequence[str] = ()
    method: str = "kd"

    @cached_property
    def roles(self) -> dict[str, Point]:
        return assign_roles(self.tried, self.documented)

    @cached_property
    def ordered(self) -> list[TriedPoint]:
        """All points, best first; points with a loss that was not finite come last."""
        return [*rank_points(self.tried, self.documented), *(trial for trial in self.tried if not trial.finite)]

    def roles_of(self, point: Point) -> list[str]:
        """Return the roles of a point; empty for most points."""
        return [role for role, role_point in self.roles.items() if role_point == point]

    def find_tried(self, point: Point) -> TriedPoint:
        """Return the point with its validation scores."""
        return next(trial for trial in self.tried if trial.point == point)

    def rates(self, point: Point) -> Rates:
        """Return the rates of a point that has a role."""
        finals, (validation, test, _) = self.finals[point], self.images
        if not self.decides_by_errors:
            validation = test = 100  # of percent
        return Rates(
            self.find_tried(point).mean / validation,
            fmean(final.validation.deciding for final in finals) / validation,
            fmean(final.test.deciding for final in finals) / test,
        )

    def pairs(self, point: Point, reference: Point) -> Pairs:
        """Pair the test errors of two points by seed; differences are ``point`` minus ``reference``."""
        reference_errors, errors = ([final.test.errors for final in self.finals[p]] for p in (reference, point))
        return pair_errors(reference_errors, errors, self.images.test)

    def judged_role(self) -> str | None:
        """Return the role compared with the control: chosen, or documented if the chosen point is a control.

        None if both are controls.
        """
        return next((role for role in ("chosen", "documented") if not self.roles[role].is_control), None)

    def question(self) -> Question | None:
        """Return the question about the point of ``judged_role``; None if there is none."""
        role = self.judged_role()
        return None if role is None else Question(self.contrast(self.roles[role], self.roles["control"]))

    def judgement(self) -> Judgement | None:
        """Return the verdict on the point of ``judged_role``, adjusted for earlier questions; None if there is none."""
        question, role = self.question(), self.judged_role()
        if question is None or role is None:
            return None
        margin = margin_of(self.quantity, self.margin, self.images.test)
        judged = judge_all({"": question}, margin=margin, earlier=self.earlier)[""]
        points = [self.roles[role], self.roles["control"]]
        has_collapsed = any(self.name_roles(point) in self.collapsed for point in points)
        is_withheld = self.withheld or has_collapsed or self._learned_nothing(points)
        return judged._replace(verdict="not decided") if is_withheld else judged

    @cached_property
    def quantity(self) -> Quantity:
        """What decides, from the sizes of the classes: test errors or the balanced error."""
        return choose_quantity("auto", self.labels, self.classes)

    @property
    def decides_by_errors(self) -> bool:
        """Whether errors decide, for the choice of the point too; else the balanced error."""
        return self.quantity == ERRORS

    def contrast(self, point: Point, reference: Point, quantity: Quantity | None = None) -> Contrast:
        """Return the contrast of two points, by default in what decides, for other seeds and other test samples."""
        quantity = quantity or self.quantity
        losses, reference_losses = (
            np.stack([weigh_errors(quantity, final.wrong, self.labels) for final in self.finals[p]])
            for p in (point, reference)
        )
        return contrast_of(
            losses - reference_losses,
            one_error=largest_loss(quantity, self.labels),
            unequal=quantity.weighs_classes,
            largest=largest_difference(quantity, self.images.test),
        )

    @cached_property
    def failures(self) -> list[str]:
        """Sentences on students that learned nothing, collapsed, or never predict a class."""
        matrices = {self.name_roles(point): [final.matrix for final in finals] for point, finals in self.finals.items()}
        counts = {name: (len(self.collapsed.get(name, ())), len(group)) for name, group in matrices.items()}
        noun, quantity = self.images.noun, self.quantity
        return [
            *describe_failures(matrices, self.labels, self.classes, noun, quantity=quantity),
            *describe_collapse(counts),
        ]

    @cached_property
    def collapsed(self) -> dict[str, list[int]]:
        """The indices of the collapsed students of each point with a role, by ``name_roles``; others are omitted."""
        return find_collapsed(
            {self.name_roles(p): [score_classes(f.matrix) for f in finals] for p, finals in self.finals.items()}
        )

    def name_roles(self, point: Point) -> str:
        """Return the roles of a point as a name, such as "chosen, documented"."""
        return ", ".join(self.roles_of(point))

    def _learned_nothing(self, points: Sequence[Point]) -> bool:
        """Return whether all students of these points are no better than always predicting the largest class."""
        values = {
            self.name_roles(point): [
                float(weigh_errors(self.quantity, final.wrong, self.labels).sum()) for final in self.finals[point]
            ]
            for point in points
        }
        return all(map(all, find_useless(values, self.quantity, self.labels).values()))
