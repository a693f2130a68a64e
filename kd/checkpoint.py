"""Files: published whole or not at all, and weights read with nothing but ``weights_only=True``."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIZE_LIMIT = 8 * 1024**3  # bytes; no model or snapshot here comes near it


def publish(files: Mapping[Path, bytes]) -> None:
    """Write all files or none: a full disk or a kill while writing leaves every earlier file as it was.

    Each content goes to a temporary file in its target's folder and is flushed to disk; only when all are there are
    they renamed, and the folders flushed. A rename is atomic: each file is the old or the new one, whole, and only a
    kill between two renames leaves some of each. Folders are made on demand.

    Raises:
        OSError: with the path, the bytes needed and the bytes free; no temporary file is left behind.
    """
    for path in files:
        if path.is_dir():
            raise IsADirectoryError(f"cannot write {path}: a folder of that name is there. Move it away and run again.")
    staged: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            staged[path] = _stage(path, content)
        for path, temporary in staged.items():
            with _naming(path):
                temporary.replace(path)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
    for folder in {path.parent for path in files}:
        with _naming(folder):
            _flush_folder(folder)


def require_writable(folder: Path) -> None:
    """Make the folder if it is not there, and prove that a file can be written into it.

    Raises:
        OSError: naming the folder and the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"cannot write into the folder {folder}: {reason}. Choose another one.") from error


def weights_bytes(model: nn.Module) -> bytes:
    """The model's plain ``state_dict`` as the bytes of a ``.pth`` file; the same weights give the same bytes.

    Through a buffer, because ``torch.save`` puts the file's own name into the file. Contiguous copies on the CPU, so
    that neither a memory format nor a device of the training is carried over (``contiguous()`` would not do: it keeps
    the strides of dimensions of size 1).
    """
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Load a ``state_dict`` file into the model, in place. Everything is checked before a single weight is changed.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, hostile, not finite, or does not fit the model: names, shapes and types exactly.
    """
    path = Path(path)
    content = read_bytes(path)
    try:
        state = load_tensors(content)
    except ValueError as error:
        raise ValueError(_unfit(path, model, str(error))) from error
    expected = model.state_dict()
    if not isinstance(state, dict) or set(state) != set(expected):
        got = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(_unfit(path, model, f"it should hold {sorted(expected)}. Got {got} instead"))
    for name, tensor in expected.items():
        found = state[name]
        if not isinstance(found, Tensor) or found.shape != tensor.shape or found.dtype != tensor.dtype:
            got = f"{list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(_unfit(path, model, f"{name} should be {list(tensor.shape)} of {tensor.dtype}. Got {got}"))
        if not found.isfinite().all():
            raise ValueError(_unfit(path, model, f"{name} has values that are not finite"))
    model.load_state_dict(state)


def read_bytes(path: Path, *, sha256: str | None = None, limit: int = SIZE_LIMIT) -> bytes:
    """The content of a regular file, no larger than ``limit`` bytes and with this digest if one is known.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file (a symbolic link is none), is too large, or its digest is another.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file. Copy the file itself to that place.")
    if status.st_size > limit:
        raise ValueError(f"{path} is larger than {limit:,} bytes. Got {status.st_size:,}.")
    content = path.read_bytes()
    if sha256 is not None and (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path} is damaged: its SHA-256 should be {sha256}. Got {digest}.")
    return content


def load_tensors(content: bytes) -> Any:
    """What ``torch.save`` wrote: tensors, numbers, strings and containers of them, on the CPU. Nothing in it can run.

    torch verifies neither the checksums inside the file nor that it unpacks to its own size; both are done here first.

    Raises:
        ValueError: damaged, compressed, overlapping, with an object that is not data, or with a tensor that is a view
            larger than what is stored.
    """
    try:
        _check_archive(content)
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise a different type for each kind of damage
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"it is damaged or not a file of tensors ({type(error).__name__}: {reason})") from error
    for tensor in _tensors_in(loaded):
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"a tensor {list(tensor.shape)} in it is larger than its stored data")
    return loaded


def sha256(content: bytes) -> str:
    """The SHA-256 of the content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def require_space(folder: Path, size: int) -> None:
    """Refuse where the disk has less than this many bytes free, before any work is done.

    Raises:
        OSError: naming the folder, the bytes needed and the bytes free.
    """
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        needs = f"about {size:,} bytes are needed, {free:,} are free"
        raise OSError(errno.ENOSPC, f"not enough space in {folder}: {needs}. Free space or choose another folder.")


def _check_archive(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("a member is compressed; torch.save stores them plainly")
        if sum(member.file_size for member in members) > len(content):
            raise ValueError("its members overlap: together they are larger than the file")
        if len({member.filename for member in members}) < len(members):
            raise ValueError("two members have one name")
        damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} does not fit")


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)


def _unfit(path: Path, model: nn.Module, reason: str) -> str:
    return f"{path} does not hold weights of a {type(model).__name__}: {reason}. The model was not changed."


def _stage(path: Path, content: bytes) -> Path:
    # A fixed name: what a kill leaves behind, the next run overwrites instead of adding to it.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with suppress(OSError):  # where the folder itself is the trouble, there is nothing to remove
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, _write_failed(path, len(content), error)) from error
        raise
    return temporary


def _write_failed(path: Path, needed: int, error: OSError) -> str:
    return (
        f"cannot write {path}: {error.strerror or error}. It needs {needed:,} bytes; {_free(path.parent)}. "
        "Nothing was replaced: earlier results are as they were. Free space or choose another folder, and run again."
    )


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,} bytes are free there"
    except OSError:
        return "its folder cannot be reached"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which path an error is about. By now some files may be the new ones; each is whole."""
    try:
        yield
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror or error}; {_free(path.parent)}"
        raise OSError(error.errno, f"{reason}. Every file is whole, the old or the new one. Run again.") from error


def _flush_folder(folder: Path) -> None:
    """Make the renames durable. Windows cannot open a folder, and needs no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
