"""Untrusted files: read with a size limit and validated before torch parses them."""

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
from kd.storage.file_kind import DICTIONARIES, LFS, LFS_POINTER, RECORDS
from kd.storage.resources import is_out_of_memory, require_memory

SIZE_LIMIT = 8 * 1024**3  # bytes; far above any model or snapshot here

# Windows lacks the first two flags; only Windows has the third, which prevents the translation of line endings.
_OPEN_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_bytes(path: Path, *, expected: str | None = None, limit: int = SIZE_LIMIT, because: str = "") -> bytes:
    """Read a regular file of at most ``limit`` bytes, and check its SHA-256 if one is expected.

    The file is opened once and all checks use the open handle, so that it cannot be replaced between check and read.
    Named pipes are opened without blocking.

    Args:
        because: explanation of the limit, appended to it in the error message.

    Raises:
        OSError: the file cannot be read.
        MemoryError: the file is larger than the available memory.
        ValueError: the path is not a regular file (a symbolic link is not one), or the file is too large or has
            another digest, or is a pointer of Git LFS.
    """
    irregular = f"{path} is not a regular file. Copy the file itself to this path."
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
        raise ValueError(irregular)
    try:
        handle = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # a symbolic link; EMLINK on FreeBSD
            raise ValueError(irregular) from error
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(irregular)
        if status.st_size > limit:
            raise ValueError(f"{path} is larger than {limit:,} bytes{because}. Got {status.st_size:,}.")
        require_memory(status.st_size, str(path))
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(status.st_size)  # no more, even if the file has grown since
    finally:
        os.close(handle)
    if content.startswith(LFS):
        raise ValueError(f"{path} {LFS_POINTER}.")
    if expected is not None and (digest := hashlib.sha256(content).hexdigest()) != expected:
        raise ValueError(f"{path} is damaged: expected SHA-256 {expected}, got {digest}.")
    return content


class Placeholder:
    """Stands for an object that a training program saved besides weights, such as its arguments; has no content."""

    def __new__(cls, *_: object) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def make_dictionary(*_: object) -> dict[Any, Any]:
    """Return an empty dictionary, in place of a ``defaultdict``."""
    return {}


def rebuild_archive(content: bytes, *, placeholders: bool = False) -> bytes:
    """Rebuild a ``torch.save`` archive from its validated members.

    zipfile and torch may interpret a file differently. torch reads a file that does not start like an archive in its
    legacy format, and it finds the central directory by another rule. So torch only gets members that zipfile has read
    here, with verified checksums; torch does not verify them.

    Args:
        placeholders: replace the classes that training programs save besides weights by ``Placeholder``, and their
            dictionaries by plain ones, so that a checkpoint can be read without running any code of theirs.

    Raises:
        ValueError: members are compressed, overlap, share a name or lie in several folders, the archive does not start
            with a member, or loading it would allocate memory that the file does not contain.
        Exception: any type that zipfile raises if the file is not an archive, is truncated or has a wrong checksum.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        members = old.infolist()
        _check_members(members, len(content))
        for member in members:
            data = old.read(member)
            if member.filename.endswith("/data.pkl"):
                data = _insert_placeholders(data) if placeholders else data
                _check_calls(data)
            new.writestr(zipfile.ZipInfo(member.filename), data)
    return buffer.getvalue()


def parse_safetensors(content: bytes, *, header_limit: int) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file by name.

    The format contains no code, and the library checks that all tensors lie inside the file.

    Args:
        header_limit: largest allowed size of the JSON header, in bytes.

    Raises:
        MissingExtraError: the library is not installed.
        ValueError: the header is too large, or the file is damaged or has a different format.
    """
    safetensors, safetensors_torch = (
        import_extra(module, library="safetensors", name="safetensors", needed_for="a .safetensors file")
        for module in ("safetensors", "safetensors.torch")
    )
    header = int.from_bytes(content[:8], "little")
    if header > header_limit:
        raise ValueError(f"its header should have at most {header_limit:,} bytes. Got {header:,}")
    try:
        tensors: dict[str, Tensor] = safetensors_torch.load(content)
    except (safetensors.SafetensorError, AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"it is damaged or not a safetensors file ({type(error).__name__}: {reason})") from error
    return tensors


def require_plain_tensors(value: Any) -> None:
    """Check that every tensor in nested containers is dense, on the CPU, and not larger than its storage.

    Iterative, with a set of visited ids: containers may be shared or contain themselves.

    Raises:
        ValueError: a tensor fails the check.
    """
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))  # ids are unique, since ``value`` keeps all items alive
        if isinstance(item, Tensor):
            _require_plain(item)
        elif isinstance(item, Mapping):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            pending += item


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("a member is compressed; torch.save stores members uncompressed")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members overlap: their total size exceeds the file's")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two members have the same name")
    folders = {member.filename.partition("/")[0] for member in members}
    if len(folders) != 1 or folders & {"", ".", ".."}:
        raise ValueError("its members should be in a single folder")
    if min(member.header_offset for member in members) != 0:
        raise ValueError("there is data before its first member")


def _insert_placeholders(pickled: bytes) -> bytes:
    """Replace the names of ``RECORDS`` and ``DICTIONARIES`` in a pickle.

    If there are any, ``_codecs.encode`` is replaced too, which NumPy's pickles call.
    """
    placeholder = f"c{__name__}\n{Placeholder.__name__}\n"
    found = [(str(name), at or 0) for opcode, name, at in pickletools.genops(pickled) if opcode.name == "GLOBAL"]
    replacements = {name: placeholder for name, _ in found if name.replace(" ", ".").startswith(RECORDS)}
    replacements |= {n: "ccollections\nOrderedDict\n" for n, _ in found if n.replace(" ", ".") in DICTIONARIES}
    if replacements:
        replacements["_codecs encode"] = placeholder
    replacements["collections defaultdict"] = f"c{__name__}\n{make_dictionary.__name__}\n"
    pieces, end = [], 0
    for name, at in found:
        if name in replacements:
            pieces += [pickled[end:at], replacements[name].encode()]
            end = at + len(f"c{name}\n".encode())
    return b"".join([*pieces, pickled[end:]])


def _check_calls(pickled: bytes) -> None:
    """Check that unpickling calls no function that allocates memory: 386 bytes can create a 1 GB ``bytearray``."""
    for opcode, name, _ in pickletools.genops(pickled):
        if opcode.name == "STACK_GLOBAL" or name in ("builtins bytearray", "__builtin__ bytearray", "_codecs encode"):
            raise ValueError(f"it would call {name or 'a function named at load time'}, which tensors do not need")


def _require_plain(tensor: Tensor) -> None:
    kind = f"{tensor.layout}, {tensor.device.type}"
    kind += ", nested" * tensor.is_nested + ", quantized" * tensor.is_quantized
    if kind != f"{torch.strided}, cpu":
        raise ValueError(f"it contains a tensor that is not dense on the CPU ({kind})")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"it contains a tensor {list(tensor.shape)} larger than its stored data")
