"""A folder of IDX files under MNIST's names, as Fashion-MNIST and its like are handed on."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from kd.checks import DamagedDataError
from kd.data.idx import read_idx
from kd.data.sources.arrays import from_arrays
from kd.data.sources.source import Source

FILES = {"train": "train", "test": "t10k"}  # how the files of each part begin
_REMEDY = "Fetch the file again."


def is_idx_folder(folder: Path) -> bool:
    """Whether its training images are there."""
    return _file(folder, "train-images-idx3-ubyte") is not None


def open_idx_folder(folder: Path, classes: list[str] | None = None) -> Source:
    """``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, and ``t10k-…`` to test with; plain or ``.gz``.

    Raises:
        DamagedDataError: a file is missing, unreadable, cut off or no IDX file of unsigned bytes.
        ValueError: not one label for each image.
    """
    parts = [part for part, start in FILES.items() if part == "train" or _file(folder, f"{start}-images-idx3-ubyte")]
    images = {part: _read(folder, f"{FILES[part]}-images-idx3-ubyte").numpy() for part in parts}
    labels = {part: _read(folder, f"{FILES[part]}-labels-idx1-ubyte").numpy() for part in parts}
    return from_arrays(folder.name, images, labels, classes)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def _read(folder: Path, name: str) -> Tensor:
    path = _file(folder, name)
    if path is None:
        raise DamagedDataError(f"there is no {folder / name} and no {name}.gz beside it. {_REMEDY}")
    return read_idx(path, remedy=_REMEDY)
