"""Validation of values, with uniform errors (name, value, allowed values, remedy), and the ranges of settings."""

from __future__ import annotations

import difflib
import math
import numbers
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # torch takes seconds to import, and settings are checked without it
    from torch import Tensor


class DamagedDataError(OSError):
    """A data file is missing, unreadable or corrupt. The message names the file and the remedy."""


def require(condition: bool, name: str, got: object, allowed: str, advice: str = "") -> None:
    """Raise ``ValueError`` unless the condition holds. NaN fails every comparison, so it is outside every range."""
    if not condition:
        hint = f" ({advice})" if advice else ""
        raise ValueError(f"{name} must be {allowed}. Got {got!r} instead{hint}.")


def is_integer(value: object) -> bool:
    """Return whether a value is a Python or NumPy integer; 2.5 and 2.0 are none."""
    return isinstance(value, numbers.Integral)


def is_utf8(text: str) -> bool:
    """Return whether UTF-8 can encode the text. Names of files from other systems may hold undecodable bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def require_values(arguments: Sequence[str]) -> None:
    """Raise ``ValueError`` for an empty argument of a command line: as a folder, it would be the current one."""
    for flag, argument in zip(["the command", *arguments], arguments, strict=False):
        name, equals, value = argument.partition("=")
        is_empty_value = name.startswith("--") and equals and not value
        advice = "a variable of the shell may be unset"
        require(bool(argument) and not is_empty_value, name or flag, "", "followed by a value", advice)


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return ``Did you mean a or b?`` with up to three similar known names, or ``otherwise`` if none is similar."""
    similar = difflib.get_close_matches(name, list(known), n=3)
    return f"Did you mean {' or '.join(similar)}?" if similar else otherwise


@contextmanager
def naming_flag(flag: str) -> Iterator[None]:
    """Prefix a ``ValueError`` or ``OSError`` that names no flag with the one that set the value in question."""
    try:
        yield
    except (ValueError, OSError) as error:
        if re.search(r"(^|[\s(])--[a-z]", str(error)):
            raise
        if not isinstance(error, OSError):
            raise ValueError(f"{flag}: {error}") from error
        reason = f"{error.strerror}: {error.filename}" if error.filename else error.strerror or error
        raise OSError(f"{flag}: {reason}") from error


def similar_paths(path: Path) -> str:
    """Return ``Did you mean …?`` with similar names in the path's folder, or "" if there are none.

    Only files with the same ending are similar; for a path without an ending, only folders.
    """
    try:
        siblings = [other for other in path.parent.iterdir() if other.suffix == path.suffix and other != path]
    except OSError:
        return ""
    names = {other.name: str(other) for other in siblings if path.suffix or other.is_dir()}
    similar = difflib.get_close_matches(path.name, names, n=3)
    return f"Did you mean {' or '.join(names[name] for name in similar)}?" if similar else ""


def require_logits(name: str, logits: Tensor) -> None:
    """Raise ``ValueError`` unless the logits are [N, K] with N ≥ 1 and K ≥ 2, and finite."""
    shape = list(logits.shape)
    fits = len(shape) == 2 and shape[0] >= 1 and shape[1] >= 2
    require(
        fits,
        name,
        shape,
        "of shape [images, classes] with at least 1 image and 2 classes",
        "one row of scores per image",
    )
    require_finite_logits(name, logits, "Did the training diverge?")


def require_finite_logits(name: str, logits: Tensor, advice: str) -> None:
    """Raise ``ValueError`` unless logits [N, K] are finite; the error names the first row that is not.

    Not even −∞ is allowed, though losses accept it: averages, calibration and comparisons of saved logits do not.
    """
    # NaN and infinity show up in the extremes of a row, so no mask of the size of all logits is needed.
    finite = logits.amin(dim=1).isfinite() & logits.amax(dim=1).isfinite()
    if not finite.all():
        if not bool(logits.isnan().any() | (logits == math.inf).any()) and (logits.amax(dim=1) > -math.inf).all():
            advice = (
                "A logit of −∞ masks its class. Replace it by a low finite one: "
                "logits.masked_fill(logits == -math.inf, logits[logits.isfinite()].min() - 20)"
            )
        broken_rows = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"{name} must be finite. Got NaN or infinity in {len(broken_rows):,} of {len(logits):,} rows, the first at "
            f"row {broken_rows[0]}. {advice}"
        )


def require_labels(labels: Tensor, logits: Tensor) -> None:
    """Raise ``ValueError`` unless the labels are [N] integers in 0 … K − 1, for logits [N, K]."""
    images, classes = logits.shape
    require(list(labels.shape) == [images], "labels", list(labels.shape), f"of shape [{images}], one per row of logits")
    is_integral = not (labels.is_floating_point() or labels.is_complex() or str(labels.dtype) == "torch.bool")
    require(is_integral, "labels", labels.dtype, "integers", "class indices, such as torch.int64")
    low, high = int(labels.min()), int(labels.max())
    require(low >= 0 and high < classes, "labels", f"{low} … {high}", f"within 0 … {classes - 1}, the logits' columns")


def require_samples(samples: int) -> None:
    """Raise ``ValueError`` for an empty batch: a mean over no samples is NaN."""
    require(samples >= 1, "the number of samples in a batch", samples, "at least 1", "skip empty batches")


def require_maps(name: str, maps: Tensor) -> None:
    """Raise ``ValueError`` unless the feature maps are [B, C, H, W] with B ≥ 1."""
    shape, advice = list(maps.shape), "for a single sample add the batch dimension: maps.unsqueeze(0)"
    require(len(shape) == 4, name, shape, "of shape [B, C, H, W]", advice if len(shape) == 3 else "")
    require_samples(shape[0])


def require_label_kind(labels: Tensor, rows: int) -> None:
    """Raise ``ValueError`` unless labels are [rows] int64: one class per sample."""
    if list(labels.shape) == [rows] and str(labels.dtype) == "torch.int64":
        return
    if labels.ndim > 1:
        advice = "Convert one-hot labels with argmax(dim=1); multi-label and soft targets are not supported."
    else:
        advice = "Convert class numbers with labels.long(); regression targets are not supported."
    raise ValueError(
        f"labels must be int64, one for each of {rows} rows. Got {list(labels.shape)} of {labels.dtype} instead. "
        f"{advice}"
    )


def require_label_values(labels: Tensor, classes: int, *, unlabelled: bool = False) -> None:
    """Raise ``ValueError`` unless every label is in 0 … K − 1, or −1 if ``unlabelled`` is True."""
    wrong = (labels < -int(unlabelled)) | (labels >= classes)
    if bool(wrong.any()):
        values = set(labels[wrong].tolist())
        advice = "Number the classes from 0."
        if -1 in values:
            advice = "Unlabelled samples (-1) need distillation; see kd.data.unlabelled."
        elif -100 in values:
            advice = "No label is ignored, not even -100: remove these samples."
        allowed = " or -1 for unlabelled samples" if unlabelled else ""
        raise ValueError(
            f"labels must be within 0 … {classes - 1}, the logits' columns{allowed}. Got {int(labels.min())} … "
            f"{int(labels.max())} instead, {int(wrong.sum())} of {len(labels)} outside. "
            f"{advice}"
        )


def require_every_label(labels: Tensor, rows: int, classes: int) -> None:
    """Raise ``ValueError`` unless labels are [rows] int64 and every sample has one of these classes.

    The values are checked on every device: without the check, a wrong label ends a process that uses CUDA. On a GPU
    this is one synchronisation. Values that cannot be read are not checked: those of meta tensors, and while
    torch.compile or a CUDA graph records the loss.
    """
    require_label_kind(labels, rows)
    if not are_values_known(labels):
        return
    if bool((labels == -1).any()):
        raise ValueError(
            f"this loss needs a label for every sample. Got {int((labels == -1).sum())} of {len(labels)} without one. "
            "For unlabelled samples use a method whose own loss reads no labels, such as kd."
        )
    require_label_values(labels, classes)


def are_values_known(values: Tensor) -> bool:
    """Return whether a Python program can read the values now."""
    import torch  # loaded already, because there is a tensor; this module does not import it

    if torch.compiler.is_compiling() or values.is_meta:
        return False
    return not (values.is_cuda and torch.cuda.is_current_stream_capturing())


class Range(NamedTuple):
    """Allowed values of a setting.

    Attributes:
        holds: predicate that is true for an allowed value.
        allowed: the same in words, for errors and help texts.
        advice: usual values or a remedy, for errors.
        largest: bound of the allowed numbers. Larger ones are mistakes that would overflow or exhaust the machine.
    """

    holds: Callable[[Any], bool]
    allowed: str
    advice: str = ""
    largest: float = math.inf


MANY = 10**6  # bound of numbers of models and processes: each is an object in memory


def at_least(minimum: int, advice: str = "", *, largest: float = 10**15) -> Range:
    """Return the range of integers from ``minimum`` to ``largest``."""
    return Range(lambda n: is_integer(n) and n >= minimum, f"an integer of at least {minimum}", advice, largest)


def or_none(values: Range) -> Range:
    """Return the range extended by None."""
    return Range(lambda x: x is None or values.holds(x), f"None or {values.allowed}", values.advice, values.largest)


def one_of(*names: str) -> Range:
    """Return the range of these texts."""
    return Range(lambda x: x in names, f"{', '.join(names[:-1])} or {names[-1]}")


def positive(advice: str) -> Range:
    """Return the range of finite numbers above 0."""
    return Range(lambda x: 0 < x < math.inf, "a finite number above 0", advice)


def proportion(advice: str) -> Range:
    """Return the open range (0, 1)."""
    return Range(lambda x: 0 < x < 1, "in (0, 1)", advice)


DECIDE = Range(
    lambda x: x in ("auto", "errors", "balanced", "nll") or x.startswith("recall:"),
    "auto, errors, balanced, nll or recall:CLASS",
)
# Above, rounding in float32 falsifies the loss: by 10 % at 10⁴, and the gradient is noise from 10⁷.
TEMPERATURE = positive("4 to 10 is usual; 1 turns softening off")._replace(largest=10**4)
ALPHA = Range(lambda x: 0 <= x <= 1, "in [0, 1]", "the weight of the labels; the teacher gets the rest")
LEARNING_RATE = positive("0.001 is usual for Adam")


def ranges(declaration: type) -> dict[str, Range]:
    """Return the range of each setting of a class, taken from its ``Annotated`` type; omit settings without one."""
    hints = typing.get_type_hints(declaration, include_extras=True)
    metadata = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: item for name, items in metadata.items() for item in items if isinstance(item, Range)}


def require_in_range(name: str, value: object, allowed: Range) -> None:
    """Raise ``ValueError`` if the value is outside its range; the error shows name, value and allowed values."""
    try:
        is_allowed = allowed.holds(value)
    except (TypeError, AttributeError):  # a value of another type, such as a text in place of a number
        is_allowed = False
    require(is_allowed, name, value, allowed.allowed, allowed.advice)
    if isinstance(value, (int, float)):
        require(abs(value) <= allowed.largest, name, value, f"at most {allowed.largest:,.0f}", allowed.advice)


def check_ranges(declaration: type, values: Mapping[str, object], *, shown: Callable[[str], str]) -> None:
    """Check every value against the range of its setting.

    Args:
        declaration: class whose annotations contain the ranges.
        values: values by setting name. Texts and paths must be UTF-8, since they are written to files.
        shown: maps a setting's name to its name in errors, such as ``EPOCHS`` or ``--epochs``.

    Raises:
        ValueError: a value is outside its range or not UTF-8.
    """
    for name, allowed in ranges(declaration).items():
        if name in values:
            require_in_range(shown(name), values[name], allowed)
    for name, value in values.items():
        readable = all(is_utf8(str(item)) for item in (value if isinstance(value, (list, tuple)) else [value]))
        require(readable, shown(name), value, "text in UTF-8", "rename the file or folder")
