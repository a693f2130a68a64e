"""Tables in memory: a batch is the rows that were asked for; the network has the layers that were asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import kd
from kd.tabular import TableDataset, mlp


@pytest.fixture
def table() -> TableDataset:
    return TableDataset(torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))


def test_a_batch_is_the_items_put_below_each_other(table: TableDataset) -> None:
    (rows, labels), *_ = kd.make_loader(table, batch_size=6)
    assert torch.equal(rows, torch.stack([table[i][0] for i in range(6)]))
    assert labels.tolist() == [int(table[i][1]) for i in range(len(table))]


def test_with_teacher_logits_each_row_keeps_its_own(table: TableDataset) -> None:
    logits = 10 * table.rows[:, :1] + torch.arange(3.0)
    loader = kd.make_loader(kd.DistillDataset(table, logits), batch_size=4, shuffle=True)
    for rows, _, beside in loader:
        assert torch.equal(beside, 10 * rows[:, :1] + torch.arange(3.0))


def test_indices_may_count_from_the_end(table: TableDataset) -> None:
    rows, labels = table.__getitems__([-1, 0]).tensors
    assert rows.tolist() == [[10, 11], [0, 1]]
    assert labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.int64), r"\[3, 2\] of torch.float64"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"Got \[3\] of torch.float32 and \[3\] instead"),
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), r"and \[4\] instead"),
        (torch.zeros(3, 2), torch.zeros(3), r"labels must be of int64, from 0\. Got torch.float32"),
    ],
)
def test_what_is_no_table_is_refused(rows: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableDataset(rows, labels)


@pytest.mark.parametrize(
    ("hidden", "sizes"), [((), [(5, 3)]), ((8,), [(5, 8), (8, 3)]), ([8, 4], [(5, 8), (8, 4), (4, 3)])]
)
def test_the_network_has_these_layers_and_a_relu_between_them(hidden: Any, sizes: list[tuple[int, int]]) -> None:
    network = mlp(5, hidden, 3)
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == sizes
    assert [type(layer) for layer in network] == [nn.Linear, *[nn.ReLU, nn.Linear] * len(hidden)]
    assert network(torch.zeros(2, 5)).shape == (2, 3)


def test_a_layer_without_units_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer sizes must be at least 1 each\. Got \(5, 0\) instead"):
        mlp(5, (0,), 3)
