"""Kill the programs at random points, resume them, and compare the results with an uninterrupted run.

    python tests/faults/torture.py --kills 200                       (make torture)
    python tests/faults/torture.py --kills 200 --only worker

Runs of ``python main.py``, ``kd compare`` and ``kd sweep`` are killed at a counted system call (fsync, rename, unlink;
needs strace), after a random time, or by SIGTERM or SIGINT in any step, up to four times before they may end. Worker
processes are killed while they import, start, work or wait. Prints a table of kills, ends with an error, hangs, runs,
runs that completed, and runs with the fingerprint of the uninterrupted run. The exit status is 1 unless all runs are
identical, none hung, and every other end had its message and exit status.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from tests import cheap
from tests.faults import harness, workers

CALLS = ("fsync", "rename", "unlink")
# Each text is printed while one step runs; the last, after all steps, while results are saved.
STEPS = {
    "main": (
        *("MNIST:", "teacher    epoch 1/2", "teacher logits", "control    epoch 1/2", "distilled  epoch 1/2"),
        "Test set",
    ),
    "compare": ("MNIST:", "teacher    epoch 1/1", "teacher logits", "method:", " 1/8", " 5/8", "Mean ±"),
    "sweep": ("MNIST:", "teacher    epoch 1/1", "teacher logits", " 1/4", "fresh seed", "Errors on"),
}
KILLS_PER_RUN = 4
KILLS_OF_WORKERS_PER_RUN = 8  # the program itself ends with an error and saved state, so more of them find work


class Kind(NamedTuple):
    """A row of the table: a program, and a way to end it or one of its workers."""

    program: str
    fault: str

    @property
    def is_worker(self) -> bool:
        return self.fault in workers.STATES

    def __str__(self) -> str:
        if self.is_worker:
            return f"{self.program}: SIGKILL of a worker while {self.fault}"
        return f"{self.program}: {'SIGKILL at a random ' if self.fault in CALLS else ''}{self.fault}"


class Reference(NamedTuple):
    """An uninterrupted run of a program.

    Attributes:
        seconds: its duration.
        calls: number of its system calls by name.
        trained: a folder in which the teacher is trained and the workers have been started.
    """

    fingerprint: str
    seconds: float
    calls: dict[str, int]
    trained: Path


class Case:
    """One run that is killed several times before it may end; ``counts`` is its row of the table."""

    def __init__(self, folder: Path, kind: Kind, rng: random.Random, reference: Reference) -> None:
        self.folder, self.kind, self.rng, self.reference = folder, kind, rng, reference
        self.counts: Counter[str] = Counter(runs=1)
        self.longest = 0.0  # seconds from the kill of a worker to the program's end with an error

    def play(self) -> Case:
        if self.kind.is_worker:
            shutil.copytree(self.reference.trained, self.folder)
        for _ in range(self.rng.randint(1, KILLS_OF_WORKERS_PER_RUN if self.kind.is_worker else KILLS_PER_RUN)):
            if self._kill().code == 0:
                break
        last = harness.run(self.folder, program=self.kind.program)
        if last.code != 0:
            print(f"{self.kind}: not resumed:\n{last.output}", flush=True)
            return self
        identical = harness.fingerprint(self.folder) == self.reference.fingerprint
        self.counts.update(completed=1, identical=int(identical))
        shutil.rmtree(self.folder)
        return self

    def _kill(self) -> harness.Ended:
        fault, program = self.kind.fault, self.kind.program
        if self.kind.is_worker:
            return self._kill_worker()
        if fault in CALLS:
            when = self.rng.randint(1, self.reference.calls[fault])
            ended = harness.run(self.folder, before=harness.strace(f"{fault}:signal=KILL:when={when}"), program=program)
            return self._count(ended, allowed=(-9, 137))
        if fault == "random time":
            seconds = self.rng.uniform(0.0, self.reference.seconds)
            return self._count(harness.run_and_kill(self.folder, seconds, program=program), allowed=(-9,))
        number = signal.SIGTERM if fault == "SIGTERM" else signal.SIGINT
        step = self.rng.choice(STEPS[program])
        ended = harness.run_and_signal(self.folder, number, step, program=program)
        return self._count(ended, allowed=(128 + number,))

    def _kill_worker(self) -> harness.Ended:
        killed = workers.run_and_kill_worker(self.folder, self.kind.fault, self.rng, program=self.kind.program)
        self.counts["hangs"] += killed.hung
        if killed.ended.code == 1:  # else other workers went on
            self.longest = max(self.longest, killed.seconds)
        self._count(killed.ended, kills=killed.kills)
        return killed.ended

    def _count(self, ended: harness.Ended, *, allowed: Sequence[int] = (), kills: int | None = None) -> harness.Ended:
        """Count a kill, and an end with the message about a killed worker; print any other end that is not allowed."""
        killed = int(ended.code != 0) if kills is None else kills
        # A kill of a worker ends its program with a message, unless nothing was left to do.
        is_error = ended.code == 1 and "processes was killed while it" in ended.output
        is_clear = (ended.code == 0 or ended.code in allowed or is_error) and "Traceback" not in ended.output
        self.counts.update(kills=killed, errors=int(is_error), unclear=int(not is_clear))
        if not is_clear:
            print(f"{self.kind}: ended with {ended.code}:\n{ended.output}", flush=True)
        return ended


def torture(kinds: Sequence[Kind], kills: int, seed: int, folder: Path, jobs: int) -> bool:
    """Play cases until ``kills`` kills are reached and print the table; return whether all ended as they must."""
    references = {
        program: make_reference(program, folder, counted=any(Kind(program, call) in kinds for call in CALLS))
        for program in dict.fromkeys(kind.program for kind in kinds)
    }
    print(f"seed {seed}", flush=True)
    rng, number, longest = random.Random(seed), 0, 0.0
    table: dict[Kind, Counter[str]] = {kind: Counter() for kind in kinds}
    try:
        with ThreadPoolExecutor(jobs) as pool:
            while sum(row["kills"] for row in table.values()) < kills:
                cases = []
                for kind in kinds:
                    reference = references[kind.program]
                    cases.append(Case(folder / f"case-{number}", kind, random.Random(rng.random()), reference))
                    number += 1
                for case in pool.map(Case.play, cases):
                    table[case.kind].update(case.counts)
                    longest = max(longest, case.longest)
                    print(f"{sum(row['kills'] for row in table.values())} kills so far", flush=True)
    finally:  # also of a round that is interrupted
        _print_table(table)
        if longest:
            print(f"\nLongest time from the kill of a worker to the program's error: {longest:.1f} s")
    total: Counter[str] = sum(table.values(), Counter())
    return total["identical"] == total["runs"] and not total["hangs"] and not total["unclear"]


def make_reference(program: str, folder: Path, *, counted: bool) -> Reference:
    """Run a program without interruption; count its system calls if ``counted``."""
    started = time.perf_counter()
    reference = harness.run(folder / program, program=program)
    assert reference.code == 0, reference.output
    seconds = time.perf_counter() - started
    calls = {
        call: harness.count_calls(folder / f"{program}-{call}", call, program=program) for call in CALLS if counted
    }
    trained = folder / f"{program}-trained"
    if program != "main":
        harness.run_and_signal(trained, signal.SIGTERM, STEPS[program][3], program=program)
    print(f"{program}: an uninterrupted run takes {seconds:.0f} s; calls: {calls or 'not counted'}", flush=True)
    return Reference(harness.fingerprint(folder / program), seconds, calls, trained)


def list_kinds(only: str) -> list[Kind]:
    """Return all rows whose name contains ``only``."""
    faults = [*(CALLS if shutil.which("strace") else ()), "random time", "SIGTERM", "SIGINT"]
    kinds = [Kind(program, fault) for program in STEPS for fault in faults]
    if Path("/proc/self/maps").exists():
        kinds += [Kind(program, state) for program in ("compare", "sweep") for state in workers.STATES]
    return [kind for kind in kinds if only in str(kind)]


def _print_table(table: dict[Kind, Counter[str]]) -> None:
    print(f"\n{platform.platform()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread a process\n")
    columns = ("kills", "errors", "hangs", "unclear", "runs", "completed", "identical")
    print(f"| ended by | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    total: Counter[str] = sum(table.values(), Counter())
    for name, row in {**{str(kind): row for kind, row in table.items()}, "**all**": total}.items():
        print(f"| {name} | {' | '.join(str(row[column]) for column in columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", default="", help="rows whose name contains this text, such as worker or sweep")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at the same time")
    arguments = parser.parse_args()
    kinds = list_kinds(arguments.only)
    if not kinds:
        parser.error(f"no row's name contains {arguments.only!r}; rows are {', '.join(map(str, list_kinds('')))}")
    harness.heed_signals()
    with tempfile.TemporaryDirectory() as folder, cheap.small_mnist():
        try:
            passed = torture(kinds, arguments.kills, arguments.seed, Path(folder), arguments.jobs)
        finally:
            cheap.remove_small_mnist()
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
