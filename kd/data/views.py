"""Views of images that can be counted: every shift by a few pixels, each an item with a number of its own.

Where the views of a sample are few, a teacher's answers to all of them can be kept, and the number of an item says
which view of which sample it is. So the student sees the very view whose logits it gets, and no random state has to be
replayed:

    views = ShiftedImages(images, reach=2)                         # 25 of each image
    cached = kd.collect_logits(teacher, views)                     # the teacher's answer to each
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
from kd.data.datasets import ArrayDataset, Gathered, ImageDataset, collate


class ShiftedImages(Dataset[tuple[Tensor, int]]):
    """Every image shifted by −reach … +reach pixels down and to the right, black where it has left.

    Item ``sample · views + view`` is (view of the sample, its label). View 0 is shifted up and to the left by
    ``reach``, the next ones go to the right first; the one in the middle is the image itself.

    Args:
        dataset: whose images are shifted, before they are normalised with its mean and standard deviation.
        reach: pixels, at least 0; there are (2 · reach + 1)² views.
    """

    def __init__(self, dataset: ImageDataset, *, reach: int) -> None:
        require(reach >= 0, "reach", reach, "a whole number of pixels of at least 0")
        self.dataset, self.reach = dataset, reach
        height, width = dataset.images.shape[2:]
        # Each view is a window on the padded image: [N, C, 2 · reach + 1, 2 · reach + 1, H, W] without a copy.
        self._windows = F.pad(dataset.images, (reach,) * 4).unfold(2, height, 1).unfold(3, width, 1)

    @property
    def views(self) -> int:
        """Of each image."""
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
        # A window moved down shows the image moved up: counted from the end, the first view is up and to the left.
        shifted = self._windows[samples, :, side - 1 - views // side, side - 1 - views % side]
        images = ArrayDataset(shifted, self.dataset.labels[samples], mean=self.dataset.mean, std=self.dataset.std)
        return images.__getitems__(range(len(rows)))


class OneViewEach(Sampler[int]):
    """Every sample once in an epoch, in a random order, each by one of its views at random.

    Args:
        samples: how many there are.
        views: of each.
    """

    def __init__(self, samples: int, views: int) -> None:
        self.samples, self.views = samples, views
        self.generator = torch.Generator()  # ``kd.fit`` seeds it before each epoch

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.samples, generator=self.generator)
        views = torch.randint(self.views, (self.samples,), generator=self.generator)
        return iter((order * self.views + views).tolist())


def one_view_each(dataset: Dataset[Any], views: int, *, batch_size: int) -> DataLoader[Any]:
    """A loader that shows one view of each sample in an epoch; which and when follows from the seed of ``kd.fit``.

    Args:
        dataset: item ``sample · views + view``, as ``ShiftedImages`` has them, with or without logits beside each.
        views: of each sample.
    """
    require(batch_size >= 1, "batch_size", batch_size, "a whole number of at least 1")
    items = len(dataset)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared; ours have one
    require(views >= 1 and items % views == 0, "views", views, f"a divisor of the {items:,} items")
    sampler = OneViewEach(items // views, views)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=collate, generator=torch.Generator())
