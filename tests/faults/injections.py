"""System calls on a program's folder, recorded once by strace, and runs in which one of them fails (Linux).

    python tests/faults/injections.py --minutes 60 --seed 1

Each run must end with success or with a clear error (exit status 1 and a paragraph without traceback), and then resume
with the files of an uninterrupted run. Prints a table of calls and errors; the exit status is 1 unless all runs did.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import cheap
from tests.faults import harness

# Errors that a disk, a quota, a network file system or a mistake in permissions can cause, by system call.
ERRORS: Mapping[str, tuple[str, ...]] = {
    "openat": ("EIO", "EACCES", "ENOSPC", "EROFS", "EMFILE", "ESTALE"),
    "write": ("EIO", "ENOSPC", "EDQUOT"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "rename": ("EIO", "ENOSPC", "EACCES"),
    "unlink": ("EIO", "EACCES", "EBUSY"),
    "mkdir": ("EIO", "ENOSPC", "EACCES", "EROFS"),
    "flock": ("ENOLCK", "EOPNOTSUPP", "ENOSYS"),
    "mmap": ("ENOMEM", "ENODEV"),
}
# Programs that need the folder of an earlier one.
AFTER = {"evaluate": "run", "report": "run", "cache": "run", "clean": "run"}
PROGRAMS = ("main", "run", "compare", "sweep", *AFTER)


class Fault(NamedTuple):
    """A system call that fails: the ``when``-th of its name in its thread."""

    program: str
    call: str
    when: int
    error: str
    path: str


def record(program: str, folder: Path) -> list[Fault]:
    """Run the program and return each possible fault at each of its calls that touches the folder."""
    log = folder.with_suffix(".log")
    calls = ",".join(ERRORS)
    ended = harness.run(folder, program=program, before=_strace(log, "-e", f"trace={calls}"), limit=900)
    assert ended.code == 0, ended.output
    faults, counts = [], Counter[tuple[str, str]]()
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\d+) +(\w+)\(", line)
        if not match:
            continue
        counts[match[1], match[2]] += 1
        if path := _find_path(line, folder):
            when = counts[match[1], match[2]]
            faults += [Fault(program, match[2], when, error, path) for error in ERRORS[match[2]]]
    return list(dict.fromkeys(faults))


def sample(faults: Iterable[Fault], rng: random.Random) -> Iterator[Fault]:
    """Yield faults without end, equally often for each call and each kind of file."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.call, re.sub(r"[0-9a-f]{16,}|\d+", "N", fault.path)), []).append(fault)
    while True:
        for name in rng.sample(sorted(groups), len(groups)):
            yield rng.choice(groups[name])


class Outcome(NamedTuple):
    """What a fault led to: ``missed`` if no call on the folder failed, ``success``, ``error``, or a complaint."""

    word: str
    output: str = ""


def play(fault: Fault, folder: Path, prepared: Path | None, reference: str) -> Outcome:
    """Run the program with the fault, then without, and compare its files with the reference."""
    if prepared is not None:
        shutil.copytree(prepared, folder)
    log = folder.with_suffix(".log")
    inject = f"inject={fault.call}:error={fault.error}:when={fault.when}"
    before = _strace(log, "-e", f"trace={fault.call}", "-e", inject)
    ended = harness.run(folder, program=fault.program, before=before)
    hit = any(_find_path(line, folder) for line in log.read_text(errors="replace").splitlines() if "INJECTED" in line)
    if complaint := _complain(ended):
        return Outcome(f"{complaint} ({'hit' if hit else 'missed'})", ended.output)
    again = harness.run(folder, program=fault.program)
    if again.code != 0:
        return Outcome("not resumed", f"{ended.output}\n--- again\n{again.output}")
    if fault.program in AFTER:  # nothing that the first program needs may be lost
        again = harness.run(folder, program=AFTER[fault.program])
    if again.code != 0 or harness.fingerprint(folder) != reference:
        return Outcome("not identical", f"{ended.output}\n--- again\n{again.output}")
    shutil.rmtree(folder)
    if not hit:
        return Outcome("missed")
    return Outcome("success" if ended.code == 0 else "error", ended.output)


def _complain(ended: harness.Ended) -> str:
    """Return what is wrong with the end of a program; "" if it is a success or a clear error."""
    if "Traceback" in ended.output or "Exception ignored" in ended.output:
        return "traceback"
    if ended.code not in (0, 1):
        return f"exit status {ended.code}"
    if ended.code == 1 and not re.search(r"^error: .{20}", ended.output, flags=re.MULTILINE):
        return "no message"
    return ""


def _strace(log: Path, *arguments: str) -> list[str]:
    return ["strace", "-f", "-y", "-qq", "--seccomp-bpf", "-s", "400", "-e", "signal=none", "-o", str(log), *arguments]


def _find_path(line: str, folder: Path) -> str:
    """Return the path in a recorded call that is inside the folder, relative to it; "" if there is none."""
    for path in [*re.findall(r"<([^<>]+)>", line.split(" = ")[0]), *re.findall(r'"([^"]*)"', line)]:
        absolute = Path(path) if path.startswith("/") else folder / path
        if path and absolute != folder and absolute.is_relative_to(folder) and ":" not in path:
            return absolute.relative_to(folder).as_posix()
    return ""


class References(NamedTuple):
    faults: list[Fault]
    prepared: dict[str, Path]
    fingerprints: dict[str, str]


def prepare(programs: Iterable[str], folder: Path) -> References:
    """Run each program once, recorded by strace."""
    faults, prepared, fingerprints = list[Fault](), dict[str, Path](), dict[str, str]()
    for program in programs:
        own = folder / program
        if program in AFTER:
            base = folder / AFTER[program]
            if not base.exists():
                assert harness.run(base, program=AFTER[program]).code == 0
            shutil.copytree(base, own)
            prepared[program] = base
        faults += record(program, own)
        fingerprints[program] = harness.fingerprint(own)
        print(f"{program}: {sum(fault.program == program for fault in faults)} possible faults", flush=True)
    return References(faults, prepared, fingerprints)


def inject(programs: Iterable[str], minutes: float, seed: int, jobs: int, folder: Path) -> bool:
    """Play sampled faults for this time; print each complaint and the table; return whether there is no complaint."""
    references, deadline = prepare(programs, folder), time.monotonic() + 60 * minutes
    print(f"seed {seed}", flush=True)
    table, complaints = dict[str, Counter[str]](), 0
    faults, number = sample(references.faults, random.Random(seed)), 0

    def play_next(numbered: tuple[int, Fault]) -> tuple[Fault, Outcome]:
        index, fault = numbered
        prepared, reference = references.prepared.get(fault.program), references.fingerprints[fault.program]
        return fault, play(fault, folder / f"case-{index}", prepared, reference)

    with ThreadPoolExecutor(jobs) as pool:
        while time.monotonic() < deadline:
            cases = list(enumerate(islice(faults, 2 * jobs), start=number))
            number += len(cases)
            for fault, outcome in pool.map(play_next, cases):
                table.setdefault(fault.call, Counter())[outcome.word] += 1
                if outcome.word not in ("missed", "success", "error"):
                    complaints += 1
                    print(f"{fault}: {outcome.word}\n{outcome.output}", flush=True)
    _print_table(table)
    return not complaints


def _print_table(table: Mapping[str, Counter[str]]) -> None:
    words = ["error", "success", *sorted({word for row in table.values() for word in row} - {"error", "success"})]
    print(f"\n| failed call | {' | '.join(words)} |\n|---|{'---|' * len(words)}")
    for call, row in sorted(table.items()):
        print(f"| {call}: {', '.join(ERRORS[call])} | {' | '.join(str(row[word]) for word in words)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    arguments = parser.parse_args()
    if not shutil.which("strace"):
        print("no system call was failed: this needs strace (Debian package strace)")
        return
    with tempfile.TemporaryDirectory() as folder, cheap.small_mnist():
        try:
            passed = inject(arguments.programs, arguments.minutes, arguments.seed, arguments.jobs, Path(folder))
        finally:
            cheap.remove_small_mnist()
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
