"""Bytes from a stranger: read from regular files of a known most size, and checked before torch sees them."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickletools
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd.imports import import_extra

SIZE_LIMIT = 8 * 1024**3  # bytes; no model or snapshot here comes near it

# Windows has neither of the first two, and only Windows has the third: without it, it would change line ends.
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_bytes(path: Path, *, expected: str | None = None, limit: int = SIZE_LIMIT, because: str = "") -> bytes:
    """The content of a regular file, no larger than ``limit`` bytes and with this SHA-256 if one is known.

    The file is opened once and judged by what was opened, so that nothing can be put in its place between the two. A
    named pipe is opened without waiting for a writer.

    Args:
        because: what the limit stands for; follows it in the error message.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file (a symbolic link is none), is too large, or its digest is another.
    """
    irregular = f"{path} is not a regular file. Copy the file itself to that place."
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
        raise ValueError(irregular)
    try:
        handle = os.open(path, os.O_RDONLY | _FLAGS)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # a symbolic link; FreeBSD says EMLINK
            raise ValueError(irregular) from error
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(irregular)
        if status.st_size > limit:
            raise ValueError(f"{path} is larger than {limit:,} bytes{because}. Got {status.st_size:,}.")
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(status.st_size)  # no more, should it grow meanwhile
    finally:
        os.close(handle)
    if expected is not None and (digest := hashlib.sha256(content).hexdigest()) != expected:
        raise ValueError(f"{path} is damaged: its SHA-256 should be {expected}. Got {digest}.")
    return content


def rebuild_archive(content: bytes) -> bytes:
    """A new archive with the members of this one, as ``torch.save`` would have stored them.

    zipfile and torch may disagree on what is in a file: torch takes one that does not begin like an archive for its
    legacy format, and finds the central directory by another rule. So torch gets only what zipfile has read here, with
    checksums verified, which torch does not do.

    Raises:
        ValueError: compressed, overlapping, twice there, not in one folder, or not at the file's beginning; or it
            would have memory made of nothing.
        Exception: whatever zipfile raises for what is not an archive, is cut off or has a wrong checksum.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        members = old.infolist()
        _check_members(members, len(content))
        for member in members:
            read = old.read(member)
            if member.filename.endswith("/data.pkl"):
                _check_calls(read)
            new.writestr(zipfile.ZipInfo(member.filename), read)
    return buffer.getvalue()


def parse_safetensors(content: bytes, *, header_limit: int) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file by name. The format holds no code; its own library checks every offset.

    Args:
        header_limit: bytes that the header, a JSON text, may have.

    Raises:
        MissingExtraError: the library is not installed.
        ValueError: the header is larger, or the file is damaged or of another format.
    """
    safetensors, its_torch = (
        import_extra(module, library="safetensors", name="safetensors", needed_for="a .safetensors file")
        for module in ("safetensors", "safetensors.torch")
    )
    header = int.from_bytes(content[:8], "little")
    if header > header_limit:
        raise ValueError(f"its header should have at most {header_limit:,} bytes. Got {header:,}")
    try:
        tensors: dict[str, Tensor] = its_torch.load(content)
    except (safetensors.SafetensorError, AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"it is damaged or not a safetensors file ({type(error).__name__}: {reason})") from error
    return tensors


def require_plain_tensors(value: Any) -> None:
    """Every tensor in these containers is dense, on the CPU, and no larger than what is stored of it.

    A loop with a memory, not a recursion: containers may be shared, or contain themselves.

    Raises:
        ValueError: a tensor is not.
    """
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))  # all items stay alive inside ``value``, so no id comes twice
        if isinstance(item, Tensor):
            _require_plain(item)
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += item


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("a member is compressed; torch.save stores them plainly")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members overlap: together they are larger than the file")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two members have one name")
    folders = {member.filename.partition("/")[0] for member in members}
    if len(folders) != 1 or folders & {"", ".", ".."}:
        raise ValueError("its members should lie in one folder")
    if min(member.header_offset for member in members) != 0:
        raise ValueError("something stands before its first member")


def _check_calls(pickled: bytes) -> None:
    """None of what torch would call makes memory of nothing: 386 bytes can ask for a ``bytearray`` of a gigabyte."""
    for opcode, called, _ in pickletools.genops(pickled):
        if opcode.name == "STACK_GLOBAL" or called in ("builtins bytearray", "__builtin__ bytearray", "_codecs encode"):
            raise ValueError(f"it would call {called or 'what it names as it goes'}, which no tensor needs")


def _require_plain(tensor: Tensor) -> None:
    kind = f"{tensor.layout}, {tensor.device.type}"
    kind += ", nested" * tensor.is_nested + ", quantized" * tensor.is_quantized
    if kind != f"{torch.strided}, cpu":
        raise ValueError(f"a tensor in it is not a dense one on the CPU ({kind})")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor {list(tensor.shape)} in it is larger than its stored data")
