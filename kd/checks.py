"""Refused values, in one form: what it is, what was given, what is allowed, what to do. The ranges of settings."""

from __future__ import annotations

import difflib
import math
import typing
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
    require_finite_logits(name, logits, "Did the training diverge?")


def require_finite_logits(name: str, logits: Tensor, advice: str) -> None:
    """Raise ``ValueError`` unless logits [N, K] are finite; the error names the first row that is not."""
    # By the extremes of each row, in which NaN and infinity show: no mask of the size of all logits.
    finite = logits.amin(dim=1).isfinite() & logits.amax(dim=1).isfinite()
    if not finite.all():
        broken = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"{name} must be finite. Got NaN or infinity in {len(broken):,} of {len(logits):,} rows, the first at row "
            f"{broken[0]}. {advice}"
        )


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
    """The values that a setting may have: a predicate, the same in words, and which are usual."""

    holds: Callable[[Any], bool]
    allowed: str
    advice: str = ""


def at_least(least: int, advice: str = "") -> Range:
    """The range of whole numbers from ``least`` on."""
    return Range(lambda n: n >= least, f"a whole number of at least {least}", advice)


def or_none(values: Range) -> Range:
    """The same range, with None in it."""
    return Range(lambda x: x is None or values.holds(x), f"None or {values.allowed}", values.advice)


def positive(advice: str) -> Range:
    """The range of finite numbers above 0."""
    return Range(lambda x: 0 < x < math.inf, "a finite number above 0", advice)


def proportion(advice: str) -> Range:
    """The range (0, 1)."""
    return Range(lambda x: 0 < x < 1, "in (0, 1)", advice)


TEMPERATURE = positive("4 to 10 is usual; 1 turns softening off")
ALPHA = Range(lambda x: 0 <= x <= 1, "in [0, 1]", "the weight of the labels; the teacher gets the rest")
LEARNING_RATE = positive("0.001 is usual for Adam")


def ranges(declaration: type) -> dict[str, Range]:
    """The range of each setting of a class that has one: the ``Range`` in its ``Annotated`` type."""
    hints = typing.get_type_hints(declaration, include_extras=True)
    metadata = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: item for name, items in metadata.items() for item in items if isinstance(item, Range)}


def require_in_range(name: str, value: object, allowed: Range) -> None:
    """Raise ``ValueError`` with the setting's name, the value, what is allowed and what is usual, unless it is that."""
    require(allowed.holds(value), name, value, allowed.allowed, allowed.advice)


def check_ranges(declaration: type, values: Mapping[str, object], *, shown: Callable[[str], str]) -> None:
    """Refuse a value outside the range of its setting.

    Args:
        declaration: a class whose annotations have the ranges.
        values: by setting; those without a range are not checked.
        shown: a setting's name as the reader of the error knows it, ``EPOCHS`` or ``--epochs``.

    Raises:
        ValueError: as ``require_in_range`` has it.
    """
    for name, allowed in ranges(declaration).items():
        if name in values:
            require_in_range(shown(name), values[name], allowed)
