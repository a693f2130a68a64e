"""Kill the pipeline at random points, resume it, and compare the results with an uninterrupted run.

    python tests/faults/torture.py --kills 200        (make torture)

Runs are killed at a counted system call (fsync, rename, unlink; needs strace), after a random time, or by SIGTERM or
SIGINT in any step, up to four times before they may end. Prints a table of kills, runs, runs that resumed, and runs
with the fingerprint of the uninterrupted run. The exit status is 1 unless all runs are identical.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from tests.faults import harness

CALLS = ("fsync", "rename", "unlink")
# Each text is printed while one step runs; "Test set" is printed after all steps, while results are saved.
STEPS = (
    "MNIST:",
    "teacher    epoch 1/2",
    "teacher logits",
    "control    epoch 1/2",
    "distilled  epoch 1/2",
    "Test set",
)
KILLS_PER_RUN = 4


class Case:
    """One run that is killed several times before it may end."""

    def __init__(self, folder: Path, kind: str, rng: random.Random, counts: dict[str, int], seconds: float) -> None:
        self.folder, self.kind, self.rng, self.counts, self.seconds = folder, kind, rng, counts, seconds
        self.kills = 0

    def play(self, reference: str) -> tuple[int, bool, bool]:
        """Return the number of kills, whether the run completed, and whether its results equal the reference."""
        for _ in range(self.rng.randint(1, KILLS_PER_RUN)):
            ended = self._kill()
            if ended.code == 0:
                break
            self.kills += 1
        last = harness.run(self.folder)
        if last.code != 0:
            print(f"{self.kind}: not resumed:\n{last.output}", flush=True)
            return self.kills, False, False
        identical = harness.fingerprint(self.folder) == reference
        shutil.rmtree(self.folder)
        return self.kills, True, identical

    def _kill(self) -> harness.Ended:
        if self.kind in CALLS:
            when = self.rng.randint(1, self.counts[self.kind])
            return harness.run(self.folder, before=harness.strace(f"{self.kind}:signal=KILL:when={when}"))
        if self.kind == "random time":
            return harness.run_and_kill(self.folder, self.rng.uniform(0.0, self.seconds))
        number = signal.SIGTERM if self.kind == "SIGTERM" else signal.SIGINT
        ended = harness.run_and_signal(self.folder, number, self.rng.choice(STEPS))
        if ended.code not in (0, 128 + number):
            print(f"{self.kind}: ended with {ended.code}:\n{ended.output}", flush=True)
        return ended


def torture(kills: int, seed: int, folder: Path, workers: int) -> bool:
    """Play cases until ``kills`` kills are reached and print the table; return whether all runs are identical."""
    started = time.perf_counter()
    reference = harness.run(folder / "reference")
    assert reference.code == 0, reference.output
    seconds, expected = time.perf_counter() - started, harness.fingerprint(folder / "reference")
    kinds = [*(CALLS if shutil.which("strace") else ()), "random time", "SIGTERM", "SIGINT"]
    counts = {call: harness.count_calls(folder / f"count-{call}", call) for call in kinds if call in CALLS}
    print(f"an uninterrupted run takes {seconds:.0f} s and makes {counts} calls; seed {seed}", flush=True)
    rng = random.Random(seed)
    table: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    with ThreadPoolExecutor(workers) as pool:
        number = 0
        while sum(row["kills"] for row in table.values()) < kills:
            cases = []
            for kind in kinds:
                cases.append(Case(folder / f"case-{number}", kind, random.Random(rng.random()), counts, seconds))
                number += 1
            for case, (killed, resumed, identical) in zip(
                cases, pool.map(lambda case: case.play(expected), cases), strict=True
            ):
                table[case.kind].update(runs=1, kills=killed, resumed=resumed, identical=identical)
            print(f"{sum(row['kills'] for row in table.values())} kills so far", flush=True)
    _print_table(table)
    return all(row["identical"] == row["runs"] for row in table.values())


def _print_table(table: dict[str, Counter[str]]) -> None:
    print(f"\n{platform.platform()}, torch {torch.__version__}, {os.cpu_count()} cores, one thread a run\n")
    print("| killed by | kills | runs | completed | identical to the uninterrupted run |\n|---|---|---|---|---|")
    columns = ("kills", "runs", "resumed", "identical")
    for kind, row in {**table, "**all**": sum(table.values(), Counter())}.items():
        name = f"SIGKILL at a random {kind}" if kind in CALLS else kind
        print(f"| {name} | {' | '.join(str(row[column]) for column in columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if torture(arguments.kills, arguments.seed, Path(folder), arguments.workers) else 1)


if __name__ == "__main__":
    main()
