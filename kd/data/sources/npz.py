"""``.npz``: arrays x_train, y_train, and so on, read from an archive that is checked before anything is unpacked."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from kd.checks import DamagedDataError
from kd.data.sources.arrays import from_arrays
from kd.data.sources.labels import in_label_order
from kd.data.sources.source import Source
from kd.storage.untrusted import SIZE_LIMIT, read_bytes

Array = np.ndarray[Any, Any]

NAMES = ("x", "y", *(f"{axis}_{part}" for part in ("train", "val", "test") for axis in "xy"), "classes")
LIMIT = SIZE_LIMIT  # bytes, of the file and of all arrays unpacked
_HINT = "Write it with numpy.savez(file, x_train=…, y_train=…, x_test=…, y_test=…)."


def open_npz(path: Path, classes: list[str] | None = None) -> Source:
    """The arrays x_train and y_train, or x and y, and where they are there x_val, y_val, x_test, y_test and classes.

    Raises:
        DamagedDataError: the file is missing, no archive, damaged, too large, or holds what is not plain arrays.
        ValueError: arrays are missing, or are no inputs and labels.
    """
    arrays = arrays_in(path, _HINT)
    _require_pairs(path, arrays)
    if "x" in arrays:
        arrays = {f"{name}_train" if name in "xy" else name: values for name, values in arrays.items()}
    parts = [part for part in ("train", "val", "test") if f"x_{part}" in arrays]
    inputs, labels = ({part: arrays[f"{axis}_{part}"] for part in parts} for axis in "xy")
    named = arrays["classes"].astype(str).ravel().tolist() if "classes" in arrays else None
    return from_arrays(path.stem, inputs, labels, in_label_order(labels["train"], named, classes))


def arrays_in(path: Path, hint: str) -> dict[str, Array]:
    """What ``read_npz`` reads; a ``DamagedDataError`` that ends with the hint where it cannot."""
    try:
        return read_npz(path)
    except Exception as error:  # zipfile, zlib and numpy's parser have a dozen kinds for what is damaged
        reason = str(error).removesuffix(".")
        raise DamagedDataError(f"cannot read the data file {path}: {reason}. {hint}") from error


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an archive by name, those that ``open_npz`` knows.

    What an archive and its arrays say about their sizes is held against each other first, so that a small file cannot
    fill the memory; no pickle is ever read.

    Raises:
        ValueError: too large, or an array is of objects or not as large as it says.
        Exception: whatever zipfile and numpy raise for what is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(read_bytes(path.resolve(), limit=LIMIT))) as archive:
        members = [member for member in archive.infolist() if member.filename.removesuffix(".npy") in NAMES]
        unpacked = sum(member.file_size for member in members)
        if unpacked > LIMIT:
            raise ValueError(f"it unpacks to more than {LIMIT:,} bytes. Got {unpacked:,}")
        if len({member.filename.removesuffix(".npy") for member in members}) < len(members):
            raise ValueError("two arrays in it have one name")
        found = {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
        unused = sorted({name.removesuffix(".npy") for name in archive.namelist()} - set(found))
    if unused:
        warnings.warn(f"{path} has arrays that are not used: {', '.join(unused[:10])}.", stacklevel=3)
    return found


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in {(1, 0), (2, 0)}:
            raise ValueError(f"its array {name} is of format {version}, where numpy writes plain ones as (1, 0)")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype.hasobject:
            raise ValueError(f"its array {name} is of Python objects, which are not read: they could run code")
        if stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"its array {name} is not as large as its shape {list(shape)} of {dtype} says")
    with archive.open(member) as stream:
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _require_pairs(path: Path, arrays: dict[str, Array]) -> None:
    inputs, labels = ({name[1:] for name in arrays if name[0] == axis} for axis in "xy")
    if inputs != labels or ("" in inputs) == ("_train" in inputs):
        raise ValueError(
            f"{path} must hold x_train and y_train (or x and y), and x_val with y_val, x_test with y_test. Got "
            f"{', '.join(arrays) or 'none of them'} instead. {_HINT}"
        )
