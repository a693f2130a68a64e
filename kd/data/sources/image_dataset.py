"""Image datasets: decoded once, into a file that is mapped into memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd.data.datasets import ArrayDataset
from kd.data.sources.image_arrays import open_arrays
from kd.data.sources.image_cache import decode_once, find_data_folder, survey_once
from kd.data.sources.image_decoding import (
    ImageCollection,
    ImageFormat,
    Size,
    choose_format,
    collect_errors,
    decode_image,
    require_readable,
)
from kd.storage.fingerprint import describe, digest
from kd.storage.resources import require_memory

_BYTES_PER_VALUE = 17  # the decoder's pixels, and their sums and squares in 64 bits
IN_MEMORY = 1024**3  # bytes of decoded images whose source cannot tell whether they have changed


class DecodedImages(ArrayDataset):
    """Images in a file on disk, mapped into memory; samples are the same as in an ``ArrayDataset`` of these images.

    A worker process gets the file's path instead of its content.

    Args:
        folder: see ``kd.data.sources.image_cache.decode_once``.
        rows: the images of this dataset in the file.
        labels: [N] int64, from 0.
        mean, std: see ``ArrayDataset``.

    Attributes:
        digests: [N, 16] uint8, a hash of each image.
        sums: [N, C, 2] int64, each channel's sum of bytes and of their squares.
    """

    def __init__(
        self,
        folder: Path,
        rows: range,
        labels: Tensor,
        *,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
    ) -> None:
        self.folder, self.rows = folder, rows
        pixels, self.digests, self.sums = (array[rows.start : rows.stop] for array in open_arrays(folder))
        super().__init__(torch.from_numpy(pixels), labels, mean=mean, std=std)

    def __reduce__(self) -> Any:
        return _open_decoded, (self.folder, self.rows, self.labels, self.mean, self.std)

    def normalised(self, mean: float | Tensor, std: float | Tensor) -> DecodedImages:
        """Return the same images, normalised with this mean and standard deviation."""
        return DecodedImages(self.folder, self.rows, self.labels, mean=mean, std=std)

    def fingerprint(self) -> str:
        """Return a hash of all images' hashes, their shape, the labels, mean and std."""
        shape = list(self.inputs.shape)
        return digest(describe([np.asarray(self.digests), shape, self.labels, self.mean, self.std]))


def _open_decoded(folder: Path, rows: range, labels: Tensor, mean: Any, std: Any) -> DecodedImages:
    return DecodedImages(folder, rows, labels, mean=mean, std=std)


def build_image_dataset(
    splits: Mapping[str, ImageCollection],
    labels: Mapping[str, Tensor],
    *,
    size: int | Size | None,
    workers: int | None = None,
) -> dict[str, ArrayDataset]:
    """Create one dataset per split, with images of a common mode and size.

    Args:
        splits: images by split.
        labels: [N] by split.
        size: height and width to which images are scaled and cropped, keeping their proportions. Without it, all images
            must have the same size.
        workers: see ``kd.data.sources.image_cache.decode_once``.

    Raises:
        ValueError: images of several sizes, or images that do not fit in memory and are not stored as files.
        DamagedDataError: images that cannot be decoded; the message names the first few.
    """
    folder = find_data_folder(splits)
    form = choose_format(survey_once(splits, folder, workers=workers), (size, size) if isinstance(size, int) else size)
    return decode_all(splits, labels, form, folder, workers=workers)


def decode_all(
    splits: Mapping[str, ImageCollection],
    labels: Mapping[str, Tensor],
    form: ImageFormat,
    folder: Path | None,
    *,
    workers: int | None = None,
) -> dict[str, ArrayDataset]:
    """Create the datasets of ``build_image_dataset`` in a given image format.

    Args:
        folder: returned by ``kd.data.sources.image_cache.find_data_folder``; None decodes into memory.

    Raises:
        MemoryError: a single image of this format needs more memory than is available.
    """
    one_image = _BYTES_PER_VALUE * math.prod(form.shape)
    require_memory(one_image, f"an image of {form.size[0]:,} × {form.size[1]:,} pixels", "Use a smaller --image-size.")
    if folder is None or not any(len(images.names) for images in splits.values()):
        return {split: _decode_in_memory(images, labels[split], form) for split, images in splits.items()}
    arrays = decode_once(splits, folder, form, workers=workers)
    bounds = itertools.pairwise(itertools.accumulate((len(images.names) for images in splits.values()), initial=0))
    return {
        split: DecodedImages(arrays, range(*rows), labels[split]) for split, rows in zip(splits, bounds, strict=True)
    }


def _decode_in_memory(images: ImageCollection, labels: Tensor, form: ImageFormat) -> ArrayDataset:
    needed = len(images.names) * math.prod(form.shape)
    if needed > IN_MEMORY:
        raise ValueError(
            f"these images need {needed:,} bytes of memory; the limit is {IN_MEMORY:,}. Choose a smaller size "
            "(--image-size), or store the images as files in one folder per class."
        )
    pixels = torch.empty((len(images.names), *form.shape), dtype=torch.uint8)
    reasons: dict[int, str] = {}
    with collect_errors(reasons) as catch:
        for row in range(len(images.names)):
            with catch(row), images.open(row) as image:
                pixels.numpy()[row] = decode_image(image, form)
    require_readable(images.names, reasons)
    return ArrayDataset(pixels, labels)
