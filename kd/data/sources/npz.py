"""``.npz`` archives with arrays x_train, y_train, …, validated before anything is decompressed."""

from __future__ import annotations

from pathlib import Path

from kd.data.sources.arrays import from_arrays
from kd.data.sources.labels import choose_class_names, to_text
from kd.data.sources.source import Source
from kd.storage.npy import Array
from kd.storage.tables import read_npz

_HINT = "Write it with numpy.savez(file, x_train=…, y_train=…, x_test=…, y_test=…)."


def open_npz(path: Path, classes: list[str] | None = None) -> Source:
    """Open the arrays x_train and y_train (or x and y), and optional x_val, y_val, x_test, y_test and classes.

    A name for each sample may be given for all splits: ids_train (or ids), ids_val, ids_test.

    Raises:
        DamagedDataError: the file is missing, not an archive, damaged, too large, or holds anything but plain arrays.
        ValueError: arrays are missing or are not valid inputs and labels.
    """
    arrays = read_npz(path, _HINT)
    _require_pairs(path, arrays)
    if "x" in arrays:
        arrays = {f"{name}_train" if name in ("x", "y", "ids") else name: values for name, values in arrays.items()}
    splits = [split for split in ("train", "val", "test") if f"x_{split}" in arrays]
    inputs, labels = ({split: arrays[f"{axis}_{split}"] for split in splits} for axis in "xy")
    stored = to_text("classes", arrays["classes"]).ravel().tolist() if "classes" in arrays else None
    source = from_arrays(path.stem, inputs, labels, choose_class_names(labels["train"], stored, classes))
    return source._replace(ids=_read_ids(path, arrays, {split: len(values) for split, values in inputs.items()}))


def _read_ids(path: Path, arrays: dict[str, Array], sizes: dict[str, int]) -> dict[str, list[str]] | None:
    given = {name.removeprefix("ids_"): values for name, values in arrays.items() if name.startswith("ids_")}
    if not given:
        return None
    if given.keys() != sizes.keys():
        raise ValueError(
            f"{path} must hold ids for all of its splits ({', '.join(sizes)}), or none. Got ids for {', '.join(given)}."
        )
    ids = {split: to_text(f"ids_{split}", values) for split, values in given.items()}
    for split, values in ids.items():
        if values.shape != (sizes[split],):
            got = list(values.shape)
            raise ValueError(f"ids_{split} must have one id for each of {sizes[split]:,} samples. Got shape {got}.")
    return {split: values.tolist() for split, values in ids.items()}


def _require_pairs(path: Path, arrays: dict[str, Array]) -> None:
    input_suffixes, label_suffixes = ({name[1:] for name in arrays if name[0] == axis} for axis in "xy")
    if input_suffixes != label_suffixes or ("" in input_suffixes) == ("_train" in input_suffixes):
        raise ValueError(
            f"{path} must hold x_train and y_train (or x and y), and optionally x_val with y_val and x_test with "
            f"y_test. Got {', '.join(arrays) or 'none'} instead. {_HINT}"
        )
