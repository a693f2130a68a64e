"""In-memory datasets. Each batch is one gather: no per-sample Python work during training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, default_collate

from kd.checks import require
from kd.losses.labels import to_int64
from kd.losses.logit_kind import require_logits_kind
from kd.types import UNLABELLED, Batch

HASH_BYTES = 16
_CHECKED = 10_000  # rows of logits; checking all of a large file needs several times its memory
KEPT = (torch.uint8, torch.float32, torch.int64)  # allowed types of inputs in memory


class Gathered(Sequence[tuple[Tensor, ...]]):
    """A stacked batch, as returned by ``Dataset.__getitems__``.

    Any collate function sees a sequence of samples, so users' own loaders keep working; ``collate`` uses the tensors.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> Any:
        return tuple(tensor[index] for tensor in self.tensors)


def collate(samples: Any) -> Batch:
    """Collate samples into a batch: return the tensors of ``Gathered``, use torch's ``default_collate`` otherwise.

    Integer labels, the second column, become int64.

    Raises:
        ValueError: the samples are dictionaries.
    """
    if isinstance(samples, Gathered):
        return samples.tensors
    stacked = default_collate(samples)
    if isinstance(stacked, dict):
        keys = ", ".join(map(str, stacked))
        raise ValueError(
            f"samples must be (input, label, …). Got dictionaries with {keys}. Wrap the dataset in one that "
            "returns (input, label)."
        )
    columns = tuple(stacked)
    is_labelled = len(columns) > 1 and isinstance(columns[1], Tensor)  # unlabelled samples may hold a file name
    return (columns[0], to_int64(columns[1]), *columns[2:]) if is_labelled else columns


class ArrayDataset(Dataset[tuple[Tensor, int]]):
    """Inputs of any shape in memory, stored in their original type; samples are (normalised input, label).

    uint8 inputs stay uint8: they take a quarter of the memory, and converting one batch costs less than reading four
    times as many bytes.

    Args:
        inputs: [N, ...] uint8 (scaled to [0, 1] when read), float32, or int64 (tokens, returned unchanged).
        labels: [N] int64, from 0; −1 for samples without a label.
        mean, std: statistics of the training inputs, after scaling to [0, 1] if they are uint8: numbers, or tensors
            that broadcast to the shape of one input. Inputs are returned as ``(input − mean) / std``; None skips this.
    """

    by_rows = True

    def __init__(
        self, inputs: Tensor, labels: Tensor, *, mean: float | Tensor | None = None, std: float | Tensor | None = None
    ) -> None:
        if inputs.dtype not in KEPT or inputs.ndim < 2 or labels.shape != inputs.shape[:1]:
            raise ValueError(
                f"{type(self).__name__} needs inputs [N, ...] uint8, float32 or int64 and labels [N]. "
                f"Got {list(inputs.shape)} of {inputs.dtype} and {list(labels.shape)} instead."
            )
        require(labels.dtype == torch.int64, "labels", labels.dtype, "int64, from 0")
        lowest = int(labels.min()) if len(labels) else 0
        require(lowest >= UNLABELLED, "labels", lowest, "classes from 0, or -1 for samples without a label")
        self.inputs, self.labels, self.mean, self.std = inputs, labels, mean, std
        self._scale, self._shift = self._scale_and_shift()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._normalise(self.inputs[index]), int(self.labels[index])

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        rows = _to_rows(indices, len(self))
        return Gathered(self._normalise(self.inputs.index_select(0, rows)), self.labels.index_select(0, rows))

    def normalised(self, mean: float | Tensor, std: float | Tensor) -> ArrayDataset:
        """Return the same data, sharing memory, normalised with this mean and standard deviation."""
        return ArrayDataset(self.inputs, self.labels, mean=mean, std=std)

    def _normalise(self, inputs: Tensor) -> Tensor:
        if inputs.dtype == torch.int64:
            return inputs
        # copy: the in-place operations must not change stored float32 inputs
        return inputs.to(torch.float32, copy=True).mul_(self._scale).sub_(self._shift)

    def _scale_and_shift(self) -> tuple[Any, Any]:
        """Return (scale, shift) for normalising as ``input · scale − shift``, computed once in double precision."""
        mean, std = (0.0 if self.mean is None else self.mean), (1.0 if self.std is None else self.std)
        require(bool((torch.as_tensor(std) > 0).all()), "std", std, "above 0", "measured on the training inputs")
        for name, value in (("mean", mean), ("std", std)):
            shape, input_shape = list(torch.as_tensor(value).shape), self.inputs.shape[1:]
            allowed = f"a number, or a tensor that broadcasts to the input shape {list(input_shape)}"
            require(_broadcasts(shape, input_shape), name, shape, allowed)
        largest = 255 if self.inputs.dtype == torch.uint8 else 1
        factors = 1 / (largest * std), mean / std
        return tuple(factor.float() if isinstance(factor, Tensor) else factor for factor in factors)  # type: ignore[return-value]


class ImageDataset(ArrayDataset):
    """Images in memory as uint8; samples are (normalised float32 image [C, H, W], label).

    Args:
        images: [N, C, H, W] uint8.
        labels: [N] int64, from 0.
        mean, std: statistics of the training images scaled to [0, 1]; images are returned as
            ``(image / 255 − mean) / std``.
    """

    def __init__(self, images: Tensor, labels: Tensor, *, mean: float, std: float) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                "ImageDataset needs uint8 images [N, C, H, W] and labels [N]. "
                f"Got {list(images.shape)} of {images.dtype} and {list(labels.shape)} instead."
            )
        super().__init__(images, labels, mean=mean, std=std)

    @property
    def images(self) -> Tensor:
        """The stored images, uint8 [N, C, H, W]."""
        return self.inputs


class DistillDataset(Dataset[tuple[Any, ...]]):
    """A dataset with teacher logits: samples are (input, label, teacher logits), optionally followed by a sample id.

    The number of rows is checked, and that they are not probabilities. ``kd.collect_logits`` and ``kd.verify_logits``
    ensure that row i holds the teacher's logits for ``dataset[i]``.

    Args:
        dataset: samples (input, label).
        logits: [N, K] float32, one row per sample, as a tensor or an array.
        ids: append the sample's index, from 0; required by methods that store state per sample.

    Raises:
        ValueError: the rows are not one per sample, or no logits but labels or probabilities.
    """

    def __init__(self, dataset: Dataset[Any], logits: Tensor | np.ndarray[Any, Any], *, ids: bool = False) -> None:
        samples, logits = length_of(dataset), torch.as_tensor(logits).detach()
        require(logits.ndim > 1, "the shape of logits", list(logits.shape), "[N, K]", "a row of scores for each sample")
        if len(logits) != samples:
            raise ValueError(f"logits must have one row per sample. Got {len(logits)} rows for {samples} samples.")
        if logits.ndim == 2 and logits.shape[1] > 1:  # one output is a regression
            require_logits_kind("logits", logits[:_CHECKED].float(), cautious=True)
        self.dataset, self.logits, self.ids = dataset, logits, ids

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        sample = (*_require_two_columns(self.dataset[index]), self.logits[index])
        return (*sample, index % len(self)) if self.ids else sample

    def __getitems__(self, indices: Sequence[int]) -> Gathered:
        rows = _to_rows(indices, len(self))
        if takes_rows(self.dataset):
            samples: Any = self.dataset.__getitems__(rows)  # type: ignore[attr-defined]  # torch's Dataset does not declare it
        elif fetch := getattr(self.dataset, "__getitems__", None):
            samples = fetch(indices)
        else:
            samples = [self.dataset[index] for index in indices]
        return Gathered(
            *_require_two_columns(collate(samples)), self.logits.index_select(0, rows), *([rows] if self.ids else [])
        )


class Split(Subset[Any]):
    """A subset that maps a batch's indices with one tensor lookup; torch's ``Subset`` reads a list index by index.

    During training, the integers of that list are scattered over memory; reading them takes as long as reading the
    images.

    Args:
        dataset: a dataset whose ``__getitems__`` accepts a tensor.
        indices: rows of the dataset in this subset, from 0.
    """

    by_rows = True

    def __init__(self, dataset: Dataset[Any], indices: Sequence[int]) -> None:
        super().__init__(dataset, indices)
        self._rows = torch.tensor(indices)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Any:
        return self.dataset.__getitems__(self._rows.index_select(0, _to_rows(indices, len(self))))  # type: ignore[attr-defined]


def _require_two_columns(columns: Any) -> Any:
    """Return the columns of samples; raise ``ValueError`` for others than two: the third would pass for the logits."""
    if len(columns) != 2:
        raise ValueError(
            f"samples with teacher logits must be (input, label) in the dataset. Got {len(columns)} columns instead. "
            "Leave out the others; sample ids are added by ids=True."
        )
    return columns


def takes_rows(dataset: Dataset[Any]) -> bool:
    """Return whether the dataset's ``__getitems__`` accepts a tensor of rows; others may accept only lists of ints.

    A class declares this with ``by_rows = True``.
    """
    if isinstance(dataset, DistillDataset):
        return takes_rows(dataset.dataset)
    return getattr(dataset, "by_rows", False)


def _to_rows(indices: Sequence[int] | Tensor, length: int) -> Tensor:
    """Convert indices to non-negative rows for ``index_select``, which takes a tenth of the time of indexing.

    Tensors are returned unchanged; negative indices in a list count from the end.
    """
    if isinstance(indices, Tensor):
        return indices
    return torch.tensor([index if index >= 0 else index + length for index in indices])


def _broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    try:
        return np.broadcast_shapes(tuple(shape), tuple(target)) == tuple(target)
    except ValueError:
        return False


def hash_input(values: np.ndarray[Any, Any]) -> bytes:
    """Return a hash of ``HASH_BYTES`` bytes of an input's content (BLAKE2b)."""
    return hashlib.blake2b(values.data, digest_size=HASH_BYTES).digest()


def length_of(dataset: Dataset[Any]) -> int:
    """Return ``len(dataset)``."""
    return len(dataset)  # type: ignore[arg-type]  # torch's Dataset does not declare __len__


def unwrap_subsets(dataset: Dataset[Any]) -> tuple[Dataset[Any], Tensor]:
    """Return the dataset inside all nested subsets, and the rows of this dataset that they select.

    Raises:
        ValueError: the dataset has no length or no access by index.
    """
    if isinstance(dataset, Subset):
        base, rows = unwrap_subsets(dataset.dataset)
        return base, rows.index_select(0, torch.as_tensor(dataset.indices, dtype=torch.int64))
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"a dataset must have a length and samples by index. Got a {type(dataset).__name__} instead. Give it "
            "__len__ and __getitem__: the teacher's logits are cached by index."
        )
    return dataset, torch.arange(len(dataset))
