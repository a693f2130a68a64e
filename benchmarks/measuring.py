"""What the benchmarks share: alternating rounds, fresh processes with their peak memory, machine, table form."""

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


def machine() -> dict[str, Any]:
    """What a reader needs to know of where the numbers come from."""
    import torch  # here: a parent that only starts processes has no use for it

    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def alternating(contenders: Mapping[str, Callable[[], float]], *, rounds: int, warm_up: int = 1) -> dict[str, float]:
    """The median of each contender's own figure (seconds, usually) over the rounds; in each round every one has a turn.

    Alternating, because a machine's speed drifts: what is compared is measured within seconds of each other.
    """
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm_up + rounds):
        for name, contender in contenders.items():
            figure = contender()
            if turn >= warm_up:
                figures[name].append(figure)
    return {name: statistics.median(values) for name, values in figures.items()}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fresh_process(script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a script of this folder in a process of its own; the JSON object on its last line, with its wall time."""
    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | dict(environment or {})
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.rstrip().rsplit("\n", 1)[-1])
    return {"process_seconds": time.perf_counter() - started, **answer}


def peak_rss() -> int:
    """The most memory this process has held so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux the other figure starts at the peak of the process that started this one
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line[:6] == "VmHWM:")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report(**figures: Any) -> None:
    """A script's last line, for ``fresh_process``: its figures, and the memory it took."""
    print(json.dumps({**figures, "peak_rss": peak_rss()}))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, as it stands in docs/performance.md."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
