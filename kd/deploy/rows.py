"""Rows of arrays and tables as raw inputs of a model: of its shape and type, with a name for each row."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd.data.sources.arrays import to_inputs
from kd.data.sources.labels import to_text
from kd.data.sources.table_encoding import Encoding
from kd.storage.npy import Array, read_array
from kd.storage.tables import read_npz, read_table
from kd.storage.text_table import read_text_table
from kd.storage.untrusted import read_bytes

SUFFIXES = (".npz", ".npy", ".csv", ".tsv")
_HINT = "Write the inputs with numpy.savez(file, x=…)."
_EXACT = 2.0**63  # whole numbers below are int64


@dataclass(frozen=True)
class InputForm:
    """The raw inputs of a model.

    Attributes:
        shape: of one input, without the batch dimension.
        dtype: "uint8", "float32" or "int64".
        mode: "L" or "RGB" if image files can be inputs, else None.
        table: how the columns of a table become inputs, which are then its raw columns (``kd.deploy.columns``); None if
            the cells of a table are the values of the inputs.
    """

    shape: tuple[int, ...]
    dtype: str
    mode: str | None = None
    table: Encoding | None = None

    def __str__(self) -> str:
        return f"{list(self.shape)} of {self.dtype}"


class Rows(NamedTuple):
    """Raw inputs [N, …] of the form's type, and a name for each."""

    inputs: Tensor
    names: list[str]


def read_rows(path: Path, form: InputForm, *, ids: str | None = None) -> Rows:
    """Read the rows of a ``.npz`` file with an array x, of a ``.npy`` file, or of a ``.csv`` file of numbers.

    An array may also be a single input without a batch dimension. If the form has a table, only ``.csv`` and ``.tsv``
    files are read, with its columns, in any order, and further ones; NaN is a missing value. Otherwise, the cells of a
    ``.csv`` row are the values of an input in row-major order, with or without a header.

    Args:
        ids: array (``.npz``) or column (``.csv``) that names the rows; None numbers them from 1.

    Raises:
        OSError: the file cannot be read or, if it is a ``.npz`` file, is damaged.
        MemoryError: the file needs more memory than is available.
        ValueError: the file is damaged, or its rows have another shape or type than the form.
    """
    if form.table is not None:
        if path.suffix.lower() not in (".csv", ".tsv"):
            raise ValueError(
                "the model takes rows of a table, with the columns of its training data, and an array has no columns. "
                "Save the rows as .csv, with a header"
            )
        return _encode_table(path, form.table, ids)
    match path.suffix.lower():
        case ".npz":
            values, found = _read_npz(path, ids)
        case ".npy" if ids is None:
            content = read_bytes(path)
            values, found = read_array(io.BytesIO(content), len(content), "buif"), None
        case ".csv":
            table = read_table(path, name="x", id_column=ids, check_shape=lambda shape: _require_cells(shape, form))
            values, found = table.values.reshape(-1, *form.shape), table.ids
        case ".npy":
            raise ValueError("an .npy file has no ids: use .npz or .csv, or omit --ids")
        case _:
            raise ValueError("cells separated by tabs are read for models of tables only. Save the rows as .csv")
    inputs = _to_type(_to_batch(values, form, is_table=path.suffix.lower() == ".csv"), form)
    if not len(inputs):
        raise ValueError("it has no rows")
    if found is not None and len(found) != len(inputs):
        raise ValueError(f"it should have an id for each of {len(inputs):,} rows. Got {len(found):,}")
    return Rows(inputs, found or _number_rows(len(inputs)))


def _number_rows(count: int) -> list[str]:
    return [f"row {number}" for number in range(1, count + 1)]


def _encode_table(path: Path, encoding: Encoding, ids: str | None) -> Rows:
    table = read_text_table(path)
    cells = {name: [row[column] for row in table.rows] for column, name in enumerate(table.names)}
    if ids is not None and ids not in cells:
        raise ValueError(f"it should have a column {ids!r} (--ids). Got {', '.join([*cells][:12])}")
    names = _number_rows(len(table.rows)) if ids is None else cells[ids]
    for line in encoding.describe_cells(cells):
        warnings.warn(f"{path.name}: {line}", stacklevel=2)
    return Rows(torch.from_numpy(encoding.to_numbers(cells)), names)


def _read_npz(path: Path, ids: str | None) -> tuple[Array, list[str] | None]:
    if ids not in (None, "ids"):
        raise ValueError(f"the names of its rows should be an array ids. Got --ids {ids}")
    arrays = read_npz(path, _HINT)
    for name in ("x", *([ids] if ids else [])):
        if name not in arrays:
            raise ValueError(f"it should hold an array {name}. Got {', '.join(arrays) or 'none'}. {_HINT}")
    return arrays["x"], to_text("ids", arrays["ids"]).ravel().tolist() if ids else None


def _require_cells(shape: tuple[int, ...], form: InputForm) -> None:
    if shape[1] != (cells := math.prod(form.shape)):
        raise ValueError(
            f"it should have {cells:,} columns, the values of an input {list(form.shape)}. Got {shape[1]:,}"
        )


def _to_batch(values: Array, form: InputForm, *, is_table: bool) -> Tensor:
    """Return inputs [N, …] of the form's shape; of a table, whole numbers are int64."""
    if is_table and bool((np.abs(values) < _EXACT).all()) and bool((values == np.rint(values)).all()):
        values = values.astype(np.int64)
    elif values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # overflow becomes infinity, which the caller refuses
            values = values.astype(np.float32)
    single = values.shape == form.shape or (form.shape[0] == 1 and values.shape == form.shape[1:])
    is_channels_last = len(form.shape) == 3 and values.shape == (*form.shape[1:], form.shape[0])  # a single image
    batch = values.reshape(1, *form.shape) if single else values[None] if is_channels_last else values
    inputs = to_inputs("the rows", batch)
    if tuple(inputs.shape[1:]) != form.shape:
        raise ValueError(f"its inputs should be {form}. Got an array {list(values.shape)} of {values.dtype}")
    return inputs


def _to_type(inputs: Tensor, form: InputForm) -> Tensor:
    """Return the inputs in the form's type, if every value stays the same number on the same scale."""
    wanted: torch.dtype = getattr(torch, form.dtype)
    if inputs.dtype == wanted:
        return inputs
    low, high = (float(inputs.min()), float(inputs.max())) if inputs.numel() else (0.0, 0.0)
    if wanted == torch.float32 and inputs.dtype == torch.int64:
        return inputs.float()
    if wanted == torch.int64 and inputs.dtype == torch.uint8:
        return inputs.long()
    if wanted == torch.uint8 and inputs.dtype == torch.int64 and low >= 0 and high <= 255:
        return inputs.to(torch.uint8)
    advice = {
        "uint8": "Pass the stored values 0 … 255, not scaled or normalised ones",
        "float32": "If they are on the scale of the training data, save them as float32",
        "int64": "Pass whole numbers, tokens as in training",
    }[form.dtype]
    got = f"{str(inputs.dtype).removeprefix('torch.')} from {low:.4g} to {high:.4g}"
    raise ValueError(f"its inputs should be {form.dtype}, as in training. Got {got}. {advice}")
