"""Files: published together, whole or not at all; folders and disks proved usable before any work is done."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


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
            with suppress(OSError):  # it would hide the error that is on its way
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
        for changed in _make_folder(folder):
            with suppress(OSError):  # should the disk be failing, the first file that is published here says so
                _flush_folder(changed)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(error.errno, f"cannot write into the folder {folder}: {reason}. Choose another one.") from error


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


def _make_folder(folder: Path) -> list[Path]:
    """Make the folder and those above it. Returns the folders in which one is new, the highest first, to be flushed."""
    changed = [part.parent for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return changed[::-1]


def _stage(path: Path, content: bytes) -> Path:
    # Named after its target: what a kill leaves behind, the next write to that target removes. Whoever never writes to
    # a name twice has to remove it himself, as kd.storage.snapshots does.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        for changed in _make_folder(path.parent):
            _flush_folder(changed)
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link that somebody has put there
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
    """Make the names in it durable. Windows cannot open a folder, and needs no such call; some mounts have none."""
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
