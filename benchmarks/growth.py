"""How cost grows: time and memory with samples, classes, model size and the number of students.

    python benchmarks/growth.py --out growth.json                          # about half an hour
    python benchmarks/growth.py --quick                                    # a few small sizes, under a minute
    python benchmarks/growth.py --seconds-per-point 120 --memory-gib 40

Every size is measured in a process of its own, so that its peak memory is its own. A number without a mark is
measured. "scaled": a part of the pass was timed, and scaled up to the whole. "computed": the size was not run, because
it would exceed the budget; the number is on the straight line through the sizes that were.
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

from growth_tables import INDEX, tables
from measuring import fresh_process, report

GIB, MIB = 2**30, 2**20
BASE = 700 * MIB  # Python and torch before any data, to plan with; what it really is is measured
PIXELS = 28 * 28
MACHINES = (8, 16, 24, 64)  # GiB

SAMPLES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
CLASSES = (10, 100, 1_000, 10_000)
WIDTHS = (32, 128, 512, 2_048, 8_192)
STUDENTS = (1, 2, 4, 8)

Row = dict[str, Any]  # "size", the figures of growth_points, "scaled": names, "computed": bool


class Budget(NamedTuple):
    """What one point may take; what would take more is scaled or computed."""

    seconds: float
    memory: int  # bytes


def samples(budget: Budget, sizes: Sequence[int] = SAMPLES, classes: int = 10) -> list[Row]:
    """Collecting teacher logits and one epoch of the default student, by the number of images."""
    return sweep("samples", sizes, budget, lambda n: samples_need(n, classes), classes=classes, limit=budget.seconds)


def classes(budget: Budget, sizes: Sequence[int] = CLASSES, images: int = 10_000) -> list[Row]:
    """One epoch, the loss alone, and the logits' bytes, by the number of classes."""
    return sweep("classes", sizes, budget, lambda k: classes_need(k, images), images=images, limit=budget.seconds)


def widths(budget: Budget, sizes: Sequence[int] = WIDTHS) -> list[Row]:
    """One step, parameters and one snapshot, by the student's hidden units."""
    return sweep("widths", sizes, budget, width_need, limit=budget.seconds)


def students(budget: Budget, sizes: Sequence[int] = STUDENTS, images: int = 20_000, epochs: int = 10) -> dict[str, Any]:
    """Students one after another (``sequence``) and in a ``pool`` of single-threaded processes, one per core."""
    cores, each = os.cpu_count() or 1, samples_need(images, 10)
    work: dict[str, Any] = {"images": images, "epochs": epochs}
    one_by_one = sweep("sequence", sizes, budget, lambda _: each, **work)
    pooled = sweep("pool", sizes, budget, lambda n: min(n, cores) * each, **work, workers=cores)
    for row in pooled:
        row["peak_bytes"] = row["worker_bytes"] * min(row["size"], cores)
    return {**work, "cores": cores, "sequence": one_by_one, "pool": pooled}


def samples_need(count: int, classes: int) -> int:
    """Bytes that ``samples`` holds at its worst: images, labels and those kept with the logits, an epoch's indices."""
    return BASE + count * (PIXELS + 8 + 8 + INDEX) + logits_bytes(count, classes)


def classes_need(count: int, images: int) -> int:
    """Bytes of ``classes`` at its worst: data and logits; of the last layer weights, gradient and Adam's moments."""
    return BASE + images * (PIXELS + 8) + logits_bytes(images, count) + 4 * 4 * 256 * count


def width_need(width: int) -> int:
    """Bytes of ``widths`` at its worst: weights, gradients, two moments, and a snapshot's file in memory twice."""
    return BASE + 4 * (PIXELS + 11) * width * (4 + 2 * 3)


def logits_bytes(count: int, classes: int) -> int:
    """Bytes of the logits of so many samples: float32."""
    return count * classes * 4


def sweep(
    kind: str,
    sizes: Sequence[int],
    budget: Budget,
    need: Callable[[int], int],
    *,
    measure: Callable[..., Row] | None = None,
    **settings: Any,
) -> list[Row]:
    """Every size, from small to large: measured in a fresh process, or computed where it would exceed the budget.

    Raises:
        ValueError: not even the two smallest sizes fit into the memory: there would be no line.
    """
    rows: list[Row] = []
    for size in sizes:
        seen = [row for row in rows if not row["computed"]]
        foreseen = on_line(seen, "fixed_seconds", size) if len(seen) > 1 else 0.0
        if need(size) <= budget.memory and foreseen <= budget.seconds:
            point = (measure or _measure)(kind, size=size, **settings)
            rows.append({"size": size, "computed": False, **point})
        elif len(seen) > 1:
            rows.append(computed(seen, size))
        else:
            raise ValueError(
                f"{kind}: two sizes at least must be measured, to compute others. {size:,} needs "
                f"{need(size) / GIB:.2f} GiB; got {budget.memory / GIB:.2f}. Raise --memory-gib."
            )
    return rows


def _measure(kind: str, **settings: Any) -> Row:
    print(" ".join([kind, *([f"{settings['size']:,}"] if settings else []), "…"]), file=sys.stderr, flush=True)
    return fresh_process("growth.py", "--point", json.dumps({"kind": kind, **settings}))


def computed(seen: Sequence[Row], size: int) -> Row:
    """A row for a size that was not run: each figure on the straight line through the rows measured."""
    figures = [name for name, value in seen[-1].items() if isinstance(value, (int, float)) and name not in _NOT_FIGURES]
    return {"size": size, "computed": True, "scaled": [], **{name: on_line(seen, name, size) for name in figures}}


_NOT_FIGURES = ("size", "computed")


def on_line(seen: Sequence[Row], figure: str, size: int) -> float:
    """The figure at this size on the least-squares line through the rows, two at least."""
    slope, intercept = statistics.linear_regression([row["size"] for row in seen], [row[figure] for row in seen])
    return float(intercept + slope * size)


def limits() -> list[Row]:
    """Where logits in memory stop fitting, for some numbers of classes; computed, all of it."""
    sets = {"MNIST": 60_000, "ImageNet-1k": 1_281_167, "ImageNet-21k": 14_197_122}
    return [
        {
            "classes": k,
            "sets": {f"{name}, {n:,}": logits_bytes(n, k) for name, n in sets.items()},
            "samples": {gib: gib * GIB // logits_bytes(1, k) for gib in MACHINES},
        }
        for k in (10, 1_000, 21_841)
    ]


def main() -> None:
    """Measure everything that was asked for and print it as the tables of docs/performance.md."""
    arguments = _arguments()
    if arguments.point:
        _point(json.loads(arguments.point))
        return
    budget = Budget(arguments.seconds_per_point, int(arguments.memory_gib * GIB))
    cut = _QUICK if arguments.quick else {}
    results = {
        "machine": _measure("this_machine"),
        "budget": budget._asdict(),
        **{name: function(budget, **cut.get(name, {})) for name, function in _PARTS.items() if name in arguments.parts},
        "limits": limits(),
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(tables(results))


_PARTS: dict[str, Callable[..., Any]] = {"samples": samples, "classes": classes, "widths": widths, "students": students}
_QUICK: dict[str, dict[str, Any]] = {
    "samples": {"sizes": (1_000, 10_000)},
    "classes": {"sizes": (10, 1_000), "images": 1_000},
    "widths": {"sizes": (32, 256)},
    "students": {"sizes": (1, 2), "images": 2_000, "epochs": 2},
}


def _point(settings: dict[str, Any]) -> None:
    import growth_points  # here: the parent, which only starts processes, has no use for torch

    report(**getattr(growth_points, settings.pop("kind"))(**settings))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 / GIB
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--quick", action="store_true", help="a few small sizes, 2 seconds each")
    parser.add_argument("--seconds-per-point", type=float, help="default: 60; with --quick 2")
    parser.add_argument("--memory-gib", type=float, default=half, help=f"default: half of the machine's, {half:.1f}")
    parser.add_argument("--out", type=Path, help="JSON file of all rows")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.seconds_per_point = arguments.seconds_per_point or (2 if arguments.quick else 60)
    return arguments


if __name__ == "__main__":
    main()
