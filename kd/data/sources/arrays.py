"""In-memory datasets from arrays: uint8 stays uint8, images become channels-first."""

from __future__ import annotations

import warnings
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

CHANNELS = (1, 3, 4)  # axis lengths that identify the channel axis of an image
_SAMPLE = 1000  # rows
_ROUNDING = 44  # bits that count: more than float32's 24, fewer than float64's 53


def from_arrays(
    name: str, inputs: Mapping[str, Array], labels: Mapping[str, Array], classes: Sequence[str] | None = None
) -> Source:
    """Create a source from arrays.

    Args:
        name: name of the dataset.
        inputs, labels: arrays by split: "train" and, optionally, "val" and "test". See ``to_inputs`` for inputs and
            ``kd.data.sources.labels.encode_labels`` for labels.
        classes: class names in label order.

    Raises:
        ValueError: unsupported inputs or labels, or different numbers of inputs and labels.
    """
    tensors = {split: to_inputs(split, values) for split, values in inputs.items()}
    numbers, names = encode_labels(labels, classes)
    for split, values in tensors.items():
        if len(values) != len(numbers[split]):
            raise ValueError(
                f"{name} must have one label per input. Got {len(values):,} inputs and {len(numbers[split]):,} "
                f"labels in {split} instead."
            )
    datasets = {split: ArrayDataset(values, numbers[split]) for split, values in tensors.items()}
    _warn_of_many_channels(name, tensors["train"])
    if tensors["train"].dtype == torch.int64:
        say(f"{name}: integer inputs are treated as tokens and not scaled; store quantities as float32")
    return Source(name, datasets["train"], datasets.get("val"), datasets.get("test"), names)


def _warn_of_many_channels(name: str, inputs: Tensor) -> None:
    """Warn about images [N, C, H, W] with more channels than columns: the channels are probably their last axis."""
    if inputs.ndim == 4 and inputs.shape[1] not in CHANNELS and inputs.shape[1] > inputs.shape[3]:
        channels, height, width = inputs.shape[1:]
        warnings.warn(
            f"{name}: inputs are read as images of {channels} channels with {height} × {width} pixels. If their last "
            "axis holds the channels, save them as [N, channels, height, width].",
            stacklevel=3,
        )


def warn_of_lost_values(split: str, values: Array, converted: Array) -> None:
    """Warn about features that float32 cannot represent: offsets hide their differences, or all are tiny.

    Args:
        split: name of the inputs in the warning.
        values: inputs [N, ...] of any type.
        converted: the same as float32.
    """
    if values.dtype.kind != "f" or values.dtype.itemsize <= 4 or not values.size or not np.isfinite(values).all():
        return
    columns, after = (_list_features(array) for array in (values, converted))
    limits, largest = np.finfo(np.float32), np.abs(columns).max(axis=0, initial=0)
    with np.errstate(over="ignore", under="ignore"):
        hidden = limits.eps * largest > 1e-3 * columns.std(axis=0)
    tiny = (largest > 0) & (largest < limits.tiny)
    for feature in np.flatnonzero((hidden | _find_merged(columns, after)) & ~tiny).tolist():
        counts = [len(np.unique(array[:, feature])) for array in (columns, after)]
        if counts[1] < counts[0]:
            warnings.warn(
                f"feature {feature} of {split} has {counts[0]:,} different values, but {counts[1]:,} as float32, "
                "because they are large and close together, like time stamps. Subtract their mean before you save "
                "them; first replace markers of missing values such as 0, and use a mean per group if there are "
                "groups far apart.",
                stacklevel=4,
            )
    for feature in np.flatnonzero(tiny).tolist():
        warnings.warn(
            f"feature {feature} of {split} has values up to {largest[feature]:.2g}, which are too small for float32. "
            "Multiply them by a constant before you save them.",
            stacklevel=4,
        )


def _find_merged(columns: Array, converted: Array) -> Array:
    """Return a mask [F] of features [N, F] of which a sample has less than 90 % as many values after the conversion.

    Unlike the standard deviation, it shows this also if a marker such as 0 or several groups spread the values. Of more
    samples, float32 merges some values of any continuous feature. Rounding errors of float64 are no differences, nor
    are values beyond float32's range.
    """
    rows = np.random.default_rng(0).integers(0, len(columns), _SAMPLE) if len(columns) > _SAMPLE else slice(None)
    after, (mantissas, exponents) = converted[rows], np.frexp(columns[rows])
    with np.errstate(over="ignore"):
        before = np.ldexp(np.round(np.ldexp(mantissas, _ROUNDING)), exponents - _ROUNDING)
    in_range = np.isfinite(after) & (np.abs(after) >= np.finfo(np.float32).tiny)
    before, after = np.where(in_range, before, 0), np.where(in_range, after, 0)
    counts = [(np.diff(np.sort(values, axis=0), axis=0) != 0).sum(axis=0) + 1 for values in (before, after)]
    merged: Array = counts[1] < 0.9 * counts[0]
    return merged


def _list_features(values: Array) -> Array:
    """Return inputs [N, ...] as one row per value of a feature: a channel of images, the last axis of other inputs."""
    last = np.moveaxis(values, 1, -1) if values.ndim >= 4 else values
    return last.reshape(-1, last.shape[-1])


def to_inputs(split: str, values: Array) -> Tensor:
    """Convert an array [N, ...] to a tensor of uint8, float32 or int64, without a copy if possible.

    uint8 [N, H, W] (gray images) becomes [N, 1, H, W]. [N, a, b, c] becomes channels-first: the last axis is moved if
    it has length 1, 3 or 4 and the second axis does not. Floats and booleans become float32, other integers int64.

    Args:
        split: name of the split in errors.
        values: the array.

    Raises:
        ValueError: the array is not numeric, or does not have shape [N, ...] with non-empty samples.
    """
    if values.dtype.kind not in "buif" or values.ndim < 2 or 0 in values.shape[1:]:
        raise ValueError(
            f"inputs of {split} must be numbers [N, ...], one row per sample. Got {list(values.shape)} of "
            f"{values.dtype} instead. Store one number per sample as [N, 1]; encode text as numbers first."
        )
    if values.ndim == 3 and values.dtype == np.uint8:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[-1] in CHANNELS and values.shape[1] not in CHANNELS:
        values = np.moveaxis(values, -1, 1)
    if values.dtype != np.uint8:
        with np.errstate(over="ignore"):  # overflow becomes infinity, which require_finite refuses
            converted = values.astype(np.int64 if values.dtype.kind in "ui" else np.float32, copy=False)
        warn_of_lost_values(split, values, converted)
        values = converted
    values = np.ascontiguousarray(values)
    return torch.from_numpy(values if values.flags.writeable else values.copy())
