"""Formats of ``kd export`` for three students: gate, accuracy, agreement, size and latency.

    python benchmarks/export_formats.py --out exported
    python benchmarks/export_formats.py --out exported --students mlp cnn --limit 500    # quick trial

Trains MNIST's student, a narrow CNN and a student from timm on MNIST by ``kd run`` from one teacher, exports each to
all formats, and prints one table in Markdown. Finished runs in OUT are reused.
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
from kd.deploy.manifest import read_manifest
from kd.storage.environment import environment

STUDENTS = {
    "mlp": ("MNIST's student", ("--student", "mlp:256")),
    "cnn": ("narrow CNN", ("--student", "cnn:2")),
    # An epoch takes more than a minute on a core.
    "timm": ("timm student, 3 epochs", ("--student", "timm:mobilenetv3_small_050", "--epochs", "3")),
}
HEADER = "| student | file | gate | accuracy | agreement | bytes | 1 input, ms | 128 inputs, ms |\n|" + "---|" * 8


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Formats of kd export for three students.")
    parser.add_argument("--out", type=Path, default=Path("exported"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    options, flags = parser.parse_known_args(arguments)  # further flags are those of kd run, and come last
    rows: list[str] = []
    for student in options.students:
        name, settings = STUDENTS[student]
        folder = options.out / student
        teacher = _teacher_of(options.out / options.students[0]) if rows else []  # trained for the first student
        _kd("run", *settings, "--out", str(folder), *teacher, *flags, check=True)
        rows += _export(name, folder, options.threads)
    machine = environment()["processor"]
    say("\n".join([HEADER, *rows, f"\nTimes: medians on {options.threads} thread(s), {machine}."]))


def _teacher_of(folder: Path) -> list[str]:
    """Return the flags that take the teacher of a run."""
    file = read_manifest(folder).model("teacher_model")
    return ["--teacher", f"{file.architecture}={folder / 'models' / file.file}"]


def _export(name: str, folder: Path, threads: int) -> list[str]:
    _kd("export", "--out", str(folder), "--threads", str(threads), "--formats", *FILES)  # fails if a gate does
    content = json.loads((folder / "export" / "manifest.json").read_bytes())
    accuracy = content["pytorch"]["test"]["accuracy"]
    rows = [f"| {name} | PyTorch | | {accuracy:.2%} | | | | |"]
    rows += [_format_row(name, file, entry) for file, entry in content["models"].items()]
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
