"""Every benchmark that the docs name completes a quick run."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

import config

BENCHMARKS = Path(config.__file__).parent / "benchmarks"

SCRIPTS = {
    "compare_cost.py": "--pairs 2 --epochs 1 --rounds 1 --limit 600",
    "default_pair.py": "--limit 600 --epochs 1 --seeds 0-1 --widths 8 --out {folder}/pair.json",
    "export_formats.py": "--students mlp cnn --limit 300 --epochs 1 --out {folder}/exported",
    "fixed_cost.py": "--rounds 1 --limit 300 --all-images 300",
    "image_loading.py": "--images 40 --rounds 1 --workers 1 --loaders kd torchvision timm",
    "many_students.py": "--limit 600 --epochs 1 --students 2 --widths 8 --rounds 1",
    "method_costs.py": "--methods kd fitnet --rounds 1 --steps 1 --out {folder}/costs.json",
    "snapshots.py": "--writes 2 --folder {folder}",
    "start.py": "--rounds 1",
    "teacher_size.py": "--seeds 1 --epochs 1 --limit 600 --sizes 4,4,4 8,8,8",
    "teacher_step.py": "--rounds 2",
}


def run(script: str, *arguments: str | Path) -> str:
    """Run a benchmark and return its output."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_completes_a_quick_run(script: str, tmp_path: Path) -> None:
    arguments = SCRIPTS[script].format(folder=tmp_path).split()
    assert run(script, *arguments).strip()
    for flag, value in itertools.pairwise(arguments):
        assert flag != "--out" or Path(value).stat().st_size


@pytest.mark.slow
def test_bench_prints_every_table_in_a_quick_run(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    printed = run("bench.py", "--rounds", "1", "--limit", "600", "--out", out)
    headings = (
        "| measured | obvious | ours |",
        "| what | measured | aim |",
        "| what | takes |",
        "| contender | seconds",
        "| teacher | contender",
    )
    assert all(heading in printed for heading in headings)
    assert printed.count("at most") >= 6
    assert set(json.loads(out.read_text())) == {"machine", "epochs", "whole_pipeline", "student_epochs", "image_files"}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ["3-3", "4"])
def test_the_default_pair_needs_two_seeds_before_training(seeds: str, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "default_pair.py"), "--seeds", seeds, "--out", str(tmp_path / "x.json")]
    process = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert process.returncode == 2
    assert f"argument --seeds: '{seeds}' must be FIRST-LAST with at least two seeds" in process.stderr
