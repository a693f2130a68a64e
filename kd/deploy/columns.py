"""Raw columns of a table as inputs of a graph, which standardises them and computes their indicators."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from kd.data.sources.table_columns import FAR, Column
from kd.data.sources.table_encoding import Encoding


class _Feature(NamedTuple):
    """A feature of a column: its number, or whether it has a level (its position), another level, or no value."""

    source: int
    column: Column
    kind: Literal["number", "level", "other", "missing"]
    level: float = math.nan


class ColumnEncoder(nn.Module):
    """Maps raw columns [N, C] float64 to features [N, F] float32, bit-identical to those of ``Encoding.encode``.

    Raw columns are those that the encoding uses, in their order, as ``Encoding.to_numbers`` returns them: NaN is a
    missing value; categories are positions in their levels, and −1 for any other level. Infinity is a missing value, as
    in a table. float64, because large numbers that differ little, such as times in seconds, are equal in float32.
    """

    source: Tensor
    level: Tensor
    last: Tensor
    median: Tensor
    mean: Tensor
    std: Tensor
    is_number: Tensor
    is_missing: Tensor
    is_other: Tensor
    is_missing_apart: Tensor

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        features = [feature for source, column in enumerate(encoding.used) for feature in _list(source, column)]
        numbers = {
            "level": [feature.level for feature in features],
            "last": [len(feature.column.levels) - 1 for feature in features],
            **{name: [getattr(f.column, name) for f in features] for name in ("median", "mean", "std")},
        }
        flags = {
            **{f"is_{kind}": [f.kind == kind for f in features] for kind in ("number", "missing", "other")},
            "is_missing_apart": [feature.column.has_missing for feature in features],
        }
        self.register_buffer("source", torch.tensor([feature.source for feature in features]))
        for values, dtype in ((numbers, torch.float64), (flags, torch.bool)):
            for name, value in values.items():
                self.register_buffer(name, torch.tensor(value, dtype=dtype))
        self.has_only_numbers = all(feature.kind == "number" for feature in features)

    def forward(self, columns: Tensor) -> Tensor:
        cells = columns.to(torch.float64).index_select(1, self.source)
        is_known = cells.isfinite()
        filled = torch.where(is_known, cells, self.median)
        numbers = ((filled - self.mean) / self.std).clamp(-FAR, FAR).to(torch.float32)
        if self.has_only_numbers:
            return numbers
        is_level = cells == self.level
        is_other = ~((cells >= 0) & (cells <= self.last)) & (is_known | ~self.is_missing_apart)
        indicators = is_level | (self.is_other & is_other) | (self.is_missing & ~is_known)
        return torch.where(self.is_number, numbers, indicators.to(torch.float32))


def make_encoder(table: Encoding | None) -> nn.Module:
    """Return the module from raw inputs to those of a network before their normalisation.

    Args:
        table: how the columns of a table become inputs; None for other data, which stay as they are.
    """
    return nn.Identity() if table is None else ColumnEncoder(table)


def _list(source: int, column: Column) -> Iterator[_Feature]:
    """Yield the features of a column in the order of ``Column.features``."""
    if column.kind == "number":
        yield _Feature(source, column, "number")
    for level in range(len(column.levels)):
        yield _Feature(source, column, "level", level)
    if column.has_other:
        yield _Feature(source, column, "other")
    if column.has_missing:
        yield _Feature(source, column, "missing")
