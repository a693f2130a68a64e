"""Data sets of Hugging Face ``datasets``: saved in a folder, or by name. The package comes with the extra ``hf``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kd.checks import DamagedDataError
from kd.data.sources.arrays import Array, from_arrays
from kd.data.sources.image_dataset import build_image_dataset
from kd.data.sources.image_decoding import Size
from kd.data.sources.labels import encode_labels, in_label_order
from kd.data.sources.source import Source
from kd.data.sources.validation import require_equal_classes
from kd.imports import import_extra

SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
INPUTS = ("image", "img", "x", "input", "inputs", "features", "input_ids")
LABELS = ("label", "labels", "y", "target")


class Column(NamedTuple):
    """The images in a column, decoded when they are asked for."""

    names: list[str]
    rows: Any
    column: str

    def open(self, row: int) -> Image.Image:
        """Of this row."""
        image: Image.Image = self.rows[row][self.column]
        return image


def open_hub(
    where: str,
    *,
    columns: tuple[str, str] | None = None,
    size: int | Size | None = None,
    classes: list[str] | None = None,
    download: bool = False,
) -> Source:
    """The splits of a data set that ``save_to_disk`` has left in a folder, or that ``load_dataset`` knows by name.

    Args:
        where: the folder, or the name; without ``download`` it is looked for in the cache on this disk alone.
        columns: of inputs and labels; unless given, the only column of images or one named as in ``INPUTS``, and the
            only one of class labels or one named as in ``LABELS``.
        size: as ``kd.data.sources.image_dataset.build_image_dataset`` has it.
        classes: names in label order, where the column does not know them.

    Raises:
        DamagedDataError: there is no such data set, or it cannot be read.
        ValueError: the package is not installed; the columns cannot be told, are not there, or hold something else.
    """
    parts = _splits(_loaded(where, download))
    features = parts["train"].features
    inputs, target = columns or (_column(features, "Image", INPUTS), _column(features, "ClassLabel", LABELS))
    missing = [name for name in (inputs, target) if name not in features]
    if missing:
        raise ValueError(f"columns must be among {list(features)}. Got {missing[0]!r} instead.")
    labels = {part: np.asarray(rows[target][:]) for part, rows in parts.items()}
    known = {part: getattr(rows.features[target], "names", None) for part, rows in parts.items()}
    require_equal_classes(known)
    names = in_label_order(labels["train"], known["train"], classes)
    name = Path(where).name
    if type(features[inputs]).__name__ != "Image":
        if size is not None:
            raise ValueError(f"hf:{where} has numbers in {inputs!r}, which have no size. Leave size away.")
        return from_arrays(name, {part: _array(rows, inputs) for part, rows in parts.items()}, labels, names)
    numbers, found = encode_labels(labels, names)
    images = {
        part: Column([f"{part} row {row}" for row in range(len(rows))], rows, inputs) for part, rows in parts.items()
    }
    data = build_image_dataset(images, numbers, size=size)
    return Source(name, data["train"], data.get("val"), data.get("test"), found)


def _loaded(where: str, download: bool) -> Any:
    package = import_extra("datasets", library="Hugging Face datasets", name="hf", needed_for=f"hf:{where}")
    saved = any((Path(where) / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        with _offline(package, unless=download):
            return package.load_from_disk(where) if saved else package.load_dataset(where)
    except Exception as error:  # of that package, its file formats and its network library
        reason = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        hint = "" if download else " Nothing was downloaded: download=True allows it."
        raise DamagedDataError(f"datasets cannot open {where}: {reason}.{hint}") from error


@contextmanager
def _offline(package: Any, *, unless: bool) -> Iterator[None]:
    """Inside the block the package asks no server; its own switch for this is read from the environment at import."""
    before = package.config.HF_HUB_OFFLINE
    package.config.HF_HUB_OFFLINE = before or not unless
    try:
        yield
    finally:
        package.config.HF_HUB_OFFLINE = before


def _splits(loaded: Any) -> dict[str, Any]:
    if not isinstance(loaded, dict):
        return {"train": loaded}
    found = {part: next((loaded[name] for name in names if name in loaded), None) for part, names in SPLITS.items()}
    if found["train"] is None:
        raise ValueError(f"a data set must have a split 'train'. Got {list(loaded)} instead. Open it in a .py file.")
    return {part: rows for part, rows in found.items() if rows is not None}


def _column(features: Any, kind: str, names: tuple[str, ...]) -> str:
    fitting: list[str] = [name for name, feature in features.items() if type(feature).__name__ == kind]
    fitting = fitting if len(fitting) == 1 else [name for name in names if name in features]
    if len(fitting) != 1:
        raise ValueError(
            f"which columns are inputs and labels cannot be told from {list(features)}. "
            "Name both: columns=(inputs, labels)."
        )
    return fitting[0]


def _array(rows: Any, column: str) -> Array:
    return np.asarray(rows.with_format("numpy")[:][column])
