"""Decoded images as arrays on disk: ``pixels.npy``, and a hash and the sums of each image, mapped into memory."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from kd.data.datasets import HASH_BYTES, hash_input
from kd.storage.files import publish, require_space
from kd.storage.resources import is_passing_fault

_DTYPES = {"pixels": np.uint8, "digests": np.uint8, "sums": np.int64}
_RECORD = "complete.json"
_UNREADABLE = (OSError, ValueError, EOFError, RecursionError)  # EOFError: numpy's for an empty file


class ImageArrays(NamedTuple):
    """Properties of N decoded images.

    Attributes:
        pixels: [N, C, H, W] uint8.
        digests: [N, 16] uint8, the BLAKE2b hash of each image's pixels; zeros if it is not decoded yet.
        sums: [N, C, 2] int64, each channel's sum of pixels and of their squares.
    """

    pixels: np.ndarray[Any, Any]
    digests: np.ndarray[Any, Any]
    sums: np.ndarray[Any, Any]

    def write(self, row: int, image: np.ndarray[Any, Any]) -> None:
        """Store an image [C, H, W] uint8 and its properties."""
        values = image.astype(np.int64).reshape(len(image), -1)
        self.pixels[row] = image
        self.sums[row] = np.stack([values.sum(axis=1), (values * values).sum(axis=1)], axis=1)
        self.digests[row] = np.frombuffer(hash_input(image), dtype=np.uint8)  # last: it marks the image as decoded


def open_arrays(folder: Path, *, writable: bool = False) -> ImageArrays:
    """Map the arrays of a folder into memory. Unless they are writable, changes do not reach the disk."""
    mode: Literal["r+", "c"] = "r+" if writable else "c"
    return ImageArrays(*(np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False) for name in _DTYPES))


def make_arrays(folder: Path, images: int, shape: tuple[int, int, int]) -> None:
    """Create arrays of zeros for this number of images [C, H, W], unless they exist from an interrupted run.

    Raises:
        OSError: the disk is too small.
    """
    shapes = {"pixels": (images, *shape), "digests": (images, HASH_BYTES), "sums": (images, shape[0], 2)}
    try:
        if all(array.shape == shapes[name] for name, array in open_arrays(folder)._asdict().items()):
            return
    except _UNREADABLE as error:
        if is_passing_fault(error):
            raise
        shutil.rmtree(folder, ignore_errors=True)
    require_space(folder, math.prod(shapes["pixels"]))
    folder.mkdir()
    for name, dtype in _DTYPES.items():
        path = folder / f"{name}.npy"
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shapes[name])
        if hasattr(os, "posix_fallocate"):  # otherwise a full disk would kill the process that writes (SIGBUS)
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def find_missing(folder: Path) -> list[int]:
    """Return the rows whose pixels do not have their hash: not decoded yet, lost in a crash, or damaged."""
    arrays = open_arrays(folder)
    return [
        row
        for row in range(len(arrays.pixels))
        if not arrays.digests[row].any() or hash_input(arrays.pixels[row]) != arrays.digests[row].tobytes()
    ]


def record_complete(folder: Path) -> None:
    """Flush the arrays to disk and record that they hold all images."""
    for name in _DTYPES:
        with (folder / f"{name}.npy").open("rb+") as file:
            os.fsync(file.fileno())
    publish({folder / _RECORD: json.dumps(_stamp(folder)).encode()})


def is_complete(folder: Path) -> bool:
    """Return whether the arrays hold all images. If a file was touched since, every image's hash is checked."""
    try:
        recorded = json.loads((folder / _RECORD).read_bytes())
        open_arrays(folder)
    except _UNREADABLE as error:
        if is_passing_fault(error):  # the arrays may be intact, and the caller would delete them
            raise
        return False
    if recorded == _stamp(folder):
        return True
    intact = not find_missing(folder)
    if intact:
        record_complete(folder)
    return intact


def _stamp(folder: Path) -> list[list[int]]:
    files = [(folder / f"{name}.npy").stat() for name in _DTYPES]
    return [[file.st_size, file.st_mtime_ns] for file in files]
