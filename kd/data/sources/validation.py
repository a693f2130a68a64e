"""What may be wrong with data, one function for each: what nothing can be learned from is refused, the rest is told.

Each refuses with a ``ValueError``, or warns with a ``UserWarning``, that names the part.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from kd.data.sources.scan import ScannedItems

_SHOWN = 5  # indices or names in a message


def check_parts(parts: Mapping[str, ScannedItems], classes: Sequence[str]) -> None:
    """All checks over all parts; "train" is one of them.

    Raises:
        ValueError: as the functions below say.
    """
    for part, facts in parts.items():
        require_label_range(facts.labels, classes, part)
        check_count(facts.labels, part)
        if part == "train":
            require_classes(facts.labels, classes)
        check_classes(facts.labels, classes, part)
        require_finite(facts.broken, part)
    require_equal_shapes(parts)
    check_duplicates({part: facts.digests for part, facts in parts.items()})


def require_label_range(labels: Tensor, classes: Sequence[str], part: str) -> None:
    """Every label is the index of a class."""
    wrong = ((labels < 0) | (labels >= len(classes))).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"labels of {part} must be within 0 … {len(classes) - 1}, the {len(classes)} classes of the training data. "
            f"Got {int(labels[wrong[0]])} at index {wrong[0]} and {len(wrong):,} such labels in all. "
            "Number the classes from 0, in one order for all parts."
        )


def check_count(labels: Tensor, part: str) -> None:
    """Two items at least to train on; another part with a single one is told of."""
    if len(labels) >= 2:
        return
    if part == "train" or not len(labels):
        raise ValueError(f"{part} must have at least {1 + (part == 'train')} items. Got {len(labels)} instead.")
    warnings.warn(f"{part} has 1 item: no number about it means anything.", stacklevel=2)


def require_classes(labels: Tensor, classes: Sequence[str]) -> None:
    """Two classes at least to learn, and items of each to learn it from. Labels are within the classes."""
    empty = _with_count(labels, classes, 0)
    present = len(classes) - len(empty)
    if present < 2 or empty:
        missing = f", none of {_names(classes, empty)}" if empty else ""
        raise ValueError(
            f"train must have items of every class, and of two classes at least. Got {present} of {len(classes)} "
            f"classes{missing}. Take what is missing out of the classes, or add items of it; labels count from 0."
        )


def check_classes(labels: Tensor, classes: Sequence[str], part: str) -> None:
    """What a part lacks, or has a single item of to learn from, is told of. Labels are within the classes."""
    empty, rare = (_with_count(labels, classes, count) for count in (0, 1))
    if len(empty) == len(classes) - 1:
        warnings.warn(f"{part} has items of one class only: {_names(classes, labels[:1].tolist())}.", stacklevel=2)
    elif empty:
        warnings.warn(f"{part} has no item of {_names(classes, empty)}.", stacklevel=2)
    if rare and part == "train":
        warnings.warn(f"train has a single item of {_names(classes, rare)}: too few to learn from.", stacklevel=2)


def require_finite(broken: Tensor, part: str) -> None:
    """No NaN and no infinity in any input."""
    rows = broken.nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"inputs of {part} must be finite. Got NaN or infinity in {len(rows):,} of {len(broken):,} items: "
            f"{_indices(rows)}. Fill in or leave out what is missing."
        )


def require_equal_shapes(parts: Mapping[str, ScannedItems]) -> None:
    """Inputs of all parts have one shape and one type."""
    found = {part: (list(facts.shape), facts.dtype) for part, facts in parts.items()}
    for part, kind in found.items():
        if kind != found["train"]:
            shapes = ", ".join(f"{shape} of {dtype} in {name}" for name, (shape, dtype) in found.items())
            raise ValueError(
                f"inputs must have the same shape and type in all parts. Got {shapes} instead. Convert {part} as the "
                "training data were."
            )


def require_equal_classes(classes: Mapping[str, Sequence[str] | None]) -> None:
    """Label k stands for the same class in all parts, as far as they name their classes in label order."""
    named = {part: list(names) for part, names in classes.items() if names is not None}
    for part, names in named.items():
        pairs = zip_longest(named.get("train", names), names)
        for label, (known, other) in enumerate(pairs):
            if known != other:
                raise ValueError(
                    f"classes must be the same, in the same order, in all parts. Got {known!r} in train and {other!r} "
                    f"in {part} for label {label}. Number the labels of {part} as the training data have them."
                )


def check_duplicates(digests: Mapping[str, Sequence[bytes]]) -> None:
    """No input of one part is in another: what was learned by heart would count as understood.

    A part that is wholly in another is refused; single items are told of.

    Args:
        digests: of the raw inputs, by part, those that are learned from first.
    """
    parts = list(digests)
    for number, second in enumerate(parts):
        for first in parts[:number]:
            known = set(digests[first])
            rows = [row for row, digest in enumerate(digests[second]) if digest in known]
            if not rows:
                continue
            where = f"{len(rows):,} of {len(digests[second]):,} inputs of {second} are also in {first}"
            if len(rows) == len(digests[second]):
                raise ValueError(f"{where}: it would be judged by what it has learned. Give it data of its own.")
            warnings.warn(f"{where}, at {_indices(rows)}: they say nothing about new data.", stacklevel=3)


def _with_count(labels: Tensor, classes: Sequence[str], count: int) -> list[int]:
    return (torch.bincount(labels, minlength=len(classes)) == count).nonzero().flatten().tolist()


def _names(classes: Sequence[str], labels: Sequence[int]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(repr(classes[label]) for label in labels[:_SHOWN]) + more


def _indices(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
    return f"index {', '.join(map(str, rows[:_SHOWN]))}{more}"
