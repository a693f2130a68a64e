"""Confusion matrix and number of parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Return counts [K, K]: row = true class, column = predicted class."""
    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(dim=1), minlength=classes**2).reshape(classes, classes)


def count_parameters(model: nn.Module) -> int:
    """Return the number of scalar parameters, including frozen ones."""
    return sum(parameter.numel() for parameter in model.parameters())
