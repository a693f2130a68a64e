"""Arrays as they lie in files, as data sets in memory: bytes stay bytes, images get channels first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd.console import say
from kd.data.datasets import ArrayDataset
from kd.data.sources.labels import encode_labels
from kd.data.sources.source import Source

Array = np.ndarray[Any, Any]

CHANNELS = (1, 3, 4)  # what an axis of length 1, 3 or 4 of an image is taken for


def from_arrays(
    name: str, inputs: Mapping[str, Array], labels: Mapping[str, Array], classes: Sequence[str] | None = None
) -> Source:
    """A source of arrays.

    Args:
        inputs, labels: by part; "train" is there, "val" and "test" may be. Inputs are [N, ...] as ``to_inputs`` takes
            them, labels as ``kd.data.sources.labels.encode_labels`` does.
        classes: names in label order.

    Raises:
        ValueError: inputs or labels of another kind, or not one label for each input.
    """
    tensors = {part: to_inputs(part, values) for part, values in inputs.items()}
    numbers, names = encode_labels(labels, classes)
    for part, values in tensors.items():
        if len(values) != len(numbers[part]):
            raise ValueError(
                f"{name} must have one label for each input. Got {len(values):,} inputs and {len(numbers[part]):,} "
                f"labels in {part} instead."
            )
    parts = {part: ArrayDataset(values, numbers[part]) for part, values in tensors.items()}
    if tensors["train"].dtype == torch.int64:
        say(f"{name}: whole numbers are taken for tokens and stay as they are; store quantities as float32")
    return Source(name, parts["train"], parts.get("val"), parts.get("test"), names)


def to_inputs(part: str, values: Array) -> Tensor:
    """[N, ...] as uint8, float32 or int64, without a copy where it can be.

    Bytes [N, H, W] are gray images, [N, 1, H, W]. Of [N, a, b, c] the channels come first: where only the last axis
    has a length of 1, 3 or 4, it is moved. Floats and truth values become float32, other whole numbers int64.

    Raises:
        ValueError: neither numbers nor [N, ...] with a first axis of items.
    """
    if values.dtype.kind not in "buif" or values.ndim < 2 or 0 in values.shape[1:]:
        raise ValueError(
            f"inputs of {part} must be numbers [N, ...], one row for each item. Got {list(values.shape)} of "
            f"{values.dtype} instead. Give a single number per item as [N, 1]; number names with an encoder."
        )
    if values.ndim == 3 and values.dtype == np.uint8:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[-1] in CHANNELS and values.shape[1] not in CHANNELS:
        values = np.moveaxis(values, -1, 1)
    if values.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which a check refuses
            values = values.astype(np.int64 if values.dtype.kind in "ui" else np.float32, copy=False)
    values = np.ascontiguousarray(values)
    return torch.from_numpy(values if values.flags.writeable else values.copy())
