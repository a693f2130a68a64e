"""Paired students as ``kd compare`` and ``kd sweep`` show them: cells of differences, means and shares."""

from __future__ import annotations

from typing import Any

from kd.evaluation.paired_seeds import Interval, Pairs, Spread
from kd.evaluation.verdict import Judgement

DIFFERENCES = ("distilled minus", "mean", "95 % t", "bootstrap", "t p", "Wilcoxon p", "sign p")


def difference_cells(pairs: Pairs) -> list[str]:
    """A row of ``DIFFERENCES`` after its name."""
    return [
        f"{pairs.mean:+.1f}",
        _interval(pairs.interval),
        _interval(pairs.bootstrap),
        *(f"{p:.2g}" for p in (pairs.t_p, pairs.wilcoxon_p, pairs.sign_p)),
    ]


def _interval(interval: Interval | None) -> str:
    return f"{interval.low:+.1f} to {interval.high:+.1f}" if interval else "none"


def format_number(value: Spread, form: str, *, scale: float = 1) -> str:
    """Mean ± standard deviation."""
    deviation = "" if value.sd is None else f" ± {scale * value.sd:{form}}"
    return f"{scale * value.mean:{form}}{deviation}"


def percent(share: float) -> str:
    """A share of images: ``98.53 %``."""
    return f"{100 * share:.2f} %"


def describe_tests(judgement: Judgement) -> dict[str, Any]:
    """What a verdict was read from."""
    return {
        "margin_errors": judgement.margin,
        "interval_95": judgement.interval,
        "interval_90": judgement.inner,
        "pairs": judgement.pairs._asdict(),
    }
