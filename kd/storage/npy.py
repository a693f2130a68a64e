"""Untrusted arrays in numpy's formats ``.npy`` and ``.npz``: sizes are checked before memory is allocated, pickle is
never used.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from kd.storage.resources import is_passing_fault, require_memory

_MAX_EXPANSION = 64  # unpacked size / packed size; random-looking numbers reach 2, zip bombs 1000
_CHUNK = 16 * 1024**2  # bytes read at once
_ALWAYS_ALLOWED = 64 * 1024**2  # bytes; _MAX_EXPANSION applies only to members that unpack to more
_CONVERTED = {"b": 4, "u": 8, "i": 8, "f": 4}  # bytes per value as an input, by kind of dtype: float32 or int64

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
CheckShape = Callable[[Shape], None]


class Header(NamedTuple):
    """The header of an array in ``.npy`` format: how much memory the array needs."""

    shape: Shape
    is_fortran_order: bool
    dtype: np.dtype[Any]

    @property
    def needed(self) -> int:
        """Bytes of the array, and of the inputs that it is converted to."""
        converted = 0 if self.dtype == np.uint8 else _CONVERTED.get(self.dtype.kind, 0)
        return math.prod(self.shape) * (self.dtype.itemsize + converted)


def list_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
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


def read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, kinds: str, check_shape: CheckShape | None = None
) -> Array:
    """Read an array from an archive; see ``read_array``. A small member may not unpack to a large array."""
    _require_no_bomb(member)
    with archive.open(member) as stream:  # yields at most file_size bytes and verifies the checksum
        return read_array(stream, member.file_size, kinds, check_shape)


def measure_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, kinds: str) -> int:
    """Return the bytes of memory that an array of an archive needs, from its header alone."""
    _require_no_bomb(member)
    with archive.open(member) as stream:
        return read_header(stream, member.file_size, kinds).needed


def read_array(stream: IO[bytes], size: int, kinds: str, check_shape: CheckShape | None = None) -> Array:
    """Read an array in ``.npy`` format, after checking its header against the stream and the available memory.

    Args:
        size: bytes in the stream.
        kinds: allowed numpy dtype kinds. Objects are never allowed, since they are stored as pickles.
        check_shape: raises ``ValueError`` for a shape that is not needed.

    Raises:
        MemoryError: the array needs more memory than is available.
        ValueError: the array is damaged or not allowed.
    """
    header = read_header(stream, size, kinds)
    if check_shape is not None:
        check_shape(header.shape)
    require_memory(header.needed, f"an array {list(header.shape)} of {header.dtype}")
    order: Literal["F", "C"] = "F" if header.is_fortran_order else "C"
    with _convert_npy_errors():
        return _read_values(stream, math.prod(header.shape), header.dtype).reshape(header.shape, order=order)


def read_header(stream: IO[bytes], size: int, kinds: str) -> Header:
    """Read the header of an array in ``.npy`` format, and check it; allocates nothing for the values.

    Args and errors: see ``read_array``.
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
    if not dtype.itemsize:  # any shape would match no data
        raise ValueError(f"its values are of type {dtype}, which has no bytes. Save texts of at least one character")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != data_size:
        raise ValueError(f"shape {list(shape)} of {dtype} does not match {data_size:,} bytes of data")
    return Header(shape, is_fortran_order, dtype)


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
        if is_passing_fault(error):
            raise
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"it is damaged or not an array saved by numpy ({type(error).__name__}: {reason})") from error
