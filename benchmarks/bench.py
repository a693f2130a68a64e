"""Measure every speed claim in one run: against the hardware limit, a tutorial's pipeline and other libraries.

    make bench                                  # ten minutes: one epoch of the whole pipeline
    make bench-full                             # hours: all ten epochs, more rounds, and how cost grows
    python benchmarks/bench.py --out bench.json

The parts are separate scripts: epochs.py, against_others.py, growth.py. Prints the Markdown tables of
docs/performance.md; ``--out`` saves every figure as JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import against_others
import measuring

# Do not import torch here: this process only starts others and must not take memory or cores from them.

AIMS = {
    "teacher epoch / arithmetic bound": "at most 2.0",
    "student epoch, control / bare loop": "at most 1.25",
    "student epoch, distilled / control epoch": "at most 1.15",
    "student epoch, control / without validation and metrics": "at most 1.11 (a tenth)",
    "caching teacher logits / bare forward pass": "at most 1.05",
    "whole pipeline, obvious / ours": "at least 4",
    "peak memory, ours / obvious": "at most 1",
    "student epoch, obvious / ours": "at least 10",
    "beyond training, ours": "at most 10 s",
}


def measure_epochs(rounds: int, limit: int | None) -> dict[str, Any]:
    """Run ``epochs.py`` in a fresh process."""
    sizes = () if limit is None else ("--limit", str(limit))
    return measuring.run_script("epochs.py", "--rounds", str(rounds), *sizes)


def time_beyond_training(pipeline: Mapping[str, Any], contender: str) -> float:
    """Return a process's seconds outside training and teacher logits: start, data, evaluation, plots, saving."""
    parts = pipeline["parts"][contender]
    return float(pipeline["seconds"][contender] - sum(parts[name] for name in ("teacher", "control", "distilled")))


def format_summary(limits: Mapping[str, Any], pipeline: Mapping[str, Any], students: Mapping[str, Any]) -> str:
    """Format each measurement next to its aim."""
    plain = students["epoch_seconds"][against_others.PLAIN]
    memory = pipeline["peak_rss"]
    measured = {f"{row[0]} / {row[2]}": row[4] for row in limits["rows"]} | {
        "whole pipeline, obvious / ours": f"{pipeline['ratio']['obvious']:.2f}",
        "peak memory, ours / obvious": f"{memory['ours'] / memory['obvious']:.2f}",
        "student epoch, obvious / ours": f"{plain['obvious'] / plain['ours']:.2f}",
        "beyond training, ours": f"{time_beyond_training(pipeline, 'ours'):.1f} s",
    }
    assert measured.keys() >= AIMS.keys(), "every aim needs a measurement"
    rows = [[name, figure, AIMS.get(name, "")] for name, figure in measured.items()]
    return measuring.format_table(["what", "measured", "aim"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="ten epochs, five rounds and cached logits")
    parser.add_argument("--rounds", type=int, default=None, help="runs of each contender (default: 3, with --full 5)")
    parser.add_argument("--limit", type=int, default=None, help="train on the first N images only, to try the script")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for all measurements")
    arguments = parser.parse_args()
    rounds, limit = arguments.rounds or (5 if arguments.full else 3), arguments.limit
    limits = measure_epochs(rounds, limit)
    pipeline = against_others.measure_pipeline(rounds, 10 if arguments.full else 1, limit, cached=arguments.full)
    students = against_others.measure_student_epochs(rounds, limit=limit if arguments.full else limit or 12_800)
    result = {
        "machine": limits["machine"],
        "epochs": limits,
        "whole_pipeline": pipeline,
        "student_epochs": students,
    }
    print(format_summary(limits, pipeline, students), end="\n\n")
    print(measuring.format_table(["what", "takes", "against", "takes", "ratio"], limits["rows"]), end="\n\n")
    print(against_others.format_pipeline(pipeline), against_others.format_epochs(students), sep="\n\n", end="\n\n")
    print(json.dumps(result["machine"]))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
