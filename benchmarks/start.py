"""What it costs a process to begin to train: torch's Adam beside this project's, which leaves torch.compile alone.

    python benchmarks/start.py    # a minute

Each figure is the median of fresh processes, in turns, that import torch and take one step of a small student: the
time until it is taken, and the peak memory. ``kd compare`` and ``kd sweep`` start such a process for each core.
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
    """The start of a training."""

    rounds: int = 5
    """processes of each kind"""
    optimizer: str = ""
    """for the script's own processes: take one step with this one alone"""


def take_a_step(name: str) -> None:
    """One step of a small student, and the report for the process that has started this one."""
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
    measuring.report()


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    if settings.optimizer:
        take_a_step(settings.optimizer)
        return
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in OPTIMIZERS}
    for turn in range(settings.rounds + 1):
        for name in OPTIMIZERS:
            own = measuring.fresh_process("start.py", f"--optimizer={name}")
            if turn:  # the first one has read the files from disk
                found[name].append((own["process_seconds"], own["peak_rss"] / 1e6))
    rows = []
    for name, figures in found.items():
        times, sizes = zip(*figures, strict=True)
        rows.append([name, f"{statistics.median(times):.2f}", f"{statistics.median(sizes):.0f}"])
    print(measuring.table(["Adam of", "seconds to the first step", "peak memory, MB"], rows))


if __name__ == "__main__":
    main()
