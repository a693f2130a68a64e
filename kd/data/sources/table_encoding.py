"""Tables before and after their columns become numbers. Everything is fitted on the training rows alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from kd.console import printable_name, say
from kd.data.datasets import ArrayDataset, Split, hash_input, unwrap_subsets
from kd.data.sources.table_columns import (
    REMEDY,
    Codes,
    Column,
    column_from_json,
    explain_numbers,
    fit_column,
    is_missing,
    parse_numbers,
    to_level,
)

_SHOWN = 3  # cells or columns in a message
_MOST_LINES = 30  # printed on single columns


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How the rows of a table become inputs of a model.

    Attributes:
        target: name of the column with the classes.
        columns: all other columns, in their order.
    """

    target: str
    columns: tuple[Column, ...]

    @property
    def features(self) -> list[str]:
        """Names of the F features of an input, in their order."""
        return [feature for column in self.columns for feature in column.features]

    @property
    def used(self) -> list[Column]:
        """The C columns with features, in their order."""
        return [column for column in self.columns if column.kind != "unused"]

    def encode(self, cells: Mapping[str, Sequence[str]]) -> NDArray[np.float32]:
        """Return inputs [N, F] for a model from cells [N] of each column, as text; further columns are ignored.

        Raises:
            ValueError: a column that is used is missing.
        """
        self._require_columns(cells)
        return np.concatenate([column.encode(cells[column.name]) for column in self.used], axis=1)

    def to_numbers(self, cells: Mapping[str, Sequence[str]]) -> NDArray[np.float64]:
        """Return cells [N] of each column, as text, as numbers [N, C] (``Column.to_numbers``) of the used columns.

        Raises:
            ValueError: a column that is used is missing.
        """
        self._require_columns(cells)
        return np.stack([column.to_numbers(cells[column.name]) for column in self.used], axis=1)

    def _require_columns(self, cells: Mapping[str, Sequence[str]]) -> None:
        if missing := [column.name for column in self.used if column.name not in cells]:
            raise ValueError(f"the table must have the columns of the training data. It lacks {_list(missing)}.")

    def describe_cells(self, cells: Mapping[str, Sequence[str]]) -> list[str]:
        """Return a sentence for each column with cells [N] that are unusable or not in the training data.

        Unused and absent columns are skipped.
        """
        lines = [line for c in self.columns if c.name in cells for line in _describe_new_cells(c, cells[c.name])]
        return lines[:_MOST_LINES]

    def to_json(self) -> dict[str, Any]:
        """Return the encoding as JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Encoding:
        """Return the encoding from ``to_json``.

        Raises:
            ValueError: a value is missing or of another type.
        """
        try:
            return cls(str(values["target"]), tuple(map(column_from_json, values["columns"])))
        except (TypeError, KeyError) as error:
            raise ValueError(f"the description of a table's columns is damaged: {error!r}") from error


class RawTable(Dataset[tuple[Tensor, int]]):
    """A table as text; samples are (codes of the cells [C] int32, label).

    Attributes:
        target: name of the column with the classes.
        names: of the C columns.
        levels: for each column, its different cells.
        codes: [N, C] index of the level of each cell.
        labels: [N] int64, from 0.
    """

    by_rows = True

    def __init__(
        self, target: str, names: Sequence[str], levels: Sequence[Sequence[str]], codes: Codes, labels: Tensor
    ) -> None:
        self.target, self.names, self.levels, self.codes, self.labels = target, names, levels, codes, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.codes[index]), int(self.labels[index])

    def digests(self, rows: NDArray[np.int64]) -> list[bytes]:
        """Return a hash of the cells of each row, without unused columns: an identifier would hide equal rows."""
        columns = zip(self.names, self.levels, self.codes.T, strict=True)
        used = [fit_column(name, levels, codes).kind != "unused" for name, levels, codes in columns]
        codes = self.codes[rows][:, used] if any(used) else self.codes[rows]
        return [hash_input(row) for row in np.ascontiguousarray(codes)]

    def fit(self, rows: NDArray[np.int64]) -> Encoding:
        """Return the encoding that is fitted on these rows.

        Raises:
            ValueError: no column has any information.
        """
        columns = tuple(
            fit_column(name, levels, codes[rows])
            for name, levels, codes in zip(self.names, self.levels, self.codes.T, strict=True)
        )
        encoding = Encoding(self.target, columns)
        if not encoding.features:
            reasons = "; ".join(f"{printable_name(column.name)}: {column.reason}" for column in columns[:10])
            raise ValueError(f"the table must have a column besides {self.target!r} to learn from. Got {reasons}.")
        return encoding

    def to_numbers(self, encoding: Encoding) -> NDArray[np.float64]:
        """Return all rows as numbers [N, C]: ``Encoding.to_numbers`` of their cells."""
        columns = zip(encoding.columns, self.levels, self.codes.T, strict=True)
        used = [column.to_numbers(levels)[codes] for column, levels, codes in columns if column.kind != "unused"]
        return np.stack(used, axis=1)


class EncodedTable(ArrayDataset):
    """A table as numbers; samples are (input [F] float32, label). Numbers are standardised, indicators are 0 or 1.

    Attributes:
        encoding: maps rows of text to inputs, as JSON data (``Encoding.from_json``).
    """

    def __init__(self, table: RawTable, encoding: Encoding) -> None:
        parts = [
            column.encode(levels)[codes]
            for column, levels, codes in zip(encoding.columns, table.levels, table.codes.T, strict=True)
        ]
        super().__init__(torch.from_numpy(np.concatenate(parts, axis=1)), table.labels, mean=0.0, std=1.0)
        self.encoding = encoding.to_json()


def encode_splits(splits: Mapping[str, Dataset[Any]]) -> dict[str, Dataset[Any]]:
    """Encode all splits of one table with the encoding fitted on "train", and print a summary.

    Args:
        splits: subsets of one ``RawTable``, including "train".
    """
    tables = {name: unwrap_subsets(dataset) for name, dataset in splits.items()}
    base, training = tables["train"]
    if not (isinstance(base, RawTable) and all(table is base for table, _ in tables.values())):
        raise ValueError("all splits must be parts of one table, so that they are encoded in the same way.")
    encoding = base.fit(training.numpy())
    rows = {name: rows.numpy() for name, (_, rows) in tables.items()}
    cells = [*_describe_numbers(base, encoding, rows["train"]), *_describe_cells(base, encoding, rows)]
    for line in (*_describe(encoding), *cells[:_MOST_LINES]):
        say(line)
    if len(cells) > _MOST_LINES:
        say(f"table: {len(cells) - _MOST_LINES:,} more lines on single columns are left out")
    encoded = EncodedTable(base, encoding)
    return {name: Split(encoded, indices.tolist()) for name, (_, indices) in tables.items()}


def encoding_of(dataset: Dataset[Any]) -> Encoding | None:
    """Return the encoding of an encoded table or a part of one; None for other datasets."""
    base, _ = unwrap_subsets(dataset)
    return Encoding.from_json(base.encoding) if isinstance(base, EncodedTable) else None


def _describe(encoding: Encoding) -> list[str]:
    """Return lines on the columns: their kinds, and the unused ones with the reason."""
    by_kind = {kind: [c for c in encoding.columns if c.kind == kind] for kind in ("number", "category", "unused")}
    counts = f"{len(by_kind['number'])} of numbers, {len(by_kind['category'])} of categories"
    lines = [f"table: {len(encoding.columns)} columns ({counts}) make {len(encoding.features)} inputs"]
    for reason in dict.fromkeys(column.reason for column in by_kind["unused"]):
        names = [column.name for column in by_kind["unused"] if column.reason == reason]
        lines.append(f"table: not used are {_list(names)}: {reason}")
    filled = [f"{printable_name(c.name)!r} {c.median:g}" for c in by_kind["number"] if c.has_missing]
    if filled:
        lines.append(
            f"table: missing numbers become the training median, with an indicator: {_list(filled, quote=False)}"
        )
    return lines


def _describe_numbers(table: RawTable, encoding: Encoding, rows: NDArray[np.int64]) -> list[str]:
    """Return lines on categories with numbers, such as "12 kg", or 5 and 7 in a column with "unknown"."""
    lines = []
    for column, levels, codes in zip(encoding.columns, table.levels, table.codes.T, strict=True):
        if column.kind == "category":
            found = np.bincount(codes[rows], minlength=len(levels)).tolist()
            counts = {cell: n for cell, n in zip(levels, found, strict=True) if n and not is_missing(cell)}
            if explanation := explain_numbers(counts):
                name = printable_name(column.name)
                lines.append(f"table: {name!r} has {explanation}. Now frequent values are categories of their own")
    return lines


def _describe_cells(table: RawTable, encoding: Encoding, rows: Mapping[str, NDArray[np.int64]]) -> list[str]:
    """Return lines on the cells without a feature, by column and split."""
    lines = []
    for column, levels, codes in zip(encoding.columns, table.levels, table.codes.T, strict=True):
        cells = {split: np.bincount(codes[index], minlength=len(levels)) for split, index in rows.items()}
        name = printable_name(column.name)
        is_empty = np.array([is_missing(level) for level in levels])
        if column.kind == "number":
            wrong = np.isnan(parse_numbers(levels)) & ~is_empty
            lines += _count(
                f"table: {name!r} has cells that are no numbers and count as missing", wrong, levels, cells, REMEDY
            )
            new = {} if column.has_missing else {split: n for split, n in cells.items() if split != "train"}
            lines += _count(
                f"table: {name!r} is missing only outside of train, and becomes the median", is_empty, (), new
            )
        elif column.kind == "category":
            seen = {to_level(levels[code]) for code in np.flatnonzero(cells["train"]).tolist()}
            known = np.array([to_level(level) in column.levels for level in levels]) | is_empty
            unseen = np.array([to_level(level) not in seen for level in levels]) & ~is_empty
            rare = ~known & ~unseen
            lines += _count(f"table: rare values of {name!r} are together 'other'", rare, levels, cells)
            lines += _count(
                f"table: values of {name!r} that train does not have count as 'other'", unseen, levels, cells
            )
    return lines


def _describe_new_cells(column: Column, cells: Sequence[str]) -> list[str]:
    """Return sentences on the cells of a column of new rows that have no feature."""
    name, total = printable_name(column.name), len(cells)
    missing = [cell for cell in cells if is_missing(cell)]
    wrong: list[str] = []
    lines = []
    level = "'other'" if column.has_other else "no level"
    if column.kind == "number":
        numbers = parse_numbers(cells)
        wrong = [cell for cell, n in zip(cells, numbers, strict=True) if math.isnan(n) and not is_missing(cell)]
        effect = f"count as missing ({_list(list(dict.fromkeys(wrong)))}): {REMEDY}"
        lines += [f"{len(wrong):,} of {total:,} cells of {name!r} are not numbers and {effect}."] if wrong else []
    elif column.kind == "category":
        wrong = [cell for cell in cells if to_level(cell) not in column.levels and not is_missing(cell)]
        kind = "rare or not in training" if column.has_other else "levels not in training"
        effect = f"count as {level} ({_list(list(dict.fromkeys(wrong)))})"
        lines += [f"{len(wrong):,} of {total:,} cells of {name!r} are {kind} and {effect}."] if wrong else []
    if missing and not column.has_missing and column.kind != "unused":
        effect = f"become the median {column.median:g}" if column.kind == "number" else f"count as {level}"
        lines.append(
            f"{len(missing):,} of {total:,} cells of {name!r} are missing, as never in training, and {effect}."
        )
    if column.kind != "unused" and total and len(wrong) + len(missing) == total:
        lines.append(f"No cell of {name!r} can be used: the predictions are made without this column.")
    return lines


def _count(
    title: str, chosen: NDArray[np.bool_], levels: Sequence[str], cells: Mapping[str, Any], remedy: str = ""
) -> list[str]:
    """Return a line with the number of rows of each split that have a chosen level; none if no row has one."""
    counts = {split: int(numbers[chosen].sum()) for split, numbers in cells.items()}
    listed = ", ".join(f"{count:,} of {split}" for split, count in counts.items() if count)
    examples = [levels[index] for index in np.flatnonzero(chosen).tolist()] if levels else []
    after = f"; {remedy}" if remedy else ""
    return [f"{title}: {listed}{f' ({_list(examples)})' if examples else ''}{after}"] if listed else []


def _list(names: Sequence[str], *, quote: bool = True) -> str:
    shown = [repr(printable_name(name)) if quote else name for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
