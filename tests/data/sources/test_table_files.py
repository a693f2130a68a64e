"""Files and targets of tables: classes, missing and broken ones, separators, splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd.checks import DamagedDataError
from kd.data.datasets import unwrap_subsets
from kd.data.sources import open_source, open_unlabelled, split_source
from kd.data.sources.table_encoding import EncodedTable
from tests.data.sources.tables import encoding, inputs_of, make_columns, open_columns, split_columns, write_table


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
