"""Mean and standard deviation of the training part, feature by feature, and every part normalised with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from kd.data.datasets import ArrayDataset, Split, unwrapped
from kd.data.sources.scan import raw_batches


@runtime_checkable
class Normalisable(Protocol):
    """A data set of this package that can show its inputs normalised."""

    mean: float | Tensor | None
    std: float | Tensor | None

    def normalised(self, mean: float | Tensor, std: float | Tensor) -> Dataset[Any]:
        """The same data, sharing their memory, as (input − mean) / std."""


class Moments(NamedTuple):
    """By feature, float64, in a shape that broadcasts to one input; of bytes as scaled to [0, 1]."""

    mean: Tensor
    std: Tensor


def normalise(parts: Mapping[str, Dataset[Any]]) -> dict[str, Dataset[Any]]:
    """All parts, normalised by the moments of "train".

    Parts that are normalised already (MNIST, by its published numbers), tokens, and a user's own ``Dataset``, which
    hands out what its author wants to be seen, stay as they are.

    Raises:
        ValueError: some parts are to be normalised here and others are not; a model would see them differently.
    """
    raw = {name: _is_raw(part) for name, part in parts.items()}
    if not any(raw.values()):
        return dict(parts)
    if not all(raw.values()):
        kinds = ", ".join(f"{name} {'raw' if is_raw else 'as it is to be seen'}" for name, is_raw in raw.items())
        raise ValueError(
            f"all parts must be normalised in one way. Got {kinds}: arrays are normalised by the training part, a data "
            "set of your own stays as it is. Give all parts as one or the other."
        )
    moments = measure_moments(parts["train"])
    return {name: _normalised(part, moments) for name, part in parts.items()}


def measure_moments(dataset: Dataset[Any]) -> Moments:
    """Mean and population standard deviation, of each channel of images, and of each feature of other inputs.

    Inputs [C, H, W], or with more axes, have channels first; of others the last axis counts features. The deviation of
    a feature that does not change, within float32's precision, is given as 1, so that it becomes 0 and not NaN.
    """
    count, mean, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    axes = 1
    for inputs, _ in raw_batches(dataset):
        axes = inputs.ndim - 1
        values = inputs.double().div_(255 if inputs.dtype == torch.uint8 else 1)
        values = values.movedim(1 if axes >= 3 else -1, 0).flatten(1)
        # Chan, Golub and LeVeque (1979): two samples' sums of squares make that of both, without a second pass.
        variance, own_mean = torch.var_mean(values, dim=1, correction=0)
        own, total = values.shape[1], count + values.shape[1]
        difference = own_mean - mean
        squares = squares + variance * own + difference**2 * (count * own / total)
        mean, count = mean + difference * (own / total), total
    std = (squares / count).sqrt()
    std[std <= torch.finfo(torch.float32).eps * mean.abs()] = 1
    shape = [-1, *[1] * (axes - 1)] if axes >= 3 else [-1]
    return Moments(mean.reshape(shape), std.reshape(shape))


def _is_raw(dataset: Dataset[Any]) -> bool:
    base, _ = unwrapped(dataset)
    tokens = isinstance(base, ArrayDataset) and base.inputs.dtype == torch.int64
    return isinstance(base, Normalisable) and base.mean is None and not tokens


def _normalised(dataset: Dataset[Any], moments: Moments) -> Dataset[Any]:
    if isinstance(dataset, Subset):
        return Split(_normalised(dataset.dataset, moments), dataset.indices)
    assert isinstance(dataset, Normalisable)
    return dataset.normalised(*moments)
