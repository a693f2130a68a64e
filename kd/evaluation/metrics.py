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
    """Return the number of scalar parameters, including frozen ones and those of a graph that torch does not run.

    A module with such a graph, like ``kd.teachers.onnx_teacher.OnnxTeacher``, states its number as
    ``stored_parameters``.
    """
    stored = sum(getattr(module, "stored_parameters", 0) for module in model.modules())
    return sum(parameter.numel() for parameter in model.parameters()) + stored
