"""The run folder: every step is kept, resumed or done anew, and what was kept is never mixed.

    with open_run(Path(".kd")):
        outcome = run_step("teacher", inputs={...}, produce=...)

A step's key is the digest of all that decides its outcome. Its states lie in a folder named after the key, so a
changed setting meets an empty folder and what was there stays aside, untouched. Outside an open run a step is simply
done: functions called one by one read and write nothing here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import torch

from kd.console import say
from kd.storage.environment import environment, package_digest
from kd.storage.files import publish, require_writable
from kd.storage.fingerprint import describe, digest
from kd.storage.snapshots import INTERVAL, Snapshots
from kd.storage.stopping import stop_if_asked, stopping_when_asked

State = dict[str, Any]

KEY = 16  # hexadecimal digits of a step's key in its folder's name


class OpenRun(NamedTuple):
    """A folder that this process, or the one that has started it, holds locked.

    Attributes:
        interval: seconds between two snapshots.
        made: the steps that may be done in it, by name; any others must be kept already. None: all may.
    """

    folder: Path
    interval: float
    made: tuple[str, ...] | None = None


_open: ContextVar[OpenRun | None] = ContextVar("the open run", default=None)


@contextmanager
def open_run(
    folder: Path, *, fresh: bool = False, interval: float = INTERVAL, made: Sequence[str] | None = None
) -> Iterator[None]:
    """Open a run folder, for this process alone, until the block ends. For programs: it may set the number of threads.

    SIGTERM and Ctrl-C inside the block finish the training step in hand, keep the state and end the program (143, 130).

    Args:
        folder: made if it is not there.
        fresh: put all earlier steps aside and start from nothing.
        interval: seconds between two snapshots of a training.
        made: the steps that may be done, by name; ``run_step`` refuses others that are not kept. None: all may.

    Raises:
        OSError: another process has the folder open, or it cannot be written to.
    """
    require_writable(folder)
    with _locked(folder), stopping_when_asked():
        if fresh:
            _put_aside(folder)
        _use_recorded_threads(folder)
        package_digest()
        token = _open.set(OpenRun(folder, interval, None if made is None else tuple(made)))
        try:
            yield
        finally:
            _open.reset(token)


def opened_run() -> OpenRun | None:
    """The run that is open here, for a worker process to join; None where there is none."""
    return _open.get()


def join_run(run: OpenRun | None) -> None:
    """Let this process's steps be those of the run that its parent has open. For the rest of the process."""
    _open.set(run)


def run_step(name: str, inputs: Mapping[str, Any], produce: Callable[[Snapshots | None], State]) -> State:
    """The outcome of one step: as kept from an earlier run, resumed from a snapshot, or produced anew.

    Args:
        name: short, for messages and for the name of a folder.
        inputs: all that decides the outcome: settings, models as they start, datasets, loaders, functions. Versions,
            threads and device are added.
        produce: does the work, from ``snapshots.state`` on if that is not None; None stands for no run being open.
            The outcome must be tensors, numbers, strings and containers of them; a snapshot's state also has
            ``"where"``, which a person is told.

    Raises:
        ValueError: it is not kept, and the run was opened for other steps alone.
    """
    run = _open.get()
    if run is None:
        return _produced(name, produce, None)
    stop_if_asked()
    description = {"inputs": describe(inputs), "environment": environment()}
    key = digest(description)
    snapshots = Snapshots(run.folder / "steps" / f"{name}-{key[:KEY]}", key=key, interval=run.interval)
    note = snapshots.folder / "description.json"
    if snapshots.done and snapshots.state is not None:
        note.touch()  # the newest is what the next change is told against
        say(f"{name}: kept from an earlier run, nothing it depends on has changed")
        return snapshots.state
    if run.made is not None and name not in run.made:
        raise ValueError(f"{name}: there is none with these settings in {run.folder}. kd run and kd distill make it.")
    if snapshots.state is not None:
        say(f"{name}: interrupted earlier; goes on from its snapshot at {snapshots.state['where']}")
    elif note.exists():
        say(f"{name}: interrupted before its first snapshot; done again from its start")
    else:
        _say_what_changed(run.folder, name, description)
        publish({note: json.dumps(description, indent=1).encode()})
    outcome = _produced(name, produce, snapshots)
    snapshots.write(outcome, done=True)
    stop_if_asked()
    return outcome


def _produced(name: str, produce: Callable[[Snapshots | None], State], snapshots: Snapshots | None) -> State:
    try:
        return produce(snapshots)
    except FloatingPointError as error:
        raise FloatingPointError(f"{name}: {error}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. The system frees the lock when the process ends, however it ends."""
    owner = folder / "owner"
    lock = filelock.FileLock(folder / "lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        process = owner.read_text() if owner.exists() else "unknown"
        raise OSError(
            f"another run (process {process}) is using {folder}. Wait for it to end, or choose another folder."
        ) from error
    try:
        publish({owner: str(os.getpid()).encode()})
        yield
    finally:
        lock.release()


def _put_aside(folder: Path) -> None:
    """Rename what there is; an earlier run put aside before keeps its place."""
    steps = folder / "steps"
    (folder / "run.json").unlink(missing_ok=True)
    if steps.exists():
        taken = {path.name for path in folder.iterdir()}
        number = next(n for n in range(1, len(taken) + 2) if f"aside-{n}" not in taken)
        steps.rename(folder / f"aside-{number}")
        say(f"earlier steps were put aside in {folder / f'aside-{number}'}; delete it if you do not need it")


def _use_recorded_threads(folder: Path) -> None:
    """Another number of threads gives other bits: go on with the recorded one."""
    record = folder / "run.json"
    if not record.exists():
        publish({record: json.dumps({"threads": torch.get_num_threads()}).encode()})
        return
    try:
        threads = int(json.loads(record.read_text())["threads"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{record} is damaged: {error}. Delete it to go on with the present number of threads."
        ) from error
    if threads != torch.get_num_threads():
        say(f"threads: {threads}, as in the earlier run, instead of {torch.get_num_threads()}; --fresh forgets it")
        torch.set_num_threads(threads)


def _say_what_changed(folder: Path, name: str, description: Mapping[str, Any]) -> None:
    """Where there was an earlier outcome of this step, say what is different now."""
    key = "[0-9a-f]" * KEY  # not those of a step whose name goes on, as teacher-test does
    earlier = list((folder / "steps").glob(f"{name}-{key}/description.json"))
    if not earlier:
        return
    latest = max(earlier, key=lambda path: path.stat().st_mtime)
    try:
        changed = differences(json.loads(latest.read_text()), description)
    except (OSError, ValueError):
        changed = ["the earlier description cannot be read"]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    say(f"{name}: starts anew; changed since the last run: {'; '.join(changed[:3])}{more} (the earlier state is kept)")


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two descriptions differ, one line each: ``settings.epochs: was 10, is 2``."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    if old == new:
        return []
    was, now = json.dumps(old), json.dumps(new)
    return [
        f"{path}: was {was}, is {now}" if len(was + now) < 40 else f"{path} is another"
    ]  # digests tell a person nothing
