"""Compare the time of ``kd compare`` with the bare training of its students on all cores.

    python benchmarks/compare_cost.py --epochs 2     # 4 minutes on 2 cores
    python benchmarks/compare_cost.py --epochs 10    # 15 minutes

The teacher and its logits are there before. *Bare* is the time of the same epochs in bare loops over tensors in memory
(contenders/bare_students.py), one single-threaded process per core, measured while all cores are busy: no import, no
data, no validation, no predictions, no snapshots, no statistics, no figures. The last line has all figures as JSON.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tyro

import measuring
from fixed_cost import run_python
from kd.devices import usable_cores

ARMS = ("control", "smoothed", "distilled")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Time of kd compare against its students' bare training."""

    pairs: int = 10
    epochs: int = 2
    """epochs of every model"""
    rounds: int = 3
    limit: int | None = None
    """train on the first N images only, to try the script"""


def list_flags(settings: Settings) -> list[str]:
    return ["--epochs", str(settings.epochs), *([] if settings.limit is None else ["--limit", str(settings.limit)])]


def time_compare(settings: Settings, trained: Path, folder: Path) -> float:
    """Return the seconds of ``kd compare`` in a copy of a folder in which the teacher is trained."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained, folder)
    words = ["-m", "kd", "compare", "--pairs", str(settings.pairs), "--smoothing", "0.1", "--no-longer"]
    return measuring.time_call(lambda: run_python(*words, *list_flags(settings), "--out", str(folder)))


def time_bare(settings: Settings) -> float:
    """Return the seconds in which all cores train the students in bare loops."""
    limit = [] if settings.limit is None else ["--limit", str(settings.limit)]
    cores = usable_cores()
    with ThreadPoolExecutor(cores) as pool:
        jobs = [pool.submit(measuring.run_script, "contenders/bare_students.py", *limit) for _ in range(cores)]
    epochs = [sum(float(job.result()[arm]) for arm in ARMS) for job in jobs]
    return settings.pairs * settings.epochs * sum(epochs) / cores / cores


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_python("-m", "kd", "run", *list_flags(settings), "--out", str(folder / "trained"))
        contenders = {
            "compare": partial(time_compare, settings, folder / "trained", folder / "compared"),
            "bare": partial(time_bare, settings),
        }
        seconds = measuring.alternate(contenders, rounds=settings.rounds, warm_up=0)
    ratio = seconds["compare"] / seconds["bare"]
    numbers = [f"{seconds[name]:.1f}" for name in ("compare", "bare")]
    cells = [str(settings.pairs), str(settings.epochs), *numbers, f"{ratio:.2f}"]
    print(measuring.format_table(["pairs", "epochs", "kd compare, s", "bare, s", "ratio"], [cells]))
    measuring.print_report(seconds=seconds, rounds=settings.rounds, machine=measuring.describe_machine())


if __name__ == "__main__":
    main()
