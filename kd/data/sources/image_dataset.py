"""Image datasets: decoded once if they fit in memory, otherwise decoded on access."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.utils.data import Dataset

from kd.data.datasets import ArrayDataset, Gathered
from kd.data.sources.image_decoding import ImageCollection, ImageFormat, ImagePaths, Size, decode, find_common_format
from kd.storage.fingerprint import describe, digest

IN_MEMORY = 1024**3  # bytes of decoded images, all splits together


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files decoded on access; samples are the same as in an ``ArrayDataset`` of the decoded images.

    Args:
        files: N image files.
        labels: [N] int64, from 0.
        form: mode and size to which images are converted.
        mean, std: see ``ArrayDataset``.
    """

    def __init__(
        self,
        files: ImagePaths,
        labels: Tensor,
        form: ImageFormat,
        *,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
    ) -> None:
        self.files, self.labels, self.form, self.mean, self.std = files, labels, form, mean, std
        self._content_digest = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._decode([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        rows = indices.tolist() if isinstance(indices, Tensor) else [range(len(self))[index] for index in indices]
        return self._decode(rows).__getitems__(range(len(rows)))

    def raw(self, rows: Tensor) -> Tensor:
        """Decode some rows to [B, C, H, W] uint8.

        Raises:
            DamagedDataError: an image cannot be decoded; the message names it.
        """
        return decode(self.files, self.form, rows.tolist())

    def normalised(self, mean: float | Tensor, std: float | Tensor) -> ImageFiles:
        """Return the same images, normalised with this mean and standard deviation."""
        return ImageFiles(self.files, self.labels, self.form, mean=mean, std=std)

    def fingerprint(self) -> str:
        """Return a hash of all files' content (read once), labels, format, mean and std."""
        self._content_digest = self._content_digest or digest([self.files.digest(row) for row in range(len(self))])
        return digest(describe([self._content_digest, self.labels, self.form, self.mean, self.std]))

    def _decode(self, rows: Sequence[int]) -> ArrayDataset:
        images = decode(self.files, self.form, rows)
        return ArrayDataset(images, self.labels[list(rows)], mean=self.mean, std=self.std)


def build_image_dataset(
    splits: Mapping[str, ImageCollection], labels: Mapping[str, Tensor], *, size: int | Size | None
) -> dict[str, ArrayDataset | ImageFiles]:
    """Create one dataset per split: in memory, or ``ImageFiles`` if all splits together exceed ``IN_MEMORY`` bytes.

    Args:
        splits: images by split.
        labels: [N] by split.
        size: height and width to which images are scaled and cropped, keeping their proportions. Without it, all images
            must have the same size.

    Raises:
        ValueError: images of several sizes, or images that do not fit in memory and are not stored as files.
        DamagedDataError: images that cannot be decoded; the message names the first few.
    """
    return decode_all(splits, labels, find_common_format(splits, (size, size) if isinstance(size, int) else size))


def decode_all(
    splits: Mapping[str, ImageCollection], labels: Mapping[str, Tensor], form: ImageFormat
) -> dict[str, ArrayDataset | ImageFiles]:
    """Create the datasets of ``build_image_dataset`` in a given image format."""
    needed = sum(len(images.names) for images in splits.values()) * math.prod(form.shape)
    if needed <= IN_MEMORY:
        return {split: ArrayDataset(decode(images, form), labels[split]) for split, images in splits.items()}
    files = {split: images for split, images in splits.items() if isinstance(images, ImagePaths)}
    if len(files) < len(splits):
        raise ValueError(
            f"these images need {needed:,} bytes of memory; the limit is {IN_MEMORY:,}. Choose a smaller size "
            "(--image-size), or store the images as files in one folder per class."
        )
    return {split: ImageFiles(images, labels[split], form) for split, images in files.items()}
