"""Normalisation of all splits with the training split's mean and standard deviation per feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from kd.data.datasets import ArrayDataset, Split, unwrap_subsets
from kd.data.sources.image_dataset import DecodedImages
from kd.data.sources.scan import raw_batches
from kd.data.sources.table_encoding import RawTable, encode_splits


class Moments(NamedTuple):
    """Mean and standard deviation per feature, float64, broadcastable to one input; uint8 is first scaled to [0, 1]."""

    mean: Tensor
    std: Tensor


def normalise(splits: Mapping[str, Dataset[Any]]) -> dict[str, Dataset[Any]]:
    """Normalise all splits with the mean and standard deviation of "train".

    Tables of text are encoded (``kd.data.sources.table_encoding``), which normalises them too. Already normalised data
    (MNIST, with its published statistics), tokens and a user's own ``Dataset`` are returned unchanged.

    Raises:
        ValueError: only some splits would be normalised, so that a model would see them on different scales.
    """
    if isinstance(unwrap_subsets(splits["train"])[0], RawTable):
        return encode_splits(splits)
    raw = {name: _is_raw(dataset) for name, dataset in splits.items()}
    if not any(raw.values()):
        return dict(splits)
    if not all(raw.values()):
        kinds = ", ".join(
            f"{name} {'to be normalised' if is_raw else 'to stay unchanged'}" for name, is_raw in raw.items()
        )
        raise ValueError(
            f"all splits must be normalised in the same way. Got {kinds}: arrays are normalised with the training "
            "split's statistics, your own Dataset is not. Provide all splits as arrays or all as Datasets."
        )
    moments = measure_moments(splits["train"])
    return {name: _apply_moments(dataset, moments) for name, dataset in splits.items()}


def measure_moments(dataset: Dataset[Any]) -> Moments:
    """Return mean and population standard deviation per channel of images, or per feature of other inputs.

    Inputs with three or more axes, [C, H, W], are channels-first; in other inputs the last axis holds the features. The
    standard deviation of a constant feature (within float32 precision) is 1, so that it is normalised to 0, not NaN.
    """
    base, rows = unwrap_subsets(dataset)
    if isinstance(base, DecodedImages):
        pixels = len(rows) * base.inputs[0, 0].numel()
        return moments_from_sums(base.sums[rows.numpy()].sum(axis=0).tolist(), pixels)
    count, mean, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    axes = 1
    for inputs, _ in raw_batches(dataset):
        axes = inputs.ndim - 1
        values = inputs.double().div_(255 if inputs.dtype == torch.uint8 else 1)
        values = values.movedim(1 if axes >= 3 else -1, 0).flatten(1)
        # Chan, Golub and LeVeque (1979): combines the sums of squares of two samples without a second pass.
        variance, batch_mean = torch.var_mean(values, dim=1, correction=0)
        batch, total = values.shape[1], count + values.shape[1]
        difference = batch_mean - mean
        squares = squares + variance * batch + difference**2 * (count * batch / total)
        mean, count = mean + difference * (batch / total), total
    shape = [-1, *[1] * (axes - 1)] if axes >= 3 else [-1]
    return Moments(mean.reshape(shape), _keep_positive((squares / count).sqrt(), mean).reshape(shape))


def moments_from_sums(sums: Sequence[tuple[int, int]], pixels: int) -> Moments:
    """Return the moments of bytes from their sum and sum of squares per channel; exact up to the last rounding."""
    mean = torch.tensor([total / (255 * pixels) for total, _ in sums], dtype=torch.float64)
    variances = [(pixels * squares - total**2) / (255 * pixels) ** 2 for total, squares in sums]
    std = torch.tensor(variances, dtype=torch.float64).sqrt()
    return Moments(mean.reshape(-1, 1, 1), _keep_positive(std, mean).reshape(-1, 1, 1))


def _keep_positive(std: Tensor, mean: Tensor) -> Tensor:
    return torch.where(std <= torch.finfo(torch.float32).eps * mean.abs(), 1.0, std)


def _is_raw(dataset: Dataset[Any]) -> bool:
    base, _ = unwrap_subsets(dataset)
    return isinstance(base, ArrayDataset) and base.mean is None and base.inputs.dtype != torch.int64


def _apply_moments(dataset: Dataset[Any], moments: Moments) -> Dataset[Any]:
    if isinstance(dataset, Subset):
        return Split(_apply_moments(dataset.dataset, moments), dataset.indices)
    assert isinstance(dataset, ArrayDataset)
    return dataset.normalised(*moments)
