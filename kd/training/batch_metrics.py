"""What is measured on each batch besides the loss, over its items with a label."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.types import UNLABELLED, Batch, Metric


def accuracy(output: Tensor, batch: Batch) -> Tensor:
    """Share of the items whose largest logit is the label's, in [0, 1]."""
    return (output.argmax(dim=1) == batch[1]).sum() / len(output)


def cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy with the labels in nats, unweighted: comparable between any two objectives."""
    return F.cross_entropy(output.float(), batch[1])


METRICS: Mapping[str, Metric] = {"acc": accuracy, "ce": cross_entropy}


def labelled_rows(labels: Tensor) -> Tensor | None:
    """The items of the batch that have a label, by row; None for all of them, and where labels are no class indices.

    Asked of the loader's batch, which lies on the CPU: on a GPU the answer would have to be waited for.
    """
    if labels.dtype != torch.int64 or labels.ndim != 1:
        return None
    has_label = labels != UNLABELLED
    return None if has_label.all() else has_label.nonzero().flatten()


def measure_batch(
    metrics: Mapping[str, Metric], output: Tensor, batch: Batch, rows: Tensor | None
) -> tuple[dict[str, Tensor], int]:
    """The metrics over these rows, NaN over none; and how many rows they are."""
    if rows is not None:
        rows = rows.to(output.device)
        output, batch = output[rows], tuple(tensor[rows] for tensor in batch)
    if not len(output):
        return dict.fromkeys(metrics, output.new_full((), math.nan)), 0
    return {name: metric(output, batch) for name, metric in metrics.items()}, len(output)
