"""Exchange of several files as one commit: after a crash at any moment, old and new files are never mixed.

All new files exist under temporary names when an exchange begins. It records itself in a journal (the commit), moves
all old files away, then the new ones in. Interrupted anywhere, there are only old files or only new ones, some of them
missing; the next run that uses these folders finishes the exchange from the journal.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kd.console import say

_LARGEST = 10_000_000  # bytes of a journal; an entry takes a few hundred
_TEMPORARY = re.compile(r"\.(.+)\.[0-9]+-[0-9a-f]{8}\.(tmp|old|journal)", re.DOTALL)


class _Entry(NamedTuple):
    target: Path
    new: Path
    old: Path  # where the target is moved


def temporary_name(path: Path, kind: str = "tmp") -> Path:
    """Return a hidden name next to the path that no other process or thread uses.

    Args:
        kind: ``tmp`` for new files, ``old`` for files that are moved away, ``journal``.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.{kind}")


def exchange(staged: Mapping[Path, Path], write: Callable[[Path, bytes], None], flush: Callable[[Path], None]) -> None:
    """Replace all targets by their staged files, or none if an error occurs.

    Args:
        staged: temporary file by target, in the target's folder.
        write: writes a file durably.
        flush: flushes the entries of a folder to disk.

    Raises:
        OSError: a file cannot be renamed; all targets are as before. If they cannot be restored either, the journal is
            kept, and the next run finishes the exchange.
    """
    entries = [_Entry(target, new, temporary_name(target, "old")) for target, new in staged.items()]
    journal = temporary_name(entries[0].target, "journal")
    folders = {target.parent for target in staged}
    try:
        for folder in folders:  # the journal must not survive a power failure that its files do not
            flush(folder)
        write(journal, _to_json(entries, journal.parent))
    except BaseException:
        remove([journal, *staged.values()])
        raise
    try:
        _move(entries)
        for folder in folders:
            flush(folder)
    except BaseException:
        _restore(entries)
        remove([journal, *staged.values()])
        raise
    _clean_up(journal, entries)


def finish_interrupted(folders: Sequence[Path]) -> None:
    """Finish all interrupted exchanges recorded in these folders, and remove temporary files of killed processes.

    The caller must hold the locks of the folders, so that no other process writes there.

    Raises:
        OSError: a file cannot be read or renamed; nothing is lost, and the next run tries again.
        ValueError: a journal is damaged, or names files outside these folders.
    """
    for folder in folders:
        for journal in sorted(folder.glob(".*.journal")):
            if _TEMPORARY.fullmatch(journal.name):
                entries = _from_json(journal, folders)
                _move([entry for entry in entries if os.path.lexists(entry.new)])
                _clean_up(journal, entries)
                say(f"{folder}: writing of {len(entries)} files was interrupted and is now finished")
    for folder in folders:  # those of a journal are gone
        for path in folder.glob(".*"):
            if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
                remove([path])


def _move(entries: Iterable[_Entry]) -> None:
    entries = list(entries)
    for target, _, old in entries:
        if os.path.lexists(target):
            target.replace(old)
    for target, new, _ in entries:
        new.replace(target)


def _restore(entries: Iterable[_Entry]) -> None:
    for target, new, old in entries:
        if not os.path.lexists(new):
            target.replace(new)
        if os.path.lexists(old):
            old.replace(target)


def _clean_up(journal: Path, entries: Iterable[_Entry]) -> None:
    """Remove the journal, which ends the exchange, then the old files.

    A journal that cannot be removed is harmless: none of its new files exists any more.
    """
    remove([journal, *(entry.old for entry in entries)])


def remove(temporary_files: Iterable[Path]) -> None:
    """Delete files if they exist. If this fails, the next run that uses their folder deletes them."""
    for path in temporary_files:
        with suppress(OSError):  # must not hide an error that is being raised
            path.unlink(missing_ok=True)


def _to_json(entries: Iterable[_Entry], folder: Path) -> bytes:
    """Return the entries with paths relative to the folder, which may be moved before the exchange is finished."""
    base = os.path.realpath(folder)
    return json.dumps([[_relative(path, base) for path in entry] for entry in entries], indent=1).encode()


def _relative(path: Path, base: str) -> str:
    real = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118  # the file itself may be a link
    try:
        return os.path.relpath(real, base)
    except ValueError:  # on another drive of Windows
        return real


def _from_json(journal: Path, folders: Sequence[Path]) -> list[_Entry]:
    """Return the entries of a journal. A foreign one must not write anywhere else than this run does."""
    allowed = {os.path.realpath(folder) for folder in folders}
    try:
        with journal.open("rb") as file:
            names = json.loads(file.read(_LARGEST))
        entries = [_Entry(*(_resolve(journal.parent, name) for name in entry)) for entry in names]
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{journal} is damaged: {error}. Delete it to keep the files as they are.") from error
    for entry in entries:
        temporary = [_TEMPORARY.fullmatch(path.name) for path in entry[1:]]
        beside = {path.parent for path in entry} == {entry.target.parent}
        if not (beside and str(entry.target.parent) in allowed and all(temporary)):
            raise ValueError(
                f"{journal} names {entry.target}, which this command does not write. Delete the journal to keep the "
                "files as they are."
            )
    return entries


def _resolve(folder: Path, name: object) -> Path:
    if not isinstance(name, str) or "\0" in name:
        raise TypeError("it should hold names of files")
    path = Path(os.path.normpath(os.path.join(os.path.realpath(folder), name)))  # noqa: PTH118
    return Path(os.path.realpath(path.parent)) / path.name
