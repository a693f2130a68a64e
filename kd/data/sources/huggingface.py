"""Hugging Face ``datasets``, from a saved folder or by name; requires the extra ``hf``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kd.checks import DamagedDataError
from kd.data.sources.arrays import Array, from_arrays
from kd.data.sources.image_dataset import build_image_dataset
from kd.data.sources.image_decoding import Size, open_image, stamp_files
from kd.data.sources.image_header import require_8_bits
from kd.data.sources.labels import choose_class_names, encode_labels
from kd.data.sources.source import Source
from kd.data.sources.validation import require_equal_classes
from kd.imports import import_extra
from kd.types import UNLABELLED

SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
INPUT_NAMES = ("image", "img", "x", "input", "inputs", "features", "input_ids")
LABEL_NAMES = ("label", "labels", "y", "target")


class ImageColumn(NamedTuple):
    """The images in a column.

    Attributes:
        encoded: the rows with the column as bytes and paths: the package would decode formats that are not read here,
            and hide the depth of the pixels.
    """

    names: list[str]
    rows: Any
    encoded: Any
    column: str

    def open(self, row: int) -> Image.Image:
        """Open the image of a row and read its header only.

        Raises:
            OSError: the image's file does not exist.
            ValueError: the row has no image, one of another format, or one to convert that is deeper than 8 bits.
        """
        value = self.encoded[row][self.column]
        if isinstance(value, Image.Image):
            return value
        if value is None or (value["bytes"] is None and value["path"] is None):
            raise ValueError("the row has no image")
        image = open_image(value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"]))
        mode = getattr(self.rows.features[self.column], "mode", None)
        if not mode or mode == image.mode:
            return image
        require_8_bits(image)
        return image.convert(mode)

    def stamps(self) -> list[object] | None:
        """Return the package's own fingerprint of the rows, and the stamps of the files that hold them."""
        fingerprint = getattr(self.rows, "_fingerprint", None)  # private: another version may lack it
        if fingerprint is None:
            return None
        files = stamp_files(file["filename"] for file in self.rows.cache_files)
        return [fingerprint, self.column, len(self.names), files, "encoded"]


def open_huggingface(
    where: str,
    *,
    columns: tuple[str, str] | None = None,
    size: int | Size | None = None,
    classes: list[str] | None = None,
    download: bool = False,
    workers: int | None = None,
) -> Source:
    """Open a dataset from a folder written by ``save_to_disk``, or by its name for ``load_dataset``.

    Args:
        where: folder or name. Without ``download``, a name is looked up in the local cache only.
        columns: names of the input and label columns. By default, the only image column or the only one named in
            ``INPUT_NAMES``, and the only class label column or the only one named in ``LABEL_NAMES``.
        size, workers: see ``kd.data.sources.image_dataset.build_image_dataset``.
        classes: class names in label order, if the label column has none.
        download: allow downloading.

    Raises:
        DamagedDataError: the dataset does not exist or cannot be read.
        MissingExtraError: the package is not installed.
        ValueError: the columns are ambiguous, missing, or of an unsupported type.
    """
    splits = _select_splits(_load(where, download))
    features = splits["train"].features
    inputs, target = _choose_columns(features, columns)
    labels = {split: _read_labels(rows, target, split) for split, rows in splits.items()}
    stored_names = {split: getattr(rows.features[target], "names", None) for split, rows in splits.items()}
    require_equal_classes(stored_names)
    names = choose_class_names(labels["train"], stored_names["train"], classes)
    name = Path(where).name
    if type(features[inputs]).__name__ != "Image":
        if size is not None:
            raise ValueError(
                f"size (--image-size) does not apply to hf:{where}: column {inputs!r} holds no images. Omit it."
            )
        arrays = {split: _read_column(rows, inputs, split) for split, rows in splits.items()}
        return from_arrays(name, arrays, labels, names)
    numbers, class_names = encode_labels(labels, names)
    images = {
        split: ImageColumn([f"{split} row {row}" for row in range(len(rows))], rows, _encode(rows, inputs), inputs)
        for split, rows in splits.items()
    }
    data = build_image_dataset(images, numbers, size=size, workers=workers)
    return Source(name, data["train"], data.get("val"), data.get("test"), class_names)


def _choose_columns(features: Any, columns: tuple[str, str] | None) -> tuple[str, str]:
    """Return the names of the input and the label column."""
    inputs, target = columns or (
        _find_column(features, "Image", INPUT_NAMES),
        _find_column(features, "ClassLabel", LABEL_NAMES),
    )
    missing = [name for name in (inputs, target) if name not in features]
    if missing:
        raise ValueError(f"columns (--columns) must be among {list(features)}. Got {missing[0]!r} instead.")
    return inputs, target


def _load(where: str, download: bool) -> Any:
    package = import_extra("datasets", library="Hugging Face datasets", name="hf", needed_for=f"hf:{where}")
    saved = any((Path(where) / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        with _go_offline(package, unless=download):
            return package.load_from_disk(where) if saved else package.load_dataset(where)
    except Exception as error:  # raised by the package, its file formats or its network library
        reason = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        hint = "" if download else " Nothing was downloaded; download=True (--download) allows it."
        raise DamagedDataError(f"datasets cannot open {where}: {reason}.{hint}") from error


@contextmanager
def _go_offline(package: Any, *, unless: bool) -> Iterator[None]:
    """Disable the package's network access inside the block.

    The block changes the package's configuration, because the environment variable is read at import only.
    """
    before = package.config.HF_HUB_OFFLINE
    package.config.HF_HUB_OFFLINE = before or not unless
    try:
        yield
    finally:
        package.config.HF_HUB_OFFLINE = before


def _select_splits(loaded: Any) -> dict[str, Any]:
    if not isinstance(loaded, dict):
        return {"train": loaded}
    splits = {split: next((loaded[name] for name in names if name in loaded), None) for split, names in SPLITS.items()}
    if splits["train"] is None:
        raise ValueError(f"a dataset must have a split 'train'. Got {list(loaded)} instead. Open it in a .py file.")
    return {split: rows for split, rows in splits.items() if rows is not None}


def _find_column(features: Any, kind: str, names: tuple[str, ...]) -> str:
    candidates: list[str] = [name for name, feature in features.items() if type(feature).__name__ == kind]
    candidates = candidates if len(candidates) == 1 else [name for name in names if name in features]
    if len(candidates) != 1:
        raise ValueError(
            f"cannot determine the input and label columns from {list(features)}. "
            "Name both with columns=(inputs, labels) or --columns."
        )
    return candidates[0]


def _encode(rows: Any, column: str) -> Any:
    """Return the rows with undecoded images: a dictionary of bytes and path, or None.

    A class that only behaves like the package's is used as it is.
    """
    cast = getattr(rows, "cast_column", None)
    return rows if cast is None else cast(column, type(rows.features[column])(decode=False))


def _read_labels(rows: Any, column: str, split: str) -> Array:
    values = list(rows[column][:])
    several = [row for row, value in enumerate(values) if isinstance(value, (list, tuple, dict, np.ndarray))]
    if several:
        raise ValueError(
            f"column {column!r} must hold one label per sample. Got {values[several[0]]!r} in row {several[0]} of "
            f"{split}. Samples with several labels are not supported: choose one label per sample."
        )
    is_named = getattr(rows.features[column], "names", None) is not None
    missing = [row for row, value in enumerate(values) if value is None or (is_named and value == UNLABELLED)]
    if missing:
        raise ValueError(
            f"column {column!r} must hold a label for every sample. Got none in {len(missing):,} of {len(values):,} "
            f"rows of {split}, the first in row {missing[0]}. Remove these rows or this split."
        )
    return np.asarray(values)


def _read_column(rows: Any, column: str, split: str) -> Array:
    values = rows[column][:]
    kinds = {type(value) for value in values}
    if kinds & {bytes, dict}:
        raise ValueError(
            f"column {column!r} must hold numbers or images. Got {min(kind.__name__ for kind in kinds)} in {split}. "
            f"For encoded images, use dataset.cast_column({column!r}, datasets.Image()) and save the dataset."
        )
    lengths = {row: len(value) if isinstance(value, list) else None for row, value in enumerate(values)}
    odd = [row for row, value in enumerate(values) if value is None or lengths[row] != lengths[0]]
    if odd:
        raise ValueError(
            f"column {column!r} must hold a value of the same length for every sample. Got "
            f"{'none' if values[odd[0]] is None else f'{lengths[odd[0]]} values'} in row {odd[0]} of {split}, and "
            f"{len(odd):,} such rows in all. Remove or pad them."
        )
    # The package's own types are float32 and int64, which would round numbers and turn uint8 images into tokens.
    dtype = _find_dtype(rows.features[column])
    options = {} if dtype is None else {"dtype": dtype}
    return np.asarray(rows.with_format("numpy", columns=[column], **options)[:][column])


def _find_dtype(feature: Any) -> np.dtype[Any] | None:
    """Return the type in which a column stores numbers, or lists or arrays of them; None if it stores none."""
    while hasattr(feature, "feature"):  # a list
        feature = feature.feature
    try:
        return np.dtype(str(getattr(feature, "dtype", "")))
    except TypeError:  # such as string, or decimal128(5, 2)
        return None
