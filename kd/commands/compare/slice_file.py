"""Slices of the test set from a CSV file: a column for each way to divide it, a row for each test item."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from kd.checks import naming_flag, require
from kd.evaluation.comparison_slices import BUILT_IN
from kd.evaluation.slices import Masks
from kd.storage.untrusted import read_bytes

MOST_SLICES = 100  # of a column; more are an identifier
_LIMIT = 256 * 1024**2  # bytes


def read_slices(path: Path, items: int) -> dict[str, Masks]:
    """Return a group of slices for each column of the file; equal cells are one slice.

    Args:
        path: CSV in UTF-8 with a header; row i belongs to test item i.
        items: number of test items.

    Raises:
        OSError: the file cannot be read.
        ValueError: another number of rows, no or equal names of columns, a column with too many different cells.
    """
    name = f"--slices {path}"
    try:
        with naming_flag(name):
            content = read_bytes(path, limit=_LIMIT)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be CSV in UTF-8. Byte {error.start} is not.") from error
    try:
        header, *rows = list(csv.reader(io.StringIO(text.rstrip("\r\n")))) or [[]]
    except csv.Error as error:
        raise ValueError(f"{name} is no valid CSV: {error}.") from error
    has_names = all(header) and 0 < len(header) == len(set(header))
    require(has_names, name, header, "a CSV file whose columns have names, each once")
    require(
        not BUILT_IN & set(header), name, header, f"without columns {', '.join(sorted(BUILT_IN))}", "they are built in"
    )
    require(len(rows) == items, name, f"{len(rows):,} rows", f"a header and a row for each of {items:,} test items")
    uneven = next((number for number, row in enumerate(rows) if len(row) != len(header)), None)
    require(uneven is None, name, f"another number of cells in row {uneven}", f"{len(header)} cells in each row")
    return {column: _divide(name, column, [row[i] for row in rows]) for i, column in enumerate(header)}


def _divide(name: str, column: str, cells: list[str]) -> Masks:
    values = sorted(set(cells))
    allowed, got = f"at most {MOST_SLICES} different cells in a column", f"{len(values):,} in {column!r}"
    require(len(values) <= MOST_SLICES, name, got, allowed, "leave out identifiers; put numbers into bins")
    array = np.array(cells)
    return {value or "(empty)": array == value for value in values}
