"""The tables of docs/hinton2015.md, from the rows of recipes/hinton2015.py.

python recipes/hinton2015_table.py docs/hinton2015.json docs/hinton2015.md   # puts them between the page's markers
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
TESTED = 10_000


def main(results: Path, page: Path) -> None:
    """Write the tables into the page, each between ``<!-- NAME -->`` and ``<!-- end -->``."""
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    page.write_text(filled(page.read_text(encoding="utf-8"), rows), encoding="utf-8")


def filled(text: str, rows: Rows) -> str:
    """The page's text with its tables made anew."""
    for name, lines in {"pair": pair(rows), "left out": left_out(rows), "temperatures": temperatures(rows)}.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if len(between.findall(text)) != 1:
            raise ValueError(f"the page must have the markers <!-- {name} --> and <!-- end --> once.")
        table = "\n".join(lines) + "\n"
        text = between.sub(rf"\g<1>{table}\g<2>", text)  # a table has no backslash
    return text


def pair(rows: Rows) -> list[str]:
    """Teacher, student alone and distilled student, and what distillation is worth."""
    alone, distilled = (_of(rows, kind, width=800) for kind in ("alone", "distilled"))
    twenty = [row for row in distilled if row["temperature"] == 20]
    lines = _head("network", "paper", "ours", "n")
    for name, paper, found in (
        ("teacher, 1200-1200, dropout, max-norm, jitter", 67, _of(rows, "teacher")),
        ("student, 800-800, labels alone", 146, alone),
        ("student, 800-800, distilled at T = 20", 74, twenty),
    ):
        lines.append(_line(name, str(paper), _errors(found), str(len(found))))
    seeds = sorted({row["seed"] for row in alone} & {row["seed"] for row in twenty})
    if len(seeds) > 1:
        control, twin = ({row["seed"]: row["errors"] for row in arm} for arm in (alone, twenty))
        between = pair_errors([control[seed] for seed in seeds], [twin[seed] for seed in seeds], TESTED)
        assert between.interval is not None
        difference = f"{between.mean:+.1f} ({between.interval.low:+.1f} to {between.interval.high:+.1f})"
        lines.append(_line("distilled − alone, paired 95 % interval", "-72", difference, str(len(seeds))))
    return lines


def left_out(rows: Rows) -> list[str]:
    """Students that have not seen all digits, before and after their logits are shifted by one number."""
    lines = _head("transfer set", "shift of the logits", "paper", "ours", "of the 3s, paper", "of the 3s, ours", "n")
    papers = {
        "without 3": (("206", "133"), ("", ""), ("109", "14")),
        "7 and 8": (("4,730 (47.3 %)", ""), ("", ""), ("1,320 (13.2 %)", "")),
    }
    for kind, paper in papers.items():
        found = _of(rows, kind)
        for rule, (errors, threes) in zip(("none", "matched", "oracle"), paper, strict=True):
            states = [row if rule == "none" else row[rule] for row in found]
            shift = "none" if rule == "none" else f"{rule}, {_mean([state['shift'] for state in states])}"
            ours = _errors(states), _errors(states, "errors on 3") if kind == "without 3" else ""
            lines.append(_line(kind, shift, errors, ours[0], threes, ours[1], str(len(found))))
    return lines


def temperatures(rows: Rows) -> list[str]:
    """Errors by temperature and width; n in brackets."""
    students = [row for row in rows if row["kind"] in ("alone", "distilled")]
    widths = sorted({row["width"] for row in students})
    lines = _head("temperature", *(f"{width}-{width}" for width in widths))
    for temperature in [None, *sorted({row["temperature"] for row in students if row["temperature"]})]:
        cells = [
            [row for row in students if row["width"] == width and row["temperature"] == temperature] for width in widths
        ]
        name = "labels alone" if temperature is None else f"{temperature:g}"
        lines.append(_line(name, *(f"{_errors(cell)} ({len(cell)})" if cell else "" for cell in cells)))
    return lines


def _of(rows: Rows, kind: str, **wanted: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["kind"] == kind and wanted.items() <= row.items()]


def _errors(rows: Rows, what: str = "errors") -> str:
    """Mean ± standard deviation, or the number alone where there is one."""
    return _mean([row[what] for row in rows])


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _head(*names: str) -> list[str]:
    return [_line(*names), _line(*("---" for _ in names))]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
