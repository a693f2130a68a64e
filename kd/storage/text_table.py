"""Untrusted tables of text and numbers, ``.csv`` and ``.tsv``: every cell is text, sizes are checked before reading."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from kd.storage.resources import require_memory
from kd.storage.tables import CSV_EXPANSION, CSV_LIMIT
from kd.storage.untrusted import read_bytes

_SEPARATORS = ",;\t"
_DECIMAL_COMMA = re.compile(r"([-+]?\d*),(\d+(?:[eE][-+]?\d+)?)")  # as spreadsheets write it where ";" separates cells
_QUOTED = re.compile(r'"(?:[^"]|"")*"?')
_MANY = 100_000  # columns; far above any table, and each needs a name


class TextTable(NamedTuple):
    """A table with a header.

    Attributes:
        names: column names, each once; a column without one is called ``column N``, counted from 1.
        rows: one list of cells per row, without surrounding spaces.
        lines: the last line in the file of each row, from 1.
    """

    names: list[str]
    rows: list[list[str]]
    lines: list[int]


def read_text_table(path: Path) -> TextTable:
    """Read a table from a ``.csv`` or ``.tsv`` file in UTF-8.

    Cells are separated by commas, semicolons or tabs: by the one of which the header has the most. Between semicolons,
    1,5 is the number 1.5. The first line is the header; empty lines are skipped.

    Raises:
        OSError: the file cannot be read.
        MemoryError: the file needs more memory than is available.
        ValueError: the file is too large or no such table: another encoding, no rows, repeated column names, or rows
            of different lengths.
    """
    content = read_bytes(path.resolve(), limit=CSV_LIMIT, because="; save a table of this size as .npz")
    require_memory(CSV_EXPANSION * len(content), str(path), "Use a part of it.")
    return parse_text_table(content)


def parse_text_table(content: bytes) -> TextTable:
    """Read a table from the content of a file; see ``read_text_table``."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8 ({error})") from error
    first_line = text.lstrip("\r\n").partition("\n")[0]
    unquoted = _QUOTED.sub("", first_line)
    separator = max(_SEPARATORS, key=unquoted.count)  # the comma if there is none
    rows, lines = [], []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
        for row in reader:
            if row:
                rows.append([_clean(cell, separator) for cell in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} cannot be read ({error})") from error
    if len(rows) < 2:
        raise ValueError(
            "it should have a line of column names and at least one row. Got " + ("no" * (not rows) or "one") + " line"
        )
    names = _name_columns(rows.pop(0))
    for row, line in zip(rows, lines[1:], strict=True):
        if len(row) != len(names):
            raise ValueError(f"line {line} should have {len(names)} cells, like the header. Got {len(row)}")
    return TextTable(names, rows, lines[1:])


def _clean(cell: str, separator: str) -> str:
    """Return a cell without surrounding spaces and, between semicolons, with a decimal point for a comma."""
    text = cell.strip()
    number = _DECIMAL_COMMA.fullmatch(text) if separator == ";" else None
    return f"{number[1]}.{number[2]}" if number else text


def _name_columns(header: list[str]) -> list[str]:
    if len(header) > _MANY:
        raise ValueError(f"it should have at most {_MANY:,} columns. Got {len(header):,}")
    names = [name or f"column {number}" for number, name in enumerate(header, 1)]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        listed = ", ".join(map(repr, repeated[:5]))
        raise ValueError(f"its first line must hold column names, each once. Got {listed} more than once")
    return names
