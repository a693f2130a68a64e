"""Utilities of the benchmarks: alternating rounds, fresh processes with their peak memory, machine, tables."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def describe_machine() -> dict[str, Any]:
    """Describe the machine that the numbers come from."""
    import torch  # here, because a parent must not: on Linux its peak memory would be the minimum of its children's

    return {
        "system": platform.platform(),
        "processor": _find_processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }


def _find_processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def alternate(contenders: Mapping[str, Callable[[], float]], *, rounds: int, warm_up: int = 1) -> dict[str, float]:
    """Run every contender once per round and return the median of its figure (usually seconds) over the rounds.

    Contenders alternate because a machine's speed drifts: compared figures are measured within seconds of each other.
    """
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm_up + rounds):
        for name, contender in contenders.items():
            figure = contender()
            if turn >= warm_up:
                figures[name].append(figure)
    return {name: statistics.median(values) for name, values in figures.items()}


def time_call(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def run_script(script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a script of this folder in a fresh process; return the JSON object of its last line, with its wall time."""
    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
    started = time.perf_counter()
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | dict(environment or {})
    )
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with status {process.returncode}:\n{process.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(process.stdout.rstrip().rsplit("\n", 1)[-1])
    return {"process_seconds": time.perf_counter() - started, **figures}


def peak_rss() -> int:
    """Return this process's peak memory so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss starts at the parent's peak
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line[:6] == "VmHWM:")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def print_report(**figures: Any) -> None:
    """Print the JSON line that ``run_script`` reads: a script's figures and its peak memory."""
    print(json.dumps({**figures, "peak_rss": peak_rss()}))


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, as in docs/performance.md."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
