"""In-memory datasets. A batch is one gather: no per-sample Python work on the training path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, default_collate

from kd.checks import require
from kd.types import Batch

KEPT = (torch.uint8, torch.float32, torch.int64)  # what inputs in memory may be


class Gathered(Sequence[tuple[Tensor, ...]]):
    """A batch that is already stacked, as ``Dataset.__getitems__`` returns it.

    Any collate function sees a list of samples, so users' own loaders keep working; ``collate`` takes the tensors.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> Any:
        return tuple(tensor[index] for tensor in self.tensors)


def collate(samples: Any) -> Batch:
    """Stack samples into a batch: at no cost when they come gathered, as torch does otherwise."""
    return samples.tensors if isinstance(samples, Gathered) else tuple(default_collate(samples))


class ArrayDataset(Dataset[tuple[Tensor, int]]):
    """Inputs of any shape kept in memory as they came; items are (input as a model sees it, label).

    Bytes, where they came as bytes, not floats: a quarter of the memory, and converting one batch costs less than
    fetching four times as much.

    Args:
        inputs: [N, ...] of uint8, of which an item is scaled to [0, 1]; of float32; or of int64, which stand for tokens
            and stay as they are.
        labels: [N] int64, from 0.
        mean, std: of the training inputs, scaled to [0, 1] where they are bytes: numbers, or tensors that broadcast to
            the shape of one input. An item is ``(input − mean) / std``, or just the input where they are None.
    """

    by_rows = True

    def __init__(
        self, inputs: Tensor, labels: Tensor, *, mean: float | Tensor | None = None, std: float | Tensor | None = None
    ) -> None:
        if inputs.dtype not in KEPT or inputs.ndim < 2 or labels.shape != inputs.shape[:1]:
            raise ValueError(
                f"{type(self).__name__} needs inputs [N, ...] of uint8, float32 or int64 and labels [N]. "
                f"Got {list(inputs.shape)} of {inputs.dtype} and {list(labels.shape)} instead."
            )
        require(labels.dtype == torch.int64, "labels", labels.dtype, "of int64, from 0")
        self.inputs, self.labels, self.mean, self.std = inputs, labels, mean, std
        self._scale, self._shift = self._factors()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._normalised(self.inputs[index]), int(self.labels[index])

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        rows = _rows(indices, len(self))
        return Gathered(self._normalised(self.inputs.index_select(0, rows)), self.labels.index_select(0, rows))

    def normalised(self, mean: float | Tensor, std: float | Tensor) -> ArrayDataset:
        """The same data, in the same memory, normalised with these."""
        return ArrayDataset(self.inputs, self.labels, mean=mean, std=std)

    def _normalised(self, inputs: Tensor) -> Tensor:
        if inputs.dtype == torch.int64:
            return inputs
        return inputs.to(torch.float32, copy=True).mul_(self._scale).sub_(self._shift)

    def _factors(self) -> tuple[Any, Any]:
        """What an input is multiplied by, and what is taken off then: computed in double, once."""
        mean, std = (0.0 if self.mean is None else self.mean), (1.0 if self.std is None else self.std)
        require(bool((torch.as_tensor(std) > 0).all()), "std", std, "above 0", "that of the training inputs")
        for name, value in (("mean", mean), ("std", std)):
            shape, allowed = list(torch.as_tensor(value).shape), self.inputs.shape[1:]
            require(
                _broadcasts(shape, allowed), name, shape, f"a number or of a shape that fits inputs {list(allowed)}"
            )
        largest = 255 if self.inputs.dtype == torch.uint8 else 1
        factors = 1 / (largest * std), mean / std
        return tuple(f.float() if isinstance(f, Tensor) else f for f in factors)  # type: ignore[return-value]


class ImageDataset(ArrayDataset):
    """Images kept in memory as bytes; items are (normalised float32 image [C, H, W], label).

    Args:
        images: [N, C, H, W] uint8.
        labels: [N] int64, from 0.
        mean, std: of the training images scaled to [0, 1]; an item is ``(image / 255 − mean) / std``.
    """

    def __init__(self, images: Tensor, labels: Tensor, *, mean: float, std: float) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                "ImageDataset needs images [N, C, H, W] of uint8 and labels [N]. "
                f"Got {list(images.shape)} of {images.dtype} and {list(labels.shape)} instead."
            )
        super().__init__(images, labels, mean=mean, std=std)

    @property
    def images(self) -> Tensor:
        """[N, C, H, W] uint8."""
        return self.inputs


class DistillDataset(Dataset[tuple[Any, ...]]):
    """A dataset with the teacher's logits beside each item: (image, label, teacher logits), and its id where asked for.

    A plain container: it believes what it is given. ``kd.collect_logits`` and ``kd.verify_logits`` see to it that
    row i is the teacher's answer to ``dataset[i]``.

    Args:
        dataset: items (image, label).
        logits: [N, K] float32, one row per item.
        ids: add the number of the item, from 0, as a fourth; some methods keep something about each sample.
    """

    def __init__(self, dataset: Dataset[Any], logits: Tensor, *, ids: bool = False) -> None:
        items = length_of(dataset)
        if len(logits) != items:
            raise ValueError(f"logits must have one row per item. Got {len(logits)} rows for {items} items.")
        self.dataset, self.logits, self.ids = dataset, logits, ids

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        item = (*self.dataset[index], self.logits[index])
        return (*item, index % len(self)) if self.ids else item

    def __getitems__(self, indices: Sequence[int]) -> Gathered:
        rows = _rows(indices, len(self))
        if takes_rows(self.dataset):
            samples: Any = self.dataset.__getitems__(rows)  # type: ignore[attr-defined]  # once made, the tensor serves for both
        elif fetch := getattr(self.dataset, "__getitems__", None):
            samples = fetch(indices)
        else:
            samples = [self.dataset[index] for index in indices]
        return Gathered(*collate(samples), self.logits.index_select(0, rows), *([rows] if self.ids else []))


class Split(Subset[Any]):
    """A subset whose batches are looked up in one tensor, where torch's asks a list for each index by itself.

    In the middle of a training, such a list of integers all over the memory costs as much as the images.

    Args:
        dataset: whose ``__getitems__`` takes a tensor.
        indices: of this subset's items in the dataset, from 0.
    """

    by_rows = True

    def __init__(self, dataset: Dataset[Any], indices: Sequence[int]) -> None:
        super().__init__(dataset, indices)
        self._rows = torch.tensor(indices)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Any:
        return self.dataset.__getitems__(self._rows.index_select(0, _rows(indices, len(self))))  # type: ignore[attr-defined]


def takes_rows(dataset: Dataset[Any]) -> bool:
    """Whether its batches are fetched with a tensor of rows; others may know only lists of whole numbers.

    A class whose ``__getitems__`` takes one says so by ``by_rows = True``.
    """
    if isinstance(dataset, DistillDataset):
        return takes_rows(dataset.dataset)
    return getattr(dataset, "by_rows", False)


def _rows(indices: Sequence[int] | Tensor, length: int) -> Tensor:
    """Indices, counted from the end where they are negative, as ``index_select`` takes them.

    That gathers a batch in a tenth of the time of ``images[indices]``.
    """
    if isinstance(indices, Tensor):
        return indices
    return torch.tensor([index if index >= 0 else index + length for index in indices])


def _broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    try:
        return np.broadcast_shapes(tuple(shape), tuple(target)) == tuple(target)
    except ValueError:
        return False


def length_of(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]  # torch's Dataset leaves __len__ undeclared; ours have one


@runtime_checkable
class Raw(Protocol):
    """A data set of this package: it shows its inputs before they are normalised."""

    labels: Tensor

    def raw(self, rows: Tensor) -> Tensor:
        """The inputs [B, ...] of these rows as they are stored."""


def unwrapped(dataset: Dataset[Any]) -> tuple[Dataset[Any], Tensor]:
    """The data set below all subsets, and which of its rows are meant."""
    if isinstance(dataset, Subset):
        base, rows = unwrapped(dataset.dataset)
        return base, rows.index_select(0, torch.as_tensor(dataset.indices, dtype=torch.int64))
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"a data set must have a length and items by index. Got a {type(dataset).__name__} instead. Give it "
            "__len__ and __getitem__: the teacher's logits are kept by index."
        )
    return dataset, torch.arange(len(dataset))
