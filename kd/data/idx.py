"""Reader for IDX, MNIST's file format: limits the size, and checks the header and, if given, the SHA-256."""

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
MAX_DIMENSIONS = 4  # samples, channels, height, width
COMPRESSED_LIMIT, LIMIT = 64 * 1024**2, 256 * 1024**2  # bytes; MNIST's largest file has 10 and 47 million


def read_idx(path: Path, *, sha256: str | None = None, remedy: str) -> Tensor:
    """Read an IDX file as a uint8 tensor; decompress it first if the name ends in ``.gz``.

    Args:
        sha256: expected hash of the uncompressed bytes; None skips the check.
        remedy: advice for a bad file; ends the error message.

    Raises:
        DamagedDataError: the file is missing, unreadable, not a regular file, too large, truncated, altered, or
            not IDX of unsigned bytes.
    """
    try:
        raw = _read_uncompressed(path)
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError) as error:  # RuntimeError: circular links
        reason = str(error).removesuffix(".")
        raise DamagedDataError(f"cannot read the data file {path}: {reason}. {remedy}") from error
    if sha256 is not None and (digest := hashlib.sha256(raw).hexdigest()) != sha256:
        raise DamagedDataError(
            f"the data file {path} is damaged or a different file: its SHA-256 must be {sha256}. Got {digest}. {remedy}"
        )
    return parse_idx(raw, path=path, remedy=remedy)


def parse_idx(raw: bytes | bytearray, *, path: Path, remedy: str) -> Tensor:
    """Convert the content of an IDX file to a uint8 tensor.

    The header consists of two zero bytes, the data type, the number of dimensions, and each dimension as a big-endian
    uint32.

    Raises:
        DamagedDataError: the header is not IDX of unsigned bytes with at most ``MAX_DIMENSIONS``, or the number of
            values does not match it or is 0.
    """
    if len(raw) < 4 or raw[:3] != bytes([0, 0, UNSIGNED_BYTE]) or raw[3] > MAX_DIMENSIONS or len(raw) < 4 + 4 * raw[3]:
        raise DamagedDataError(f"{path} is not an IDX file of unsigned bytes. Got the header {raw[:4].hex()}. {remedy}")
    header = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:header])
    count = math.prod(shape)
    if not count:  # any other dimensions would match no data, and exhaust the memory later
        raise DamagedDataError(f"{path} must hold at least one value. Got the shape {list(shape)}. {remedy}")
    if len(raw) - header != count:
        raise DamagedDataError(
            f"{path} must hold {count} values for its shape {list(shape)}. Got {len(raw) - header}. {remedy}"
        )
    # torch needs writable memory: a bytearray is used directly, bytes are copied into one.
    writable = raw if isinstance(raw, bytearray) else bytearray(raw)
    return torch.frombuffer(writable, dtype=torch.uint8, offset=header).reshape(shape)


def _read_uncompressed(path: Path) -> bytes | bytearray:
    file = path.resolve()  # ``read_bytes`` refuses links, but a data folder may consist of them
    if path.suffix != ".gz":
        return read_bytes(file, limit=LIMIT)
    packed = io.BytesIO(read_bytes(file, limit=COMPRESSED_LIMIT))
    raw = bytearray()  # grown in place: the images are in memory only once
    with gzip.GzipFile(fileobj=packed) as archive:
        while chunk := archive.read(2**20):
            raw += chunk
            if len(raw) > LIMIT:
                raise ValueError(f"it unpacks to more than {LIMIT:,} bytes")
    return raw
