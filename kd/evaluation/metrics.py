"""Numbers about predictions and models."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """[K, K] counts: row = true class, column = predicted class."""
    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(dim=1), minlength=classes**2).reshape(classes, classes)


def count_parameters(model: nn.Module) -> int:
    """The number of values in the model's parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())
