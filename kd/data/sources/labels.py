"""Labels encoded as integers from 0, with the same class order in all splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd.console import say
from kd.data.sources.validation import require_label_range

Array = np.ndarray[Any, Any]
_LARGEST = 2.0**63  # an int64 is smaller
_MISSING = ("", "nan", "<na>", "nat")  # to which conversions of missing values to text lead; "None" may name a class


def encode_labels(
    labels: Mapping[str, Array], classes: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return each split's labels [N] int64, and the class names in label order.

    Names are numbered in alphabetical order (numerical order if all are integers). Integers stored as floats
    are converted. A console message reports either conversion. Splits other than "train" cannot add classes.

    Args:
        labels: labels by split, including "train"; [N] or [N, 1]: integers from 0, integer-valued floats, strings or
            booleans.
        classes: class names in label order. Defaults to the names in "train", or to "0", "1", … for numbers.

    Raises:
        ValueError: labels of unsupported shape or kind, mixed kinds, labels out of range, unknown class names, or names
            that mark missing values, such as "" and "nan".
    """
    if classes is not None and len(set(classes)) < len(classes):
        raise ValueError(f"class names (--class-names) must be unique. Got {list(classes)} instead.")
    flat = {split: _flatten(split, values) for split, values in labels.items()}
    kinds = {split: _detect_kind(split, values) for split, values in flat.items()}
    if len(set(kinds.values())) > 1:
        listing = ", ".join(f"{kind} in {split}" for split, kind in kinds.items())
        raise ValueError(
            f"labels must be of the same kind in all splits. Got {listing} instead. Store all as numbers or all as "
            "names."
        )
    if kinds["train"] == "names":
        texts = {split: to_text(f"labels of {split}", values) for split, values in flat.items()}
        for split, values in texts.items():
            _require_no_missing(split, values, classes)
        return _encode_names(texts, classes)
    return _encode_numbers({split: _to_integers(split, values) for split, values in flat.items()}, classes)


def choose_class_names(
    labels: Array, stored: Sequence[str] | None, requested: Sequence[str] | None
) -> Sequence[str] | None:
    """Return the requested class names, or the names stored in the data.

    Args:
        labels: labels of "train". If they are numbers, requested names may replace the stored ones.
        stored: names stored in the data, in label order.
        requested: names requested by the user.

    Raises:
        ValueError: labels are numbers and the requested names are the stored names in a different order, which would
            swap classes.
    """
    if (
        stored
        and requested
        and labels.dtype.kind in "uif"
        and sorted(stored) == sorted(requested)
        and list(stored) != list(requested)
    ):
        raise ValueError(
            f"classes (--class-names) must keep the label order stored in the data: {list(stored)[:10]}. Got "
            f"{list(requested)[:10]} instead. Omit them."
        )
    return requested or stored


def to_text(name: str, values: Array) -> Array:
    """Return labels or class names as strings; bytes are UTF-8.

    Args:
        name: name of the array in the error.

    Raises:
        ValueError: bytes that are not UTF-8.
    """
    if values.dtype.kind != "S":
        return values.astype(str)
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} must be readable text, in UTF-8 if stored as bytes. Got {error.object!r}. Store them as strings."
        ) from error


def _require_no_missing(split: str, names: Array, classes: Sequence[str] | None) -> None:
    """Raise ``ValueError`` if labels [N] of text mark missing values, unless a class is called so."""
    missing = np.flatnonzero(np.isin(np.char.lower(np.char.strip(names)), _MISSING))
    wrong = [row for row in missing.tolist() if names[row] not in (classes or ())]
    if wrong:
        raise ValueError(
            f"labels of {split} must hold a class for every sample. Got {str(names[wrong[0]])!r} at index {wrong[0]} "
            f"and {len(wrong):,} such labels in all, which mark missing values. Remove these samples, or list all "
            "classes (--class-names)."
        )


def _flatten(split: str, values: Array) -> Array:
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1:
        raise ValueError(
            f"labels of {split} must have shape [N], one class per sample. Got {list(values.shape)} instead. Convert "
            "one-hot labels with argmax(axis=1); multi-label targets are not supported."
        )
    return flat


def _detect_kind(split: str, values: Array) -> str:
    kind = {"i": "numbers", "u": "numbers", "f": "numbers", "U": "names", "S": "names", "b": "names"}
    if values.dtype.kind not in kind:
        raise ValueError(
            f"labels of {split} must be non-negative integers or strings. Got an array of {values.dtype} instead. "
            "Convert them with astype(str)."
        )
    return kind[values.dtype.kind]


def _to_integers(split: str, values: Array) -> Tensor:
    if values.dtype.kind == "f":
        fractional = np.flatnonzero(~(np.isfinite(values) & (values == np.round(values))))
        if len(fractional):
            raise ValueError(
                f"labels of {split} must be non-negative integers. Got {values[fractional[0]]} at index "
                f"{fractional[0]} and {len(fractional)} such labels in all. Regression targets are not supported."
            )
    too_large = np.flatnonzero(np.abs(values.astype(np.float64)) >= _LARGEST)
    if len(too_large):
        raise ValueError(
            f"labels of {split} must number the classes from 0. Got {values[too_large[0]]} at index {too_large[0]}. "
            "Number the classes, or store identifiers as names."
        )
    if values.dtype.kind == "f":
        say(f"labels of {split}: integers stored as {values.dtype}, used as class numbers")
    return torch.from_numpy(values.astype(np.int64))


def _encode_numbers(
    labels: dict[str, Tensor], classes: Sequence[str] | None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if classes is None:
        classes = number_classes(labels["train"])
    for split, values in labels.items():
        require_label_range(values, classes, split)
    return labels, tuple(classes)


def number_classes(labels: Tensor) -> list[str]:
    """Return the names "0", "1", … of the classes that the training labels [N] number.

    Raises:
        ValueError: the largest label is not below N. More classes than labels cannot all have a sample; checked before
            a name is made for each.
    """
    largest = int(labels.max()) if len(labels) else -1
    if largest >= len(labels) > 0:
        raise ValueError(
            f"labels must number the classes from 0. Got {len(set(labels.tolist())):,} different ones, the largest "
            f"{largest:,}, for {len(labels):,} training samples. Number the classes, or store identifiers as names."
        )
    return [str(number) for number in range(largest + 1)]


def _encode_names(labels: dict[str, Array], classes: Sequence[str] | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    order = _sort_names(set(labels["train"].tolist())) if classes is None else list(classes)
    numbers = {name: number for number, name in enumerate(order)}
    for split, values in labels.items():
        unknown = sorted(set(values.tolist()) - set(numbers))
        if unknown:
            raise ValueError(
                f"labels of {split} must be among the {len(order)} classes {_format_names(order)}. Got "
                f"{_format_names(unknown)} instead. Correct the labels, or list all classes (--class-names)."
            )
    say(f"labels: {len(order)} class names, numbered from 0 in this order: {_format_names(order)}")
    encoded = {
        split: torch.tensor([numbers[name] for name in values.tolist()]).long() for split, values in labels.items()
    }
    return encoded, tuple(order)


def _sort_names(names: set[str]) -> list[str]:
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))  # the name breaks ties such as "01" and "1"
    return sorted(names)


def _format_names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
