"""Quick runs of the real programs in separate processes, and ways to end them.

The product contains no test hooks: faults come from outside, as signals and as system calls failed by strace.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

# Few steps, with a snapshot after each, so that there is a snapshot before any kill.
_QUICK = ("--limit", "300", "--snapshot-seconds", "0")
_PAIRED = ("--epochs", "1", "--processes", "2", "--out", ".")
PROGRAMS = {
    "main": ("main.py", *_QUICK, "--epochs", "2"),
    "run": ("kd/__main__.py", "run", *_QUICK, "--epochs", "1", "--out", "."),
    # Without pilot students, so that there is a single pool: a worker that dies at the end of the first is no fault.
    "compare": ("kd/__main__.py", "compare", *_QUICK, *_PAIRED, "--pairs", "2", "--smoothing", "0.1"),
    "sweep": (
        *("kd/__main__.py", "sweep", *_QUICK, *_PAIRED, "--temperatures", "2", "4", "--alphas", "0.5"),
        *("--seeds", "1", "--final-pairs", "2"),
    ),
    "evaluate": ("kd/__main__.py", "evaluate", "--out", "."),
    "report": ("kd/__main__.py", "report", "--out", "."),
    "cache": ("kd/__main__.py", "cache", "verify", "--out", "."),
    "clean": ("kd/__main__.py", "clean", "--prune", "--out", "."),
}


class Ended(NamedTuple):
    code: int  # return code of subprocess: negative for a signal
    output: str


def run(
    folder: Path, *arguments: str, before: Sequence[str] = (), program: str = "main", limit: float = 240.0
) -> Ended:
    """Run a program in this folder until it ends.

    Args:
        before: a command prefix such as strace.
        limit: seconds after which the program counts as hanging.
    """
    with start(folder, *arguments, before=before, program=program) as process:
        output, _ = process.communicate(timeout=limit)
    return Ended(process.returncode, output)


def start(folder: Path, *arguments: str, before: Sequence[str] = (), program: str = "main") -> subprocess.Popen[str]:
    """Start a program in this folder."""
    file, *settings = PROGRAMS[program]
    # One thread: small matrices gain nothing from two, and parallel runs would slow each other down.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [*before, sys.executable, "-u", "-m", "tests.cheap", str(ROOT / file), *settings, *arguments]
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run_and_kill(folder: Path, seconds: float, *, program: str = "main") -> Ended:
    """Start a program and SIGKILL it after ``seconds``, unless it has ended before."""
    with start(folder, program=program) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    return Ended(process.returncode, output)


def run_and_signal(folder: Path, number: signal.Signals, when: str, *, program: str = "main") -> Ended:
    """Start a program and send the signal as soon as a line of its output contains ``when``."""
    lines = []
    with start(folder, program=program) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if when in line:
                process.send_signal(number)
                break
        lines.extend(process.stdout)
    return Ended(process.returncode, "".join(lines))


def heed_signals() -> None:
    """Let programs started from now on heed Ctrl-C and SIGHUP, which a job in the background inherits as ignored."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def strace(inject: str) -> list[str]:
    """Return a command prefix: ``strace("rename:signal=KILL:when=3")`` kills the thread's process at its third rename.

    strace counts the calls of each thread separately.
    """
    calls = inject.split(":")[0]
    # The injected calls must be traced: with -e trace=none strace silently injects nothing.
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={inject}"]


def count_calls(folder: Path, calls: str, *, program: str = "main") -> int:
    """Return the number of these system calls in a complete run, by the thread that makes most of them."""
    log = folder.parent / f"{folder.name}.strace"
    ended = run(folder, before=["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={calls}"], program=program)
    assert ended.code == 0, ended.output
    threads = Counter(line.split()[0] for line in log.read_text().splitlines() if "(" in line)
    return max(threads.values())


def fingerprint(folder: Path) -> str:
    """Return the digest of all files of a run except its timings."""
    from tests.digests import folder_digest

    return folder_digest(folder / "models", folder / "results")
