"""Formats of ``kd export`` for three students: gate, accuracy, agreement, size and latency.

    python benchmarks/export_formats.py --out exported          # full training: about an hour on 2 cores
    python benchmarks/export_formats.py --out exported --limit 500 --epochs 1

Trains MNIST's student, a narrow CNN and a student from timm on MNIST by ``kd run``, exports each to all formats, and
prints one table in Markdown. Finished runs in OUT are reused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from kd.console import say
from kd.deploy.formats import FILES
from kd.storage.environment import environment

STUDENTS = {"MNIST's student": "mlp:256", "narrow CNN": "cnn:2", "timm student": "timm:mobilenetv3_small_050"}
HEADER = "| student | file | gate | accuracy | agreement | bytes | 1 input, ms | 128 inputs, ms |\n|" + "---|" * 8


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Formats of kd export for three students.")
    parser.add_argument("--out", type=Path, default=Path("exported"))
    parser.add_argument("--threads", type=int, default=1)
    options, flags = parser.parse_known_args(arguments)  # further flags are those of kd run
    rows = [row for name, spec in STUDENTS.items() for row in _export(name, spec, options.out, options.threads, flags)]
    machine = environment()["processor"]
    say("\n".join([HEADER, *rows, f"\nTimes: medians on {options.threads} thread(s), {machine}."]))


def _export(name: str, spec: str, out: Path, threads: int, flags: list[str]) -> list[str]:
    folder = out / spec.partition(":")[0]
    _kd("run", "--student", spec, "--out", str(folder), *flags, check=True)
    _kd("export", "--out", str(folder), "--threads", str(threads), "--formats", *FILES)  # fails if a gate does
    content = json.loads((folder / "export" / "manifest.json").read_bytes())
    rows = [_format_row(name, file, entry) for file, entry in content["models"].items()]
    failed = [f"| {name} | {FILES[kind]} | failed: {reason} | | | | | |" for kind, reason in content["failed"].items()]
    return [*rows, *failed]


def _kd(*arguments: str, check: bool = False) -> None:
    subprocess.run([sys.executable, "-m", "kd", *arguments], check=check)


def _format_row(name: str, file: str, entry: dict[str, Any]) -> str:
    parity = entry["parity"]
    times = " | ".join(f"{1000 * timing['median']:.3g}" for timing in parity["latency_seconds"])
    accuracy, agreement = f"{entry['test']['accuracy']:.2%}", f"{parity['agreement']:.2%}"
    return f"| {name} | {file} | passed | {accuracy} | {agreement} | {entry['bytes']:,} | {times} |"


if __name__ == "__main__":
    main(sys.argv[1:])
