"""Quick runs of the real pipeline in separate processes, and ways to end them.

The product contains no test hooks: faults come from outside, as signals and as system calls failed by strace.
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

# Three steps an epoch, with a snapshot after each, so that there is a snapshot before any kill.
QUICK = ("--limit", "300", "--epochs", "2", "--snapshot-seconds", "0")


class Ended(NamedTuple):
    code: int  # return code of subprocess: negative for a signal
    output: str


def run(folder: Path, *arguments: str, before: Sequence[str] = ()) -> Ended:
    """Run the pipeline in this folder until it ends; ``before`` is a command prefix such as strace."""
    with start(folder, *arguments, before=before) as process:
        output, _ = process.communicate(timeout=240)
    return Ended(process.returncode, output)


def start(folder: Path, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the pipeline in this folder."""
    # One thread: small matrices gain nothing from two, and parallel runs would slow each other down.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [*before, sys.executable, "-u", "-m", "tests.cheap", str(ROOT / "main.py"), *QUICK, *arguments]
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run_and_kill(folder: Path, seconds: float) -> Ended:
    """Start the pipeline and SIGKILL it after ``seconds``, unless it has ended before."""
    with start(folder) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    return Ended(process.returncode, output)


def run_and_signal(folder: Path, number: signal.Signals, when: str) -> Ended:
    """Start the pipeline and send the signal as soon as a line of its output contains ``when``."""
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
    """Return a command prefix: ``strace("rename:signal=KILL:when=3")`` kills the run at its third rename."""
    calls = inject.split(":")[0]
    # The injected calls must be traced: with -e trace=none strace silently injects nothing.
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={inject}"]


def count_calls(folder: Path, calls: str) -> int:
    """Return the number of these system calls in a complete run."""
    log = folder.parent / f"{folder.name}.strace"
    ended = run(folder, before=["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={calls}"])
    assert ended.code == 0, ended.output
    return sum("(" in line for line in log.read_text().splitlines())


def fingerprint(folder: Path) -> str:
    """Return the digest of all files of a run except its timings."""
    from tests.digests import folder_digest

    return folder_digest(folder / "models", folder / "results")
