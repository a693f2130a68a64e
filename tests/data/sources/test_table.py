"""``.csv`` tables: kinds of columns, missing values and unseen levels, with everything fitted on the training rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kd.commands.data import load_data
from kd.commands.settings import RunSettings
from kd.data.sources import Source, open_source, split_source
from kd.data.sources.partition import Splits
from kd.data.sources.table_encoding import Encoding
from tests.data.sources.tables import encoding, inputs_of, make_columns, open_columns, split_columns, write_table


def training_rows(splits: Splits) -> list[int]:
    return list(json.loads(splits.chosen)["rows"]["train"])


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
