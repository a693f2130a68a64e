"""Measure what the commands cost besides training, relative to the time of ``import torch``.

    python benchmarks/fixed_cost.py    # two minutes, and once the training of a run with all images

Each figure is the median wall time over alternating fresh processes. The run with all images is trained once, for one
epoch, and then only repeated: nothing has changed, so a repetition trains nothing. The last line has all figures as
JSON.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tyro

import measuring

TORCH = "import torch"
# Largest ratio to the time of ``import torch``.
AIMS = {
    "kd --help": 0.1,
    "kd run --dry-run": 1.5,
    "quick run": 3.0,
    "quick run, repeated": 1.8,
    "run with all images, repeated": 1.8,
    "kd report": 1.5,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Fixed cost of the commands."""

    rounds: int = 5
    """timed processes of each kind"""
    limit: int = 2000
    """images of the quick run, trained for one epoch"""
    all_images: int | None = None
    """images of the run with all images: fewer to try the script"""


def run_python(*arguments: str) -> None:
    """Run the interpreter and wait for its end; raise ``RuntimeError`` if it fails."""
    process = subprocess.run([sys.executable, *arguments], cwd=measuring.ROOT, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{process.stderr[-2000:]}")


def time_quick_run(folder: Path, train: tuple[str, ...]) -> float:
    """Return the seconds of a run in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return measuring.time_call(partial(run_python, *train, "--out", str(folder)))


def list_contenders(settings: Settings, folder: Path) -> dict[str, Callable[[], float]]:
    """Return a function per figure that runs one process and returns its seconds."""
    train = ("-m", "kd", "run", "--epochs", "1")
    quick = (*train, "--limit", str(settings.limit))
    whole = (*train, *(() if settings.all_images is None else ("--limit", str(settings.all_images))))
    commands = {
        TORCH: ("-c", "import torch"),
        "kd --help": ("-m", "kd", "--help"),
        "kd run --dry-run": (*whole, "--dry-run", "--out", str(folder / "none")),
        "quick run, repeated": (*quick, "--out", str(folder / "quick")),
        "run with all images, repeated": (*whole, "--out", str(folder / "whole")),
        "kd report": ("-m", "kd", "report", "--out", str(folder / "whole")),
    }
    run_python(*commands["run with all images, repeated"])
    timed = {name: partial(measuring.time_call, partial(run_python, *words)) for name, words in commands.items()}
    # First in each round: its folder is the one that "quick run, repeated" uses.
    return {"quick run": partial(time_quick_run, folder / "quick", quick), **timed}


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        seconds = measuring.alternate(list_contenders(settings, Path(folder)), rounds=settings.rounds)
    rows = [[TORCH, f"{seconds[TORCH]:.2f}", "", ""]]
    for name, aim in AIMS.items():
        rows.append([name, f"{seconds[name]:.2f}", f"{seconds[name] / seconds[TORCH]:.2f}", f"{aim:g}"])
    print(measuring.format_table(["process", "seconds", "ratio to import torch", "aim: at most"], rows))
    measuring.print_report(seconds=seconds, aims=AIMS, rounds=settings.rounds, machine=measuring.describe_machine())


if __name__ == "__main__":
    main()
