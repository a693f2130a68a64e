"""Untrusted numeric tables, ``.npy``, ``.npz`` and ``.csv``: sizes are checked before reading, pickle is never used."""

from __future__ import annotations

import csv
import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd.checks import DamagedDataError
from kd.console import say
from kd.storage.npy import Array, CheckShape, list_members, measure_member, read_array, read_member
from kd.storage.resources import is_passing_fault, require_memory
from kd.storage.untrusted import SIZE_LIMIT, read_bytes

_ARRAYS = ("x", "y", "ids")
NPZ_NAMES = (*_ARRAYS, *(f"{name}_{part}" for part in ("train", "val", "test") for name in _ARRAYS), "classes")
NPZ_LIMIT = SIZE_LIMIT  # bytes, for a dataset's file and for all its arrays unpacked
CSV_LIMIT = 256 * 1024**2  # bytes; parsed to Python strings and lists, a file takes ten times its size
_NON_OBJECT = "biufcmMSUV"  # numpy dtype kinds except objects; the dataset checks the dtype itself later
CSV_EXPANSION = 10  # memory that Python's strings and lists take / size of the file


class Table(NamedTuple):
    """A numeric table with optional row ids and column names.

    Attributes:
        values: [R, C] numbers, unchanged from the file.
        ids: one id per row; None if no id column was requested.
        columns: column names from the header of a ``.csv`` file, else None.
    """

    values: Array
    ids: list[str] | None
    columns: list[str] | None


def read_table(path: Path, *, name: str, id_column: str | None, check_shape: CheckShape) -> Table:
    """Read a table from a ``.npy``, ``.npz`` or ``.csv`` file.

    Args:
        check_shape: raises ``ValueError`` for the shape of a table that is not needed. Called before its values are
            read, so that their number is bounded by what the caller needs.
        name: the array to read from an ``.npz`` file with several arrays besides the ids.
        id_column: column (``.csv``) or array (``.npz``) with the row ids; None reads no ids.

    Raises:
        OSError: the file cannot be read.
        MemoryError: the file needs more memory than is available.
        ValueError: the file has a different format, is damaged or too large, or lacks the array or column.
    """
    match path.suffix:
        case ".npy" if id_column is None:
            content = read_bytes(path)
            return Table(read_array(io.BytesIO(content), len(content), "fiu", check_shape), None, None)
        case ".npy":
            raise ValueError(
                f"an .npy file has no ids: use .npz with an array {id_column!r}, or .csv with a column of this name"
            )
        case ".npz":
            return _parse_npz(path, name, id_column, check_shape)
        case ".csv":
            because = "; save a table of this size as .npy"
            content = read_bytes(path, limit=CSV_LIMIT, because=because)
            require_memory(CSV_EXPANSION * len(content), str(path), "Save it as .npy.")
            table = _parse_csv(content, id_column)
            check_shape(table.values.shape)
            return table
    raise ValueError(f"it should be an .npy, .npz or .csv file. Got {path.suffix or 'no suffix'!r}")


def _parse_npz(path: Path, name: str, id_column: str | None, check_shape: CheckShape) -> Table:
    content = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = list_members(archive)
            candidates = [key for key in members if key != id_column]
            value_name = candidates[0] if len(candidates) == 1 else name
            for required in filter(None, (value_name, id_column)):
                if required not in members:
                    raise ValueError(
                        f"it should hold an array {required!r}. Got {', '.join([*members][:12]) or 'none'} instead"
                    )
            values = read_member(archive, members[value_name], "fiu", check_shape)
            ids = read_member(archive, members[id_column], "USiu") if id_column else None
    except ValueError:  # has a specific message already
        raise
    except Exception as error:  # zipfile and zlib raise a different type for each kind of damage
        if is_passing_fault(error):
            raise
        raise ValueError(f"it is damaged or not an .npz file ({type(error).__name__}: {error})") from error
    if unused := sorted(members.keys() - {value_name, id_column}):
        say(f"{path}: arrays that are not read: {', '.join(unused[:10])}")
    names = None if ids is None else _to_strings(ids)
    if names is not None and len(names) != len(values):
        raise ValueError(f"it must have one id for each of its {len(values):,} rows. Got {len(names):,}")
    return Table(values, names, None)


def find_rows(ids: Sequence[str], file_ids: Sequence[str], path: Path) -> Array:
    """Return the row of each id in a file with these ids.

    Raises:
        ValueError: an id is missing, or in the file more than once.
    """
    row_of = {id_: row for row, id_ in enumerate(file_ids)}
    if len(row_of) < len(file_ids):
        duplicate = next(id_ for row, id_ in enumerate(file_ids) if row_of[id_] != row)
        raise ValueError(f"ids must be unique. Got {duplicate!r} more than once")
    missing = [id_ for id_ in map(str, ids) if id_ not in row_of]
    if missing:
        raise ValueError(
            f"it must have a row for each of the {len(ids):,} samples. {len(missing):,} ids are missing, such as "
            f"{', '.join(map(repr, missing[:3]))}; the file has ids such as {', '.join(map(repr, file_ids[:3]))}"
        )
    if len(file_ids) > len(ids):
        say(f"{path}: {len(file_ids) - len(ids):,} of {len(file_ids):,} rows belong to no sample and are ignored")
    return np.array([row_of[str(id_)] for id_ in ids])


def _to_strings(ids: Array) -> list[str]:
    if ids.ndim != 1:
        raise ValueError(f"its ids should be one per row. Got an array of shape {list(ids.shape)}")
    return [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in ids.tolist()]


def parse_text(content: bytes) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file in UTF-8 that are not empty, each with the number of its last line.

    Raises:
        ValueError: the content is not comma-separated text in UTF-8.
    """
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        return [(lines.line_num, row) for row in lines if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"it is not comma-separated text in UTF-8 ({error})") from error


def _parse_csv(content: bytes, id_column: str | None) -> Table:
    rows = parse_text(content)
    header = rows.pop(0)[1] if rows and _is_header(rows[0][1]) else None
    if not rows:
        raise ValueError("it has no rows")
    if id_column is None:
        return Table(_parse_numbers(rows, len(header or rows[0][1])), None, header)
    if header is None or id_column not in header:
        got = "no header" if header is None else f"the columns {', '.join(header[:12])}"
        raise ValueError(f"it should have a header with a column {id_column!r}. Got {got} instead")
    index = header.index(id_column)
    ids = [row.pop(index) if index < len(row) else "" for _, row in rows]
    del header[index]
    return Table(_parse_numbers(rows, len(header)), ids, header)


def _parse_numbers(rows: list[tuple[int, list[str]]], width: int) -> Array:
    values = np.empty((len(rows), width))
    for out, (line, row) in zip(values, rows, strict=True):
        bad = next((cell for cell in row if not _is_number(cell)), None)
        if bad is not None:
            raise ValueError(f"line {line} should hold numbers. Got {_explain_text(bad)}")
        if len(row) != width:
            raise ValueError(f"line {line} should hold {width} numbers, like the first line. Got {len(row)}")
        out[:] = [float(cell) for cell in row]
    return values


def _explain_text(cell: str) -> str:
    """Return a cell that is no number, and what to do about it."""
    if not cell.strip():
        return "an empty cell. Fill it, or leave out the row"
    if _is_number(cell.replace(";", "\t").partition("\t")[0]):
        return f"{cell[:40]!r}. Separate the cells by commas"
    return f"{cell[:40]!r}. Only an id column may hold text: name it with --ids (in Python, id_column)"


def _is_header(row: list[str]) -> bool:
    """Return whether a row is a header: names, or 0, 1, 2, …, the default column names of pandas.

    A row 0, 1 is not: it may hold probabilities.
    """
    is_numbered = len(row) > 2 and row == [str(number) for number in range(len(row))]
    return is_numbered or not all(map(_is_number, row))


def _is_number(cell: str) -> bool:
    """Return whether ``float`` accepts the cell, except for underscores as in 1_000."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def read_npz(path: Path, hint: str) -> dict[str, Array]:
    """Read a dataset's arrays from an ``.npz`` file, by name.

    Args:
        hint: the remedy, appended to the error message.

    Raises:
        MemoryError: the file or its arrays need more memory than is available.
        DamagedDataError: the file cannot be read, is damaged or too large, or contains objects.
    """
    try:
        return _read_npz(path)
    except MemoryError as error:
        raise MemoryError(f"cannot read the data file {path}: {error or 'an allocation failed.'}") from error
    except Exception as error:  # zipfile, zlib and numpy's parser raise a dozen types for damaged files
        reason = str(error).removesuffix(".")
        raise DamagedDataError(f"cannot read the data file {path}: {reason}. {hint}") from error


def _read_npz(path: Path) -> dict[str, Array]:
    """Read the arrays listed in ``NPZ_NAMES`` from a dataset's archive, by name.

    The sizes stated in the archive and in the array headers are compared with each other and with the available memory
    before any data is read, so that a small file cannot fill the memory. Pickled objects are never loaded.

    Raises:
        ValueError: the archive is too large, or an array contains objects or does not have its stated size.
        Exception: any type that zipfile raises for damaged files.
    """
    with zipfile.ZipFile(io.BytesIO(read_bytes(path.resolve(), limit=NPZ_LIMIT))) as archive:
        members = list_members(archive)
        used = {name: member for name, member in members.items() if name in NPZ_NAMES}
        unpacked = sum(member.file_size for member in used.values())
        if unpacked > NPZ_LIMIT:
            raise ValueError(f"it unpacks to more than {NPZ_LIMIT:,} bytes. Got {unpacked:,}")
        needed = 0
        for name, member in used.items():
            with _add_array_to_errors(name):
                needed += measure_member(archive, member, _NON_OBJECT)
        require_memory(needed, "the content of its arrays")
        arrays = {}
        for name, member in used.items():
            with _add_array_to_errors(name):
                arrays[name] = read_member(archive, member, _NON_OBJECT)
    unused = sorted(members.keys() - used.keys())
    if unused:
        warnings.warn(f"{path} has arrays that are not used: {', '.join(unused[:10])}.", stacklevel=3)
    return arrays


@contextmanager
def _add_array_to_errors(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"its array {name} cannot be used: {error}") from error
