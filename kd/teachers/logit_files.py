"""A teacher of which only the answers are there: its logits from a file, in the order of the data, held against labels.

answers = read_logits("teacher.csv", labels=labels, classes=10, ids=file_names, id_column="file")
dataset = kd.DistillDataset(training, answers.logits)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd.checks import require, require_finite_logits
from kd.console import say
from kd.models.inference import Predictions
from kd.storage.tables import Array, Table, read_table
from kd.teachers.class_order import find_columns
from kd.teachers.label_agreement import verify_without_teacher

# Nothing has the logarithm of 0. A teacher rounded to six digits cannot say less than this.
FLOOR = 1e-6


def read_logits(
    path: Path | str,
    *,
    labels: Tensor,
    classes: int,
    kind: str = "logits",
    ids: Sequence[str] | None = None,
    id_column: str = "id",
    label_order: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Predictions:
    """Logits [N, K] float32 from a file, row i for item i, with the labels; what ``kd.DistillDataset`` takes.

    Their accuracy is measured and said, and so is what cannot be verified without the teacher.

    Args:
        path: ``.npy`` [N, K]; ``.npz`` with such an array, alone or named as ``kind``; ``.csv`` with a column per
            class, with or without a heading.
        labels: [N] int64, of the items in the order of the dataset.
        classes: K, of the data.
        kind: ``logits`` (log-probabilities are logits too), or ``probabilities``: their logarithm is taken, with
            those below 1e-6 raised to that, which is said.
        ids: of the items in the order of the dataset, where the file's rows are found by id: then rows may be in any
            order, and there may be more of them. None: row i of the file is item i's.
        id_column: column (``.csv``) or array (``.npz``) of the file that holds them.
        label_order: the names of the classes in the order of the file's columns, where it is not the data's. Not needed
            where a heading names the classes.
        class_names: of the data, in its order.

    Raises:
        OSError: the file cannot be read.
        ValueError: damaged; other rows, ids or classes than the data's; not finite; not of the kind that was given; or
            its accuracy is at chance level, as it is for rows in the wrong order.
    """
    path = Path(path)
    require(ids is None or len(ids) == len(labels), "ids", len(ids or ()), f"one for each of {len(labels):,} labels")
    require(kind in ("logits", "probabilities"), "kind", kind, "'logits' or 'probabilities'")
    table, logits = _read(path, kind, len(labels), classes, ids, id_column)
    if label_order is None and class_names and set(class_names) & set(table.columns or ()):
        label_order = table.columns
    if columns := find_columns(label_order, class_names, classes=classes):
        logits = logits[:, columns]
    predictions = Predictions(logits, labels)
    verify_without_teacher(predictions, name=str(path))
    return predictions


def _read(
    path: Path, kind: str, items: int, classes: int, ids: Sequence[str] | None, id_column: str
) -> tuple[Table, Tensor]:
    """Return the file's table, and from it the logits [N, K] float32 of the items in the order of the dataset."""
    try:
        table = read_table(path, name=kind, id_column=None if ids is None else id_column)
        _require_shape(table, items if ids is None else None, classes)
        values = table.values if ids is None else table.values[_rows_of(ids, table.ids or [], path)]
        with np.errstate(over="ignore"):  # float32 overflow becomes infinity, which is refused below
            return table, _as_logits(torch.from_numpy(values.astype(np.float32)), kind, path)
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(
            f"cannot read the teacher's {kind} in {path}: {reason}. Give an .npy, .npz or .csv file."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be used as the teacher's {kind}: {str(error).removesuffix('.')}.") from error


def _require_shape(table: Table, rows: int | None, classes: int) -> None:
    shape = list(table.values.shape)
    if len(shape) != 2 or shape[1] != classes:
        raise ValueError(f"it should hold rows of {classes} values, one for each class of the data. Got {shape}")
    if rows is not None and shape[0] != rows:
        raise ValueError(
            f"it should hold {rows:,} rows, one for each item in the order of the dataset. Got {shape[0]:,}. Where its "
            "rows are another selection, give ids"
        )
    if table.ids is not None and len(table.ids) != shape[0]:
        raise ValueError(f"it should hold one id for each of its {shape[0]:,} rows. Got {len(table.ids):,}")


def _rows_of(ids: Sequence[str], found: Sequence[str], path: Path) -> Array:
    """For each item the row that has its id."""
    row = {one: number for number, one in enumerate(found)}
    if len(row) < len(found):
        twice = next(one for number, one in enumerate(found) if row[one] != number)
        raise ValueError(f"each id should be there once. Got {twice!r} more than once")
    missing = [one for one in map(str, ids) if one not in row]
    if missing:
        raise ValueError(
            f"it should have a row for each of the {len(ids):,} items. Got none for {len(missing):,} of them, such as "
            f"{', '.join(map(repr, missing[:3]))}; its own ids are like {', '.join(map(repr, found[:3]))}"
        )
    if len(found) > len(ids):
        say(f"{path}: {len(found) - len(ids):,} of its {len(found):,} rows are of other items, and left out")
    return np.array([row[str(one)] for one in ids])


def _as_logits(values: Tensor, kind: str, path: Path) -> Tensor:
    require_finite_logits(f"its {kind}", values, "Save them anew, as numbers within the range of float32")
    distributions = bool((values >= 0).all()) and bool(((values.sum(dim=1) - 1).abs() <= 0.01).all())
    if kind == "logits":
        if distributions:
            raise ValueError("all rows are probabilities: not negative, with a sum of 1. Give kind='probabilities'")
        return values
    if not distributions:
        low, sums = float(values.min()), values.sum(dim=1)
        raise ValueError(
            f"each row should be at least 0 and have a sum of 1. Got values from {low:.3g} and sums from "
            f"{float(sums.min()):.3g} to {float(sums.max()):.3g}. Scores before the softmax are kind='logits'"
        )
    raised = int((values < FLOOR).sum())
    clipped = f", {raised:,} of {values.numel():,} values below {FLOOR:g} raised to it" if raised else ""
    say(f"{path}: the logarithm of its probabilities is taken{clipped}")
    return values.clamp(min=FLOOR).log()
