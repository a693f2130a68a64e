"""Datasets that combine labelled and unlabelled samples.

Example, with the teacher's logits for distillation:

    distill_set = kd.teachers.cache.with_unlabelled(teacher, labelled, unlabelled)
    loader = kd.make_loader(distill_set, batch_size=128, shuffle=True)
    kd.fit(student, kd.distilled(temperature=4, alpha=0.1), loader, ...)

Unlabelled samples have the label ``UNLABELLED`` (−1). The cross-entropy of a distillation objective is averaged over
the labelled samples of a batch, and is 0 if there are none; the method's own loss is averaged over all samples. The
fewer labelled samples a batch contains, the larger the weight of each.
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
    """The inputs of a dataset, each with the label −1; everything else in its samples is ignored."""

    by_rows = True

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return length_of(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.dataset[index][0], UNLABELLED

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        inputs = _fetch_batch(self.dataset, torch.as_tensor(indices))[0]
        return Gathered(inputs, torch.full((len(inputs),), UNLABELLED))


class Joined(Dataset[tuple[Tensor, int]]):
    """The concatenation of two datasets with samples (input, label); a batch takes one gather from each.

    Raises:
        ValueError: a dataset is empty, or their inputs differ in shape or type.
    """

    by_rows = True

    def __init__(self, first: Dataset[Any], second: Dataset[Any]) -> None:
        self.first, self.second = first, second
        for samples in (length_of(first), length_of(second)):
            require(samples >= 1, "the length of a dataset", samples, "at least 1", "check how it was created")
        first_input, second_input = first[0][0], second[0][0]
        if (first_input.shape, first_input.dtype) != (second_input.shape, second_input.dtype):
            raise ValueError(
                f"inputs of both datasets must have the same shape and type, {list(first_input.shape)} of "
                f"{first_input.dtype}. Got {list(second_input.shape)} of {second_input.dtype} instead. "
                "Open unlabelled data with kd.data.sources.open_unlabelled, which converts them."
            )

    def __len__(self) -> int:
        return length_of(self.first) + length_of(self.second)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row, offset = range(len(self))[index], length_of(self.first)
        inputs, label = (self.first[row] if row < offset else self.second[row - offset])[:2]
        return inputs, int(label)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        rows, offset = torch.as_tensor(indices), length_of(self.first)
        rows = rows.where(rows >= 0, rows + len(self))
        in_second = rows >= offset
        rows_by_dataset = ((self.first, rows[~in_second]), (self.second, rows[in_second] - offset))
        batches = [_fetch_batch(dataset, subset)[:2] for dataset, subset in rows_by_dataset if len(subset)]
        order = in_second.argsort(stable=True).argsort()  # restores the batch's order after the two gathers
        return Gathered(*(torch.cat(column).index_select(0, order) for column in zip(*batches, strict=True)))


def repeated(dataset: Dataset[Any], items: int) -> Dataset[Any]:
    """Repeat a dataset up to a given length, so that an epoch takes the same number of steps as with more data.

    Used to give a control the steps of a student with unlabelled samples, or to raise the fraction of labelled samples
    in each batch. The last repetition is truncated at this length.

    Args:
        items: number of samples, at least the dataset's length.
    """
    length = length_of(dataset)
    require(
        items >= length >= 1, "items", items, f"at least {length}, the length of the dataset, which must not be empty"
    )
    rows = [row % length for row in range(items)]
    return Split(dataset, rows) if takes_rows(dataset) else Subset(dataset, rows)


def _fetch_batch(dataset: Dataset[Any], rows: Tensor) -> Batch:
    """Return the samples of some rows as a batch, with one gather if the dataset supports it."""
    if takes_rows(dataset):
        return collate(dataset.__getitems__(rows))  # type: ignore[attr-defined]
    if fetch := getattr(dataset, "__getitems__", None):
        return collate(fetch(rows.tolist()))
    return collate([dataset[row] for row in rows.tolist()])
