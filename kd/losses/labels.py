"""Cross-entropy with labels. Every label is a class or marked as missing; torch alone would skip other values.

Labels of mixed samples (``kd.data.mixing``) are probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.checks import require, require_label_kind, require_label_values, require_samples
from kd.losses.precision import widen
from kd.types import UNLABELLED

# torch skips labels equal to ``ignore_index``, by default −100. This value is no class and results from no conversion
# of NaN, infinity or another type, so that no label is skipped. torch itself checks the range of all others.
_NEVER = -(2**62) - 1


def label_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    unlabelled: bool = False,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of logits and labels, computed in float32, or in float64 for float64 logits.

    Args:
        logits: [B, K], K ≥ 2.
        labels: [B] int64, each in 0 … K − 1; or floats [B, K], the probabilities of the classes.
        unlabelled: allow the label −1, which is left out of the sum and the mean.
        reduction, label_smoothing: see ``torch.nn.functional.cross_entropy``.
        weight: [K], weights of the classes, above 0. As in torch, the mean divides by the weights of the labels, but
            for probabilities by the number of samples.

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
    require_samples(len(logits))
    values = widen(logits)
    options: dict[str, Any] = {"reduction": reduction, "label_smoothing": label_smoothing}
    if weight is not None:
        require(weight.shape == logits.shape[1:], "weight", list(weight.shape), f"of shape {list(logits.shape[1:])}")
        options["weight"] = weight.to(values.dtype)
    if labels.shape == logits.shape and labels.is_floating_point():
        return _loss_of_probabilities(values, labels, **options)
    require_label_kind(labels, len(logits))
    if labels.device.type != "cpu" and not unlabelled:
        return loss_on_device(values, labels, **options)
    try:
        return F.cross_entropy(values, labels, ignore_index=UNLABELLED if unlabelled else _NEVER, **options)
    except IndexError:  # torch checks labels anyway; an extra check would cost time at every step
        require_label_values(labels, logits.shape[1], unlabelled=unlabelled)
        raise


def mean_where_labelled(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """Return ``label_loss`` of the labelled samples (label not −1), 0 if there are none."""
    options: dict[str, Any] = {"label_smoothing": label_smoothing, "weight": weight}
    mean = label_loss(logits, labels, unlabelled=True, **options)
    if labels.ndim == 2:
        return mean
    # The mean of no samples is NaN, but its gradient is 0. A Python condition would force a GPU sync.
    return torch.where((labels != UNLABELLED).any(), mean, 0.0)


def loss_on_device(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Return the cross-entropy, NaN if a sample is unlabelled, without waiting for the device to find out.

    On CUDA torch ends the process at a label of −1; training reports the NaN with the number of the batch.
    """
    loss = F.cross_entropy(widen(logits), labels, ignore_index=UNLABELLED, **options)
    return torch.where((labels != UNLABELLED).all(), loss, math.nan)


def _loss_of_probabilities(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Return the cross-entropy with probabilities [B, K]; NaN on a GPU if they are none, as in ``loss_on_device``."""
    valid = (labels >= 0).all() & ((labels.sum(dim=1) - 1).abs() < _TOLERANCE).all()
    if labels.device.type == "cpu" and not valid:
        raise ValueError(
            f"labels must be int64, one for each of {len(logits)} rows, or probabilities {list(logits.shape)} whose "
            f"rows sum to 1. Got rows with sums from {float(labels.sum(dim=1).min()):g} to "
            f"{float(labels.sum(dim=1).max()):g} instead. Multi-label targets are not supported."
        )
    loss = F.cross_entropy(logits, labels.to(logits.dtype), **options)
    return loss if labels.device.type == "cpu" else torch.where(valid, loss, math.nan)


_TOLERANCE = 1e-2  # of a sum of probabilities, which may be bfloat16


def balanced_weights(labels: Tensor, classes: Sequence[str]) -> Tensor:
    """Return class weights [K] float32 that give each class the same total weight: N / (K · samples of the class).

    Args:
        labels: [N] int64; −1 counts nowhere.
        classes: names of the K classes, for errors.

    Raises:
        ValueError: a class has no samples.
    """
    counts = torch.bincount(labels[labels != UNLABELLED], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    advice = "give weights in a file, or remove these classes from the data"
    require(not empty, "classes without training samples", list_names(empty), "none for balanced weights", advice)
    return (counts.sum() / (len(classes) * counts.double())).float()


def list_names(names: Sequence[str]) -> str:
    """Return the first 20 names of classes, separated by commas."""
    return ", ".join(names[:20]) + " …" * (len(names) > 20)


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
