"""Columns of a table as numbers: kinds, medians and levels, all determined by the training rows."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int32]

RARE = 10  # training rows; rarer levels have no feature
MOST_LEVELS = 50  # with a feature; less frequent levels have none
MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "nat", "null", "none", "?"})  # in lower case
REMEDY = "write numbers as 1234.56"
_MOSTLY = 0.95  # share of the training cells that are numbers (dates) in a column of numbers (dates)
_FEW = 20  # training rows; with fewer, different integers do not suggest an identifier
_CROWDED = 1e3 * np.finfo(np.float64).eps  # standard deviation / mean; below, rounding may hide differences
_KEPT = 0.9  # share of the different numbers of such a column that must be different as 64-bit numbers
FAR = 1e6  # standard deviations; limits the values of other rows, which float32 might not hold
_IDENTIFIER = re.compile(
    r"(?:(?:^|[\W_])(?:id|ids|uuid|guid|key|index|idx|nr|no|number|rownames?)|[a-z]I[dD])$|^unnamed"
)
# A number with a currency, a percent sign, a unit or separators of thousands, with a decimal comma or in parentheses.
_CURRENCY = r"(?:[A-Z]{0,2}[$€£¥₹₽₩₺₪]|EUR|USD|GBP|CHF|JPY|CNY|INR|CAD|AUD|SEK|NOK|DKK|PLN|Rs\.?|kr\.?)"
_GROUPED = r"\d{1,3}(?:[.,'’ \u00a0\u202f]\d{2,3})*[.,'’ \u00a0\u202f]\d{3}(?:[.,]\d+)?"
_DECORATED = re.compile(
    rf"[<>≤≥~≈]?\s*[-+−(]?\s*{_CURRENCY}?\s*[-+−]?(?:{_GROUPED}|\d*[.,]?\d+)\s*"
    rf"(?:{_CURRENCY}|[%‰°]\w?|[^\W\d_]{{1,8}}\.?(?:/[^\W\d_]{{1,4}})?)?\)?"
)
_LONGEST = 40  # characters of such a number; the expression would be slow for long texts
_FEW_NUMBERS = 2  # as categories, two numbers are as good as a column of numbers
_NUMERIC_DATE = r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}([-/.])\d{1,2}\1\d{2,4}"
_NAMED_DATE = r"\d{1,2}[ -][a-z]{3,9}\.?[ -]\d{2,4}|[a-z]{3,9}\.? \d{1,2},? \d{4}"
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[ap]m)?(?: ?z| ?[-+]\d{2}:?\d{2})?"
_DATE = re.compile(rf"(?:(?:{_NUMERIC_DATE}|{_NAMED_DATE})(?:[ t,]+{_TIME})?|{_TIME})", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Column:
    """How the cells of one column become features.

    Attributes:
        kind: ``number``: one feature, standardised, with the median in place of missing values. ``category``: one
            feature, 0 or 1, per level. ``unused``: none.
        reason: why a column is unused.
        median, mean, std: of the training rows; mean and standard deviation with the median filled in.
        levels: of a category, sorted.
        has_other: whether a further feature is 1 for all other levels: rare ones, and those without a training row.
            Without it, all features of the column are 0 for such levels.
        has_missing: whether a further feature is 1 for missing values, because the training rows have some.
    """

    name: str
    kind: Literal["number", "category", "unused"]
    reason: str = ""
    median: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    levels: tuple[str, ...] = ()
    has_other: bool = False
    has_missing: bool = False

    @property
    def features(self) -> list[str]:
        """Names of the features, in their order."""
        own = {"number": [self.name], "category": [f"{self.name}={level}" for level in self.levels], "unused": []}
        other, missing = f"{self.name} (other)", f"{self.name} (missing)"
        return [*own[self.kind], *[other] * self.has_other, *[missing] * self.has_missing]

    def encode(self, cells: Sequence[str]) -> NDArray[np.float32]:
        """Return the features [N, f] of cells [N]."""
        features = np.zeros((len(cells), len(self.features)), np.float32)
        if self.kind == "number":
            values = parse_numbers(cells)
            missing = np.isnan(values)
            values[missing] = self.median
            with np.errstate(over="ignore"):
                features[:, 0] = ((values - self.mean) / self.std).clip(-FAR, FAR)
            if self.has_missing:
                features[:, 1] = missing
        elif self.kind == "category":
            index = {level: number for number, level in enumerate(self.levels)}
            for row, cell in enumerate(map(to_level, cells)):
                feature = index.get(cell, len(index) if self.has_other else None)
                if is_missing(cell) and self.has_missing:
                    feature = features.shape[1] - 1
                if feature is not None:
                    features[row, feature] = 1
        return features

    def to_numbers(self, cells: Sequence[str]) -> NDArray[np.float64]:
        """Return cells [N] as numbers, one each, from which ``kd.deploy.columns.ColumnEncoder`` makes the features.

        NaN is a missing value. Of a category, k is ``levels[k]``, and −1 is any other text.
        """
        if self.kind == "number":
            return parse_numbers(cells)
        index = {level: number for number, level in enumerate(self.levels)}
        return np.array([math.nan if is_missing(cell) else index.get(to_level(cell), -1) for cell in cells], np.float64)


def column_from_json(values: Mapping[str, Any]) -> Column:
    """Return a column from ``dataclasses.asdict``, as read from JSON.

    Raises:
        ValueError: a value is missing or of another type.
    """
    try:
        column = Column(**{**values, "levels": tuple(values["levels"])})
        is_number = all(math.isfinite(x) for x in (column.median, column.mean, column.std)) and column.std > 0
        is_text = all(isinstance(text, str) for text in (column.name, column.reason, *column.levels))
        is_flag = isinstance(column.has_other, bool) and isinstance(column.has_missing, bool)
        if not (is_number and is_text and is_flag and column.kind in {"number", "category", "unused"}):
            raise TypeError("a value is of another type")
    except (TypeError, KeyError) as error:
        raise ValueError(f"the description of a column is damaged: {error}") from error
    return column


def is_missing(cell: str) -> bool:
    """Return whether a cell holds no value, such as "", "NA" or "?"."""
    return cell.lower() in MISSING


def to_level(cell: str) -> str:
    """Return the level of a cell; true and false count in any case."""
    lower = cell.lower()
    return lower if lower in {"true", "false"} else cell


def parse_numbers(cells: Sequence[str]) -> NDArray[np.float64]:
    """Return cells [N] as numbers; NaN if a cell is missing or not a finite number."""
    return np.array([_parse(cell) for cell in cells], np.float64)


def _parse(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) and "_" not in cell else math.nan


def _is_decorated(cell: str) -> bool:
    """Return whether a cell is a number that ``float`` does not accept, such as "$1,234", "50 %" or "12 kg"."""
    return len(cell) <= _LONGEST and math.isnan(_parse(cell)) and bool(_DECORATED.fullmatch(cell))


def explain_numbers(counts: Mapping[str, int]) -> str:
    """Return why a column with numbers is not one of numbers, and the remedy; "" if the numbers are categories.

    Args:
        counts: number of training rows of each value, without missing values.
    """
    if example := _find_decorated(counts):
        return f"numbers with signs, units or separators, such as {example!r}; {REMEDY}"
    if example := _find_text(counts):
        return f"numbers, but text in other rows, such as {example!r}; leave cells without a number empty"
    return ""


def _find_text(counts: Mapping[str, int]) -> str:
    """Return the most frequent text of a column if at least half of the rows have numbers too rare for a level."""
    text = {cell: count for cell, count in counts.items() if math.isnan(_parse(cell))}
    rare = sum(count for cell, count in counts.items() if count < RARE and cell not in text)
    return max(text, key=lambda cell: text[cell]) if text and rare >= sum(counts.values()) / 2 else ""


def _find_decorated(counts: Mapping[str, int]) -> str:
    """Return a number that ``float`` does not accept if nearly all cells of a column are such or other numbers.

    "" if they are not, or for at most two different numbers.
    """
    decorated = {cell: count for cell, count in counts.items() if _is_decorated(cell)}
    numbers = {cell: count for cell, count in counts.items() if not math.isnan(_parse(cell))}
    share = (sum(decorated.values()) + sum(numbers.values())) / max(1, sum(counts.values()))
    if not decorated or share < _MOSTLY or len(decorated) + len(numbers) <= _FEW_NUMBERS:
        return ""
    return max(decorated, key=lambda cell: decorated[cell])


def fit_column(name: str, levels: Sequence[str], codes: Codes) -> Column:
    """Return how a column becomes features.

    A column of numbers has at least 95 % numbers among its values. Any other column is a category: levels with at least
    10 training rows get a feature, at most the 50 most frequent. Columns without information are unused: constant,
    dates, identifiers.

    Args:
        levels: different cells of the column, in any order, including cells without a training row.
        codes: [N] index of the level of each training row.
    """
    counts = np.bincount(codes, minlength=len(levels))
    values = [
        (levels[code], int(counts[code])) for code in np.flatnonzero(counts).tolist() if not is_missing(levels[code])
    ]
    total = sum(count for _, count in values)
    has_missing = total < len(codes)
    if not total:
        return Column(name, "unused", "without values")
    if len({to_level(cell) for cell, _ in values}) == 1 and not has_missing:
        return Column(name, "unused", "constant")
    numbers = sum(count for cell, count in values if not math.isnan(_parse(cell)))
    if numbers >= _MOSTLY * total:
        return _fit_number(name, levels, codes)
    if sum(count for cell, count in values if _DATE.fullmatch(cell)) >= _MOSTLY * total:
        return Column(name, "unused", "dates or times; store them as numbers, such as days or the month")
    return _fit_category(name, values, has_missing=has_missing)


def _fit_number(name: str, levels: Sequence[str], codes: Codes) -> Column:
    numbers = parse_numbers(levels)[codes]
    missing = np.isnan(numbers)
    present = numbers[~missing]
    if _is_identifier(name, present):
        return Column(name, "unused", "an identifier: a different integer in every row")
    median = float(np.median(present))
    filled = np.where(missing, median, numbers)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(filled.mean()), float(filled.std())
    if not math.isfinite(mean + std):
        return Column(name, "unused", "numbers too large to be standardised")
    if std <= _CROWDED * abs(mean) and not missing.any() and _are_rounded(levels, codes, present):
        return Column(name, "unused", "differences too small for 64-bit numbers; subtract a constant from the column")
    if std <= np.finfo(np.float64).eps * abs(mean):
        if not missing.any():
            return Column(name, "unused", "constant")
        std = 1.0
    return Column(name, "number", median=median, mean=mean, std=std, has_missing=bool(missing.any()))


def _are_rounded(levels: Sequence[str], codes: Codes, numbers: NDArray[np.float64]) -> bool:
    """Return whether many different cells, all of them numbers, are equal as 64-bit numbers."""
    exact = {Decimal(levels[code]) for code in np.unique(codes).tolist()}
    return len(np.unique(numbers)) < _KEPT * len(exact)


def _is_identifier(name: str, numbers: NDArray[np.float64]) -> bool:
    """Return whether numbers are different integers in every row, called an identifier or nearly without gaps."""
    if len(numbers) < _FEW or (numbers != np.round(numbers)).any() or len(np.unique(numbers)) < len(numbers):
        return False
    return bool(_IDENTIFIER.search(name)) or bool(np.ptp(numbers) < 2 * len(numbers))


def _fit_category(name: str, values: Sequence[tuple[str, int]], *, has_missing: bool) -> Column:
    counts: dict[str, int] = {}
    for cell, count in values:
        counts[to_level(cell)] = counts.get(to_level(cell), 0) + count
    by_frequency = sorted(counts, key=lambda level: (-counts[level], level))
    kept = [level for level in by_frequency[:MOST_LEVELS] if counts[level] >= RARE]
    if not kept:
        reason = "a different value in every row" if max(counts.values()) == 1 else f"no value in {RARE} training rows"
        return Column(name, "unused", explain_numbers(counts) or reason)
    levels = tuple(sorted(kept))
    return Column(name, "category", levels=levels, has_other=len(kept) < len(counts), has_missing=has_missing)
