"""Data sets of image files: decoded once where memory allows, else whenever they are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.utils.data import Dataset

from kd.data.datasets import ArrayDataset, Gathered
from kd.data.sources.image_decoding import ImageCollection, ImageFormat, ImagePaths, Size, decode, find_common_format
from kd.storage.fingerprint import describe, digest

IN_MEMORY = 1024**3  # bytes of decoded images, of all parts together


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Images decoded whenever they are asked for; items are those that ``ArrayDataset`` has of the decoded images.

    Args:
        files: N of them.
        labels: [N] int64, from 0.
        form: mode and size of every item.
        mean, std: as ``ArrayDataset`` has them.
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
        self._content = ""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._decoded([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        rows = indices.tolist() if isinstance(indices, Tensor) else [range(len(self))[index] for index in indices]
        return self._decoded(rows).__getitems__(range(len(rows)))

    def raw(self, rows: Tensor) -> Tensor:
        """[B, C, H, W] uint8.

        Raises:
            DamagedDataError: an image cannot be decoded; names it.
        """
        return decode(self.files, self.form, rows.tolist())

    def normalised(self, mean: float | Tensor, std: float | Tensor) -> ImageFiles:
        """The same images, normalised with these."""
        return ImageFiles(self.files, self.labels, self.form, mean=mean, std=std)

    def fingerprint(self) -> str:
        """Of every file's content, which is read once for it, and of what is made of it."""
        self._content = self._content or digest([self.files.digest(row) for row in range(len(self))])
        return digest(describe([self._content, self.labels, self.form, self.mean, self.std]))

    def _decoded(self, rows: Sequence[int]) -> ArrayDataset:
        images = decode(self.files, self.form, rows)
        return ArrayDataset(images, self.labels[list(rows)], mean=self.mean, std=self.std)


def build_image_dataset(
    parts: Mapping[str, ImageCollection], labels: Mapping[str, Tensor], *, size: int | Size | None
) -> dict[str, ArrayDataset | ImageFiles]:
    """Each part in memory, or as ``ImageFiles`` where all parts together would take more than ``IN_MEMORY`` bytes.

    Args:
        labels: [N] by part.
        size: height and width to which all are scaled and cropped, keeping their proportions; without it they must have
            one size.

    Raises:
        ValueError: images of several sizes, or too many of what cannot be read a second time.
        DamagedDataError: images that cannot be decoded; names the first of them.
    """
    return decode_all(parts, labels, find_common_format(parts, (size, size) if isinstance(size, int) else size))


def decode_all(
    parts: Mapping[str, ImageCollection], labels: Mapping[str, Tensor], form: ImageFormat
) -> dict[str, ArrayDataset | ImageFiles]:
    """As ``build_image_dataset``, in a form that is given."""
    needed = sum(len(pictures.names) for pictures in parts.values()) * math.prod(form.shape)
    if needed <= IN_MEMORY:
        return {part: ArrayDataset(decode(pictures, form), labels[part]) for part, pictures in parts.items()}
    files = {part: pictures for part, pictures in parts.items() if isinstance(pictures, ImagePaths)}
    if len(files) < len(parts):
        raise ValueError(
            f"these images take {needed:,} bytes, and at most {IN_MEMORY:,} are held in memory. Give a smaller size, "
            "or store them as files, in a folder for each class."
        )
    return {part: ImageFiles(pictures, labels[part], form) for part, pictures in files.items()}
