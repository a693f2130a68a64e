"""What the cells of a table's column make it: numbers, categories, identifiers, nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd.data.sources import open_source, split_source
from kd.data.sources.table_columns import Column, column_from_json, explain_numbers, fit_column
from kd.data.sources.table_encoding import Encoding, encoding_of
from tests.data.sources.tables import split_columns, write_table


def fit(name: str, cells: Sequence[str], further: Sequence[str] = ()) -> Column:
    """Return the column that these training cells fit; further cells are in no training row."""
    levels = list(dict.fromkeys([*cells, *further]))
    return fit_column(name, levels, np.array([levels.index(cell) for cell in cells], np.int32))


@pytest.mark.parametrize(
    "change",
    [{"std": 0.0}, {"mean": "x"}, {"kind": "text"}, {"levels": [1]}, {"levels": 3}, {"has_other": 1}, {"more": 1}],
)
def test_a_damaged_description_of_a_column_raises(change: dict[str, Any]) -> None:
    values = {**Encoding("t", (Column("a", "number"),)).to_json()["columns"][0], **change}
    with pytest.raises(ValueError, match="the description of a column is damaged"):
        column_from_json(values)
    with pytest.raises(ValueError, match="the description of a table's columns is damaged"):
        Encoding.from_json({"columns": []})


@pytest.mark.parametrize(
    ("name", "cells", "kind", "reason"),
    [
        ("x", ["1", "2", "2", "3"], "number", ""),
        ("x", ["1", "-", *map(str, range(2, 40)), "2.5"], "number", ""),
        ("code", ["250", "V45"] * 20, "category", ""),
        ("x", ["1_0", "2_0"] * 20, "category", ""),
        ("x", ["inf", "1", "2"] * 20, "category", ""),
        ("x", ["1e300", "-1e300", "2"] * 20, "unused", "numbers too large"),
        ("PassengerId", [str(k * k) for k in range(30)], "unused", "an identifier"),
        ("customer_id", [str(k * k) for k in range(30)], "unused", "an identifier"),
        ("", [str(k) for k in range(7, 37)], "unused", "an identifier"),
        ("area", [str(k * k) for k in range(30)], "number", ""),
        ("paid", ["1", "0"] * 20, "number", ""),
        ("when", ["3.4.2020", "12.11.2021"] * 20, "unused", "dates"),
        ("when", ["Jan 5, 2020", "March 12 2021"] * 20, "unused", "dates"),
        ("when", ["12:30", "7:05 pm"] * 20, "unused", "dates"),
        ("when", ["2020-01-02T10:11:12Z", "2020-01-02 10:11"] * 20, "unused", "dates"),
        ("x", ["5"] * 20, "unused", "constant"),
        ("x", ["5", "5.0"] * 20, "unused", "constant"),
        ("x", ["5", "5.0", "0.5e1", "+5"] * 20, "unused", "constant"),
        ("x", ["0.30000000000000004", "0.3"] * 20, "unused", "constant"),
        ("ns", [str(17 * 10**17 + k % 3) for k in range(40)], "unused", "differences too small for 64-bit numbers"),
        ("ns", [str(17 * 10**17 + 50 * k) for k in range(40)], "unused", "differences too small for 64-bit numbers"),
        ("ns", [str(17 * 10**17 + 10**6 * (k % 30)) for k in range(40)], "number", ""),
        ("user", [str(2**62 + 3 * k) for k in range(40)], "unused", "differences too small for 64-bit numbers"),
        ("x", [f"0.1000000000000000000{k % 3}" for k in range(40)], "unused", "differences too small for 64-bit"),
        ("x", ["TRUE", "true"] * 20, "unused", "constant"),
        ("x", ["5", ""] * 20, "number", ""),
        ("x", ["NaN", "null", "?"], "unused", "without values"),
        ("x", ["a", "b", "a"], "unused", "no value in 10 training rows"),
        ("x", ["a", "b", "c"], "unused", "a different value in every row"),
        (
            "x",
            ["n.d.", "low", *map(str, range(20))],
            "unused",
            "numbers, but text in other rows, such as 'n.d.'; leave",
        ),
        ("x", ["inf", "inf", *map(str, range(20))], "unused", "numbers, but text in other rows, such as 'inf'"),
    ],
)
def test_kinds_of_columns(name: str, cells: list[str], kind: str, reason: str) -> None:
    column = fit(name, cells)
    assert (column.kind, column.reason[: len(reason)]) == (kind, reason)
    assert fit(name, cells, ["-7e11", "unseen"]) == column
    assert np.isfinite(column.encode([*cells, "", "unseen", "1e308"])).all()


def test_the_most_frequent_levels_have_a_feature() -> None:
    cells = [f"level {k}" for k in range(70) for _ in range(10 + k)] + ["rare"] * 9
    column = fit("x", cells)
    assert column.levels == tuple(sorted(f"level {k}" for k in range(20, 70)))
    assert column.has_other
    assert not column.has_missing
    assert column.encode(["level 69", "level 3", "rare", "new"]).sum(axis=1).tolist() == [1, 1, 1, 1]
    assert column.encode(["level 3", "rare", "new"])[:, -1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("style", ["${},000", "{} %", "{}kg", "{},5", "€ {}"])
def test_numbers_with_signs_or_units_are_named_with_the_remedy(style: str) -> None:
    column = fit("price", [style.format(number) for number in range(30)])
    assert column.kind == "unused"
    assert style.format(0) in column.reason
    assert column.reason.endswith("write numbers as 1234.56")
    assert fit("code", [f"V{number}" for number in range(30)]).reason == "a different value in every row"


NUMBERS = [
    "{} kg",
    "{}.3%",
    "€ {}",
    "1,{:03}",
    "{},5",
    "-{} °C",
    "1.{:03},50 €",
    "{} km/h",
    "({},000)",
    "US$ {}",
    ".{} l",
]


@pytest.mark.parametrize("style", [*NUMBERS, "{:.0f}"])
def test_repeated_numbers_with_signs_or_units_are_categories_with_a_note(
    style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [style.format(number) for number in (5, 12, 40, 300)] * 40
    columns = {"weight": values, "other": [f"{row}.5" for row in range(160)], "kind": ["a", "b"] * 80}
    path = write_table(tmp_path / "table.tsv", columns, separator="\t")
    encoding = encoding_of(split_source(open_source(path, target="kind")).train)
    assert encoding is not None
    printed = " ".join(capsys.readouterr().out.split())
    is_number = style == "{:.0f}"
    assert encoding.columns[0].kind == ("number" if is_number else "category")
    note = (
        f"table: 'weight' has numbers with signs, units or separators, such as '{values[0]}'; write numbers as 1234.56."
    )
    assert ("has numbers with" in printed) != is_number
    if not is_number:
        assert any(note.replace(values[0], value) in printed for value in values[:4])
        assert "Now frequent values are categories of their own" in printed


def test_numbers_beside_frequent_text_are_categories_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    income = ["unknown" if row % 5 == 0 else f"{row}.5" for row in range(160)]
    sizes = [("36", "38", "40", "S")[row % 4] for row in range(160)]
    columns = {"income": income, "size": sizes, "age": [f"{row}.5" for row in range(160)], "kind": ["a", "b"] * 80}
    path = write_table(tmp_path / "table.csv", columns)
    encoding = encoding_of(split_source(open_source(path, target="kind")).train)
    assert encoding is not None
    assert encoding.columns[0].levels == ("unknown",)
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "'income' has numbers, but text in other rows, such as 'unknown'; leave cells without a number empty" in printed
    )
    assert "'size' has" not in printed


@pytest.mark.parametrize(
    "values",
    [
        ["red", "green", "blue", "12 kg"],
        ["1.2.3", "10.0.1", "2.4.6", "3.0.0"],  # versions
        ["V12", "V14", "V20", "V9"],
        ["4wd", "2wd"],  # two values say the same as numbers
        ["10-20", "20-30", "30-40"],
    ],
)
def test_categories_with_digits_get_no_note(
    values: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [f"{row}.5" for row in range(160)]
    columns = {"x": [values[row % len(values)] for row in range(160)], "other": other, "kind": ["a", "b"] * 80}
    split_columns(tmp_path, columns)
    assert "has numbers with" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["1" * 20_000 + "!", " " * 20_000 + "1 ", "1 " * 10_000, "1,234" * 5_000])
def test_long_cells_are_no_numbers_with_signs(text: str) -> None:
    assert explain_numbers({text: 10, text + "a": 10, text + "b": 10}) == ""
