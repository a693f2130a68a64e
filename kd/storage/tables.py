"""Tables of numbers from strangers: ``.npy``, ``.npz`` and ``.csv``, bounded before they are read, without pickle."""

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
NPZ_LIMIT = SIZE_LIMIT  # bytes, of a data set's file and of all its arrays unpacked
CSV_LIMIT = 256 * 1024**2  # bytes; as Python's texts and lists they take ten times that
_EXPANSION = 64  # times; random-looking numbers compress to half, a bomb to a thousandth
_PIECE = 16 * 1024**2  # bytes read at once
_ANY = "biufcmMSUV"  # kinds of numpy's types, all but objects; what a data set can be of is checked later
_ALWAYS = 64 * 1024**2  # bytes that a member of an archive may unpack to in any case

Array = np.ndarray[Any, np.dtype[Any]]


class Table(NamedTuple):
    """Numbers by row, and what the file says about rows and columns.

    Attributes:
        values: [R, C] numbers, as they are in the file.
        ids: of each row, where a column of them was asked for.
        columns: their names, from a ``.csv`` with a heading.
    """

    values: Array
    ids: list[str] | None
    columns: list[str] | None


def read_table(path: Path, *, name: str, id_column: str | None) -> Table:
    """A table from a ``.npy``, ``.npz`` or ``.csv`` file.

    Args:
        name: of the array in an ``.npz`` that holds several besides the ids.
        id_column: of the column (``.csv``) or array (``.npz``) with each row's id; None where none is to be read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is of another kind, damaged, too large, or has no such array or column.
    """
    match path.suffix:
        case ".npy" if id_column is None:
            content = read_bytes(path)
            return Table(_array(io.BytesIO(content), len(content), "fiu"), None, None)
        case ".npy":
            raise ValueError(f"an .npy file has no ids: use .npz with an array {id_column!r}, or .csv with a column")
        case ".npz":
            return _npz(read_bytes(path), name, id_column)
        case ".csv":
            because = "; save a table of this size as .npy"
            return _csv(read_bytes(path, limit=CSV_LIMIT, because=because), id_column)
    raise ValueError(f"it should be an .npy, .npz or .csv file. Got {path.suffix or 'no ending'!r}")


def _npz(content: bytes, name: str, id_column: str | None) -> Table:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _members(archive)
            others = [key for key in members if key != id_column]
            wanted = others[0] if len(others) == 1 else name
            for needed in filter(None, (wanted, id_column)):
                if needed not in members:
                    raise ValueError(
                        f"it should hold an array {needed!r}. Got {', '.join([*members][:12]) or 'none'} instead"
                    )
            for member in filter(None, (members[wanted], members.get(id_column or ""))):
                _require_no_bomb(member)
            values = _member(archive, members[wanted], "fiu")
            ids = _member(archive, members[id_column], "USiu") if id_column else None
    except ValueError:  # told already
        raise
    except Exception as error:  # zipfile and zlib raise a different type for each kind of damage
        raise ValueError(f"it is damaged or not an .npz file ({type(error).__name__}: {error})") from error
    return Table(values, None if ids is None else _texts(ids), None)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """What is in an archive, by the names of the arrays."""
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ValueError("two of its arrays have one name")
    return members


def _require_no_bomb(member: zipfile.ZipInfo) -> None:
    if member.file_size > max(_ALWAYS, _EXPANSION * member.compress_size):
        raise ValueError(
            f"its array {member.filename} would unpack to {member.file_size:,} bytes, more than {_EXPANSION} times its "
            "size. Save it uncompressed if it is meant so"
        )


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, kinds: str) -> Array:
    with archive.open(member) as stream:  # gives no more bytes than announced, and checks their sum
        return _array(stream, member.file_size, kinds)


def _array(stream: IO[bytes], size: int, kinds: str) -> Array:
    """An array in numpy's format. Its header is held against the ``size`` in bytes before anything else is read.

    Args:
        kinds: letters of the kinds of numpy's types that are allowed; objects, which are pickles, never are.
    """
    with _saying_npy():
        version = np.lib.format.read_magic(stream)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, columns_first, dtype = header[version](stream)
        left = size - stream.tell()
    if dtype.hasobject:
        raise ValueError("its values are Python objects, which are not read: they could run code")
    if dtype.kind not in kinds:
        raise ValueError(f"its values are of type {dtype}, which is not one of numbers or ids")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"a shape {list(shape)} of {dtype} does not go with {left:,} bytes of values")
    with _saying_npy():
        return _values(stream, math.prod(shape), dtype).reshape(shape, order="F" if columns_first else "C")


def _values(stream: IO[bytes], count: int, dtype: np.dtype[Any]) -> Array:
    """The rest of a stream, piece by piece: all of it at once would take its memory twice."""
    values = np.empty(count, dtype)
    room = values.view(np.uint8).data
    for start in range(0, len(room), _PIECE):
        piece = room[start : start + _PIECE]
        if stream.readinto(piece) != len(piece):  # type: ignore[attr-defined]  # both kinds of streams have it
            raise ValueError("it ends too early")
    stream.read()  # at its end an archive checks the sum of a member
    return values


@contextlib.contextmanager
def _saying_npy() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # numpy's reader of headers raises a different type for each kind of damage
        reason = str(error).split("\n", 1)[0]
        raise ValueError(
            f"it is damaged or not an array that numpy has saved ({type(error).__name__}: {reason})"
        ) from error


def _texts(ids: Array) -> list[str]:
    if ids.ndim != 1:
        raise ValueError(f"its ids should be one per row. Got an array {list(ids.shape)}")
    return [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in ids.tolist()]


def _csv(content: bytes, id_column: str | None) -> Table:
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(lines.line_num, row) for row in lines if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"it is not a table of text in UTF-8 with commas ({error})") from error
    heading = rows.pop(0)[1] if rows and _is_heading(rows[0][1]) else None
    if not rows:
        raise ValueError("it has no rows")
    if id_column is None:
        return Table(_numbers(rows, len(heading or rows[0][1])), None, heading)
    if heading is None or id_column not in heading:
        got = "no heading" if heading is None else f"the columns {', '.join(heading[:12])}"
        raise ValueError(f"it should have a column {id_column!r}, named in its first line. Got {got} instead")
    at = heading.index(id_column)
    ids = [row.pop(at) if at < len(row) else "" for _, row in rows]
    del heading[at]
    return Table(_numbers(rows, len(heading)), ids, heading)


def _numbers(rows: list[tuple[int, list[str]]], width: int) -> Array:
    values = np.empty((len(rows), width))
    for into, (line, row) in zip(values, rows, strict=True):
        bad = next((cell for cell in row if not _is_number(cell)), None)
        if bad is not None:
            raise ValueError(
                f"line {line} should hold numbers. Got {bad[:40]!r}; one column may be of ids, if ids are given"
            )
        if len(row) != width:
            raise ValueError(f"line {line} should hold {width} numbers, as the first line. Got {len(row)}")
        into[:] = [float(cell) for cell in row]
    return values


def _is_heading(row: list[str]) -> bool:
    """Names, or 0, 1, 2, … as pandas numbers columns. Two columns 0, 1 may as well be a row of probabilities."""
    numbered = len(row) > 2 and row == [str(number) for number in range(len(row))]
    return numbered or not all(map(_is_number, row))


def _is_number(cell: str) -> bool:
    """What ``float`` takes, except for Python's own 1_000."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def arrays_in(path: Path, hint: str) -> dict[str, Array]:
    """What ``read_npz`` reads; a ``DamagedDataError`` that ends with the hint where it cannot."""
    try:
        return read_npz(path)
    except Exception as error:  # zipfile, zlib and numpy's parser have a dozen kinds for what is damaged
        reason = str(error).removesuffix(".")
        raise DamagedDataError(f"cannot read the data file {path}: {reason}. {hint}") from error


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of a data set's archive by name, those of ``NPZ_NAMES``.

    What an archive and its arrays say about their sizes is held against each other first, so that a small file cannot
    fill the memory; no pickle is ever read.

    Raises:
        ValueError: too large, or an array is of objects or not as large as it says.
        Exception: whatever zipfile raises for what is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(read_bytes(path.resolve(), limit=NPZ_LIMIT))) as archive:
        members = _members(archive)
        used = {name: member for name, member in members.items() if name in NPZ_NAMES}
        unpacked = sum(member.file_size for member in used.values())
        if unpacked > NPZ_LIMIT:
            raise ValueError(f"it unpacks to more than {NPZ_LIMIT:,} bytes. Got {unpacked:,}")
        arrays = {}
        for name, member in used.items():
            try:
                arrays[name] = _member(archive, member, _ANY)
            except ValueError as error:
                raise ValueError(f"its array {name} cannot be used: {error}") from error
    unused = sorted(members.keys() - used.keys())
    if unused:
        warnings.warn(f"{path} has arrays that are not used: {', '.join(unused[:10])}.", stacklevel=3)
    return arrays
