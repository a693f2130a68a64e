"""Tables: rows of numbers kept in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kd.checks import require
from kd.data import Gathered


class TableDataset(Dataset[tuple[Tensor, Tensor]]):
    """Rows of a table in memory; items are (row [F] float32, label).

    What torch's ``TensorDataset`` does item by item, with one gather for a whole batch.

    Args:
        rows: [N, F] float32.
        labels: [N] int64, from 0.
    """

    def __init__(self, rows: Tensor, labels: Tensor) -> None:
        if rows.dtype != torch.float32 or rows.ndim != 2 or labels.shape != rows.shape[:1]:
            raise ValueError(
                "TableDataset needs rows [N, F] of float32 and labels [N]. "
                f"Got {list(rows.shape)} of {rows.dtype} and {list(labels.shape)} instead."
            )
        require(labels.dtype == torch.int64, "labels", labels.dtype, "of int64, from 0")
        self.rows, self.labels = rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.rows[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Gathered:
        chosen = torch.as_tensor(indices)
        return Gathered(self.rows[chosen], self.labels[chosen])
