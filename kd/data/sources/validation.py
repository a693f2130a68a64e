"""Checks of opened data, one function per problem: unusable data raises an error, suspicious data a warning.

Every ``ValueError`` and ``UserWarning`` names the split.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from kd.checks import is_utf8
from kd.data.sources.scan import ScannedItems

_MOST_COPIES = 0.01  # of the test split, and at least three; public datasets have a few
_MAX_SHOWN = 5  # indices or names in a message


def check_splits(splits: Mapping[str, ScannedItems], classes: Sequence[str]) -> None:
    """Run all checks on all splits, which include "train".

    Raises:
        ValueError: see the functions below.
    """
    for split, scanned in splits.items():
        require_label_range(scanned.labels, classes, split)
        check_count(scanned.labels, split)
        if split == "train":
            require_classes(scanned.labels, classes)
        check_classes(scanned.labels, classes, split)
        require_finite(scanned.non_finite, split)
    require_equal_shapes(splits)
    require_usable_type(splits["train"].dtype)
    digests = {split: scanned.digests for split, scanned in splits.items()}
    check_duplicates(digests, can_repeat=splits["train"].can_repeat)
    if not splits["train"].can_repeat:
        check_copies(digests.get("test", ()))


def require_label_range(labels: Tensor, classes: Sequence[str], split: str) -> None:
    """Raise unless every label is the index of a class."""
    wrong = ((labels < 0) | (labels >= len(classes))).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"labels of {split} must be within 0 … {len(classes) - 1}, the {len(classes)} training classes. "
            f"Got {int(labels[wrong[0]])} at index {wrong[0]} and {len(wrong):,} such labels in all. "
            "Number the classes from 0, in the same order in all splits."
        )


def check_count(labels: Tensor, split: str) -> None:
    """Raise for fewer than two training samples or an empty split; warn about another split with one sample."""
    if len(labels) >= 2:
        return
    if split == "train" or not len(labels):
        raise ValueError(f"{split} must have at least {1 + (split == 'train')} samples. Got {len(labels)} instead.")
    warnings.warn(f"{split} has only 1 sample: its metrics are meaningless.", stacklevel=2)


def require_classes(labels: Tensor, classes: Sequence[str]) -> None:
    """Raise unless there are at least two classes, all with training samples. Requires labels in range."""
    empty = _find_classes(labels, classes, 0)
    present = len(classes) - len(empty)
    if present < 2 or empty:
        missing = f", none of {_format_names(classes, empty)}" if empty else ""
        raise ValueError(
            f"train must have samples of every class, and at least two classes. Got {present} of {len(classes)} "
            f"classes{missing}. Remove missing classes or add samples; labels start at 0."
        )


def check_classes(labels: Tensor, classes: Sequence[str], split: str) -> None:
    """Warn about missing classes, and classes with a single training sample. Requires labels in range."""
    empty, rare = (_find_classes(labels, classes, count) for count in (0, 1))
    if len(empty) == len(classes) - 1:
        names = _format_names(classes, labels[:1].tolist())
        warnings.warn(f"{split} has samples of one class only: {names}.", stacklevel=2)
    elif empty:
        warnings.warn(f"{split} has no samples of {_format_names(classes, empty)}.", stacklevel=2)
    if rare and split == "train":
        warnings.warn(f"train has only one sample of {_format_names(classes, rare)}: too few to learn.", stacklevel=2)


def require_finite(non_finite: Tensor, split: str) -> None:
    """Raise if any input contains NaN or infinity."""
    rows = non_finite.nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"inputs of {split} must be finite. Got NaN or infinity in {len(rows):,} of {len(non_finite):,} samples: "
            f"{_format_indices(rows)}. Impute the missing values or remove these samples."
        )


def require_equal_shapes(splits: Mapping[str, ScannedItems]) -> None:
    """Raise unless inputs of all splits have the same shape and type."""
    kinds = {split: (list(scanned.shape), scanned.dtype) for split, scanned in splits.items()}
    for split, kind in kinds.items():
        if kind != kinds["train"]:
            shapes = ", ".join(f"{shape} of {dtype} in {name}" for name, (shape, dtype) in kinds.items())
            raise ValueError(
                f"inputs must have the same shape and type in all splits. Got {shapes} instead. Convert {split} like "
                "the training data."
            )


def require_usable_type(dtype: torch.dtype) -> None:
    """Raise unless models, which have float32 weights, take inputs of this type."""
    if dtype.is_complex or (dtype.is_floating_point and dtype != torch.float32):
        raise ValueError(f"inputs must be float32, uint8 or integers. Got {dtype} instead. Convert them with .float().")


def require_class_names(classes: Sequence[str] | None) -> None:
    """Raise unless classes have different names, all of text that can be written to files, which are UTF-8."""
    if classes is None:
        raise ValueError('classes must be names in label order, such as ("cat", "dog"). Got None instead.')
    first = {name: label for label, name in reversed(list(enumerate(classes)))}
    for label, name in enumerate(classes):
        if not isinstance(name, str):
            raise ValueError(f"class names must be text. Got {name!r} for label {label}. Convert it with str().")
        if first[name] < label:
            raise ValueError(f"class names must be different. Got {name!r} for the labels {first[name]} and {label}.")
        if not is_utf8(name):
            raise ValueError(
                f"class names must be readable text. Got {name!r} for label {label}, perhaps from a system with "
                "another character set. Rename the class."
            )


def require_equal_classes(classes: Mapping[str, Sequence[str] | None]) -> None:
    """Raise if a label stands for different classes in two splits; splits without class names are skipped."""
    names_by_split = {split: list(names) for split, names in classes.items() if names is not None}
    for split, names in names_by_split.items():
        pairs = zip_longest(names_by_split.get("train", names), names)
        for label, (expected, name) in enumerate(pairs):
            if expected != name:
                raise ValueError(
                    f"classes must be the same, in the same order, in all splits. Got {expected!r} in train and "
                    f"{name!r} in {split} for label {label}. Use the same label numbers in {split} as in the "
                    "training data."
                )


def check_duplicates(digests: Mapping[str, Sequence[bytes]], *, can_repeat: bool = False) -> None:
    """Warn about inputs in two splits, which reward memorisation; raise an error if one split contains all of another.

    Args:
        digests: hashes of the raw inputs by split, "train" first.
        can_repeat: different samples may have equal inputs, so a contained split is no error.
    """
    splits = list(digests)
    for number, second in enumerate(splits):
        for first in splits[:number]:
            known = set(digests[first])
            rows = [row for row, digest in enumerate(digests[second]) if digest in known]
            if not rows:
                continue
            overlap = f"{len(rows):,} of {len(digests[second]):,} inputs of {second} are also in {first}"
            if len(rows) == len(digests[second]) and not can_repeat:
                raise ValueError(f"{overlap}: evaluation needs data that training does not use. Use different data.")
            warnings.warn(f"{overlap}, at {_format_indices(rows)}: metrics on {second} are biased.", stacklevel=3)


def check_copies(digests: Sequence[bytes]) -> None:
    """Warn if the test split repeats its own inputs: statistics take its items as independent.

    Args:
        digests: hashes of the raw inputs of the test split.
    """
    copies = len(digests) - len(set(digests))
    if copies > max(2, _MOST_COPIES * len(digests)):
        warnings.warn(
            f"{copies:,} of {len(digests):,} inputs of test are copies of others in it: intervals and p-values count "
            "each copy as a further sample, so they are too narrow. Keep one of each.",
            stacklevel=3,
        )


def _find_classes(labels: Tensor, classes: Sequence[str], count: int) -> list[int]:
    """Return the classes that have this number of samples."""
    return (torch.bincount(labels, minlength=len(classes)) == count).nonzero().flatten().tolist()


def _format_names(classes: Sequence[str], labels: Sequence[int]) -> str:
    more = f" and {len(labels) - _MAX_SHOWN} more" if len(labels) > _MAX_SHOWN else ""
    return ", ".join(repr(classes[label]) for label in labels[:_MAX_SHOWN]) + more


def _format_indices(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - _MAX_SHOWN:,} more" if len(rows) > _MAX_SHOWN else ""
    return f"index {', '.join(map(str, rows[:_MAX_SHOWN]))}{more}"
