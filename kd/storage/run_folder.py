"""The run folder: each step of a run is reused, resumed or run, depending on its saved state.

    with open_run(Path(".kd")):
        outcome = run_step("teacher", inputs={...}, produce=...)

A step's key is the digest of all inputs that determine its result. Its states are saved in a folder named after the
key, so a changed setting starts in an empty folder and leaves the old state untouched. If no run is open, a step just
runs: functions called directly from Python neither read nor write a run folder.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kd.checks import require
from kd.console import say
from kd.storage.environment import environment, package_digest, source_digest
from kd.storage.files import publish, require_writable
from kd.storage.fingerprint import describe, digest
from kd.storage.places import use_folders
from kd.storage.resources import is_passing_fault
from kd.storage.snapshots import INTERVAL, Snapshots
from kd.storage.stopping import handle_stop_signals, stop_if_requested

State = dict[str, Any]

STEPS = "steps"  # folder of all steps inside a run folder; --fresh moves it aside
_MAX_THREADS = 10_000
USES = "uses"  # folder of empty files, named after the saved results that each program used last (kd.storage.cleaning)
KEY_DIGITS = 16  # hexadecimal digits of the key in the name of a step's folder


class OpenRun(NamedTuple):
    """A run folder locked by this process or its parent.

    Attributes:
        interval: seconds between two snapshots.
        uses: folder of marks of the saved results that this run has used so far.
        made: names of the steps that may run; all others must be saved already. None: all steps may run.
    """

    folder: Path
    interval: float
    uses: Path
    made: tuple[str, ...] | None = None

    def mark_used(self, saved: Path) -> None:
        """Record that this run uses a saved result, a file or folder in the folder of steps, so that it is kept."""
        mark = self.uses / saved.relative_to(self.folder / STEPS)
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except OSError as error:
            raise OSError(error.errno, f"cannot write {mark}: {error.strerror}. Run again to resume.") from error


_open: ContextVar[OpenRun | None] = ContextVar("the open run", default=None)


@contextmanager
def open_run(
    folder: Path,
    *,
    fresh: bool = False,
    interval: float = INTERVAL,
    made: Sequence[str] | None = None,
    places: Sequence[Path] = (),
    program: str = "",
) -> Iterator[None]:
    """Lock a run folder for this process until the block ends.

    Meant for programs, since it handles signals and may change torch's number of threads. On SIGTERM, Ctrl-C
    or SIGHUP inside the block, the current training step is finished, the state is saved, and the program exits with
    status 143, 130 or 129.

    Args:
        folder: created if missing.
        fresh: move all saved steps aside and start over.
        interval: seconds between two snapshots of a training run.
        made: names of the steps that may run; ``run_step`` raises an error for any other that is not saved. None allows
            all.
        places: folders of results that this run writes. They are locked too, since another run with another state
            folder may write to them.
        program: name under which the used results are recorded; until the same program completes another run in this
            folder, ``kd clean`` keeps them. Defaults to the name of the running Python file.

    Raises:
        OSError: another process uses the folder or one of the places, or it is not writable.
    """
    require_writable(folder)
    # The folder of report sections is part of every exchange of results.
    written = [*places, folder / "report"] if places else []
    with lock_folder(folder), use_folders(written), handle_stop_signals():
        if fresh:
            _move_steps_aside(folder)
        _use_recorded_threads(folder)
        package_digest()  # cached now, like the next one, since the sources may be edited during the run
        source_digest()
        uses = folder / USES / f"{program or Path(sys.argv[0]).stem or 'python'}.new"
        token = _open.set(OpenRun(folder, interval, uses, None if made is None else tuple(made)))
        try:
            yield
        finally:
            _open.reset(token)
        _replace_uses(uses)


def current_run() -> OpenRun | None:
    """Return the open run, to be passed to ``join_run`` in a worker process; None if no run is open."""
    return _open.get()


def join_run(run: OpenRun | None) -> None:
    """Use the parent's open run for all further steps of this worker process."""
    _open.set(run)


def run_step(name: str, inputs: Mapping[str, Any], produce: Callable[[Snapshots | None], State]) -> State:
    """Return the result of a step: saved by an earlier run, resumed from a snapshot, or newly computed.

    Args:
        name: short; used in messages and in the folder's name.
        inputs: everything that determines the result: settings, initial models, datasets, loaders, functions.
            Versions, number of threads and processor are added.
        produce: computes the result, resuming from ``snapshots.state`` if that is not None. Gets None if no run is
            open. The result and all snapshots may contain tensors, numbers, strings and containers of these. A
            snapshot also has an entry ``"where"``, a position such as "epoch 3, batch 120", for the message.

    Raises:
        ValueError: the step is not saved, and the open run does not allow it to run.
    """
    run = _open.get()
    if run is None:
        return _run_producer(name, produce, None)
    stop_if_requested()
    description = {"inputs": describe(inputs), "environment": environment()}
    key = digest(description)
    snapshots = Snapshots(run.folder / STEPS / f"{name}-{key[:KEY_DIGITS]}", key=key, interval=run.interval)
    run.mark_used(snapshots.folder)
    description_file = snapshots.folder / "description.json"
    if snapshots.done and snapshots.state is not None:
        description_file.touch()  # later changes are reported relative to the newest description
        say(f"{name}: up to date, reused")
        return snapshots.state
    if run.made is not None and name not in run.made:
        raise ValueError(
            f"{name}: no saved result with these settings in {run.folder}. Run kd run or kd distill first."
        )
    if snapshots.state is not None:
        say(f"{name}: resuming from {snapshots.state.get('where', 'a snapshot')}")
    elif description_file.exists():
        say(f"{name}: interrupted before its first snapshot, starting over")
    else:
        _report_changes(run.folder, name, description)
        publish({description_file: json.dumps(description, indent=1).encode()})
    outcome = _run_producer(name, produce, snapshots)
    snapshots.write(outcome, done=True)
    stop_if_requested()
    return outcome


@contextmanager
def explain_saved_state(name: str) -> Iterator[None]:
    """Raise a ``ValueError`` that names the step if its saved state, read in the block, does not have its form."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_passing_fault(error) or "--fresh" in str(error):  # has the advice already
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split()).removesuffix(".")
        raise ValueError(
            f"{name}: the saved state is damaged or was changed ({kind}{reason}). Use --fresh to start over."
        ) from error


def _run_producer(name: str, produce: Callable[[Snapshots | None], State], snapshots: Snapshots | None) -> State:
    """Call ``produce``, adding the step's name to a ``FloatingPointError``."""
    try:
        return produce(snapshots)
    except FloatingPointError as error:
        raise FloatingPointError(f"{name}: {error}") from error


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process. The operating system releases the lock however the process ends.

    Raises:
        OSError: another process uses the folder.
    """
    import filelock

    owner = folder / "owner"
    # The fallback, a file that marks the lock, would stay behind if this process is killed.
    lock = filelock.FileLock(folder / "lock", blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        pid = owner.read_text(errors="replace") if owner.exists() else "unknown"
        raise OSError(
            f"another run (process {pid}) is using {folder}. Wait for it to end, or choose another folder."
        ) from error
    except OSError as error:  # as on some network file systems
        reason = f"cannot lock folder {folder}: {error.strerror or error}"
        raise OSError(error.errno, f"{reason}. Choose a folder on a local disk.") from error
    try:
        publish({owner: str(os.getpid()).encode()})
        yield
    finally:
        lock.release()


def _replace_uses(new: Path) -> None:
    """Replace the marks of the program's last complete run. Marks of interrupted runs stay until the next one ends."""
    old = new.with_suffix("")
    with suppress(OSError):  # then all marks stay, and less is pruned
        new.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(old, ignore_errors=True)
        new.rename(old)


def _move_steps_aside(folder: Path) -> None:
    """Rename the folder of saved steps to the first free ``aside-N``, and delete the recorded number of threads."""
    steps = folder / STEPS
    (folder / "run.json").unlink(missing_ok=True)
    if steps.exists():
        names = {path.name for path in folder.iterdir()}
        number = next(n for n in range(1, len(names) + 2) if f"aside-{n}" not in names)
        steps.rename(folder / f"aside-{number}")
        say(f"old state moved to {folder / f'aside-{number}'}; safe to delete")


def _use_recorded_threads(folder: Path) -> None:
    """Set torch's number of threads to the recorded one: a different number changes the bits of results."""
    record = folder / "run.json"
    if not record.exists():
        publish({record: json.dumps({"threads": torch.get_num_threads()}).encode()})
        return
    try:
        threads = int(json.loads(record.read_bytes())["threads"])
        require(0 < threads <= _MAX_THREADS, "threads", threads, f"from 1 to {_MAX_THREADS:,}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{record} is damaged: {error}. Delete it to use the current number of threads.") from error
    if threads != torch.get_num_threads():
        say(f"threads: using {threads} as in the earlier run, not {torch.get_num_threads()}; --fresh resets it")
        torch.set_num_threads(threads)


def _report_changes(folder: Path, name: str, description: Mapping[str, Any]) -> None:
    """Print the inputs that changed since the last run of this step, if there was one."""
    key = "[0-9a-f]" * KEY_DIGITS  # excludes steps whose name only starts with this one, like teacher-test
    descriptions = list((folder / STEPS).glob(f"{name}-{key}/description.json"))
    if not descriptions:
        return
    latest = max(descriptions, key=lambda path: path.stat().st_mtime)
    try:
        lines = list_differences(json.loads(latest.read_bytes()), description)
        changes = [line.removeprefix("inputs.") for line in lines]
    except (OSError, ValueError, RecursionError):
        changes = ["old description unreadable"]
    more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
    say(f"{name}: inputs changed ({'; '.join(changes[:3])}{more}), starting over; old state kept")


def list_differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List the differences between two descriptions, one line each: ``settings.epochs: 10 -> 2``."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        return [
            line
            for key in keys
            for line in list_differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    if old == new:
        return []
    before, after = json.dumps(old), json.dumps(new)
    return [f"{path}: {before} -> {after}" if len(before + after) < 40 else path]  # omits long values such as digests
