"""Precomputed teacher logits from a file, sorted in the order of the dataset and checked against the labels.

Example:

    predictions = read_logits("teacher.csv", labels=labels, classes=10, ids=file_names, id_column="file")
    dataset = kd.DistillDataset(training, predictions.logits)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd.checks import require, require_finite_logits
from kd.console import say
from kd.models.inference import Predictions
from kd.models.outputs import require_logits_kind, require_probabilities
from kd.storage.npy import Array
from kd.storage.tables import Table, read_table
from kd.teachers.class_order import find_columns
from kd.teachers.label_agreement import verify_without_teacher

# Lower bound of probabilities before the logarithm: the resolution of values rounded to six digits.
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
    """Read logits [N, K] float32 from a file, row i for sample i, and return them with the labels.

    Prints the accuracy, and a note on what cannot be verified without the teacher.

    Args:
        path: ``.npy`` [N, K]; ``.npz`` with such an array, named like ``kind`` or the only one; ``.csv`` with a column
            per class, with or without a header.
        labels: [N] int64, in the order of the dataset.
        classes: number of classes K in the data.
        kind: ``logits`` (including log-probabilities), or ``probabilities``, which are clipped at 1e-6 and converted by
            the logarithm.
        ids: sample ids in the order of the dataset. Rows of the file may then have any order, and extra rows are
            ignored. None if row i of the file belongs to sample i.
        id_column: column (``.csv``) or array (``.npz``) that contains the ids.
        label_order: class names in the order of the columns, if it differs from the data. Not needed if a header names
            the classes.
        class_names: class names in the order of the data.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, does not fit the data, has values that are not finite or not of this ``kind``,
            or its accuracy is at chance level, as for rows in the wrong order.
    """
    path = Path(path)
    require(ids is None or len(ids) == len(labels), "ids", len(ids or ()), f"one for each of {len(labels):,} labels")
    require(kind in ("logits", "probabilities"), "kind", kind, "'logits' or 'probabilities'")
    table, logits = _read_file(path, kind, len(labels), classes, ids, id_column)
    if label_order is None and class_names and set(class_names) & set(table.columns or ()):
        label_order = table.columns
    if columns := find_columns(label_order, class_names, classes=classes):
        logits = logits[:, columns]
    predictions = Predictions(logits, labels)
    verify_without_teacher(predictions, name=str(path))
    return predictions


def _read_file(
    path: Path, kind: str, samples: int, classes: int, ids: Sequence[str] | None, id_column: str
) -> tuple[Table, Tensor]:
    """Return the table of a file, and its logits [N, K] float32 in the order of the dataset."""
    try:
        table = read_table(
            path,
            name=kind,
            id_column=None if ids is None else id_column,
            check_shape=partial(_require_shape, rows=samples if ids is None else None, classes=classes),
        )
        if table.ids is not None and len(table.ids) != len(table.values):
            raise ValueError(f"it must have one id for each of its {len(table.values):,} rows. Got {len(table.ids):,}")
        values = table.values if ids is None else table.values[_find_rows(ids, table.ids or [], path)]
        with np.errstate(over="ignore"):  # float32 overflow becomes infinity, which raises below
            return table, _convert_to_logits(torch.from_numpy(values.astype(np.float32)), kind, path)
    except MemoryError as error:
        raise MemoryError(f"cannot read teacher {kind} from {path}: {error or 'an allocation failed.'}") from error
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(
            f"cannot read teacher {kind} from {path}: {reason}. Pass an .npy, .npz or .csv file."
        ) from error
    except ValueError as error:
        raise ValueError(f"invalid teacher {kind} in {path}: {str(error).removesuffix('.')}.") from error


def _require_shape(shape: tuple[int, ...], rows: int | None, classes: int) -> None:
    if len(shape) != 2 or shape[1] != classes:
        raise ValueError(f"it must have {classes} columns, one per class of the data. Got shape {list(shape)}")
    if rows is not None and shape[0] != rows:
        raise ValueError(
            f"it must have {rows:,} rows, one per sample in the order of the dataset. Got {shape[0]:,}. Pass ids if "
            "the file has different rows or a different order"
        )


def _find_rows(ids: Sequence[str], file_ids: Sequence[str], path: Path) -> Array:
    """Return the row of each id in the file."""
    row_of = {id_: row for row, id_ in enumerate(file_ids)}
    if len(row_of) < len(file_ids):
        duplicate = next(id_ for row, id_ in enumerate(file_ids) if row_of[id_] != row)
        raise ValueError(f"ids must be unique. Got {duplicate!r} more than once")
    missing = [id_ for id_ in map(str, ids) if id_ not in row_of]
    if missing:
        raise ValueError(
            f"it must have a row for each of the {len(ids):,} samples. {len(missing):,} ids are missing, such as "
            f"{', '.join(map(repr, missing[:3]))}; the file has ids such as {', '.join(map(repr, file_ids[:3]))}"
        )
    if len(file_ids) > len(ids):
        say(f"{path}: {len(file_ids) - len(ids):,} of {len(file_ids):,} rows belong to no sample and are ignored")
    return np.array([row_of[str(id_)] for id_ in ids])


def _convert_to_logits(values: Tensor, kind: str, path: Path) -> Tensor:
    require_finite_logits(f"its {kind}", values, "Save values within the range of float32")
    if kind == "logits":
        require_logits_kind("values", values)
        return values
    require_probabilities("values", values)
    below = int((values < FLOOR).sum())
    clipped = f", {below:,} of {values.numel():,} values clipped at {FLOOR:g}" if below else ""
    say(f"{path}: probabilities converted to log-probabilities{clipped}")
    return values.clamp(min=FLOOR).log()
