"""Write the tables of docs/hinton2015.md from the results of recipes/hinton2015.py.

python recipes/hinton2015_table.py docs/hinton2015.json docs/hinton2015.md   # replaces the text between markers
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from kd.evaluation.paired_seeds import pair_errors

Rows = Sequence[Mapping[str, Any]]
TEST_IMAGES = 10_000


def main(results: Path, page: Path) -> None:
    """Write the tables into the page, each between ``<!-- NAME -->`` and ``<!-- end -->``."""
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    page.write_text(fill_page(page.read_text(encoding="utf-8"), rows), encoding="utf-8")


def fill_page(text: str, rows: Rows) -> str:
    """Return the page's text with its tables replaced."""
    for name, lines in {
        "pair": make_pair_table(rows),
        "left out": make_left_out_table(rows),
        "temperatures": make_temperature_table(rows),
    }.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"the page must have the markers <!-- {name} --> and <!-- end --> once.")
        table = "\n".join(lines) + "\n"
        text = pattern.sub(rf"\g<1>{table}\g<2>", text)  # a table has no backslash
    return text


def make_pair_table(rows: Rows) -> list[str]:
    """Format errors of teacher, student trained alone and distilled student, and the paired difference."""
    alone, distilled = (_select(rows, kind, width=800) for kind in ("alone", "distilled"))
    at_twenty = [row for row in distilled if row["temperature"] == 20]
    lines = _format_header("network", "paper", "ours", "n")
    for name, paper, group in (
        ("teacher, 1200-1200, dropout, max-norm, jitter", 67, _select(rows, "teacher")),
        ("student, 800-800, labels alone", 146, alone),
        ("student, 800-800, distilled at T = 20", 74, at_twenty),
    ):
        lines.append(_format_line(name, str(paper), _format_errors(group), str(len(group))))
    seeds = sorted({row["seed"] for row in alone} & {row["seed"] for row in at_twenty})
    if len(seeds) > 1:
        control_errors, distilled_errors = ({row["seed"]: row["errors"] for row in arm} for arm in (alone, at_twenty))
        differences = pair_errors(
            [control_errors[seed] for seed in seeds], [distilled_errors[seed] for seed in seeds], TEST_IMAGES
        )
        assert differences.interval is not None
        difference = f"{differences.mean:+.1f} ({differences.interval.low:+.1f} to {differences.interval.high:+.1f})"
        lines.append(_format_line("distilled − alone, paired 95 % interval", "-72", difference, str(len(seeds))))
    return lines


def make_left_out_table(rows: Rows) -> list[str]:
    """Format errors of students trained without some digits, before and after a shift of their logits.

    The transfer set and n are in the first of its three rows.
    """
    lines = _format_header(
        "transfer set", "shift of the logits", "paper", "ours", "errors on 3s, paper", "errors on 3s, ours"
    )
    paper_errors = {
        "without 3": (("206", "133"), ("", ""), ("109", "14")),
        "7 and 8": (("4,730 (47.3 %)", ""), ("", ""), ("1,320 (13.2 %)", "")),
    }
    for kind, numbers in paper_errors.items():
        group = _select(rows, kind)
        for rule, (errors, threes) in zip(("none", "matched", "oracle"), numbers, strict=True):
            results = [row if rule == "none" else row[rule] for row in group]
            shift = "none" if rule == "none" else f"{rule}, {_format_mean([result['shift'] for result in results])}"
            our_threes = _format_errors(results, "errors on 3") if kind == "without 3" else ""
            name = f"{kind} (n = {len(group)})" if rule == "none" else ""
            lines.append(_format_line(name, shift, errors, _format_errors(results), threes, our_threes))
    return lines


def make_temperature_table(rows: Rows) -> list[str]:
    """Format errors by temperature and width, with n in brackets unless it is 2."""
    students = [row for row in rows if row["kind"] in ("alone", "distilled")]
    widths = sorted({row["width"] for row in students})
    lines = _format_header("temperature", *(f"{width}-{width}" for width in widths))
    for temperature in [None, *sorted({row["temperature"] for row in students if row["temperature"]})]:
        cells = [
            [row for row in students if row["width"] == width and row["temperature"] == temperature] for width in widths
        ]
        name = "labels alone" if temperature is None else f"{temperature:g}"
        lines.append(_format_line(name, *map(_format_cell, cells)))
    return lines


def _select(rows: Rows, kind: str, **fields: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["kind"] == kind and fields.items() <= row.items()]


def _format_cell(rows: Rows) -> str:
    return f"{_format_errors(rows)} ({len(rows)})" if len(rows) not in (0, 2) else _format_errors(rows)


def _format_errors(rows: Rows, key: str = "errors") -> str:
    """Format the errors of some networks as mean ± standard deviation, or a single value alone."""
    return _format_mean([row[key] for row in rows])


def _format_mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _format_header(*names: str) -> list[str]:
    return [_format_line(*names), _format_line(*("---" for _ in names))]


def _format_line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
