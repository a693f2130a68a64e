"""The content of a run folder by kind, and its pruning: deleting what no command has used in its last complete run.

A step or figure is in use if a program used it in its last complete run in this folder, or in an interrupted run since
(``kd.storage.run_folder.OpenRun.mark_used``). Repeating these programs therefore finds all their results.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kd.storage.run_folder import KEY_DIGITS, STEPS, USES

_STEP = re.compile(rf".+-[0-9a-f]{{{KEY_DIGITS}}}")
_FIGURE = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}-[0-9a-f]{{64}}")
_TEMPORARY = re.compile(r"\..+\.tmp", re.DOTALL)
_ASIDE = re.compile(r"aside-[0-9]+")


class Entry(NamedTuple):
    """A file or folder in a run folder.

    Attributes:
        kind: its content in words.
        needed: whether a command uses it, so that pruning keeps it.
    """

    path: Path
    kind: str
    needed: bool


class Size(NamedTuple):
    files: int
    bytes: int


def list_entries(folder: Path) -> list[Entry]:
    """List the content of a run folder. All steps are needed if no run has recorded that it uses any."""
    used = _list_used(folder / USES)
    entries: list[Entry] = []
    for path in sorted(folder.iterdir()):
        if path.name == STEPS and not path.is_symlink():
            entries += _list_steps(path, used)
        elif _ASIDE.fullmatch(path.name):
            entries.append(Entry(path, "moved aside by --fresh", needed=False))
        elif path.name.startswith("pool-") or _TEMPORARY.fullmatch(path.name):
            entries.append(Entry(path, "left by a killed run", needed=False))
        elif path.name == "stages":
            entries.append(Entry(path, "steps of an older version", needed=False))
        else:
            entries.append(Entry(path, "report sections and records", needed=True))
    return entries


def prune(entries: list[Entry]) -> None:
    """Delete the entries that are not needed. The caller holds the folder's lock.

    Raises:
        OSError: a file cannot be deleted.
    """
    for entry in entries:
        if entry.needed:
            continue
        if entry.path.is_dir() and not entry.path.is_symlink():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink(missing_ok=True)


def measure(path: Path) -> Size:
    """Return the number and size of the files at or below a path; files that disappear meanwhile are not counted."""
    sizes = []
    for file in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        with suppress(FileNotFoundError):
            if file.is_symlink() or file.is_file():
                sizes.append(file.lstat().st_size)
    return Size(len(sizes), sum(sizes))


def _list_used(uses: Path) -> set[str] | None:
    """Return the saved results that programs use, relative to the folder of steps; None if no use was recorded.

    A program that uses no results, such as ``kd cache``, leaves an empty record, which tells nothing about the others.
    """
    records = [path for path in uses.iterdir() if path.is_dir()] if uses.is_dir() else []
    programs = [record for record in records if any(record.iterdir())]
    if not programs:
        return None
    return {mark.relative_to(program).as_posix() for program in programs for mark in program.rglob("*")}


def _list_steps(steps: Path, used: set[str] | None) -> Iterator[Entry]:
    for path in sorted(steps.iterdir()):
        if path.name == "figures" and path.is_dir():
            yield from _list_figures(path, used)
        elif _STEP.fullmatch(path.name):
            needed = used is None or path.name in used
            in_use = "steps in use" if used is not None else "steps whose use was not recorded"
            yield Entry(path, in_use if needed else "steps of other settings or versions", needed)
            yield from (Entry(file, "left by a killed run", needed=False) for file in path.glob(".*.tmp") if needed)
        elif _TEMPORARY.fullmatch(path.name):
            yield Entry(path, "left by a killed run", needed=False)
        else:
            yield Entry(path, "report sections and records", needed=True)


def _list_figures(figures: Path, used: set[str] | None) -> Iterator[Entry]:
    for path in sorted(figures.iterdir()):
        if not _FIGURE.fullmatch(path.name):
            yield Entry(path, "left by a killed run", needed=not path.name.endswith(".tmp"))
            continue
        needed = used is None or f"figures/{path.name}" in used
        yield Entry(path, "figures in use" if needed else "figures of other results or versions", needed)
