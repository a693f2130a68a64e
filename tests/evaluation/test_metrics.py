"""Confusion matrix, parameters and multiply-adds match scikit-learn and counts by hand."""

from __future__ import annotations

import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kd.evaluation.metrics import confusion_matrix, count_parameters
from kd.evaluation.multiply_adds import count_multiply_adds

PREDICTIONS = st.integers(2, 12).flatmap(
    lambda k: st.tuples(
        st.just(k), st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1, max_size=60)
    )
)


@settings(max_examples=50)
@given(PREDICTIONS)
def test_the_confusion_matrix_matches_scikit_learn(predictions: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = predictions
    labels, predicted = torch.tensor(pairs).unbind(1)
    logits = torch.nn.functional.one_hot(predicted, classes).float() - 0.5
    expected = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(classes))
    assert confusion_matrix(logits, labels).tolist() == expected.tolist()


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    matrix = confusion_matrix(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([0]))
    assert matrix.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("model", "parameters", "operations", "example"),
    [
        (nn.Linear(7, 5), 7 * 5 + 5, 7 * 5, torch.zeros(1, 7)),
        (nn.Linear(7, 5, bias=False), 7 * 5, 7 * 5, torch.zeros(1, 7)),
        # 3 × 3 windows on 8 × 6 pixels: 6 × 4 positions, with 3 · 3 · 2 products for each of 4 channels.
        (nn.Conv2d(2, 4, 3), 4 * 2 * 9 + 4, 6 * 4 * 4 * 9 * 2, torch.zeros(1, 2, 8, 6)),
        (nn.Conv2d(2, 4, 3, padding=1, stride=2), 4 * 2 * 9 + 4, 4 * 3 * 4 * 9 * 2, torch.zeros(1, 2, 8, 6)),
        (nn.BatchNorm2d(4), 8, 0, torch.zeros(1, 4, 3, 3)),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 26, 20, torch.zeros(1, 3)),
    ],
    ids=["linear", "no bias", "convolution", "padded and strided", "batch norm", "two layers"],
)
def test_counts_match_counts_by_hand(model: nn.Module, parameters: int, operations: int, example: torch.Tensor) -> None:
    assert count_parameters(model) == parameters
    assert count_multiply_adds(model, example) == operations


def test_multiply_adds_grow_with_the_batch() -> None:
    model = nn.Linear(7, 5)
    assert count_multiply_adds(model, torch.zeros(3, 7)) == 3 * count_multiply_adds(model, torch.zeros(1, 7))


def test_counting_changes_no_mode_and_no_statistic() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 2))
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_multiply_adds(model, torch.ones(1, 1, 4, 4))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
