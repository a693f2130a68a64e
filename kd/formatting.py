"""Numbers as text, the same in printed output, reports and figures: signed differences, intervals and p-values."""

from __future__ import annotations

ROUNDING = 1e-12  # smaller numbers are 0 but for the rounding of sums
LEVEL = 0.05  # of significance: a p-value below it must not look equal to it
SMALLEST_P = 1e-4  # smaller p-values are printed as "< 0.0001": their digits rest on the tails of the test's model


def format_visible(value: float, spec: str = ",.1f") -> str:
    """Return the value in a format, or with two digits if the format would show a number other than 0 as 0.

    Else a difference or a bound beside a verdict looks like 0, and the verdict wrong.
    """
    text = format(value, spec)
    return text if abs(value) < ROUNDING or text.strip("+-0.,") else format(value, ".2g")


def format_signed(value: float, spec: str = ",.1f") -> str:
    """Return the value with its sign, by default with thousands separators and one decimal; 0 has no sign."""
    sign = "" if abs(value) < ROUNDING else "-" if value < 0 else "+"
    return sign + format_visible(abs(value), spec)


def format_range(low: float, high: float, spec: str = ",.1f") -> str:
    """Return the limits of an interval, such as "-2.0 to +1,783.3"."""
    return f"{format_signed(low, spec)} to {format_signed(high, spec)}"


def count_noun(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 seed" or "2 seeds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_p(p: float) -> str:
    """Return a p-value with two significant digits, or more if it would be rounded up to 0.05; or "< 0.0001"."""
    if p < SMALLEST_P:
        return f"< {SMALLEST_P:.4f}"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL))


def equate_p(p: float) -> str:
    """Return "p = 0.031" or "p < 0.0001", for a sentence."""
    return f"p {format_p(p)}" if p < SMALLEST_P else f"p = {format_p(p)}"
