"""Runs of the real pipeline at toy size in processes of their own, and ways to end them.

Nothing in the product helps: faults come from outside, by signals and by the system calls that strace injects.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# A snapshot after every step, so that a kill at any point has one before it; three steps an epoch.
TOY = ("--limit", "300", "--epochs", "2", "--snapshot-seconds", "0")


class Ended(NamedTuple):
    code: int  # as subprocess gives it: negative for a signal
    output: str


def run(folder: Path, *arguments: str, before: Sequence[str] = ()) -> Ended:
    """The pipeline in this folder, to whatever end; ``before`` is a command put in front of it, like strace."""
    with start(folder, *arguments, before=before) as process:
        output, _ = process.communicate(timeout=240)
    return Ended(process.returncode, output)


def start(folder: Path, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """The pipeline in this folder, running."""
    # One thread: small matrices gain nothing from two, and runs beside each other then do not wait for one another.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [*before, sys.executable, "-u", "-m", "tests.cheap", str(ROOT / "main.py"), *TOY, *arguments]
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run_and_kill(folder: Path, seconds: float) -> Ended:
    """Start it and SIGKILL it after so many seconds, if it has not ended before."""
    with start(folder) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    return Ended(process.returncode, output)


def run_and_signal(folder: Path, number: signal.Signals, when: str) -> Ended:
    """Start it and send the signal as soon as a line of its output contains ``when``."""
    lines = []
    with start(folder) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if when in line:
                process.send_signal(number)
                break
        lines.extend(process.stdout)
    return Ended(process.returncode, "".join(lines))


def strace(inject: str) -> list[str]:
    """The command to put before a run: ``strace("rename:signal=KILL:when=3")`` kills it at its third rename."""
    calls = inject.split(":")[0]
    # The injected calls must be traced: with -e trace=none strace injects nothing, and says nothing.
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={inject}"]


def count_calls(folder: Path, calls: str) -> int:
    """How many of these system calls a run makes from start to end."""
    log = folder.parent / f"{folder.name}.strace"
    ended = run(folder, before=["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={calls}"])
    assert ended.code == 0, ended.output
    return sum("(" in line for line in log.read_text().splitlines())


def fingerprint(folder: Path) -> str:
    """All that the run left, but for its timings."""
    from tests.digests import folder_digest

    return folder_digest(folder / "models", folder / "results")
