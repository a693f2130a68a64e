"""Files of true classes and predictions, with rows and columns in one order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd.commands.judge.settings import JudgeSettings
from kd.console import say
from kd.storage.npy import Array
from kd.storage.tables import Table, find_rows, read_table

_STUDENT = re.compile(r"\b(control|distilled|smoothed)\[(\d+)\]")


class Predictions(NamedTuple):
    """What ``kd.judge`` takes: true classes [N], and the predictions of each student by arm, in the order of items."""

    labels: Tensor
    control: list[Tensor]
    distilled: list[Tensor]
    smoothed: list[Tensor]


def read_predictions(settings: JudgeSettings) -> Predictions:
    """Read all files; rows follow the ids of the labels, and columns the names of the classes, if there are any.

    Raises:
        ValueError: a file is damaged or does not fit the others.
        OSError: a file cannot be read.
    """
    table = _read(settings.labels, "classes", settings.ids, _require_column)
    with _naming(settings.labels):
        labels = _to_classes(table.values)
        if table.ids is not None:
            find_rows(table.ids, table.ids, settings.labels)  # each id must be unique
    names = list(settings.class_names)

    def read(path: Path) -> Tensor:
        check = _require_column if settings.kind == "classes" else partial(_require_rows, len(labels), settings.ids)
        predictions = _read(path, settings.kind, settings.ids, check)
        with _naming(path):
            values = predictions.values
            if predictions.ids is not None and table.ids is not None:
                values = values[find_rows(table.ids, predictions.ids, path)]
            if settings.kind == "classes":
                return _to_classes(values)
            names.extend(predictions.columns or [] if not names else [])
            return torch.from_numpy(_order_columns(path, values, predictions.columns, names).astype(np.float64))

    return Predictions(
        labels, *([read(path) for path in files] for files in (settings.control, settings.distilled, settings.smoothed))
    )


def _read(path: Path, name: str, ids: str | None, check_shape: Callable[[Sequence[int]], None]) -> Table:
    with _naming(path, " Classes are numbers from 0." if name == "classes" else ""):
        return read_table(path, name=name, id_column=ids, check_shape=check_shape)


@contextmanager
def _naming(path: Path, advice: str = "") -> Iterator[None]:
    """Add the file, and advice if the content is wrong, to an error raised inside the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"cannot use {path}: {str(error).removesuffix('.')}.{advice}") from error
    except OSError as error:
        raise type(error)(f"cannot read {path}: {error.strerror or error}.") from error


@contextmanager
def naming_files(settings: JudgeSettings) -> Iterator[None]:
    """Name the files in an error of ``kd.judge`` raised inside the block, in place of ``control[0]``."""
    try:
        yield
    except ValueError as error:
        name = _STUDENT.sub(lambda found: str(getattr(settings, found[1])[int(found[2])]), str(error))
        raise ValueError(name) from error


def _order_columns(path: Path, values: Array, columns: list[str] | None, names: Sequence[str]) -> Array:
    """Return the columns in the order of the classes' names, if the header has any of these."""
    if not columns or not set(names) & set(columns) or columns == names:
        return values
    if sorted(columns) != sorted(names):
        raise ValueError(
            f"its columns should be the classes {', '.join(names[:12])}, as in the other files or --class-names. Got "
            f"{', '.join(columns[:12])}"
        )
    say(f"{path}: its columns are reordered by the names of the classes")
    return values[:, [columns.index(name) for name in names]]


def _to_classes(values: Array) -> Tensor:
    classes = values.reshape(-1)
    if wrong := np.flatnonzero(classes != np.rint(classes)).tolist():
        raise ValueError(
            f"it must hold whole numbers, one class for each item. Got {classes[wrong[0]]} in row {wrong[0]}"
        )
    return torch.from_numpy(classes.astype(np.int64))


def _require_rows(rows: int, ids: str | None, shape: Sequence[int]) -> None:
    if len(shape) != 2 or (shape[0] != rows and ids is None):
        raise ValueError(
            f"it must have a row for each of {rows:,} labels. Got shape {list(shape)}. Name a column of ids with "
            "--ids if files have different rows or a different order"
        )


def _require_column(shape: Sequence[int]) -> None:
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise ValueError(
            f"it must have a single column, the class of each item. Got shape {list(shape)}. Name a column of ids with "
            "--ids"
        )
