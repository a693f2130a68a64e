"""Labels, hashes and other properties of a split that the checks use, collected in one pass over its raw samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kd.data.datasets import ArrayDataset, collate, hash_input, unwrap_subsets
from kd.data.sources.image_dataset import DecodedImages
from kd.data.sources.table_encoding import RawTable
from kd.seeding import seeded

MAX_SAMPLES = 1024  # per batch: larger batches save no time
MAX_VALUES = 2**22  # per batch: bounds the memory for large inputs, at 8 bytes per value in double precision


class ScannedItems(NamedTuple):
    """Properties of N samples, by row."""

    labels: Tensor  # [N] int64
    shape: tuple[int, ...]  # of one input, without the batch axis
    dtype: torch.dtype
    digests: list[bytes]  # BLAKE2b hashes of the raw inputs
    non_finite: Tensor  # [N] bool: the input contains NaN or infinity
    can_repeat: bool = False  # different samples may have equal inputs, as in a table of few categories

    def take(self, rows: Sequence[int]) -> ScannedItems:
        """Return the properties of some rows."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        digests = [self.digests[row] for row in index.tolist()]
        return self._replace(labels=self.labels[index], digests=digests, non_finite=self.non_finite[index])


def scan(dataset: Dataset[Any]) -> ScannedItems:
    """Read every sample once and return the samples' properties.

    Decoded images are not read again: their hashes were computed when they were decoded. Of a table that is not encoded
    yet, missing values are no fault.

    Raises:
        ValueError: the dataset is empty, or its samples are not (input, label) with inputs of the same shape and
            integer labels.
    """
    base, rows = unwrap_subsets(dataset)
    if isinstance(base, DecodedImages) and len(rows):
        hashes = [image_hash.tobytes() for image_hash in base.digests[rows.numpy()]]
        finite = torch.zeros(len(rows), dtype=torch.bool)
        return ScannedItems(base.labels[rows], tuple(base.inputs.shape[1:]), base.inputs.dtype, hashes, finite)
    if isinstance(base, RawTable) and len(rows):
        finite = torch.zeros(len(rows), dtype=torch.bool)
        hashes = base.digests(rows.numpy())
        return ScannedItems(base.labels[rows], (len(base.names),), torch.float32, hashes, finite, can_repeat=True)
    labels, non_finite = [], []
    digests: list[bytes] = []
    shape, dtype = None, torch.float32
    for inputs, batch_labels in raw_batches(dataset):
        batch_shape = tuple(inputs.shape[1:])
        if shape not in (None, batch_shape):
            raise ValueError(
                f"inputs must have the same shape. Got {list(shape or ())} and {list(batch_shape)} instead."
            )
        shape, dtype = batch_shape, inputs.dtype
        labels.append(batch_labels)
        flat = inputs.reshape(len(inputs), -1).contiguous()
        digests += map(hash_input, flat.view(torch.uint8).numpy())
        non_finite.append(~flat.isfinite().all(dim=1))
    if shape is None:
        raise ValueError("a split must not be empty. Got a dataset without samples: check how it was created.")
    return ScannedItems(torch.cat(labels), shape, dtype, digests, torch.cat(non_finite))


def raw_batches(dataset: Dataset[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (stored inputs, labels) in order, in batches of bounded memory."""
    base, rows = unwrap_subsets(dataset)
    step = max(1, min(MAX_SAMPLES, MAX_VALUES // _count_values(base))) if len(rows) else 1
    for start in range(0, len(rows), step):
        batch_rows = rows[start : start + step]
        if isinstance(base, ArrayDataset):
            yield base.inputs.index_select(0, batch_rows), base.labels.index_select(0, batch_rows)
        else:
            yield _collate_items(base, batch_rows.tolist())


def _count_values(base: Dataset[Any]) -> int:
    """Return the number of values per input; a guess for users' own datasets, whose samples must be read only once."""
    return math.prod(base.inputs.shape[1:]) if isinstance(base, ArrayDataset) else 3 * 224 * 224


def _collate_items(dataset: Dataset[Any], rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    name = type(dataset).__name__
    try:
        with seeded(0):  # protects the caller's random state from users' datasets
            inputs, labels = collate([tuple(dataset[row]) for row in rows])
        if not (isinstance(inputs, Tensor) and isinstance(labels, Tensor)):
            raise TypeError("they contain values other than tensors and numbers")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"samples {rows[0]} to {rows[-1]} of {name} must be (input, label): a tensor of the same shape in all "
            f"samples, and an integer. They cannot be collated: {error}"
        ) from error
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels of {name} must be non-negative integers, one per sample. Got {list(labels.shape)} of "
            f"{labels.dtype} for a batch instead. Multi-label and regression targets are not supported."
        )
    return inputs, labels.long()
