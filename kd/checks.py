"""The one form in which a bad value is refused: what it is, what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import, and settings are checked without it
    from torch import Tensor


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
