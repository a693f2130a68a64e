"""CSV output: no cell is a formula for a spreadsheet, and numbers and other texts are unchanged."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd.commands.publish import csv_bytes


def read_back(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_bytes(rows).decode(), newline="")))


@given(st.text('=+-@ab1 ,"＝＋－＠\n', max_size=6))  # full-width
def test_no_text_is_a_formula(text: str) -> None:
    ((cell,),) = (row.values() for row in read_back([{"name": text}]))
    assert cell.removeprefix("'") == text or cell == text
    if cell.startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠", "\n")):
        float(cell)


@pytest.mark.parametrize("value", ["ant", "-1.5", "+3", "1e-3", "a=b", "", -2, 0.25, None, True])
def test_other_cells_are_unchanged(value: Any) -> None:
    assert read_back([{"name": value}]) == [{"name": "" if value is None else str(value)}]


def test_names_of_columns_are_no_formulas() -> None:
    assert list(read_back([{"=1+1": 3}])[0]) == ["'=1+1"]
