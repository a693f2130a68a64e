"""Cross-entropy with labels. Every label is a class or marked as missing; torch alone would skip other values."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require_label_kind, require_label_values, require_samples
from kd.losses.precision import widen
from kd.types import UNLABELLED

# torch skips labels equal to ``ignore_index``, by default −100. This value is no class and results from no conversion
# of NaN, infinity or another type, so that no label is skipped. torch itself checks the range of all others.
_NEVER = -(2**62) - 1


def label_loss(
    logits: Tensor, labels: Tensor, *, unlabelled: bool = False, reduction: str = "mean", label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy of logits and labels, computed in float32, or in float64 for float64 logits.

    Args:
        logits: [B, K], K ≥ 2.
        labels: [B] int64, each in 0 … K − 1.
        unlabelled: allow the label −1, which is left out of the sum and the mean.
        reduction, label_smoothing: see ``torch.nn.functional.cross_entropy``.

    Raises:
        ValueError: logits or labels have another shape or type, a batch is empty, or a label is no class. On a GPU the
            labels are not read, because that would force a synchronisation: with a missing label, the mean is NaN,
            which training reports with the number of the batch; other values end in torch's own error.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"logits must be [B, K], one row per sample and K ≥ 2 classes. Got {list(logits.shape)} instead. A model "
            "of sequences must return one row per sequence; for regression, pass your own objective and metrics."
        )
    require_label_kind(labels, len(logits))
    require_samples(len(logits))
    if labels.device.type != "cpu" and not unlabelled:
        return loss_on_device(logits, labels, reduction=reduction, label_smoothing=label_smoothing)
    try:
        return F.cross_entropy(
            widen(logits),
            labels,
            ignore_index=UNLABELLED if unlabelled else _NEVER,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    except IndexError:  # torch checks labels anyway; an extra check would cost time at every step
        require_label_values(labels, logits.shape[1], unlabelled=unlabelled)
        raise


def loss_on_device(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Return the cross-entropy, NaN if a sample is unlabelled, without waiting for the device to find out.

    On CUDA torch ends the process at a label of −1; training reports the NaN with the number of the batch.
    """
    loss = F.cross_entropy(widen(logits), labels, ignore_index=UNLABELLED, **options)
    return torch.where((labels != UNLABELLED).all(), loss, math.nan)


def to_int64(labels: object) -> Tensor:
    """Return integer labels of any width as int64; other tensors unchanged.

    Raises:
        ValueError: the labels are not a tensor, for example strings.
    """
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"labels must be a tensor of integers [B], one class per sample. Got a {type(labels).__name__} instead. "
            "Number the classes from 0."
        )
    return labels.long() if labels.dtype in _NARROW else labels


_NARROW = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32}
