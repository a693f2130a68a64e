"""Confusion matrix and number of parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd.checks import require_labels


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Return counts [K, K]: row = true class, column = predicted class.

    Raises:
        ValueError: a label is not a column of the logits.
    """
    if len(labels):
        require_labels(labels, logits)
    classes = logits.shape[1]
    cells = labels.long() * classes + logits.argmax(dim=1)
    return torch.bincount(cells, minlength=classes**2).reshape(classes, classes)


def count_parameters(model: nn.Module) -> int:
    """Return the number of scalar parameters, including frozen ones."""
    return sum(parameter.numel() for parameter in model.parameters())
