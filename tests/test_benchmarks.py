"""Every script that a page names runs, at toy size, to its last line."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import config

BENCHMARKS = Path(config.__file__).parent / "benchmarks"

SCRIPTS = {
    "default_pair.py": "--limit 600 --epochs 1 --seeds 0-1 --widths 8 --out {folder}/pair.json",
    "many_students.py": "--limit 600 --epochs 1 --students 2 --widths 8 --rounds 1",
    "method_costs.py": "--methods kd fitnet --rounds 1 --steps 1 --out {folder}/costs.json",
    "snapshots.py": "--writes 2 --folder {folder}",
    "start.py": "--rounds 1",
    "teacher_step.py": "--rounds 2",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_runs_to_its_end(script: str, tmp_path: Path) -> None:
    arguments = SCRIPTS[script].format(folder=tmp_path).split()
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    for place, value in itertools.pairwise(arguments):
        assert place != "--out" or Path(value).stat().st_size
