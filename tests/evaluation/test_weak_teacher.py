"""A teacher that is hardly better than the control is reported."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from kd.arms import CONTROL, TEACHER
from kd.evaluation.comparison_verdict import Verdicts
from kd.evaluation.failures import describe_weak_teacher
from kd.evaluation.quantities import BALANCED, NLL, choose_quantity
from tests.commands.compare.comparisons import make_comparison


@pytest.mark.parametrize(
    ("teacher", "control", "relation"),
    [(90, 100, "hardly better"), (100, 100, "no better"), (120, 100, "worse"), (9.5, 10, "hardly better")],
)
def test_a_weak_teacher_is_named_with_both_numbers(teacher: float, control: float, relation: str) -> None:
    """A teacher with more errors than the control was once "hardly better"."""
    sentence = describe_weak_teacher(teacher, control, "items")
    assert sentence is not None
    assert f"{relation} than the control: {teacher:g} errors on the test items, the control {control:g}." in sentence


def test_one_error_is_singular() -> None:
    assert "control: 1 error on the test items, the control 0." in str(describe_weak_teacher(1, 0, "items"))
    assert "control: 2 errors on the test items, the control 1." in str(describe_weak_teacher(2, 1, "items"))


def test_it_is_named_in_the_quantity_that_decides() -> None:
    sentence = describe_weak_teacher(48.0, 50.0, "items", BALANCED)
    assert sentence is not None
    assert "control: balanced error 48.00 % on the test items, the control balanced error 50.00 %." in sentence


def test_an_overconfident_teacher_is_not_weak_because_its_nll_is_high() -> None:
    comparison = make_comparison()
    (teacher,) = comparison.teachers
    sharp = teacher._replace(test=teacher.test._replace(logits=30 * teacher.test.logits))
    verdicts = Verdicts(dataclasses.replace(comparison, teachers=[sharp], quantity=NLL))
    assert min(verdicts.values(TEACHER)) > max(verdicts.values(CONTROL))
    assert verdicts.weak_teacher() == []


def test_the_misses_of_a_class_are_named_with_their_number_first() -> None:
    """A class may be a number: once "missed items of 8 45.00 %"."""
    recall = choose_quantity("recall:8", torch.tensor([0, 1]), ("7", "8"))
    sentence = describe_weak_teacher(45.0, 45.0, "items", recall)
    assert sentence is not None
    missed = "45.00 % missed items of 8"
    assert f"no better than the control: {missed} on the test items, the control {missed}." in sentence


@pytest.mark.parametrize(("teacher", "control"), [(89, 100), (0, 0), (0, 10), (1, 2)])
def test_a_better_teacher_is_not(teacher: float, control: float) -> None:
    assert describe_weak_teacher(teacher, control) is None
