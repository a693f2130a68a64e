"""Check the toolkit on one CUDA device against the CPU, then measure training steps there. At most 8 minutes.

    python3 benchmarks/gpu.py          # needs only torch, numpy and scipy, no network and no installation
    python3 benchmarks/gpu.py --cpu    # the same script at toy size on a CPU, in a minute; parts that need CUDA say so

Prints a line for each check and a table for each measurement; ``--out FILE`` writes all figures as JSON. The exit
status is 1 if a check fails. Parts for which the time does not suffice are left out, which is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import kd
from gpu_checks import CHECKS, Outcome, Setup
from gpu_times import check_syncs, count_method_syncs, time_logits, time_student, time_teacher
from kd.data.splits import stratified_split
from measuring import describe_machine

CHECKED_IMAGES = 2000  # of which a tenth is for validation


class Part(NamedTuple):
    """A part of the script.

    Attributes:
        seconds: time that it may take on a GPU; it is left out if less is left.
    """

    run: Callable[[], Outcome]
    seconds: float


def list_parts(device: torch.device, *, toy: bool) -> dict[str, Part]:
    """Return the parts by name: checks on a few images, then measurements on all images, or on few ones (``toy``)."""
    mnist = kd.load_mnist(train=True)
    small = Setup(device, *stratified_split(mnist, held_back=0.1, seed=0, limit=CHECKED_IMAGES))
    large = small if toy else Setup(device, *stratified_split(mnist, held_back=0.1, seed=0))
    size = {"steps": 5, "rounds": 1} if toy else {"steps": 200, "rounds": 9}
    return {
        **{name: Part(partial(check, small), seconds) for name, (check, seconds) in CHECKS.items()},
        "host syncs": Part(partial(check_syncs, large), 20),
        "host syncs of methods": Part(partial(count_method_syncs, small), 30),
        "student step": Part(partial(time_student, large, **size), 90),
        "teacher step": Part(partial(time_teacher, large, **size), 90),
        "teacher logits": Part(partial(time_logits, large, **size), 20),
    }


def run_part(part: Part) -> Outcome:
    """Run a part; an exception is a failure, after which the script continues."""
    try:
        return part.run()
    except Exception as error:
        return Outcome(False, f"{type(error).__name__}: {error}")


def describe_device(device: torch.device) -> dict[str, Any]:
    """Describe the machine and its GPU."""
    machine = describe_machine()
    if device.type != "cuda":
        return machine
    card, query = torch.cuda.get_device_properties(device), ["--query-gpu=driver_version", "--format=csv,noheader"]
    program = shutil.which("nvidia-smi")
    driver = subprocess.run([program, *query], capture_output=True, text=True, check=False).stdout if program else ""
    return machine | {
        "card": card.name,
        "memory": card.total_memory,
        "capability": f"{card.major}.{card.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": driver.strip() or "unknown",
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="toy size on the CPU, to test the script without a GPU")
    parser.add_argument("--budget", type=float, default=480, help="seconds for the whole script (default: 480)")
    parser.add_argument("--out", type=Path, help="JSON file with all figures")
    return parser.parse_args()


def main() -> int:
    started, arguments = time.perf_counter(), parse_arguments()
    if not arguments.cpu and not torch.cuda.is_available():
        print(f"error: torch {torch.__version__} finds no CUDA device here. --cpu tests the script.", file=sys.stderr)
        return 2
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; needed for determinism
    if arguments.cpu:
        torch.set_num_threads(1)  # more would wait for each other if other programs use the cores
    device = torch.device("cpu" if arguments.cpu else "cuda")
    report: dict[str, Any] = {"machine": describe_device(device), "parts": {}, "left_out": []}
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()), flush=True)
    for name, part in list_parts(device, toy=arguments.cpu).items():
        part_started = time.perf_counter()
        if part_started - started + part.seconds > arguments.budget:
            print(f"left out  {name}: it may take {part.seconds:g} s, longer than is left", flush=True)
            report["left_out"].append(name)
            continue
        ok, text, figures = run_part(part)
        seconds = time.perf_counter() - part_started
        state = {True: "ok", False: "FAILED", None: "skipped"}[ok]
        print(f"{state:8}  {name}: {text} ({seconds:.1f} s)", flush=True)
        report["parts"][name] = {"ok": ok, "text": text, "figures": dict(figures), "seconds": seconds}
    failed = [name for name, part in report["parts"].items() if part["ok"] is False]
    report["seconds"] = time.perf_counter() - started
    print(f"{len(failed)} of {len(report['parts'])} parts failed, {report['seconds']:.0f} s in total")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
