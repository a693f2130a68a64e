"""Enumerated augmented views: every shift of an image by a few pixels has its own index in the dataset.

With few views per sample, the teacher's logits for all views can be cached. The index determines sample and
view, so an image and its logits always belong to the same view, and no random state has to be restored:

    views = ShiftedImages(images, reach=2)                         # 25 views per image
    cached = kd.collect_logits(teacher, views)                     # one row of logits per view
    kd.verify_logits(teacher, views, cached)                       # on a random sample of (image, view)
    loader = one_view_each(kd.DistillDataset(views, cached.logits), views.views, batch_size=128)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kd.checks import require
from kd.data.datasets import ArrayDataset, Gathered, ImageDataset
from kd.data.loaders import BatchTransform, make_loader


class ShiftedImages(Dataset[tuple[Tensor, int]]):
    """All shifts of each image by −reach … +reach pixels vertically and horizontally, padded with black.

    Item ``sample · views + view`` is (shifted image, label). View 0 is shifted up and left by ``reach`` pixels; the
    horizontal shift varies fastest; the middle view is the image itself.

    Args:
        dataset: images to shift; each view is then normalised with the dataset's mean and standard deviation.
        reach: largest shift in pixels, at least 0; there are (2 · reach + 1)² views.
    """

    def __init__(self, dataset: ImageDataset, *, reach: int) -> None:
        require(reach >= 0, "reach", reach, "an integer of at least 0, in pixels")
        self.dataset, self.reach = dataset, reach
        height, width = dataset.images.shape[2:]
        # Each view is a window of the padded image: [N, C, 2 · reach + 1, 2 · reach + 1, H, W] without a copy.
        self._windows = F.pad(dataset.images, (reach,) * 4).unfold(2, height, 1).unfold(3, width, 1)

    @property
    def views(self) -> int:
        """Number of views per image."""
        return (2 * self.reach + 1) ** 2

    def __len__(self) -> int:
        return len(self.dataset) * self.views

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.__getitems__([index])[0]
        return image, int(label)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        rows = torch.as_tensor(indices)
        samples, views = rows // self.views, rows % self.views
        side = 2 * self.reach + 1
        # A lower window shows the image shifted up, so windows are counted from the end: view 0 is shifted up and left.
        shifted = self._windows[samples, :, side - 1 - views // side, side - 1 - views % side]
        images = ArrayDataset(shifted, self.dataset.labels[samples], mean=self.dataset.mean, std=self.dataset.std)
        return images.__getitems__(range(len(rows)))


class OneViewSampler(Sampler[int]):
    """Sampler that draws one random view of every sample per epoch, in random order.

    Args:
        samples: number of samples.
        views: number of views per sample.
    """

    def __init__(self, samples: int, views: int) -> None:
        self.samples, self.views = samples, views
        self.generator = torch.Generator()  # seeded by ``kd.fit`` before each epoch

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.samples, generator=self.generator)
        views = torch.randint(self.views, (self.samples,), generator=self.generator)
        return iter((order * self.views + views).tolist())


def one_view_each(
    dataset: Dataset[Any], views: int, *, batch_size: int, workers: int = 0, mix: BatchTransform | None = None
) -> DataLoader[Any]:
    """Return a loader that yields one random view of each sample per epoch, seeded by ``kd.fit``.

    Args:
        dataset: items ordered as ``sample · views + view``, like ``ShiftedImages``, with or without logits.
        views: number of views per sample.
        batch_size: samples per batch.
        workers: processes that make the views; the batches are the same.
        mix: see ``kd.data.loaders.Loader``.
    """
    items = len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not declare __len__
    require(views >= 1 and items % views == 0, "views", views, f"a divisor of the {items:,} items")
    sampler = OneViewSampler(items // views, views)
    return make_loader(dataset, batch_size=batch_size, sampler=sampler, workers=workers, mix=mix)
