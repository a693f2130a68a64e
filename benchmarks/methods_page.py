"""The tables of docs/methods.md: what there is, from ``kd.methods.METHODS``, what it costs and is worth on MNIST.

python benchmarks/methods_page.py   # puts them between the page's markers, from docs/method-costs.json, methods-*.json
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
from kd.evaluation.verdict import Judgement, judge_all
from kd.methods import METHODS
from measuring import table
from methods_on_mnist import CONTROL

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def filled(text: str) -> str:
    """The page's text with its tables made anew, each between ``<!-- NAME -->`` and ``<!-- end -->``."""
    tables = {"methods": what_there_is()}
    for results in sorted(PAGE.parent.glob("methods-*.json")):
        tables[results.stem] = comparison(json.loads(results.read_text(encoding="utf-8")))
    tables["costs"] = costs(json.loads((PAGE.parent / "method-costs.json").read_text(encoding="utf-8"))["costs"])
    for name, lines in tables.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if len(between.findall(text)) != 1:
            raise ValueError(f"the page must have the markers <!-- {name} --> and <!-- end --> once.")
        text = between.sub(rf"\g<1>{lines}\n\g<2>", text)  # a table has no backslash
    return text


def what_there_is() -> str:
    """A line for each method."""
    rows = [
        (
            f"`{name}`",
            ", ".join(method.needs),
            ", ".join(format_method_settings(method.settings)),
            method.paper,
            method.reference,
        )
        for name, method in METHODS.items()
    ]
    return table(("method", "needs", "settings", "paper", "to be held against"), rows)


def costs(measured: Mapping[str, Mapping[str, float]]) -> str:
    """What a training step of each method takes, beside one of plain distillation."""
    kd = measured["kd"]
    rows = [
        (
            f"`{name}`" if name in METHODS else name,
            f"{own['seconds'] / kd['seconds']:.2f}",
            f"{(own['peak_rss'] - kd['peak_rss']) / 1e6:+.0f}",
            f"{own['trained']:,}",
            f"{own['remembered']:,}",
        )
        for name, own in measured.items()
    ]
    return table(("method", "time of a step, × kd", "memory, MB more", "parameters of its own", "kept numbers"), rows)


def comparison(results: Mapping[str, Any]) -> str:
    """Errors of each method, and its paired differences to the control and to plain distillation."""
    errors, images = results["errors"], results["images"]
    against = {base: _judged(errors, base, images) for base in (CONTROL, "kd") if base in errors}
    rows = [
        (
            name,
            f"{statistics.mean(own):.1f} ± {statistics.stdev(own):.1f}",
            *(cell for judged in against.values() for cell in _cells(judged.get(name))),
        )
        for name, own in errors.items()
    ]
    return table(("student", "errors", "− control", "verdict", "− kd", "verdict"), rows)


def _judged(errors: Mapping[str, Sequence[int]], base: str, images: int) -> dict[str, Judgement]:
    """The verdicts on all methods against one of them, with Holm's adjustment for their number."""
    others = {name: own for name, own in errors.items() if name not in (base, CONTROL)}
    return judge_all({name: pair_errors(errors[base], own, images) for name, own in others.items()})


def _cells(judgement: Judgement | None) -> list[str]:
    if judgement is None:
        return ["", ""]
    interval = judgement.interval
    between = f"{interval.low:+.1f} to {interval.high:+.1f}" if interval else "no interval"
    verdict = judgement.verdict.replace("larger than d", f"larger than {judgement.margin:g} errors")
    return [f"{judgement.pairs.mean:+.1f} ({between})", verdict]


if __name__ == "__main__":
    main()
