"""Detection of other programs on the same cores. Only advice is printed; training does not change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kd.console import say
from kd.training.history import History

_STAT = Path("/proc/stat")
_printed: list[str] = []  # advice that this process has printed
_NOTABLE_CORES = 0.3  # cores; less is normal background load


def machine_seconds() -> float | None:
    """Return the core seconds used by all programs since boot, including steal time reported by the host.

    None if not available; only Linux provides it.
    """
    try:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, _STAT.read_text().split(maxsplit=9)[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class OtherPrograms:
    """Average number of cores kept busy by other programs since this object was created."""

    def __init__(self) -> None:
        self._started, self._seconds_at_start = time.monotonic(), self._other_seconds()

    def cores(self) -> float:
        """Return the average number of cores; 0.0 if unknown."""
        before, now, elapsed = self._seconds_at_start, self._other_seconds(), time.monotonic() - self._started
        return 0.0 if before is None or now is None or elapsed <= 0 else max(0.0, (now - before) / elapsed)

    @staticmethod
    def _other_seconds() -> float | None:
        machine, process = machine_seconds(), os.times()
        return None if machine is None else machine - process.user - process.system


def format_advice(*, busy: float, threads: int, cores: int) -> str | None:
    """Return advice if other programs slow this process down, else None.

    At the end of a matrix product all threads spin until the last one is done, so a thread that shares its core delays
    the others.

    Args:
        busy: cores kept busy by other programs.
    """
    free = max(1, round(cores - busy))
    if threads == 1 or busy < _NOTABLE_CORES or threads <= cores - busy + _NOTABLE_CORES:
        return None
    return (
        f"other programs keep {busy:.1f} of {cores} cores busy, so PyTorch's {threads} threads wait for each other: "
        f"training can take several times as long. End them, or restart with OMP_NUM_THREADS={free}."
    )


def advise_on_contention(on_epoch: Callable[[int, History], None]) -> Callable[[int, History], None]:
    """Return a hook that calls ``on_epoch``, then prints advice, once per process, if other programs interfere."""
    other_programs = OtherPrograms()

    def with_advice(done: int, history: History) -> None:
        on_epoch(done, history)
        hint = format_advice(busy=other_programs.cores(), threads=torch.get_num_threads(), cores=os.cpu_count() or 1)
        if hint and not _printed:
            say(f"note: {hint}")
            _printed.append(hint)

    return with_advice
