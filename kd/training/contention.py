"""Other programs on the same cores: noticed and told, never acted on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kd.console import say
from kd.training.history import History

_STAT = Path("/proc/stat")
_printed: list[str] = []
_NOTABLE_CORES = 0.3  # cores; below it the ordinary rustle of a system


def machine_seconds() -> float | None:
    """Core seconds that all programs of this machine (and its host, as far as it tells) have taken since it started.

    None where the system does not say (only Linux does).
    """
    try:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, _STAT.read_text().split(maxsplit=9)[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class OtherPrograms:
    """How many cores other programs keep busy, on average from the moment this is made."""

    def __init__(self) -> None:
        self._started, self._others = time.monotonic(), self._other_seconds()

    def cores(self) -> float:
        """0.0 where it cannot be known."""
        before, now, elapsed = self._others, self._other_seconds(), time.monotonic() - self._started
        return 0.0 if before is None or now is None or elapsed <= 0 else max(0.0, (now - before) / elapsed)

    @staticmethod
    def _other_seconds() -> float | None:
        machine, own = machine_seconds(), os.times()
        return None if machine is None else machine - own.user - own.system


def format_advice(*, busy: float, threads: int, cores: int) -> str | None:
    """What to do where so many cores are busy elsewhere; None where nothing is in the way.

    The threads of a matrix product wait for each other at its end, spinning: one that has to share its core
    holds up all of them.
    """
    free = max(1, round(cores - busy))
    if threads == 1 or busy < _NOTABLE_CORES or threads <= cores - busy + _NOTABLE_CORES:
        return None
    return (
        f"other programs keep {busy:.1f} of {cores} cores busy, and PyTorch's {threads} threads wait for each other: "
        f"this can take several times as long. End them, or start this anew with OMP_NUM_THREADS={free}."
    )


def advise_on_contention(on_epoch: Callable[[int, History], None]) -> Callable[[int, History], None]:
    """The same hook, followed by advice, once in a process, if other programs were in the way until then."""
    others = OtherPrograms()

    def with_advice(done: int, history: History) -> None:
        on_epoch(done, history)
        hint = format_advice(busy=others.cores(), threads=torch.get_num_threads(), cores=os.cpu_count() or 1)
        if hint and not _printed:
            say(f"note: {hint}")
            _printed.append(hint)

    return with_advice
