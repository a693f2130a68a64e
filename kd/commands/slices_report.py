"""Report section of ``kd compare`` on slices of the test set."""

from __future__ import annotations

from kd.evaluation.comparison_slices import Slices, describe_slices
from kd.evaluation.slices import SliceDifference
from kd.formatting import format_p, format_range, format_signed
from kd.report.blocks import Block, Fold, Paragraph, table

SHOWN = 20  # rows of a group; more are folded


def show_slices(slices: Slices, *, withheld: bool) -> tuple[Block, ...]:
    """Return a table for each group of slices, and what differs significantly; see ``describe_slices``."""
    findings = describe_slices(slices, withheld=withheld) or ["No slice differs significantly after the adjustment."]
    blocks: list[Block] = [Paragraph(text) for text in findings]
    for group, differences in slices.items():
        header = (group, "items", "control, % wrong", "distilled, % wrong", "difference", "95 % CI", "p (Holm)")
        rows = [(name, *_cells(difference)) for name, difference in differences.items()]
        caption = "Error rates, means over the pairs; differences in percentage points, for new items of the slice"
        content = table(header, rows, caption=caption)
        blocks.append(content if len(rows) <= SHOWN else Fold(f"All {len(rows)} slices by {group}", (content,)))
    return tuple(blocks)


def _cells(slice: SliceDifference) -> tuple[str, ...]:
    interval = slice.contrast.interval() if slice.has_enough_items else None
    return (
        f"{slice.items:,}",
        f"{slice.control:.2f}",
        f"{slice.distilled:.2f}",
        format_signed(slice.contrast.mean, ".2f"),
        format_range(*interval, ".2f") if interval else "none" if slice.has_enough_items else "too few items",
        format_p(slice.p),
    )
