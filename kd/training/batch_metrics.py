"""Metrics of a batch besides the loss, over its labelled samples."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from kd.losses.labels import label_loss
from kd.methods.results import RESERVED, describe, is_real_scalar
from kd.types import UNLABELLED, Batch, Metric


def accuracy(output: Tensor, batch: Batch) -> Tensor:
    """Return the fraction of samples whose largest logit is the label's, in [0, 1].

    For mixed samples (``kd.data.mixing``), the label is the class with the larger share.
    """
    labels = batch[1] if batch[1].ndim == 1 else batch[1].argmax(dim=1)
    return (output.argmax(dim=1) == labels).sum() / len(output)


def cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    """Return the unweighted cross-entropy with the labels, in nats; comparable across objectives."""
    return label_loss(output, batch[1])


METRICS: Mapping[str, Metric] = {"acc": accuracy, "ce": cross_entropy}


def labelled_rows(labels: Tensor) -> Tensor | None:
    """Return the rows that have a label; None if all have one, or if the labels are not class indices.

    Pass the labels on the CPU, as the loader yields them: on a GPU this check would force a synchronisation.
    """
    if labels.dtype != torch.int64 or labels.ndim != 1:
        return None
    has_label = labels != UNLABELLED
    return None if has_label.all() else has_label.nonzero().flatten()


def measure_batch(
    metrics: Mapping[str, Metric], output: Tensor, batch: Batch, rows: Tensor | None
) -> tuple[dict[str, Tensor], int]:
    """Return the metrics over the given rows, and the number of rows.

    Args:
        rows: indices; None for all rows. If there are none, the metrics are NaN.

    Raises:
        ValueError: a metric is not a real number in a tensor, or has the name of another curve of the history.
    """
    if rows is not None:
        rows = rows.to(output.device, non_blocking=True)
        output, batch = output[rows], tuple(tensor[rows] for tensor in batch)
    if not len(output):
        return dict.fromkeys(metrics, output.new_full((), math.nan)), 0
    values = {name: metric(output, batch) for name, metric in metrics.items()}
    for name, value in values.items():
        if not is_real_scalar(value):
            raise ValueError(
                f"the metric {name!r} must return a real tensor without dimensions. Got {describe(value)} instead."
            )
        if name in RESERVED:
            raise ValueError(f"the metric {name!r} has the name of another curve of the history. Rename it.")
    return values, len(output)
