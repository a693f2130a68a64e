"""Untrusted numeric tables, ``.npy``, ``.npz`` and ``.csv``: sizes are checked before reading, pickle is never used."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from kd.checks import DamagedDataError
from kd.storage.untrusted import SIZE_LIMIT, read_bytes

NPZ_NAMES = ("x", "y", *(f"{axis}_{part}" for part in ("train", "val", "test") for axis in "xy"), "classes")
NPZ_LIMIT = SIZE_LIMIT  # bytes, for a dataset's file and for all its arrays unpacked
CSV_LIMIT = 256 * 1024**2  # bytes; parsed to Python strings and lists, a file takes ten times its size
_MAX_EXPANSION = 64  # unpacked size / packed size; random-looking numbers reach 2, zip bombs 1000
_CHUNK = 16 * 1024**2  # bytes read at once
_NON_OBJECT = "biufcmMSUV"  # numpy dtype kinds except objects; the dataset checks the dtype itself later
_ALWAYS_ALLOWED = 64 * 1024**2  # bytes; _MAX_EXPANSION applies only to members that unpack to more

Array = np.ndarray[Any, np.dtype[Any]]


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


def read_table(path: Path, *, name: str, id_column: str | None) -> Table:
    """Read a table from a ``.npy``, ``.npz`` or ``.csv`` file.

    Args:
        name: the array to read from an ``.npz`` file with several arrays besides the ids.
        id_column: column (``.csv``) or array (``.npz``) with the row ids; None reads no ids.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has a different format, is damaged or too large, or lacks the array or column.
    """
    match path.suffix:
        case ".npy" if id_column is None:
            content = read_bytes(path)
            return Table(_parse_array(io.BytesIO(content), len(content), "fiu"), None, None)
        case ".npy":
            raise ValueError(
                f"an .npy file has no ids: use .npz with an array {id_column!r}, or .csv with a column of this name"
            )
        case ".npz":
            return _parse_npz(read_bytes(path), name, id_column)
        case ".csv":
            because = "; save a table of this size as .npy"
            return _parse_csv(read_bytes(path, limit=CSV_LIMIT, because=because), id_column)
    raise ValueError(f"it should be an .npy, .npz or .csv file. Got {path.suffix or 'no suffix'!r}")


def _parse_npz(content: bytes, name: str, id_column: str | None) -> Table:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _list_members(archive)
            candidates = [key for key in members if key != id_column]
            value_name = candidates[0] if len(candidates) == 1 else name
            for required in filter(None, (value_name, id_column)):
                if required not in members:
                    raise ValueError(
                        f"it should hold an array {required!r}. Got {', '.join([*members][:12]) or 'none'} instead"
                    )
            for member in filter(None, (members[value_name], members.get(id_column or ""))):
                _require_no_bomb(member)
            values = _read_member(archive, members[value_name], "fiu")
            ids = _read_member(archive, members[id_column], "USiu") if id_column else None
    except ValueError:  # has a specific message already
        raise
    except Exception as error:  # zipfile and zlib raise a different type for each kind of damage
        raise ValueError(f"it is damaged or not an .npz file ({type(error).__name__}: {error})") from error
    return Table(values, None if ids is None else _to_strings(ids), None)


def _list_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by array name."""
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ValueError("two of its arrays have the same name")
    return members


def _require_no_bomb(member: zipfile.ZipInfo) -> None:
    if member.file_size > max(_ALWAYS_ALLOWED, _MAX_EXPANSION * member.compress_size):
        raise ValueError(
            f"its array {member.filename} would unpack to {member.file_size:,} bytes, more than {_MAX_EXPANSION} times "
            "its size. Save it uncompressed if this size is correct"
        )


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, kinds: str) -> Array:
    with archive.open(member) as stream:  # yields at most file_size bytes and verifies the checksum
        return _parse_array(stream, member.file_size, kinds)


def _parse_array(stream: IO[bytes], size: int, kinds: str) -> Array:
    """Read an array in ``.npy`` format, after checking that its header matches the ``size`` of the stream in bytes.

    Args:
        kinds: allowed numpy dtype kinds. Objects are never allowed, since they are stored as pickles.
    """
    with _convert_npy_errors():
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran_order, dtype = readers[version](stream)
        data_size = size - stream.tell()
    if dtype.hasobject:
        raise ValueError("its values are Python objects, which could run code when read. Save plain numbers or strings")
    if dtype.kind not in kinds:
        raise ValueError(f"its values are of type {dtype}, not numbers or ids")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != data_size:
        raise ValueError(f"shape {list(shape)} of {dtype} does not match {data_size:,} bytes of data")
    with _convert_npy_errors():
        return _read_values(stream, math.prod(shape), dtype).reshape(shape, order="F" if is_fortran_order else "C")


def _read_values(stream: IO[bytes], count: int, dtype: np.dtype[Any]) -> Array:
    """Read the rest of the stream in chunks: reading it at once would need twice the memory."""
    values = np.empty(count, dtype)
    buffer = values.view(np.uint8).data
    for start in range(0, len(buffer), _CHUNK):
        chunk = buffer[start : start + _CHUNK]
        if stream.readinto(chunk) != len(chunk):  # type: ignore[attr-defined]  # BytesIO and ZipExtFile have it
            raise ValueError("it is truncated")
    stream.read()  # zipfile verifies a member's checksum at its end
    return values


@contextlib.contextmanager
def _convert_npy_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # numpy's header parser raises a different type for each kind of damage
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"it is damaged or not an array saved by numpy ({type(error).__name__}: {reason})") from error


def _to_strings(ids: Array) -> list[str]:
    if ids.ndim != 1:
        raise ValueError(f"its ids should be one per row. Got an array of shape {list(ids.shape)}")
    return [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in ids.tolist()]


def _parse_csv(content: bytes, id_column: str | None) -> Table:
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(lines.line_num, row) for row in lines if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"it is not comma-separated text in UTF-8 ({error})") from error
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
            raise ValueError(
                f"line {line} should hold numbers. Got {bad[:40]!r}. Only an id column may hold text: pass ids"
            )
        if len(row) != width:
            raise ValueError(f"line {line} should hold {width} numbers, like the first line. Got {len(row)}")
        out[:] = [float(cell) for cell in row]
    return values


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
        DamagedDataError: the file cannot be read, is damaged or too large, or contains objects.
    """
    try:
        return _read_npz(path)
    except Exception as error:  # zipfile, zlib and numpy's parser raise a dozen types for damaged files
        reason = str(error).removesuffix(".")
        raise DamagedDataError(f"cannot read the data file {path}: {reason}. {hint}") from error


def _read_npz(path: Path) -> dict[str, Array]:
    """Read the arrays listed in ``NPZ_NAMES`` from a dataset's archive, by name.

    The sizes stated in the archive and in the array headers are compared before any data is read, so that a small file
    cannot fill the memory. Pickled objects are never loaded.

    Raises:
        ValueError: the archive is too large, or an array contains objects or does not have its stated size.
        Exception: any type that zipfile raises for damaged files.
    """
    with zipfile.ZipFile(io.BytesIO(read_bytes(path.resolve(), limit=NPZ_LIMIT))) as archive:
        members = _list_members(archive)
        used = {name: member for name, member in members.items() if name in NPZ_NAMES}
        unpacked = sum(member.file_size for member in used.values())
        if unpacked > NPZ_LIMIT:
            raise ValueError(f"it unpacks to more than {NPZ_LIMIT:,} bytes. Got {unpacked:,}")
        arrays = {}
        for name, member in used.items():
            try:
                arrays[name] = _read_member(archive, member, _NON_OBJECT)
            except ValueError as error:
                raise ValueError(f"its array {name} cannot be used: {error}") from error
    unused = sorted(members.keys() - used.keys())
    if unused:
        warnings.warn(f"{path} has arrays that are not used: {', '.join(unused[:10])}.", stacklevel=3)
    return arrays
