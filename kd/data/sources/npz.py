"""``.npz``: arrays x_train, y_train, and so on, read from an archive that is checked before anything is unpacked."""

from __future__ import annotations

from pathlib import Path

from kd.data.sources.arrays import from_arrays
from kd.data.sources.labels import in_label_order
from kd.data.sources.source import Source
from kd.storage.tables import Array, arrays_in

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


def _require_pairs(path: Path, arrays: dict[str, Array]) -> None:
    inputs, labels = ({name[1:] for name in arrays if name[0] == axis} for axis in "xy")
    if inputs != labels or ("" in inputs) == ("_train" in inputs):
        raise ValueError(
            f"{path} must hold x_train and y_train (or x and y), and x_val with y_val, x_test with y_test. Got "
            f"{', '.join(arrays) or 'none of them'} instead. {_HINT}"
        )
