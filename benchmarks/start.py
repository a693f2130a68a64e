"""Measure the start of a training process with torch's Adam and with this project's, which imports no torch.compile.

    python benchmarks/start.py    # a minute

Each figure is the median over alternating fresh processes that import torch and run one training step of a small
student: the time until the step is done, and the peak memory. ``kd compare`` and ``kd sweep`` start such a process per
core.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tyro

import measuring

OPTIMIZERS = ("torch", "kd")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Start of a training process."""

    rounds: int = 5
    """processes per optimizer"""
    optimizer: str = ""
    """internal: run one training step with this optimizer only"""


def take_step(name: str) -> None:
    """Take one step of a small student and print the report for the parent process."""
    import torch

    from kd.models import MLP
    from kd.training.optimizers import adam

    student = MLP(256)
    if name == "torch":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(student.parameters(), lr=1e-3, fused=True)
    else:
        optimizer, _ = adam(student, learning_rate=1e-3, steps=1)
    student(torch.randn(128, 784)).sum().backward()
    optimizer.step()
    measuring.print_report()


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    if settings.optimizer:
        take_step(settings.optimizer)
        return
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in OPTIMIZERS}
    for turn in range(settings.rounds + 1):
        for name in OPTIMIZERS:
            report = measuring.run_script("start.py", f"--optimizer={name}")
            if turn:  # the first round reads the files from disk
                runs[name].append((report["process_seconds"], report["peak_rss"] / 1e6))
    rows = []
    for name, figures in runs.items():
        times, sizes = zip(*figures, strict=True)
        rows.append([name, f"{statistics.median(times):.2f}", f"{statistics.median(sizes):.0f}"])
    print(measuring.format_table(["Adam of", "seconds to the first step", "peak memory, MB"], rows))


if __name__ == "__main__":
    main()
