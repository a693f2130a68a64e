"""Numbers as text: one form everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kd
from kd.formatting import equate_p, format_p, format_range, format_signed

PACKAGE = Path(kd.__file__).parent


@pytest.mark.parametrize(
    ("value", "text"),
    [(1783.31, "+1,783.3"), (-1783.31, "-1,783.3"), (0.04, "+0.04"), (-1e-7, "-1e-07"), (1e-15, "0.0"), (0, "0.0")],
)
def test_a_difference_has_a_sign_and_separators(value: float, text: str) -> None:
    assert format_signed(value) == text
    assert format_range(value, 2000) == f"{text} to +2,000.0"


@pytest.mark.parametrize(("p", "text"), [(0.0, "< 0.0001"), (9.9e-5, "< 0.0001"), (1e-4, "0.0001"), (0.0312, "0.031")])
def test_a_tiny_p_value_has_no_digits(p: float, text: str) -> None:
    assert format_p(p) == text
    assert equate_p(p) in {f"p {text}", f"p = {text}"}
    assert ("=" in equate_p(p)) == (p >= 1e-4)


@pytest.mark.parametrize(("p", "text"), [(0.0496, "0.0496"), (0.04999, "0.04999"), (0.05, "0.05"), (0.0504, "0.05")])
def test_a_p_value_below_the_level_does_not_look_equal_to_it(p: float, text: str) -> None:
    """Once "better" beside "p = 0.05", as if the level were reached without being below it."""
    assert format_p(p) == text


def test_no_command_or_report_formats_these_numbers_by_itself() -> None:
    for path in [*(PACKAGE / "commands").rglob("*.py"), *(PACKAGE / "report").rglob("*.py")]:
        assert not re.findall(r":\+,?\.\df|p_value:|_p:\.", path.read_text(encoding="utf-8")), path
