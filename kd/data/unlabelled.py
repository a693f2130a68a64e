"""Unlabelled items beside labelled ones. With the teacher's logits, for distillation:

    lessons = kd.teachers.cache.with_unlabelled(teacher, labelled, unlabelled)
    kd.fit(student, kd.distilled(temperature=4, alpha=0.1), kd.make_loader(lessons, batch_size=128, shuffle=True), ...)

An item without a label has the label ``UNLABELLED`` (−1). The labelled part of a distillation is averaged over those
items of a batch that have one and is 0 without any; the method's own part is averaged over all. So in a batch in which
few have a label, each of these counts the more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from kd.checks import require
from kd.data.datasets import Gathered, Split, collate, length_of, takes_rows
from kd.types import UNLABELLED, Batch


class Unlabelled(Dataset[tuple[Tensor, int]]):
    """The inputs of a dataset with −1 as every label; what its items have after the input is never looked at."""

    by_rows = True

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return length_of(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.dataset[index][0], UNLABELLED

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        inputs = _batch(self.dataset, torch.as_tensor(indices))[0]
        return Gathered(inputs, torch.full((len(inputs),), UNLABELLED))


class Joined(Dataset[tuple[Tensor, int]]):
    """The items (input, label) of one dataset and, after them, those of another; a batch takes one gather from each.

    Raises:
        ValueError: one of both is empty, or their inputs differ in shape or type.
    """

    by_rows = True

    def __init__(self, first: Dataset[Any], second: Dataset[Any]) -> None:
        self.first, self.second = first, second
        for items in (length_of(first), length_of(second)):
            require(items >= 1, "the length of a part", items, "at least 1", "check where its items were taken from")
        one, other = first[0][0], second[0][0]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            raise ValueError(
                f"inputs of both parts must have one shape and type, {list(one.shape)} of {one.dtype}. Got "
                f"{list(other.shape)} of {other.dtype} instead. kd.data.sources.open_unlabelled makes them so."
            )

    def __len__(self) -> int:
        return length_of(self.first) + length_of(self.second)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row, items = range(len(self))[index], length_of(self.first)
        inputs, label = (self.first[row] if row < items else self.second[row - items])[:2]
        return inputs, int(label)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        rows, items = torch.as_tensor(indices), length_of(self.first)
        rows = rows.where(rows >= 0, rows + len(self))
        later = rows >= items
        asked = ((self.first, rows[~later]), (self.second, rows[later] - items))
        parts = [_batch(dataset, some)[:2] for dataset, some in asked if len(some)]
        back = later.argsort(stable=True).argsort()  # from the order of the two gathers to that of the batch
        return Gathered(*(torch.cat(column).index_select(0, back) for column in zip(*parts, strict=True)))


def repeated(dataset: Dataset[Any], items: int) -> Dataset[Any]:
    """The dataset over and over until there are so many items: as many steps in an epoch as with more data.

    For a control that takes as many steps as the student with unlabelled items, and to give the labelled ones a larger
    share of the batches. Of the last repetition only the first items are in it.

    Args:
        items: at least the dataset's own number.
    """
    own = length_of(dataset)
    require(items >= own >= 1, "items", items, f"at least {own}, the dataset's own, of which there is at least one")
    rows = [row % own for row in range(items)]
    return Split(dataset, rows) if takes_rows(dataset) else Subset(dataset, rows)


def _batch(dataset: Dataset[Any], rows: Tensor) -> Batch:
    """The items of these rows, with one gather where the dataset can."""
    if takes_rows(dataset):
        return collate(dataset.__getitems__(rows))  # type: ignore[attr-defined]
    if fetch := getattr(dataset, "__getitems__", None):
        return collate(fetch(rows.tolist()))
    return collate([dataset[row] for row in rows.tolist()])
