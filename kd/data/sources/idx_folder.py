"""Folders of IDX files with MNIST's file names, the format of Fashion-MNIST and similar datasets."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from kd.checks import DamagedDataError
from kd.data.idx import read_idx
from kd.data.sources.arrays import from_arrays
from kd.data.sources.source import Source

PREFIXES = {"train": "train", "test": "t10k"}  # of the file names, by split
_REMEDY = "Download the file again."


def is_idx_folder(folder: Path) -> bool:
    """Return whether the folder contains training images in IDX format."""
    return _find_file(folder, "train-images-idx3-ubyte") is not None


def open_idx_folder(folder: Path, classes: list[str] | None = None) -> Source:
    """Open ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and optional ``t10k-…`` files, plain or ``.gz``.

    Raises:
        DamagedDataError: a file is missing, unreadable, truncated or not IDX of unsigned bytes.
        ValueError: different numbers of images and labels.
    """
    splits = [
        split
        for split, prefix in PREFIXES.items()
        if split == "train" or _find_file(folder, f"{prefix}-images-idx3-ubyte")
    ]
    images = {split: _read_file(folder, f"{PREFIXES[split]}-images-idx3-ubyte").numpy() for split in splits}
    labels = {split: _read_file(folder, f"{PREFIXES[split]}-labels-idx1-ubyte").numpy() for split in splits}
    return from_arrays(folder.name, images, labels, classes)


def _find_file(folder: Path, name: str) -> Path | None:
    """Return the file of this name, of its other spelling ``train-images.idx3-ubyte``, or of one with ``.gz``."""
    names = (name, name.replace("-idx", ".idx"))
    paths = [folder / f"{spelling}{ending}" for ending in ("", ".gz") for spelling in names]
    return next((path for path in paths if path.exists()), None)


def _read_file(folder: Path, name: str) -> Tensor:
    path = _find_file(folder, name)
    if path is None:
        raise DamagedDataError(f"there is no file {folder / name} or {name}.gz. {_REMEDY}")
    return read_idx(path, remedy=_REMEDY)
