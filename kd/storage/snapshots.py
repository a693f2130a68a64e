"""Snapshots of one step of a run: numbered generations of its state, from which a killed run resumes.

A file's name contains the digest of its content, so one atomic rename publishes both. Two generations are kept, in case
the newest is damaged. Damaged files are not counted as generations; the next write deletes them. A file that could not
be read is never deleted.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from kd.console import say
from kd.storage.files import publish, require_space, sha256
from kd.storage.stopping import is_stop_requested
from kd.storage.untrusted import read_bytes
from kd.storage.weights import load_tensors

INTERVAL = 30.0  # seconds between two snapshots; benchmarks/snapshots.py measures their cost
GENERATIONS = 2
_NAME = re.compile(r"([0-9]{6,})-([0-9a-f]{64})\.pt")


class Snapshots:
    """The saved states of one step.

    Args:
        folder: used by this step only; created by the first write.
        key: the step's key; a state with another key is rejected.
        interval: seconds between two writes.

    Attributes:
        state: the newest intact state; None if nothing is saved.
        done: whether the newest state is the step's result.

    Raises:
        OSError, MemoryError: a file cannot be read now. No file is deleted.
        ValueError: none of the saved files is usable, or the folder or its parent is a symbolic link.
    """

    def __init__(self, folder: Path, *, key: str, interval: float = INTERVAL) -> None:
        self.folder, self.key, self.interval = folder, key, interval
        self.done = False
        self.state: dict[str, Any] | None = None
        self._last_write = time.monotonic()  # the wall clock may go backwards
        self._skipped: set[Path] = set()  # not counted as generations
        self._damaged: set[Path] = set()  # those of them that were read, and may be deleted
        for path in (folder, folder.parent):  # a link would redirect writes and deletions to another folder
            if path.is_symlink():
                raise ValueError(f"{path} is a symbolic link. Replace it with the folder itself, or delete it.")
        self._remove_leftovers()
        self._read_newest()

    def due(self) -> bool:
        """Return whether to write now: the interval has passed, or a stop was requested."""
        return is_stop_requested() or time.monotonic() - self._last_write >= self.interval

    def write(self, state: Mapping[str, Any], *, done: bool = False) -> None:
        """Write a new generation and delete all but the newest two.

        Args:
            state: tensors, numbers, strings and containers of these.
            done: the state is the step's result; no further write follows.
        """
        buffer = io.BytesIO()
        torch.save({"key": self.key, "done": done, "state": dict(state)}, buffer)
        content = buffer.getvalue()
        generations = self._generations()
        number = 1 + (_generation_number(generations[0]) if generations else 0)
        publish({self.folder / f"{number:06d}-{sha256(content)}.pt": content})
        intact = [path for path in generations if path not in self._skipped]
        for path in intact[GENERATIONS - 1 :]:
            path.unlink(missing_ok=True)
        for path in self._damaged:
            with suppress(OSError):  # already deleted, or a folder with this name: harmless
                path.unlink()
        self.done, self._last_write = done, time.monotonic()

    def reserve(self, size: int) -> None:
        """Check that the disk has space for states of ``size`` bytes: all generations, and one being written."""
        require_space(self.folder, (GENERATIONS + 1) * size)

    def _remove_leftovers(self) -> None:
        """Delete temporary files of killed writes. No later write has their names, so nothing overwrites them."""
        for leftover in self.folder.glob(".*.tmp"):
            with suppress(OSError):  # costs only disk space
                leftover.unlink()

    def _generations(self) -> list[Path]:
        """Return the snapshot files, newest first."""
        try:
            files = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        except FileNotFoundError:  # any other error must not look like a step without snapshots
            files = []
        return sorted(files, key=_generation_number, reverse=True)

    def _read_newest(self) -> None:
        generations = self._generations()
        for path in generations:
            try:
                content = self._read(path)
            except ValueError as error:
                say(f"snapshot skipped: {error}")
                self._skipped.add(path)
                continue
            except OSError as error:  # tells nothing about the file, which may be intact
                reason = f"{error.strerror or error}. It was not changed"
                advice = "Run again; if the error remains, move the file away to use the previous snapshot"
                raise OSError(error.errno, f"cannot read the snapshot {path}: {reason}. {advice}.") from error
            self.done, self.state = content["done"], content["state"]
            return
        if generations:
            raise ValueError(
                f"none of the {len(generations)} snapshots in {self.folder} is usable. Restore an intact one, delete "
                "the folder to run this step again, or use --fresh to run all steps again."
            )

    def _read(self, path: Path) -> dict[str, Any]:
        match = _NAME.fullmatch(path.name)
        assert match is not None
        written = read_bytes(path)
        self._damaged.add(path)  # until all checks have passed
        try:
            if (found := sha256(written)) != match[2]:
                raise ValueError(f"it is damaged: expected SHA-256 {match[2]}, got {found}.")
            content = load_tensors(written)
            _check_structure(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if content["key"] != self.key:
            raise ValueError(f"{path} belongs to another step, or to other inputs.")
        self._damaged.discard(path)
        snapshot: dict[str, Any] = content
        return snapshot


def _check_structure(content: Any) -> None:
    types = {"key": str, "done": bool, "state": dict}
    if not isinstance(content, dict) or set(content) != set(types):
        raise ValueError(f"it should be a dictionary with exactly the keys {', '.join(types)}.")
    for name, kind in types.items():
        if not isinstance(content[name], kind):
            raise ValueError(f"its {name} should be a {kind.__name__}. Got {type(content[name]).__name__}.")


def _generation_number(path: Path) -> int:
    return int(path.name.partition("-")[0])
