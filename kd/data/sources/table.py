"""``.csv`` and ``.tsv`` files: a table with a header, one row per sample and a column with the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd.checks import DamagedDataError, did_you_mean, similar_paths
from kd.console import printable_name
from kd.data.sources.labels import encode_labels
from kd.data.sources.source import Source
from kd.data.sources.table_columns import MISSING, Codes, parse_numbers, to_level
from kd.data.sources.table_encoding import RawTable
from kd.storage.text_table import TextTable, read_text_table

_NO_CLASS = MISSING - {"none", "null"}  # which may name a class
_FEW = 20  # different numbers, even fractions, up to which a target holds classes


def open_table(path: Path, target: str | None, classes: Sequence[str] | None = None) -> Source:
    """Open a table, unsplit. Its columns become numbers when it is split (``kd.data.sources.table_encoding``).

    Args:
        target: name of the column with the classes.
        classes: class names in label order; all values of the column, or names for the values 0, 1, ….

    Raises:
        DamagedDataError: the file is missing or no table.
        ValueError: there is no such column, or it has missing values or too many different numbers to be classes.
    """
    table = _read(path)
    listed = ", ".join(map(printable_name, table.names[:12])) + ", …" * (len(table.names) > 12)
    if target is None or target not in table.names:
        hint = did_you_mean(target or "", table.names, f"Its columns are {listed}.")
        got = "none" if target is None else repr(target)
        raise ValueError(
            f"target (--target) must name the column of {path.name} that holds the classes. Got {got} instead. {hint}"
        )
    if len(table.names) == 1:
        raise ValueError(f"{path.name} must have columns besides {target!r} to learn from. Got none.")
    index = table.names.index(target)
    values = _read_classes(table, index, target)
    is_numbered = classes is not None and not set(values) <= set(classes) and all(map(str.isdecimal, values))
    given = np.array(values).astype(np.int64) if is_numbered else np.array(values)
    labels, names = encode_labels({"train": given}, classes)
    others = [number for number in range(len(table.names)) if number != index]
    levels, codes = _factorise(table, others)
    raw = RawTable(target, [table.names[number] for number in others], levels, codes, labels["train"])
    return Source(path.stem, raw, None, None, names)


def _read(path: Path) -> TextTable:
    hint = similar_paths(path) if not path.exists() else "Save it as comma-separated UTF-8 text with column names."
    try:
        return read_text_table(path)
    except (OSError, ValueError) as error:
        reason = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else str(error).removesuffix(".")
        raise DamagedDataError(f"cannot read the data file {path}: {reason}. {hint}".rstrip()) from error


def _read_classes(table: TextTable, index: int, target: str) -> list[str]:
    """Return the class of each row; whole numbers are the same class with and without decimals."""
    cells = [row[index] for row in table.rows]
    empty = [line for cell, line in zip(cells, table.lines, strict=True) if cell.lower() in _NO_CLASS]
    _require_classes(target, parse_numbers([cell for cell in cells if cell.lower() not in _NO_CLASS]))
    if empty:
        lines = ", ".join(map(str, empty[:5])) + ", …" * (len(empty) > 5)
        raise ValueError(
            f"the column {target!r} must have a class in every row. It is missing in {len(empty):,} of "
            f"{len(cells):,} rows, in line {lines}. Remove these rows."
        )
    numbers = parse_numbers(cells)
    if np.isnan(numbers).any():
        levels = [to_level(cell) for cell in cells]
        is_mixed = set(levels) <= {"true", "false"} and len(set(levels)) < len(set(cells))
        return levels if is_mixed else cells
    return [_to_class(cell, number) for cell, number in zip(cells, numbers.tolist(), strict=True)]


def _require_classes(target: str, numbers: NDArray[np.float64]) -> None:
    """Raise ``ValueError`` if the cells [N] that are not empty are numbers, with too many values to be classes."""
    if np.isnan(numbers).any():
        return
    different, whole = len(np.unique(numbers)), bool((numbers == np.round(numbers)).all())
    if different > _FEW and (not whole or different > len(numbers) / 10):
        raise ValueError(
            f"the column {target!r} must hold classes. Got {different:,} different numbers in {len(numbers):,} rows, "
            "which suggests regression. Store ranges of the numbers as classes, or use kd.DistilledRegressor."
        )


def _to_class(cell: str, number: float) -> str:
    """Return the name of a class that is a number: "1" for "1.0" and "1e0"."""
    return cell if cell.isdecimal() or number != round(number) else str(int(number))


def _factorise(table: TextTable, columns: Sequence[int]) -> tuple[list[list[str]], Codes]:
    """Return for each column its different cells, and the index of each cell among them, [N, C]."""
    codes = np.empty((len(table.rows), len(columns)), np.int32)
    levels = []
    for out, column in zip(codes.T, columns, strict=True):
        numbers: dict[str, int] = {}
        out[:] = [numbers.setdefault(row[column], len(numbers)) for row in table.rows]
        levels.append(list(numbers))
    return levels, codes
