"""Slices of the test set from a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kd.commands.compare.slice_file import read_slices
from kd.evaluation.comparison_slices import measure_slices
from tests.commands.compare.comparisons import IMAGES, make_comparison


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "slices.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_each_column_divides_the_test_set(tmp_path: Path) -> None:
    groups = read_slices(write(tmp_path, "camera,lit\na,yes\nb,\na,no\n"), 3)
    assert {name: list(masks) for name, masks in groups.items()} == {
        "camera": ["a", "b"],
        "lit": ["(empty)", "no", "yes"],
    }
    assert groups["camera"]["a"].tolist() == [True, False, True]
    assert all(np.sum(list(masks.values()), axis=0).tolist() == [1, 1, 1] for masks in groups.values())


def test_empty_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    groups = read_slices(write(tmp_path, "camera,lit\r\na,yes\r\nb,\r\n\r\n\n"), 2)
    assert list(groups["lit"]) == ["(empty)", "yes"]


def test_the_slices_are_compared_like_the_classes(tmp_path: Path) -> None:
    rows = "".join(f"{index % 5}\n" for index in range(IMAGES))
    slices = measure_slices(make_comparison(), read_slices(write(tmp_path, f"label\n{rows}"), IMAGES))
    assert slices["label"] == slices["class"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nx\n", "a header and a row for each of 2 test items. Got '1 rows'"),
        ("a,a\nx,y\nx,y\n", "whose columns have names"),
        ("", "whose columns have names"),
        ("a,b\nx,y\nx\n", "another number of cells in row 1"),
        (b"a\n\xff\nx\n", "must be CSV in UTF-8"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_slices(write(tmp_path, text), 2)


def test_an_identifier_is_no_slice(tmp_path: Path) -> None:
    rows = "".join(f"{index}\n" for index in range(101))
    with pytest.raises(ValueError, match=r"at most 100 different cells in a column\. Got \"101 in 'id'\""):
        read_slices(write(tmp_path, f"id\n{rows}"), 101)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class\na\nb\n", "they are built in"),
        ("shift\na\nb\n", "without columns class, shift, teacher"),
        ("a,\nx,y\nx,y\n", "have names"),
        ("a\n" + "x" * 200_000 + "\ny\n", "no valid CSV"),
    ],
)
def test_names_that_are_taken_or_empty_and_broken_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_slices(write(tmp_path, text), 2)


def test_a_missing_file_is_named_with_its_flag(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^--slices .*none\.csv: No such file or directory"):
        read_slices(tmp_path / "none.csv", 3)
