"""What the checks need to know about a part, from one walk over its raw items."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kd.data.datasets import ArrayDataset, Raw, collate, unwrapped
from kd.seeding import seeded

AT_ONCE = 1024  # items: more save no time
VALUES = 2**22  # of all items at once: large ones would take the memory, as double 8 bytes each


class ScannedItems(NamedTuple):
    """Of N items, by row."""

    labels: Tensor  # [N] int64
    shape: tuple[int, ...]  # of one input
    dtype: torch.dtype
    digests: list[bytes]  # of the raw inputs
    broken: Tensor  # [N] bool: NaN or infinity is in the input

    def of(self, rows: Sequence[int]) -> ScannedItems:
        """The facts of some of the items."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        digests = [self.digests[row] for row in index.tolist()]
        return ScannedItems(self.labels[index], self.shape, self.dtype, digests, self.broken[index])


def scan(dataset: Dataset[Any]) -> ScannedItems:
    """Reads every item once.

    Raises:
        ValueError: the items are not (input, label) with inputs of one shape and whole numbers as labels, or there are
            none.
    """
    labels, digests, broken = [], [], []
    shape, dtype = None, torch.float32
    for inputs, batch_labels in raw_batches(dataset):
        found = tuple(inputs.shape[1:])
        if shape not in (None, found):
            raise ValueError(f"inputs must be of one shape. Got {list(shape or ())} and {list(found)} instead.")
        shape, dtype = found, inputs.dtype
        labels.append(batch_labels)
        flat = inputs.reshape(len(inputs), -1).contiguous()
        digests += [hashlib.blake2b(row.data, digest_size=16).digest() for row in flat.view(torch.uint8).numpy()]
        broken.append(~flat.isfinite().all(dim=1))
    if shape is None:
        raise ValueError("a part must have items. Got none instead: check where it was taken from.")
    return ScannedItems(torch.cat(labels), shape, dtype, digests, torch.cat(broken))


def raw_batches(dataset: Dataset[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs as they are stored, labels), in order, as many at once as is good for the memory."""
    base, rows = unwrapped(dataset)
    step = max(1, min(AT_ONCE, VALUES // _values(base))) if len(rows) else 1
    for start in range(0, len(rows), step):
        chosen = rows[start : start + step]
        if isinstance(base, ArrayDataset):
            yield base.inputs.index_select(0, chosen), base.labels.index_select(0, chosen)
        elif isinstance(base, Raw):
            yield base.raw(chosen), base.labels.index_select(0, chosen)
        else:
            yield _items(base, chosen.tolist())


def _values(base: Dataset[Any]) -> int:
    """How many numbers one input has; of a user's own, whose first item is not asked for twice, a guess."""
    if isinstance(base, ArrayDataset):
        return math.prod(base.inputs.shape[1:])
    return base.raw(torch.zeros(1, dtype=torch.int64)).numel() if isinstance(base, Raw) else 3 * 224 * 224


def _items(dataset: Dataset[Any], rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    name = type(dataset).__name__
    try:
        with seeded(0):  # a user's items may draw random numbers: not the caller's
            inputs, labels = collate([tuple(dataset[row])[:2] for row in rows])
        if not (isinstance(inputs, Tensor) and isinstance(labels, Tensor)):
            raise TypeError("they are no tensors and no numbers")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"items {rows[0]} to {rows[-1]} of {name} must be (input, label) with tensors of one shape and whole "
            f"numbers. They cannot be put into one batch: {error}"
        ) from error
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels of {name} must be whole numbers from 0, one per item. Got {list(labels.shape)} of {labels.dtype} "
            "for a batch instead."
        )
    return inputs, labels.long()
