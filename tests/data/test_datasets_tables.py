"""In-memory tables: each row of a batch comes with its own label and teacher logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kd
from kd.data.datasets import ArrayDataset


@pytest.fixture
def table() -> ArrayDataset:
    return ArrayDataset(torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))


def test_a_batch_stacks_the_items(table: ArrayDataset) -> None:
    (rows, labels), *_ = kd.make_loader(table, batch_size=6)
    assert torch.equal(rows, torch.stack([table[i][0] for i in range(6)]))
    assert labels.tolist() == [int(table[i][1]) for i in range(len(table))]


def test_each_row_keeps_its_teacher_logits(table: ArrayDataset) -> None:
    logits = 10 * table.inputs[:, :1] + torch.arange(3.0)
    loader = kd.make_loader(kd.DistillDataset(table, logits), batch_size=4, shuffle=True)
    for rows, _, batch_logits in loader:
        assert torch.equal(batch_logits, 10 * rows[:, :1] + torch.arange(3.0))


def test_negative_indices_count_from_the_end(table: ArrayDataset) -> None:
    rows, labels = table.__getitems__([-1, 0]).tensors
    assert rows.tolist() == [[10, 11], [0, 1]]
    assert labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.int64), r"\[3, 2\] of torch.float64"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"Got \[3\] of torch.float32 and \[3\] instead"),
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), r"and \[4\] instead"),
        (torch.zeros(3, 2), torch.zeros(3), r"labels must be int64.*Got torch.float32"),
    ],
)
def test_invalid_tables_raise(rows: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayDataset(rows, labels)
