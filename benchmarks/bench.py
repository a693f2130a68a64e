"""Measure every speed claim in one run: against the hardware limit, a tutorial's pipeline and other libraries.

    make bench                                  # ten minutes: one epoch of the whole pipeline
    make bench-full                             # hours: all ten epochs, more rounds, and how cost grows
    python benchmarks/bench.py --out bench.json

The parts are separate scripts: epochs.py, against_others.py, image_loading.py, growth.py. Prints one table of all
contenders, then what is compared with the hardware's limit, as in docs/performance.md; ``--out`` saves every figure as
JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import against_others
import image_loading
import measuring

# Do not import torch here: this process only starts others and must not take memory or cores from them.

AIMS = {
    "teacher epoch / arithmetic bound": "at most 1.6",
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


def measure_images(rounds: int, images: int) -> image_loading.Reports:
    """Measure the loading of image files with ``image_loading.py``."""
    settings = image_loading.Settings(images=images, rounds=rounds)
    with tempfile.TemporaryDirectory() as folder:
        image_loading.prepare_images(Path(folder), images)
        return image_loading.measure(settings, Path(folder))


def format_contenders(pipeline: Mapping[str, Any], students: Mapping[str, Any], images: image_loading.Reports) -> str:
    """Format one table: a row per measurement, a column per contender; medians, with the smallest and largest."""
    rows: dict[str, dict[str, Sequence[float]]] = {
        f"whole pipeline, {pipeline['epochs']} epochs, s": _collect(pipeline["runs"], "process_seconds"),
        "peak memory, MB": {
            name: [value / 1e6 for value in values] for name, values in _collect(pipeline["runs"], "peak_rss").items()
        },
    }
    for teacher in (against_others.TEACHER_LIVE, against_others.PLAIN):
        runs = {key.partition(", ")[0]: run for key, run in students["runs"].items() if key.endswith(f", {teacher}")}
        rows[f"student epoch, {teacher}, s"] = _collect(runs, "epoch_seconds")
    for workers in dict.fromkeys(key[0] for key in images):
        for number, epoch in enumerate(("first", "second")):
            rows[f"{epoch} epoch of image files, {workers} workers, images/s"] = {
                "ours" if loader == "kd" else loader: [run["images"] / run["seconds"][number] for run in runs]
                for (count, loader), runs in images.items()
                if count == workers
            }
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    table = [[label, *(_format_spread(cells.get(name, ())) for name in names)] for label, cells in rows.items()]
    return measuring.format_table(["measured", *names], table)


def _collect(runs: Mapping[str, Sequence[Mapping[str, Any]]], figure: str) -> dict[str, Sequence[float]]:
    return {name: [float(run[figure]) for run in reports] for name, reports in runs.items()}


def _format_spread(values: Sequence[float]) -> str:
    """Format a median with the smallest and largest value."""
    if not values:
        return ""
    digits = 0 if max(values) >= 100 else 1 if max(values) >= 10 else 2
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


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
    images = measure_images(1, limit or (20_000 if arguments.full else 2_000))
    result = {
        "machine": limits["machine"],
        "epochs": limits,
        "whole_pipeline": pipeline,
        "student_epochs": students,
        "image_files": [{"workers": key[0], "loader": key[1], "reports": runs} for key, runs in images.items()],
    }
    print(format_contenders(pipeline, students, images), end="\n\n")
    print(format_summary(limits, pipeline, students), end="\n\n")
    print(measuring.format_table(["what", "takes", "against", "takes", "ratio"], limits["rows"]), end="\n\n")
    print(against_others.format_pipeline(pipeline), against_others.format_epochs(students), sep="\n\n", end="\n\n")
    print(json.dumps(result["machine"]))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
