"""Quantities that can decide a verdict, as a loss per test item: errors, balanced error, cross-entropy, one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd.checks import DECIDE, require
from kd.formatting import format_visible

_VISIBLE = 0.02  # relative error of rounding
BALANCED_WITHIN = 3  # classes whose sizes differ by more than this factor are judged by the balanced error


class Quantity(NamedTuple):
    """A quantity of one model on the test set; lower is better.

    Attributes:
        key: ``errors``, ``balanced``, ``nll`` or ``recall:CLASS``.
        name: for headers, with its unit.
        unit: words between a number and "less" in a sentence, such as "percentage points".
        less, more: words for a lower and a higher value, such as "fewer errors".
        spec: format of a value.
    """

    key: str
    name: str
    unit: str
    less: str
    more: str
    spec: str

    @property
    def weighs_classes(self) -> bool:
        """Whether an error counts more in small classes: for ``balanced`` and ``recall:CLASS``."""
        return self.key not in ("errors", "nll")

    @property
    def of_learning(self) -> Quantity:
        """The quantity that tells whether a model has learned anything: the balanced error for ``recall:CLASS``.

        Always predicting one class, a model misses all or no items of a class.
        """
        return BALANCED if self.key.startswith("recall:") else self

    def describe(self, difference: float) -> str:
        """Describe a difference other than 0, such as "26.8 fewer errors"."""
        return " ".join(
            filter(None, (self._format(abs(difference)), self.unit, self.less if difference < 0 else self.more))
        )

    def describe_value(self, value: float) -> str:
        """Describe the value of a model: "30 errors", "balanced error 50.00 %" or "7.14 % missed items of a"."""
        if self.key == "errors":
            return f"{value:,.{0 if float(value).is_integer() else 1}f} error{'' if value == 1 else 's'}"
        thing, _, unit = self.name.rpartition(", ")
        texts = thing, f"{self._format(value)} {unit}"
        return " ".join(reversed(texts) if self.key.startswith("recall:") else texts)  # a class may be a number

    def describe_bound(self, bound: float) -> str:
        """Describe the size of a difference without its sign, such as "10 errors".

        It has three digits if its usual format would change it visibly: a margin of 0.25 errors is not 0.2.
        """
        thing = self.less.partition(" ")[2]
        unit = (self.unit or thing).removesuffix("s" if bound == 1 else "")
        unit += f" of {thing}" if self.unit else ""
        if float(bound).is_integer():
            return f"{bound:,.0f} {unit}"
        text = f"{bound:{self.spec}}"
        is_close = abs(float(text.replace(",", "")) - bound) <= _VISIBLE * bound
        return f"{text if is_close else format(bound, '.3g')} {unit}"

    def shows(self, value: float) -> bool:
        """Return whether the value differs from 0 when it is formatted."""
        return bool(self._format(abs(value)).strip("0.,"))

    def _format(self, value: float) -> str:
        return format_visible(value, self.spec)


ERRORS = Quantity("errors", "test errors", "", "fewer errors", "more errors", ",.1f")
BALANCED = Quantity(
    "balanced", "balanced error, %", "percentage points", "less balanced error", "more balanced error", ",.2f"
)
NLL = Quantity("nll", "NLL, nats", "nats", "less cross-entropy", "more cross-entropy", ",.4f")


def choose_quantity(decide: str, labels: Tensor, classes: Sequence[str]) -> Quantity:
    """Return the quantity that decides, from the setting and the labels of the test set.

    Args:
        decide: ``auto`` takes the errors if the largest class has at most three times as many test items as the
            smallest, else the balanced error; or ``errors``, ``balanced``, ``nll``, ``recall:CLASS``.
        labels: [N] int64.
        classes: class names in label order.

    Raises:
        ValueError: unknown quantity or class, or no test items of this class.
    """
    if decide == "auto":
        return ERRORS if are_balanced(labels) else BALANCED
    kind, _, name = decide.partition(":")
    if kind == "recall":
        require(name in classes, "--decide recall:", name, f"a class: {', '.join(classes[:20])}")
        index = list(classes).index(name)
        require(bool((labels == index).any()), "--decide recall:", name, "a class with test items")
        things = f"misses of class {name}"
        return Quantity(
            f"recall:{index}",
            f"missed items of {name}, %",
            "percentage points",
            f"fewer {things}",
            f"more {things}",
            ",.2f",
        )
    known = {quantity.key: quantity for quantity in (ERRORS, BALANCED, NLL)}
    require(decide in known, "--decide", decide, DECIDE.allowed)
    return known[decide]


def are_balanced(labels: Tensor) -> bool:
    """Return whether the sizes of the classes that occur differ by at most a factor of ``BALANCED_WITHIN``."""
    sizes = torch.bincount(labels)
    sizes = sizes[sizes > 0]
    return int(sizes.max()) <= BALANCED_WITHIN * int(sizes.min())


def item_losses(quantity: Quantity, logits: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Return the contribution [N] of each test item to the quantity; the sum is the value of the quantity.

    ``errors``: 1 for a wrong item. ``balanced``: a wrong item of class c counts 100 / (C · N_c) percentage points, with
    the C classes that occur and their sizes N_c. ``nll``: −log p / N in nats. ``recall:c``: a wrong item of class c
    counts 100 / N_c percentage points, other items 0.

    Args:
        logits: [N, K], finite.
        labels: [N] int64.
    """
    if quantity.key == "nll":
        losses = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none") / len(labels)
        return losses.numpy()
    return weigh_errors(quantity, logits.argmax(dim=1) != labels, labels)


def weigh_errors(quantity: Quantity, wrong: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Return ``item_losses`` of any quantity except ``nll``, from wrong items [N] bool and labels [N] int64."""
    return (wrong.double() * _weights(quantity, labels)).numpy()


def constant_value(quantity: Quantity, labels: Tensor) -> float:
    """Return the value of the quantity for the prediction that ignores the inputs.

    It is always the largest class of the test set; for ``nll`` the frequencies of the classes.

    Args:
        labels: [N] int64.
    """
    sizes = torch.bincount(labels)
    if quantity.key == "nll":
        return float(torch.special.entr(sizes.double() / len(labels)).sum())
    return float((_weights(quantity, labels) * (labels != sizes.argmax())).sum())


def largest_loss(quantity: Quantity, labels: Tensor) -> float | None:
    """Return what one error adds to the quantity at most; None for ``nll``, which has no bound."""
    return None if quantity.key == "nll" else float(_weights(quantity, labels).max())


def largest_difference(quantity: Quantity, images: int) -> float | None:
    """Return the size of the largest possible difference of two models; None for ``nll``, which has no bound."""
    return {"errors": float(images), "nll": None}.get(quantity.key, 100.0)


def margin_of(quantity: Quantity, margin: float, images: int) -> float:
    """Return the equivalence margin in the unit of the quantity.

    Args:
        margin: in percentage points; for ``nll`` in hundredths of a nat.
        images: number of test items.
    """
    return {"errors": margin / 100 * images, "nll": margin / 100}.get(quantity.key, margin)


def _weights(quantity: Quantity, labels: Tensor) -> Tensor:
    if quantity.key == "errors":
        return torch.ones(len(labels), dtype=torch.float64)
    if quantity.key == "balanced":
        sizes = torch.bincount(labels).double()
        return 100 / (int((sizes > 0).sum()) * sizes[labels])
    of_class = (labels == int(quantity.key.partition(":")[2])).double()
    return 100 * of_class / of_class.sum().clamp(min=1)
