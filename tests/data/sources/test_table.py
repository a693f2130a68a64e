"""``.csv`` tables: kinds of columns, missing values and unseen levels, with everything fitted on the training rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd.checks import DamagedDataError
from kd.commands.data import load_data
from kd.commands.settings import RunSettings
from kd.data.datasets import unwrap_subsets
from kd.data.sources import Source, open_source, open_unlabelled, split_source
from kd.data.sources.partition import Splits
from kd.data.sources.table_columns import Column, column_from_json, explain_numbers, fit_column
from kd.data.sources.table_encoding import EncodedTable, Encoding, encoding_of

ROWS = 200


def make_columns(rows: int = ROWS, seed: int = 0) -> dict[str, list[str]]:
    """Return a table of text: numbers, categories, booleans, missing values, and columns without information."""
    rng = np.random.default_rng(seed)
    age = [f"{value:.1f}" for value in rng.normal(40, 10, rows)]
    columns = {
        "row": [str(number) for number in range(rows)],
        "age": ["NA" if rng.random() < 0.2 else value for value in age],
        "income": [f"{value:.3e}" for value in rng.lognormal(10, 1, rows)],
        "colour": [("red", "green", "blue", "")[int(k)] for k in rng.integers(0, 4, rows)],
        "town": [f"town {min(int(k), 30)}" for k in rng.geometric(0.3, rows)],
        "smoker": [("True", "FALSE", "false")[int(k)] for k in rng.integers(0, 3, rows)],
        "since": [f"2020-{1 + int(k) % 12:02d}-11" for k in rng.integers(0, 12, rows)],
        "name": [f"person {number}" for number in rng.permutation(rows)],
        "unit": ["cm"] * rows,
        "nothing": [""] * rows,
    }
    columns["kind"] = [("yes" if float(x) > 30_000 else "no") for x in columns["income"]]
    return columns


def write_table(path: Path, columns: dict[str, list[str]], separator: str = ",") -> Path:
    lines = [separator.join(columns), *(separator.join(row) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def open_columns(tmp_path: Path, columns: dict[str, list[str]], target: str = "kind", **options: Any) -> Source:
    return open_source(write_table(tmp_path / "table.csv", columns), target=target, **options)


def split_columns(tmp_path: Path, columns: dict[str, list[str]], **options: Any) -> Splits:
    return split_source(open_columns(tmp_path, columns), **options)


def inputs_of(dataset: Any) -> torch.Tensor:
    return torch.stack([dataset[index][0] for index in range(len(dataset))])


def encoding(dataset: Any) -> Encoding:
    result = encoding_of(dataset)
    assert result is not None
    return result


def training_rows(splits: Splits) -> list[int]:
    return list(json.loads(splits.chosen)["rows"]["train"])


def fit(name: str, cells: Sequence[str], further: Sequence[str] = ()) -> Column:
    """Return the column that these training cells fit; further cells are in no training row."""
    levels = list(dict.fromkeys([*cells, *further]))
    return fit_column(name, levels, np.array([levels.index(cell) for cell in cells], np.int32))


def test_every_kind_of_column_is_recognised(tmp_path: Path) -> None:
    splits = split_columns(tmp_path, make_columns())
    columns = {column.name: column for column in encoding(splits.train).columns}
    assert {name: column.kind for name, column in columns.items()} == {
        **dict.fromkeys(("age", "income"), "number"),
        **dict.fromkeys(("colour", "town", "smoker"), "category"),
        **dict.fromkeys(("row", "since", "name", "unit", "nothing"), "unused"),
    }
    assert columns["smoker"].levels == ("false", "true")
    assert columns["colour"].features == ["colour=blue", "colour=green", "colour=red", "colour (missing)"]
    assert columns["age"].features == ["age", "age (missing)"]
    assert columns["town"].has_other
    assert splits.classes == ("no", "yes")
    assert splits.train[0][0].shape == (len(encoding(splits.train).features),)


def test_inputs_are_those_of_an_independent_computation(tmp_path: Path) -> None:
    table = make_columns()
    splits = split_columns(tmp_path, table)
    rows, features = training_rows(splits), encoding(splits.train).features
    inputs = inputs_of(splits.train).double().numpy()
    ages = np.array([np.nan if cell == "NA" else float(cell) for cell in table["age"]])[rows]
    filled = np.where(np.isnan(ages), np.nanmedian(ages), ages)
    assert inputs[:, features.index("age")] == pytest.approx((filled - filled.mean()) / filled.std(), abs=1e-5)
    assert inputs[:, features.index("age (missing)")].tolist() == np.isnan(ages).tolist()
    colours = [table["colour"][row] for row in rows]
    assert inputs[:, features.index("colour=red")].tolist() == [colour == "red" for colour in colours]
    assert inputs[:, features.index("colour (missing)")].tolist() == [colour == "" for colour in colours]
    towns = [table["town"][row] for row in rows]
    rare = [towns.count(town) < 10 for town in towns]
    assert inputs[:, features.index("town (other)")].tolist() == rare


@pytest.mark.parametrize(
    ("column", "cell"),
    [("age", "1e9"), ("age", ""), ("age", "old"), ("colour", "violet"), ("town", "town 1"), ("smoker", "perhaps")],
)
def test_rows_outside_of_the_training_part_change_nothing_of_it(column: str, cell: str, tmp_path: Path) -> None:
    table = make_columns()
    before = split_columns(tmp_path, table)
    used = set(training_rows(before))
    table[column] = [value if row in used else cell for row, value in enumerate(table[column])]
    after = split_columns(tmp_path, table)
    assert encoding(after.train) == encoding(before.train)
    assert torch.equal(inputs_of(after.train), inputs_of(before.train))
    assert not torch.equal(inputs_of(after.test), inputs_of(before.test))
    assert inputs_of(after.test).isfinite().all()


def test_unseen_levels_are_other_and_reported_with_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = make_columns()
    rows = json.loads(split_columns(tmp_path, table).chosen)["rows"]
    for row in rows["test"][:3]:
        table["town"][row] = table["colour"][row] = "nowhere"
    for row in rows["test"][3:5]:
        table["income"][row] = "much"
    for row in rows["val"][:2]:
        table["income"][row] = ""
    capsys.readouterr()
    splits = split_columns(tmp_path, table)
    out = " ".join(capsys.readouterr().out.split())
    assert re.search("values of 'town' that train does not have count as 'other':.* [345] of test .*'nowhere'", out)
    assert "values of 'colour' that train does not have count as 'other': 3 of test ('nowhere')" in out
    assert "'income' has cells that are no numbers and count as missing: 2 of test ('much')" in out
    assert "'income' is missing only outside of train, and becomes the median: 2 of val" in out
    features, inputs = encoding(splits.test).features, inputs_of(splits.test)
    assert inputs[:3, features.index("town (other)")].tolist() == [1, 1, 1]
    towns = [number for number, name in enumerate(features) if name.startswith("town=")]
    assert not inputs[:3, towns].any()
    colours = [number for number, name in enumerate(features) if name.startswith("colour")]
    assert not inputs[:3, colours].any()  # no rare colours in train, so no feature that it could have learned


def test_what_is_done_with_columns_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split_columns(tmp_path, make_columns())
    out = " ".join(capsys.readouterr().out.split())
    assert "table: 10 columns (2 of numbers, 3 of categories) make" in out
    for name, reason in (
        ("row", "an identifier"),
        ("since", "dates or times"),
        ("name", "a different value in every row"),
        ("unit", "constant"),
        ("nothing", "without values"),
    ):
        assert f"not used are '{name}': {reason}" in out
    assert "missing numbers become the training median, with an indicator: 'age'" in out
    assert "rare values of 'town' are together 'other'" in out


def permuted(table: dict[str, list[str]]) -> dict[str, list[str]]:
    return dict(reversed(table.items()))


def with_semicolons(tmp_path: Path, table: dict[str, list[str]]) -> Source:
    """Write decimal commas, as spreadsheets do in many countries."""
    commas = {name: [cell.replace(".", ",") for cell in cells] for name, cells in table.items()}
    return open_source(write_table(tmp_path / "table.csv", commas, ";"), target="kind")


def with_tabs(tmp_path: Path, table: dict[str, list[str]]) -> Source:
    return open_source(write_table(tmp_path / "table.tsv", table, "\t"), target="kind")


def with_spaces_and_marks(tmp_path: Path, table: dict[str, list[str]]) -> Source:
    spaced = {f" {name}": [f' " {cell} "' for cell in cells] for name, cells in table.items()}
    path = write_table(tmp_path / "table.csv", spaced)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    return open_source(path, target="kind")


@pytest.mark.parametrize(
    "open_other",
    [with_semicolons, with_tabs, with_spaces_and_marks, lambda path, table: open_columns(path, permuted(table))],
)
def test_order_of_columns_and_format_of_the_file_do_not_matter(
    open_other: Callable[[Path, dict[str, list[str]]], Source], tmp_path: Path
) -> None:
    table = make_columns()
    first, second = split_columns(tmp_path, table), split_source(open_other(tmp_path, table))
    assert first.chosen == second.chosen
    names = [encoding(splits.train).features for splits in (first, second)]
    assert sorted(names[0]) == sorted(names[1])
    order = [names[1].index(name) for name in names[0]]
    for split in ("train", "val", "test"):
        assert torch.equal(inputs_of(getattr(first, split)), inputs_of(getattr(second, split))[:, order])


def test_scale_and_unit_of_numbers_do_not_matter(tmp_path: Path) -> None:
    """Standardised in float64, so that even time stamps in nanoseconds keep their differences."""
    table = make_columns()
    first = split_columns(tmp_path, table)
    table["age"] = [cell if cell == "NA" else repr(float(cell) * 1e3 + 1.6e18 / 1e6) for cell in table["age"]]
    second = split_columns(tmp_path, table)
    torch.testing.assert_close(inputs_of(first.test), inputs_of(second.test), atol=1e-4, rtol=0)


def test_a_saved_encoding_encodes_rows_like_the_splits(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.csv", make_columns())
    loaded = load_data(RunSettings(data=str(path), target="kind"))
    assert loaded.encoding is not None
    restored = Encoding.from_json(json.loads(json.dumps(loaded.encoding.to_json())))
    assert restored == loaded.encoding
    test = loaded.rows["test"]
    cells = {name: [values[row] for row in test] for name, values in make_columns().items()}
    assert np.array_equal(restored.encode(cells), inputs_of(loaded.test_set).numpy())
    del cells["age"], cells["unit"]  # "unit" is not used
    with pytest.raises(ValueError, match=r"must have the columns of the training data\. It lacks 'age'\."):
        restored.encode(cells)


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


@pytest.mark.parametrize(
    ("target", "classes", "names", "labels"),
    [
        (["b", "a"] * 20, None, ("a", "b"), [1, 0]),
        (["b", "a"] * 20, ["b", "a"], ("b", "a"), [0, 1]),
        (["1.0", "0", "10", "1"] * 10, None, ("0", "1", "10"), [1, 0, 2, 1]),
        (["1", "0"] * 20, ["cat", "dog"], ("cat", "dog"), [1, 0]),
        (["1.5", "0.5"] * 20, None, ("0.5", "1.5"), [1, 0]),
        (["none", "mild"] * 20, None, ("mild", "none"), [1, 0]),
        (["True", "False"] * 20, None, ("False", "True"), [1, 0]),
    ],
)
def test_values_of_the_target_are_the_classes(
    target: list[str], classes: list[str] | None, names: tuple[str, ...], labels: list[int], tmp_path: Path
) -> None:
    source = open_columns(tmp_path, {"x": [str(k % 7) for k in range(40)], "kind": target}, classes=classes)
    assert source.classes == names
    assert [label for _, label in (source.train[row] for row in range(len(labels)))] == labels


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([str(k / 7) for k in range(40)], r"the column 'kind' must hold classes\. Got 40 different numbers in 40 rows"),
        ([str(k) for k in range(40)], r"Got 40 different numbers .*regression.*kd\.DistilledRegressor"),
        (
            ["a", "", "b", "NA"] * 10,
            r"'kind' must have a class in every row\. It is missing in 20 of 40 rows, in line 3",
        ),
    ],
)
def test_targets_that_are_no_classes_raise(target: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        open_columns(tmp_path, {"x": [str(k % 7) for k in range(40)], "kind": target})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            None,
            r"target \(--target\) must name the column of table\.csv .* Got none instead\. Its columns are row, age",
        ),
        ("colr", r"Got 'colr' instead\. Did you mean colour\?"),
    ],
)
def test_a_missing_target_raises(target: str | None, message: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.csv", make_columns(20))
    with pytest.raises(ValueError, match=message):
        open_source(path, target=target)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least one row. Got no line"),
        (b"a,b\n", "at least one row. Got one line"),
        (b"a,b\n1,2\n\n3\n", "line 4 should have 2 cells, like the header. Got 1"),
        (b"a,b\n1,2,3\n", "line 2 should have 2 cells, like the header. Got 3"),
        (b"a,a\n1,2\n", "its first line must hold column names, each once. Got 'a' more than once"),
        (b"a,b\n\xff,2\n", "it is not text in UTF-8"),
        (b'a,b\n"1,2\n', "line 2 cannot be read"),
        (b"a,b\n" + b"1" * 200_000 + b",2\n", "line 2 cannot be read"),
    ],
)
def test_a_file_that_is_no_table_raises(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(DamagedDataError) as raised:
        open_source(tmp_path / "table.csv", target="b")
    assert f"cannot read the data file {tmp_path / 'table.csv'}: " in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.filterwarnings("ignore:.* are also in")
def test_a_missing_file_or_only_a_target_raises(tmp_path: Path) -> None:
    with pytest.raises(DamagedDataError, match=r"cannot read the data file .*No such file"):
        open_source(tmp_path / "table.csv", target="kind")
    with pytest.raises(ValueError, match="must have columns besides 'kind' to learn from"):
        open_columns(tmp_path, {"kind": ["a", "b"]})
    unused = {"unit": ["cm"] * 40, "kind": ["a", "b"] * 20}
    with pytest.raises(ValueError, match=r"must have a column besides 'kind' to learn from\. Got unit: constant"):
        split_columns(tmp_path, unused)


@pytest.mark.filterwarnings("ignore:.* are also in")
def test_a_table_of_few_different_rows_is_no_error(tmp_path: Path) -> None:
    table = {"colour": ["red", "green"] * 50, "kind": ["a", "a", "b", "b"] * 25}
    splits = split_columns(tmp_path, table)
    assert len(splits.test) == 20  # type: ignore[arg-type]  # torch's Dataset does not declare __len__


def test_a_saved_split_is_encoded_alike_and_another_seed_is_not(tmp_path: Path) -> None:
    source = open_columns(tmp_path, make_columns())
    first = split_source(source)
    again, other = split_source(source, seed=9, chosen=first.chosen), split_source(source, seed=9)
    assert encoding(again.train) == encoding(first.train) != encoding(other.train)
    assert torch.equal(inputs_of(again.test), inputs_of(first.test))
    base, _ = unwrap_subsets(first.train)
    assert isinstance(base, EncodedTable)


def test_unlabelled_data_do_not_apply(tmp_path: Path) -> None:
    splits = split_columns(tmp_path, make_columns())
    with pytest.raises(ValueError, match=r"--unlabelled\) cannot be combined with a \.csv or \.tsv table"):
        open_unlabelled(tmp_path / "more.npz", train=splits.train)


def test_only_tables_take_a_target() -> None:
    with pytest.raises(ValueError, match=r"target \(--target\) does not apply to 'sklearn:iris'"):
        open_source("sklearn:iris", target="species")


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


def test_booleans_of_the_target_are_two_classes_in_any_case(tmp_path: Path) -> None:
    columns = {"x": ["1", "2", "3", "4"], "kind": ["True", "FALSE", "true", "False"]}
    assert open_columns(tmp_path, columns).classes == ("false", "true")


def test_a_target_of_numbers_with_gaps_is_regression(tmp_path: Path) -> None:
    columns = {"x": ["1"] * 30, "kind": ["", *(f"{n}.5" for n in range(29))]}
    with pytest.raises(ValueError, match="regression"):
        open_columns(tmp_path, columns)


def test_an_upper_case_ending_is_a_table_and_unknown_endings_name_the_next_step(tmp_path: Path) -> None:
    path = write_table(tmp_path / "M.CSV", {"x": ["1", "2"], "kind": ["a", "b"]})
    assert open_source(path, target="kind").classes == ("a", "b")
    for name, step in (("M.txt", "rename it"), ("M.zip", "unpack it")):
        (tmp_path / name).write_bytes(path.read_bytes())
        with pytest.raises(ValueError, match=step) as error:
            open_source(tmp_path / name, target="kind")
        assert "Did you mean" not in str(error.value)
    (tmp_path / "M.npy").write_bytes(b"\x93NUMPY\1\0")
    with pytest.raises(ValueError, match=r"Its ending '\.npy' is unknown\. Allowed: mnist"):
        open_source(tmp_path / "M.npy")


def test_separators_in_quotes_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('"a; b; c; d",kind\n1,yes\n2,no\n', encoding="utf-8")
    assert open_source(path, target="kind").classes == ("no", "yes")


def test_an_identifier_does_not_hide_equal_rows(tmp_path: Path) -> None:
    columns = {"row_id": [str(k) for k in range(40)], "x": [f"{k // 2}.5" for k in range(40)], "kind": ["a", "b"] * 20}
    dataset: Any = open_columns(tmp_path, columns).train
    digests = dataset.digests(np.arange(40))
    assert digests[::2] == digests[1::2]
    assert len(set(digests)) == 20
