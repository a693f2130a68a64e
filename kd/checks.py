"""Refused values, in one form: what it is, what was given, what is allowed, what to do. The range of each setting."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # torch takes seconds to import, and settings are checked without it
    from torch import Tensor


class DamagedDataError(OSError):
    """A data file is missing, unreadable or not what it should be. The message names the file and the remedy."""


def require(condition: bool, name: str, got: object, allowed: str, advice: str = "") -> None:
    """Raise ``ValueError`` unless the condition holds. NaN fails every comparison, so it is refused as well."""
    if not condition:
        hint = f" ({advice})" if advice else ""
        raise ValueError(f"{name} must be {allowed}. Got {got!r} instead{hint}.")


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """``Did you mean a or b?`` with the known names that look most like this one; where none does, what else to say."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"Did you mean {' or '.join(close)}?" if close else otherwise


def require_logits(name: str, logits: Tensor) -> None:
    """Raise ``ValueError`` unless the logits are [N, K] with N ≥ 1 and K ≥ 2, and finite."""
    shape = list(logits.shape)
    fits = len(shape) == 2 and shape[0] >= 1 and shape[1] >= 2
    require(fits, name, shape, "[images, classes] with at least 1 image and 2 classes", "one row of scores per image")
    broken = int((~logits.isfinite()).any(dim=1).sum())
    require(not broken, name, f"NaN or infinity in {broken} of {shape[0]} rows", "finite", "did the training diverge?")


def require_labels(labels: Tensor, logits: Tensor) -> None:
    """Raise ``ValueError`` unless the labels are [N] whole numbers, each a column of these logits [N, K]."""
    images, classes = logits.shape
    require(list(labels.shape) == [images], "labels", list(labels.shape), f"[{images}], one per row of logits")
    whole = not (labels.is_floating_point() or labels.is_complex() or str(labels.dtype) == "torch.bool")
    require(whole, "labels", labels.dtype, "whole numbers", "class indices, such as torch.int64")
    low, high = int(labels.min()), int(labels.max())
    require(
        low >= 0 and high < classes, "labels", f"{low} … {high}", f"within 0 … {classes - 1}, the columns of logits"
    )


def require_every_label(labels: Tensor, rows: int) -> None:
    """Raise ``ValueError`` unless labels are [rows] int64, and where an item has none.

    The latter on a CPU alone: a GPU would be waited for, and refuses later.
    """
    if list(labels.shape) != [rows] or str(labels.dtype) != "torch.int64":
        raise ValueError(
            f"labels must be int64, one for each of {rows} rows. Got {list(labels.shape)} of {labels.dtype} instead."
        )
    if labels.device.type == "cpu" and bool((labels < 0).any()):
        raise ValueError(
            f"this loss needs the label of every item. Got {int((labels < 0).sum())} of {len(labels)} without one. "
            "Learn from unlabelled items with a method whose own loss reads no labels, such as kd."
        )


class Range(NamedTuple):
    """What a setting may be: a predicate, and in words what it allows and what is usual."""

    holds: Callable[[Any], bool]
    allowed: str
    advice: str = ""


# One table for the constants of a pipeline and for the flags of a command alike.
RANGES: Mapping[str, Range] = {
    "batch_size": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "test_size": Range(lambda x: 0 < x < 1, "in (0, 1)", "0.1 keeps a tenth for validation"),
    "test_share": Range(lambda x: 0 < x < 1, "in (0, 1)", "0.2 keeps a fifth to test with"),
    "image_size": Range(lambda n: n is None or n >= 1, "None or a whole number of at least 1"),
    "random_state": Range(lambda n: n >= 0, "a whole number of at least 0"),
    "epochs": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "learning_rate": Range(lambda x: 0 < x < math.inf, "a finite number above 0", "0.001 is usual for Adam"),
    "seed": Range(lambda n: n >= 0, "a whole number of at least 0"),
    "temperature": Range(
        lambda x: 0 < x < math.inf, "a finite number above 0", "4 to 10 is usual; 1 turns softening off"
    ),
    "alpha": Range(lambda x: 0 <= x <= 1, "in [0, 1]", "the weight of the labels; the teacher gets the rest"),
    "student_width": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "snapshot_seconds": Range(lambda x: x >= 0, "at least 0", "30 costs next to nothing"),
    "pairs": Range(lambda n: n >= 2, "a whole number of at least 2", "10 is usual; one pair has no spread"),
    "margin": Range(lambda x: 0 < x <= 100, "above 0 and at most 100 percentage points", "0.1 is 10 of 10,000 images"),
    "teachers": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "splits": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "smoothing": Range(lambda x: 0 <= x < 1, "in [0, 1)", "0.1 is usual; 0 leaves that control out"),
    "seeds": Range(lambda n: n >= 1, "a whole number of at least 1", "the spread of a point takes 2"),
    "trials": Range(lambda n: n is None or n >= 1, "None or a whole number of at least 1", "30 is usual"),
    "final_pairs": Range(lambda n: n >= 2, "a whole number of at least 2", "one pair has no spread"),
    "processes": Range(lambda n: n is None or n >= 1, "None or a whole number of at least 1"),
    "views": Range(lambda n: n is None or n >= 1, "None or a whole number of at least 1", "8 is a beginning"),
    "rows": Range(lambda n: n >= 1, "a whole number of at least 1"),
    "limit": Range(lambda n: n is None or n >= 100, "None or a whole number of at least 100"),
}


def check_ranges(values: Mapping[str, object], *, shown: Callable[[str], str]) -> None:
    """Refuse a value outside its range.

    Args:
        values: by setting; those that the table does not know are not checked.
        shown: a setting's name as the reader of the error knows it, ``EPOCHS`` or ``--epochs``.

    Raises:
        ValueError: naming the setting, the value, what is allowed and what is usual.
    """
    for name in (name for name in RANGES if name in values):
        holds, allowed, advice = RANGES[name]
        require(holds(values[name]), shown(name), values[name], allowed, advice)
