"""Measure how time and memory grow with samples, classes, model size and the number of students.

    python benchmarks/growth.py --out growth.json                          # about half an hour
    python benchmarks/growth.py --quick                                    # a few small sizes, under a minute
    python benchmarks/growth.py --seconds-per-point 120 --memory-gib 40

Every size is measured in a fresh process, because the peak memory of a process never falls. Numbers without a mark are
measured. "scaled" means that part of a pass was timed and scaled up. "computed" means that the size would exceed the
budget and was not run; the number lies on the straight line through the measured sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from growth_tables import INDEX, format_tables
from measuring import print_report, run_script

GIB, MIB = 2**30, 2**20
BASE = 700 * MIB  # planning assumes this memory of Python and torch without data; the tables show the measured one
PIXELS = 28 * 28
MACHINES = (8, 16, 24, 64)  # GiB

SAMPLES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
CLASSES = (10, 100, 1_000, 10_000)
WIDTHS = (32, 128, 512, 2_048, 8_192)
STUDENTS = (1, 2, 4, 8)

Row = dict[str, Any]  # "size", the figures of growth_points, "scaled": names, "computed": bool


class Budget(NamedTuple):
    """Limits for one point; beyond them, figures are scaled or computed."""

    seconds: float
    memory: int  # bytes


def samples(budget: Budget, sizes: Sequence[int] = SAMPLES, classes: int = 10) -> list[Row]:
    """Measure collecting teacher logits and one epoch of the default student, by number of images."""
    return sweep(
        "samples", sizes, budget, lambda n: estimate_samples_memory(n, classes), classes=classes, limit=budget.seconds
    )


def classes(budget: Budget, sizes: Sequence[int] = CLASSES, images: int = 10_000) -> list[Row]:
    """Measure one epoch, the loss alone and the size of the logits, by number of classes."""
    return sweep(
        "classes", sizes, budget, lambda k: estimate_classes_memory(k, images), images=images, limit=budget.seconds
    )


def widths(budget: Budget, sizes: Sequence[int] = WIDTHS) -> list[Row]:
    """Measure one step, parameters and one snapshot, by the student's hidden units."""
    return sweep("widths", sizes, budget, estimate_width_memory, limit=budget.seconds)


def students(budget: Budget, sizes: Sequence[int] = STUDENTS, images: int = 20_000, epochs: int = 10) -> dict[str, Any]:
    """Measure students in ``sequence`` and in a ``pool`` of single-threaded processes, one per core."""
    cores, memory = os.cpu_count() or 1, estimate_samples_memory(images, 10)
    work: dict[str, Any] = {"images": images, "epochs": epochs}
    one_by_one = sweep("sequence", sizes, budget, lambda _: memory, **work)
    pooled = sweep("pool", sizes, budget, lambda n: min(n, cores) * memory, **work, workers=cores)
    for row in pooled:
        row["peak_bytes"] = row["worker_bytes"] * min(row["size"], cores)
    return {**work, "cores": cores, "sequence": one_by_one, "pool": pooled}


def estimate_samples_memory(count: int, classes: int) -> int:
    """Return the peak bytes of ``samples``: images, labels of both datasets, logits, an epoch's indices."""
    return BASE + count * (PIXELS + 8 + 8 + INDEX) + count_logits_bytes(count, classes)


def estimate_classes_memory(count: int, images: int) -> int:
    """Return the peak bytes of ``classes``: data, logits, and the last layer's weights, gradient and Adam moments."""
    return BASE + images * (PIXELS + 8) + count_logits_bytes(images, count) + 4 * 4 * 256 * count


def estimate_width_memory(width: int) -> int:
    """Return the peak bytes of ``widths``: weights, gradients, two moments, and a snapshot file in memory twice."""
    return BASE + 4 * (PIXELS + 11) * width * (4 + 2 * 3)


def count_logits_bytes(count: int, classes: int) -> int:
    """Return the bytes of float32 logits of ``count`` samples."""
    return count * classes * 4


def sweep(
    kind: str,
    sizes: Sequence[int],
    budget: Budget,
    estimate_memory: Callable[[int], int],
    *,
    measure: Callable[..., Row] | None = None,
    **settings: Any,
) -> list[Row]:
    """Measure every size in a fresh process, smallest first; compute sizes that would exceed the budget.

    Raises:
        ValueError: fewer than two sizes fit into memory, so there is no line to compute others from.
    """
    rows: list[Row] = []
    for size in sizes:
        measured = [row for row in rows if not row["computed"]]
        predicted = predict_on_line(measured, "fixed_seconds", size) if len(measured) > 1 else 0.0
        if estimate_memory(size) <= budget.memory and predicted <= budget.seconds:
            point = (measure or _measure_point)(kind, size=size, **settings)
            rows.append({"size": size, "computed": False, **point})
        elif len(measured) > 1:
            rows.append(compute_row(measured, size))
        else:
            raise ValueError(
                f"{kind}: at least two sizes must be measured to compute the others, but size {size:,} needs "
                f"{estimate_memory(size) / GIB:.2f} GiB of {budget.memory / GIB:.2f} GiB. Raise --memory-gib."
            )
    return rows


def _measure_point(kind: str, **settings: Any) -> Row:
    print(" ".join([kind, *([f"{settings['size']:,}"] if settings else []), "…"]), file=sys.stderr, flush=True)
    return run_script("growth.py", "--point", json.dumps({"kind": kind, **settings}))


def compute_row(measured: Sequence[Row], size: int) -> Row:
    """Return a row for a size that was not run: each figure on the straight line through the measured rows."""
    figures = [
        name for name, value in measured[-1].items() if isinstance(value, (int, float)) and name not in _NOT_FIGURES
    ]
    return {
        "size": size,
        "computed": True,
        "scaled": [],
        **{name: predict_on_line(measured, name, size) for name in figures},
    }


_NOT_FIGURES = ("size", "computed")


def predict_on_line(rows: Sequence[Row], figure: str, size: int) -> float:
    """Return the figure at this size on the least-squares line through the rows (at least two)."""
    slope, intercept = statistics.linear_regression([row["size"] for row in rows], [row[figure] for row in rows])
    return float(intercept + slope * size)


def compute_limits() -> list[Row]:
    """Compute the memory of logits, and how many samples' logits fit into a machine, for some numbers of classes."""
    sets = {"MNIST": 60_000, "ImageNet-1k": 1_281_167, "ImageNet-21k": 14_197_122}
    return [
        {
            "classes": k,
            "sets": {f"{name}, {n:,}": count_logits_bytes(n, k) for name, n in sets.items()},
            "samples": {gib: gib * GIB // count_logits_bytes(1, k) for gib in MACHINES},
        }
        for k in (10, 1_000, 21_841)
    ]


def main() -> None:
    """Measure the requested parts and print the tables of docs/performance.md."""
    arguments = _parse_arguments()
    if arguments.point:
        _run_point(json.loads(arguments.point))
        return
    budget = Budget(arguments.seconds_per_point, int(arguments.memory_gib * GIB))
    options = _QUICK if arguments.quick else {}
    results = {
        "machine": _measure_point("this_machine"),
        "budget": budget._asdict(),
        **{
            name: function(budget, **options.get(name, {}))
            for name, function in _PARTS.items()
            if name in arguments.parts
        },
        "limits": compute_limits(),
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(format_tables(results))


_PARTS: dict[str, Callable[..., Any]] = {"samples": samples, "classes": classes, "widths": widths, "students": students}
_QUICK: dict[str, dict[str, Any]] = {
    "samples": {"sizes": (1_000, 10_000)},
    "classes": {"sizes": (10, 1_000), "images": 1_000},
    "widths": {"sizes": (32, 256)},
    "students": {"sizes": (1, 2), "images": 2_000, "epochs": 2},
}


def _run_point(settings: dict[str, Any]) -> None:
    import growth_points  # here, because it imports torch, which the parent must not

    print_report(**getattr(growth_points, settings.pop("kind"))(**settings))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 / GIB
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--quick", action="store_true", help="a few small sizes, 2 seconds each")
    parser.add_argument("--seconds-per-point", type=float, help="default: 60; with --quick 2")
    parser.add_argument(
        "--memory-gib", type=float, default=half, help=f"default: half of the machine's memory, {half:.1f}"
    )
    parser.add_argument("--out", type=Path, help="JSON file for all rows")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.seconds_per_point = arguments.seconds_per_point or (2 if arguments.quick else 60)
    return arguments


if __name__ == "__main__":
    main()
