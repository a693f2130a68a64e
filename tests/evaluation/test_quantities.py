"""Quantities that decide a verdict: against scikit-learn, and the choice by the sizes of the classes."""

from __future__ import annotations

import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.evaluation.quantities import BALANCED, ERRORS, NLL, are_balanced, choose_quantity, item_losses, margin_of

CLASSES = ("cat", "dog", "eel")


def draw(seed: int, items: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (items,), generator=generator)
    return torch.randn(items, 3, generator=generator), labels


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_the_sum_over_the_items_is_the_quantity(seed: int) -> None:
    logits, labels = draw(seed)
    predicted = logits.argmax(dim=1)
    assert item_losses(ERRORS, logits, labels).sum() == int((predicted != labels).sum())
    balanced = 100 * (1 - sklearn.metrics.balanced_accuracy_score(labels, predicted))
    assert item_losses(BALANCED, logits, labels).sum() == pytest.approx(balanced)
    log_loss = sklearn.metrics.log_loss(labels, logits.double().softmax(dim=1), labels=[0, 1, 2])
    assert item_losses(NLL, logits, labels).sum() == pytest.approx(log_loss, rel=1e-6)
    recalls = sklearn.metrics.recall_score(labels, predicted, average=None, labels=[0, 1, 2])
    for label in labels.unique().tolist():
        quantity = choose_quantity(f"recall:{CLASSES[label]}", labels, CLASSES)
        assert item_losses(quantity, logits, labels).sum() == pytest.approx(100 * (1 - recalls[label]))


@pytest.mark.parametrize(
    ("sizes", "balanced"), [((10, 10, 10), True), ((10, 30, 20), True), ((10, 31, 20), False), ((5, 0, 15), True)]
)
def test_unequal_classes_are_decided_by_the_balanced_error(sizes: tuple[int, ...], balanced: bool) -> None:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    assert are_balanced(labels) == balanced
    assert choose_quantity("auto", labels, CLASSES) == (ERRORS if balanced else BALANCED)
    assert choose_quantity("nll", labels, CLASSES) == NLL


@pytest.mark.parametrize(
    ("decide", "message"),
    [
        ("recall:cow", "a class: cat, dog, eel"),
        ("recall:eel", "a class with test items"),
        ("accuracy", "auto, errors, balanced, nll or recall:CLASS"),
    ],
)
def test_an_unknown_quantity_or_class_raises(decide: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_quantity(decide, torch.tensor([0, 1, 1]), CLASSES)


def test_margins_are_in_the_unit_of_the_quantity() -> None:
    assert margin_of(ERRORS, 0.1, 10_000) == pytest.approx(10)
    assert margin_of(BALANCED, 0.1, 10_000) == 0.1
    assert margin_of(NLL, 0.1, 10_000) == pytest.approx(0.001)


def test_differences_are_described_in_words() -> None:
    assert ERRORS.describe(-26.84) == "26.8 fewer errors"
    assert ERRORS.describe(3) == "3.0 more errors"
    assert BALANCED.describe(-1.2) == "1.20 percentage points less balanced error"
    assert NLL.describe(0.0123) == "0.0123 nats more cross-entropy"
    assert ERRORS.describe_bound(10) == "10 errors"
    assert ERRORS.describe_bound(1) == "1 error"
    assert ERRORS.describe_bound(2_000_000) == "2,000,000 errors"
    assert (ERRORS.describe_bound(0.25), ERRORS.describe_bound(25.93)) == ("0.25 errors", "25.9 errors")
    assert NLL.describe_bound(0.00125) == "0.00125 nats of cross-entropy"
    assert BALANCED.describe_bound(0.125) == "0.125 percentage points of balanced error"
    assert BALANCED.describe_bound(0.1) == "0.10 percentage points of balanced error"
