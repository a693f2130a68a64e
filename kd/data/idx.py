"""IDX, the file format of MNIST: read whole, checked by digest and header."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from kd.checks import DamagedDataError
from kd.storage.untrusted import read_bytes

UNSIGNED_BYTE = 0x08
COMPRESSED_LIMIT, LIMIT = 64 * 1024**2, 256 * 1024**2  # bytes; MNIST's largest file has 10 and 47 million


def read_idx(path: Path, *, sha256: str | None = None, remedy: str) -> Tensor:
    """The file's array as a uint8 tensor; gunzipped first if the name ends in ``.gz``.

    Args:
        sha256: of the uncompressed bytes, where it is known.
        remedy: what the user should do about a bad file; ends the error message.

    Raises:
        DamagedDataError: missing, unreadable, no regular file, too large, cut off, altered, or not IDX of unsigned
            bytes.
    """
    try:
        raw = _unpacked(path)
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = str(error).removesuffix(".")
        raise DamagedDataError(f"cannot read the data file {path}: {reason}. {remedy}") from error
    if sha256 is not None and (digest := hashlib.sha256(raw).hexdigest()) != sha256:
        raise DamagedDataError(
            f"the data file {path} is damaged or another file: its SHA-256 should be {sha256}. Got {digest}. {remedy}"
        )
    return parse_idx(raw, path=path, remedy=remedy)


def parse_idx(raw: bytes | bytearray, *, path: Path, remedy: str) -> Tensor:
    """Header: two zero bytes, the type, the number of dimensions, then each dimension as a big-endian uint32."""
    if len(raw) < 4 or raw[:3] != bytes([0, 0, UNSIGNED_BYTE]) or len(raw) < 4 + 4 * raw[3]:
        raise DamagedDataError(f"{path} is not an IDX file of unsigned bytes. Got the header {raw[:4].hex()}. {remedy}")
    header = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:header])
    count = math.prod(shape)
    if len(raw) - header != count:
        raise DamagedDataError(
            f"{path} should hold {count} values for its shape {list(shape)}. Got {len(raw) - header}. {remedy}"
        )
    if not count:
        return torch.empty(shape, dtype=torch.uint8)
    # torch wants memory that it may write to: a bytearray is taken as it is, bytes are copied into one.
    writable = raw if isinstance(raw, bytearray) else bytearray(raw)
    return torch.frombuffer(writable, dtype=torch.uint8, offset=header).reshape(shape)


def _unpacked(path: Path) -> bytes | bytearray:
    file = path.resolve()  # a data folder may be made of links: what is read is checked by its digest
    if path.suffix != ".gz":
        return read_bytes(file, limit=LIMIT)
    packed = io.BytesIO(read_bytes(file, limit=COMPRESSED_LIMIT))
    raw = bytearray()  # grown piece by piece, so that the images are in memory once
    with gzip.GzipFile(fileobj=packed) as archive:
        while piece := archive.read(2**20):
            raw += piece
            if len(raw) > LIMIT:
                raise ValueError(f"it unpacks to more than {LIMIT:,} bytes")
    return raw
