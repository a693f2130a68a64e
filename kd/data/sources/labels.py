"""Labels of any kind as whole numbers from 0, by one order of class names that all parts share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd.console import say
from kd.data.sources.validation import require_label_range

Array = np.ndarray[Any, Any]


def encode_labels(
    labels: Mapping[str, Array], classes: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Each part's labels [N] int64, and the class names in label order.

    Names get the numbers of their alphabetical order (of their numerical order, where all are whole numbers), and
    whole numbers stored as floats become whole numbers; both is told. Other parts than "train" bring no new class.

    Args:
        labels: by part, [N] or [N, 1]: whole numbers from 0, whole floats, strings or truth values; "train" is there.
        classes: the names in label order; unless given, those found in "train", or "0", "1", … for numbers.

    Raises:
        ValueError: labels of another shape or kind, of several kinds, out of range, or not among the classes.
    """
    if classes is not None and len(set(classes)) < len(classes):
        raise ValueError(f"class names must differ from each other. Got {list(classes)} instead.")
    flat = {part: _flat(part, values) for part, values in labels.items()}
    kinds = {part: _kind(part, values) for part, values in flat.items()}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{kind} in {part}" for part, kind in kinds.items())
        raise ValueError(f"labels must be of one kind in all parts. Got {found} instead. Store them alike.")
    if kinds["train"] == "names":
        return _by_name({part: values.astype(str) for part, values in flat.items()}, classes)
    return _by_number({part: _whole(part, values) for part, values in flat.items()}, classes)


def in_label_order(labels: Array, own: Sequence[str] | None, given: Sequence[str] | None) -> Sequence[str] | None:
    """The names of the classes: those given, or else the data's own.

    Args:
        labels: of "train". Where they are numbers, other names are other words for them.
        own: names that the data have, in label order.

    Raises:
        ValueError: those given are the data's own in another order, which would call one class by another's name.
    """
    if own and given and labels.dtype.kind in "uif" and sorted(own) == sorted(given) and list(own) != list(given):
        raise ValueError(
            f"classes must be in the order of the labels, which the data tell: {list(own)[:10]}. Got "
            f"{list(given)[:10]} instead. Leave them out."
        )
    return given or own


def _flat(part: str, values: Array) -> Array:
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1:
        raise ValueError(
            f"labels of {part} must be [N], one class per item. Got {list(values.shape)} instead. Where each row is 1 "
            "at its class and 0 elsewhere, store its argmax(axis=1)."
        )
    return flat


def _kind(part: str, values: Array) -> str:
    kind = {"i": "numbers", "u": "numbers", "f": "numbers", "U": "names", "S": "names", "b": "names"}
    if values.dtype.kind not in kind:
        raise ValueError(
            f"labels of {part} must be whole numbers from 0 or strings. Got an array of {values.dtype} instead. "
            "Convert them with astype(str)."
        )
    return kind[values.dtype.kind]


def _whole(part: str, values: Array) -> Tensor:
    if values.dtype.kind == "f":
        broken = np.flatnonzero(~(np.isfinite(values) & (values == np.round(values))))
        if len(broken):
            raise ValueError(
                f"labels of {part} must be whole numbers from 0. Got {values[broken[0]]} at index {broken[0]} and "
                f"{len(broken)} such labels in all. Only classes can be learned here, no quantities."
            )
        say(f"labels of {part}: whole numbers stored as {values.dtype} are taken as class numbers")
    return torch.from_numpy(values.astype(np.int64))


def _by_number(labels: dict[str, Tensor], classes: Sequence[str] | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if classes is None:
        classes = [str(number) for number in range(max(labels["train"].tolist(), default=-1) + 1)]
    for part, values in labels.items():
        require_label_range(values, classes, part)
    return labels, tuple(classes)


def _by_name(labels: dict[str, Array], classes: Sequence[str] | None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    order = _ordered(set(labels["train"].tolist())) if classes is None else list(classes)
    numbers = {name: number for number, name in enumerate(order)}
    for part, values in labels.items():
        unknown = sorted(set(values.tolist()) - set(numbers))
        if unknown:
            raise ValueError(
                f"labels of {part} must be among the {len(order)} classes {_some(order)}. Got {_some(unknown)} "
                "instead. Correct them, or name all classes."
            )
    say(f"labels: {len(order)} names are numbered from 0 in this order: {_some(order)}")
    mapped = {part: torch.tensor([numbers[name] for name in values.tolist()]).long() for part, values in labels.items()}
    return mapped, tuple(order)


def _ordered(names: set[str]) -> list[str]:
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))  # "01" and "1" are two names of one number
    return sorted(names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
