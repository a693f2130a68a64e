"""Folders that a run writes results to: locked for one process, with interrupted writes finished."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kd.storage.exchange import finish_interrupted
from kd.storage.files import require_writable


@contextmanager
def use_folders(folders: Sequence[Path]) -> Iterator[None]:
    """Create the folders if missing, lock them for this process, and finish interrupted writes.

    The lock belongs to the folder itself, so two runs with different state folders cannot write the same results. The
    operating system releases it however the process ends.

    Raises:
        OSError: another process uses a folder, or it is not writable.
        ValueError: the record of an interrupted write is damaged.
    """
    with ExitStack() as stack:
        real: dict[str, Path] = {}
        for folder in folders:
            require_writable(folder)
            real.setdefault(os.path.realpath(folder), folder)
        for folder in real.values():
            stack.enter_context(_lock(folder))
        finish_interrupted(list(real.values()))
        yield


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows cannot lock folders
        with _lock_file(folder):
            yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(folder) from error
        except OSError:  # a file system without locks, such as some network storage
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def _lock_file(folder: Path) -> Iterator[None]:
    import filelock

    lock = filelock.FileLock(folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise _in_use(folder) from error
    try:
        yield
    finally:
        lock.release()


def _in_use(folder: Path) -> OSError:
    return OSError(f"another run is writing to {folder}. Wait for it to end, or choose another folder.")
