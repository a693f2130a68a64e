"""Update the tables of docs/methods.md: methods (``kd.methods.METHODS``), cost of a step, results on MNIST.

python benchmarks/methods_page.py   # reads docs/method-costs.json and docs/methods-*.json
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

from kd.commands.method_flags import format_method_settings
from kd.evaluation.paired_seeds import pair_errors
from kd.evaluation.verdict import Judgement, judge_counts
from kd.methods import METHODS
from measuring import format_table
from methods_on_mnist import CONTROL

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"


def main() -> None:
    PAGE.write_text(fill_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def fill_page(text: str) -> str:
    """Return the page with new tables, each between ``<!-- NAME -->`` and ``<!-- end -->``."""
    tables = {"methods": format_methods()}
    for results in sorted(PAGE.parent.glob("methods-*.json")):
        tables[results.stem] = format_comparison(json.loads(results.read_text(encoding="utf-8")))
    tables["costs"] = format_costs(json.loads((PAGE.parent / "method-costs.json").read_text(encoding="utf-8"))["costs"])
    for name, lines in tables.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if len(block.findall(text)) != 1:
            raise ValueError(f"{PAGE.name} must contain exactly one block from <!-- {name} --> to <!-- end -->")
        text = block.sub(rf"\g<1>{lines}\n\g<2>", text)  # safe as a template: a table has no backslash
    return text


def format_methods() -> str:
    """Return the table of methods, without their inputs and without empty settings."""
    rows = [
        (
            f"`{name}`",
            ", ".join(setting for setting in format_method_settings(method.settings) if not setting.endswith("=")),
            method.paper,
            method.reference,
        )
        for name, method in METHODS.items()
    ]
    return format_table(("method", "settings", "paper", "reference code"), rows)


def format_costs(measured: Mapping[str, Mapping[str, float]]) -> str:
    """Return the costs of a training step by method, relative to ``kd``."""
    kd = measured["kd"]
    rows = [
        (
            f"`{name}`" if name in METHODS else name,
            f"{cost['seconds'] / kd['seconds']:.2f}",
            f"{(cost['peak_rss'] - kd['peak_rss']) / 1e6:+.0f}",
            _format_extra(int(cost["trained"]), int(cost["remembered"])),
        )
        for name, cost in measured.items()
    ]
    return format_table(("method", "step time, × kd", "extra memory, MB", "extra parameters + buffer values"), rows)


def _format_extra(parameters: int, buffers: int) -> str:
    """Return both counts, without buffers if there are none; nothing if both are 0."""
    return f"{parameters:,} + {buffers:,}" if buffers else f"{parameters:,}" if parameters else ""


def format_comparison(results: Mapping[str, Any]) -> str:
    """Return each method's errors and paired differences to the control and to ``kd``; bold if they help or hurt."""
    errors, images = results["errors"], results["images"]
    judgements = {base: _judge(errors, base, images) for base in (CONTROL, "kd") if base in errors}
    rows = [
        (
            name,
            f"{statistics.mean(counts):.1f} ± {statistics.stdev(counts):.1f}",
            *(_format_judgement(by_method.get(name)) for by_method in judgements.values()),
        )
        for name, counts in errors.items()
    ]
    return format_table(("student", "errors", "− control", "− kd"), rows)


def _judge(errors: Mapping[str, Sequence[int]], base: str, images: int) -> dict[str, Judgement]:
    """Return the verdict on each method against ``base``, with Holm's adjustment for the number of methods."""
    methods = {name: counts for name, counts in errors.items() if name not in (base, CONTROL)}
    return judge_counts({name: pair_errors(errors[base], counts, images) for name, counts in methods.items()})


def _format_judgement(judgement: Judgement | None) -> str:
    if judgement is None:
        return ""
    interval = judgement.interval
    bounds = f"{interval.low:+.1f} to {interval.high:+.1f}" if interval else "no interval"
    difference = f"{judgement.question.control.mean:+.1f} ({bounds})"
    if judgement.verdict in ("better than the labels alone", "hurts"):
        return f"**{difference}**"
    if judgement.verdict == "inconclusive":
        return difference
    return f"{difference}: no difference larger than {judgement.margin:g} errors"


if __name__ == "__main__":
    main()
