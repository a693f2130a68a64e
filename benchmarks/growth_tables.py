"""Format the results of growth.py as Markdown, marking numbers that are scaled or computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from measuring import format_table

INDEX = 8 + 8 + 32  # bytes per sample of an epoch's order: torch's permutation, and a list's pointer to an int object

Row = Mapping[str, Any]
Formatter = Callable[[float], str]


def format_tables(results: Mapping[str, Any]) -> str:
    """Format all measured parts, each under its heading, and the limits."""
    parts = [_PARTS[name](results[name]) for name in _PARTS if name in results]
    return "\n\n".join([_format_machine(results["machine"], results["budget"]), *parts])


def format_cell(row: Row, figure: str, formatter: Formatter, *, per: float = 1.0) -> str:
    """Format one figure, divided by ``per``; mark it if it was scaled or computed."""
    mark = " (computed)" if row["computed"] else " (scaled)" if figure in row["scaled"] else ""
    return formatter(row[figure] / per) + mark


def format_duration(seconds: float) -> str:
    """Format seconds with three digits in a suitable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(seconds) >= size:
            return f"{seconds / size:,.3g} {unit}" if seconds < 1000 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def format_bytes(count: float) -> str:
    """Format bytes in a suitable binary unit."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= size:
            return f"{count / size:,.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count:.0f} B"


def _format_machine(machine: Row, budget: Row) -> str:
    details = ", ".join(f"{name} {machine[name]}" for name in ("processor", "cores", "threads", "torch", "load"))
    limits = f"{budget['seconds']:g} s and {format_bytes(budget['memory'])} per point"
    return f"{details}; budget {limits}. Unmarked numbers are measured."


def _format_samples(rows: Sequence[Row]) -> str:
    return _format_section(
        "Samples (28 × 28 bytes; the default student; a linear teacher 784 → K)",
        ["images", "epoch", "per image", "drawing order", "collecting", "per image", "peak RSS", "RSS without data"],
        [
            [
                f"{row['size']:,}",
                format_cell(row, "epoch_seconds", format_duration),
                format_cell(row, "epoch_seconds", format_duration, per=row["size"]),
                format_cell(row, "order_seconds", format_duration),
                format_cell(row, "collecting_seconds", format_duration),
                format_cell(row, "collecting_seconds", format_duration, per=row["size"]),
                format_cell(row, "peak_bytes", format_bytes),
                format_cell(row, "base_bytes", format_bytes),
            ]
            for row in rows
        ],
    ) + _format_samples_bytes(rows)


def _format_samples_bytes(rows: Sequence[Row]) -> str:
    """Format the bytes by content. The bytes of the indices are computed from data types, not measured."""
    kinds = ("images", "labels", "logits")
    lines = [
        [
            f"{row['size']:,}",
            *(format_cell(row, f"{kind}_bytes", format_bytes) for kind in kinds),
            f"{format_bytes(INDEX * row['size'])} (computed)",
        ]
        for row in rows
    ]
    return "\n\n" + format_table(["images", *kinds, "shuffled indices of an epoch"], lines)


def _format_classes(rows: Sequence[Row]) -> str:
    return _format_section(
        "Classes (student and logits as wide as there are classes)",
        ["classes", "epoch", "step", "soft loss of a batch", "logits", "peak RSS"],
        [
            [
                f"{row['size']:,}",
                *(format_cell(row, f"{name}_seconds", format_duration) for name in ("epoch", "step", "loss")),
                format_cell(row, "logits_bytes", format_bytes),
                format_cell(row, "peak_bytes", format_bytes),
            ]
            for row in rows
        ],
    )


def _format_widths(rows: Sequence[Row]) -> str:
    return _format_section(
        "Model size (hidden units of the student)",
        ["width", "parameters", "step", "snapshot", "writing a snapshot", "peak RSS"],
        [
            [
                f"{row['size']:,}",
                format_cell(row, "parameters", "{:,.0f}".format),
                format_cell(row, "step_seconds", format_duration),
                format_cell(row, "snapshot_bytes", format_bytes),
                format_cell(row, "snapshot_seconds", format_duration),
                format_cell(row, "peak_bytes", format_bytes),
            ]
            for row in rows
        ],
    )


def _format_students(result: Row) -> str:
    lines = [
        [
            f"{sequence['size']}",
            *(text for row in (sequence, pool) for text in _format_students_cells(row)),
        ]
        for sequence, pool in zip(result["sequence"], result["pool"], strict=True)
    ]
    threads = f"{result['sequence'][0]['threads']:g} threads"
    ways = [f"one after another, {threads}", f"a pool of up to {result['cores']} processes of one thread"]
    header = [text for way in ways for text in (way, "students per minute", "whole process", "peak RSS")]
    work = f"{result['epochs']} epochs of {result['images']:,} images"
    return _format_section(f"Students ({work} each)", ["students", *header], lines)


def _format_students_cells(row: Row) -> list[str]:
    return [
        format_cell(row, "training_seconds", format_duration),
        _format_throughput(row, "training_seconds"),
        format_cell(row, "process_seconds", format_duration),
        format_cell(row, "peak_bytes", format_bytes),
    ]


def _format_throughput(row: Row, figure: str) -> str:
    """Format students per minute, marked if the time was computed."""
    return f"{60 * row['size'] / row[figure]:,.3g}" + (" (computed)" if row["computed"] else "")


def _format_limits(rows: Sequence[Row]) -> str:
    header = [*(f"logits of {name}" for name in rows[0]["sets"]), *(f"{gib} GiB hold" for gib in rows[0]["samples"])]
    lines = [
        [f"{row['classes']:,}", *map(format_bytes, row["sets"].values()), *(f"{n:,}" for n in row["samples"].values())]
        for row in rows
    ]
    note = "All computed: N × K × 4 bytes, and the number of samples whose logits fill a memory of that size."
    return _format_section("Memory for logits", ["classes", *header], lines) + f"\n\n{note}"


def _format_section(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return f"### {title}\n\n{format_table(header, lines)}"


_PARTS: dict[str, Callable[[Any], str]] = {
    "samples": _format_samples,
    "classes": _format_classes,
    "widths": _format_widths,
    "students": _format_students,
    "limits": _format_limits,
}
