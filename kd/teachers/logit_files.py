"""Precomputed teacher logits from a file, sorted in the order of the dataset and checked against the labels.

Example:

    predictions = read_logits("teacher.csv", labels=labels, classes=10, ids=file_names, id_column="file")
    dataset = kd.DistillDataset(training, predictions.logits)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd.checks import require, require_finite_logits
from kd.console import say
from kd.losses.logit_kind import require_logits_kind, require_probabilities
from kd.models.inference import Predictions
from kd.storage.npy import CheckShape
from kd.storage.tables import Table, find_rows, read_table
from kd.teachers.class_map import (
    MapRow,
    describe_share_outside,
    find_members,
    map_outputs,
    measure_share_outside,
    pad_members,
    read_class_map,
)
from kd.teachers.class_order import ONE_OUTPUT, find_columns
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
    label_map: Path | str | None = None,
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
        label_map: CSV file that assigns columns to the data's classes, by the header's names or by index
            (``kd.teachers.class_map``), for files with other classes; requires ``class_names``.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, does not fit the data, has values that are not finite or not of this ``kind``,
            or its accuracy is at chance level, as for rows in the wrong order.
    """
    path = Path(path)
    require(ids is None or len(ids) == len(labels), "ids", len(ids or ()), f"one for each of {len(labels):,} labels")
    require(kind in ("logits", "probabilities"), "kind", kind, "'logits' or 'probabilities'")
    if label_map is not None and (class_names is None or label_order is not None):
        got = "no class_names" if class_names is None else "label_order too"
        raise ValueError(f"label_map requires class_names, and omits label_order. Got {got}.")
    rows = None if label_map is None else read_class_map(label_map)
    table, logits = _read_file(path, kind, len(labels), classes if rows is None else None, ids, id_column)
    if rows is not None:
        logits = _map_columns(logits, rows, class_names or (), table.columns, path)
    elif label_order is None and class_names and set(class_names) & set(table.columns or ()):
        label_order = table.columns
    if columns := find_columns(label_order, class_names, classes=classes):
        logits = logits[:, columns]
    predictions = Predictions(logits, labels)
    verify_without_teacher(predictions, name=str(path))
    return predictions


def _map_columns(
    logits: Tensor, rows: Sequence[MapRow], class_names: Sequence[str], columns: list[str] | None, path: Path
) -> Tensor:
    """Return the logits of the data's classes, and print the share of probability outside the map."""
    members = find_members(rows, class_names, outputs=logits.shape[1], output_names=columns)
    padded = pad_members(members)
    share = measure_share_outside(logits, padded)
    say(f"{path}: {describe_share_outside(share)} ({len(logits):,} rows)")
    return map_outputs(logits, padded)


def _read_file(
    path: Path, kind: str, samples: int, classes: int | None, ids: Sequence[str] | None, id_column: str
) -> tuple[Table, Tensor]:
    """Return the table of a file, and its logits [N, K] float32 in the order of the dataset."""
    table, values = read_rows(path, kind, samples, ids, id_column, check_columns=partial(_require_classes, classes))
    with _adding_file_to_errors(kind, path):
        return table, _convert_to_logits(values, kind, path)


def read_rows(
    path: Path, kind: str, samples: int, ids: Sequence[str] | None, id_column: str, *, check_columns: CheckShape
) -> tuple[Table, Tensor]:
    """Return a table of the teacher, and its values [N, C] float32 in the order of the dataset.

    Args:
        kind: name of the values in errors, and of their array in an ``.npz`` file.
        samples: number of samples N.
        ids, id_column: see ``read_logits``.
        check_columns: raises ``ValueError`` for a shape with other columns than needed.

    Raises:
        OSError, MemoryError, ValueError: see ``read_logits``.
    """

    def check_shape(shape: tuple[int, ...]) -> None:
        check_columns(shape)
        _require_rows(shape, samples if ids is None else None)

    with _adding_file_to_errors(kind, path):
        table = read_table(
            path,
            name=kind,
            id_column=None if ids is None else id_column,
            check_shape=check_shape,
        )
        values = table.values if ids is None else table.values[find_rows(ids, table.ids or [], path)]
        with np.errstate(over="ignore"):  # float32 overflow becomes infinity, which raises below
            converted = torch.from_numpy(values.astype(np.float32))
        require_finite_logits(f"its {kind}", converted, "Save values within the range of float32")
        return table, converted


@contextmanager
def _adding_file_to_errors(kind: str, path: Path) -> Iterator[None]:
    """Add the file and the kind of its values to an error raised inside the block."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"cannot read teacher {kind} from {path}: {error or 'an allocation failed.'}") from error
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(
            f"cannot read teacher {kind} from {path}: {reason}. Pass an .npy, .npz or .csv file."
        ) from error
    except ValueError as error:
        raise ValueError(f"invalid teacher {kind} in {path}: {str(error).removesuffix('.')}.") from error


def _require_classes(classes: int | None, shape: tuple[int, ...]) -> None:
    if len(shape) == 2 and classes in (None, shape[1]):
        return
    if classes == 2 and shape[1:] in ((), (1,)):
        raise ValueError(f"it must have 2 columns, one per class of the data. Got shape {list(shape)}. {ONE_OUTPUT}")
    if classes is None or len(shape) != 2:
        columns = "rows and columns" if classes is None else f"{classes} columns, one per class of the data"
        raise ValueError(f"it must have {columns}. Got shape {list(shape)}")
    raise ValueError(
        f"it must have {classes} columns, one per class of the data. Got shape {list(shape)}. If its classes are "
        "others, map them with --label-map FILE.csv (label_map=), or fit a head on them with --teacher embeddings=FILE"
    )


def _require_rows(shape: tuple[int, ...], rows: int | None) -> None:
    if rows is not None and shape[0] != rows:
        raise ValueError(
            f"it must have {rows:,} rows, one per sample in the order of the dataset. Got {shape[0]:,}. Pass ids "
            "(--ids) if the file has different rows or a different order"
        )


def _convert_to_logits(values: Tensor, kind: str, path: Path) -> Tensor:
    if kind == "logits":
        require_logits_kind("values", values)
        return values
    require_probabilities("values", values)
    below = int((values < FLOOR).sum())
    clipped = f", {below:,} of {values.numel():,} values clipped at {FLOOR:g}" if below else ""
    say(f"{path}: probabilities converted to log-probabilities{clipped}")
    return values.clamp(min=FLOOR).log()
