"""The verdicts of a comparison: under each teacher, over all teachers, and what has to be said before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from kd.arms import ARMS, CONTROL, DISTILLED, LONGER, SMOOTHED, TEACHER
from kd.evaluation.comparison import Comparison
from kd.evaluation.contrast import Contrast
from kd.evaluation.failures import (
    describe_collapse,
    describe_failures,
    describe_gap,
    describe_weak_teacher,
    find_collapsed,
    find_useless,
)
from kd.evaluation.metrics import confusion_matrix
from kd.evaluation.quantities import ERRORS, NLL, Quantity, item_losses
from kd.evaluation.sequential import STOP, describe_evidence
from kd.evaluation.tradeoffs import describe_computation, describe_losses
from kd.evaluation.verdict import Earlier, Judgement, Question, judge_all
from kd.evaluation.verdict_text import describe_basis, describe_smoothing, sentence


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of a comparison, computed when first asked for.

    Attributes:
        earlier: p-values of the questions asked of the same test set before.
    """

    comparison: Comparison
    earlier: Sequence[Earlier] = ()

    @cached_property
    def by_teacher(self) -> list[Judgement]:
        """One verdict for each teacher, conditional on it; adjusted for their number and for the earlier questions."""
        comparison = self.comparison
        questions = {str(n): self.ask(n) for n in range(comparison.groups)}
        judgements = judge_all(questions, margin=comparison.unit_margin, earlier=self.earlier)
        return [self._withhold(judgement) for judgement in judgements.values()]

    @cached_property
    def overall(self) -> Judgement | None:
        """The verdict over all teachers, with each block of teachers as one observation; None for a single teacher."""
        comparison = self.comparison
        if comparison.groups == 1:
            return None
        question = Question(*(self._contrast_blocks(arm) for arm in self._references))
        judgements = judge_all({"": question}, margin=comparison.unit_margin, earlier=self.earlier)
        return self._withhold(judgements[""])

    @property
    def main(self) -> Judgement:
        """The verdict that heads the page."""
        return self.overall or self.by_teacher[0]

    @property
    def is_withheld(self) -> bool:
        """Whether students that collapsed or learned nothing leave the question of ``main`` without an answer."""
        return self.main.verdict == "not decided"

    def ask(self, teacher: int) -> Question:
        """Return the question about the pairs of one teacher."""
        comparison = self.comparison
        return Question(*(comparison.contrast(comparison.contributions(teacher, arm)) for arm in self._references))

    @property
    def _references(self) -> list[str]:
        return [arm for arm in (CONTROL, SMOOTHED) if arm in self.comparison.students]

    def _contrast_blocks(self, against: str) -> Contrast:
        comparison = self.comparison
        by_teacher = [comparison.contributions(n, against) for n in range(comparison.groups)]
        return comparison.contrast(comparison.block_means(by_teacher))

    @cached_property
    def failures(self) -> list[str]:
        """Sentences on models that learned nothing, collapsed, or never predict a class."""
        return describe_arms({ARMS[arm].label: (self, arm) for arm in self._arms})

    @property
    def _arms(self) -> list[str]:
        return [*([TEACHER] if self.comparison.teachers else []), *self.comparison.students]

    def values(self, arm: str, quantity: Quantity | None = None) -> list[float]:
        """Return the value of a quantity, by default the deciding one, for each student of an arm or each teacher."""
        comparison, quantity = self.comparison, quantity or self.comparison.quantity
        if arm == TEACHER:
            return [float(item_losses(quantity, *teacher.test).sum()) for teacher in comparison.teachers]
        return [float(value) for group in comparison.measure_losses(quantity)[arm] for value in group.sum(axis=1)]

    def confusion_matrices(self, arm: str) -> list[Tensor]:
        """Return the confusion matrix [K, K] of each student of an arm, or of each teacher."""
        if arm == TEACHER:
            return [confusion_matrix(*teacher.test) for teacher in self.comparison.teachers]
        return [matrix for group in self.comparison.confusion_matrices[arm] for matrix in group]

    def describe_gap(self, arm: str, name: str) -> str | None:
        """Compare validation and test accuracy of the first student of an arm, under this name."""
        student = self.comparison.students[arm][0][0]
        accuracies = [
            (float((~split.wrong).double().mean()), len(split.labels)) for split in (student.validation, student.test)
        ]
        return describe_gap(name, *accuracies[0], *accuracies[1])

    @cached_property
    def said_first(self) -> list[str]:
        """Sentences that come before the verdict: failures, and that both students are under-trained."""
        return [*self.failures, *self.under_trained, *self.weak_teacher()]

    def weak_teacher(self) -> list[str]:
        """Return a sentence if the teachers are hardly better than their controls, else none.

        If the NLL decides, by errors: an overconfident teacher may know more, and its temperature softens it.
        """
        comparison = self.comparison
        if not comparison.teachers:
            return []
        quantity = ERRORS if comparison.quantity == NLL else comparison.quantity
        teacher, control = (float(np.mean(self.values(arm, quantity))) for arm in (TEACHER, CONTROL))
        text = describe_weak_teacher(teacher, control, comparison.noun, quantity)
        return [text] if text else []

    @cached_property
    def lines(self) -> list[str]:
        """The verdicts as paragraphs, the one that heads the page last; it begins with what has to be said first."""
        comparison, overall = self.comparison, self.overall
        given = comparison.given if self.main.question.control.estimate else f"{comparison.given}, and this test set"
        pairs = len(self.by_teacher[0].question.control.differences)
        basis = describe_basis(pairs, comparison.images, comparison.noun, given)
        single = [
            self._write(judgement, number, basis=basis if overall is None else f"Based on {pairs} pairs.")
            for number, judgement in enumerate(self.by_teacher)
        ]
        first = self.said_first
        if overall is None:
            return [" ".join([*first, single[0]])]
        per_teacher = [f"Teacher {number}: {text}" for number, text in enumerate(single)]
        return [*per_teacher, " ".join([*first, self._write(overall, None, basis=self._overall_basis())])]

    @cached_property
    def collapsed(self) -> dict[str, list[int]]:
        """The indices of the collapsed students of each arm; arms without any are omitted."""
        arms = (CONTROL, DISTILLED, SMOOTHED)
        scores = self.comparison.class_scores
        return find_collapsed({arm: [s for group in scores[arm] for s in group] for arm in arms if arm in scores})

    def _withhold(self, judgement: Judgement) -> Judgement:
        """Return the judgement without its verdict if students collapsed or learned no more than the majority class.

        "Helps" is also withheld if any model is no better than the majority class, which is said before the verdict,
        and every verdict but "hurts" if this is true of all distilled students: always predicting a class misses none
        of it.
        """
        useless, verdict = self._useless, judgement.verdict
        nobody_learned = all(useless[DISTILLED]) and (verdict != "hurts" or all(useless[CONTROL]))
        doubtful = verdict == "helps" and any(map(any, useless.values()))
        return judgement._replace(verdict="not decided") if self.collapsed or nobody_learned or doubtful else judgement

    @cached_property
    def _useless(self) -> dict[str, list[bool]]:
        """For each model of each arm, whether it is no better than always predicting the majority class."""
        comparison, quantity = self.comparison, self.comparison.quantity.of_learning
        return find_useless({arm: self.values(arm, quantity) for arm in self._arms}, quantity, comparison.labels)

    def _write(self, judgement: Judgement, teacher: int | None, *, basis: str) -> str:
        comparison = self.comparison
        settings = ", ".join(filter(None, (comparison.method, self.teacher_accuracy(teacher))))
        across = "Across teachers, distillation" if teacher is None else "Distillation"
        controls = comparison.losses[CONTROL]
        group = np.concatenate(controls) if teacher is None else controls[teacher]
        return sentence(
            judgement,
            basis=basis,
            method=f"{across} ({settings})" if settings else across,
            quantity=comparison.quantity,
            relative_to=float(group.sum(axis=1).mean()),
            smoothing=self._smoothing_name,
            remarks=[*comparison.remarks, *self.own_remarks(judgement, teacher), *self._stop(judgement)],
            unit=comparison.block_noun if teacher is None else "pair",
        )

    @property
    def _smoothing_name(self) -> str:
        comparison = self.comparison
        strength = "" if comparison.smoothing is None else f" {comparison.smoothing:g}"
        return f"label smoothing{strength}{'' if comparison.is_smoothing_tuned else ' (not tuned)'}"

    def describe_smoothing(self) -> list[str]:
        """Return what the paragraph of ``main`` says of label smoothing; nothing if it says nothing."""
        text = describe_smoothing(self.main, self.comparison.quantity, self._smoothing_name)
        return [text] if text else []

    def own_remarks(self, judgement: Judgement, teacher: int | None) -> list[str]:
        """Return remarks on the distilled students of one teacher or all: identical students, what a gain costs."""
        is_better = judgement.verdict in ("helps", "better than the labels alone") and not self.under_trained
        computation = describe_computation(self.comparison, teacher) if is_better else []
        return [*self._identical(), *computation, *describe_losses(self.comparison, teacher)]

    def teacher_accuracy(self, teacher: int | None) -> str:
        """Return the test accuracy of one teacher, or the range of all, as a phrase; "" without teachers."""
        models = self.comparison.teachers if teacher is None else self.comparison.teachers[teacher : teacher + 1]
        accuracies = sorted(1 - model.errors / self.comparison.images for model in models)
        if not accuracies:
            return ""
        highest = f" to {accuracies[-1]:.2%}" if len(accuracies) > 1 else ""
        return f"teacher's test accuracy {accuracies[0]:.2%}{highest}"

    def _identical(self) -> list[str]:
        students = self.comparison.students
        pairs = [
            (control, distilled)
            for controls, group in zip(students[CONTROL], students[DISTILLED], strict=True)
            for control, distilled in zip(controls, group, strict=True)
        ]
        equal = sum(bool(first.weights) and first.weights == second.weights for first, second in pairs)
        if not equal:
            return []
        if equal == len(pairs):
            return ["Every distilled student is identical to its control, with the same weights."]
        return [f"In {equal} of {len(pairs)} pairs the distilled student is identical to its control."]

    def _stop(self, judgement: Judgement) -> list[str]:
        """State the evidence at the end of a comparison that was looked at after every pair."""
        if not self.comparison.anytime:
            return []
        contrasts = dict(zip(self._references, judgement.question, strict=False))
        evidence = " and ".join(
            describe_evidence(contrast.e_value, ARMS[arm].label, contrast.mean)
            for arm, contrast in contrasts.items()
            if contrast is not None
        )
        return [
            f"Training ended after {len(judgement.question.control.differences)} of at most "
            f"{self.comparison.most_pairs} pairs, with e-values of {evidence}; {STOP * judgement.family:g} decide."
        ]

    @cached_property
    def under_trained(self) -> list[str]:
        """A sentence if longer training on the labels alone beats both students under every teacher, else none."""
        comparison = self.comparison
        if LONGER not in comparison.students:
            return []
        numbers = range(comparison.groups)
        contrasts = [comparison.contrast(comparison.contributions(number, LONGER)) for number in numbers]
        gains = [comparison.contrast(comparison.losses[LONGER][n] - comparison.losses[CONTROL][n]) for n in numbers]
        worse = [interval is not None and interval.low > 0 for interval in (c.interval() for c in contrasts)]
        better = [interval is not None and interval.high < 0 for interval in (c.interval() for c in gains)]
        if not all(worse) or not all(better):
            return []
        mean = float(np.mean([contrast.mean for contrast in contrasts]))
        budget = f" (the cost of {comparison.longer_of})" if comparison.longer_of else ""
        return [
            f"Both students are under-trained: the control trained for {comparison.longer_epochs} epochs{budget} has "
            f"{comparison.quantity.describe(-mean)} than the distilled students."
        ]

    def _overall_basis(self) -> str:
        comparison, overall = self.comparison, self.overall
        assert overall is not None
        spec = comparison.quantity.spec
        means = ", ".join(f"{mean:+{spec}}" for mean in overall.question.control.differences)
        pairs = len(comparison.seeds[0])
        count = len(overall.question.control.differences)
        split = (
            f", all on one training/validation split (seed {comparison.one_split}): another split may differ"
            if comparison.one_split is not None
            else ""
        )
        return (
            f"Based on {count} {comparison.block_noun}s with equal weight ({means}), {pairs} pairs for each teacher, "
            f"and {comparison.images:,} test {comparison.noun}{split}."
        )


def describe_arms(arms: Mapping[str, tuple[Verdicts, str]]) -> list[str]:
    """Return sentences on models that learned nothing, collapsed, or never predict a class.

    Args:
        arms: for each name in the sentences, an arm of a comparison; all comparisons share the test set.
    """
    comparison = next(iter(arms.values()))[0].comparison
    classes = [comparison.class_name(label) for label in range(len(comparison.confusion_matrices[CONTROL][0][0]))]
    matrices = {name: own.confusion_matrices(arm) for name, (own, arm) in arms.items()}
    quantity = comparison.quantity.of_learning
    values = {name: own.values(arm, quantity) for name, (own, arm) in arms.items()}
    sentences = describe_failures(
        matrices, comparison.labels, classes, comparison.noun, quantity=quantity, values=values
    )
    gaps = [own.describe_gap(arm, name) for name, (own, arm) in arms.items() if arm in (CONTROL, DISTILLED)]
    counts = {name: (len(own.collapsed.get(arm, ())), len(matrices[name])) for name, (own, arm) in arms.items()}
    return [*sentences, *filter(None, gaps), *describe_collapse(counts)]
