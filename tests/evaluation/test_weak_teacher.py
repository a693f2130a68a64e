"""A teacher that is hardly better than the control is reported."""

from __future__ import annotations

import pytest

from kd.evaluation.failures import describe_weak_teacher
from kd.evaluation.quantities import BALANCED


@pytest.mark.parametrize(("teacher", "control"), [(90, 100), (100, 100), (120, 100), (9.5, 10), (1, 0)])
def test_a_weak_teacher_is_named_with_both_numbers(teacher: float, control: float) -> None:
    sentence = describe_weak_teacher(teacher, control, "items")
    assert sentence is not None
    assert f"{teacher:g} errors on the test items, the control {control:g}." in sentence


def test_it_is_named_in_the_quantity_that_decides() -> None:
    sentence = describe_weak_teacher(48.0, 50.0, "items", BALANCED)
    assert sentence is not None
    assert "control: balanced error 48.00 % on the test items, the control balanced error 50.00 %." in sentence


@pytest.mark.parametrize(("teacher", "control"), [(89, 100), (0, 0), (0, 10), (1, 2)])
def test_a_better_teacher_is_not(teacher: float, control: float) -> None:
    assert describe_weak_teacher(teacher, control) is None
