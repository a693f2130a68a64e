"""Table cells for paired students, shared by ``kd compare`` and ``kd sweep``: differences, means and shares."""

from __future__ import annotations

from kd.evaluation.paired_seeds import Interval, Pairs, Spread
from kd.formatting import format_p, format_range, format_signed

DIFFERENCES = ("distilled minus", "mean", "95 % CI (t)", "bootstrap CI", "p (t)", "p (Wilcoxon)", "p (sign)")


def difference_cells(pairs: Pairs) -> list[str]:
    """Return the cells of a row under the header ``DIFFERENCES``, except the first cell."""
    return [
        format_signed(pairs.mean),
        _format_interval(pairs.interval),
        _format_interval(pairs.bootstrap),
        *map(format_p, (pairs.t_p, pairs.wilcoxon_p, pairs.sign_p)),
    ]


def _format_interval(interval: Interval | None) -> str:
    return format_range(*interval) if interval else "none"


def format_number(value: Spread, form: str, *, scale: float = 1) -> str:
    """Return "mean ± standard deviation", or only the mean of a single value."""
    deviation = "" if value.sd is None else f" ± {scale * value.sd:{form}}"
    return f"{scale * value.mean:{form}}{deviation}"


def percent(share: float) -> str:
    """Format a fraction in [0, 1] as ``98.53 %``."""
    return f"{100 * share:.2f} %"
