"""The results of growth.py as Markdown: every number with the mark of how it was come by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from measuring import table

INDEX = 8 + 8 + 32  # bytes per sample and epoch: torch's permutation, a list's pointer, the int that it points to

Row = Mapping[str, Any]
Show = Callable[[float], str]


def tables(results: Mapping[str, Any]) -> str:
    """All parts that were measured, each under its heading, and the limits."""
    parts = [_PARTS[name](results[name]) for name in _PARTS if name in results]
    return "\n\n".join([_machine(results["machine"], results["budget"]), *parts])


def cell(row: Row, figure: str, show: Show, *, per: float = 1.0) -> str:
    """One figure, divided by ``per``, marked unless it was measured."""
    mark = " (computed)" if row["computed"] else " (scaled)" if figure in row["scaled"] else ""
    return show(row[figure] / per) + mark


def duration(seconds: float) -> str:
    """Three digits in the unit that suits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(seconds) >= size:
            return f"{seconds / size:,.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def volume(count: float) -> str:
    """Bytes in the binary unit that suits."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= size:
            return f"{count / size:,.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count:.0f} B"


def _machine(machine: Row, budget: Row) -> str:
    shown = ", ".join(f"{name} {machine[name]}" for name in ("processor", "cores", "threads", "torch", "load"))
    limits = f"{budget['seconds']:g} s and {volume(budget['memory'])} per point"
    return f"{shown}; budget {limits}. Unmarked numbers are measured."


def _samples(rows: Sequence[Row]) -> str:
    return _titled(
        "Samples (28 × 28 bytes; the default student; a linear teacher 784 → K)",
        ["images", "epoch", "per image", "order of it", "collecting", "per image", "peak RSS", "before any data"],
        [
            [
                f"{row['size']:,}",
                cell(row, "epoch_seconds", duration),
                cell(row, "epoch_seconds", duration, per=row["size"]),
                cell(row, "order_seconds", duration),
                cell(row, "collecting_seconds", duration),
                cell(row, "collecting_seconds", duration, per=row["size"]),
                cell(row, "peak_bytes", volume),
                cell(row, "base_bytes", volume),
            ]
            for row in rows
        ],
    ) + _samples_bytes(rows)


def _samples_bytes(rows: Sequence[Row]) -> str:
    """Where the bytes are. The indices are torch's: counted, not measured."""
    kinds = ("images", "labels", "logits")
    lines = [
        [
            f"{row['size']:,}",
            *(cell(row, f"{kind}_bytes", volume) for kind in kinds),
            f"{volume(INDEX * row['size'])} (computed)",
        ]
        for row in rows
    ]
    return "\n\n" + table(["images", *kinds, "indices of an epoch's order"], lines)


def _classes(rows: Sequence[Row]) -> str:
    return _titled(
        "Classes (student and logits as wide as there are classes)",
        ["classes", "epoch", "step", "soft loss of a batch", "logits", "peak RSS"],
        [
            [
                f"{row['size']:,}",
                *(cell(row, f"{name}_seconds", duration) for name in ("epoch", "step", "loss")),
                cell(row, "logits_bytes", volume),
                cell(row, "peak_bytes", volume),
            ]
            for row in rows
        ],
    )


def _widths(rows: Sequence[Row]) -> str:
    return _titled(
        "Model size (hidden units of the student)",
        ["width", "parameters", "step", "snapshot", "writing it", "peak RSS"],
        [
            [
                f"{row['size']:,}",
                cell(row, "parameters", "{:,.0f}".format),
                cell(row, "step_seconds", duration),
                cell(row, "snapshot_bytes", volume),
                cell(row, "snapshot_seconds", duration),
                cell(row, "peak_bytes", volume),
            ]
            for row in rows
        ],
    )


def _students(result: Row) -> str:
    lines = [
        [
            f"{one['size']}",
            *(text for row in (one, many) for text in _students_cells(row)),
        ]
        for one, many in zip(result["sequence"], result["pool"], strict=True)
    ]
    threads = f"{result['sequence'][0]['threads']:g} threads"
    of = [f"one after another, {threads}", f"a pool of up to {result['cores']} processes of one thread"]
    header = [
        text for way in of for text in (way, "students per minute", "from start to end of the process", "peak RSS")
    ]
    work = f"{result['epochs']} epochs of {result['images']:,} images"
    return _titled(f"Students ({work} each)", ["students", *header], lines)


def _students_cells(row: Row) -> list[str]:
    return [
        cell(row, "training_seconds", duration),
        _throughput(row, "training_seconds"),
        cell(row, "process_seconds", duration),
        cell(row, "peak_bytes", volume),
    ]


def _throughput(row: Row, figure: str) -> str:
    """Students per minute; from a computed time it is computed too."""
    return f"{60 * row['size'] / row[figure]:,.3g}" + (" (computed)" if row["computed"] else "")


def _limits(rows: Sequence[Row]) -> str:
    header = [*(f"logits of {name}" for name in rows[0]["sets"]), *(f"{gib} GiB hold" for gib in rows[0]["samples"])]
    lines = [
        [f"{row['classes']:,}", *map(volume, row["sets"].values()), *(f"{n:,}" for n in row["samples"].values())]
        for row in rows
    ]
    note = (
        "All computed: N × K × 4 bytes, and how many samples' logits a memory of that size holds with nothing else in "
        "it."
    )
    return _titled("Where logits in memory stop fitting", ["classes", *header], lines) + f"\n\n{note}"


def _titled(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return f"### {title}\n\n{table(header, lines)}"


_PARTS: dict[str, Callable[[Any], str]] = {
    "samples": _samples,
    "classes": _classes,
    "widths": _widths,
    "students": _students,
    "limits": _limits,
}
