"""Kills of the worker processes of ``kd compare`` and ``kd sweep``, in each state that a worker can be in (Linux)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.faults import harness

STATES = ("importing", "starting", "busy", "idle")
_POLL = 0.01  # seconds between two looks at the processes
HANG = 150.0  # seconds from a kill after which the program counts as waiting for ever; the pool's grace time is 60


class Killed(NamedTuple):
    """The end of a program one of whose workers was killed.

    Attributes:
        kills: 0 if the program ended before the worker had reached the state, else 1.
        seconds: from the kill to the end of the program.
        hung: whether it did not end, and was killed.
    """

    ended: harness.Ended
    kills: int
    seconds: float
    hung: bool


def find_workers(parent: int) -> list[int]:
    """Return the pids of the pool's worker processes of this program."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            is_child = _fields(int(stat.parent.name))[1] == str(parent)
            if is_child and b"spawn_main" in stat.with_name("cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return sorted(found)


def run_and_kill_worker(folder: Path, state: str, rng: random.Random, *, program: str) -> Killed:
    """Start a program, SIGKILL one of its workers in this state, and wait for the program's end."""
    with harness.start(folder, program=program) as process:
        kills = int(_KILLERS[state](process, folder, rng))
        started = time.monotonic()
        try:
            output, _ = process.communicate(timeout=HANG)
            hung = False
        except subprocess.TimeoutExpired:
            hung = True
            for pid in [process.pid, *find_workers(process.pid)]:
                os.kill(pid, signal.SIGKILL)
            output, _ = process.communicate()
    return Killed(harness.Ended(process.returncode, output), kills, time.monotonic() - started, hung)


def _kill_importing(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> bool:
    """Kill a worker that has just been started."""
    if not _wait_for(process, lambda: find_workers(process.pid)):
        return False
    time.sleep(rng.uniform(0.0, 0.5))
    return _kill(process, rng)


def _kill_starting(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> bool:
    """Kill a worker that has loaded torch's libraries; it then imports the rest and reads the shared data."""
    if not _wait_for(process, lambda: any(map(_has_torch, find_workers(process.pid)))):
        return False
    time.sleep(rng.uniform(0.0, 1.5))
    return _kill(process, rng)


def _kill_busy(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> bool:
    """Kill a worker after the first step of a student has begun."""
    if not _wait_for_students(process, folder):
        return False
    time.sleep(rng.uniform(0.0, 0.5))  # a fast machine trains all students in less than a second
    return _kill(process, rng)


def _kill_idle(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> bool:
    """Stop one worker, so that another finishes all other items and waits; kill the other, and continue the first."""
    if not _wait_for_students(process, folder) or len(pids := find_workers(process.pid)) < 2:
        return False
    stopped, idle = rng.sample(pids, 2)
    try:
        os.kill(stopped, signal.SIGSTOP)
        reached = _wait_for(process, lambda: _is_waiting(idle))
        os.kill(idle, signal.SIGKILL)
        time.sleep(0.3)
    except OSError:  # one has ended
        return False
    finally:
        with suppress(OSError):
            os.kill(stopped, signal.SIGCONT)
    return reached


_KILLERS = dict(zip(STATES, (_kill_importing, _kill_starting, _kill_busy, _kill_idle), strict=True))


def _kill(process: subprocess.Popen[str], rng: random.Random) -> bool:
    pids = find_workers(process.pid)
    if not pids:
        return False
    try:
        os.kill(rng.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _wait_for(process: subprocess.Popen[str], condition: Callable[[], object]) -> bool:
    """Wait until the condition holds; return False if the program ends first."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(_POLL)
    return False


def _wait_for_students(process: subprocess.Popen[str], folder: Path) -> bool:
    """Wait until a worker writes into the folder of a student's step."""

    def written() -> float:
        return max((path.stat().st_mtime for path in (folder / ".kd" / "steps").glob("*seed-*")), default=0.0)

    before = written()
    return _wait_for(process, lambda: written() > before and find_workers(process.pid))


def _has_torch(pid: int) -> bool:
    with suppress(OSError):
        return "libtorch_python" in Path(f"/proc/{pid}/maps").read_text()
    return False


def _is_waiting(pid: int) -> bool:
    """Return whether the process sleeps and uses no processor time for half a second."""
    before = _fields(pid)
    time.sleep(0.5)
    after = _fields(pid)
    return after[0] == "S" and before[11:13] == after[11:13]


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name: state, parent, …, user and system time (11 and 12)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
