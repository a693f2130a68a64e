"""Atomic writes of several files together; checks that a folder is writable and its disk has space."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kd.storage.exchange import exchange, remove, temporary_name


def publish(files: Mapping[Path, bytes]) -> None:
    """Write all files or none: an error or a kill at any moment never leaves old and new files mixed.

    Each content is written to a temporary file in its target's folder and flushed to disk. When all are written, a
    single file is renamed, and several are exchanged as one commit (``kd.storage.exchange``). Missing folders are
    created.

    Raises:
        OSError: states the path, the bytes needed and the bytes free. No temporary file is left behind.
    """
    for path in files:
        if path.is_dir():
            raise IsADirectoryError(f"cannot write {path}: a folder has this name. Move it away and run again.")
    staged: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            staged[path] = _stage(path, content)
    except BaseException:
        remove(staged.values())
        raise
    with _add_path_to_errors(next(iter(staged), Path())):
        if len(staged) > 1:
            exchange(staged, _write_durably, _flush_folder)
        else:
            _rename(staged)


def _rename(staged: Mapping[Path, Path]) -> None:
    try:
        for path, temporary in staged.items():
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        remove(staged.values())


def _write_durably(path: Path, content: bytes) -> None:
    _rename({path: _stage(path, content)})


def name_for_file(text: str) -> str:
    """Return the text with only characters that any file name may have; different texts stay different."""
    plain = re.sub(r"[^\w.+-]", "_", text, flags=re.ASCII)
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def require_writable(folder: Path) -> None:
    """Create the folder if it is missing, and write a temporary file to check that it is writable.

    Raises:
        OSError: states the folder and the reason.
    """
    try:
        for parent in _make_folder(folder):
            with suppress(OSError):  # a failing disk raises again when the first file is published here
                _flush_folder(parent)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"cannot write to folder {folder}: {reason}. Choose another folder.") from error


def sha256(content: bytes) -> str:
    """Return the SHA-256 of the content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def require_space(folder: Path, size: int) -> None:
    """Check that the disk has at least ``size`` bytes free, before any work is done.

    Raises:
        OSError: states the folder, the bytes needed and the bytes free.
    """
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        shortage = f"about {size:,} bytes are needed, {free:,} are free"
        raise OSError(errno.ENOSPC, f"not enough space in {folder}: {shortage}. Free space or choose another folder.")


def _make_folder(folder: Path) -> list[Path]:
    """Create the folder and its parents. Returns the folders that got a new entry, outermost first, to be flushed."""
    parents = [path.parent for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return parents[::-1]


def _stage(path: Path, content: bytes) -> Path:
    temporary = temporary_name(path)
    try:
        for parent in _make_folder(path.parent):
            _flush_folder(parent)
        with temporary.open("xb") as file:  # "x" fails on an existing name: never write through a planted symlink
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with suppress(OSError):  # if the folder could not be created, there is nothing to remove
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, _format_write_error(path, len(content), error)) from error
        raise
    return temporary


def _format_write_error(path: Path, needed: int, error: OSError) -> str:
    return (
        f"cannot write {path}: {error.strerror or error}. It needs {needed:,} bytes; "
        f"{_format_free_space(path.parent)}. Existing files were not changed. Free space or choose another folder, and "
        "run again."
    )


def _format_free_space(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,} bytes are free"
    except OSError:
        return "its folder cannot be accessed"


@contextmanager
def _add_path_to_errors(path: Path) -> Iterator[None]:
    """Add the first path to an ``OSError`` during the renames; another path is in the error itself."""
    try:
        yield
    except OSError as error:
        name = "" if error.filename is None else f" ({error.filename})"
        reason = (
            f"cannot write {path} and its files: {error.strerror or error}{name}; {_format_free_space(path.parent)}"
        )
        raise OSError(error.errno, f"{reason}. Existing files were not changed. Run again.") from error


def _flush_folder(folder: Path) -> None:
    """Flush the folder's entries to disk, if the file system supports it.

    Windows cannot open folders and needs no such flush.
    """
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
