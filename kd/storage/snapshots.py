"""Numbered generations of one state in one folder: what a step of a run goes on from after it was killed.

A file's name carries the digest of its content, so one atomic rename publishes both. Two generations are kept: should
the newest be damaged, the one before it stands. A damaged one is no generation: it goes once a whole one is written.
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
from kd.storage.stopping import asked_to_stop
from kd.storage.untrusted import read_bytes
from kd.storage.weights import load_tensors

INTERVAL = 30.0  # seconds between two snapshots; what they cost is measured by benchmarks/snapshots.py
GENERATIONS = 2
_NAME = re.compile(r"([0-9]{6,})-([0-9a-f]{64})\.pt")


class Snapshots:
    """The states of one step. ``state`` is the newest one found, or None where there is none yet.

    Args:
        folder: of this step alone; made on the first write.
        key: what the states belong to; a state with another key is foreign and refused.

    Raises:
        ValueError: there are files, but none of them is whole; or the folder is a symbolic link.
    """

    def __init__(self, folder: Path, *, key: str, interval: float = INTERVAL) -> None:
        self.folder, self.key, self.interval = folder, key, interval
        self.done = False
        self.state: dict[str, Any] | None = None
        self._written = time.monotonic()  # never the wall clock, which may go backwards
        self._skipped: set[Path] = set()
        for place in (folder, folder.parent):  # files are written and deleted in it
            if place.is_symlink():
                raise ValueError(f"{place} is a symbolic link. Put the folder itself there, or delete the link.")
        self._remove_leftovers()
        self._read_newest()

    def due(self) -> bool:
        """Whether it is time to write: the interval has passed, or the program was asked to stop."""
        return asked_to_stop() or time.monotonic() - self._written >= self.interval

    def write(self, state: Mapping[str, Any], *, done: bool = False) -> None:
        """Publish one more generation and drop all but the newest two.

        Args:
            state: tensors, numbers, strings and containers of them.
            done: the step's outcome; nothing comes after it.
        """
        buffer = io.BytesIO()
        torch.save({"key": self.key, "done": done, "state": dict(state)}, buffer)
        content = buffer.getvalue()
        generations = self._generations()
        number = 1 + (_number(generations[0]) if generations else 0)
        publish({self.folder / f"{number:06d}-{sha256(content)}.pt": content})
        whole = [path for path in generations if path not in self._skipped]
        for old in whole[GENERATIONS - 1 :]:
            old.unlink(missing_ok=True)
        for damaged in self._skipped:
            with suppress(OSError):  # gone already, or a folder of that name: it does no harm
                damaged.unlink()
        self.done, self._written = done, time.monotonic()

    def reserve(self, size: int) -> None:
        """Refuse to start where the disk cannot hold the generations of states of this many bytes."""
        require_space(self.folder, (GENERATIONS + 1) * size)

    def _remove_leftovers(self) -> None:
        """What writes that were killed have left: no later write has their names, so nothing would overwrite them."""
        for leftover in self.folder.glob(".*.pt.tmp"):
            with suppress(OSError):  # only space is lost
                leftover.unlink()

    def _generations(self) -> list[Path]:
        """The files, newest first."""
        files = self.folder.iterdir() if self.folder.is_dir() else []
        return sorted((path for path in files if _NAME.fullmatch(path.name)), key=_number, reverse=True)

    def _read_newest(self) -> None:
        generations = self._generations()
        for path in generations:
            try:
                content = self._read(path)
            except (OSError, ValueError) as error:
                say(f"skipped a snapshot: {error}")
                self._skipped.add(path)
                continue
            self.done, self.state = content["done"], content["state"]
            return
        if generations:
            raise ValueError(
                f"none of the {len(generations)} snapshots in {self.folder} can be used. Nothing was started over: put "
                "a whole one back, or delete that folder to redo this step, or use --fresh to redo all."
            )

    def _read(self, path: Path) -> dict[str, Any]:
        name = _NAME.fullmatch(path.name)
        assert name is not None
        try:
            content = load_tensors(read_bytes(path, expected=name[2]))
            _check_form(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if content["key"] != self.key:
            raise ValueError(f"{path} belongs to another computation.")
        snapshot: dict[str, Any] = content
        return snapshot


def _check_form(content: Any) -> None:
    types = {"key": str, "done": bool, "state": dict}
    if not isinstance(content, dict) or set(content) != set(types):
        raise ValueError(f"it should be a dictionary of exactly {', '.join(types)}.")
    for name, kind in types.items():
        if not isinstance(content[name], kind):
            raise ValueError(f"its {name} should be a {kind.__name__}. Got a {type(content[name]).__name__}.")


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])
